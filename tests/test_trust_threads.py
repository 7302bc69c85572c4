"""Simultaneous sessions get what each gets alone; caches stay within their byte limits under any use."""

import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import patience
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tiny import tiny_engine

import gptviz
from gptviz.analysis.logit_lens import logit_lens
from gptviz.analysis.prediction import prediction_table
from gptviz.cache import ByteCache
from gptviz.experiments.dropout import Dropout, dropout_runs
from gptviz.experiments.gradients import gradient_norms
from gptviz.experiments.patching import Question, patched_differences
from gptviz.hooks import ACTIVATIONS, PER_LAYER
from gptviz.interventions import Part
from gptviz.tokens import gpt2_tokenizer
from gptviz.trace import Trace
from gptviz.ui import models
from gptviz.ui.models import LoadedModel

# --- sessions ---------------------------------------------------------------------------------------


def some_bytes(_tokens, size):
    return np.zeros(size, dtype=np.int8)


def look(model, tokens):
    trace = model.trace(tokens)
    return [trace["pattern", 1], trace["mlp_out", 2], trace["embed"], trace.logits_at(0)]


def read(model, tokens):
    trace = model.trace(tokens)
    table = model.computed(prediction_table, trace)
    grid = model.computed(logit_lens, trace, positions=slice(0, 4))
    return [table["surprisal_nats"].to_numpy(), grid.ids, grid.probabilities]


def write(model, tokens):
    return [np.array([token.id for token in model.generate(tokens, 6, temperature=0.8, seed=3)])]


def switch_off(model, tokens):
    off = (Part("head", 0, 1), Part("mlp", 1), Part("shortcut1", 2))
    traces = [model.trace(tokens, off), model.trace(tokens, off[:2], by_mean=True)]
    return [array for trace in traces for array in (trace["z", 0], trace["resid_post", 2], trace.logits_at(-1))]


def drop_out(model, tokens):
    dropout = Dropout(0.4, ("attention",), len(tokens))
    return list(dropout_runs(model.engine, tokens, dropout, range(2), layer=1, head=0))


def patch(model, tokens):
    corrupted = model.engine.tokenizer.tokens((*tokens.ids[:-1], 5))
    question = Question(model.trace(tokens), model.trace(corrupted), 7, 8)
    return [patched_differences(question, kind, 1) for kind in ("resid_pre", "z")]


def go_back(model, tokens):
    return [np.array(list(gradient_norms(model.engine, tokens)[1].values()))]


# What a session does: functions (model, tokens) -> arrays.
DOES = [look, read, write, switch_off, drop_out, patch, go_back]
N_SESSIONS = 16


@pytest.fixture(scope="module")
def loaded_models():
    return [lambda seed=seed: LoadedModel(tiny_engine(seed, n_layers=3 + seed % 2)) for seed in range(4)]


def sessions(loaded):
    """Yield 16 sessions, each with its own text and one of four models; all do everything, in different orders."""
    for number in range(N_SESSIONS):
        model = loaded[number % len(loaded)]
        tokens = model.engine.tokenize(f"{' the' * (number + 2)} cat number {number}")
        first = number % len(DOES)
        yield model, tokens, DOES[first:] + DOES[:first]


def run(session, wait=lambda: None):
    model, tokens, does = session
    wait()
    return [array for act in does for array in act(model, tokens)]


@pytest.mark.parametrize("at_once", ["2", *(pytest.param(number, marks=pytest.mark.slow) for number in ("1", "16"))])
def test_16_sessions_get_what_each_gets_alone(loaded_models, monkeypatch, at_once):
    monkeypatch.setenv("GPTVIZ_MAX_COMPUTATIONS", at_once)
    alone = [run(session) for session in sessions([make() for make in loaded_models])]
    shared = [make() for make in loaded_models]
    together = threading.Barrier(N_SESSIONS)
    with ThreadPoolExecutor(N_SESSIONS) as pool:
        futures = [pool.submit(run, session, lambda: together.wait(patience.SECONDS)) for session in sessions(shared)]
        results = [future.result(patience.SECONDS) for future in futures]
    for expected, found in zip(alone, results, strict=True):
        assert len(expected) == len(found) > 8
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
    assert models._gate()._line == []


def test_sessions_with_the_same_text_get_the_same_arrays(loaded_models):
    shared = loaded_models[0]()
    tokens = shared.engine.tokenize("the same text for all of them")
    together = threading.Barrier(N_SESSIONS)
    with ThreadPoolExecutor(N_SESSIONS) as pool:
        session, wait = (shared, tokens, [look]), lambda: together.wait(patience.SECONDS)
        futures = [pool.submit(run, session, wait) for _ in range(N_SESSIONS)]
        first, *others = [future.result(patience.SECONDS) for future in futures]
    assert all(one is other for found in others for one, other in zip(first, found, strict=True))


# --- caches -----------------------------------------------------------------------------------------


class AnyUseOfACache(RuleBasedStateMachine):
    """A cache of 100 bytes, used at random and compared with a dict in order of use."""

    keys = st.integers(0, 12)
    sizes = st.one_of(st.integers(0, 40), st.sampled_from([99, 100, 101, 10_000]))

    def __init__(self):
        super().__init__()
        self.cache = ByteCache(100, lambda _, value: len(value))
        self.expected = {}

    def used(self, key, size):
        known = self.expected.pop(key, None)
        if known is not None or size <= 100:
            self.expected[key] = size if known is None else known
        while sum(self.expected.values()) > 100:
            del self.expected[next(iter(self.expected))]

    @rule(key=keys, size=sizes)
    def get(self, key, size):
        value = self.cache.get(key, lambda: bytes(size))
        assert len(value) == self.expected.get(key, size)
        self.used(key, size)

    @rule(key=keys)
    def fail(self, key):
        def make():
            raise ZeroDivisionError

        if key in self.expected:
            self.cache.get(key, make)
            self.used(key, 0)
        else:
            with pytest.raises(ZeroDivisionError):
                self.cache.get(key, make)

    @rule(outer=keys, inner=keys, size=sizes)
    def make_one_from_another(self, outer, inner, size):
        if outer != inner:
            self.cache.get(outer, lambda: self.cache.get(inner, lambda: bytes(size)) + b"")
            self.take_over_order()

    @rule(keys=st.lists(keys, min_size=2, max_size=6), size=st.integers(0, 60))
    def get_many_at_once(self, keys, size):
        with ThreadPoolExecutor(len(keys)) as pool:
            list(pool.map(lambda key: self.cache.get(key, lambda: bytes(size)), keys))
        self.take_over_order()

    def take_over_order(self):
        """Copy the cache's order: after simultaneous requests, it is unknown which came last."""
        self.expected = {key: size for key, (_, size) in self.cache._held.items()}

    @invariant()
    def it_holds_no_more_than_it_may(self):
        assert self.cache.size <= 100

    @invariant()
    def it_holds_what_was_used_last(self):
        assert set(self.cache._held) == set(self.expected)
        assert self.cache.size == sum(self.expected.values())


TestAnyUseOfACache = AnyUseOfACache.TestCase
TestAnyUseOfACache.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@pytest.mark.parametrize("name", gptviz.MODELS)
def test_the_longest_texts_trace_is_kept(name):
    config = gptviz.MODELS[name].config
    shape = (config["context_length"], config["emb_dim"])
    stream = [np.broadcast_to(np.float32(0), shape)] * (config["n_layers"] + 1)  # A broadcast array takes no memory.
    tokens = gpt2_tokenizer().tokens([0] * config["context_length"])
    trace = Trace(SimpleNamespace(config=config), tokens, stream, np.zeros(config["vocab_size"], np.float32))
    assert trace.max_bytes < max(models._TRACE_BYTES, models.largest_trace(config))


class AnyUseOfAModel(RuleBasedStateMachine):
    """A model with room for few traces and results, asked for random texts and activations."""

    engine = tiny_engine()
    texts = st.integers(1, 9)

    def __init__(self):
        super().__init__()
        self.model = LoadedModel(
            self.engine,
            ByteCache(14_000_000, lambda _, trace: trace.max_bytes),
            ByteCache(100_000, lambda _, result: result.nbytes),
        )
        self.traces = {}

    @rule(n_tokens=texts)
    def run_a_text(self, n_tokens):
        self.traces[n_tokens] = self.model.trace(self.engine.tokenize(" the" * n_tokens))

    @precondition(lambda self: self.traces)
    @rule(name=st.sampled_from(sorted(ACTIVATIONS)), layer=st.integers(0, 2), data=st.data())
    def look_at_it(self, name, layer, data):
        trace = self.traces[data.draw(st.sampled_from(sorted(self.traces)))]
        array = trace[name, layer] if name in PER_LAYER else trace[name]
        assert not array.flags.writeable
        assert len(array) == (4 if name in ("pattern", "attn_scores") else len(trace))

    @rule(n_tokens=texts, size=st.integers(0, 60_000))
    def work_something_out(self, n_tokens, size):
        tokens = self.engine.tokenize(" the" * n_tokens)
        assert self.model.computed(some_bytes, tokens, size).nbytes == size

    @invariant()
    def no_cache_holds_more_than_it_may(self):
        assert self.model.traces.size <= 14_000_000
        assert self.model._results.size <= 100_000
        for trace in self.traces.values():
            held = sum(array.nbytes for array in trace._stream) + trace._last_logits.nbytes + trace._derived.size
            assert held <= trace.max_bytes


TestAnyUseOfAModel = AnyUseOfAModel.TestCase
TestAnyUseOfAModel.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)
