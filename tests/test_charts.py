import base64
import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from PIL import Image

from gptviz import charts
from gptviz.numerics.readings import strongest

STRINGS = ("the", "␣cat", "␣the", "<b>x</b>")
PATTERN = np.array([[1, 0, 0, 0], [0.25, 0.75, 0, 0], [0.5, 0.3, 0.2, 0], [0.1, 0.2, 0.3, 0.4]], dtype=np.float32)
THEMES = (charts.LIGHT, charts.DARK)


def luminance(color):
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_map_shows_each_weight_once_and_no_future():
    shown = np.array(charts.attention_map(PATTERN, STRINGS).data[0].z)
    future = np.triu(np.ones_like(PATTERN, dtype=bool), k=1)
    assert np.isnan(shown[future]).all()
    np.testing.assert_array_equal(shown[~future], PATTERN[~future])


def test_map_has_a_fixed_scale_and_row_0_on_top():
    figure = charts.attention_map(PATTERN, STRINGS)
    assert (figure.data[0].zmin, figure.data[0].zmax) == (0, 1)
    assert figure.layout.yaxis.range == (3.5, -0.5)
    assert "query" in figure.layout.yaxis.title.text
    assert "key" in figure.layout.xaxis.title.text


def test_pooled_cells_lie_on_the_tokens_that_they_stand_for():
    figure = charts.attention_map(np.tril(np.ones((3, 3))), [f"t{n}" for n in range(6)], pooled=2)
    heat_map = figure.data[0]
    assert figure.layout.xaxis.labelalias["2.5"] == "t2 …"
    assert (heat_map.x0, heat_map.dx, heat_map.y0, heat_map.dy) == (0.5, 2, 0.5, 2)
    assert heat_map.z.shape == (3, 3)


def test_equal_tokens_stay_apart_and_tokens_are_no_markup():
    axis = charts.attention_map(PATTERN, STRINGS).layout.xaxis
    assert axis.tickvals == (0, 1, 2, 3)
    assert axis.ticktext == ("the", "␣cat", "␣the", "&lt;b&gt;x&lt;/b&gt;")


def test_labels_of_a_long_text_are_thinned_out_and_hover_knows_them_all():
    strings = ["<i>", *(f"t{position}" for position in range(1, 200))]
    axis = charts.surprisal_bars(strings, np.ones(200)).layout.xaxis
    assert axis.nticks < 40
    assert [axis.labelalias[str(position)] for position in (0, 1, 199)] == ["&lt;i&gt;", "t1", "t199"]


def test_chosen_row_and_column_are_framed():
    row, column = charts.attention_map(PATTERN, STRINGS, chosen=2).layout.shapes
    assert (row.y0, row.y1, row.x0, row.x1) == (1.5, 2.5, -0.5, 2.5)
    assert (column.x0, column.x1, column.y0, column.y1) == (1.5, 2.5, 1.5, 3.5)


def lines_of(figure):
    """Return the set of (query, key) of every line, by colour."""
    lines = {}
    for trace in figure.data:
        if trace.mode == "lines":
            y = np.array(trace.y, dtype=float).reshape(-1, 3)
            lines.setdefault(trace.line.color, set()).update((int(query), int(key)) for query, key, _ in y)
    return lines


def test_lines_join_every_query_with_the_keys_it_weighs():
    (drawn,) = lines_of(charts.attention_lines(PATTERN, STRINGS)).values()
    assert drawn == {(int(query), int(key)) for query, key in np.argwhere(PATTERN > 0)}


def test_wider_lines_weigh_more():
    widths = {}
    for trace in charts.attention_lines(PATTERN, STRINGS).data:
        if trace.mode == "lines":
            for query, key, _ in np.array(trace.y, dtype=float).reshape(-1, 3):
                widths[int(query), int(key)] = trace.line.width
    ranked = sorted(widths, key=widths.__getitem__)
    weights = [float(PATTERN[cell]) for cell in ranked]
    assert weights[0] == pytest.approx(0.1)
    assert weights[-1] == 1
    assert widths[0, 0] > widths[1, 1] > widths[3, 3] > widths[3, 0]


def test_chosen_token_has_colours_for_its_two_directions():
    lines = lines_of(charts.attention_lines(PATTERN, STRINGS, chosen=12, first=10))
    assert lines[charts.LIGHT.accent] == {(2, 0), (2, 1), (2, 2)}
    assert lines[charts.LIGHT.second] == {(3, 2)}


def test_points_of_a_window_carry_the_text_s_positions():
    points = [trace for trace in charts.attention_lines(PATTERN, STRINGS, first=10).data if trace.mode != "lines"]
    assert [list(trace.customdata) for trace in points] == [[10, 11, 12, 13]] * 2


def test_bars_are_the_probabilities_of_being_drawn():
    table = pd.DataFrame(
        {"token": ["a", "<i>"], "id": [1, 2], "logit": [2.0, 1.0], "probability": [0.6, 0.2], "drawn": [1.0, 0.0]}
    )
    figure = charts.next_token_bars(table)
    assert list(figure.data[0].x) == [1.0, 0.0]
    assert list(figure.data[1].x) == [0.6, 0.2]
    assert list(figure.layout.yaxis.ticktext) == ["a", "&lt;i&gt;"]
    assert [annotation.text for annotation in figure.layout.annotations] == ["100.0%", "cut"]


def test_bars_of_a_trace_are_the_models_own_probabilities(tiny):
    table = tiny.run("the cat").top_k(k=3)
    figure = charts.next_token_bars(table)
    assert list(figure.data[0].x) == list(figure.data[1].x) == table["probability"].tolist()
    assert list(table.columns) == ["token", "id", "logit", "probability"]


def test_any_number_of_positional_dimensions_can_be_drawn():
    table = np.random.default_rng(0).normal(size=(8, 100)).astype(np.float32)
    figure = charts.position_waves(table, range(100))
    assert [line.name for line in figure.data] == [f"dimension {number}" for number in range(100)]
    assert len({(line.line.color, line.line.dash) for line in figure.data[:24]}) == 24


def test_surprisal_of_the_first_token_is_empty():
    figure = charts.surprisal_bars(STRINGS, np.array([np.nan, 1.0, 2.0, 3.0]))
    assert figure.data[0].y[0] is None
    np.testing.assert_allclose(figure.data[0].customdata[1:], [0.5, 0.25, 0.125])


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("n_tokens", [1, 2, 60, 200])
def test_every_chart_draws_any_length_in_both_themes(theme, n_tokens):
    strings = tuple(f"t{position}" for position in range(n_tokens))
    pattern = np.tril(np.ones((n_tokens, n_tokens))) / np.arange(1, n_tokens + 1)[:, None]
    for figure in (
        charts.attention_map(pattern, strings, chosen=n_tokens - 1, theme=theme),
        charts.attention_lines(pattern, strings, chosen=0, theme=theme),
        charts.surprisal_bars(strings, np.ones(n_tokens), chosen=0, theme=theme),
    ):
        assert isinstance(figure, go.Figure)
        assert figure.layout.font.color == theme.text
        assert figure.layout.height >= 200


@pytest.mark.parametrize(("theme", "background"), [(charts.LIGHT, "#FFFFFF"), (charts.DARK, "#0F1419")])
def test_text_and_lines_stand_out_from_the_page(theme, background):
    """WCAG 2.2 requires a contrast of 4.5 for text and 3 for what a chart draws."""
    assert contrast(theme.text, background) > 7
    assert contrast(theme.muted, background) > 4.5
    assert all(contrast(color, background) > 3 for color in (theme.main, theme.accent, theme.second))


def test_strongest_counts_positions_from_first_and_sorts():
    table = strongest(np.array([0.1, 0.5, 0.4]), ("a", "b", "c", "d"), first=1, k=2)
    assert table.to_dict("list") == {"position": [2, 3], "token": ["c", "d"], "weight": [0.5, 0.4]}


VALUES = np.random.default_rng(0).normal(size=(4, 6))


def test_signed_maps_are_centred_on_zero_and_keep_every_number():
    for figure in (
        charts.dimension_map(VALUES, STRINGS),
        charts.token_pair_map(VALUES[:, :4], STRINGS, what="score"),
        charts.depth_map(VALUES[:3, :4], ["a", "b", "c"], STRINGS, what="logits", signed=True),
    ):
        heat_map = figure.data[0]
        np.testing.assert_allclose(heat_map.z, VALUES[: len(heat_map.z), : heat_map.z.shape[1]], rtol=1e-6)
        assert heat_map.zmid == 0
        if heat_map.zmin is not None:
            assert heat_map.zmin == -heat_map.zmax


def test_masked_scores_are_grey_and_do_not_stretch_the_scale():
    scores = VALUES[:, :4].copy()
    scores[0, 3] = 1e9  # a key in the future
    figure = charts.token_pair_map(scores, STRINGS, what="score", masked=True)
    assert np.isnan(figure.data[0].z[0, 3])
    assert figure.data[0].zmax == pytest.approx(np.abs(scores[np.tri(4, dtype=bool)]).max())


def test_depth_runs_upwards_and_cell_texts_are_no_markup():
    text = np.array([["<b>", "b"], ["c", "d"]])
    figure = charts.depth_map(np.zeros((2, 2)), ["low", "high"], STRINGS[:2], what="p", text=text, hover=text)
    assert figure.layout.yaxis.range == (-0.5, 1.5)
    assert figure.data[0].text[0][0] == figure.data[0].customdata[0][0] == "&lt;b&gt;"


def test_long_labels_are_cut_and_what_hover_tells_is_not():
    long = "x" * 40
    hover = np.full((2, 2), f"{long}\nand more")
    figure = charts.depth_map(np.zeros((2, 2)), ["low", "high"], (long, "b"), what="p", hover=hover)
    assert figure.layout.xaxis.ticktext[0] == "x" * 17 + "…"
    assert figure.data[0].customdata[0][0] == f"{long}<br>and more"


def test_bars_keep_sign_and_order():
    figure = charts.value_bars(np.array([1.0, -2.0]), ["<i>", "b"], what="logits", horizontal=True)
    assert list(figure.data[0].x) == [1, -2]
    assert list(figure.layout.yaxis.ticktext) == ["&lt;i&gt;", "b"]
    assert figure.data[0].marker.color[0] != figure.data[0].marker.color[1]


def test_components_name_their_share_of_the_variance():
    flat = charts.principal_scatter(VALUES[:, :2], STRINGS, np.array([0.5, 0.25]))
    assert flat.layout.xaxis.title.text == "component 1 (50%)"
    deep = charts.principal_scatter(VALUES[:, :3], STRINGS, np.array([0.5, 0.25, 0.1]))
    np.testing.assert_array_equal(deep.data[0].z, VALUES[:, 2])
    assert deep.layout.scene.zaxis.title.text == "component 3 (10%)"


def test_gelu_values_lie_on_the_curve():
    pre = np.array([-1.0, 0.0, 2.0])
    curve, points = charts.gelu_curve(pre, np.array([-0.1588, 0.0, 1.9546])).data
    np.testing.assert_allclose(np.interp(points.x, curve.x, curve.y), points.y, atol=1e-3)


def noise(layers, heads, side):
    """Return random tiles, the hardest picture to compress."""
    return np.random.default_rng(0).integers(0, 256, (layers, heads, side, side), dtype=np.uint8)


@pytest.mark.parametrize(("side", "limit"), [(64, 15_900_000 / 20), (94, 1_500_000)])
def test_all_heads_of_gpt2_small_stay_within_their_bytes(side, limit):
    """At 64 tokens, a twentieth of BertViz's model view; at 1,024, where 11 tokens share a pixel, 1.5 MB."""
    assert len(charts.small_maps(noise(12, 12, side)).to_json()) < limit


def test_small_maps_show_each_weight_in_its_place():
    tiles = noise(2, 3, 4)
    figure = charts.small_maps(tiles, chosen=(1, 2))
    png = base64.b64decode(figure.data[0].source.removeprefix("data:image/png;base64,"))
    picture = np.array(Image.open(io.BytesIO(png)))
    for layer in range(2):
        for head in range(3):
            shown = picture[layer * 6 : layer * 6 + 4, head * 6 : head * 6 + 4]
            past = np.tri(4, dtype=bool)
            np.testing.assert_array_equal(shown[past], np.round(tiles[layer, head][past] * (254 / 255)))
            assert (shown[~past] == 255).all()
    (frame,) = figure.layout.shapes
    assert (frame.x0, frame.y0) == (2 * 6 - 1.5, 6 - 1.5)


def test_every_head_is_a_cell_that_can_be_chosen():
    maps, grid = charts.small_maps(noise(2, 3, 4)), charts.head_grid(np.arange(6.0).reshape(2, 3), what="score")
    across, down = room_of(grid, charts.LIGHT)
    assert across / 3 == pytest.approx(down / 2, abs=0.5), "the cells are square"
    for figure, step in ((maps, 6), (grid, 1)):  # a small map has 4 pixels, and a gap of 2
        cells = json.loads(figure.layout.meta)
        assert (cells["click"], cells["across"], cells["down"], cells["heads"]) == ("head", 3, 2, 3)
        assert cells["step"] == step
    named = maps.data[1]
    assert np.array(named.customdata).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    cells = np.floor((np.array([named.y, named.x]) + 0.5) / json.loads(maps.layout.meta)["step"]).T
    np.testing.assert_array_equal(cells, named.customdata)


def room_of(figure, theme):
    """Return the width and height inside a chart's margins."""
    margin = figure.layout.margin
    return theme.width - margin.l - margin.r, figure.layout.height - margin.t - margin.b


@pytest.mark.parametrize("size", [15, 24])
@pytest.mark.parametrize(("width", "height"), [(358, 600), (700, 490), (1100, 850)])
@pytest.mark.parametrize("n_tokens", [1, 2, 13, 15, 60, 300])
def test_a_map_of_tokens_has_square_cells_and_fits_its_room(size, width, height, n_tokens):
    theme = replace(charts.LIGHT, font_size=size, width=width, height=height)
    strings = tuple(f"word {position}" for position in range(n_tokens))
    figure = charts.attention_map(np.eye(n_tokens), strings, theme=theme)
    across, down = room_of(figure, theme)
    assert across == pytest.approx(down, abs=2)
    assert figure.layout.height <= height
    shown = [text for text in figure.layout.yaxis.ticktext or () if text]
    fitting = len(shown) or figure.layout.yaxis.nticks
    assert fitting == 1 or fitting * 1.2 * size <= down, "labels have their room"


def test_a_larger_font_makes_a_chart_larger_up_to_its_room():
    names, values = [f"part {number}" for number in range(8)], np.arange(8.0)
    heights = [
        charts.value_bars(values, names, what="logits", horizontal=True, theme=replace(charts.LIGHT, **room)).layout
        for room in ({"font_size": 15}, {"font_size": 24}, {"font_size": 24, "height": 400})
    ]
    assert [layout.height for layout in heights] == [330, 528, 400]
    assert {layout.font.size for layout in heights} == {15, 24}


def test_names_that_have_no_room_are_left_out_in_equal_steps():
    names = [f"layer {number}" for number in range(24)]
    low = charts.depth_map(np.ones((24, 3)), names, "abc", what="share", theme=replace(charts.LIGHT, height=260))
    shown = [number for number, text in enumerate(low.layout.yaxis.ticktext) if text]
    assert 1 < len(shown) < 24
    assert len(set(np.diff(shown))) == 1
    assert len(low.layout.yaxis.tickvals) == 24, "hover names every layer"


def test_names_of_points_that_would_lie_over_each_other_are_left_out():
    near = np.array([[0.0, 0.0], [0.001, 0.0], [1.0, 1.0]])
    figure = charts.principal_scatter(near, ("one", "two", "three"), np.array([0.5, 0.5]))
    assert figure.data[0].text == ("one", "", "three")
    assert figure.data[0].hovertext == ("one", "two", "three")


def test_a_logarithmic_axis_has_full_numbers():
    figure = charts.depth_lines({"a": np.array([1.0, 3000.0])}, ["x", "y"], what="rank", logarithmic=True)
    assert figure.layout.yaxis.ticktext == ("1", "10", "100", "1,000")
    assert [float(text.replace(",", "")) for text in figure.layout.yaxis.ticktext] == list(figure.layout.yaxis.tickvals)


N = 30
TOKENS = tuple(f"token {position}" for position in range(N))
NUMBERS = np.random.default_rng(1).normal(size=(N, 192)).astype(np.float32)
WEIGHTS = np.tril(np.ones((N, N), dtype=np.float32)) / np.arange(1, N + 1, dtype=np.float32)[:, None]
PREDICTION = pd.DataFrame({"token": TOKENS[:10], "id": range(10), "logit": 1.5, "probability": 0.1, "drawn": 0.1})
# Each chart at 30 tokens, and the most bytes that it may send.
EVERY_CHART = {
    "attention_map": (lambda: charts.attention_map(WEIGHTS, TOKENS, chosen=3), 10_000),
    "attention_lines": (lambda: charts.attention_lines(WEIGHTS, TOKENS, chosen=3), 20_000),
    "dimension_map": (lambda: charts.dimension_map(NUMBERS, TOKENS, chosen=3), 45_000),
    "token_pair_map": (lambda: charts.token_pair_map(NUMBERS[:, :N], TOKENS, what="cosine"), 12_000),
    "depth_map": (lambda: charts.depth_map(NUMBERS[:13, :N], TOKENS[:13], TOKENS, what="length"), 7_500),
    "token_lines": (lambda: charts.token_lines({"a": NUMBERS[:, 0]}, TOKENS, what="length"), 3_500),
    "flat": (lambda: charts.principal_scatter(NUMBERS[:, :2], TOKENS, np.array([0.5, 0.2])), 4_500),
    "deep": (lambda: charts.principal_scatter(NUMBERS[:, :3], TOKENS, np.array([0.5, 0.2, 0.1])), 5_500),
    "waves": (lambda: charts.position_waves(NUMBERS, [0, 1], n_used=9), 3_500),
    "similarity": (lambda: charts.position_similarity(NUMBERS[:, :N], 1), 9_000),
    "depth_lines": (lambda: charts.depth_lines({"a": NUMBERS[:13, 0]}, TOKENS[:13], what="rank"), 2_500),
    "dimension_lines": (lambda: charts.dimension_lines({"gain": NUMBERS[0]}), 4_500),
    "value_bars": (lambda: charts.value_bars(NUMBERS[0, :N], TOKENS, what="logits"), 3_500),
    "gelu_curve": (lambda: charts.gelu_curve(NUMBERS[0], NUMBERS[1]), 20_000),
    "next_token_bars": (lambda: charts.next_token_bars(PREDICTION), 4_500),
    "surprisal_bars": (lambda: charts.surprisal_bars(TOKENS, NUMBERS[:, 0].astype(float)), 4_500),
    "head_grid": (lambda: charts.head_grid(NUMBERS[:6, :6], what="score"), 5_000),
    "small_maps": (lambda: charts.small_maps(noise(6, 6, 30)), 50_000),
}


@pytest.mark.parametrize("name", EVERY_CHART)
def test_a_chart_sends_few_bytes(name):
    make, limit = EVERY_CHART[name]
    assert limit / 2 < len(make().to_json()) < limit


def one_dimensional(value):
    """Return every one-dimensional typed array in a figure's JSON."""
    if isinstance(value, dict):
        is_typed = "bdata" in value and "shape" not in value
        return [value] if is_typed else [found for inner in value.values() for found in one_dimensional(inner)]
    return [found for inner in value for found in one_dimensional(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("name", EVERY_CHART)
def test_plotly_sees_that_streamlits_copy_of_a_chart_is_the_same(name):
    """Otherwise Plotly draws every chart twice: see `gptviz.charts.theme.figure`."""
    sent = json.loads(EVERY_CHART[name][0]().to_json())
    assert sent["layout"]["datarevision"] == 0
    assert "template" not in sent["layout"]
    assert one_dimensional(sent) == []


def test_lists_keep_single_precision_exactly():
    values = np.append(np.random.default_rng(2).normal(size=99).astype(np.float32), np.float32(np.nan))
    shown = charts.dimension_lines({"gain": values}).data[0].y
    assert shown[-1] is None
    np.testing.assert_array_equal(np.array(shown[:-1], dtype=np.float32), values[:-1])
    assert max(len(str(value)) for value in shown[:-1]) <= 15


# --- the logit lens -----------------------------------------------------------------------------------

LENS = (
    np.array([[[0.5, 0.25]], [[0.75, 0.125]]]),  # [point, pos, k]
    np.array([[["␣a", "<b>"]], [["␣dog", "␣cat"]]]),
    ["embeddings", "L0 MLP"],
    ["The"],
)


def test_the_lens_is_coloured_by_its_probabilities_or_by_what_it_is_given():
    (usual,) = charts.lens_map(*LENS).data
    np.testing.assert_array_equal(usual.z, [[0.5], [0.75]])
    assert (usual.zmin, usual.zmax) == (0, 1)
    (given,) = charts.lens_map(*LENS, values=np.array([[9.0], [2.0]]), what="nats", limits=(0, 11)).data
    np.testing.assert_array_equal(given.z, [[9.0], [2.0]])
    assert (given.zmin, given.zmax, given.colorbar.title.text) == (0, 11, "nats")
    for drawn in (usual, given):
        assert [list(row) for row in drawn.customdata] == [
            ["␣a 50.0&#37;<br>&lt;b&gt; 25.0&#37;"],
            ["␣dog 75.0&#37;<br>␣cat 12.5&#37;"],
        ]
        assert [list(row) for row in drawn.text] == [["␣a"], ["␣dog"]]


def test_ranks_have_a_logarithmic_scale_with_the_first_at_its_strong_end():
    (drawn,) = charts.lens_rank_map(np.array([[1000], [1]]), 50257, *LENS).data
    np.testing.assert_allclose(drawn.z, [[-3], [0]])
    assert drawn.zmin == pytest.approx(-np.log10(50257))
    assert drawn.zmax == 0
    assert dict(zip(drawn.colorbar.ticktext, drawn.colorbar.tickvals, strict=True)) == {
        "1": 0,
        "10": -1,
        "100": -2,
        "1,000": -3,
        "10,000": -4,
    }
    assert [row[0].split("<br>")[0] for row in drawn.customdata] == ["rank 1,000", "rank 1"]
    assert "%{z" not in drawn.hovertemplate, "z is a logarithm"
