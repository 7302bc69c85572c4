"""Text -> trace: joins tokens, model, weights and hooks, and lets one run at a time through the model."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from . import hub
from .catalog import MODELS
from .config import GPTConfig
from .hooks import ACTIVATIONS, Change, Key, keys, record, replace
from .interventions import Part, dropout, switched_off
from .model import ContextLengthError, GPTModel, KeyValueCache, TransformerBlock
from .numerics.sampling import draw, next_token_probabilities
from .tokens import END_OF_TEXT, END_OF_TEXT_ID, Tokenizer, Tokens, gpt2_tokenizer
from .trace import Array, Trace
from .weights import WeightsError, dummy_model, exists, load_model, model_without_values, untrained_model

_TOKENS_AT_ONCE = 1024  # in one batch: more are not faster, and take memory
_ROWS_OF_LOGITS = 64  # at once, where their gradients are wanted


class NotDownloadedError(RuntimeError):
    """A model of the hub that is not on this machine yet, where downloading was not allowed."""


class EmptyTextError(ValueError):
    """A text without any token."""

    def __init__(self) -> None:
        super().__init__(f"The text is empty: type something, or put {END_OF_TEXT} in front.")


class DropoutRuns(NamedTuple):
    """What some runs with dropout gave, one row a run."""

    logits: Array  # [run, vocab_size]: after the last token
    pattern: Array  # [run, query, key]: one head's weights in that run, before dropout
    dropped: Array  # [run, query, key]: the same after dropout, so what the values were weighted with


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
    model, checkpoint = load_model(_path_of(name, progress, allow_download), n_heads=n_heads, mapped=name in MODELS)
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
        the model takes, and `ValueError` for a part that it does not have.
        """
        tokens = self.tokenize(text, bos=bos) if isinstance(text, str) else text
        self._check(tokens)
        keep = set(keep)
        changes = switched_off(off, self.config, None if means is None else partial(_mean_activation, means))
        with self._recording(keys(keep | {"resid_pre"}, self.config["n_layers"]), changes) as recorded:
            last_stream = stream = self._model.stream(self._ids(tokens.ids))
            if not keep & {"final_norm_out", "logits"}:
                last_stream = stream[:, -1:]  # the output head is a third of the work: only where it is looked at
            logits = self._model.out_head(self._model.final_norm(last_stream))
        arrays = self._arrays(recorded)
        borders = [arrays["resid_pre", layer] for layer in range(self.config["n_layers"])] + [self._array(stream)]
        kept = {key: array for key, array in arrays.items() if key[0] in keep}
        derive = partial(self._derive, changes=changes)
        return Trace(tokens, self.config, borders, self._array(logits[:, -1].clone()), derive, kept)

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
        try:
            parameter = self._model.get_parameter(name)
        except AttributeError:
            known = (known for known, _ in self._model.named_parameters(remove_duplicate=False))
            raise KeyError(f"{name!r} is no parameter of this model; known are: {', '.join(known)}.") from None
        array: Array = parameter.detach().float().cpu().numpy().view()
        array.setflags(write=False)
        return array

    def unembed(self, stream: NDArray[Any]) -> Array:
        """The final norm and the output head: [pos, emb_dim] of the stream -> logits [pos, vocab_size]."""
        return self._derive(("logits",), None, stream)["logits"]

    def finish(self, variants: Mapping[Key, NDArray[Any]]) -> Array:
        """The last block's stream at the last position, [variant, emb_dim], for other streams than a run's own.

        `variants` holds streams [variant, pos, emb_dim] under the place where they take the stream's:
        `resid_pre`, `resid_mid` or `resid_post` of a layer. What follows is run for all as one batch,
        which those of deeper places join, and they come out in that order. Each variant costs a run of
        what follows: ask for few at a time, and leave positions out that the last one does not see.
        """
        batch: Tensor | None = None
        for layer, block in enumerate(cast(Sequence[TransformerBlock], self._model.trf_blocks)):
            for name, step in (("resid_pre", block.add_attention), ("resid_mid", block.add_feed_forward)):
                batch = self._joined(batch, variants.get((name, layer)))
                if batch is not None:
                    with self._running():
                        batch = torch.cat([step(some) for some in batch.split(_TOKENS_AT_ONCE // batch.shape[1] or 1)])
            batch = self._joined(batch, variants.get(("resid_post", layer)))
        assert batch is not None, "there is one variant at least"
        last: Array = batch[:, -1].float().cpu().numpy()
        return last

    def _joined(self, batch: Tensor | None, more: NDArray[Any] | None) -> Tensor | None:
        if more is None:
            return batch
        return self._tensor(more) if batch is None else torch.cat((batch, self._tensor(more)))

    def dropout_runs(
        self, tokens: Tokens, rate: float, runs: range, *, seed: int, layer: int, head: int, places: Iterable[str]
    ) -> DropoutRuns:
        """Run the text as in training, each time with other numbers dropped.

        `rate` is the share that becomes 0; `places` are some of `embedding`, `attention` and `shortcut`,
        as the course drops. Run 7 of a seed is the same whichever others are asked for; a head's weights
        of each run come along. All go as one batch: ask for few. Raises as `run` does.
        """
        self._check(tokens)
        n_layers = self.config["n_layers"]
        sites: list[Key] = [("drop_emb", None)] if "embedding" in (places := set(places)) else []
        for place in ("attention", "shortcut"):
            sites += [(f"drop_{place}", at) for at in range(n_layers)] if place in places else []
        change = dropout(rate, [(seed, run) for run in runs])
        watched: list[Key] = [("pattern", layer), ("drop_attention", layer)]
        with self._recording(watched, dict.fromkeys(sites, change)) as recorded:
            stream = self._model.stream(self._ids(tokens.ids).expand(len(runs), -1))
            logits = self._model.out_head(self._model.final_norm(stream[:, -1]))
        of_head = (recorded[key][:, head] for key in watched)
        return DropoutRuns(*(tensor.float().cpu().numpy() for tensor in (logits, *of_head)))

    def gradient_norms(self, tokens: Tokens, *, off: Iterable[Part] = ()) -> tuple[float, dict[str, float]]:
        """The mean loss of the text's own next tokens in nats, and the length of each parameter's gradient of it.

        Parameters under their course names; a tied head has its part in the token embedding's. The model
        is in evaluation mode and keeps no gradient. Raises as `run` does, and `ValueError` for one token.
        """
        self._check(tokens)
        if len(tokens) < 2:
            raise ValueError("One token alone has no next token to foresee, so there is no loss: add a second.")
        norms: dict[str, float] = {}

        def measure(name: str, parameter: Tensor) -> None:
            assert parameter.grad is not None, "the hook is called with a gradient"
            norms[name] = parameter.grad.norm().item()
            parameter.grad = None  # one at a time: all of GPT-2 XL's would take 6 GB

        # A model of its own on the same memory: the shared one stays as it is.
        model = model_without_values(self.config, tied_head=self.tied_head).eval()
        model.load_state_dict(self._model.state_dict(), assign=True)
        if self.tied_head:
            model.tie_head()
        parameters = dict(model.requires_grad_().named_parameters())
        head = "tok_emb.weight" if self.tied_head else "out_head.weight"  # has its gradient in pieces
        for name, parameter in parameters.items():
            if name != head:
                parameter.register_post_accumulate_grad_hook(partial(measure, name))
        with torch.enable_grad(), replace(model, switched_off(off, self.config)):
            loss = _go_back(model, self._ids(tokens.ids))
        measure(head, parameters[head])
        return loss, {name: norms[name] for name in parameters}

    def input_gradients(self, streams: NDArray[Any], position: int, token: int) -> tuple[Array, Array]:
        """Log-probability in nats of `token` after `position`, and its gradient with respect to what enters block 0.

        `streams` is [variant, pos, emb_dim], such as `trace["resid_pre", 0][None]`; gives [variant] and
        [variant, pos, emb_dim]. Later positions have gradient 0.
        """
        values, gradients = [], []
        for some in torch.split(self._tensor(streams), max(1, _TOKENS_AT_ONCE // streams.shape[1])):
            entering = some.detach().requires_grad_()
            with self._lock, torch.enable_grad():
                x = entering
                for block in self._model.trf_blocks:
                    x = block(x)
                logits = self._model.out_head(self._model.final_norm(x[:, position]))
                value = torch.log_softmax(logits, dim=-1)[:, token]
                (gradient,) = torch.autograd.grad(value.sum(), entering)
            values.append(value.detach().cpu().numpy())
            gradients.append(gradient.cpu().numpy())
        return np.concatenate(values), np.concatenate(gradients)

    def untrained_twin(self, seed: int = 0) -> "Engine":
        """An engine of the same shape with random weights."""
        model = untrained_model(self.config, seed, tied_head=self.tied_head)
        return Engine(model, self.config, name=f"{self.name}, untrained", device=self._device)

    def dummy_logits(self, texts: Sequence[Tokens], *, seed: int = 0) -> list[Array]:
        """What the course's DummyGPTModel of this shape says after each text: logits [vocab_size] each."""
        model = dummy_model(self.config, seed)
        with torch.inference_mode():
            streams = [model.stream(torch.tensor(tokens.ids)[None])[:, -1] for tokens in texts]
            return [self._array(model.out_head(model.final_norm(stream))) for stream in streams]

    def _derive(
        self,
        names: Sequence[str],
        layer: int | None,
        source: NDArray[Any],
        *,
        changes: Mapping[Key, Change] | None = None,
    ) -> Mapping[str, Array]:
        """Run the part of the model in which `names` lie on `source`; see `gptviz.trace.Derive`."""
        changes = {key: change for key, change in (changes or {}).items() if key[1] == layer}
        with self._recording([(name, layer) for name in names], changes, stop=True) as recorded:
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
    def _recording(
        self, wanted: Iterable[Key], changes: Mapping[Key, Change] | None = None, *, stop: bool = False
    ) -> Iterator[dict[Key, Tensor]]:
        """Record what the model goes on with, after the `changes`; with `stop`, until all that is wanted is there."""
        with self._running(), replace(self._model, changes or {}), record(self._model, wanted, stop=stop) as recorded:
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


def _go_back(model: GPTModel, ids: Tensor) -> float:
    """Back-propagate the mean loss of the ids' own next ones, [batch = 1, tokens]; gives it, in nats.

    A few positions' logits at a time. Of a long text only the stream between blocks is held until then, and each
    block is run once more on the way back (Chen et al. 2016): it takes longer, and a third of the memory.
    """
    is_long = ids.numel() > _ROWS_OF_LOGITS
    stream = model.embed(ids)
    for block in model.trf_blocks:
        stream = checkpoint(block, stream, use_reentrant=False) if is_long else block(stream)
    normed = model.final_norm(stream)
    ends, n_losses = normed.detach().requires_grad_(), ids.numel() - 1
    total = 0.0
    for start in range(0, n_losses, _ROWS_OF_LOGITS):
        rows = slice(start, min(start + _ROWS_OF_LOGITS, n_losses))
        logits, following = model.out_head(ends[0, rows]), ids[0, rows.start + 1 : rows.stop + 1]
        loss = F.cross_entropy(logits, following, reduction="sum") / n_losses
        loss.backward()
        total += loss.item()
    normed.backward(ends.grad)
    return total


def _mean_activation(trace: Trace, name: str, layer: int) -> Array:
    """Mean over the positions, heads joined: [features]."""
    mean: Array = trace[name, layer].reshape(len(trace), -1).mean(axis=0)
    return mean
