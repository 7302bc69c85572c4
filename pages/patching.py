"""Patching: which activation of one prompt brings its answer back in another."""

import time
from collections.abc import Iterator
from typing import NamedTuple, cast

import numpy as np
import streamlit as st

from gptviz import charts
from gptviz.experiments.patching import Kind, Question, all_patched, n_places, patched_differences, recovered
from gptviz.numerics.ranking import top_ids
from gptviz.tokens import Tokens
from gptviz.ui import look, shared, state, widgets

TOKENS_AT_ONCE = 2048  # of the runs between two looks at the Stop button
CLEAR = 0.5  # logits between the two prompts: below that, there is little to bring back
SECONDS = 0.7  # of work between two drawings of the map


class Pair(NamedTuple):
    """Two prompts of the same token length, which call for different answers."""

    name: str
    clean: str
    corrupted: str
    answer: str
    rival: str


PAIRS = (
    Pair(
        "Little dog, little cat", "Once upon a time there was a little dog. The little",
        "Once upon a time there was a little cat. The little", " dog", " cat",
    ),
    Pair(
        "He or she", "The old man lived alone in a house by the sea. Every morning",
        "The old woman lived alone in a house by the sea. Every morning", " he", " she",
    ),
    Pair(
        "John and Mary (GPT-2)", "When John and Mary went to the store, John gave a drink to",
        "When John and Mary went to the store, Mary gave a drink to", " Mary", " John",
    ),
)  # fmt: skip
KINDS = {
    "resid_pre": "Residual stream",
    "attn_out": "Attention output",
    "mlp_out": "MLP output",
    "z": "Head by head",
}
ABOUT_KIND = {
    "resid_pre": "The whole vector that enters a block, at one position of the corrupted prompt.",
    "attn_out": "What one block's attention adds, at one position of the corrupted prompt.",
    "mlp_out": "What one block's MLP adds, at one position of the corrupted prompt.",
    "z": "What one head gathers, at all positions.",
}

view = shared.begin(
    "Patching",
    "Two prompts that differ in little, and end differently. Put **one activation of the clean run into the corrupted "
    "run**: how much of the clean answer comes back? This page has two prompts of its own.",
    text=False,
)
engine = view.engine


def use(pair: Pair) -> None:
    """Fill the four fields."""
    fields = (state.CLEAN, state.CORRUPTED, state.ANSWER, state.RIVAL)
    for setting, word in zip(fields, pair[1:], strict=True):
        state.put(setting, word)


@st.fragment
def show() -> None:
    """The prompts, and the map that they lead to."""
    with st.container(horizontal=True):
        for number, pair in enumerate(PAIRS):
            st.button(pair.name, on_click=use, args=(pair,), key=f"pair-{number}")
    question = ask()
    if question is not None:
        show_question(question)
        show_map(question)
    shared.finish()


def ask() -> Question | None:
    """The prompts and answers typed in; None, and a sentence, where they do not fit together."""
    suggested = PAIRS[2] if engine.name.startswith(("gpt2", "distilgpt2")) else PAIRS[0]
    typed = bool(state.get(state.CLEAN) or state.get(state.CORRUPTED))
    prompts = []
    for column, setting, label, about, instead in zip(
        st.columns(2),
        (state.CLEAN, state.CORRUPTED),
        ("Clean prompt", "Corrupted prompt"),
        ("The prompt whose answer is to come back.", "The run that is patched."),
        suggested[1:3],
        strict=True,
    ):
        column.text_input(label, key=setting.name, placeholder=instead, help=about)
        prompts.append(engine.tokenize(state.get(setting) or instead, bos=state.get(state.BOS)))
    clean, corrupted = prompts
    differing = [at for at, (one, other) in enumerate(zip(clean.ids, corrupted.ids, strict=False)) if one != other]
    for tokens in prompts:
        look.token_strip(tokens, marked=differing)
    problem = problem_of(clean, corrupted)
    if problem:
        st.warning(problem, icon=":material/compare_arrows:")
        return None
    with st.spinner("Running both prompts…"):
        traces = [view.model.trace(tokens) for tokens in prompts]
    for trace in traces:
        shared.stop_if_broken(view.model, trace)
    answers: list[int] = []
    for column, setting, label, trace, instead in zip(
        st.columns(2), (state.ANSWER, state.RIVAL), ("Answer to the clean prompt", "Answer to the corrupted"), traces,
        suggested[3:], strict=True,
    ):  # fmt: skip
        best = next(id for id in top_ids(trace.logits_at(-1), 2).tolist() if id not in answers)
        otherwise = best if typed else engine.tokenize(instead).ids[0]
        shown = "the most probable token" if typed else instead
        answers.append(widgets.token(column, setting, label, otherwise, placeholder=shown))
    if answers[0] == answers[1]:
        st.warning("Both answers are the same token: name two different ones.", icon=":material/compare_arrows:")
        return None
    return Question(traces[0], traces[1], answers[0], answers[1])


def problem_of(clean: Tokens, corrupted: Tokens) -> str:
    """Why these prompts cannot be patched, and what to do; empty if they can."""
    longest = engine.config["context_length"]
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


def show_question(question: Question) -> None:
    """Both runs' logit differences, and the check that the whole stream brings the clean one back."""
    answer, rival = (look.code(word) for word in engine.tokenizer.tokens([question.answer, question.rival]).strings)
    first, second = st.columns(2)
    told = f"Logit of {answer} minus {rival}"
    first.metric(
        f"{told}: clean", f"{question.of_clean:+.3f}", border=True, help="After the clean prompt's last token."
    )
    second.metric(
        f"{told}: corrupted",
        f"{question.of_corrupted:+.3f}",
        border=True,
        help="After the corrupted prompt's last token.",
    )
    key = ("all patched", question.corrupted.tokens.ids, question.answer, question.rival)
    if question.of_clean < question.of_corrupted + CLEAR:
        st.warning(
            "This model hardly tells the two prompts apart, or takes them the other way round: the shares say little.",
            icon=":material/balance:",
        )
    whole = float(view.model.result(question.clean.tokens, key, lambda: np.array(all_patched(question))))
    off = abs(whole - question.of_clean)
    agrees = off < 1e-3
    st.badge(
        f"All positions patched before the first block: {whole:+.4f}, the clean run's {question.of_clean:+.4f}, "
        f"difference {off:.1e}",
        icon=":material/check_circle:" if agrees else ":material/error:", color="green" if agrees else "red",
    )  # fmt: skip


def portions(question: Question, kind: Kind) -> Iterator[tuple[int, slice]]:
    """The runs to make as (layer, places), the last layers first, as they are the cheapest."""
    places, together = n_places(question, kind), max(1, TOKENS_AT_ONCE // len(question.clean))
    for layer in reversed(range(engine.config["n_layers"])):
        yield from ((layer, slice(start, start + together)) for start in range(0, places, together))


def show_map(question: Question) -> None:
    """Layer by position or head: the share of the way back. It fills as the runs are made."""
    state.one_of(state.PATCHED, list(KINDS))
    st.segmented_control("Patched", list(KINDS), format_func=KINDS.__getitem__, key=state.PATCHED.name, required=True)
    kind = cast(Kind, state.get(state.PATCHED))
    st.caption(
        f"{ABOUT_KIND[kind]} **0** is the corrupted run, **1** the clean one; below 0 the answer moves further away."
    )
    work = ("patched", question.corrupted.tokens.ids, kind, question.answer, question.rival)
    todo = list(portions(question, kind))
    place = st.empty()
    with place.container(horizontal=True, vertical_alignment="center"):
        left = fill(question, kind, work, todo)
    if not left:
        place.empty()
    shares = np.full((engine.config["n_layers"], n_places(question, kind)), np.nan)
    for layer, places in todo:
        key = (*work, layer, places.start)
        if view.model.has(question.clean.tokens, key):
            done = view.model.result(question.clean.tokens, key, lambda: np.empty(0))
            shares[layer, places] = recovered(question, done)
    strings = question.corrupted.tokens.strings
    columns = [f"head {head}" for head in range(shares.shape[1])] if kind == "z" else strings
    look.chart(
        charts.depth_map(
            shares, [f"layer {layer}" for layer in range(len(shares))], columns, what="recovered", signed=True,
            limits=(-1, 1), theme=look.theme(),
        ),
        key="patched-map", alt=f"{KINDS[kind]} patched: the share of the clean answer that comes back.",
    )  # fmt: skip
    if np.isfinite(shares).any():
        layer, at = map(int, np.unravel_index(np.nanargmax(shares), shares.shape))
        st.caption(f"Most comes back at layer {layer}, {look.code(columns[at])}: {shares[layer, at]:.0%}.")
    if left and not state.is_stopped(work):
        shared.rerun_fragment()


def fill(question: Question, kind: Kind, work: tuple[object, ...], todo: list[tuple[int, slice]]) -> int:
    """Make some of the missing runs, behind a progress bar; gives how many portions are left."""
    missing = [part for part in todo if not view.model.has(question.clean.tokens, (*work, part[0], part[1].start))]
    if not missing:
        return 0
    n_done = len(todo) - len(missing)
    bar = st.progress(n_done / len(todo), text=f"{n_done} of {len(todo)} portions")
    if state.is_stopped(work):
        st.button("Go on", icon=":material/play_arrow:", on_click=state.go_on, key="go-on")
        return len(missing)
    st.button("Stop", icon=":material/stop:", on_click=state.stop, args=(work,), key="stop")
    until = time.monotonic() + SECONDS
    for layer, places in missing:
        view.model.result(
            question.clean.tokens, (*work, layer, places.start),
            lambda layer=layer, places=places: patched_differences(question, kind, layer, places),  # type: ignore[misc]
        )  # fmt: skip
        n_done += 1
        bar.progress(n_done / len(todo), text=f"{n_done} of {len(todo)} portions")
        if time.monotonic() > until:
            break
    return len(todo) - n_done


show()
