"""Activation patching: which activations make two prompts end differently.

One activation of the corrupted prompt's run is replaced by the clean run's, and the rest of the model is
run again: how much of the clean answer comes back? (Meng et al. 2022, causal tracing; TransformerLens:
`patching.get_act_patch_*`; Heimersheim and Nanda 2024 on how to interpret it.)
"""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..trace import Trace
from .head_ablation import written_by_heads

Kind = Literal["resid_pre", "attn_out", "mlp_out", "z"]  # z is one head's, at all positions
# The point of the stream where a patched activation first shows.
_SHOWS_IN: dict[Kind, str] = {
    "resid_pre": "resid_pre",
    "attn_out": "resid_mid",
    "mlp_out": "resid_post",
    "z": "resid_mid",
}


class Question(NamedTuple):
    """The question put to both prompts: the logit of one token minus that of another, after the last position."""

    clean: Trace
    corrupted: Trace  # as many tokens as in the clean prompt
    answer: int  # the id that the clean prompt calls for
    rival: int  # the id that the corrupted prompt calls for

    def difference(self, logits: NDArray[np.floating]) -> NDArray[np.float64]:
        """Logit of the answer minus that of the rival: [..., vocab_size] -> [...]."""
        return logits[..., self.answer].astype(np.float64) - logits[..., self.rival]

    @property
    def of_clean(self) -> float:
        """The clean prompt's logit difference."""
        return float(self.difference(self.clean.logits_at(-1)))

    @property
    def of_corrupted(self) -> float:
        """The corrupted prompt's logit difference."""
        return float(self.difference(self.corrupted.logits_at(-1)))

    def check(self) -> None:
        """Raise `ValueError` unless one engine ran both prompts: results of two engines cannot be compared."""
        if self.clean.engine is not self.corrupted.engine:
            raise ValueError("The two prompts were run by different engines: run both with the same one.")


def n_places(question: Question, kind: Kind) -> int:
    """Number of places in a layer: positions, or heads for `z`."""
    return question.clean.config["n_heads"] if kind == "z" else len(question.clean)


def patched_differences(question: Question, kind: Kind, layer: int, places: slice = slice(None)) -> NDArray[np.float64]:
    """The logit difference of the corrupted run with one activation patched in from the clean run: [place].

    A place is a position, or for `z` a head, which is patched at all positions. Each place costs a run of the
    layers that follow. Parts that are off in the corrupted run stay off. Raises `ValueError` for traces
    from two engines.
    """
    question.check()
    trace = question.corrupted
    variants = trace[_SHOWS_IN[kind], layer] + _shifts(question, kind, layer, places)
    return question.difference(trace.unembed(trace.resume({(_SHOWS_IN[kind], layer): variants})))


def all_patched(question: Question) -> float:
    """The logit difference with the whole stream patched before the first block; it should equal the clean run's."""
    question.check()
    trace = question.corrupted
    last = trace.resume({("resid_pre", 0): question.clean["resid_pre", 0][None]})
    return float(question.difference(trace.unembed(last))[0])


def recovered(question: Question, differences: NDArray[np.floating]) -> NDArray[np.float64]:
    """Logit differences as the share recovered: 0 is the corrupted run's, 1 the clean run's. Any shape.

    NaN if both runs have the same difference, because there is then nothing to recover.
    """
    way = question.of_clean - question.of_corrupted
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = (np.asarray(differences, dtype=np.float64) - question.of_corrupted) / way
    return np.where(np.isfinite(shares), shares, np.nan)


def _shifts(question: Question, kind: Kind, layer: int, places: slice) -> NDArray[np.float32]:
    """What each patch adds to the corrupted stream: [place, pos, emb_dim]."""
    shift = question.clean[kind, layer] - question.corrupted[kind, layer]
    if kind == "z":
        return written_by_heads(question.corrupted, layer, shift)[places]
    positions = np.arange(len(shift))[places]
    shifts = np.zeros((len(positions), *shift.shape), dtype=np.float32)
    shifts[np.arange(len(positions)), positions] = shift[places]
    return shifts
