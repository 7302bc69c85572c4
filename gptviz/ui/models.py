"""Loaded models, shared by all sessions, with the traces that they made; and downloads that go on in the background."""

import os
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

import gptviz
from gptviz import hub
from gptviz.cache import ByteCache
from gptviz.experiments import skeleton
from gptviz.interventions import Part
from gptviz.numerics.vectors import norms
from gptviz.tokens import Tokens
from gptviz.trace import Trace
from gptviz.ui import limits
from gptviz.ui.gate import BusyError, Gate

Value = TypeVar("Value")
Result = TypeVar("Result")  # a table, an array, or a tuple with arrays in it

OWN_MODELS_VARIABLE = "GPTVIZ_MODELS"  # paths of one's own models, as in PATH
_TRACE_BYTES = 400_000_000  # for the traces of one model
_RESULT_BYTES = 50_000_000  # for what took long to work out from them

# NumPy's products are small here. With threads of their own for every session they wait for each other: of 30 sessions
# at once on two cores, an update took 2 s rather than 0.1.
threadpool_limits(1, user_api="blas")


@dataclass(frozen=True)
class LoadedModel:
    """An engine, and what it computed lately: everyone who looks at the same text shares one trace."""

    engine: gptviz.Engine
    traces: ByteCache[Trace] = field(default_factory=lambda: ByteCache(_TRACE_BYTES, lambda trace: trace.max_bytes))
    _results: ByteCache[Any] = field(default_factory=lambda: ByteCache(_RESULT_BYTES, _bytes_of))

    @cached_property
    def embedding_norms(self) -> NDArray[np.float32]:
        """The length of every token's embedding: [vocab_size]."""
        return norms(self.engine.weights.w_e)

    def trace(self, tokens: Tokens, off: tuple[Part, ...] = (), *, by_mean: bool = False) -> Trace:
        """The trace of these tokens, computed once; with the parts `off` at 0 or, `by_mean`, at their means."""
        means = self.trace(tokens) if off and by_mean else None
        key = (tokens.ids, off, by_mean) if off else tokens.ids
        return _once(self.traces, key, lambda: self.engine.run(tokens, off=off, means=means))

    def result(self, tokens: Tokens, name: Hashable, make: Callable[[], Result]) -> Result:
        """What `make` works out from these tokens' trace, once for all who ask for `name`."""
        result: Result = _once(self._results, (tokens.ids, name), make)
        return result

    def has(self, tokens: Tokens, name: Hashable) -> bool:
        """Whether `result` has this one already."""
        return (tokens.ids, name) in self._results

    def generate(self, tokens: Tokens, max_new_tokens: int, **how: Any) -> Iterator[gptviz.GeneratedToken]:
        """As `Engine.generate`; every token waits for its turn."""
        written = self.engine.generate(tokens, max_new_tokens, **how)
        while True:
            with turn():
                token = next(written, None)
            if token is None:
                return
            yield token


def _bytes_of(result: object) -> int:
    if isinstance(result, pd.DataFrame):
        return int(result.memory_usage(deep=True).sum())
    parts = result if isinstance(result, tuple) else (result,)
    return sum(part.nbytes for part in parts if isinstance(part, np.ndarray))


def _once(cache: ByteCache[Value], key: Hashable, make: Callable[[], Value]) -> Value:
    """From the cache, or made in its turn."""
    if key in cache:
        return cache.get(key, make)
    with turn():  # before the cache: who makes a value holds a turn, so nobody inside waits for somebody outside
        return cache.get(key, make)


@st.cache_resource(max_entries=1, show_spinner=False)
def _gate(at_once: int, most_waiting: int) -> Gate:
    return Gate(at_once, most_waiting)


@contextmanager
def turn() -> Iterator[None]:
    """Do in here what takes long: only so many do at once, and the others see for whom they wait.

    Where too many wait, or the memory is used up, a sentence says so and ends the page or fragment.
    """
    allowed = limits.read()
    place: list[Any] = []  # on the page only where one has to wait

    def tell(n_before: int) -> None:
        place[:] = place or [st.empty()]
        place[0].caption(f":material/hourglass_top: Waiting for {n_before} {'other' if n_before == 1 else 'others'}…")

    try:
        with _gate(allowed.computations, allowed.waiting).turn(tell):
            for waiting in place:
                waiting.empty()
            yield
    except BusyError:
        st.error(
            f"Too many people compute at this moment ({allowed.waiting} wait already): reload the page in a minute.",
            icon=":material/hourglass_disabled:",
        )
        st.stop()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # as torch says it
            raise
        st.error(
            "There is not enough memory for this text and model: take a shorter text, or a smaller model.",
            icon=":material/memory_alt:",
        )
        st.stop()


@st.cache_resource(max_entries=3, show_spinner=False)
def loaded(name: str) -> LoadedModel:
    """Load a model by the name under which the app offers it. Raises as `gptviz.load` does."""
    if name not in names():  # whatever came by a link: it can be no path
        raise gptviz.WeightsError("There is no model of that name here: choose one of the list.")
    path = own_models().get(name)
    if path is not None and not path.exists():
        raise gptviz.WeightsError(f"{name} is no longer where it was when the app was started.")
    engine = gptviz.load(path or name, allow_download=False)
    engine.name = name  # not the path: where files lie is not for everybody's eyes
    return _with_room(engine)


def _with_room(engine: gptviz.Engine) -> LoadedModel:
    """The engine with a cache that can hold its longest trace."""
    room = max(_TRACE_BYTES, largest_trace(engine.config))
    return LoadedModel(engine, ByteCache(room, lambda trace: trace.max_bytes))


def largest_trace(config: gptviz.GPTConfig) -> int:
    """A bit more bytes than any trace takes of a deep model: one that is not kept is computed at every look.

    Most of it is the stream at the block borders, and 1.8 times as much for what is derived (see `gptviz.trace`).
    """
    return 3 * 4 * (config["n_layers"] + 1) * config["context_length"] * config["emb_dim"]


@st.cache_resource(max_entries=1, show_spinner=False)
def untrained_twin(name: str) -> LoadedModel:
    """A model of the same shape with random weights."""
    return _with_room(skeleton.untrained_twin(loaded(name).engine))


def own_models() -> dict[str, Path]:
    """Models of the person who started the app: names (as in a link) -> paths."""
    paths = [Path(part) for part in os.environ.get(OWN_MODELS_VARIABLE, "").split(os.pathsep) if part]
    return {path.name: path for path in paths if path.name not in gptviz.MODELS}


def names() -> list[str]:
    """All models that the app offers; no other can come from a link."""
    allowed = limits.read().models
    return [*(name for name in gptviz.MODELS if name in allowed), *own_models()]


def title(name: str) -> str:
    """A model's name for people, with what it takes to get it."""
    if name not in gptviz.MODELS:
        return f"{name} (yours)"
    model = gptviz.MODELS[name]
    return model.title if on_disk(name) else f"{model.title} · {gigabytes(model.n_bytes)} to download"


def on_disk(name: str) -> bool:
    """Whether the model can be loaded without a network."""
    model = gptviz.MODELS.get(name)
    return model is None or model.repo is None or hub.cached_folder(model.repo) is not None


def remove_damaged(name: str) -> bool:
    """Remove a downloaded model whose file is not what came from the hub; whether it was so."""
    model = gptviz.MODELS.get(name)
    return model is not None and model.repo is not None and hub.remove_damaged(model.repo)


def gigabytes(n_bytes: int) -> str:
    """Bytes for people."""
    return f"{n_bytes / 1e9:.1f} GB"


@dataclass
class Download:
    """A download under way, whoever asked for it."""

    future: "Future[Path]"
    n_bytes: int = 0
    n_total: int = 0

    def report(self, n_bytes: int, n_total: int) -> None:
        """Called by the download as bytes come."""
        self.n_bytes, self.n_total = n_bytes, n_total


@st.cache_resource(show_spinner=False)
def _downloads() -> tuple[ThreadPoolExecutor, dict[str, Download]]:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="download"), {}


def download(name: str) -> Download:
    """Start the model's download, or join the one that is under way."""
    if name not in names():
        raise gptviz.DownloadError("This model is not offered here: choose one of the list.")
    executor, under_way = _downloads()
    repo = gptviz.MODELS[name].repo
    assert repo is not None, "only hub models are downloaded"
    if name not in under_way or under_way[name].future.done():
        started = under_way[name] = Download(Future())
        started.future = executor.submit(hub.download, repo, started.report)
    return under_way[name]


def download_under_way(name: str) -> bool:
    """Whether this model is being downloaded now."""
    _, under_way = _downloads()
    return name in under_way and not under_way[name].future.done()
