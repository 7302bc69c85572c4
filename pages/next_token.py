"""Next token: what comes next and how sure the model is, how well it foresaw the text, and one token after another."""

from dataclasses import replace
from typing import Any

import numpy as np
import streamlit as st

from gptviz import charts
from gptviz.analysis.prediction import prediction_table
from gptviz.numerics.sampling import draw, next_token_probabilities
from gptviz.tokens import END_OF_TEXT_ID, Tokens
from gptviz.trace import Trace
from gptviz.ui import limits, look, shared, state, widgets

SEVERAL = 20  # tokens that one click writes at most
NUMBERS = {
    "logit": st.column_config.NumberColumn(format="%.4f"),
    "probability": st.column_config.NumberColumn(format="%.6f", help="the model's own"),
    "drawn": st.column_config.NumberColumn(format="%.6f", help="after temperature, top-k and top-p"),
}
AT_ONCE = 4  # of these: a click on Stop is heard between two runs of a fragment, not within one

view = shared.begin(
    "Next token",
    "After every token the model gives each of the 50,257 tokens a score, its **logit**. A softmax over the whole "
    "vocabulary makes them probabilities, and one token is drawn from these.",
)


def text_and_continuation() -> Tokens:
    """The text's tokens and those that the model went on with, as far as the context reaches."""
    continuation = state.continuation(view.engine.config["vocab_size"])
    tokens = view.tokens + view.engine.tokenizer.tokens(continuation)
    return tokens[: view.engine.config["context_length"]]


@st.fragment
def show_prediction() -> None:
    """Everything here depends on the continuation, so it is one fragment."""
    tokens = text_and_continuation()
    trace = replace(view, tokens=tokens).trace()
    shared.stop_if_broken(view.model, trace)

    token_column, *number_columns = st.columns([2, 1, 1, 1, 1, 1])
    chosen = widgets.position(token_column, tokens.strings, "After token")
    k = widgets.number(number_columns[0], state.K, "Show", 1, 50, help="How many tokens the chart shows.")
    temperature = widgets.slider(
        number_columns[1], state.TEMPERATURE, "Temperature", 0.0, 2.0, 0.05,
        help="Divides the logits: below 1 the likely tokens gain, above 1 the unlikely; 0 always takes the first.",
    )  # fmt: skip
    top_k = widgets.number(
        number_columns[2], state.TOP_K, "Top-k", 0, 50_257, help="Only the k most probable can be drawn; 0 keeps all."
    )
    top_p = widgets.slider(
        number_columns[3], state.TOP_P, "Top-p", 0.05, 1.0, 0.05,
        help="Only the most probable, until their probabilities sum to p, can be drawn; 1 keeps all.",
    )  # fmt: skip
    seed = widgets.number(
        number_columns[4], state.SEED, "Seed", 0, 999_999, help="The same seed draws the same tokens again."
    )
    how = {"temperature": temperature, "top_k": top_k or None, "top_p": top_p}

    bars_column, writing_column = st.columns([3, 2], gap="large")
    with bars_column:
        show_bars(trace, chosen, k, how)
    with writing_column:
        show_writing(tokens, trace, seed, how)
    show_foresight(trace, chosen)
    shared.finish()


def show_bars(trace: Trace, chosen: int, k: int, how: dict[str, Any]) -> None:
    """The most probable tokens after the chosen one."""
    st.subheader(f"After {look.code(trace.tokens.strings[chosen])}")
    drawn = next_token_probabilities(trace.logits_at(chosen), **how)
    table = trace.top_k(chosen, k).assign(drawn=lambda rows: drawn[rows["id"]])
    look.chart(
        charts.next_token_bars(table, theme=look.theme()),
        key="next-token-bars",
        alt=f"The {k} most probable next tokens after position {chosen}.",
    )
    n_possible = int(np.count_nonzero(drawn))
    st.caption(
        f"Bar: the probability of being drawn, with these settings, out of {n_possible:,} tokens that can be. "
        "Mark: the model's own probability."
    )
    widgets.folded("The numbers", lambda: st.dataframe(table, hide_index=True, column_config=NUMBERS))


def show_writing(tokens: Tokens, trace: Trace, seed: int, how: dict[str, Any]) -> None:
    """The text, and buttons to let the model go on with it."""
    st.subheader("Let it write")
    n_text = len(view.tokens)
    most = limits.read().new_tokens
    room = min(view.engine.config["context_length"] - len(tokens), most - (len(tokens) - n_text))
    is_new = len(tokens) > n_text
    with st.container(horizontal=True):
        add_one = st.button("Add one token", type="primary", disabled=not room, key="add-one")
        add_several = st.button(f"Add {min(SEVERAL, room)}", disabled=not room, key="add-several")
        st.button("Undo", disabled=not is_new, on_click=take_back, args=(1,), key="undo")
        st.button("Clear", disabled=not is_new, on_click=take_back, args=(None,), key="clear")

    strip = st.empty()
    with strip.container():
        show_continuation(tokens)
    if not room and len(tokens) - n_text == most:
        st.caption(f"{most:,} tokens are the most that are written here.")
    elif not room:
        st.caption(f"The context is full: this model sees {len(tokens):,} tokens.")
    if add_one:
        probabilities = next_token_probabilities(trace.logits_at(-1), **how)
        add_token(draw(probabilities, seed, position=len(tokens)))
        shared.rerun_fragment()
    n_left = min(room, SEVERAL if add_several else state.to_write(view.tokens.ids))
    if n_left:
        st.button("Stop", icon=":material/stop:", key="stop", on_click=stop_writing)
        for token in view.model.generate(tokens, min(AT_ONCE, n_left), seed=seed, **how):
            n_left = 0 if token.id == END_OF_TEXT_ID else n_left - 1
            state.write(n_left, behind=view.tokens.ids)
            add_token(token.id)
            with strip.container():
                show_continuation(text_and_continuation())
        shared.rerun_fragment()


def show_continuation(tokens: Tokens) -> None:
    """The text plain, and what the model wrote as chips."""
    n_text = len(view.tokens)
    look.written(view.tokens.text, tokens[n_text:], first=n_text)


def add_token(id: int) -> None:
    """Put one token behind the continuation."""
    state.put(state.CONTINUATION, (*state.get(state.CONTINUATION), id))


def stop_writing() -> None:
    """Keep what was written, and write no more."""
    state.write(0, behind=())


def take_back(n_tokens: int | None) -> None:
    """Take the continuation's last tokens back, or all of it."""
    stop_writing()
    state.put(state.CONTINUATION, state.get(state.CONTINUATION)[:-n_tokens] if n_tokens else ())


def show_foresight(trace: Trace, chosen: int) -> None:
    """Every position's prediction, held against what the text really goes on with."""
    st.subheader("How well it foresaw the text")
    if len(trace) == 1:
        st.caption("One token alone was not foreseen by anything: add a second.")
        return
    with st.spinner("Reading the predictions at every position…"):
        table = view.model.result(trace.tokens, "prediction", lambda: prediction_table(trace))
    mean = table["surprisal_nats"].mean()
    n_first = int((table["rank"] == 1).sum())
    for column, (label, value, explanation) in zip(
        st.columns(3),
        (
            (
                "Mean loss",
                f"{mean:.3f} nats",
                "The mean of -ln p over all tokens that follow another: what training lowers.",
            ),
            ("Perplexity", f"{np.exp(mean):,.1f}", "e to the mean loss: as unsure as a choice among so many tokens."),
            (
                "First guess right",
                f"{n_first} of {len(trace) - 1}",
                "How often the most probable token was the text's.",
            ),
        ),
        strict=True,
    ):
        column.metric(label, value, help=explanation, border=True)
    bits = np.concatenate(([np.nan], table["surprisal_bits"].to_numpy()[:-1]))
    look.chart(
        charts.surprisal_bars(trace.tokens.strings, bits, chosen=chosen, theme=look.theme()),
        key="surprisal-bars",
        alt="Surprisal of every token, in bits: how little the model expected it.",
    )
    widgets.folded("Every position's prediction", lambda: st.dataframe(table, hide_index=True))


show_prediction()
