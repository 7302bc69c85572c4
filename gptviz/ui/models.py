"""Loaded models, shared by all sessions, with the traces that they made; and downloads that go on in the background."""

import gc
import os
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
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
from gptviz.analysis.embeddings import norms
from gptviz.analysis.lens import Lens
from gptviz.cache import ByteCache
from gptviz.tokens import Tokens
from gptviz.trace import Trace

Result = TypeVar("Result", pd.DataFrame, NDArray[Any], Lens)

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
        return norms(self.engine.weight("tok_emb.weight"))

    def trace(self, tokens: Tokens) -> Trace:
        """The trace of these tokens, computed once."""
        return self.traces.get(tokens.ids, lambda: self.engine.run(tokens))

    def result(self, tokens: Tokens, name: Hashable, make: Callable[[], Result]) -> Result:
        """What `make` works out from these tokens' trace, once for all who ask for `name`."""
        result: Result = self._results.get((tokens.ids, name), make)
        return result

    def has(self, tokens: Tokens, name: Hashable) -> bool:
        """Whether `result` has this one already."""
        return (tokens.ids, name) in self._results


def _bytes_of(result: "pd.DataFrame | NDArray[Any] | Lens") -> int:
    if isinstance(result, Lens):
        return result.ids.nbytes + result.probabilities.nbytes
    return int(result.memory_usage(deep=True).sum()) if isinstance(result, pd.DataFrame) else result.nbytes


@st.cache_resource(max_entries=2, show_spinner=False)
def loaded(name: str) -> LoadedModel:
    """Load a model by the name under which the app offers it. Raises as `gptviz.load` does."""
    model = LoadedModel(gptviz.load(own_models().get(name, name), allow_download=False))
    # Streamlit collects garbage after every run of a page, and looks at all objects for that: half of the
    # time of a run went to those of torch, Plotly and the tokenizer, which stay. From now on it passes over them.
    gc.collect()
    gc.freeze()
    return model


def own_models() -> dict[str, Path]:
    """Models of the person who started the app: names (as in a link) -> paths."""
    paths = [Path(part) for part in os.environ.get(OWN_MODELS_VARIABLE, "").split(os.pathsep) if part]
    return {path.name: path for path in paths if path.name not in gptviz.MODELS}


def names() -> list[str]:
    """All models that the app offers; no other can come from a link."""
    return [*gptviz.MODELS, *own_models()]


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
