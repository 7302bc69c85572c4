"""Widgets, each bound to a setting: it shows the setting, and what the user enters becomes the setting's value.

Data flows one way. What the browser sends is checked against the setting and against the widget's options, and then
becomes the setting; the widget is drawn from the setting.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from gptviz.tokens import gpt2_tokenizer
from gptviz.ui import settings, state
from gptviz.ui.settings import Replacement, Setting
from gptviz.ui.view import View

Value = TypeVar("Value")
Otherwise = TypeVar("Otherwise", int, None)
REPLACEMENTS = {Replacement.ZERO: "zero", Replacement.MEAN: "mean"}
A_TOKEN = "A token, with its space if it has one; of a longer word the first token."


def _bound(
    draw: Callable[..., Any], key: str, value: Any, starts_with: dict[str, Any], keep: Callable[[Any], object]
) -> None:
    """Draw a widget that shows `value`, and call `keep` with what the user enters.

    `starts_with` is the argument for the initial value of this kind of widget. `keep` must check the value it gets.
    """
    is_new, is_told = state.tell(key, value)
    shown = draw(key=key, on_change=lambda: keep(state.recall(key)), **({} if is_told else starts_with))
    if is_new and shown != value:  # the browser had this page before this session began, so its value is newer
        keep(shown)
        st.rerun()


def number(
    place: DeltaGenerator, setting: Setting[int], label: str, low: int, high: int, *, help: str | None = None
) -> int:
    """A whole number with buttons and arrow keys to step it."""
    value: int = state.within(setting, low, high)
    draw = partial(place.number_input, label, low, high, help=help or f"{low} to {high}")
    _bound(draw, setting.name, value, {"value": value}, lambda chosen: _put_within(setting, chosen, low, high))
    return value


def layer(place: DeltaGenerator, view: View) -> int:
    """One of the model's layers."""
    return number(place, settings.LAYER, "Layer", 0, view.config["n_layers"] - 1)


def head(place: DeltaGenerator, view: View) -> int:
    """One of a layer's heads."""
    return number(place, settings.HEAD, "Head", 0, view.config["n_heads"] - 1)


def slider(
    place: DeltaGenerator, setting: Setting[float], label: str, low: float, high: float, step: float, *, help: str
) -> float:
    """A number on a scale; arrow keys move it by `step`."""
    value: float = state.within(setting, low, high)
    draw = partial(place.slider, label, low, high, step=step, help=help)
    _bound(draw, setting.name, value, {"value": value}, lambda chosen: _put_within(setting, chosen, low, high))
    return value


def _put_within(setting: Setting[Any], value: Any, low: float, high: float) -> None:
    if setting.kind.takes(value) and low <= value <= high:
        state.put(setting, value)


def position(place: DeltaGenerator, strings: Sequence[str], label: str = "Token", *, key: str = "position") -> int:
    """Choose one of the text's positions. If a page has two of these widgets, the second needs its own `key`."""
    n_tokens = len(strings)
    chosen = state.chosen_position(n_tokens)
    draw = partial(
        place.selectbox,
        label,
        range(n_tokens),
        format_func=lambda index: f"{index} · {strings[index]}",
        help="A position of the text. Type to find a token.",
    )
    _bound(
        draw,
        state.key_for(key, tuple(strings)),
        chosen,
        {"index": chosen},
        lambda position: state.choose_position(position, n_tokens),
    )
    return chosen


def selectbox(
    place: DeltaGenerator,
    setting: Setting[Value],
    label: str,
    options: Sequence[Value],
    *,
    key: str = "",
    then: Callable[[], None] | None = None,
    **how: Any,
) -> Value:
    """A list to choose one option from. `then` is called after a choice, and `how` goes to Streamlit."""
    value = state.one_of(setting, list(options))
    draw = partial(place.selectbox, label, options, **how)
    keep = partial(_put_one_of, setting, options, then)
    _bound(draw, key or setting.name, value, {"index": list(options).index(value)}, keep)
    return value


def choice(draw: Callable[..., Any], setting: Setting[str], label: str, names: Mapping[Any, str], **how: Any) -> str:
    """A choice between a few options, all visible, each under its name.

    `draw` is `st.segmented_control` or `st.pills`, and `how` goes to it.
    """
    value = state.one_of(setting, list(names))
    keep = partial(_put_one_of, setting, list(names), None)
    widget = partial(draw, label, list(names), format_func=names.__getitem__, required=True, **how)
    _bound(widget, setting.name, value, {"default": value}, keep)
    return value


def _put_one_of(
    setting: Setting[Value], options: Sequence[Value], then: Callable[[], None] | None, value: Value
) -> None:
    if value in options:
        state.put(setting, value)
        if then is not None:
            then()


def several(
    draw: Callable[..., Any],
    setting: Setting[list[Value]],
    label: str,
    options: Sequence[Value],
    *,
    value: list[Value] | None = None,
    **how: Any,
) -> list[Value]:
    """A choice of several options; `draw` is `st.multiselect` or `st.pills`.

    It shows `value` if given, and else the setting, which must hold no other options.
    """
    value = state.get(setting) if value is None else value

    def keep(chosen: Any) -> None:
        if isinstance(chosen, list) and all(one in options for one in chosen):
            state.put(setting, chosen)

    _bound(partial(draw, label, options, **how), setting.name, value, {"default": value}, keep)
    return value


def entry(
    draw: Callable[..., Any],
    setting: Setting[Value],
    label: str,
    *,
    key: str = "",
    then: Callable[[], None] | None = None,
    **how: Any,
) -> Value:
    """A text field or a switch: `draw` is `st.text_area`, `st.text_input` or `st.toggle`.

    If a page has two for one setting, the second needs its own `key`.
    """
    value = state.get(setting)

    def keep(entered: Value) -> None:
        state.put(setting, entered)
        if then is not None:
            then()

    _bound(partial(draw, label, **how), key or setting.name, value, {"value": value}, keep)
    return value


def token(
    place: DeltaGenerator,
    setting: Setting[str],
    label: str,
    otherwise: Otherwise,
    *,
    placeholder: str,
    help: str = A_TOKEN,
    key: str = "",
) -> int | Otherwise:
    """A field to type a token in. Return the token's id, or `otherwise` if the field is empty."""
    word = entry(place.text_input, setting, label, placeholder=placeholder, help=help, key=key)
    return first_token(word, otherwise)


def first_token(word: str, otherwise: Otherwise) -> int | Otherwise:
    """Return the id of a word's first token, or `otherwise` if there is no word."""
    return gpt2_tokenizer().encode(word).ids[0] if word else otherwise


def folded(label: str, show: Callable[[], object]) -> None:
    """An expander. Its content is made and sent to the browser only while it is unfolded."""
    with st.expander(label, key=f"unfolded: {label}", on_change="rerun") as place:
        if place.open:
            show()
