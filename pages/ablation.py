"""Ablation: switch parts of the model off, and see what it says without them."""

from functools import partial

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from gptviz import charts
from gptviz.analysis.logit_lens import logit_lens
from gptviz.analysis.next_tokens import compare_next_tokens
from gptviz.analysis.prediction import prediction_table
from gptviz.config import GPTConfig
from gptviz.interventions import Part
from gptviz.numerics.comparison import kl_divergence
from gptviz.trace import Trace
from gptviz.ui import descriptions, settings, state, widgets
from gptviz.ui.fragments import fragment
from gptviz.ui.page import About
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.settings import Replacement
from gptviz.ui.view import View

WINDOW = 6  # positions that each of the two lenses shows
COLUMNS = {"attention": "attention", "mlp": "MLP", "shortcut1": "shortcut 1", "shortcut2": "shortcut 2"}
ALL = {"attention": ("attention",), "MLPs": ("mlp",), "shortcuts": ("shortcut1", "shortcut2")}
SIDES = ("before", "after")
OPEN = (settings.LAYER, settings.HEAD)

ABOUT = About(
    "Ablation",
    "Ablation",
    "What is a part good for? **Switch it off** ([[ablation]]), and compare what the model says before and after. "
    "A head is switched off before the output projection mixes it with the others; a shortcut lets only its "
    "sub-layer's output through.",
)


def show(view: View) -> None:
    """Draw the page."""
    show_ablation(view)


@fragment
def show_ablation(view: View) -> None:
    """Draw the switches and everything that depends on them."""
    off = state.parts_off(view.config)
    board_column, bars_column = st.columns([11, 9], gap="medium")
    with board_column:
        show_picture(switch_board, view, across=11 / 20, taken=15)
        st.caption("Click a part to switch it off, or on again. Where a layer's attention is off, its heads are too.")
    token_column, replacement_column = bars_column.columns(2, vertical_alignment="bottom")
    token = widgets.position(token_column, view.strings, "After token")
    with replacement_column:
        replacement = widgets.choice(
            st.segmented_control,
            settings.REPLACEMENT,
            "What takes their place",
            widgets.REPLACEMENTS,
            help="Zero, or the mean of what the part gives at the positions of this text. A shortcut is always zero.",
        )
    before, after = (side(view, off, replacement, which) for which in SIDES)
    with bars_column:
        show_picture(before_after, view, across=9 / 20, taken=19)
    show_figures(view, before, after, token)
    show_choices(view, off)
    show_token_changes(view)
    show_lenses(view, token)


def side(view: View, off: tuple[Part, ...], replacement: str, which: str) -> Trace:
    """Return the trace of one side: before, with everything on, or after."""
    return view.trace(off, by_mean=replacement == Replacement.MEAN) if which == "after" else view.trace()


def parts_of(words: list[str], layer: int, head: int) -> tuple[Part, ...]:
    """Return the parts that the setting `OFF` names, where head `head` of layer `layer` is open."""
    return tuple(map(Part.parse, settings.parts_off(words, layer, head)))


# --- the switches ------------------------------------------------------------------------------


@picture("board", "Every part as a switch", settings.OFF, *OPEN)
def switch_board(view: View, off: list[str], layer: int, head: int) -> Chart:
    """The switches: heads, attention, MLP and shortcuts of every layer."""
    columns = [str(head) for head in range(view.config["n_heads"])] + list(COLUMNS.values())
    board, words = parts(view.config), settings.parts_off(off, layer, head)
    crossed = descriptions.listed([part for part in board.ravel().tolist() if part in words])
    return Chart(
        partial(charts.switch_board, board, columns, words),
        f"Switches for the {board.size} heads, attentions, MLPs and shortcuts of the model. Off: {crossed}.",
    )


def parts(config: GPTConfig) -> NDArray[np.str_]:
    """Return the names of the parts on the board: [layer, column]."""
    return np.array(
        [
            [str(Part("head", layer, head)) for head in range(config["n_heads"])]
            + [str(Part(kind, layer)) for kind in COLUMNS]
            for layer in range(config["n_layers"])
        ]
    )


def switch_all(n_layers: int, kinds: tuple[str, ...], off: list[str]) -> None:
    """Switch the parts of these kinds off in every layer, or all on again if they are among those `off`."""
    words = [str(Part(kind, layer)) for layer in range(n_layers) for kind in kinds]
    state.put(settings.OFF, [word for word in off if word not in words] + ([] if set(words) <= set(off) else words))


def show_choices(view: View, off: tuple[Part, ...]) -> None:
    """Draw the switches for the keyboard, for neurons and for whole columns."""
    neurons = [str(part) for part in off if part.kind == "neuron"]
    widgets.several(
        st.multiselect,
        settings.OFF,
        "Switched off",
        [*parts(view.config).ravel().tolist(), *neurons],
        value=[str(part) for part in off],
        placeholder="nothing",
        help="L2H5 is head 5 of layer 2, L2N17 neuron 17 of its MLP. Type to find a part.",
    )
    with st.container(horizontal=True):
        for name, kinds in ALL.items():
            st.button(
                f"All {name} off/on",
                on_click=switch_all,
                args=(view.config["n_layers"], kinds, list(map(str, off))),
                key=f"all-{name}",
            )
        st.button("Switch all on", on_click=state.put, args=(settings.OFF, []), key="nothing-off", disabled=not off)
        with st.popover("A neuron"):
            show_neuron_switch(view, off)


def show_neuron_switch(view: View, off: tuple[Part, ...]) -> None:
    """Draw the pickers for any neuron, and its switch."""
    layer = widgets.number(st.container(), settings.NEURON_LAYER, "Layer", 0, view.config["n_layers"] - 1)
    number = widgets.number(st.container(), settings.NEURON, "Neuron", 0, 4 * view.config["emb_dim"] - 1)
    word = str(Part("neuron", layer, number))
    on_or_off = "on" if Part.parse(word) in off else "off"
    st.button(f"Switch {word} {on_or_off}", on_click=state.switch, args=(word,), key="switch-neuron", type="primary")


# --- before and after --------------------------------------------------------------------------


def show_figures(view: View, before: Trace, after: Trace, token: int) -> None:
    """Show the KL divergence and the mean surprisal of both runs."""
    losses = [view.computed(prediction_table, trace)["surprisal_nats"].mean() for trace in (before, after)]
    first, second, third = st.columns(3)
    first.metric(
        "KL divergence after this token",
        f"{kl_divergence(before.logits_at(token), after.logits_at(token)):.4f} nats",
        border=True,
        help="Of the prediction after from the one before: 0 is no change.",
    )
    if len(view.tokens) > 1:
        second.metric(
            "Mean surprisal before", f"{losses[0]:.3f} nats", border=True, help="Of all tokens but the first."
        )
        third.metric(
            "Mean surprisal after",
            f"{losses[1]:.3f} nats",
            changed(losses[1] - losses[0]),
            delta_color="inverse",
            border=True,
        )


def changed(difference: float) -> str | None:
    """Return a difference as text, or None if it rounds to 0."""
    shown = f"{difference:+.3f}"
    return None if float(shown) == 0 else shown


@picture("before-after", "Next tokens before and after", settings.OFF, *OPEN, settings.REPLACEMENT, settings.TOKEN)
def before_after(view: View, off: list[str], layer: int, head: int, replacement: str, token: int) -> Chart:
    """The most probable next tokens of both runs."""
    before, after = (side(view, parts_of(off, layer, head), replacement, which).logits_at(token) for which in SIDES)
    table = compare_next_tokens(before, after, k=7)
    return Chart(
        partial(charts.next_token_pair, table, SIDES),
        f"After {descriptions.token(view.strings[token])}: {descriptions.changes(table, *SIDES)}.",
    )


def show_token_changes(view: View) -> None:
    """Show how much every token's log-probability changed."""
    st.header("Every token of the text")
    if not show_picture(token_changes, view):
        st.caption("One token alone was not foreseen by anything: add a second.")
        return
    st.caption("Change of each token's log-probability, given those before it. Below 0: what is off had helped.")


@picture("token-changes", "What every token lost", settings.OFF, *OPEN, settings.REPLACEMENT)
def token_changes(view: View, off: list[str], layer: int, head: int, replacement: str) -> Chart | None:
    """The change of every token's log-probability, in nats; None if there is only one token."""
    if len(view.tokens) == 1:
        return None
    before, after = (
        view.computed(prediction_table, side(view, parts_of(off, layer, head), replacement, which))[
            "surprisal_nats"
        ].to_numpy(float)
        for which in SIDES
    )
    change = np.append(np.nan, (before - after)[:-1])
    extremes = descriptions.extremes(descriptions.placed(view.strings), change)
    return Chart(
        partial(charts.value_bars, change, view.strings, what="nats"),
        f"Change of every token's log-probability, in nats: {extremes}.",
    )


def show_lenses(view: View, token: int) -> None:
    """Show the logit lens before and after."""
    st.header("Logit lens, before and after")
    for column, which in zip(st.columns(2), SIDES, strict=True):
        with column:
            st.markdown(f"**{which.title()}**")
            with st.spinner("Reading the stream at every depth…"):
                show_picture(lens, view, variant=which, across=1 / 2)
    if len(view.tokens) > WINDOW:
        window = lens_window(view, token)
        st.caption(f"Positions {window.start} to {window.stop - 1}: choose another token to see the rest.")


@picture(
    "ablation-lens",
    "Logit lens before and after",
    settings.OFF,
    *OPEN,
    settings.REPLACEMENT,
    settings.TOKEN,
    variants=SIDES,
)
def lens(view: View, off: list[str], layer: int, head: int, replacement: str, token: int, variant: str) -> Chart:
    """The most probable token at every depth, for one of the two runs."""
    window = lens_window(view, token)
    found = view.computed(
        logit_lens, side(view, parts_of(off, layer, head), replacement, variant), positions=window, measured=False
    )
    at = token - window.start
    course = descriptions.lens_course(found.strings[:, at, 0], found.probabilities[:, at, 0], found.labels)
    return Chart(
        partial(
            charts.lens_map, found.probabilities, found.strings, found.labels, view.strings[window], first=window.start
        ),
        f"Logit lens {variant}. After {descriptions.token(view.strings[token])}: {course}.",
    )


def lens_window(view: View, token: int) -> slice:
    """Return the positions that the lenses show. The last one is the chosen one, where the text allows."""
    first = max(0, min(token - WINDOW + 1, len(view.tokens) - WINDOW))
    return slice(first, first + WINDOW)
