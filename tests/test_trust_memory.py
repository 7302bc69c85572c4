"""Memory: everything kept is counted in full, and a tab keeps nothing of the texts it showed before."""

import gc
import pickle
import tracemalloc
import weakref

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from test_app import PAGES, charts, check_page, open_page, served_as_an_app, this_machine  # noqa: F401 - the fixtures work by being here

import gptviz
from gptviz.analysis.finite import not_finite
from gptviz.analysis.heads import all_head_scores, all_tiles
from gptviz.analysis.logit_lens import logit_lens
from gptviz.analysis.prediction import prediction_table
from gptviz.experiments.dropout import PLACES, Dropout, dropout_runs, spread
from gptviz.experiments.gradients import gradient_table
from gptviz.experiments.token_attribution import integrated_gradients
from gptviz.ui import memory, models
from gptviz.ui.memory import n_bytes

TEXT = "Once upon a time there was a little dog. The little dog"

# --- sizes of values --------------------------------------------------------------------------------

RESULTS = {
    "prediction": lambda trace, _: prediction_table(trace),
    "not finite": lambda trace, _: not_finite(trace),
    "gradients": lambda trace, engine: gradient_table(engine, trace.tokens),
    "scores": lambda trace, _: all_head_scores(trace),
    "lens": lambda trace, _: logit_lens(trace, positions=slice(0, 4)),
    "tiles": lambda trace, _: all_tiles(trace, 1),
    "integrated": lambda trace, _: integrated_gradients(trace, 3, 262, tolerance=1.0),
    "dropout": lambda trace, engine: spread(
        engine, trace.tokens, Dropout(0.1, PLACES, 0), 3, layer=0, head=0, ids=[1, 2]
    ),
    "dropped": lambda trace, engine: dropout_runs(
        engine, trace.tokens, Dropout(0.1, PLACES, 0), range(1), layer=0, head=0
    ),
}


@pytest.mark.parametrize("make", RESULTS.values(), ids=RESULTS.keys())
def test_a_result_counts_as_no_less_than_it_takes(story, make):
    value = make(story.run(TEXT), story)
    pickled = pickle.dumps(value)
    tracemalloc.start()
    try:
        kept = [pickle.loads(pickled) for _ in range(10)]
        taken = tracemalloc.get_traced_memory()[0] / len(kept)
    finally:
        tracemalloc.stop()
    assert 0.9 * taken <= n_bytes(value) <= 4 * taken + 1000


def test_a_view_counts_as_what_it_keeps_in_memory():
    whole = np.zeros(100_000)
    assert n_bytes(whole[:3]) == n_bytes(whole) >= 800_000


def test_a_part_of_a_tensor_counts_as_all_of_it():
    array = gptviz.load("story-gpt", device="cpu").weights.w_e
    assert n_bytes(array[:2]) >= array.nbytes


def seven(_tokens):
    return 7


def a_function(_tokens):
    return seven


def test_keys_count_too():
    model = models._load("story-gpt")
    tokens = model.engine.tokenizer.tokens(range(1000, 1200))
    model.computed(seven, tokens)
    assert model._results.size > 4 * 200


@pytest.mark.parametrize(
    "value",
    [lambda: 0, object(), go.Figure(), {1: object()}, (np.zeros(1), iter("")), np.array([object()]), type("A", (), {})],
    ids=["function", "object", "figure", "in a dict", "in a tuple", "array of objects", "class"],
)
def test_what_takes_nobody_knows_how_much_is_an_error_and_not_nothing(value):
    with pytest.raises(TypeError, match="is not known"):
        n_bytes(value)


def test_a_result_of_unknown_size_is_not_kept():
    model = models._load("story-gpt")
    tokens = model.engine.tokenize("one")
    with pytest.raises(TypeError, match="function takes is not known"):
        model.computed(a_function, tokens)
    assert model.known(a_function, tokens) is None


def test_a_table_of_strings_counts_its_strings():
    short, long = (pd.DataFrame({"word": [letter * 1000 for letter in letters]}) for letters in ("a", "abcdefgh"))
    assert n_bytes(long) > n_bytes(short) + 6000


# --- memory held by a tab ---------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_an_open_tab_pins_no_trace_and_no_model(page):
    models._models().clear()
    app = open_page(page, text="Once upon a time there was a dog")
    check_page(app, page)
    model = models.loaded("story-gpt")
    things = [weakref.ref(trace) for trace, _ in model.traces._held.values()] + [weakref.ref(model.engine)]
    del model
    models._models().clear()
    gc.collect()
    assert [thing() for thing in things] == [None] * len(things)
    assert app.get("html"), "the tab is still open"


def test_a_tab_forgets_the_widgets_of_the_texts_before():
    app = open_page("attention", text="The dog number 0")
    known = []
    for number in range(1, 6):
        app.text_area(key="text").set_value(f"The dog number {number}").run()
        check_page(app, "attention")
        session = app.session_state._state._state
        known.append((len(session._new_widget_state.widget_metadata), len(session._key_id_mapper.id_key_mapping)))
    assert known[1] == known[-1]


# --- models -----------------------------------------------------------------------------------------


def test_loaded_models_are_bounded_in_bytes(monkeypatch, tmp_path):
    size = models._load("story-gpt").max_bytes
    monkeypatch.setenv("GPTVIZ_MAX_MODEL_MB", str(int(1.5 * size / 1e6)))
    first = models.loaded("story-gpt")
    assert models._models().size == size
    twin = models.untrained_twin("story-gpt")
    assert twin is models.untrained_twin("story-gpt")
    assert models._models().size <= 1.5 * size
    assert models.loaded("story-gpt") is not first, "it made room"


def test_a_model_that_the_app_may_not_keep_is_a_sentence_and_the_other_stays(monkeypatch):
    monkeypatch.setenv("GPTVIZ_MAX_MODEL_MB", "700")
    app = open_page("attention", text="Once", model="untrained")
    check_page(app, "attention")
    (error,) = app.error
    assert "this app keeps 0.7 GB" in error.value.replace("\\", "")
    assert charts(app)


def test_where_not_even_the_bundled_model_may_be_kept_one_sentence_says_so(monkeypatch):
    monkeypatch.setenv("GPTVIZ_MAX_MODEL_MB", "1")
    app = open_page("attention", text="Once")
    assert not app.exception
    assert len(app.error) == 1
    assert not charts(app)


# --- the process ------------------------------------------------------------------------------------


def test_tuning_and_trimming_do_no_harm(monkeypatch):
    memory.tune()
    memory.trim()
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory._glibc.cache_clear()
    memory.tune.cache_clear()
    try:
        assert memory._glibc() is None
        memory.tune()
        memory.trim()
    finally:
        memory._glibc.cache_clear()
