"""Every page on the bundled model, on GPT-2 small's shape and on a course checkpoint, for short and long texts."""

import gc
import os
import weakref

import pytest
import torch
from page_table import PAGES
from test_app import charts, go_to, open_page, served_as_an_app, this_machine  # noqa: F401 - the fixtures work by being here
from tiny import tiny_model

from gptviz.ui import models

VIEWS = [(page, {}) for page in PAGES] + [("attention", {"view": "all"}), ("attention", {"view": "finder"})]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A student's own model.pth."""
    torch.save(
        {"model_state_dict": tiny_model(context_length=256).state_dict(), "config": {"n_heads": 4, "drop_rate": 0.1}},
        tmp_path / "model.pth",
    )
    monkeypatch.setenv(models.OWN_MODELS_VARIABLE, str(tmp_path / "model.pth"))


@pytest.fixture
def guessed(tmp_path, monkeypatch):
    """Two of the course's state dicts, which do not say how many heads their models have."""
    for name, width in (("narrow.pth", 64), ("wide.pth", 128)):
        torch.save(tiny_model(emb_dim=width, n_heads=4, n_layers=1).state_dict(), tmp_path / name)
    monkeypatch.setenv(models.OWN_MODELS_VARIABLE, f"{tmp_path / 'narrow.pth'}{os.pathsep}{tmp_path / 'wide.pth'}")


def heads_shown(app):
    (info,) = [element.value for element in app.info if "number of heads is a guess" in element.value] or [""]
    return app.selectbox(key="n_heads").value, info


def test_where_the_number_of_heads_is_a_guess_a_picker_stands_beside_a_note(guessed):
    app = open_page("attention", model="wide.pth", view="all")
    assert heads_shown(app)[0] == 0
    assert "2 were taken, with 64 dimensions each" in heads_shown(app)[1]
    assert app.selectbox(key="n_heads").options[:4] == ["2 heads, a guess", "1 head", "2 heads", "4 heads"]
    guess = charts(app)
    app.selectbox(key="n_heads").select(4).run()
    assert not app.exception
    assert heads_shown(app) == (4, "")
    assert app.query_params["n_heads"] == "4"
    assert charts(app) != guess
    linked = open_page("attention", **app.query_params)
    assert heads_shown(linked) == (4, "")
    assert charts(linked) == charts(app)
    go_to(app, "next_token")
    assert heads_shown(app) == (4, "")


def test_heads_that_were_chosen_are_not_the_next_models(guessed):
    app = open_page("attention", model="wide.pth", n_heads="4")
    app.selectbox(key="model").select("narrow.pth").run()
    assert heads_shown(app)[0] == 0
    assert "1 were taken" in heads_shown(app)[1]
    app.selectbox(key="n_heads").select(2).run()
    app.selectbox(key="model").select("story-gpt").run()
    assert not app.exception
    assert "n_heads" not in app.query_params
    assert [box for box in app.selectbox if box.key == "n_heads"] == []


@pytest.mark.parametrize("number", ["3", "-4", "0", "999999999999", "9" * 5000, "four"])
def test_a_link_with_heads_that_the_model_cannot_have_shows_the_guess(guessed, number):
    app = open_page("attention", model="wide.pth", n_heads=number)
    assert not app.exception
    assert heads_shown(app)[0] == 0
    assert not open_page("attention", n_heads=number).exception


def test_a_twin_has_the_heads_that_were_chosen(guessed):
    for number in (0, 4):
        assert models.untrained_twin("wide.pth", number).engine.config["n_heads"] == (number or 2)


def test_options_behind_a_path_are_for_the_app_too(tmp_path, monkeypatch):
    torch.save(tiny_model(emb_dim=128, n_heads=4, n_layers=1).state_dict(), tmp_path / "told.pth")
    for options, told in (("n_heads=4", True), ("n_heads=x", False), ("heads=4", False)):
        monkeypatch.setenv(models.OWN_MODELS_VARIABLE, f"{tmp_path / 'told.pth'}?{options}")
        models._models().clear()
        app = open_page("attention", model="told.pth")
        assert not app.exception
        if told:
            assert models.loaded("told.pth").engine.config["n_heads"] == 4
            assert not app.info
        else:
            assert "behind a path is no option: write n" in app.error[0].value.replace("\\", "")
        assert str(tmp_path) not in "".join(element.value for element in (*app.info, *app.error))


@pytest.mark.slow
@pytest.mark.parametrize("n_tokens", [1, 10, 200])
@pytest.mark.parametrize("model", ["story-gpt", "untrained", "model.pth"])
@pytest.mark.parametrize(("page", "view"), VIEWS)
def test_every_page_shows_every_kind_of_model(checkpoint, page, view, model, n_tokens):
    app = open_page(page, text="word" + " word" * (n_tokens - 1), model=model, **view)
    assert not app.exception
    assert not app.error
    assert app.session_state["_model_in_use"] == model
    badges = [markdown.value for markdown in app.markdown if "-badge[" in markdown.value]
    assert all(badge.startswith(":green-badge[") for badge in badges)
    assert bool(badges) == (page in ("block", "residual", "patching", "gradients"))


def test_a_model_that_nobody_uses_is_freed_at_once():
    """Reference cycles would keep it, as the app rarely collects garbage (.streamlit/config.toml)."""
    model = models._load("story-gpt")
    trace = model.trace(model.engine.tokenize("Once upon a time"))
    assert trace["pattern", 1].size
    assert model.embedding_norms.size
    gone = [weakref.ref(thing) for thing in (model.engine, trace)]
    gc.disable()
    try:
        del model, trace
        assert [thing() for thing in gone] == [None, None]
    finally:
        gc.enable()
