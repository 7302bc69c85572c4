"""Turns: one computation per session, one pass per turn, cheap work first; and no deadlocks between waiting threads."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import patience
import pytest
import streamlit as st
from patience import until
from test_app import charts, check_page, open_page, served_as_an_app, this_machine  # noqa: F401 - the fixtures
from tiny import tiny_engine

from gptviz import hub
from gptviz.analysis.heads import all_head_scores
from gptviz.cache import ByteCache
from gptviz.experiments import dropout, head_ablation, token_attribution
from gptviz.experiments.dropout import PLACES, Dropout, dropout_runs, spread
from gptviz.experiments.gradients import gradient_norms
from gptviz.experiments.head_ablation import head_effects
from gptviz.experiments.portions import run_all
from gptviz.experiments.token_attribution import input_gradients, integrated_gradients
from gptviz.model import TransformerBlock
from gptviz.ui import models
from gptviz.ui.gate import BusyError, Gate
from gptviz.ui.models import LoadedModel

A_MOMENT = 1.0  # Seconds in which both threads arrive, if nothing stops them.


@pytest.fixture(autouse=True)
def one_at_a_time(monkeypatch):
    monkeypatch.setenv("GPTVIZ_MAX_COMPUTATIONS", "1")
    monkeypatch.delenv("GPTVIZ_MAX_WAITING", raising=False)


class Computation:
    """A thread that asks for a turn and holds it until `end` is called."""

    def __init__(self, gate, session, **how):
        self._gate, self._session, self._how = gate, session, how
        self.ahead, self.inside, self._go = [], threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self):
        with self._gate.turn(self._session, self.ahead.append, **self._how):
            self.inside.set()
            assert self._go.wait(patience.SECONDS)

    def is_waiting(self):
        until(lambda: self.ahead)
        return not self.inside.is_set()

    def is_inside(self):
        return self.inside.wait(patience.SECONDS)

    def end(self):
        self._go.set()
        self._thread.join(patience.SECONDS)


def end_all(computations):
    """End all computations, in whatever order they get their turns."""
    for one in computations:
        one._go.set()
    for one in computations:
        one.end()


# --- the gate ---------------------------------------------------------------------------------------


def test_the_cheap_goes_before_the_dear_that_came_first():
    gate = Gate(1, 10)
    first = Computation(gate, "first")
    assert first.is_inside()
    dear = Computation(gate, "experiment", dear=True)
    assert dear.is_waiting()
    cheap = Computation(gate, "view")
    assert cheap.is_waiting()
    first.end()
    assert cheap.is_inside()
    assert dear.is_waiting()
    cheap.end()
    assert dear.is_inside()
    dear.end()


def test_a_short_text_goes_before_a_long_one():
    gate = Gate(1, 10)
    first = Computation(gate, "first")
    assert first.is_inside()
    long = Computation(gate, "long", size=1024)
    assert long.is_waiting()
    short = Computation(gate, "short", size=16)
    assert short.is_waiting()
    first.end()
    assert short.is_inside()
    assert long.is_waiting()
    end_all([short, long])


def test_the_dear_leave_one_place_to_the_cheap():
    gate = Gate(2, 10)
    dear = [Computation(gate, number, dear=True) for number in range(2)]
    until(lambda: any(one.inside.is_set() for one in dear))
    until(lambda: any(one.ahead for one in dear))
    assert sum(one.inside.is_set() for one in dear) == 1
    cheap = Computation(gate, "view")
    assert cheap.is_inside()
    assert not cheap.ahead, "it has not waited"
    end_all([cheap, *dear])


def test_a_session_has_one_computation_at_a_time_and_others_go_by():
    gate = Gate(3, 10)
    first = Computation(gate, "same")
    assert first.is_inside()
    second = Computation(gate, "same")
    assert second.is_waiting()
    other = Computation(gate, "other")
    assert other.is_inside()
    first.end()
    assert second.is_inside()
    second.end()
    other.end()


def test_a_session_takes_one_place_of_those_that_wait():
    """Streamlit reruns a page in new threads before the old ones have ended."""
    gate = Gate(1, 2)
    inside = Computation(gate, "first")
    assert inside.is_inside()
    eager = [Computation(gate, "eager") for _ in range(5)]
    assert all(one.is_waiting() for one in eager)
    other = Computation(gate, "other")
    assert other.is_waiting()
    with pytest.raises(BusyError), gate.turn("too many", lambda _: None):
        pass
    inside.end()
    until(lambda: any(one.inside.is_set() for one in eager))
    assert eager[-1].inside.is_set(), "the newest one, as the others are out of date"
    end_all([*eager, other])
    assert gate._line == []


def test_those_who_wait_with_an_experiment_take_no_place_from_a_first_view():
    gate = Gate(1, 1)
    inside = Computation(gate, "first", dear=True)
    assert inside.is_inside()
    experiment = Computation(gate, "experiment", dear=True)
    assert experiment.is_waiting()
    view = Computation(gate, "view")
    assert view.is_waiting()
    end_all([inside, view, experiment])


def test_outside_of_a_turn_others_have_theirs():
    gate = Gate(1, 10)
    with gate.turn("experiment", lambda _: None, dear=True):
        waiting = Computation(gate, "view")
        assert waiting.is_waiting()
        with gate.outside():
            assert waiting.is_inside()
            waiting.end()
        blocked = Computation(gate, "another")
        assert blocked.is_waiting(), "after the block it is inside again"
    assert blocked.is_inside()
    blocked.end()


def test_what_goes_wrong_outside_ends_the_turn():
    gate = Gate(1, 10)
    with pytest.raises(ZeroDivisionError), gate.turn("experiment", lambda _: None), gate.outside():
        1 / 0  # noqa: B018
    assert gate._line == []


def test_outside_without_a_turn_is_nothing():
    with Gate(1, 1).outside():
        pass


def test_a_person_is_told_when_the_wait_is_over():
    gate = Gate(1, 10)
    first, second = Computation(gate, "first"), None
    assert first.is_inside()
    second = Computation(gate, "second")
    assert second.is_waiting()
    first.end()
    assert second.is_inside()
    assert second.ahead[0] == 1
    assert second.ahead[-1] == 0
    second.end()


# --- a turn is one pass -----------------------------------------------------------------------------


def test_between_two_portions_of_an_experiment_others_have_their_turn():
    model, tokens = LoadedModel(tiny_engine()), tiny_engine().tokenize("one two three")
    begun, seen = threading.Event(), []

    def portion(number):
        if number == 0:
            begun.set()
            until(lambda: len(models._gate()._line) == 2)
        seen.append(number)
        return number

    def experiment():
        return [model.computed(portion, number) for number in range(2)]

    def view():
        assert begun.wait(patience.SECONDS)
        model.trace(tokens)
        seen.append("view")

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(view), pool.submit(experiment)]:
            one.result(patience.SECONDS)
    assert seen in ([0, "view", 1], [0, 1, "view"])
    assert models._gate()._line == []


def test_what_experiments_compute_is_dear():
    model, tokens = LoadedModel(tiny_engine()), tiny_engine().tokenize("one two three")
    trace, seen = model.trace(tokens), []
    with pytest.MonkeyPatch.context() as patch:
        turn = models.turn
        patch.setattr(models, "turn", lambda *, dear=False, size=0: seen.append(dear) or turn(dear=dear, size=size))
        model.computed(head_ablation.effects_of_heads, trace, 1, 7, "zero", range(3))
        model.computed(all_head_scores, trace)
    assert seen == [True, False]


EXPERIMENTS = {
    "integrated gradients": lambda trace, run: integrated_gradients(trace, 19, 7, tolerance=0, run=run),
    "dropout": lambda trace, run: spread(
        trace.engine, trace.tokens, Dropout(0.1, PLACES, 0), 5, layer=0, head=0, ids=[1], run=run
    ),
    "heads": lambda trace, run: head_effects(trace, 19, 7, run=run),
}


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS.keys())
def test_a_portion_on_a_long_text_is_one_pass(experiment, monkeypatch):
    """A pass takes the text's tokens through all layers once. Several short texts share one pass."""
    for module in (head_ablation, dropout):
        monkeypatch.setattr(module, "TOKENS_AT_ONCE", 20)
    monkeypatch.setattr(token_attribution, "_POINTS_TOGETHER", 20)
    monkeypatch.setattr(token_attribution, "MOST_STEPS", 64)
    engine = tiny_engine()
    trace = engine.run(engine.tokenizer.tokens(range(20)))
    for layer in range(3):
        assert trace["z", layer].size
    passed, second_half = [], TransformerBlock.add_feed_forward

    def count(block, x):
        passed[-1] += x.shape[0] * x.shape[1]
        return second_half(block, x)

    def one_by_one(function, portions):
        results = []
        for portion in portions:
            passed.append(0)
            results += run_all(function, [portion])
        return results

    monkeypatch.setattr(TransformerBlock, "add_feed_forward", count)
    experiment(trace, one_by_one)
    assert len(passed) > 4
    assert max(passed) == 3 * 20


def test_what_runs_through_all_layers_leaves_the_model_to_others():
    """Such a run takes a while, and nobody who derives an activation with the same model waits for it."""
    engine = tiny_engine()
    tokens = engine.tokenize("one two three")
    trace = engine.run(tokens)
    stream = trace["resid_pre", 0][None]
    runs = (
        lambda: engine.run(tokens),
        lambda: list(engine.generate(tokens, 2)),
        lambda: gradient_norms(engine, tokens),
        lambda: input_gradients(trace, stream, 1, 7),
        lambda: dropout_runs(engine, tokens, Dropout(0.1, PLACES, 0), range(2), layer=0, head=0),
    )
    with ThreadPoolExecutor(len(runs)) as pool, engine.session():
        for done in [pool.submit(run) for run in runs]:
            assert done.result(patience.SECONDS)


def test_dropout_runs_keep_one_head_in_memory_and_not_all():
    engine = tiny_engine()
    tokens = engine.tokenize("one two three")
    found = dropout_runs(engine, tokens, Dropout(0.1, PLACES, 0), range(2), layer=0, head=1)
    for array in (found.pattern, found.dropped):
        assert array.base.untyped_storage().nbytes() == array.nbytes


# --- no deadlock, no empty value left behind --------------------------------------------------------


def test_two_threads_that_need_each_other_s_values_both_get_them(monkeypatch):
    """A value found in the cache a moment ago may be evicted by now, so the earlier look proves nothing."""
    engine = tiny_engine()
    model, tokens, others = LoadedModel(engine), engine.tokenize("one two"), engine.tokenize("three four")
    looks, second_came = [], threading.Event()

    def outdated_look(_cache, key):
        looks.append(key)
        return len(looks) == 1

    monkeypatch.setattr(ByteCache, "__contains__", outdated_look, raising=False)

    def make(_tokens):
        assert second_came.wait(patience.SECONDS)
        time.sleep(0.5)  # By now the second thread waits for this value.
        return model.trace(others).logits_at(-1)

    def ask_too():
        second_came.set()
        return model.computed(make, tokens)

    with_daemons = [_start(lambda: model.computed(make, tokens))]
    until(lambda: looks or models._gate()._line)
    with_daemons.append(_start(ask_too))
    first, second = (one.result(patience.SECONDS) for one in with_daemons)
    assert first is second
    assert models._gate()._line == []


def _start(work):
    """Run `work` in a thread like a pool's, except that a hanging thread does not stop the tests from ending."""
    future = Future()

    def run():
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def test_who_waits_for_another_s_value_gives_its_turn_away():
    engine = tiny_engine()
    model, tokens = LoadedModel(engine), engine.tokenize("one two")
    inside, paused = threading.Event(), threading.Event()

    def slow(_tokens):
        inside.set()
        with models._gate().outside():  # Now the second thread has the turn and asks for this same value.
            assert paused.wait(patience.SECONDS)
        return 1

    def needs_it(_tokens):
        paused.set()
        return 1 + model.computed(slow, tokens)

    first = _start(lambda: model.computed(slow, tokens))
    assert inside.wait(patience.SECONDS)
    second = _start(lambda: model.computed(needs_it, tokens))
    assert first.result(patience.SECONDS) == 1
    assert second.result(patience.SECONDS) == 2


def test_a_portion_that_is_evicted_between_two_looks_is_no_empty_one(monkeypatch):
    """An evicted portion must not be stored as empty for all sessions, as this breaks the map."""
    get = ByteCache.get

    def evicted_before(cache, key, *how):
        if isinstance(key, tuple) and "patched_differences" in key:
            with suppress(KeyError):
                del cache._held[key]
        return get(cache, key, *how)

    monkeypatch.setattr(ByteCache, "get", evicted_before)
    for _ in range(2):
        app = open_page("patching")
        check_page(app, "patching")
        assert charts(app)
    results = models.loaded("story-gpt")._results
    portions = [value for key, (value, _) in results._held.items() if "patched_differences" in key]
    assert portions
    assert all(len(value) for value in portions)


def test_a_value_that_is_not_there_is_none():
    cache = ByteCache(10, lambda _, value: len(value))
    assert cache.peek("a") is None
    cache.get("a", lambda: b"12345")
    assert cache.peek("a") == b"12345"
    cache.get("b", lambda: b"12345")
    assert cache.peek("a"), "a look is a use"
    cache.get("c", lambda: b"12345")
    assert (cache.peek("a"), cache.peek("b")) == (b"12345", None)


# --- state that no visitor can clear ----------------------------------------------------------------


def test_the_gate_the_downloads_and_the_models_outlive_streamlit_s_caches(monkeypatch):
    """Any visitor can have these caches cleared; a new gate would then allow more computations at once."""
    release = threading.Event()
    monkeypatch.setattr(hub, "download", lambda *_: release.wait(patience.SECONDS))
    monkeypatch.setattr(hub, "cached_folder", lambda _: None)
    before = models._gate(), models.loaded("story-gpt"), models.download("distilgpt2")
    st.cache_resource.clear()
    st.cache_data.clear()
    try:
        after = models._gate(), models.loaded("story-gpt"), models.download("distilgpt2")
        assert all(one is other for one, other in zip(before, after, strict=True))
    finally:
        release.set()


def test_two_sessions_that_press_download_at_once_start_one(monkeypatch):
    both = threading.Barrier(2)
    release, begun = threading.Event(), []

    class Slow(models.Download):
        def __init__(self, *how):
            with suppress(threading.BrokenBarrierError):  # Both threads meet here, if nothing stops them.
                both.wait(timeout=A_MOMENT)
            super().__init__(*how)

    monkeypatch.setattr(models, "Download", Slow)
    monkeypatch.setattr(hub, "download", lambda repo, _: begun.append(repo) or release.wait(patience.SECONDS))
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(models.download, ["distilgpt2", "distilgpt2"])
    release.set()
    assert one is other
    assert one.future.result(patience.SECONDS)
    assert len(begun) == 1
