"""Every page on the bundled model, on GPT-2 small's shape and on a course checkpoint, for short and long texts."""

import gc
import weakref

import pytest
import torch
from test_app import PAGES, open_page, this_machine, warm_server  # noqa: F401 - the fixtures work by being here
from tiny import tiny_model

from gptviz.ui import models

VIEWS = [(page, {}) for page in PAGES] + [("attention", {"view": "all"}), ("attention", {"view": "finder"})]


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A student's own model.pth."""
    torch.save(
        {
            "model_state_dict": tiny_model(context_length=256).state_dict(),
            "config": {"n_heads": 4, "drop_rate": 0.1},
        },
        tmp_path / "model.pth",
    )
    monkeypatch.setenv(models.OWN_MODELS_VARIABLE, str(tmp_path / "model.pth"))


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
    """Without a cycle, for which Python would have to search: the app searches seldom (.streamlit/config.toml)."""
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
