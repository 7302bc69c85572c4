"""Loaded models and their traces, shared by all sessions, and downloads that run in the background."""

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from streamlit.delta_generator import DeltaGenerator
from streamlit.runtime.scriptrunner import get_script_run_ctx

import gptviz
from gptviz import hub
from gptviz.cache import ByteCache
from gptviz.checkpoints import TooLargeError, exists
from gptviz.experiments.skeleton import untrained_twin as make_untrained_twin
from gptviz.interventions import Part
from gptviz.numerics.vectors import norms
from gptviz.tokens import Tokens
from gptviz.trace import Trace
from gptviz.ui import limits, memory
from gptviz.ui.gate import BusyError, Gate
from gptviz.ui.memory import n_bytes
from gptviz.weights import split_options

Value = TypeVar("Value")
Result = TypeVar("Result")  # any type that `n_bytes` can measure

OWN_MODELS_VARIABLE = "GPTVIZ_MODELS"  # paths of the models of whoever starts the app, separated as in PATH
_TRACE_BYTES = 400_000_000  # for the traces of one model
_RESULT_BYTES = 50_000_000  # for the results computed from them
_LOOK_EVERY = 0.3  # seconds between two checks whether a wait is over


def _entry_bytes(key: Hashable, value: object) -> int:
    return n_bytes((key, value))


def _trace_bytes(_key: Hashable, trace: Trace) -> int:
    return trace.max_bytes  # this includes the key


@dataclass(frozen=True)
class LoadedModel:
    """An engine and its recent results: everyone who looks at the same text shares one trace."""

    engine: gptviz.Engine
    traces: ByteCache[Trace] = field(default_factory=lambda: ByteCache(_TRACE_BYTES, _trace_bytes))
    _results: ByteCache[Any] = field(default_factory=lambda: ByteCache(_RESULT_BYTES, _entry_bytes))

    @property
    def max_bytes(self) -> int:
        """The most memory that the model can take, in bytes: its weights, and what is kept of its runs."""
        return self.engine.n_bytes + self.traces.max_bytes + self._results.max_bytes

    @cached_property
    def embedding_norms(self) -> NDArray[np.float32]:
        """The length of every token's embedding: [vocab_size]."""
        return norms(self.engine.weights.w_e)

    def trace(self, tokens: Tokens, off: tuple[Part, ...] = (), *, by_mean: bool = False) -> Trace:
        """Return the trace of these tokens, computed once; the parts `off` are at 0 or at their means (`by_mean`)."""
        means = self.trace(tokens) if off and by_mean else None
        key = (tokens.ids, off, by_mean) if off else tokens.ids
        make = partial(self.engine.run, tokens, off=off, means=means)
        return _once(self.traces, key, make, dear=bool(off), size=len(tokens) * self.engine.n_parameters)

    def computed(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
        """Return `function(*arguments, **options)`, computed once for everybody who asks for the same (see `key_of`).

        Experiments count as expensive: what others need for a first view is computed before them.
        """
        dear = function.__module__.startswith("gptviz.experiments")
        key = key_of(function, *arguments, **options)
        result: Result = _once(self._results, key, partial(function, *arguments, **options), dear=dear)
        return result

    def known(self, function: Callable[..., Result], *arguments: Any, **options: Any) -> Result | None:
        """Return what `computed` would return, or None if nobody has asked for it lately."""
        result: Result | None = self._results.peek(key_of(function, *arguments, **options))
        return result

    def generate(self, tokens: Tokens, max_new_tokens: int, **how: Any) -> Iterator[gptviz.GeneratedToken]:
        """Generate tokens like `Engine.generate`, each in its own turn."""
        written = self.engine.generate(tokens, max_new_tokens, **how)
        while True:
            with turn(dear=True):
                token = next(written, None)
            if token is None:
                return
            yield token


def key_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> Hashable:
    """Return the key that identifies a call: the function's name and its arguments, a trace by what was run."""
    return function.__module__, function.__qualname__, *map(_key_of_argument, [*arguments, *sorted(options.items())])


def _key_of_argument(argument: Any) -> Hashable:
    key: Hashable = argument
    match argument:
        case Trace() | Tokens():
            key = argument.key
        case gptviz.Engine():
            key = argument.name
        case slice() | range():
            key = argument.start, argument.stop, argument.step
        case tuple() | list():
            key = tuple(map(_key_of_argument, argument))
        case dict():
            key = tuple(sorted(argument.items()))
    return key


def _once(
    cache: ByteCache[Value], key: Hashable, make: Callable[[], Value], *, dear: bool = False, size: int = 0
) -> Value:
    """Return a value from the cache, or make it in a turn.

    While a session waits for a value that another session makes, it gives up its turn, because the other may need it.
    """

    def make_in_turn() -> Value:
        with turn(dear=dear, size=size):
            return make()

    return cache.get(key, make_in_turn, _wait_outside)


def _wait_outside(future: "Future[Value]") -> None:
    sign = _Sign()
    with _gate().outside():
        while not futures.wait([future], timeout=_LOOK_EVERY).done:
            sign.say("Somebody else has asked for the same: waiting for it…")
    sign.clear()


class _Sign:
    """A sentence on the page, shown during a wait."""

    def __init__(self) -> None:
        self._place: DeltaGenerator | None = None  # on the page only if there is a wait
        self._said = ""

    def say(self, sentence: str) -> None:
        """Show a sentence. Ends a run that Streamlit wants to end, because the tab was closed or began another run."""
        context = get_script_run_ctx(suppress_warning=True)
        if context is not None:
            context.yield_check()
        if sentence != self._said:
            self._place = self._place or st.empty()
            self._place.caption(f":material/hourglass_top: {sentence}")
            self._said = sentence

    def clear(self) -> None:
        """Remove the sentence."""
        if self._place is not None:
            self._place.empty()
        self._said = ""


# These are not in Streamlit's caches: any visitor's browser can have those emptied, and a new gate voids the limits.
_gates: dict[tuple[int, int], Gate] = {}  # by its two limits, which change only in tests
_loaded: dict[int, ByteCache[LoadedModel]] = {}  # by its size in bytes, which changes only in tests
_downloads: "dict[str, Download]" = {}  # by the model's name; only the latest download of each
_lock = threading.Lock()  # guards these three
_downloader = ThreadPoolExecutor(max_workers=1, thread_name_prefix="download")


def _gate() -> Gate:
    allowed = limits.read()
    numbers = allowed.computations, allowed.waiting
    with _lock:
        return _gates.setdefault(numbers, Gate(*numbers))


def _models() -> ByteCache[LoadedModel]:
    most = 1_000_000 * limits.read().model_megabytes
    with _lock:
        return _loaded.setdefault(most, ByteCache(most, lambda _, model: model.max_bytes))


@contextmanager
def turn(*, dear: bool = False, size: int = 0) -> Iterator[None]:
    """Enclose a long computation: a limited number run at once, and the others see how many they wait for.

    If too many wait, or the memory is used up, an error message ends the page or fragment.
    """
    sign = _Sign()

    def tell(n_ahead: int) -> None:
        if n_ahead:
            sign.say(f"Waiting for {n_ahead} {'other' if n_ahead == 1 else 'others'}…")
        else:
            sign.clear()

    try:
        with _gate().turn(_session(), tell, dear=dear, size=size):
            yield
        memory.trim()  # frees what the computation needed, and what made room for its result
    except BusyError:
        st.error(
            f"Too many people compute at this moment ({limits.read().waiting} wait already): reload the page in a "
            "minute.",
            icon=":material/hourglass_disabled:",
        )
        st.stop()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # torch's wording
            raise
        st.error(
            "There is not enough memory for this text and model: take a shorter text, or a smaller model.",
            icon=":material/memory_alt:",
        )
        st.stop()


def _session() -> Hashable:
    context = get_script_run_ctx(suppress_warning=True)
    return context.session_id if context else threading.get_ident()


def loaded(name: str, n_heads: int = 0) -> LoadedModel:
    """Load a model by the name under which the app offers it, once for all sessions. Raises as `gptviz.load` does.

    `n_heads` is for a checkpoint that does not say how many it has; 0 is the guess. The weights in memory are reused.
    """
    if name not in names():  # checks a name from a link too, so it cannot be a path
        raise gptviz.WeightsError("There is no model of that name here: choose one of the list.")
    model = _once(_models(), name, lambda: _load(name))
    if not n_heads:
        return model
    return _once(_models(), (name, n_heads), lambda: _with_room(model.engine.with_heads(n_heads)))


def _load(name: str) -> LoadedModel:
    path = own_models().get(name)
    if path is not None and not exists(Path(split_options(path)[0])):
        raise gptviz.WeightsError(f"{name} is no longer where it was when the app was started.")
    engine = gptviz.load(path or name, allow_download=False)
    engine.name = name  # not the path, because visitors must not see where files lie
    return _with_room(engine)


def _with_room(engine: gptviz.Engine) -> LoadedModel:
    """Return the engine with a cache that can hold its longest trace. Raises `TooLargeError` if it cannot be kept."""
    room = max(_TRACE_BYTES, largest_trace(engine.config))
    model = LoadedModel(engine, ByteCache(room, _trace_bytes))
    most = 1_000_000 * limits.read().model_megabytes
    if model.max_bytes > most:
        raise TooLargeError(
            f"This model takes {gigabytes(model.max_bytes)} with what is kept of its runs, and this app keeps "
            f"{gigabytes(most)}: choose a smaller one, or start the app with more (GPTVIZ_MAX_MODEL_MB)."
        )
    return model


def largest_trace(config: gptviz.GPTConfig) -> int:
    """Return slightly more bytes than any trace of a deep model takes.

    A trace that does not fit into the cache would be computed again at every look. Most of a trace is the residual
    stream at the block borders, and 1.8 times as much for what is derived from it (see `gptviz.trace`).
    """
    return 3 * 4 * (config["n_layers"] + 1) * config["context_length"] * config["emb_dim"]


def untrained_twin(name: str, n_heads: int = 0) -> LoadedModel:
    """Return a model of the same shape with random weights, made once for all sessions. `n_heads` is as in `loaded`."""
    make = lambda: _with_room(make_untrained_twin(loaded(name, n_heads).engine))  # noqa: E731
    return _once(_models(), ("untrained", name, n_heads), make, dear=True)


def own_models() -> dict[str, str]:
    """Return the models of whoever started the app: names (as in a link) -> paths, possibly followed by options."""
    paths = [part for part in os.environ.get(OWN_MODELS_VARIABLE, "").split(os.pathsep) if part]
    by_name = {Path(split_options(path)[0]).name: path for path in paths}
    return {name: path for name, path in by_name.items() if name not in gptviz.MODELS}


def names() -> list[str]:
    """Return the names of all models that the app offers. A link can name no other."""
    allowed = limits.read().models
    return [*(name for name in gptviz.MODELS if name in allowed), *own_models()]


def title(name: str) -> str:
    """Return a model's display name, with its size if it must be downloaded."""
    if name not in gptviz.MODELS:
        return f"{name} (yours)"
    model = gptviz.MODELS[name]
    return model.title if on_disk(name) else f"{model.title} · {gigabytes(model.n_bytes)} to download"


def on_disk(name: str) -> bool:
    """Return whether the model can be loaded without a network."""
    model = gptviz.MODELS.get(name)
    return model is None or model.repo is None or hub.cached_folder(model.repo) is not None


def remove_damaged(name: str) -> bool:
    """Remove a downloaded model if its file differs from the hub's. Return whether it did."""
    model = gptviz.MODELS.get(name)
    return model is not None and model.repo is not None and hub.remove_damaged(model.repo)


def gigabytes(n_bytes: int) -> str:
    """Return a number of bytes as text, in gigabytes."""
    return f"{n_bytes / 1e9:.1f} GB"


class Download:
    """A download under way, shared by all who asked for it."""

    def __init__(self, repo: str) -> None:
        """Start at once, or after the downloads before it."""
        self.n_bytes = self.n_total = 0
        self.future: Future[Path] = _downloader.submit(hub.download, repo, self.report)

    def report(self, n_bytes: int, n_total: int) -> None:
        """Record the progress. The download calls this as bytes arrive."""
        self.n_bytes, self.n_total = n_bytes, n_total


def download(name: str) -> Download:
    """Start the model's download, or join the one that is under way."""
    if name not in names():
        raise gptviz.DownloadError("This model is not offered here: choose one of the list.")
    repo = gptviz.MODELS[name].repo
    assert repo is not None, "only hub models are downloaded"
    with _lock:
        last = _downloads.get(name)
        if last is None or last.future.done():
            last = _downloads[name] = Download(repo)
        return last


def download_under_way(name: str) -> bool:
    """Return whether this model is being downloaded now."""
    with _lock:
        return name in _downloads and not _downloads[name].future.done()
