"""Costs that are counted, not timed: runs of the model per interaction, and bytes per trace and figure."""

import gc
import os
import subprocess
import sys
import tomllib
import weakref
from pathlib import Path

import numpy as np
import pytest
from test_app import open_page, served_as_an_app, this_machine  # noqa: F401 - the fixtures work by being here
from threadpoolctl import threadpool_info

import gptviz
from gptviz import charts
from gptviz.model import TransformerBlock
from gptviz.ui import models

ROOT = Path(__file__).parents[1]
N_LAYERS = 6  # of story-gpt


@pytest.fixture
def passes(monkeypatch):
    """List "run" for every whole run, and "block" for every other pass through a block."""
    found = []
    models._models().clear()
    forward, run = TransformerBlock.forward, gptviz.Engine.run

    def counted_block(block, *arguments):
        found.append("block")
        return forward(block, *arguments)

    def counted_run(engine, *arguments, **settings):
        trace = run(engine, *arguments, **settings)
        del found[-engine.config["n_layers"] :]
        found.append("run")
        return trace

    monkeypatch.setattr(TransformerBlock, "forward", counted_block)
    monkeypatch.setattr(gptviz.Engine, "run", counted_run)
    yield found
    models._models().clear()


def test_a_page_runs_the_model_once_and_another_session_never(passes):
    open_page("attention", text="The cat sat")
    assert passes.count("run") == 1
    assert passes.count("block") <= 2, "what the shown head needs of its own block"
    passes.clear()
    open_page("attention", text="The cat sat")
    assert passes == []


def test_another_head_costs_no_pass_and_another_layer_its_own_block(passes):
    app = open_page("attention", text="The cat sat")
    passes.clear()
    app.number_input(key="head").set_value(1).run()
    assert passes == []
    app.number_input(key="layer").set_value(4).run()
    assert set(passes) == {"block"}
    assert len(passes) <= 2


def test_an_edited_text_costs_one_run(passes):
    app = open_page("attention", text="The cat sat")
    passes.clear()
    app.text_area(key="text").set_value("The dog sat").run()
    assert passes.count("run") == 1


def test_all_heads_cost_a_run_and_a_look_into_every_block(passes):
    open_page("attention", text="The cat sat", view="all")
    assert passes.count("run") == 1
    assert passes.count("block") <= N_LAYERS


@pytest.mark.parametrize(("n_tokens", "megabytes"), [(16, 4.4), (256, 9)])
def test_a_trace_of_story_gpt_stays_within_its_bytes(story, n_tokens, megabytes):
    trace = story.run(story.tokenizer.tokens(range(1000, 1000 + n_tokens)))
    for layer in range(N_LAYERS):
        trace["pattern", layer], trace["post", layer]
    held = sum(array.nbytes for array in trace._stream) + trace._last_logits.nbytes + trace._derived.size
    assert held <= trace.max_bytes <= megabytes * 1e6


def test_a_figure_of_all_heads_stays_within_its_bytes():
    noise = np.random.default_rng(0).integers(0, 255, (6, 6, 64, 64), dtype=np.uint8)
    assert len(charts.small_maps(noise).to_json()) < 6 * 6 * 64 * 64 + 10_000


def test_numpys_products_have_one_thread_in_the_app():
    # Leave out SciPy's: only scikit-learn and the tests use it.
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas" and "numpy" in pool["filepath"]]
    assert [pool["num_threads"] for pool in pools] == [1]


WITHOUT_TORCH = """
import os, sys
sys.modules["torch"] = None  # importing it fails
import app
print(os.environ["GOMP_SPINCOUNT"])
"""


def test_torch_s_threads_do_not_spin_for_long():
    """The library that spins cannot be queried. It reads this variable as torch is loaded, so set it before that."""
    environment = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    command = [sys.executable, "-c", WITHOUT_TORCH]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    assert found.stdout.strip() == "10000"


def test_a_model_that_nobody_uses_is_gone_without_the_garbage_collector():
    gc.collect()
    gc.disable()
    try:
        engine = gptviz.load("story-gpt", device="cpu")
        engine.run("The cat sat")["pattern", 0]
        model = weakref.ref(engine._model)
        del engine
        assert model() is None, "a cycle would keep it until Python searches for such"
    finally:
        gc.enable()


def test_no_search_for_garbage_follows_a_run():
    """A garbage collection after every run would stop all sessions, for longer the more there are."""
    config = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text())
    assert config["runner"]["postScriptGC"] is False
