"""Residual stream: what each part adds to it, what it would say at every depth, and which part wrote a logit."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import streamlit as st

from gptviz import charts
from gptviz.analysis.logit_attribution import attribute_logit
from gptviz.analysis.logit_lens import LogitLens, follow, logit_lens, stream_points
from gptviz.analysis.stream import added_to_stream
from gptviz.experiments.lens_calibration import calibrate_lens, held_out_stories
from gptviz.experiments.portions import Run
from gptviz.ui import descriptions, settings, widgets, work
from gptviz.ui.fragments import fragment
from gptviz.ui.links import note
from gptviz.ui.markdown import code
from gptviz.ui.page import About
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.settings import LensColor
from gptviz.ui.tables import verdict
from gptviz.ui.view import View

WINDOW = 24  # positions that the lens shows: each cell costs one run of the output head, and must stay readable
FOLLOWED = 8  # the most tokens that are followed over the depth
LENS = (settings.TOKEN, settings.LENS_COLOR, settings.CALIBRATED, settings.TARGET)
LENS_COLORS = {
    LensColor.PROBABILITY: "probability",
    LensColor.RANK: "rank of a token",
    LensColor.ENTROPY: "entropy",
    LensColor.DIVERGENCE: "divergence",
}
ABOUT_COLOR = {
    LensColor.PROBABILITY: "Colour: the probability of the token in the cell.",
    LensColor.RANK: "Colour: the rank of one token, on a logarithmic scale. Rank 1 is the most probable token.",
    LensColor.ENTROPY: "Colour: the [[entropy]] of the prediction. 0 [[nats]]: it is sure; the scale ends at a uniform "
    "guess.",
    LensColor.DIVERGENCE: "Colour: the [[KL divergence]] of this prediction from the final one. 0 nats: they are the "
    "same; beyond the end of the scale, a uniform guess would be nearer.",
}
KINDS = {
    "embed": "token embedding",
    "pos_embed": "positional embedding",
    "head": "all heads",
    "attention_bias": "attention biases",
    "mlp": "all MLPs",
    "norm_shift": "final norm's bias",
}

ABOUT = About(
    "Residual stream",
    "Residual stream",
    "Every token has one vector that runs through the whole model, the [[residual stream]]. Each attention and each "
    "feed-forward network (MLP) reads it and adds to it; at the end it is the prediction.",
)


def show(view: View) -> None:
    """Draw the page."""
    show_lens(view)
    show_attribution(view)
    show_stream(view)


def depths(view: View) -> list[str]:
    """Return the names of the points on the stream, from the embeddings to the last layer."""
    return [point.label for point in stream_points(view.config["n_layers"])]


# --- what each part adds -----------------------------------------------------------------------


@fragment
def show_stream(view: View) -> None:
    """Show the stream's length at every depth, and what each part adds: how much, and in which direction."""
    st.header("How long the stream's vectors are")
    show_picture(stream_norms, view)
    st.header("What each attention and MLP adds")
    length_column, direction_column = st.columns(2)
    with length_column:
        st.markdown("**Its length**")
        show_picture(added_norms, view, across=1 / 2)
    with direction_column:
        st.markdown("**Its cosine similarity with the stream before:** above 0 it confirms, below 0 it takes back")
        show_picture(added_cosines, view, across=1 / 2)


@picture("stream-norms", "Length of the residual stream")
def stream_norms(view: View) -> Chart:
    """The length of every token's vector at every depth."""
    added, rows = added_to_stream(view.trace()), depths(view)
    extremes = descriptions.extreme_cells(added.norms_of_stream, rows, descriptions.placed(view.strings))
    return Chart(
        partial(charts.depth_map, added.norms_of_stream, rows, view.strings, what="length", format=".2f"),
        f"The length of every token's vector at every depth: {extremes}.",
    )


@picture("added-norms", "Length of what each part adds")
def added_norms(view: View) -> Chart:
    """The length of what each attention and MLP adds to each token."""
    added, rows = added_to_stream(view.trace()), depths(view)[1:]
    extremes = descriptions.extreme_cells(added.norms, rows, descriptions.placed(view.strings))
    return Chart(
        partial(charts.depth_map, added.norms, rows, view.strings, what="length", format=".2f"),
        f"The length of what each attention and MLP adds: {extremes}.",
    )


@picture("added-cosines", "Direction of what each part adds")
def added_cosines(view: View) -> Chart:
    """The cosine similarity between what each part adds and the stream before it."""
    added, rows = added_to_stream(view.trace()), depths(view)[1:]
    extremes = descriptions.extreme_cells(added.cosines, rows, descriptions.placed(view.strings))
    return Chart(
        partial(
            charts.depth_map, added.cosines, rows, view.strings, what="cosine similarity", signed=True, limits=(-1, 1)
        ),
        f"The cosine similarity between what each part adds and the stream before: {extremes}.",
    )


# --- the logit lens ----------------------------------------------------------------------------


@fragment
def show_lens(view: View) -> None:
    """Show the logit lens as a grid, and tokens followed over the depth."""
    token, color, calibrated = ask_for_lens(view)
    if calibrated:
        calibration(view, work.behind_bar(view, "Calibrating the lens:"))
    with st.spinner("Reading the stream at every depth…"):
        show_picture(lens, view, taken=14)
    note(
        "[[Logit lens]]: what would the model say if it stopped here? The stream at every depth, after attention and "
        "after the MLP, goes through the final norm and the output head. The top row is the model's own prediction. "
        + ABOUT_COLOR[LensColor(color)]
    )
    show_distance(view, token, calibrated)
    if calibrated:
        widgets.folded(settings.Fold.TEMPERATURES, "Temperatures, and what they gain", partial(show_temperatures, view))
    st.markdown(f"**After {code(view.strings[token])}: the tokens on top at any depth, followed through all**")
    rank_column, probability_column = st.columns(2)
    with probability_column:
        show_picture(followed, view, variant="probability", across=1 / 2)
    with rank_column:
        show_picture(followed, view, variant="rank", across=1 / 2)


def ask_for_lens(view: View) -> tuple[int, str, bool]:
    """Draw the controls of the lens. Return the values of its settings."""
    position_column, color_column, target_column, switch_column = st.columns(
        [2, 4, 2, 1.2], vertical_alignment="bottom"
    )
    token = widgets.position(position_column, view.strings)
    with color_column:
        color = widgets.choice(st.segmented_control, settings.LENS_COLOR, "Logit lens, coloured by", LENS_COLORS)
    calibrated = widgets.entry(
        switch_column.toggle,
        settings.CALIBRATED,
        "Calibrated",
        help="Divide the logits of each depth by a temperature, fitted on held-out stories to bring the predictions "
        "as near to the final ones as possible. The order of the tokens, and so every rank, stays the same.",
    )
    if color == LensColor.RANK:
        widgets.token(
            target_column,
            settings.TARGET,
            "Rank of",
            None,
            placeholder="the final prediction at each position",
            key="lens-target",
        )
    return token, color, calibrated


@picture("lens", "Logit lens", *LENS)
def lens(view: View, token: int, lens_color: str, calibrated: bool, target: str) -> Chart:
    """The most probable next token at every depth and position."""
    found = lens_of(view, token, lens_color, calibrated, target)
    window = lens_window(view, token)
    grid = found.probabilities, found.strings, found.labels, view.strings[window]
    n_tokens = view.config["vocab_size"]
    in_nats = partial(charts.lens_map, *grid, what="nats", limits=(0, math.log(n_tokens)))
    draw = {
        LensColor.PROBABILITY: partial(charts.lens_map, *grid),
        LensColor.RANK: partial(charts.lens_rank_map, found.target_ranks, n_tokens, *grid),
        LensColor.ENTROPY: partial(in_nats, values=found.entropies),
        LensColor.DIVERGENCE: partial(in_nats, values=found.divergences),
    }
    at, color = token - window.start, LensColor(lens_color)
    colors = {LensColor.RANK: found.target_ranks, LensColor.ENTROPY: found.entropies}
    colors[LensColor.DIVERGENCE] = found.divergences
    told = descriptions.lens_course(found.strings[:, at, 0], found.probabilities[:, at, 0], found.labels)
    colored = f"; {LENS_COLORS[color]} {descriptions.ends(colors[color][:, at])}" if color in colors else ""
    return Chart(
        partial(draw[color], first=window.start),
        f"Logit lens. After {descriptions.token(view.strings[token])}: {told}{colored}.",
    )


def lens_of(view: View, token: int, lens_color: str, calibrated: bool, target: str) -> LogitLens:
    """Return the lens around the chosen position. Only a grid coloured by rank depends on the target."""
    chosen = widgets.first_token(target, None) if lens_color == LensColor.RANK else None
    return view.computed(
        logit_lens,
        view.trace(),
        positions=lens_window(view, token),
        target=chosen,
        temperatures=temperatures(view, calibrated),
        measured=lens_color != LensColor.PROBABILITY,
    )


def lens_window(view: View, token: int) -> slice:
    """Return the positions that the lens shows, around the chosen one."""
    first = max(0, min(token - WINDOW // 2, len(view.tokens) - WINDOW))
    return slice(first, first + WINDOW)


def show_distance(view: View, token: int, calibrated: bool) -> None:
    """Say which positions are shown, and how far the lens is from the final prediction halfway through the model."""
    window, middle = lens_window(view, token), view.config["n_layers"]
    fitted = temperatures(view, calibrated)
    halfway = view.computed(
        logit_lens,
        view.trace(),
        k=1,
        positions=window,
        points=(stream_points(view.config["n_layers"])[middle],),
        temperatures=None if fitted is None else fitted[middle : middle + 1],
    )
    st.caption(
        f"Halfway, at {halfway.labels[0]}, the {'calibrated' if calibrated else 'plain'} lens is "
        f"{halfway.divergences.mean():.2f} nats from the final prediction (KL divergence, mean over these positions)."
    )
    if len(view.tokens) > WINDOW:
        st.caption(f"Positions {window.start} to {window.stop - 1}: choose another token to see the rest.")


def calibration(view: View, run: Run | None = None) -> pd.DataFrame:
    """Return the lens' temperatures on the bundled stories, and what they gain: see `calibrate_lens`."""
    stories = held_out_stories(view.config["context_length"])
    fit, check = ([replace(view, tokens=story).trace() for story in part] for part in stories)
    return calibrate_lens(fit, check, run=run or view.run_portions)


def temperatures(view: View, calibrated: bool) -> tuple[float, ...] | None:
    """Return the temperature of every depth, or None for the plain lens."""
    return tuple(calibration(view)["temperature"]) if calibrated else None


def show_temperatures(view: View) -> None:
    """Show the temperature of every depth, and the distance from the final prediction before and after."""
    names = {"label": "depth", "kl_before": "KL before (nats)", "kl_after": "KL after (nats)"}
    st.dataframe(calibration(view).rename(columns=names).round(4), hide_index=True)
    st.caption(
        "Logits are divided by the temperature. It is fitted on two stories; the mean KL divergences from the final "
        "prediction are measured on two others, from other books. story-gpt learned from none of them."
    )


@picture(
    "followed", "Tokens followed over the depth", settings.TOKEN, settings.CALIBRATED, variants=("probability", "rank")
)
def followed(view: View, token: int, calibrated: bool, variant: str) -> Chart:
    """The rank or the probability, over the depth, of the tokens that are on top at some depth."""
    table = view.computed(follow, view.trace(), token, temperatures=temperatures(view, calibrated))
    shown = list(dict.fromkeys(table["id"]))[:FOLLOWED]
    lines = [
        (row["token"].iloc[0], id, row[variant].to_numpy())
        for id, row in table[table["id"].isin(shown)].groupby("id", sort=False)
    ]
    series = {f"{string} ({id})": values for string, id, values in lines}
    is_rank = variant == "rank"
    write = descriptions.number if is_rank else descriptions.percent
    courses = descriptions.courses({descriptions.token(string): values for string, _, values in lines}, write)
    return Chart(
        partial(charts.depth_lines, series, depths(view), what=variant, logarithmic=is_rank, downwards=is_rank),
        f"{variant.title()} from the embeddings to the last layer: {courses}.",
    )


# --- direct logit attribution ------------------------------------------------------------------


@fragment
def show_attribution(view: View) -> None:
    """Show which part of the model wrote a token's logit."""
    st.header("Direct logit attribution: who wrote this logit?")
    position_column, target_column, against_column = st.columns(3)
    position = widgets.position(position_column, view.strings, "After token", key="attribution-position")
    best = int(view.trace().logits_at(position).argmax())
    token = widgets.token(target_column, settings.TARGET, "Logit of", best, placeholder="most probable token")
    against = widgets.token(
        against_column,
        settings.AGAINST,
        "minus the logit of",
        None,
        placeholder="nothing",
        help="A second token, for a difference.",
    )
    table = view.computed(attribute_logit, view.trace(), position, token, against)
    show_sum(view, table, position, token, against)
    show_picture(attribution_by_kind, view)
    show_picture(attribution, view)
    widgets.folded(settings.Fold.ATTRIBUTION, "Every part", lambda: st.dataframe(table, hide_index=True))


def attribution_table(view: View, position: int, target: str, against: str) -> pd.DataFrame:
    """Return the parts of the logit that two settings name: see `attribute_logit`."""
    trace = view.trace()
    token = widgets.first_token(target, int(trace.logits_at(position).argmax()))
    return view.computed(attribute_logit, trace, position, token, widgets.first_token(against, None))


def show_sum(view: View, table: pd.DataFrame, position: int, token: int, against: int | None) -> None:
    """Compare the sum of all parts with the model's own logit."""
    logits = view.trace().logits_at(position).astype(np.float64)
    own = logits[token] - (0 if against is None else logits[against])
    total = table["contribution"].sum()
    names = view.engine.tokenizer.tokens([token] if against is None else [token, against]).strings
    st.markdown(f"Parts for {' minus '.join(map(code, names))} after {code(view.strings[position])}, in logits:")
    difference = abs(total - own)
    verdict(difference < 1e-3, f"Sum of all parts {total:.4f}, the model's own {own:.4f}: difference {difference:.1e}")


@picture("attribution-kinds", "A logit by kind of part", settings.TOKEN, settings.TARGET, settings.AGAINST)
def attribution_by_kind(view: View, token: int, target: str, against: str) -> Chart:
    """The logit divided among embeddings, heads, biases and MLPs."""
    sums = attribution_table(view, token, target, against).groupby("kind")["contribution"].sum()
    values, names = np.array([sums[kind] for kind in KINDS]), list(KINDS.values())
    return Chart(
        partial(charts.value_bars, values, names, what="logits", horizontal=True),
        f"The logit by kind of part: {descriptions.extremes(names, values)}.",
    )


@picture("attribution", "A logit by head and MLP", settings.TOKEN, settings.TARGET, settings.AGAINST)
def attribution(view: View, token: int, target: str, against: str) -> Chart:
    """The contribution of every head and MLP to the logit."""
    table = attribution_table(view, token, target, against)
    heads = table[table["kind"] == "head"].pivot_table(index="layer", columns="head", values="contribution")
    mlps = table[table["kind"] == "mlp"]["contribution"].to_numpy()[:, None]
    rows = descriptions.numbered("layer", view.config["n_layers"])
    columns = [*descriptions.numbered("head", len(heads.columns)), "MLP"]
    values = np.hstack((heads.to_numpy(), mlps))
    draw = partial(
        charts.depth_map, values, rows, columns, what="logits", signed=True, click="head", n_heads=len(heads.columns)
    )
    return Chart(
        draw, f"What every head and MLP adds to the logit: {descriptions.extreme_cells(values, rows, columns)}."
    )
