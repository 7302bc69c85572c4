"""The experiments' pages, without a browser: they show what the engine returns, before and after a change."""

import base64

import numpy as np
import pytest
from test_app import charts, check_page, go_to, notices, open_page, served_as_an_app, this_machine  # noqa: F401 - fixtures
from test_app_inside import badges, columns_of

from gptviz.analysis.prediction import prediction_table
from gptviz.engine import Engine
from gptviz.experiments import token_attribution
from gptviz.experiments.dropout import PLACES, Dropout, dropout_runs
from gptviz.experiments.patching import Question, patched_differences, recovered
from gptviz.experiments.skeleton import untrained_twin
from gptviz.interventions import Part
from gptviz.tokens import gpt2_tokenizer

TEXT = "The cat sat on the mat. The cat"


def trace_with(app, name):
    """Return the Plotly trace with this name in the first chart."""
    return next(trace for figure in charts(app) for trace in figure["data"] if trace.get("name") == name)


def numbers(array):
    """Decode an array from Plotly's JSON: a list, or typed bytes."""
    if isinstance(array, dict):
        return np.frombuffer(base64.b64decode(array["bdata"]), dtype=np.dtype(array["dtype"]))
    return np.array(array, dtype=float)


# --- ablation ----------------------------------------------------------------------------------


def test_before_and_after_are_the_engines(story):
    app = open_page("ablation", text=TEXT, off="L5H2-L0mlp")
    check_page(app, "ablation")
    before, after = story.run(TEXT), story.run(TEXT, off=[Part("head", 5, 2), Part("mlp", 0)])
    for name, trace in (("before", before), ("after", after)):
        shown = numbers(trace_with(app, name)["x"])
        logits = trace.logits_at(-1).astype(np.float64)
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        ids = numbers(trace_with(app, name)["customdata"]).reshape(-1, 2)[:, 0].astype(int)
        np.testing.assert_allclose(shown, shares[ids], atol=1e-6)
    losses = [prediction_table(trace)["surprisal_nats"].mean() for trace in (before, after)]
    assert [metric.value for metric in app.metric][1:] == [f"{loss:.3f} nats" for loss in losses]


def test_nothing_off_is_no_change():
    app = open_page("ablation", text=TEXT, off="")
    check_page(app, "ablation")
    assert app.metric[0].value == "0.0000 nats"
    assert numbers(trace_with(app, "before")["x"]).tolist() == numbers(trace_with(app, "after")["x"]).tolist()


def test_parts_are_switched_by_list_and_buttons_and_kept():
    app = open_page("ablation", text=TEXT)
    app.multiselect(key="off").set_value(["L1H1"]).run()
    assert app.session_state["off"] == ["L1H1"]
    app.button(key="all-MLPs").click().run()
    assert app.session_state["off"] == ["L1H1", *(f"L{layer}mlp" for layer in range(6))]
    app.button(key="all-MLPs").click().run()
    assert app.session_state["off"] == ["L1H1"]
    app.number_input(key="neuron").set_value(17).run()
    app.button(key="switch-neuron").click().run()
    assert app.session_state["off"] == ["L1H1", "L0N17"]
    go_to(app, "tokens")
    go_to(app, "ablation")
    assert not app.exception
    assert app.multiselect(key="off").value == ["L1H1", "L0N17"]
    app.button(key="nothing-off").click().run()
    assert app.session_state["off"] == []


@pytest.mark.parametrize(
    ("link", "kept", "notice"),
    [
        ("L5H2-L99H0", ["L5H2"], "does not have"),
        ("L5H2-<b>", ["L2H5"], "could not be read"),
        ("L0H6-L6mlp-L0N768", [], "does not have"),
    ],
)
def test_a_links_parts_that_are_not_here_are_left_out_with_a_word(link, kept, notice):
    app = open_page("ablation", text=TEXT, off=link)
    check_page(app, "ablation")
    assert app.multiselect(key="off").value == kept
    assert any(notice in sentence for sentence in notices(app))


def test_an_unchanged_text_is_run_once_for_each_set_of_parts(monkeypatch):
    runs = []
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, tokens, **how: runs.append(how["off"]) or run(self, tokens, **how))
    app = open_page("ablation", text="A text that only this test switches off.", off="L5H2")
    app.multiselect(key="off").set_value([]).run()
    app.multiselect(key="off").set_value(["L5H2"]).run()
    assert runs == [(), (Part("head", 5, 2),)]


# --- patching ----------------------------------------------------------------------------------


def patched_map(app):
    return next(figure["data"][0] for figure in charts(app) if figure["data"][0]["type"] == "heatmap")


@pytest.mark.parametrize("kind", ["resid_pre", "z"])
def test_the_map_holds_every_shares_value(story, kind):
    app = open_page("patching", patched=kind)
    check_page(app, "patching")
    prompt = "Once upon a time there was a little {}. The little"
    traces = [story.run(prompt.format(animal)) for animal in ("dog", "cat")]
    question = Question(*traces, *gpt2_tokenizer().encode(" dog cat").ids)
    expected = np.stack([recovered(question, patched_differences(question, kind, at)) for at in range(6)])
    shown = numbers(patched_map(app)["z"]).reshape(expected.shape)
    np.testing.assert_allclose(shown, expected, atol=1e-4)
    (badge,) = badges(app)
    assert badge.startswith(":green-badge[")
    assert app.metric[0].value == f"{question.of_clean:+.3f}"


def test_the_badge_turns_red_when_the_whole_stream_does_not_bring_the_answer_back(monkeypatch):
    resume = Engine.resume
    monkeypatch.setattr(Engine, "resume", lambda *arguments: resume(*arguments)[:, ::-1])
    (badge,) = badges(
        open_page("patching", clean="Prompts that no other test has", corrupted="Prompts that no other page has")
    )
    assert badge.startswith(":red-badge[")


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ({"clean": "A cat", "corrupted": "A cat and a dog"}, "has 2 tokens and the corrupted one 5"),
        ({"clean": "A cat", "corrupted": "A cat"}, "Both prompts are the same"),
        ({"clean": "A cat", "corrupted": "A dog", "answer": " x", "rival": " x"}, "Both answers are the same token"),
        ({"clean": " a" * 300, "corrupted": " b" * 300}, "more than the 256 tokens"),
    ],
)
def test_prompts_that_cannot_be_patched_are_one_sentence(query, sentence):
    app = open_page("patching", **query)
    check_page(app, "patching")
    (warning,) = app.warning
    assert sentence in warning.value


def test_prompts_without_answers_ask_for_two_different_ones(story):
    clean, corrupted = (f"Once there was a big {animal}. The big" for animal in ("cat", "dog"))
    app = open_page("patching", clean=clean, corrupted=corrupted)
    check_page(app, "patching")
    assert len(app.warning) == 0
    answer = int(story.run(clean).logits_at(-1).argmax())
    rival = next(id for id in story.run(corrupted).top_k(k=2)["id"] if id != answer)
    strings = gpt2_tokenizer().tokens([answer, rival]).strings
    assert all(f"`{string}`" in app.metric[0].label for string in strings)


def test_patching_needs_no_text_but_its_own():
    app = open_page("patching", text="")
    check_page(app, "patching")
    assert len(app.info) == 0
    assert patched_map(app)


def test_prompts_that_the_model_does_not_tell_apart_are_said_to_be_so():
    app = open_page("patching")
    assert len(app.warning) == 0
    app.button(key="pair-2").click().run()  # story-gpt cannot solve GPT-2's pair.
    assert any("hardly tells the two prompts apart" in warning.value for warning in app.warning)


def test_a_pair_fills_the_fields():
    app = open_page("patching")
    app.button(key="pair-1").click().run()
    assert app.text_input(key="clean").value.startswith("The old man")
    assert app.text_input(key="rival").value == " she"
    assert not app.exception


# --- compare -----------------------------------------------------------------------------------


def test_trained_against_untrained_is_one_click(story):
    app = open_page("compare", text=TEXT, other_text="")
    assert any("Both sides are the same" in info.value for info in app.info)
    app.text_area(key="other_text").set_value("Another text").run()
    app.button(key="twin-button").click().run()
    check_page(app, "compare")
    assert app.session_state["other_text"] == "Another text", "what was typed stays"
    assert app.query_params["other_text"] in ("Another text", ["Another text"])
    assert app.session_state["other_model"] == "untrained-twin"
    twin = untrained_twin(story)
    losses = [prediction_table(engine.run(TEXT))["surprisal_nats"].mean() for engine in (story, twin)]
    assert [metric.value for metric in app.metric][2:] == [
        f"{loss:.3f} nats ({loss / np.log(2):.2f} bits)" for loss in losses
    ]
    difference = charts(app)[-1]["data"][0]
    assert difference["zmin"] == -1
    patterns = [engine.run(TEXT)["pattern", 2][5] for engine in (twin, story)]
    shown = numbers(difference["z"]).reshape(patterns[0].shape)
    lower = np.tri(len(shown), dtype=bool)
    np.testing.assert_allclose(shown[lower], (patterns[0] - patterns[1])[lower], atol=1e-6)


@pytest.mark.parametrize("other", ["Another text", "x", TEXT, " a" * 300])
def test_two_texts_stand_side_by_side(other):
    app = open_page("compare", text=TEXT, other_text=other)
    check_page(app, "compare")


def test_two_models_of_other_shapes_stand_side_by_side():
    app = open_page("compare", text="Hello there", other_text="", other_model="untrained")
    check_page(app, "compare")


# --- dropout and gradients -----------------------------------------------------------------------


def test_without_training_mode_every_run_is_the_evaluation(story):
    app = open_page("dropout", text=TEXT, training="0")
    check_page(app, "dropout")
    runs, own = numbers(trace_with(app, "one run")["x"]), numbers(trace_with(app, "evaluation, no dropout")["x"])
    np.testing.assert_allclose(runs.reshape(30, -1), np.tile(own, (30, 1)), atol=1e-5)
    assert any("0 of 45 zeroed" in markdown.value for markdown in app.markdown)


def test_runs_are_those_of_the_engine(story):
    app = open_page("dropout", text=TEXT, rate="0.5", seed="3", runs="4")
    check_page(app, "dropout")
    tokens = story.tokenize(TEXT)
    found = dropout_runs(story, tokens, Dropout(0.5, PLACES, 3), range(4), layer=2, head=5)
    shares = np.exp(found.logits - found.logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    ids = story.run(TEXT).top_k(k=8)["id"]
    np.testing.assert_allclose(numbers(trace_with(app, "one run")["x"]).reshape(4, 8), shares[:, ids], atol=1e-5)


@pytest.mark.parametrize("text", ["Hello", TEXT])
def test_gradients_show_and_add_up(text):
    app = open_page("gradients", text=text)
    check_page(app, "gradients")
    (badge,) = badges(app)
    assert badge.startswith(":green-badge[")
    if text == TEXT:
        table = columns_of(app, "model", "loss (nats)").set_index("model")
        assert table.loc["this model", "loss (nats)"] < table.loc["without shortcuts", "loss (nats)"]
        assert len(table) == 4
    check_page(open_page("gradients", text=text, method="times_input"), "gradients")


def test_the_badge_turns_red_where_contributions_do_not_add_up(monkeypatch):
    own = token_attribution.input_gradients

    def wrong(trace, streams, position, token):
        values, gradients = own(trace, streams, position, token)
        return values, gradients * 1.05

    monkeypatch.setattr(token_attribution, "input_gradients", wrong)
    (badge,) = badges(open_page("gradients", text="A text of its own, so that no result is kept."))
    assert badge.startswith(":red-badge[")
