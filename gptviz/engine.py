"""Text -> trace: joins tokens, model, weights and hooks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .checkpoints import WeightsError
from .config import GPTConfig, check_config
from .hooks import ACTIVATIONS, Change, Key, keys, record, replace
from .interventions import Part, switched_off
from .model import ContextLengthError, GPTModel, KeyValueCache, TransformerBlock
from .numerics.chunks import chunks
from .numerics.sampling import draw, next_token_probabilities
from .parameters import Weights
from .tokens import END_OF_TEXT, END_OF_TEXT_ID, Tokenizer, Tokens, gpt2_tokenizer
from .trace import Array, Trace
from .weights import model_without_values

TOKENS_AT_ONCE = 1024  # in one batch: more are not faster, and take memory


class EmptyTextError(ValueError):
    """A text without any token."""

    def __init__(self) -> None:
        super().__init__(f"The text is empty: type something, or put {END_OF_TEXT} in front.")


@dataclass(frozen=True)
class GeneratedToken:
    """One token that the model went on with."""

    id: int
    bytes: bytes
    string: str  # as `gptviz.tokens.display` shows it
    probability: float  # of being drawn, after temperature, top-k and top-p


@dataclass(frozen=True)
class Session:
    """The model for one thread, and the ways between NumPy and torch."""

    model: GPTModel
    device: torch.device

    def ids(self, ids: Sequence[int] | NDArray[Any]) -> Tensor:
        """Token ids as the model takes them: [batch = 1, tokens]."""
        return torch.tensor(ids, device=self.device)[None]

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """A float32 copy on the model's device."""
        # torch knows neither read-only memory nor negative strides.
        return torch.tensor(np.ascontiguousarray(array, dtype=np.float32), device=self.device)

    def array(self, tensor: Tensor) -> Array:
        """Read-only float32 of the same shape."""
        array: Array = tensor.detach().float().cpu().numpy()
        array.setflags(write=False)
        return array


class Engine:
    """A loaded model that turns texts into traces. Threads may share it."""

    def __init__(
        self,
        model: GPTModel,
        config: GPTConfig,
        *,
        name: str = "model",
        notes: tuple[str, ...] = (),
        path: Path | None = None,
        n_heads_guessed: bool = False,
        device: str | torch.device | None = None,
    ) -> None:
        """The engine owns `model` from here on, in evaluation mode. `path` is where it was read."""
        self.name = name
        self.path = path
        self.config = config
        self.n_heads_guessed = n_heads_guessed
        self._notes = notes
        self.tokenizer: Tokenizer = gpt2_tokenizer()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = model.to(self.device).eval().requires_grad_(False)
        self._free = [self._model]  # modules that no session has now
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        self.weights = Weights(config, names, partial(_read_parameter, self._model))

    @property
    def notes(self) -> tuple[str, ...]:
        """What one should know of these weights, in sentences."""
        if not self.n_heads_guessed:
            return self._notes
        n_heads, head_dim = self.config["n_heads"], self.config["emb_dim"] // self.config["n_heads"]
        guess = (
            f"The number of heads is a guess: the checkpoint does not say it, so {n_heads} were taken, with {head_dim} "
            "dimensions each as in the published GPT-2 models. If yours has another number, add it to the path, "
            "model.pth?n_heads=4, or pass n_heads."
        )
        return (guess, *self._notes)

    @property
    def tied_head(self) -> bool:
        """Whether the output head is the token embedding."""
        return self._model.tied_head

    @property
    def n_bytes(self) -> int:
        """The memory that the weights take; a tied head's counts once."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self._model.parameters())

    @property
    def n_parameters(self) -> int:
        """Trainable values of the model; a tied head counts once."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def tokenize(self, text: str, *, bos: bool = False) -> Tokens:
        """Cut `text` into tokens, with `<|endoftext|>` in front where `bos` says so."""
        return self.tokenizer.encode(text, bos=bos)

    def run(
        self,
        text: str | Tokens,
        *,
        bos: bool = False,
        keep: Iterable[str] = (),
        off: Iterable[Part] = (),
        means: Trace | None = None,
    ) -> Trace:
        """Run a text (or tokens cut already) through the model.

        The trace holds the residual stream and derives what else is asked of it. Activations
        whose names stand in `keep` are captured for all layers in this very pass, and held.
        The parts in `off` are switched off: what each hands on is 0, or with `means` its mean over
        that trace's positions. Raises `EmptyTextError`, `ContextLengthError` for more tokens than
        the model takes, and `ValueError` for a part that it does not have or `means` of another engine.
        """
        if means is not None and means.engine is not self:
            raise ValueError("These means are of another engine's run: give a trace of this one.")
        tokens = self.tokenize(text, bos=bos) if isinstance(text, str) else text
        self.check(tokens)
        keep, off = set(keep), tuple(off)
        changes = switched_off(off, self.config, None if means is None else partial(_mean_activation, means))
        with (
            self.session() as session,
            replace(session.model, changes),
            record(session.model, keys(keep | {"resid_pre"}, self.config["n_layers"])) as recorded,
        ):
            last_stream = stream = session.model.stream(session.ids(tokens.ids))
            if not keep & {"final_norm_out", "logits"}:
                last_stream = stream[:, -1:]  # the output head is a third of the work: only where it is looked at
            logits = session.model.out_head(session.model.final_norm(last_stream))
        arrays = self._arrays(session, recorded)
        borders = [arrays["resid_pre", layer] for layer in range(self.config["n_layers"])] + [session.array(stream[0])]
        kept = {key: array for key, array in arrays.items() if key[0] in keep}
        last_logits = session.array(logits[0, -1].clone())
        by_mean = means is not None
        return Trace(self, tokens, borders, last_logits, kept=kept, off=off, by_mean=by_mean, changes=changes)

    def generate(
        self,
        text: str | Tokens,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | None = None,
        *,
        bos: bool = False,
    ) -> Iterator[GeneratedToken]:
        """Go on with the text, one token at a time; after `<|endoftext|>` it stops.

        Temperature 0 takes the most probable token; else `seed` makes the draw repeatable.
        Each token is computed with a key-value cache. Past the model's context the window
        moves on, as in the course, and every token costs a whole run. Raises as `run` does, `ValueError` where
        a setting is out of range, and on the way `WeightsError` where the model gives no numbers to choose by.
        """
        tokens = self.tokenize(text, bos=bos) if isinstance(text, str) else text
        self.check(tokens)
        return self._generate(list(tokens.ids), max_new_tokens, seed, temperature, top_k, top_p)

    def _generate(
        self,
        ids: list[int],
        max_new_tokens: int,
        seed: int | None,
        temperature: float,
        top_k: int | None,
        top_p: float | None,
    ) -> Iterator[GeneratedToken]:
        caches = self._new_caches()
        unseen = ids
        for _ in range(max_new_tokens):
            if len(ids) > self.config["context_length"]:  # positions have moved: the cache is of no use
                caches, unseen = self._new_caches(), ids[-self.config["context_length"] :]
            logits = self._next_logits(unseen, caches)
            if not np.isfinite(logits.max()):
                raise WeightsError(
                    f"The model's numbers are broken: after {len(ids)} tokens its logits are NaN or infinite. "
                    "Choose another model, or a checkpoint from before its training went wrong."
                )
            probabilities = next_token_probabilities(logits, temperature=temperature, top_k=top_k, top_p=top_p)
            id = draw(probabilities, seed, position=len(ids))
            (raw,), (string,) = self.tokenizer.tokens([id]).bytes, self.tokenizer.tokens([id]).strings
            yield GeneratedToken(id, raw, string, float(probabilities[id]))
            if id == END_OF_TEXT_ID:
                return
            ids, unseen = [*ids, id], [id]

    def _new_caches(self) -> list[KeyValueCache]:
        return [KeyValueCache() for _ in range(self.config["n_layers"])]

    def _next_logits(self, ids: Sequence[int], caches: Sequence[KeyValueCache]) -> Array:
        """[vocab_size]: what follows the tokens in the caches and `ids`."""
        with self.session() as session:
            stream = session.model.stream(session.ids(ids), caches)
            return session.array(session.model.out_head(session.model.final_norm(stream[:, -1:]))[0, 0])

    def trace_of(self, tokens: Tokens, streams: Sequence[Array], *, off: Iterable[Part] = ()) -> Trace:
        """A trace of streams that no run gave, to see what each part of the model makes of them.

        `streams` are n_layers + 1 times [pos, emb_dim]: before each block, and after the last. `off` as in `run`.
        """
        off = tuple(off)
        last_logits = self.unembed(streams[-1][-1:])[0]
        return Trace(self, tokens, streams, last_logits, off=off, changes=switched_off(off, self.config))

    def unembed(self, stream: NDArray[Any]) -> Array:
        """The final norm and the output head: [pos, emb_dim] of the stream -> logits [pos, vocab_size]."""
        return self.derive(("logits",), None, stream, {})["logits"]

    def resume(self, variants: Mapping[Key, NDArray[Any]], changes: Mapping[Key, Change]) -> Array:
        """The last block's stream at the last position, [variant, emb_dim], for other streams than a run's own.

        `variants` holds streams [variant, pos, emb_dim] under the place where they take the stream's: `resid_pre`,
        `resid_mid` or `resid_post` of a layer. The layers that follow are run for all as one batch, with the run's
        `changes` (see `Trace.changes`); those of deeper places join it, and they come out in that order. Each variant
        costs a run of these layers: ask for few at a time, and leave out positions that the last one does not see.
        """
        batch: Tensor | None = None
        with self.session() as session, replace(session.model, changes):
            for layer, block in enumerate(cast(Sequence[TransformerBlock], session.model.trf_blocks)):
                for name, step in (("resid_pre", block.add_attention), ("resid_mid", block.add_feed_forward)):
                    batch = _joined(session, batch, variants.get((name, layer)))
                    if batch is not None:
                        batch = torch.cat([step(batch[rows]) for rows in _batches(batch)])
                batch = _joined(session, batch, variants.get(("resid_post", layer)))
            assert batch is not None, "there is one variant at least"
            return session.array(batch[:, -1])

    def derive(
        self, names: Sequence[str], layer: int | None, source: NDArray[Any], changes: Mapping[Key, Change]
    ) -> Mapping[str, Array]:
        """Activations of one part of the model, for a trace: runs that part alone, with its run's `changes`.

        `names` lie in the block `layer`, or outside of the blocks. `source` is the stream that the part reads,
        [pos, emb_dim], or for the embeddings the ids [pos].
        """
        wanted: list[Key] = [(name, layer) for name in names]
        with (
            self.session() as session,
            replace(session.model, changes),
            record(session.model, wanted, stop=True) as recorded,
        ):
            if layer is not None:
                session.model.trf_blocks[layer](session.tensor(source)[None])
            elif names[0] in ("embed", "pos_embed"):
                session.model.embed(session.ids(source))
            else:
                normed = session.model.final_norm(session.tensor(source)[None])
                if "logits" in names:
                    session.model.out_head(normed)
        return {name: array for (name, _), array in self._arrays(session, recorded).items()}

    @contextmanager
    def session(self, *, gradients: bool = False) -> Iterator[Session]:
        """The model, for this thread alone: hooks in it see no other thread's pass.

        Nobody waits: while one thread has the model, others get modules of their own on the same memory. In inference
        mode, or with `gradients` of what goes in; the weights keep none. Leave the modules as they were.
        """
        try:
            model = self._free.pop()
        except IndexError:
            model = self.modules()
        try:
            with torch.enable_grad() if gradients else torch.inference_mode():
                yield Session(model, self.device)
        finally:
            self._free.append(model)

    def modules(self, config: GPTConfig | None = None) -> GPTModel:
        """The model's modules once more, on the same memory, such as for gradients of the weights."""
        model = model_without_values(config or self.config, tied_head=self.tied_head).eval()
        model.load_state_dict(self._model.state_dict(), assign=True)
        if self.tied_head:
            model.tie_head()
        return model.requires_grad_(False)

    def with_heads(self, n_heads: int) -> "Engine":
        """An engine with the same weights, in the same memory, cut into another number of heads.

        For checkpoints that do not say how many they have. Raises `ConfigError` for a number that does not divide
        `emb_dim`.
        """
        config = check_config({**self.config, "n_heads": n_heads})
        model = self.modules(config)
        return Engine(model, config, name=self.name, notes=self._notes, path=self.path, device=self.device)

    def check(self, tokens: Tokens) -> None:
        """Raise as `run` does where the model does not take these tokens."""
        if not tokens.ids:
            raise EmptyTextError
        if len(tokens) > self.config["context_length"]:
            raise ContextLengthError(len(tokens), self.config["context_length"])
        if (largest := max(tokens.ids)) >= self.config["vocab_size"]:
            raise WeightsError(
                f"The text has token id {largest}, and the model knows ids below {self.config['vocab_size']}: "
                "it was made for another tokenizer."
            )

    def _arrays(self, session: Session, recorded: Mapping[Key, Tensor]) -> dict[Key, Array]:
        """Without the batch; joined heads are split into [head, head_dim]."""
        n_heads = self.config["n_heads"]
        return {
            key: session.array(value[0].unflatten(-1, (n_heads, -1)) if ACTIVATIONS[key[0]].by_head else value[0])
            for key, value in recorded.items()
        }


def _read_parameter(model: GPTModel, name: str) -> Array:
    """Read-only; on the CPU it is the model's own memory."""
    array: Array = model.get_parameter(name).detach().float().cpu().numpy().view()
    array.setflags(write=False)
    return array


def _joined(session: Session, batch: Tensor | None, more: NDArray[Any] | None) -> Tensor | None:
    if more is None:
        return batch
    return session.tensor(more) if batch is None else torch.cat((batch, session.tensor(more)))


def _batches(batch: Tensor) -> Iterator[slice]:
    """The rows of [variant, pos, emb_dim] that are run at once."""
    return chunks(len(batch), TOKENS_AT_ONCE // batch.shape[1])


def _mean_activation(trace: Trace, name: str, layer: int) -> Array:
    """Mean over the positions, heads joined: [features]."""
    mean: Array = trace[name, layer].reshape(len(trace), -1).mean(axis=0)
    return mean
