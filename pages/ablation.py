"""Ablation: switch parts of the model off, and see what it says without them."""

from functools import partial

import numpy as np
import streamlit as st

from gptviz import charts
from gptviz.analysis.logit_lens import logit_lens
from gptviz.analysis.next_tokens import compare_next_tokens
from gptviz.analysis.prediction import prediction_table
from gptviz.interventions import Part
from gptviz.numerics.comparison import kl_divergence
from gptviz.trace import Trace
from gptviz.ui import look, shared, state, widgets

WINDOW = 6  # positions of each of the two lenses
COLUMNS = {"attention": "attention", "mlp": "MLP", "shortcut1": "shortcut 1", "shortcut2": "shortcut 2"}
ALL = {"attention": ("attention",), "MLPs": ("mlp",), "shortcuts": ("shortcut1", "shortcut2")}

view = shared.begin(
    "Ablation",
    "What is a part good for? **Switch it off**, and compare what the model says before and after. A head is switched "
    "off before the output projection mixes it with the others; a shortcut lets only its sub-layer's output through.",
)
config = view.engine.config
strings = view.tokens.strings
parts = np.array(
    [
        [str(Part("head", layer, head)) for head in range(config["n_heads"])]
        + [str(Part(kind, layer)) for kind in COLUMNS]
        for layer in range(config["n_layers"])
    ]
)  # [layer, column]


def switch_clicked() -> None:
    """A click on a cell switches that part."""
    word = state.clicked_again("board")
    if word is not None:
        state.switch(word)


def switch_all(kinds: tuple[str, ...]) -> None:
    """Switch the parts of these kinds off in every layer, or all on again if they are off."""
    words = [str(Part(kind, layer)) for layer in range(config["n_layers"]) for kind in kinds]
    off = state.get(state.OFF)
    state.put(state.OFF, [word for word in off if word not in words] + ([] if set(words) <= set(off) else words))


@st.fragment
def show() -> None:
    """What is off, and everything that follows from it."""
    off = state.parts_off(config)
    board_column, list_column = st.columns([3, 2], gap="large")
    with board_column:
        look.chart(
            charts.switch_board(
                parts, [str(head) for head in range(config["n_heads"])] + list(COLUMNS.values()),
                [str(part) for part in off], theme=look.theme(),
            ),
            key="board", alt="Every head, attention, MLP and shortcut of the model; a click switches one off.",
            on_click=switch_clicked,
        )  # fmt: skip
        st.caption(
            "Numbers are heads. A click switches a part off, another click on again. Where a layer's attention is off, "
            "its heads are too."
        )
    with list_column:
        by_mean = show_choices(off)
    after = view.trace(off, by_mean=by_mean)
    show_changes(view.trace(), after, ("changed", off, by_mean))
    shared.finish()


def show_choices(off: tuple[Part, ...]) -> bool:
    """The same by keyboard, neurons, whole columns; gives whether means take the parts' place."""
    neurons = [str(part) for part in off if part.kind == "neuron"]
    st.multiselect(
        "Switched off", [*parts.ravel().tolist(), *neurons], key=state.OFF.name, placeholder="nothing",
        help="L2H5 is head 5 of layer 2, L2N17 neuron 17 of its MLP. Type to find a part.",
    )  # fmt: skip
    with st.container(horizontal=True):
        for name, kinds in ALL.items():
            st.button(f"All {name} off/on", on_click=switch_all, args=(kinds,), key=f"all-{name}")
        st.button("Switch all on", on_click=state.put, args=(state.OFF, []), key="nothing-off", disabled=not off)
        with st.popover("A neuron"):
            layer = widgets.number(st.container(), state.NEURON_LAYER, "Layer", 0, config["n_layers"] - 1)
            number = widgets.number(st.container(), state.NEURON, "Neuron", 0, 4 * config["emb_dim"] - 1)
            word = str(Part("neuron", layer, number))
            st.button(
                f"Switch {word} {'on' if word in state.get(state.OFF) else 'off'}",
                on_click=state.switch,
                args=(word,),
                key="switch-neuron",
                type="primary",
            )
    state.one_of(state.REPLACEMENT, ["zero", "mean"])
    st.segmented_control(
        "What takes their place", ["zero", "mean"], key=state.REPLACEMENT.name, required=True,
        help="Zero, or the mean of what the part gives at the positions of this text. A shortcut is always zero.",
    )  # fmt: skip
    return state.get(state.REPLACEMENT) == "mean"


def changed(difference: float) -> str | None:
    """A difference for people; none where it rounds to 0."""
    shown = f"{difference:+.3f}"
    return None if float(shown) == 0 else shown


def show_changes(before: Trace, after: Trace, name: tuple[object, ...]) -> None:
    """Before and after, side by side."""
    chosen = widgets.position(st.container(), strings, "After token")
    logits = before.logits_at(chosen), after.logits_at(chosen)
    tables = [
        view.model.result(view.tokens, ("prediction", *extra), partial(prediction_table, trace))
        for trace, extra in ((before, ()), (after, name))
    ]
    losses = [table["surprisal_nats"].mean() for table in tables]
    first, second, third = st.columns(3)
    first.metric(
        "Divergence after this token", f"{kl_divergence(*logits):.4f} nats", border=True,
        help="KL divergence of the prediction after from the one before: 0 is no change.",
    )  # fmt: skip
    if len(strings) > 1:
        second.metric("Mean loss before", f"{losses[0]:.3f} nats", border=True, help="Of all tokens but the first.")
        third.metric(
            "Mean loss after",
            f"{losses[1]:.3f} nats",
            changed(losses[1] - losses[0]),
            delta_color="inverse",
            border=True,
        )
    bars_column, tokens_column = st.columns(2, gap="large")
    with bars_column:
        st.subheader(f"After {look.code(strings[chosen])}")
        look.chart(
            charts.next_token_pair(compare_next_tokens(*logits, k=7), ("before", "after"), theme=look.theme()),
            key="before-after", alt="The most probable next tokens before and after.",
        )  # fmt: skip
    with tokens_column:
        st.subheader("Every token of the text")
        if len(strings) == 1:
            st.caption("One token alone was not foreseen by anything: add a second.")
        else:
            change = tables[0]["surprisal_nats"].to_numpy(float) - tables[1]["surprisal_nats"].to_numpy(float)
            look.chart(
                charts.value_bars(np.append(np.nan, change[:-1]), strings, what="nats", theme=look.theme()),
                key="token-changes", alt="Change of every token's log-probability, given those before it.",
            )  # fmt: skip
            st.caption(
                "Change of each token's log-probability, given those before it. Below 0: what is off had helped."
            )
    show_lenses(before, after, chosen, name)


def show_lenses(before: Trace, after: Trace, chosen: int, name: tuple[object, ...]) -> None:
    """The logit lens before and after."""
    st.subheader("Logit lens, before and after")
    start = max(0, min(chosen - WINDOW + 1, len(strings) - WINDOW))
    window = slice(start, start + WINDOW)
    for column, (title, trace, extra) in zip(
        st.columns(2), (("Before", before, ()), ("After", after, name)), strict=True
    ):
        with column:
            st.markdown(f"**{title}**")
            with st.spinner("Reading the stream at every depth…"):
                grid = view.model.result(
                    view.tokens, ("lens", start, WINDOW, *extra),
                    partial(logit_lens, trace, positions=window),
                )  # fmt: skip
            look.chart(
                charts.lens_map(grid.probabilities, grid.strings, grid.labels, strings[window], theme=look.theme()),
                key=f"lens-{title.lower()}", alt=f"The most probable token at every depth, {title.lower()}.",
            )  # fmt: skip
    if len(strings) > WINDOW:
        st.caption(f"Positions {start} to {start + WINDOW - 1}: choose another token to see the rest.")


show()
