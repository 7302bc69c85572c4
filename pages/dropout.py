"""Dropout: what it zeroes in training, and how predictions and attention scatter because of it."""

from dataclasses import replace
from functools import partial

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from gptviz import charts
from gptviz.experiments.dropout import Dropout, DropoutRuns, Spread, dropout_runs, spread
from gptviz.experiments.portions import Run
from gptviz.numerics.ranking import top_ids
from gptviz.numerics.sampling import softmax
from gptviz.tokens import strings_of
from gptviz.ui import descriptions, settings, state, widgets, work
from gptviz.ui.fragments import fragment
from gptviz.ui.markdown import code
from gptviz.ui.page import About
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.settings import DropoutPlace
from gptviz.ui.view import View

MOST_RUNS = 200
KEYS_SHOWN = 16  # keys with the largest weights; the spread of their weights is shown
MAP_SHOWN = 64  # tokens that the maps of one run show
NUMBERS = 8  # next tokens
WHERE = {
    DropoutPlace.EMBEDDING: "after the embeddings",
    DropoutPlace.ATTENTION: "attention weights",
    DropoutPlace.SHORTCUT: "before the shortcuts",
}
HOW = (settings.TRAINING, settings.RATE, settings.DROPPED, settings.SEED)
WHICH = (settings.LAYER, settings.HEAD, settings.TOKEN)

ABOUT = About(
    "Dropout",
    "Dropout",
    "In **training**, [[dropout]] makes a random share of numbers 0 at every pass, and scales up those that stay by "
    "1 / (1 - rate), so that no part can rely on another. In **evaluation** it does nothing: the same text always "
    "gives the same answer.",
)


def show(view: View) -> None:
    """Draw the page."""
    show_dropout(view)


@fragment
def show_dropout(view: View) -> None:
    """Draw the settings, and the results of the runs."""
    how, n_runs, layer, head, token = choose(view)
    all_runs(view, how, n_runs, layer, head, token, run=work.behind_bar(view, "Runs with dropout:"))
    show_spread(view, how, n_runs, layer, head, token)
    show_one_run(view, how, n_runs, layer, head, token)


def choose(view: View) -> tuple[Dropout, int, int, int, int]:
    """Let the user set mode, rate, places, seed, runs, and what is looked at.

    Return the `Dropout`, the number of runs, the layer, the head and the token.
    """
    training_column, rate_column, place_column, runs_column, seed_column = st.columns(
        [1.3, 2, 4, 1.2, 1.2], vertical_alignment="bottom"
    )
    training = widgets.entry(
        training_column.toggle,
        settings.TRAINING,
        "Training",
        help="PyTorch: model.train(). Off is model.eval(): no dropout.",
    )
    rate = widgets.slider(
        rate_column,
        settings.RATE,
        "Rate",
        0.0,
        0.9,
        0.05,
        help=f"The share of numbers that become 0. This model was configured with {view.config['drop_rate']}.",
    )
    state.some_of(settings.DROPPED, list(WHERE))
    dropped = widgets.several(
        place_column.pills,
        settings.DROPPED,
        "Where",
        list(WHERE),
        format_func=WHERE.__getitem__,
        selection_mode="multi",
        help="The three places where the course's model drops.",
    )
    n_runs = widgets.number(runs_column, settings.RUNS, "Runs", 1, MOST_RUNS)
    seed = widgets.number(
        seed_column, settings.SEED, "Seed", 0, 999_999, help="The same seed drops the same numbers again."
    )
    token_column, layer_column, head_column = st.columns([2, 1, 1])
    token = widgets.position(token_column, view.strings, "After token")
    layer, head = widgets.layer(layer_column, view), widgets.head(head_column, view)
    return dropout_of(training, rate, dropped, seed), n_runs, layer, head, token


def dropout_of(training: bool, rate: float, dropped: list[str], seed: int) -> Dropout:
    """Return the settings as a `Dropout`."""
    return Dropout(rate if training else 0.0, tuple(place for place in WHERE if place in dropped), seed)


def up_to(view: View, token: int) -> View:
    """Return the view of the text up to a token, which does not see the later ones."""
    return replace(view, tokens=view.tokens[: token + 1])


# --- many runs ---------------------------------------------------------------------------------


def next_ids(view: View, token: int) -> NDArray[np.int64]:
    """Return the ids of the most probable next tokens in evaluation."""
    return top_ids(view.trace().logits_at(token), NUMBERS)


def all_runs(
    view: View, how: Dropout, n_runs: int, layer: int, head: int, token: int, run: Run | None = None
) -> Spread:
    """Return the results of all runs."""
    tokens, ids = up_to(view, token).tokens, next_ids(view, token).tolist()
    return spread(view.engine, tokens, how, n_runs, layer=layer, head=head, ids=ids, run=run or view.run_portions)


def show_spread(view: View, how: Dropout, n_runs: int, layer: int, head: int, token: int) -> None:
    """Show the predictions and one row of attention in every run, around those of the evaluation."""
    found = all_runs(view, how, n_runs, layer, head, token)
    next_column, weights_column = st.columns(2, gap="large")
    with next_column:
        st.markdown(f"**After {code(view.strings[token])}**")
        show_picture(prediction_spread, view, across=1 / 2, taken=21)
        changed = int((found.probabilities.argmax(axis=1) != 0).sum())
        st.caption(
            f"In {changed} of {len(found.probabilities)} runs another of these tokens comes out on top. Dropout keeps "
            "the mean of every number that it touches, but the model is not linear: their mean may lie elsewhere."
        )
    with weights_column:
        st.markdown(f"**What {code(view.strings[token])} attends to**")
        show_picture(weight_spread, view, across=1 / 2, taken=17)
        st.caption("After dropout: 0 where the attention weight was dropped, larger than before where it stayed.")


@picture("spread", "Predictions over many runs", *HOW, settings.RUNS, *WHICH)
def prediction_spread(
    view: View, training: bool, rate: float, dropped: list[str], seed: int, runs: int, layer: int, head: int, token: int
) -> Chart:
    """The probabilities of the most probable next tokens in every run, around those of the evaluation."""
    found = all_runs(view, dropout_of(training, rate, dropped, seed), runs, layer, head, token)
    ids = next_ids(view, token)
    own = softmax(view.trace().logits_at(token))[ids]
    strings = strings_of(ids)
    spreads = descriptions.spreads(descriptions.tokens(strings), own, found.probabilities, descriptions.percent)
    return Chart(
        partial(charts.run_spread, found.probabilities, own, strings, what="probability"),
        f"Without dropout, after {descriptions.token(view.strings[token])}: {spreads}.",
    )


@picture("spread-weights", "Attention over many runs", *HOW, settings.RUNS, *WHICH)
def weight_spread(
    view: View, training: bool, rate: float, dropped: list[str], seed: int, runs: int, layer: int, head: int, token: int
) -> Chart:
    """One row of attention in every run, around that of the evaluation."""
    found = all_runs(view, dropout_of(training, rate, dropped, seed), runs, layer, head, token)
    row = view.trace()["pattern", layer][head, token, : token + 1]
    shown = np.sort(np.argsort(-row, kind="stable")[:KEYS_SHOWN])
    strings = [f"{at} · {view.strings[at]}" for at in shown]
    names = [descriptions.placed([view.strings[at]], at)[0] for at in shown]
    spreads = descriptions.spreads(names, row[shown], found.weights[:, shown], descriptions.number)
    return Chart(
        partial(charts.run_spread, found.weights[:, shown], row[shown], strings, what="attention weight"),
        f"Without dropout, L{layer}H{head} looks from {descriptions.token(view.strings[token])} at: {spreads}.",
    )


# --- one run -----------------------------------------------------------------------------------


def show_one_run(view: View, how: Dropout, n_runs: int, layer: int, head: int, token: int) -> None:
    """Show what one run zeroes."""
    st.header("One pass: what is zeroed")
    run = widgets.number(st.columns([1, 4])[0], settings.RUN, "Run", 0, n_runs - 1)
    with st.spinner("Running once more…"):
        found = one_run(view, how, run, layer, head, token)
    possible = int((found.pattern[0] > 0).sum())
    zeroed = int(((found.dropped[0] == 0) & (found.pattern[0] > 0)).sum())
    before_column, after_column = st.columns(2)
    with before_column:
        st.markdown("**Attention weights of this run, before dropout:** rows sum to 1")
        show_picture(before_dropout, view, across=1 / 2)
    with after_column:
        drops = how.rate and DropoutPlace.ATTENTION in how.places
        scale = f"the rest times {1 / (1 - how.rate):.3g}" if drops else "nothing changes"
        st.markdown(f"**After dropout:** {zeroed} of {possible} zeroed (×), {scale}")
        show_picture(after_dropout, view, across=1 / 2)
    if first := first_shown(token):
        st.caption(f"The maps show positions {first} to {token}.")


def one_run(view: View, how: Dropout, run: int, layer: int, head: int, token: int) -> DropoutRuns:
    """Return the whole result of one run."""
    return view.computed(
        dropout_runs, view.engine, up_to(view, token).tokens, how, range(run, run + 1), layer=layer, head=head
    )


def first_shown(token: int) -> int:
    """Return the first position of the maps."""
    return max(0, token + 1 - MAP_SHOWN)


@picture("before-dropout", "One run's attention before dropout", *HOW, settings.RUN, *WHICH)
def before_dropout(
    view: View, training: bool, rate: float, dropped: list[str], seed: int, run: int, layer: int, head: int, token: int
) -> Chart:
    """The weights from the run's softmax, before dropout."""
    found = one_run(view, dropout_of(training, rate, dropped, seed), run, layer, head, token)
    first = first_shown(token)
    pattern, strings = found.pattern[0, first:, first:], view.strings[first : token + 1]
    return Chart(
        partial(charts.attention_map, pattern, strings),
        f"Weights of L{layer}H{head} in run {run} before dropout: "
        f"{descriptions.largest_weight(pattern, strings, first)}.",
    )


@picture("after-dropout", "One run's attention after dropout", *HOW, settings.RUN, *WHICH)
def after_dropout(
    view: View, training: bool, rate: float, dropped: list[str], seed: int, run: int, layer: int, head: int, token: int
) -> Chart:
    """The same attention weights after dropout; those that became 0 are crossed out."""
    found = one_run(view, dropout_of(training, rate, dropped, seed), run, layer, head, token)
    first = first_shown(token)
    pattern, after = found.pattern[0, first:, first:], found.dropped[0, first:, first:]
    strings, n_crossed = view.strings[first : token + 1], np.count_nonzero((after == 0) & (pattern > 0))
    return Chart(
        partial(charts.dropped_map, pattern, after, strings),
        f"The same weights after dropout, {n_crossed} of {np.count_nonzero(pattern > 0)} crossed out: "
        f"{descriptions.largest_weight(after, strings, first)}.",
    )
