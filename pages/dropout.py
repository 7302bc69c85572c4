"""Dropout: what it zeroes in training, and how predictions and attention scatter because of it."""

import numpy as np
import streamlit as st

from gptviz import charts
from gptviz.experiments.dropout import PLACES, Dropout, Spread, dropout_runs, spread
from gptviz.numerics.ranking import top_ids
from gptviz.numerics.sampling import softmax
from gptviz.tokens import strings_of
from gptviz.trace import Trace
from gptviz.ui import look, shared, state, widgets

MOST_RUNS = 200
KEYS_SHOWN = 16  # tokens that one looks at most: their weights' spread is shown
MAP_SHOWN = 64  # tokens of the map of one run
NUMBERS = 8  # next tokens
WHERE = {"embedding": "after the embeddings", "attention": "attention weights", "shortcut": "before the shortcuts"}

view = shared.begin(
    "Dropout",
    "In **training**, dropout makes a random share of numbers 0 at every pass, and scales up those that stay by "
    "1 / (1 - rate), so that no part can rely on another. In **evaluation** it does nothing: the same text always "
    "gives the same answer.",
)
config = view.engine.config


@st.fragment
def show() -> None:
    """The choices, and what the runs give."""
    how, n_runs = choose()
    layer_column, head_column, token_column = st.columns([1, 1, 2])
    layer = widgets.number(layer_column, state.LAYER, "Layer", 0, config["n_layers"] - 1)
    head = widgets.number(head_column, state.HEAD, "Head", 0, config["n_heads"] - 1)
    chosen = widgets.position(token_column, view.tokens.strings, "After token")
    tokens = view.tokens[: chosen + 1]  # later ones are not seen
    trace = view.trace()
    ids = top_ids(trace.logits_at(chosen), NUMBERS)
    key = ("dropout", how, n_runs, layer, head)
    bar = None if view.model.has(tokens, key) else st.progress(0.0, text="Running…")
    found: Spread = view.model.result(
        tokens, key,
        lambda: spread(
            view.engine, tokens, how, n_runs, layer=layer, head=head, ids=ids.tolist(),
            progress=lambda done, runs: bar.progress(done / runs, text=f"{done} of {runs} runs") if bar else None,
        ),
    )  # fmt: skip
    if bar:
        bar.empty()
    show_spread(found, trace, chosen, ids, layer, head)
    show_one_run(how, n_runs, layer, head, chosen)
    shared.finish()


def choose() -> tuple[Dropout, int]:
    """Mode, rate, places, seed and number of runs."""
    mode_column, rate_column, runs_column, seed_column = st.columns([2, 2, 1, 1], vertical_alignment="center")
    training = mode_column.toggle(
        "Training mode", key=state.TRAINING.name, help="PyTorch: model.train(). Off is model.eval(): no dropout."
    )
    rate = widgets.slider(
        rate_column, state.RATE, "Rate", 0.0, 0.9, 0.05,
        help=f"The share of numbers that become 0. This model was configured with {config['drop_rate']}.",
    )  # fmt: skip
    n_runs = widgets.number(runs_column, state.RUNS, "Runs", 1, MOST_RUNS)
    seed = widgets.number(
        seed_column, state.SEED, "Seed", 0, 999_999, help="The same seed drops the same numbers again."
    )
    state.some_of(state.DROPPED, list(PLACES))
    st.pills(
        "Where", list(PLACES), format_func=WHERE.__getitem__, selection_mode="multi", key=state.DROPPED.name,
        help="The three places where the course's model drops.",
    )  # fmt: skip
    places = tuple(place for place in PLACES if place in state.get(state.DROPPED))
    return Dropout(rate if training else 0.0, places, seed), n_runs


def show_spread(found: Spread, trace: Trace, chosen: int, ids: np.ndarray, layer: int, head: int) -> None:
    """Predictions and one row of attention, over the runs, around the evaluation's."""
    own = softmax(trace.logits_at(chosen))[ids]
    row = trace["pattern", layer][head, chosen, : chosen + 1]
    shown = np.sort(np.argsort(-row, kind="stable")[:KEYS_SHOWN])
    next_column, weights_column = st.columns(2, gap="large")
    with next_column:
        st.subheader(f"After {look.code(view.tokens.strings[chosen])}")
        look.chart(
            charts.run_spread(found.probabilities, own, strings_of(ids), what="probability", theme=look.theme()),
            key="spread", alt="The probabilities of the likeliest next tokens in every run.",
        )  # fmt: skip
        changed = int((found.probabilities.argmax(axis=1) != 0).sum())
        st.caption(
            f"In {changed} of {len(found.probabilities)} runs another of these tokens comes out on top. Dropout keeps "
            "the mean of every number that it touches, but the model is not linear: their mean may lie elsewhere."
        )
    with weights_column:
        st.subheader(f"What {look.code(view.tokens.strings[chosen])} attends to")
        strings = [f"{at} · {view.tokens.strings[at]}" for at in shown]
        look.chart(
            charts.run_spread(found.weights[:, shown], row[shown], strings, what="weight", theme=look.theme()),
            key="spread-weights", alt=f"Weights of head {head} in layer {layer} in every run.",
        )  # fmt: skip
        st.caption("After dropout: 0 where the weight was dropped, larger than before where it stayed.")


def show_one_run(how: Dropout, n_runs: int, layer: int, head: int, chosen: int) -> None:
    """What one pass zeroes."""
    st.subheader("One pass: what is zeroed")
    run = widgets.number(st.columns([1, 4])[0], state.RUN, "Run", 0, n_runs - 1)
    first = max(0, chosen + 1 - MAP_SHOWN)
    tokens = view.tokens[: chosen + 1]
    with st.spinner("Running once more…"):
        found = view.model.result(
            tokens, ("dropped", how, run, layer, head),
            lambda: dropout_runs(view.engine, tokens, how, range(run, run + 1), layer=layer, head=head),
        )  # fmt: skip
    pattern, dropped = found.pattern[0, first:, first:], found.dropped[0, first:, first:]
    possible = int((found.pattern[0] > 0).sum())
    zeroed = int(((found.dropped[0] == 0) & (found.pattern[0] > 0)).sum())
    before_column, after_column = st.columns(2)
    strings = tokens.strings[first:]
    with before_column:
        st.markdown("**Weights of this run, before dropout:** rows sum to 1")
        look.chart(
            charts.attention_map(pattern, strings, theme=look.theme()),
            key="before-dropout", alt=f"Weights of head {head} in layer {layer} before dropout.",
        )  # fmt: skip
    with after_column:
        scale = (
            f"the rest times {1 / (1 - how.rate):.3g}" if how.rate and "attention" in how.places else "nothing changes"
        )
        st.markdown(f"**After dropout:** {zeroed} of {possible} zeroed (×), {scale}")
        look.chart(
            charts.dropped_map(pattern, dropped, strings, theme=look.theme()),
            key="after-dropout", alt="The same weights after dropout; those that became 0 are crossed.",
        )  # fmt: skip
    if first:
        st.caption(f"The maps show positions {first} to {chosen}.")


show()
