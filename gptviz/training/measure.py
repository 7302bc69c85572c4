"""What a model can do at one moment of its training: loss on held-out text, what its heads do, what it writes."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ..config import GPTConfig
from ..engine import Engine
from ..hooks import keys, record
from ..model import GPTModel
from ..numerics import head_kinds
from .data import IGNORED, Batch
from .loop import State

KINDS = ("previous_token", "current_token", "first_token", "duplicate_token", "induction")
_LONGEST_PERIOD = 64  # of the sequences that heads are scored on: a pattern grows with its square
_N_SEQUENCES = 8


class Repetitions(NamedTuple):
    """What the model does on random ids that are said twice, each sequence with a period of its own."""

    scores: dict[str, NDArray[np.float64]]  # kind -> [layer, head], as `head_kinds.score` has it, mean over sequences
    second_loss: float  # mean loss of the second copies' tokens, which can be known but for the first one


def repetitions(state: State, words: NDArray[np.integer], *, seed: int = 0) -> Repetitions:
    """Score every head on sequences of random `words` (ids, or rows where one is shared) that are said twice.

    Their periods vary, so that a head that has learned one distance scores little (Olsson et al. 2022 repeat once).
    """
    n_layers, scores, losses = len(state.model.trf_blocks), [], []
    for ids in repeated_sequences(words, state.model.context_length, seed):
        batch = Batch(torch.from_numpy(ids[None, :-1]), torch.from_numpy(ids[None, 1:]))
        with record(state.model, keys(["pattern"], n_layers)) as recorded:
            losses.append(token_losses(state, batch)[0, len(ids) // 2 :].mean())
        patterns = [recorded["pattern", layer][0].float().cpu().numpy() for layer in range(n_layers)]
        targets = _targets(ids[:-1].tolist())
        scores.append([[head_kinds.score(pattern, targets[kind]) for pattern in patterns] for kind in KINDS])
    mean = np.mean(scores, axis=0)  # [kind, layer, head]
    return Repetitions(dict(zip(KINDS, mean, strict=True)), float(np.mean(losses)))


def repeated_sequences(words: NDArray[np.integer], context_length: int, seed: int) -> list[NDArray[np.int64]]:
    """Sequences of different random words, said twice: 2 * period ids each, and none longer than the context."""
    longest = min(context_length // 2, _LONGEST_PERIOD, len(words))
    periods = np.random.default_rng((seed, 2)).integers(max(1, longest // 4), longest + 1, _N_SEQUENCES)
    drawn = (head_kinds.repeated_random_ids(int(n), below=len(words), seed=seed + at) for at, n in enumerate(periods))
    return [words[np.array(places)].astype(np.int64) for places in drawn]


def _targets(ids: list[int]) -> dict[str, NDArray[np.bool_]]:
    n_tokens = len(ids)
    targets = (
        head_kinds.previous_token_targets(n_tokens),
        head_kinds.current_token_targets(n_tokens),
        head_kinds.first_token_targets(n_tokens),
        head_kinds.duplicate_token_targets(ids),
        head_kinds.induction_targets(ids),
    )
    return dict(zip(KINDS, targets, strict=True))


@torch.inference_mode()
def token_losses(state: State, batch: Batch) -> NDArray[np.float64]:
    """Loss of each target in nats, without dropout: [row, tokens]; NaN where the target is ignored."""
    losses = []
    for inputs, targets in zip(batch.inputs, batch.targets, strict=True):  # one row at a time: logits are large
        logits = state.model(inputs[None].to(state.device))[0].float()
        if state.log_counts is not None:
            logits = logits + state.log_counts
        of_row = F.cross_entropy(logits, targets.to(state.device), ignore_index=IGNORED, reduction="none")
        losses.append(of_row.cpu().double().masked_fill(targets == IGNORED, torch.nan).numpy())
    return np.stack(losses)


def in_context_score(losses: NDArray[np.float64]) -> float:
    """How much surer the model is late in a text: mean loss over the last tenth of the positions less the second tenth.

    `losses` is [window, tokens]. Below 0, the model uses what stands further back. Olsson et al. (2022) take the 500th
    token less the 50th of 512; tenths are steadier on few short windows. NaN for fewer than 10 tokens, and where no
    target counts.
    """
    tenth = losses.shape[1] // 10
    late, early = losses[:, losses.shape[1] - tenth :], losses[:, tenth : 2 * tenth]
    if not (np.isfinite(late).any() and np.isfinite(early).any()):
        return float("nan")
    return float(np.nanmean(late) - np.nanmean(early))


def sample(model: GPTModel, config: GPTConfig, prompt: str, n_tokens: int, *, seed: int) -> str:
    """What the model goes on with after the prompt, at temperature 0.8; the same seed draws the same."""
    engine = Engine(model, config, device=next(model.parameters()).device)
    drawn = [token.id for token in engine.generate(prompt, n_tokens, temperature=0.8, seed=seed)]
    return engine.tokenizer.tokens(drawn).text
