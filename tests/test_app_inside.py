"""The pages that look inside the model, without a browser: what they say, and that wrong numbers turn them red."""

import numpy as np
import pytest
from test_app import go_to, open_page, served_as_an_app, this_machine  # noqa: F401 - the fixtures work by being here

from gptviz.analysis.arithmetic import STEPS
from gptviz.analysis.logit_lens import logit_lens
from gptviz.engine import Engine
from gptviz.experiments import lens_calibration
from gptviz.trace import Trace
from gptviz.ui import models

TEXT = "The cat sat on the mat. The cat"


def badges(app):
    return [markdown.value for markdown in app.markdown if "-badge[" in markdown.value]


def columns_of(app, *names):
    return next(frame.value for frame in app.dataframe if set(names) <= set(frame.value.columns))


@pytest.mark.parametrize("step", [pytest.param(key, marks=() if key == "norm1" else pytest.mark.slow) for key in STEPS])
def test_every_step_of_a_block_agrees_with_its_arithmetic(step):
    app = open_page("block", text=TEXT, step=step)
    assert not app.exception
    (badge,) = badges(app)
    assert badge.startswith(":green-badge[")
    assert "agree: largest difference" in badge
    recomputed, own, _difference = (metric.value for metric in app.metric)
    assert float(recomputed) == pytest.approx(float(own), rel=1e-5, abs=1e-6)


def test_a_wrong_number_turns_the_badge_red(monkeypatch):
    take = Trace.__getitem__

    def corrupted(self, key):
        array = take(self, key)
        if key == ("norm1_out", 2):
            array = array.copy()
            array[3, 7] += 1e-4
        return array

    monkeypatch.setattr(Trace, "__getitem__", corrupted)
    app = open_page("block", text=TEXT)
    (badge,) = badges(app)
    assert badge.startswith(":red-badge[")
    assert "(3, 7)" in badge


def test_next_and_previous_step_walk_through_the_block():
    app = open_page("block", text=TEXT)
    next(button for button in app.button if button.label == "Next step").click().run()
    assert app.selectbox(key="step").value == "query"
    next(button for button in app.button if button.label == "Previous").click().run()
    assert app.selectbox(key="step").value == "norm1"


@pytest.mark.parametrize("query", [{}, {"target": " dog", "against": " cat"}, {"token": "2"}])
def test_attribution_says_that_its_sum_is_the_logit(query):
    app = open_page("residual", text=TEXT, **query)
    assert not app.exception
    (badge,) = badges(app)
    assert badge.startswith(":green-badge[")
    assert not app.dataframe, "what is folded is not made"
    app.session_state["unfolded: Every part"] = True
    app.run()
    table = columns_of(app, "part", "contribution")
    assert f"Sum of all parts {table['contribution'].sum():.4f}" in badge


def test_attribution_turns_red_when_a_part_is_missing(monkeypatch):
    take = Trace.__getitem__

    def without_an_mlp(self, key):
        array = take(self, key)
        return np.zeros_like(array) if key == ("mlp_out", 3) else array

    monkeypatch.setattr(Trace, "__getitem__", without_an_mlp)
    (badge,) = badges(open_page("residual", text=f"{TEXT} that no other test has"))
    assert badge.startswith(":red-badge[")


def test_the_plain_lens_says_how_far_off_it_is_and_calibrates_nothing(monkeypatch, story):
    monkeypatch.setattr(lens_calibration, "calibrate_points", lambda *_: pytest.fail("a calibration was computed"))
    app = open_page("residual", text=TEXT)
    assert not app.exception
    distance = logit_lens(story.run(TEXT)).divergences[6].mean()
    assert any(f"at L2 MLP, the plain lens is {distance:.2f} nats" in caption.value for caption in app.caption)


def test_a_calibrated_lens_shows_its_figures_and_is_fitted_once_for_all_sessions(monkeypatch):
    fits = []
    fit = lens_calibration.fitted_temperature
    monkeypatch.setattr(lens_calibration, "fitted_temperature", lambda *args: fits.append(1) or fit(*args))
    monkeypatch.setattr(models, "_loaded", {})  # other tests may have calibrated this model
    app = open_page("residual", text=TEXT, lens_color="rank", target=" dog")
    assert fits == []
    app.toggle(key="calibrated").set_value(True).run()
    assert not app.exception
    assert len(fits) == 13
    assert any("at L2 MLP, the calibrated lens is" in caption.value for caption in app.caption)
    app.session_state["unfolded: Temperatures, and what they gain"] = True
    app.run()
    table = columns_of(app, "temperature").set_index("depth")
    assert (
        table["KL after (nats)"]["L1 attention":"L4 MLP"] < table["KL before (nats)"]["L1 attention":"L4 MLP"]
    ).all()
    open_page("residual", text=f"{TEXT} sat", calibrated="1", lens_color="divergence")
    assert len(fits) == 13


def test_the_target_of_the_lens_is_that_of_the_attribution():
    app = open_page("residual", text=TEXT, lens_color="rank")
    app.text_input(key="lens-target").set_value(" dog").run()
    assert not app.exception
    assert app.session_state["_settings"]["target"] == " dog"
    assert app.text_input(key="target").value == " dog"


def test_start_page_counts_the_parameters_of_the_model_in_use():
    app = open_page("", text=TEXT)
    assert not app.exception
    assert any("**12,364,608** parameters" in markdown.value for markdown in app.markdown)
    sizes = columns_of(app, "model", "parameters").set_index("model")["parameters"]
    assert sizes["GPT-2 small"] == 124_439_808
    config = columns_of(app, "key", "value").set_index("key")["value"]
    assert config["drop_rate"] == "0.1"
    assert config["qkv_bias"] == "False"


def test_skeleton_keeps_its_guess_when_the_words_before_change():
    skeleton = (
        columns_of(open_page("", text=TEXT, skeleton="1"), "after your text").set_index("model").loc["DummyGPTModel"]
    )
    assert skeleton["after your text"] == skeleton["earlier tokens in reverse"]
    assert skeleton["out"] == "[1, 9, 50,257]"


def test_neighbours_of_a_typed_word_do_not_hold_the_word():
    app = open_page("embeddings", text=TEXT, probe=" dog")
    assert not app.exception
    assert "such as: king" in [field.placeholder for field in app.text_input]


@pytest.mark.parametrize("reading", ["weights", "row", "without_first", "value", "rollout", "scores"])
def test_every_reading_of_a_head_shows(reading):
    app = open_page("attention", text=TEXT, reading=reading)
    assert not app.exception
    assert app.selectbox(key="reading").value == reading


@pytest.mark.parametrize("text", ["Hello", TEXT])
def test_finder_names_the_strongest_heads(text):
    app = open_page("attention", text=text, view="finder")
    assert not app.exception
    table = columns_of(app, "kind", "first").set_index("kind")
    assert table.loc["Induction, repeated random tokens", "first"].startswith("L5H2")
    if text == TEXT:
        assert table.loc["Previous token", "first"].startswith("L2H5")


def test_causes_are_measured_when_asked_for_and_then_kept(monkeypatch):
    asked = []
    resume = Engine.resume
    monkeypatch.setattr(Engine, "resume", lambda *args: asked.append(args) or resume(*args))
    app = open_page("attention", text=TEXT + " ran", view="finder")
    assert asked == []
    app.button(key="measure").click().run()
    assert len(asked) > 0
    n_asked = len(asked)
    go_to(app, "tokens")
    go_to(app, "attention")
    assert not app.exception
    assert len(asked) == n_asked


def test_bos_switch_of_the_sink_lens_is_the_shared_one():
    app = open_page("attention", text=TEXT)
    app.button(key="switch-bos").click().run()
    assert app.session_state["bos"] is True
    assert app.query_params["bos"] in ("1", ["1"])
