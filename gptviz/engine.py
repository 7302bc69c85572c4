"""The engine, which turns a text into a trace: it connects tokens, model, weights and hooks."""

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
from .weights import model_without_values, with_values

TOKENS_AT_ONCE = 1024  # per batch; larger batches are no faster and take more memory


class EmptyTextError(ValueError):
    """A text without any token."""

    def __init__(self) -> None:
        super().__init__(f"The text is empty: type something, or put {END_OF_TEXT} in front.")


@dataclass(frozen=True)
class GeneratedToken:
    """One generated token."""

    id: int
    bytes: bytes
    string: str  # as `gptviz.tokens.display` shows it
    probability: float  # of being drawn, after temperature, top-k and top-p


@dataclass(frozen=True)
class Session:
    """The model for one thread, and conversions between NumPy and torch."""

    model: GPTModel
    device: torch.device

    def ids(self, ids: Sequence[int] | NDArray[Any]) -> Tensor:
        """Return token ids in the model's input form: [batch = 1, tokens]."""
        return torch.tensor(ids, device=self.device)[None]

    def tensor(self, array: NDArray[Any]) -> Tensor:
        """Return a float32 copy on the model's device."""
        # torch supports neither read-only memory nor negative strides.
        return torch.tensor(np.ascontiguousarray(array, dtype=np.float32), device=self.device)

    def array(self, tensor: Tensor) -> Array:
        """Return a read-only float32 array of the same shape."""
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
        """Take over `model` and put it into evaluation mode. `path` is the file or folder it was read from."""
        self.name = name
        self.path = path
        self.config = config
        self.n_heads_guessed = n_heads_guessed
        self._notes = notes
        self.tokenizer: Tokenizer = gpt2_tokenizer()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = model.to(self.device).eval().requires_grad_(False)
        self._free = [self._model]  # models that no session is using now
        names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
        self.weights = Weights(config, names, partial(_read_parameter, self._model))

    @property
    def notes(self) -> tuple[str, ...]:
        """Whole sentences that tell the user what to know about these weights."""
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
        """The memory that the weights take, in bytes; a tied head counts once."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self._model.parameters())

    @property
    def n_parameters(self) -> int:
        """The number of trainable values; a tied head counts once."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def tokenize(self, text: str, *, bos: bool = False) -> Tokens:
        """Split `text` into tokens, with `<|endoftext|>` in front if `bos` is true."""
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
        """Run a text, or its tokens, through the model and return the trace.

        The trace holds the residual stream and derives other activations on demand. Activations
        named in `keep` are captured for all layers in this same pass, and held. The parts in `off`
        are switched off: the output of each becomes 0, or with `means` its mean over that trace's
        positions. Raises `EmptyTextError`, `ContextLengthError` for more tokens than the model takes,
        and `ValueError` for a part that the model does not have or for `means` of another engine.
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
                last_stream = stream[:, -1:]  # the output head is a third of the work: skip what is not needed
            logits = session.model.out_head(session.model.final_norm(last_stream))
        arrays = self._arrays(session, recorded)
        borders = [arrays["resid_pre", layer] for layer in range(self.config["n_layers"])] + [session.array(stream[0])]
        kept = {key: array for key, array in arrays.items() if key[0] in keep}
        last_logits = session.array(logits[0, -1].clone())
        means_of = None if means is None else means.key
        return Trace(self, tokens, borders, last_logits, kept=kept, off=off, means_of=means_of, changes=changes)

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
        """Continue the text, one token at a time, and stop after `<|endoftext|>`.

        Temperature 0 takes the most probable token; otherwise `seed` makes the draw repeatable.
        Tokens are computed with a key-value cache. Once the text is longer than the model's context,
        the window moves along, as in the course, and every token costs a full run. Raises the same
        errors as `run`. Iterating raises `ValueError` if a setting is out of range, and `WeightsError`
        if the model's logits are NaN or infinite.
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
            if len(ids) > self.config["context_length"]:  # positions have shifted, so the cache is useless
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
        """Return the logits [vocab_size] after the tokens in the caches and `ids`."""
        with self.session() as session:
            stream = session.model.stream(session.ids(ids), caches)
            return session.array(session.model.out_head(session.model.final_norm(stream[:, -1:]))[0, 0])

    def trace_of(self, tokens: Tokens, streams: Sequence[Array], *, off: Iterable[Part] = ()) -> Trace:
        """Return a trace of streams that come from no run, to see what each part of the model computes from them.

        `streams` holds n_layers + 1 arrays [pos, emb_dim]: one before each block, and one after the last.
        `off` is as in `run`.
        """
        off = tuple(off)
        last_logits = self.unembed(streams[-1][-1:])[0]
        return Trace(self, tokens, streams, last_logits, off=off, changes=switched_off(off, self.config))

    def unembed(self, stream: NDArray[Any]) -> Array:
        """Apply the final norm and the output head: stream [pos, emb_dim] -> logits [pos, vocab_size]."""
        return self.derive(("logits",), None, stream, {})["logits"]

    def resume(self, variants: Mapping[Key, NDArray[Any]], changes: Mapping[Key, Change]) -> Array:
        """Return the last block's output at the last position, [variant, emb_dim], for changed residual streams.

        `variants` maps a place (`resid_pre`, `resid_mid` or `resid_post` of a layer) to the streams
        [variant, pos, emb_dim] that replace the run's own stream there. The layers that follow run for all variants
        as one batch, with the run's `changes` (see `Trace.changes`). Variants of deeper places join the batch on the
        way, and the result keeps that order. Each variant costs a run of these layers, so ask for few at a time, and
        leave out positions that the last position does not see.
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
        """Return activations of one part of the model for a trace, by running only that part with the run's `changes`.

        `names` are activations in block `layer`, or outside the blocks if it is None. `source` is the residual
        stream that the part reads, [pos, emb_dim], or for the embeddings the token ids [pos].
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
        """Lend the model to this thread alone, so that its hooks see no other thread's pass.

        No thread waits: while one has the model, others get their own modules on the same memory. The session is in
        inference mode, or with `gradients` records gradients of the inputs; the weights get none. Leave the modules
        as they were.
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
        """Return a second set of the model's modules on the same memory, for example for gradients of the weights."""
        empty = model_without_values(config or self.config, tied_head=self.tied_head)
        return with_values(empty, self._model.state_dict())

    def with_heads(self, n_heads: int) -> "Engine":
        """Return an engine with the same weights, in the same memory, split into another number of heads.

        This is for checkpoints that do not say how many heads they have. Raises `ConfigError` for a number that does
        not divide `emb_dim`.
        """
        config = check_config({**self.config, "n_heads": n_heads})
        model = self.modules(config)
        return Engine(model, config, name=self.name, notes=self._notes, path=self.path, device=self.device)

    def check(self, tokens: Tokens) -> None:
        """Raise the same errors as `run` if the model cannot take these tokens."""
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
        """Return the activations without the batch axis; joined heads are split into [head, head_dim]."""
        n_heads = self.config["n_heads"]
        return {
            key: session.array(value[0].unflatten(-1, (n_heads, -1)) if ACTIVATIONS[key[0]].by_head else value[0])
            for key, value in recorded.items()
        }


def _read_parameter(model: GPTModel, name: str) -> Array:
    """Return a read-only array; on the CPU it shares the model's memory."""
    array: Array = model.get_parameter(name).detach().float().cpu().numpy().view()
    array.setflags(write=False)
    return array


def _joined(session: Session, batch: Tensor | None, more: NDArray[Any] | None) -> Tensor | None:
    if more is None:
        return batch
    return session.tensor(more) if batch is None else torch.cat((batch, session.tensor(more)))


def _batches(batch: Tensor) -> Iterator[slice]:
    """Slices of the first axis of [variant, pos, emb_dim], each small enough to run at once."""
    return chunks(len(batch), TOKENS_AT_ONCE // batch.shape[1])


def _mean_activation(trace: Trace, name: str, layer: int) -> Array:
    """Return an activation's mean over the positions, with heads joined: [features]."""
    mean: Array = trace[name, layer].reshape(len(trace), -1).mean(axis=0)
    return mean
