"""NaN and infinity: they are shown as such, and never drawn as if they were valid numbers."""

import inspect
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from test_app import PAGES, WORDS_ALONE, charts, check_page, open_page, served_as_an_app, this_machine  # noqa: F401 - fixtures
from tiny import TINY, tiny_engine, tiny_model

import gptviz.charts as charts_module
from gptviz.analysis.finite import not_finite
from gptviz.engine import Engine
from gptviz.ui import models

STRINGS = ("the", "␣cat", "␣sat", "<b>")
BROKEN = {
    "all NaN": np.full((4, 4), np.nan, dtype=np.float32),
    "one NaN": np.where(np.eye(4, k=-1) > 0, np.nan, 0.25).astype(np.float32),
    "infinite": np.full((4, 4), np.inf, dtype=np.float32),
    "both ways": np.array([[np.inf, -np.inf], [np.nan, 1]], dtype=np.float32).repeat(2, 0).repeat(2, 1),
    "too large": np.full((4, 4), 3e38, dtype=np.float32),
}


def overflowing(**changes):
    """Return a model with finite weights, so loading does not refuse it, and products that overflow float32."""
    model = tiny_model(**changes)
    with torch.no_grad():
        model.trf_blocks[1].ff.layers[0].weight.mul_(1e30)
        model.trf_blocks[1].ff.layers[2].weight.mul_(1e30)
    return model


# --- how many, and where ----------------------------------------------------------------------------


def test_a_sound_run_has_none():
    table = not_finite(tiny_engine().run("the cat"))
    assert table["broken"].tolist() == [0] * 5
    assert table["values"].tolist() == [2 * 16] * 4 + [50257]
    assert table["where"].tolist() == [
        *(f"into layer {layer}" for layer in range(3)),
        "out of layer 2",
        "logits of the last token",
    ]


def test_they_are_counted_from_where_they_begin():
    engine = Engine(overflowing(), tiny_engine().config, device="cpu")
    table = not_finite(engine.run("the cat"))
    assert table["broken"].tolist()[:2] == [0, 0], "block 1 makes them"
    assert table["broken"].tolist()[2] > 0
    assert table["broken"].tolist()[4] == 50257


# --- on every page ----------------------------------------------------------------------------------


@pytest.fixture(params=["stream", "scores", "logits"])
def broken_model(request, tmp_path, monkeypatch):
    """A checkpoint whose numbers overflow in block 1, or only in the output head."""
    model = overflowing() if request.param == "stream" else tiny_model()
    if request.param == "scores":  # Queries and keys are finite; only their products overflow float32.
        with torch.no_grad():
            for linear in (model.trf_blocks[1].att.W_query, model.trf_blocks[1].att.W_key):
                linear.weight.mul_(1e20)
    if request.param == "logits":
        with torch.no_grad():
            model.out_head.weight.mul_(1e38)
            model.final_norm.scale.mul_(1e10)
    path = tmp_path / f"broken-{request.param}.pth"
    torch.save({"model_state_dict": model.state_dict(), "config": dict(TINY)}, path)
    monkeypatch.setenv(models.OWN_MODELS_VARIABLE, str(path))
    return path.name


@pytest.mark.parametrize("page", sorted(PAGES.keys() - WORDS_ALONE))
def test_every_page_says_so_and_draws_none(broken_model, page):
    app = open_page("attention", model=broken_model, text="The cat sat on the mat")
    assert app.session_state["_model_in_use"] == broken_model
    app = open_page(page, model=broken_model, text="The cat sat on the mat")
    check_page(app, page)
    (error,) = app.error
    where = "logits of the last token" if "logits" in broken_model else "into layer 2"
    assert error.value.startswith("This model's numbers are broken: ")
    assert f"values {where} are NaN or infinite" in error.value
    assert charts(app) == []
    counts = next(frame.value for frame in app.dataframe if "broken" in frame.value)
    assert counts["broken"].iloc[-1] > 0


def test_numbers_that_break_while_it_writes_are_a_sentence(tmp_path, monkeypatch):
    model = tiny_model()
    with torch.no_grad():
        model.pos_emb.weight[9:] = 3e38
    path = tmp_path / "later.pth"
    torch.save({"model_state_dict": model.state_dict(), "config": dict(TINY)}, path)
    monkeypatch.setenv(models.OWN_MODELS_VARIABLE, str(path))
    app = open_page("next_token", model=path.name, text=" the" * 7)
    assert not app.error
    app.button(key="add-several").click().run()
    check_page(app, "next_token")
    (error,) = app.error
    assert error.value.startswith("The model's numbers are broken: after 10 tokens its logits are NaN or infinite.")
    app.run()
    assert not app.error
    app.button(key="clear").click().run()
    assert not app.error
    assert charts(app)


@pytest.mark.parametrize("view", ["all", "finder"])
def test_so_do_the_other_views_of_attention(broken_model, view):
    app = open_page("attention", model=broken_model, text="The cat sat on the mat", view=view)
    check_page(app, "attention")
    assert app.error
    assert charts(app) == []


def test_another_model_is_fine_again(broken_model):
    app = open_page("attention", model=broken_model)
    assert app.error
    app.selectbox(key="model").select("story-gpt").run()
    check_page(app, "attention")
    assert not app.error
    assert charts(app)


# --- no chart raises --------------------------------------------------------------------------------

RANKS = np.arange(1, 17).reshape(4, 4)
# chart function -> how to call it with a 4 x 4 array
CALLS = {
    "attention_lines": lambda draw, x: draw(x, STRINGS, chosen=1),
    "attention_map": lambda draw, x: draw(x, STRINGS, chosen=1),
    "depth_lines": lambda draw, x: draw({"a": x[0], "b": x[1]}, STRINGS, what="rank", logarithmic=True),
    "depth_map": lambda draw, x: draw(x, STRINGS, STRINGS, what="length", signed=True),
    "dimension_lines": lambda draw, x: draw({"gain": x[0], "bias": x[1]}),
    "dimension_map": lambda draw, x: draw(x, STRINGS, chosen=1),
    "dropped_map": lambda draw, x: draw(np.abs(x), x, STRINGS),
    "gelu_curve": lambda draw, x: draw(x[0], x[1]),
    "head_grid": lambda draw, x: draw(x, what="score", signed=True, chosen=(1, 1)),
    "lens_map": lambda draw, x: draw(x.reshape(4, 4, 1), np.array(STRINGS * 4).reshape(4, 4, 1), STRINGS, STRINGS),
    "lens_rank_map": lambda draw, x: draw(
        RANKS, 20, x.reshape(4, 4, 1), np.array(STRINGS * 4).reshape(4, 4, 1), STRINGS, STRINGS
    ),
    "next_token_pair": lambda draw, x: draw(
        pd.DataFrame({"token": STRINGS, "id": range(4), "first": x[0], "second": x[1], "change": x[2]}), ("a", "b")
    ),
    "next_token_bars": lambda draw, x: draw(
        pd.DataFrame({"token": STRINGS, "id": range(4), "logit": x[0], "probability": x[1], "drawn": x[2]})
    ),
    "parameter_treemap": None,  # parameter counts, which no run can break
    "position_similarity": lambda draw, x: draw(x, 1),
    "position_waves": lambda draw, x: draw(x, [0, 1], n_used=2),
    "principal_scatter": lambda draw, x: draw(x[:, :3], STRINGS, x[0, :3]),
    "run_spread": lambda draw, x: draw(x, x[0], STRINGS, what="probability"),
    "switch_board": None,  # names of parts
    "small_maps": None,  # whole numbers from 0 to 255
    "surprisal_bars": lambda draw, x: draw(STRINGS, x[0], chosen=1),
    "token_lines": lambda draw, x: draw({"a": x[0]}, STRINGS, what="length"),
    "token_pair_map": lambda draw, x: draw(x, STRINGS, what="score", masked=True),
    "value_bars": lambda draw, x: draw(x[0], STRINGS, what="logits", horizontal=True),
}


def chart_functions():
    return {name for name in charts_module.__all__ if inspect.isfunction(getattr(charts_module, name))}


def test_every_chart_function_has_its_line():
    assert set(CALLS) >= chart_functions()


@pytest.mark.parametrize("values", BROKEN.values(), ids=BROKEN.keys())
@pytest.mark.parametrize("name", sorted(name for name, call in CALLS.items() if call))
def test_no_chart_raises_or_draws_them(name, values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy warns about arithmetic with infinity.
        figure = CALLS[name](getattr(charts_module, name), values.copy())
    assert figure.to_json()
    for trace in figure.data:
        for end in ("zmin", "zmax"):
            limit = getattr(trace, end, None)
            assert limit is None or np.isfinite(limit)
