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
from gptviz.ui import descriptions, models
from gptviz.ui.pictures import PICTURES
from gptviz.ui.settings import LensColor, Patched, Reading
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
        assert any(map(str.isdigit, chart.alt)) or chart.alt.endswith("no numbers.")
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


# --- what the pictures say -------------------------------------------------------------------------

TEXT = "Once upon a time there was a little dog. The little dog"


@pytest.mark.parametrize("step", ["norm1", "scores", "out_proj", "gelu", "logits"])
@pytest.mark.parametrize("same_text", [False, True])
def test_all_descriptions_on_a_page_differ(model_name, step, same_text):
    view = View(model_name, gpt2_tokenizer().encode(TEXT))
    said = {module.__name__: [] for module in MODULES}
    for picture in PICTURES.values():
        given = {"step": step, "same_text": same_text}
        charts = charts_of(picture, view, **{name: given[name] for name in given.keys() & names_of(picture)})
        said[picture.make.__module__] += [chart.alt for chart in charts if chart is not None]
    for page, alts in said.items():
        assert len(set(alts)) == len(alts), f"two of {page}'s descriptions are the same"


def names_of(picture):
    """Return the names of the picture's settings."""
    return {setting.name for setting in picture.settings}


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_next_tokens_are_told_with_the_bars_own_numbers(model_name, temperature):
    view = View(model_name, gpt2_tokenizer().encode(TEXT))
    (chart,) = charts_of(PICTURES["next-token-bars"], view, temperature=temperature)
    bars = chart.draw(theme=LIGHT).data[0]
    first = [f"{descriptions.token(name)} {share:.1%}" for name, share in zip(bars.text[:3], bars.x[:3], strict=True)]
    assert chart.alt == f"After ␣dog: {', '.join(first)}, and 7 more."


def test_the_largest_weight_is_the_maps_own(model_name):
    view = View(model_name, gpt2_tokenizer().encode(TEXT))
    (chart,) = charts_of(PICTURES["attention-map"], view)
    weights = np.array(chart.draw(theme=LIGHT).data[0].z)
    row, column = np.unravel_index(np.nanargmax(weights[1:]), weights[1:].shape)
    query, key = (f"{descriptions.token(view.strings[at])} (position {at})" for at in (row + 1, column))
    assert chart.alt.endswith(f" {weights[row + 1, column]:.3g} for query {query}, key {key}.")


@pytest.mark.parametrize("reading", [Reading.ROW, Reading.WITHOUT_FIRST])
def test_where_every_row_has_the_same_largest_weight_the_chosen_row_is_told(reading):
    view = View("story-gpt", gpt2_tokenizer().encode(TEXT))
    (chart,) = charts_of(PICTURES["attention-map"], view, reading=reading, token=5)
    row = np.array(chart.draw(theme=LIGHT).data[0].z)[5]
    key = int(np.nanargmax(row))
    assert f"from ␣was (position 5), largest {view.strings[key]} (position {key}) {row[key]:.3g}, " in chart.alt


def test_the_highest_score_is_the_grids_own(model_name):
    view = View(model_name, gpt2_tokenizer().encode(TEXT))
    (chart,) = charts_of(PICTURES["scores"], view)
    scores = np.array(chart.draw(theme=LIGHT).data[0].z)
    layer, head = np.unravel_index(scores.argmax(), scores.shape)
    assert f"Largest: L{layer}H{head} {scores[layer, head]:.3g}, " in chart.alt


@pytest.mark.parametrize(
    ("key", "axis"),
    [
        *[(key, "z") for key in ("step-map", "step-pairs", "embedding-map", "attribution", "causes", "stream-norms")],
        *[(key, "z") for key in ("added-norms", "added-cosines")],
        *[(key, "y") for key in ("saliency", "token-changes", "gelu-curve")],
        ("attribution-kinds", "x"),
    ],
)
def test_both_ends_are_the_charts_own(key, axis):
    view = View("story-gpt", gpt2_tokenizer().encode(TEXT))
    charts = [chart for chart in charts_of(PICTURES[key], view) if chart is not None and "below" not in chart.alt]
    assert charts
    for chart in charts:
        values = np.array(chart.draw(theme=LIGHT).data[-1][axis], dtype=float)
        high, low = (descriptions.number(end) for end in (np.nanmax(values), np.nanmin(values)))
        assert f"highest {high} for " in chart.alt
        assert f"lowest {low} for " in chart.alt


def test_what_is_not_measured_yet_has_no_numbers():
    view = View("story-gpt", gpt2_tokenizer().encode(TEXT))
    prompts = {"clean": "The dog sat", "corrupted": "The cat sat", "answer": " on", "rival": " down"}
    (chart,) = charts_of(PICTURES["patched-map"], view, patched=Patched.HEAD, **prompts)
    assert np.isnan(np.array(chart.draw(theme=LIGHT).data[0].z, dtype=float)).all()
    assert chart.alt == "Head by head patched, recovered share of the clean answer: no numbers."


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
