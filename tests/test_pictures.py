"""Pages are made of functions of their arguments, and every picture can be made by its name, without its page."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from tiny import gpt2_config, gpt2_tensors, tiny_model, write_folder

import pages
from gptviz.analysis.logit_lens import logit_lens
from gptviz.charts import DARK, LIGHT
from gptviz.experiments.lens_calibration import calibrate_lens, held_out_stories
from gptviz.tokens import gpt2_tokenizer
from gptviz.ui import models
from gptviz.ui.pictures import PICTURES
from gptviz.ui.settings import LensColor
from gptviz.ui.view import View

FOLDER = Path(pages.__file__).parent
MODULES = [module for group in pages.PAGES.values() for module in group]
EXPECTED = """
    ablation-lens added-cosines added-norms after-dropout all-heads arithmetic attention-lines attention-map
    attribution attribution-kinds before-after before-dropout board causes components embedding-cosines
    embedding-lengths embedding-map followed gain gelu-curve gradients head head-difference lens likeness logits
    neighbours next-pair next-token-bars parameters patched-map positions saliency scores spread spread-weights
    step-map step-pairs stream-norms surprisal surprisal-bars surprisal-pair token-changes waves
""".split()  # noqa: SIM905 - names in a list of strings would be hard to read


@pytest.fixture(scope="module", params=["tiny", "story-gpt"])
def model_name(request, tmp_path_factory):
    if request.param == "tiny":
        folder = write_folder(tmp_path_factory.mktemp("models") / "tiny", gpt2_tensors(tiny_model()), gpt2_config())
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(models.OWN_MODELS_VARIABLE, str(folder))
            yield "tiny"
    else:
        yield request.param


@pytest.fixture(scope="module")
def fitted(model_name):
    """The lens' temperatures of the model."""
    engine = View(model_name, gpt2_tokenizer().encode("a")).engine
    stories = held_out_stories(engine.config["context_length"])
    return calibrate_lens(*([engine.run(story) for story in part] for part in stories))["temperature"].tolist()


def charts_of(picture, view, **given):
    """Return the picture's charts with its initial settings: one chart, or one per variant."""
    values = {setting.name: setting.fitting(setting.default, view) for setting in picture.settings} | given
    if not picture.variants:
        return [picture(view, **values)]
    return [picture(view, **values, variant=variant) for variant in picture.variants]


def test_the_app_has_these_pictures():
    assert sorted(PICTURES) == sorted(EXPECTED)
    assert all(picture.title for picture in PICTURES.values())


@pytest.mark.parametrize("key", EXPECTED)
def test_every_picture_is_made_by_its_name_without_its_page(model_name, key):
    view = View(model_name, gpt2_tokenizer().encode("The cat sat. The cat ran."))
    charts = [chart for chart in charts_of(PICTURES[key], view) if chart is not None]
    if key in ("gain", "step-map", "arithmetic", "surprisal-pair", "head-difference"):
        return  # These depend on a step, or on texts of equal length: see the tests below.
    assert charts, "there is something to draw on an ordinary text"
    for chart in charts:
        assert chart.alt.endswith(".")
        figures = [json.loads(chart.draw(theme=theme).to_json()) for theme in (LIGHT, DARK)]
        assert figures[0]["data"]
        assert figures[0]["layout"]["font"]["color"] != figures[1]["layout"]["font"]["color"]


@pytest.mark.parametrize("step", ["norm1", "query", "weighted_values", "out_proj", "gelu", "linear2", "final_norm"])
def test_a_blocks_pictures_follow_the_step(model_name, step):
    view = View(model_name, gpt2_tokenizer().encode("The cat sat."))
    maps = [chart for chart in charts_of(PICTURES["step-map"], view, step=step) if chart is not None]
    assert len(maps) >= 2 or step == "weighted_values", "what goes in, and what comes out"
    assert (charts_of(PICTURES["gain"], view, step=step)[0] is None) == ("norm" not in step)
    for chart in maps:
        chart.draw(theme=LIGHT)


@pytest.mark.parametrize("step", ["query", "scores", "pattern", "weighted_values", "linear1", "logits"])
def test_a_sum_is_drawn_as_its_terms(model_name, step):
    view = View(model_name, gpt2_tokenizer().encode("The cat sat."))
    (chart,) = charts_of(PICTURES["arithmetic"], view, step=step)
    assert chart.draw(theme=LIGHT).data


def test_equal_texts_have_one_surprisal_and_a_difference_of_heads(model_name):
    view = View(model_name, gpt2_tokenizer().encode("The cat sat."))
    for key in ("surprisal-pair", "head-difference"):
        (chart,) = charts_of(PICTURES[key], view, same_text=True, other_model="untrained-twin")
        assert chart.draw(theme=LIGHT).data


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("target", ["", " cat"])
def test_the_lens_shows_what_its_colours_stand_for(model_name, fitted, calibrated, target):
    view = View(model_name, gpt2_tokenizer().encode("The cat sat."))
    id = gpt2_tokenizer().encode(target).ids[0] if target else None
    found = logit_lens(view.trace(), target=id, temperatures=fitted if calibrated else None)
    expected = {
        "probability": found.probabilities[:, :, 0],
        "rank": -np.log10(found.target_ranks),
        "entropy": found.entropies,
        "divergence": found.divergences,
    }
    assert set(expected) == set(LensColor)
    for color, values in expected.items():
        (chart,) = charts_of(PICTURES["lens"], view, lens_color=color, calibrated=calibrated, target=target)
        np.testing.assert_allclose(chart.draw(theme=LIGHT).data[0].z, values, rtol=1e-3, atol=1e-4, err_msg=color)
    ranks, probabilities = (
        chart.draw(theme=LIGHT).data for chart in reversed(charts_of(PICTURES["followed"], view, calibrated=calibrated))
    )
    assert np.array(ranks[0].y)[-1] == 1
    assert np.array(probabilities[0].y)[-1] == pytest.approx(found.probabilities[-1, -1, 0], rel=1e-4)


@pytest.mark.parametrize("key", EXPECTED)
def test_one_token_gives_a_picture_or_none(key):
    view = View("story-gpt", gpt2_tokenizer().encode("Hello"))
    for chart in charts_of(PICTURES[key], view):
        assert chart is None or chart.draw(theme=LIGHT).data


# --- functions of their arguments ------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_a_page_has_a_title_and_a_function_of_a_view(module):
    assert module.ABOUT.title
    assert module.ABOUT.explanation
    assert callable(module.show)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.py")), ids=lambda file: file.stem)
def test_no_function_of_a_page_reads_a_lower_case_global(file):
    """Names assigned in a module are constants, in capitals: everything else reaches a function as an argument."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assigned = {
        name.id
        for statement in tree.body
        for target in getattr(statement, "targets", [getattr(statement, "target", None)])
        if target is not None
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    assert {name for name in assigned if name != name.upper()} == set()
    calls = [statement for statement in tree.body if isinstance(statement, ast.Expr | ast.If | ast.For | ast.With)]
    assert all(isinstance(getattr(call, "value", None), ast.Constant) for call in calls), "importing draws nothing"
