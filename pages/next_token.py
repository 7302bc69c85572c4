"""Next token: what comes next and how sure the model is, how well it predicted the text, and writing token by token."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from gptviz import charts
from gptviz.analysis.prediction import prediction_table
from gptviz.checkpoints import WeightsError
from gptviz.numerics.sampling import draw, next_token_probabilities
from gptviz.tokens import END_OF_TEXT_ID
from gptviz.ui import chips, descriptions, limits, settings, state, widgets
from gptviz.ui.fragments import fragment, rerun_fragment
from gptviz.ui.markdown import plain
from gptviz.ui.page import About, stop_if_broken
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.view import View

SEVERAL = 20  # the most tokens that one click writes
AT_ONCE = 4  # tokens per run of the fragment: a click on Stop takes effect only between two runs
SAMPLING = (settings.TEMPERATURE, settings.TOP_K, settings.TOP_P)
NUMBERS = {
    "logit": st.column_config.NumberColumn(format="%.4f"),
    "probability": st.column_config.NumberColumn(format="%.6f", help="the model's own"),
    "drawn": st.column_config.NumberColumn(format="%.6f", help="after temperature, top-k and top-p"),
}

ABOUT = About(
    "Next token",
    "Next token",
    "After every token the model gives each of the 50,257 tokens a number, its [[logit]]. A [[softmax]] over the whole "
    "vocabulary makes them probabilities, and one token is drawn from these.",
)


def show(view: View) -> None:
    """Draw the page."""
    show_prediction(view)


def with_continuation(view: View, continuation: tuple[int, ...]) -> View:
    """Return the view of the text and the model's continuation, cut to the context length."""
    tokens = view.tokens + view.engine.tokenizer.tokens(continuation)
    return replace(view, tokens=tokens[: view.config["context_length"]])


@fragment
def show_prediction(view: View) -> None:
    """Draw everything that depends on the continuation. That is the whole page, so it is one fragment."""
    written = with_continuation(view, state.continuation(view.config["vocab_size"]))
    stop_if_broken(written.trace())
    token, seed = choose(written)
    bars_column, writing_column = st.columns([3, 2], gap="medium")
    with bars_column:
        show_bars(written, token)
    with writing_column:
        show_writing(view, written, seed)
    show_foresight(written)


def choose(written: View) -> tuple[int, int]:
    """Draw the pickers. Return the chosen position and the seed."""
    token_column, *columns = st.columns([2, 1, 1, 1, 1, 1])
    token = widgets.position(token_column, written.strings, "After token")
    widgets.number(columns[0], settings.K, "Show", 1, 50, help="How many tokens the chart shows.")
    widgets.slider(
        columns[1],
        settings.TEMPERATURE,
        "Temperature",
        0.0,
        2.0,
        0.05,
        help="Divides the logits: below 1 the probable tokens gain, above 1 the improbable; 0 takes the most probable.",
    )
    widgets.number(
        columns[2], settings.TOP_K, "Top-k", 0, 50_257, help="Only the k most probable can be drawn; 0 keeps all."
    )
    widgets.slider(
        columns[3],
        settings.TOP_P,
        "Top-p",
        0.05,
        1.0,
        0.05,
        help="Only the most probable, until their probabilities sum to p, can be drawn; 1 keeps all.",
    )
    seed = widgets.number(
        columns[4], settings.SEED, "Seed", 0, 999_999, help="The same seed draws the same tokens again."
    )
    return token, seed


def sampling() -> dict[str, Any]:
    """Return the temperature, top-k and top-p settings, for `next_token_probabilities` and `Engine.generate`."""
    return sampling_of(*state.values(SAMPLING))


def sampling_of(temperature: float, top_k: int, top_p: float) -> dict[str, Any]:
    """Return the same for given values."""
    return {"temperature": temperature, "top_k": top_k or None, "top_p": top_p}


# --- what comes next ---------------------------------------------------------------------------


def show_bars(written: View, token: int) -> None:
    """Show the most probable tokens after the chosen one."""
    show_picture(next_token_bars, written, across=3 / 5, taken=15)
    table, n_possible = candidates(written, token, state.get(settings.K), sampling())
    st.caption(
        f"Bar: the probability of being drawn, with these settings, out of {n_possible:,} tokens that can be. "
        "Mark: the model's own probability."
    )
    show_numbers = partial(st.dataframe, table, hide_index=True, column_config=NUMBERS)
    widgets.folded(settings.Fold.CANDIDATES, "The numbers", show_numbers)


@picture("next-token-bars", "The most probable next tokens", settings.TOKEN, settings.K, *SAMPLING)
def next_token_bars(view: View, token: int, k: int, temperature: float, top_k: int, top_p: float) -> Chart:
    """Each token's probability of being drawn, beside the model's own."""
    table, _ = candidates(view, token, k, sampling_of(temperature, top_k, top_p))
    bars = descriptions.valued(descriptions.tokens(table["token"]), table["drawn"], descriptions.percent)
    return Chart(
        partial(charts.next_token_bars, table),
        f"After {descriptions.token(view.strings[token])}: {descriptions.listed(bars)}.",
    )


def candidates(view: View, position: int, k: int, how: dict[str, Any]) -> tuple[pd.DataFrame, int]:
    """Return `Trace.top_k` with a column `drawn`, the probability of being drawn; and how many tokens can be drawn."""
    trace = view.trace()
    drawn = next_token_probabilities(trace.logits_at(position), **how)
    table = trace.top_k(position, k)
    return table.assign(drawn=drawn[table["id"]]), int(np.count_nonzero(drawn))


# --- writing -----------------------------------------------------------------------------------


def show_writing(view: View, written: View, seed: int) -> None:
    """Show the text, and buttons that let the model continue it."""
    st.header("Let it write")
    n_text, n_tokens = len(view.tokens), len(written.tokens)
    most = limits.read().new_tokens
    room = min(view.config["context_length"] - n_tokens, most - (n_tokens - n_text))
    is_new = n_tokens > n_text
    with st.container(horizontal=True):
        add_one = st.button("Add one token", type="primary", disabled=not room, key="add-one")
        add_several = st.button(f"Add {min(SEVERAL, room)}", disabled=not room, key="add-several")
        st.button("Undo", disabled=not is_new, on_click=take_back, args=(1,), key="undo")
        st.button("Clear", disabled=not is_new, on_click=take_back, args=(None,), key="clear")
    strip = st.empty()
    with strip.container():
        show_continuation(view, written)
    if not room and n_tokens - n_text == most:
        st.caption(f"{most:,} tokens are the most that are written here.")
    elif not room:
        st.caption(f"The context is full: this model sees {n_tokens:,} tokens.")
    if add_one:
        probabilities = next_token_probabilities(written.trace().logits_at(-1), **sampling())
        add_token(draw(probabilities, seed, position=n_tokens))
        rerun_fragment()
    n_left = min(room, SEVERAL if add_several else state.to_write(view.tokens.ids))
    if n_left:
        st.button("Stop", icon=":material/stop:", key="stop", on_click=stop_writing)
        try:
            for token in view.model.generate(written.tokens, min(AT_ONCE, n_left), seed=seed, **sampling()):
                n_left = 0 if token.id == END_OF_TEXT_ID else n_left - 1
                state.write(n_left, behind=view.tokens.ids)
                add_token(token.id)
                with strip.container():
                    show_continuation(view, with_continuation(view, state.get(settings.CONTINUATION)))
        except WeightsError as error:
            take_back(1)  # after this token the numbers are broken, so nothing could be shown
            with strip.container():
                show_continuation(view, with_continuation(view, state.get(settings.CONTINUATION)))
            st.error(plain(str(error)), icon=":material/error:")
            return
        rerun_fragment()


def show_continuation(view: View, written: View) -> None:
    """Show the text as it is, and the model's continuation as chips."""
    n_text = len(view.tokens)
    chips.written(view.tokens.text, written.tokens[n_text:], first=n_text)


def add_token(id: int) -> None:
    """Append one token to the continuation."""
    state.put(settings.CONTINUATION, (*state.get(settings.CONTINUATION), id))


def stop_writing() -> None:
    """Stop writing, but keep the continuation."""
    state.write(0, behind=())


def take_back(n_tokens: int | None) -> None:
    """Remove the continuation's last `n_tokens` tokens, or all of it if None."""
    stop_writing()
    state.put(settings.CONTINUATION, state.get(settings.CONTINUATION)[:-n_tokens] if n_tokens else ())


# --- how well it foresaw -----------------------------------------------------------------------


def show_foresight(written: View) -> None:
    """Compare every position's prediction with the token that really follows in the text."""
    st.header("How well it foresaw the text")
    if len(written.tokens) == 1:
        st.caption("One token alone was not foreseen by anything: add a second.")
        return
    with st.spinner("Reading the predictions at every position…"):
        table = written.computed(prediction_table, written.trace())
    mean = table["surprisal_nats"].mean()
    n_first = int((table["rank"] == 1).sum())
    figures = (
        (
            "Mean surprisal",
            f"{mean:.3f} nats",
            "The mean of -ln p over all tokens that follow another: the loss, which training lowers.",
        ),
        ("Perplexity", f"{np.exp(mean):,.1f}", "e to the mean surprisal: as unsure as a choice among so many tokens."),
        (
            "Most probable token right",
            f"{n_first} of {len(written.tokens) - 1}",
            "How often it was the text's next token.",
        ),
    )
    for column, (label, value, explanation) in zip(st.columns(3), figures, strict=True):
        column.metric(label, value, help=explanation, border=True)
    show_picture(surprisal_bars, written)
    widgets.folded(
        settings.Fold.PREDICTIONS, "Every position's prediction", lambda: st.dataframe(table, hide_index=True)
    )


@picture("surprisal-bars", "Surprisal of every token", settings.TOKEN)
def surprisal_bars(view: View, token: int) -> Chart | None:
    """How little the model expected each token, in bits; None if there is only one token."""
    if len(view.tokens) == 1:
        return None
    table = view.computed(prediction_table, view.trace())
    bits = np.concatenate(([np.nan], table["surprisal_bits"].to_numpy()[:-1]))
    return Chart(
        partial(charts.surprisal_bars, view.strings, bits, chosen=token),
        f"Surprisal of every token in bits, the largest: "
        f"{descriptions.largest(descriptions.placed(view.strings), bits)}.",
    )
