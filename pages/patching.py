"""Patching: which activation of one prompt brings its answer back in another."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from gptviz import charts
from gptviz.experiments.patching import Kind, Question, all_patched, n_places, patched_differences, recovered
from gptviz.numerics.chunks import chunks
from gptviz.numerics.ranking import top_ids
from gptviz.tokens import Tokens
from gptviz.ui import chips, descriptions, settings, state, widgets, work
from gptviz.ui.fragments import fragment, rerun_fragment
from gptviz.ui.markdown import code
from gptviz.ui.page import About, stop_if_broken
from gptviz.ui.pictures import Chart, picture, show_picture
from gptviz.ui.settings import Patched
from gptviz.ui.tables import verdict
from gptviz.ui.view import View

TOKENS_AT_ONCE = 1024  # in all runs of one portion
CLEAR = 0.5  # logits: with a smaller difference between the two prompts, there is little to bring back
QUESTION = (settings.CLEAN, settings.CORRUPTED, settings.ANSWER, settings.RIVAL, settings.BOS)


class Pair(NamedTuple):
    """Two prompts with the same number of tokens, which call for different answers."""

    name: str
    clean: str
    corrupted: str
    answer: str
    rival: str


PAIRS = (
    Pair(
        "Little dog, little cat",
        "Once upon a time there was a little dog. The little",
        "Once upon a time there was a little cat. The little",
        " dog",
        " cat",
    ),
    Pair(
        "He or she",
        "The old man lived alone in a house by the sea. Every morning",
        "The old woman lived alone in a house by the sea. Every morning",
        " he",
        " she",
    ),
    Pair(
        "John and Mary (GPT-2)",
        "When John and Mary went to the store, John gave a drink to",
        "When John and Mary went to the store, Mary gave a drink to",
        " Mary",
        " John",
    ),
)
KINDS = {
    Patched.STREAM: "Residual stream",
    Patched.ATTENTION: "Attention output",
    Patched.MLP: "MLP output",
    Patched.HEAD: "Head by head",
}
ABOUT_KIND = {
    Patched.STREAM: "The whole vector that enters a Transformer block, at one position of the corrupted prompt.",
    Patched.ATTENTION: "What one layer's attention adds, at one position of the corrupted prompt.",
    Patched.MLP: "What one layer's MLP adds, at one position of the corrupted prompt.",
    Patched.HEAD: "What one head gathers, at all positions.",
}

ABOUT = About(
    "Patching",
    "Patching",
    "Two prompts that differ in little, and end differently. Put [[one activation of the clean run into the corrupted "
    "run|Activation patching]]: how much of the clean answer comes back? This page has two prompts of its own.",
    uses_text=False,
)


def show(view: View) -> None:
    """Draw the page."""
    show_patching(view)


@fragment
def show_patching(view: View) -> None:
    """Draw the prompts, and the map that follows from them."""
    form_column, map_column = st.columns([2, 3], gap="medium")
    with form_column:
        question = ask(view)
    with map_column:
        kind = cast(Kind, widgets.choice(st.segmented_control, settings.PATCHED, "Patched", KINDS))
        goes_on = question is not None and show_map(view, question, kind)
    if question is not None:
        show_question(view, question)
    show_tokens(view)
    if goes_on:
        rerun_fragment()


# --- the question ------------------------------------------------------------------------------


def use(pair: Pair) -> None:
    """Fill the four fields with a pair."""
    for setting, word in zip(QUESTION[:4], pair[1:], strict=True):
        state.put(setting, word)


def suggested(view: View) -> Pair:
    """Return a pair that suits the model."""
    return PAIRS[2] if view.model_name.startswith(("gpt2", "distilgpt2")) else PAIRS[0]


def prompts_of(view: View, clean: str, corrupted: str, bos: bool) -> tuple[View, View]:
    """Return the views of the clean and the corrupted prompt: those typed in, or the suggested ones."""
    pair = suggested(view)
    texts = clean or pair.clean, corrupted or pair.corrupted
    first, second = (replace(view, tokens=view.engine.tokenize(text, bos=bos)) for text in texts)
    return first, second


def typed_prompts(view: View) -> tuple[View, View]:
    """Return the views of both prompts as they are in the fields."""
    return prompts_of(view, state.get(settings.CLEAN), state.get(settings.CORRUPTED), state.get(settings.BOS))


def ask(view: View) -> Question | None:
    """Draw the fields for both prompts and both answers. Return the question, or say what is wrong and return None."""
    with st.container(horizontal=True, gap="small"):
        for number, pair in enumerate(PAIRS):
            st.button(pair.name, on_click=use, args=(pair,), key=f"pair-{number}")
    pair = suggested(view)
    about = "The prompt whose answer is to come back.", "The run that is patched."
    widgets.entry(st.text_input, settings.CLEAN, "Clean prompt", placeholder=pair.clean, help=about[0])
    widgets.entry(st.text_input, settings.CORRUPTED, "Corrupted prompt", placeholder=pair.corrupted, help=about[1])
    answer_column, rival_column = st.columns(2)
    typed = bool(state.get(settings.CLEAN) or state.get(settings.CORRUPTED))
    shown = ("most probable token",) * 2 if typed else pair[3:]
    widgets.token(answer_column, settings.ANSWER, "Clean answer", None, placeholder=shown[0])
    widgets.token(rival_column, settings.RIVAL, "Corrupted answer", None, placeholder=shown[1])
    prompts = typed_prompts(view)
    if problem := problem_of(prompts[0].tokens, prompts[1].tokens, view.config["context_length"]):
        st.warning(problem, icon=":material/compare_arrows:")
        return None
    with st.spinner("Running both prompts…"):
        traces = [prompt.trace() for prompt in prompts]
    for trace in traces:
        stop_if_broken(trace)
    question = question_of(view, *state.values(QUESTION))
    if question is None:
        st.warning("Both answers are the same token: name two different ones.", icon=":material/compare_arrows:")
    return question


def show_tokens(view: View) -> None:
    """Show both prompts as tokens, with those framed that differ."""
    prompts = typed_prompts(view)
    ids = [prompt.tokens.ids for prompt in prompts]
    differing = [at for at, (one, other) in enumerate(zip(*ids, strict=False)) if one != other]
    for prompt, name in zip(prompts, ("Clean", "Corrupted"), strict=True):
        st.markdown(f"**{name} prompt**, {len(prompt.tokens)} tokens")
        chips.token_strip(prompt.tokens, marked=differing)


def problem_of(clean: Tokens, corrupted: Tokens, longest: int) -> str:
    """Return why these prompts cannot be patched and what to do, or an empty string if they can."""
    if not clean.ids or not corrupted.ids:
        return "A prompt is empty: type something."
    if max(len(clean), len(corrupted)) > longest:
        return f"A prompt has more than the {longest:,} tokens that this model takes: shorten it."
    if len(clean) != len(corrupted):
        return (
            f"The clean prompt has {len(clean)} tokens and the corrupted one {len(corrupted)}: positions must match. "
            "Framed tokens differ; use words of as many tokens, or add and take away words before them."
        )
    if clean.ids == corrupted.ids:
        return "Both prompts are the same: change a word in one of them."
    return ""


def question_of(view: View, clean: str, corrupted: str, answer: str, rival: str, bos: bool) -> Question | None:
    """Return the question to both prompts; None if they do not fit together or if both answers are the same."""
    prompts = prompts_of(view, clean, corrupted, bos)
    if problem_of(prompts[0].tokens, prompts[1].tokens, view.config["context_length"]):
        return None
    traces = [prompt.trace() for prompt in prompts]
    ids: list[int] = []
    for trace, word, instead in zip(traces, (answer, rival), suggested(view)[3:], strict=True):
        best = next(id for id in top_ids(trace.logits_at(-1), 2).tolist() if id not in ids)
        ids.append(widgets.first_token(word or ("" if clean or corrupted else instead), best))
    return Question(traces[0], traces[1], ids[0], ids[1]) if ids[0] != ids[1] else None


def show_question(view: View, question: Question) -> None:
    """Show both runs' logit differences, and check that patching the whole stream brings the clean one back."""
    answer, rival = map(code, view.engine.tokenizer.tokens([question.answer, question.rival]).strings)
    told = f"Logit of {answer} minus {rival}"
    figures = (("clean", question.of_clean), ("corrupted", question.of_corrupted))
    for column, (which, value) in zip(st.columns(2), figures, strict=True):
        column.metric(f"{told}: {which}", f"{value:+.3f}", border=True, help=f"After the {which} prompt's last token.")
    if question.of_clean < question.of_corrupted + CLEAR:
        st.warning(
            "This model hardly tells the two prompts apart, or takes them the other way round: the shares say little.",
            icon=":material/balance:",
        )
    whole = view.computed(all_patched, question)
    off = abs(whole - question.of_clean)
    verdict(
        off < 1e-3,
        f"All positions patched before the first layer: {whole:+.4f}, the clean run's {question.of_clean:+.4f}, "
        f"difference {off:.1e}",
    )


# --- the map -----------------------------------------------------------------------------------


def show_map(view: View, question: Question, kind: Kind) -> bool:
    """Show the recovered share for each layer and position or head, as far as it is known. Return whether it fills."""
    progress = work.stoppable(view, patched_differences, portions(question, kind), "Patching:")
    show_picture(patched_map, view, across=3 / 5, taken=18)
    shares = recovered_shares(view, question, kind)
    most = ""
    if np.isfinite(shares).any():
        layer, at = map(int, np.unravel_index(np.nanargmax(shares), shares.shape))
        most = f" Most comes back at layer {layer}, {code(columns_of(question, kind)[at])}: {shares[layer, at]:.0%}."
    st.caption(
        f"{ABOUT_KIND[Patched(kind)]} **0** is the corrupted run, **1** the clean one; below 0 the answer moves "
        f"further away.{most}"
    )
    return progress.goes_on


def portions(question: Question, kind: Kind) -> list[tuple[Question, Kind, int, slice]]:
    """Return the arguments of the `patched_differences` calls that fill the map, the last, cheapest layers first."""
    places = list(chunks(n_places(question, kind), TOKENS_AT_ONCE // len(question.clean)))
    layers = reversed(range(question.clean.config["n_layers"]))
    return [(question, kind, layer, some) for layer in layers for some in places]


def recovered_shares(view: View, question: Question, kind: Kind) -> NDArray[np.float64]:
    """Return the recovered shares that are known so far: [layer, position or head], NaN elsewhere."""
    shares = np.full((question.clean.config["n_layers"], n_places(question, kind)), np.nan)
    for portion in portions(question, kind):
        differences = view.known(patched_differences, *portion)
        if differences is not None:
            _, _, layer, places = portion
            shares[layer, places] = recovered(question, differences)
    return shares


def columns_of(question: Question, kind: Kind) -> list[str]:
    """Return the names of the map's columns: tokens or heads."""
    if kind == "z":
        return [f"head {head}" for head in range(n_places(question, kind))]
    return list(question.corrupted.tokens.strings)


@picture("patched-map", "What patching brings back", *QUESTION, settings.PATCHED, settings.LAYER, settings.HEAD)
def patched_map(
    view: View, clean: str, corrupted: str, answer: str, rival: str, bos: bool, patched: str, layer: int, head: int
) -> Chart | None:
    """The recovered share for each layer and position or head, as far as it is known; None if there is no question."""
    question = question_of(view, clean, corrupted, answer, rival, bos)
    if question is None:
        return None
    kind = cast(Kind, patched)
    shares = recovered_shares(view, question, kind)
    is_by_head = kind == "z"
    layers, columns = descriptions.numbered("layer", len(shares)), columns_of(question, kind)
    extremes = descriptions.extreme_cells(shares, layers, columns if is_by_head else descriptions.placed(columns))
    draw = partial(
        charts.depth_map,
        shares,
        layers,
        columns,
        what="recovered",
        signed=True,
        limits=(-1, 1),
        click="head" if is_by_head else "",
        chosen=(layer, head) if is_by_head else None,
    )
    return Chart(draw, f"{KINDS[Patched(patched)]} patched, recovered share of the clean answer: {extremes}.")
