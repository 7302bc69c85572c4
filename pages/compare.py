"""Compare: two texts, or two models, side by side."""

import numpy as np
import streamlit as st

import gptviz
from gptviz import charts
from gptviz.analysis.next_tokens import compare_next_tokens
from gptviz.analysis.prediction import prediction_table
from gptviz.numerics.comparison import kl_divergence
from gptviz.trace import Trace
from gptviz.ui import look, models, shared, state, widgets
from gptviz.ui.models import LoadedModel

TWIN = "untrained-twin"
MAPS_SHOWN = 128  # tokens: of longer texts the maps show the first

view = shared.begin(
    "Compare",
    "The text and model on the left, and **another text or another model**: the same questions to both. The untrained "
    "twin has the same shape and random weights: what it lacks is what training brought.",
)


def other_model() -> LoadedModel:
    """The model to compare with."""
    options = ["", TWIN, *(name for name in models.names() if models.on_disk(name) and name != view.engine.name)]
    names = {"": f"the same: {view.engine.name}", TWIN: f"untrained twin of {view.engine.name}"}
    state.one_of(state.OTHER_MODEL, options)
    st.selectbox(
        "Other model", options, format_func=lambda name: names.get(name) or models.title(name),
        key=state.OTHER_MODEL.name, help="Those that are on this machine.",
    )  # fmt: skip
    name = state.get(state.OTHER_MODEL)
    if not name:
        return view.model
    try:
        with st.spinner("Loading the other model…"):
            return models.untrained_twin(state.model_in_use()) if name == TWIN else models.loaded(name)
    except (gptviz.WeightsError, gptviz.ConfigError) as error:
        st.error(look.plain(str(error)), icon=":material/error:")
        return view.model


def against_twin() -> None:
    """The same text, on a model that was never trained."""
    state.put(state.OTHER_TEXT, "")
    state.put(state.OTHER_MODEL, TWIN)


@st.fragment
def show() -> None:
    """What to compare with, and everything that follows from it."""
    text_column, model_column = st.columns([3, 2], vertical_alignment="bottom")
    text_column.text_area(
        "Other text", key=state.OTHER_TEXT.name, placeholder="the same text", height=90, help="Empty: the same text."
    )
    with model_column:
        other = other_model()
        st.button(
            "Trained against untrained",
            on_click=against_twin,
            type="primary",
            key="twin-button",
        )
    text = state.get(state.OTHER_TEXT)
    other_tokens = other.engine.tokenize(text, bos=state.get(state.BOS)) if text else view.tokens
    first = view.trace()
    longest = other.engine.config["context_length"]
    if len(other_tokens) > longest:
        st.caption(f"The other model takes {longest:,} tokens: the last {len(other_tokens) - longest:,} are left out.")
    with st.spinner("Running the other side…"):
        second = other.trace(other_tokens[:longest])
    names = names_of(first, second, other)
    if first.tokens.ids == second.tokens.ids and other is view.model:
        st.info("Both sides are the same so far: type another text, or choose another model.", icon=":material/info:")
    show_tokens(first, second, names)
    show_next(first, second, names)
    show_surprisal((view.model, first), (other, second), names)
    show_heads(first, second, names)
    shared.finish()


def names_of(first: Trace, second: Trace, other: LoadedModel) -> tuple[str, str]:
    """What to call the two sides."""
    if other is not view.model:
        return view.engine.name, other.engine.name
    return ("this text", "other text") if first.tokens.ids != second.tokens.ids else ("this", "the same")


def show_tokens(first: Trace, second: Trace, names: tuple[str, str]) -> None:
    """Both texts as tokens; where they are as long, what differs is framed."""
    ids = first.tokens.ids, second.tokens.ids
    as_long = len(ids[0]) == len(ids[1])
    differing = [at for at, pair in enumerate(zip(*ids, strict=False)) if as_long and pair[0] != pair[1]]
    for column, trace, name in zip(st.columns(2), (first, second), names, strict=True):
        with column:
            st.markdown(f"**{look.code(name)}**, {len(trace):,} tokens")
            look.token_strip(trace.tokens, marked=differing)


def show_next(first: Trace, second: Trace, names: tuple[str, str]) -> None:
    """Both predictions after the last token."""
    st.subheader("Next token, after the last one")
    logits = first.logits_at(-1), second.logits_at(-1)
    n_ids = min(map(len, logits))  # a model may know tokens that were added
    logits = logits[0][:n_ids], logits[1][:n_ids]
    bars_column, numbers_column = st.columns([3, 1])
    with bars_column:
        look.chart(
            charts.next_token_pair(compare_next_tokens(*logits, k=7), names, theme=look.theme()),
            key="next-pair", alt="The most probable next tokens of both sides.",
        )  # fmt: skip
    with numbers_column:
        told = "How much the second prediction misses of the first, over the whole vocabulary; 0 is the same."
        st.metric("KL divergence", f"{kl_divergence(*logits):.4f} nats", border=True, help=told)
        st.metric(
            "KL the other way round", f"{kl_divergence(*reversed(logits)):.4f} nats", border=True,
            help="How much the first misses of the second.",
        )  # fmt: skip


def show_surprisal(first: tuple[LoadedModel, Trace], second: tuple[LoadedModel, Trace], names: tuple[str, str]) -> None:
    """How little each side expected each token."""
    st.subheader("Surprisal of every token")
    bits, means = [], []
    for model, trace in (first, second):
        with st.spinner("Reading the predictions at every position…"):
            table = model.result(trace.tokens, "prediction", lambda trace=trace: prediction_table(trace))  # type: ignore[misc]
        bits.append(np.append(np.nan, table["surprisal_bits"].to_numpy(float)[:-1]))
        means.append(table["surprisal_nats"].mean())
    for column, mean, name in zip(st.columns(2), means, names, strict=True):
        shown = "one token: none" if np.isnan(mean) else f"{mean:.3f} nats ({mean / np.log(2):.2f} bits)"
        column.metric(f"Mean loss: {look.code(name)}", shown, border=True)
    if first[1].tokens.ids == second[1].tokens.ids:
        look.chart(
            charts.token_lines(
                dict(zip(names, bits, strict=True)), first[1].tokens.strings, what="bits", theme=look.theme()
            ),
            key="surprisal-pair", alt="Surprisal of every token for both sides.",
        )  # fmt: skip
        return
    for column, (_, trace), one, number in zip(st.columns(2), (first, second), bits, (1, 2), strict=True):
        with column:
            look.chart(
                charts.surprisal_bars(trace.tokens.strings, one, beside=bits, theme=look.theme()),
                key=f"surprisal-{number}", alt="Surprisal of every token of this side.",
            )  # fmt: skip


def show_heads(first: Trace, second: Trace, names: tuple[str, str]) -> None:
    """One head's maps, and their difference where the positions match."""
    st.subheader("One head")
    layer_column, head_column, _ = st.columns([1, 1, 3])
    fewest = {key: min(first.config[key], second.config[key]) for key in ("n_layers", "n_heads")}
    layer = widgets.number(layer_column, state.LAYER, "Layer", 0, fewest["n_layers"] - 1)
    head = widgets.number(head_column, state.HEAD, "Head", 0, fewest["n_heads"] - 1)
    shown = [trace.tokens[:MAPS_SHOWN] for trace in (first, second)]
    patterns = [
        trace["pattern", layer][head, : len(tokens), : len(tokens)]
        for trace, tokens in zip((first, second), shown, strict=True)
    ]
    for number, (column, pattern, tokens, name) in enumerate(zip(st.columns(2), patterns, shown, names, strict=True)):
        with column:
            st.markdown(f"**{look.code(name)}**")
            look.chart(
                charts.attention_map(pattern, tokens.strings, theme=look.theme()),
                key=f"head-{number}", alt=f"The weights of head {head} in layer {layer}.",
            )  # fmt: skip
    if len(first) > MAPS_SHOWN or len(second) > MAPS_SHOWN:
        st.caption(f"The maps show the first {MAPS_SHOWN} tokens.")
    if len(first) != len(second):
        st.caption("The two sides have different numbers of tokens, so the maps have no difference cell by cell.")
        return
    st.markdown(f"**Difference: {look.code(names[1])} minus {look.code(names[0])}**")
    with st.columns([3, 2])[0]:
        look.chart(
            charts.token_pair_map(
                patterns[1] - patterns[0], shown[1].strings, what="weight", limit=1.0, masked=True, down="query",
                across="key", theme=look.theme(),
            ),
            key="head-difference", alt="The difference of the two maps.",
        )  # fmt: skip


show()
