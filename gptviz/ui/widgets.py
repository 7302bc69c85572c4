"""Widgets that several pages share. Each is bound to a setting, and kept in its range."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from gptviz.tokens import gpt2_tokenizer
from gptviz.ui import state
from gptviz.ui.state import Setting

Otherwise = TypeVar("Otherwise", int, None)
A_TOKEN = "A token, with its space if it has one; of a longer word the first token."


def number(
    place: DeltaGenerator, setting: Setting[int], label: str, low: int, high: int, *, help: str | None = None
) -> int:
    """A whole number with buttons and arrow keys to step it."""
    state.within(setting, low, high)
    return int(place.number_input(label, low, high, key=setting.name, help=help or f"{low} to {high}"))


def position(place: DeltaGenerator, strings: Sequence[str], label: str = "Token", *, key: str = "position") -> int:
    """Choose one of the text's positions. Where a page has two of these, the second needs a `key` of its own."""
    n_tokens = len(strings)
    chosen = state.chosen_position(n_tokens)
    state.remember(key, chosen)
    place.selectbox(
        label,
        range(n_tokens),
        format_func=lambda index: f"{index} · {strings[index]}",
        key=key,
        on_change=lambda: state.choose_position(state.recall(key), n_tokens),
        help="A position of the text. Type to find a token.",
    )
    return chosen


def slider(
    place: DeltaGenerator, setting: Setting[float], label: str, low: float, high: float, step: float, *, help: str
) -> float:
    """A number on a scale; arrow keys move it by `step`."""
    state.within(setting, low, high)
    return float(place.slider(label, low, high, key=setting.name, step=step, help=help))


def token(
    place: DeltaGenerator,
    setting: Setting[str],
    label: str,
    otherwise: Otherwise,
    *,
    placeholder: str,
    help: str = A_TOKEN,
) -> int | Otherwise:
    """The id of a token that is typed in, or `otherwise` where the field is empty."""
    place.text_input(label, key=setting.name, placeholder=placeholder, help=help)
    word = state.get(setting)
    return gpt2_tokenizer().encode(word).ids[0] if word else otherwise


def folded(label: str, show: Callable[[], object]) -> None:
    """What is made and sent to the browser only while a person has it unfolded."""
    with st.expander(label, key=f"unfolded: {label}", on_change="rerun") as place:
        if place.open:
            show()
