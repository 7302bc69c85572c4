"""Text -> trace: joins tokens, model, weights and hooks, and lets one run at a time through the model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import hub
from .analysis.sampling import draw, next_token_probabilities
from .catalog import MODELS
from .config import GPTConfig
from .hooks import ACTIVATIONS, Key, keys, record
from .model import ContextLengthError, GPTModel, KeyValueCache, TransformerBlock
from .tokens import END_OF_TEXT, END_OF_TEXT_ID, Tokenizer, Tokens, gpt2_tokenizer
from .trace import Array, Trace
from .weights import WeightsError, dummy_model, exists, load_model, untrained_model

_TOKENS_AT_ONCE = 2048  # in one batch: more are not faster, and take memory


class NotDownloadedError(RuntimeError):
    """A model of the hub that is not on this machine yet, where downloading was not allowed."""


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


def load(
    name_or_path: str | Path,
    *,
    device: str | torch.device | None = None,
    seed: int = 0,
    n_heads: int | None = None,
    progress: hub.Progress | None = None,
    allow_download: bool = True,
) -> "Engine":
    """Load a model by its name (see `gptviz.MODELS`) or from a path, ready to run texts.

    A path is a folder in Hugging Face form, a safetensors file, or a course checkpoint (.pth,
    .pt). A hub model that is not on this machine is downloaded first; `progress(bytes so far,
    bytes in all)` hears of it. `seed` is for `untrained`. `n_heads` is for a course checkpoint,
    whose shapes do not tell it. `device` is CUDA where there is one, else the CPU.

    Raises `WeightsError`, `gptviz.hub.DownloadError`, or `NotDownloadedError`.
    """
    name = str(name_or_path)
    if name == "untrained":
        config = MODELS[name].config
        return Engine(untrained_model(config, seed), config, name=name, device=device)
    model, checkpoint = load_model(_path_of(name, progress, allow_download), n_heads=n_heads)
    return Engine(model, checkpoint.config, name=name, notes=checkpoint.notes, device=device)


def _path_of(name: str, progress: hub.Progress | None, allow_download: bool) -> Path:
    known = MODELS.get(name)
    if known is None:
        path = Path(name)
        if not exists(path):
            raise WeightsError(f"{name[:200]!r} is no known model and no path: known are {', '.join(MODELS)}.")
        return path
    if known.folder is not None:
        return known.folder
    assert known.repo is not None, "a named model has a folder, a repository, or is 'untrained'"
    cached = hub.cached_folder(known.repo)
    if cached is None and not allow_download:
        raise NotDownloadedError(f"{known.title} is not on this machine yet: download it first.")
    return cached or hub.download(known.repo, progress)


class Engine:
    """A loaded model that turns texts into traces. Threads may share it: runs take turns."""

    def __init__(
        self,
        model: GPTModel,
        config: GPTConfig,
        *,
        name: str = "model",
        notes: tuple[str, ...] = (),
        device: str | torch.device | None = None,
    ) -> None:
        """`model` is used as it is from here on, in evaluation mode: do not change it."""
        self.name = name
        self.config = config
        self.notes = notes
        self.tokenizer: Tokenizer = gpt2_tokenizer()
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model = model.to(self._device).eval()
        self._lock = Lock()

    @property
    def tied_head(self) -> bool:
        """Whether the output head is the token embedding."""
        return self._model.tied_head

    @property
    def n_parameters(self) -> int:
        """Trainable values of the model; a tied head counts once."""
        return sum(parameter.numel() for parameter in self._model.parameters())

    def tokenize(self, text: str, *, bos: bool = False) -> Tokens:
        """Cut `text` into tokens, with `<|endoftext|>` in front where `bos` says so."""
        return self.tokenizer.encode(text, bos=bos)

    def run(self, text: str | Tokens, *, bos: bool = False, keep: Iterable[str] = ()) -> Trace:
        """Run a text (or tokens cut already) through the model.

        The trace holds the residual stream and derives what else is asked of it. Activations
        whose names stand in `keep` are captured for all layers in this very pass, and held.
        Raises `EmptyTextError`, and `ContextLengthError` for more tokens than the model takes.
        """
        tokens = self.tokenize(text, bos=bos) if isinstance(text, str) else text
        self._check(tokens)
        n_layers = self.config["n_layers"]
        keep = set(keep)
        with self._recording(keys(keep | {"resid_pre", "resid_post"}, n_layers)) as recorded:
            stream = self._model.stream(self._ids(tokens.ids))
            if not keep & {"final_norm_out", "logits"}:
                stream = stream[:, -1:]  # the output head is a third of the work: only where it is looked at
            logits = self._model.out_head(self._model.final_norm(stream))
        arrays = self._arrays(recorded)
        borders = [arrays["resid_pre", layer] for layer in range(n_layers)] + [arrays["resid_post", n_layers - 1]]
        kept = {key: array for key, array in arrays.items() if key[0] in keep}
        return Trace(tokens, self.config, borders, self._array(logits[:, -1].clone()), self._derive, kept)

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
        moves on, as in the course, and every token costs a whole run. Raises as `run` does.
        """
        tokens = self.tokenize(text, bos=bos) if isinstance(text, str) else text
        self._check(tokens)
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
        with self._running():
            stream = self._model.stream(self._ids(ids), caches)
            return self._array(self._model.out_head(self._model.final_norm(stream[:, -1:]))[:, 0])

    def weight(self, name: str) -> Array:
        """A parameter under its course name, such as `trf_blocks.0.att.W_query.weight` [out, in], read-only.

        On the CPU it is the model's own memory, not a copy. Raises `KeyError` for an unknown name.
        """
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        if name not in parameters:
            raise KeyError(f"{name!r} is no parameter of this model; known are: {', '.join(parameters)}.")
        array: Array = parameters[name].detach().float().cpu().numpy().view()
        array.setflags(write=False)
        return array

    def unembed(self, stream: NDArray[Any]) -> Array:
        """The final norm and the output head: [pos, emb_dim] of the stream -> logits [pos, vocab_size]."""
        return self._derive(("logits",), None, stream)["logits"]

    def streams_without_heads(
        self, trace: Trace, layers: range, replacement: Literal["zero", "mean"], *, last_position: int
    ) -> Array:
        """The last block's stream at `last_position`, once without each head of `layers`: [layer, head, emb_dim].

        What a head adds is its z times its part of the output projection, so the stream without it
        is a subtraction; what follows is run for all these heads as one batch, which later layers
        join: ask for few layers of a long text. `replacement` takes the place of z: zero, or its
        mean over the text's positions.
        """
        first, *_ = layers
        batch: Tensor | None = None
        for layer, block in enumerate(cast(Sequence[TransformerBlock], self._model.trf_blocks[first:]), first):
            parts = []
            joining = self._without_each_head(trace, layer, replacement, last_position) if layer in layers else None
            with self._running():
                if batch is not None:
                    parts += [block(some) for some in batch.split(max(1, _TOKENS_AT_ONCE // (last_position + 1)))]
                if joining is not None:
                    parts.append(block.add_feed_forward(joining))
                batch = torch.cat(parts)
        assert batch is not None, "there is one block at least"
        last: Array = batch[:, -1].float().cpu().numpy()
        return last.reshape(len(layers), self.config["n_heads"], -1)

    def _without_each_head(self, trace: Trace, layer: int, replacement: str, last_position: int) -> Tensor:
        """The stream after a block's attention, once without each of its heads: [head, pos, emb_dim]."""
        z, resid_mid = trace["z", layer], trace["resid_mid", layer]
        seen = slice(last_position + 1)  # later tokens cannot change what this one sees
        taken = z[seen] if replacement == "zero" else z[seen] - z.mean(axis=0)
        out_proj = cast(TransformerBlock, self._model.trf_blocks[layer]).att.out_proj.weight
        by_head = out_proj.unflatten(1, z.shape[1:])  # [emb_dim, head, head_dim]
        with torch.inference_mode():
            return self._tensor(resid_mid[seen]) - torch.einsum("phd,ehd->hpe", self._tensor(taken), by_head)

    def dummy_logits(self, texts: Sequence[Tokens], *, seed: int = 0) -> list[Array]:
        """What the course's DummyGPTModel of this shape says after each text: logits [vocab_size] each."""
        model = dummy_model(self.config, seed)
        with torch.inference_mode():
            return [self._array(model(torch.tensor(tokens.ids)[None])[:, -1]) for tokens in texts]

    def _derive(self, names: Sequence[str], layer: int | None, source: NDArray[Any]) -> Mapping[str, Array]:
        """Run the part of the model in which `names` lie on `source`; see `gptviz.trace.Derive`."""
        with self._recording([(name, layer) for name in names]) as recorded:
            if layer is not None:
                self._model.trf_blocks[layer](self._tensor(source)[None])
            elif names[0] in ("embed", "pos_embed"):
                self._model.embed(self._ids(source))
            else:
                normed = self._model.final_norm(self._tensor(source)[None])
                if "logits" in names:
                    self._model.out_head(normed)
        return {name: array for (name, _), array in self._arrays(recorded).items()}

    # --- one run at a time ---------------------------------------------------------------------

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Hold the model: hooks of one run would else record another thread's."""
        with self._lock, torch.inference_mode():
            yield

    @contextmanager
    def _recording(self, wanted: Iterable[Key]) -> Iterator[dict[Key, Tensor]]:
        with self._running(), record(self._model, wanted) as recorded:
            yield recorded

    def _check(self, tokens: Tokens) -> None:
        if not tokens.ids:
            raise EmptyTextError
        if len(tokens) > self.config["context_length"]:
            raise ContextLengthError(len(tokens), self.config["context_length"])
        if (largest := max(tokens.ids)) >= self.config["vocab_size"]:
            raise WeightsError(
                f"The text has token id {largest}, and the model knows ids below {self.config['vocab_size']}: "
                "it was made for another tokenizer."
            )

    # --- between NumPy and torch ---------------------------------------------------------------

    def _ids(self, ids: Sequence[int] | NDArray[Any]) -> Tensor:
        """[batch = 1, tokens]"""
        return torch.tensor(ids, device=self._device)[None]

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        # A copy: torch knows no read-only memory. It knows no negative strides either.
        return torch.tensor(np.ascontiguousarray(array, dtype=np.float32), device=self._device)

    def _arrays(self, recorded: Mapping[Key, Tensor]) -> dict[Key, Array]:
        return {key: self._array(tensor, by_head=ACTIVATIONS[key[0]].by_head) for key, tensor in recorded.items()}

    def _array(self, tensor: Tensor, *, by_head: bool = False) -> Array:
        """Without the batch, as read-only float32; with `by_head` the last axis is split into head, head_dim."""
        if by_head:
            n_heads = self.config["n_heads"]
            tensor = tensor.unflatten(-1, (n_heads, tensor.shape[-1] // n_heads))
        array: Array = tensor[0].float().cpu().numpy()
        array.setflags(write=False)
        return array
