"""The store of the settings: they stay from page to page, and in the address, so a copied link opens the same view.

This is the only module that touches Streamlit's session state and query parameters. A widget shows a setting, and what
the widget sends is checked before it becomes the setting (see `gptviz.ui.widgets`).

Streamlit's own `bind="query-params"` is not used. It silently drops a value that it cannot read, while this store tells
the user which value is nearest. It identifies an option by its label, which for a token changes with the text. And its
links hold only what the open page draws, while the links of this store hold every setting.
"""

from collections.abc import Hashable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from gptviz.config import GPTConfig
from gptviz.interventions import Part
from gptviz.ui import limits, settings
from gptviz.ui.settings import (
    BOS,
    CONTINUATION,
    HEAD,
    LAYER,
    MODEL,
    N_HEADS,
    OFF,
    SETTINGS,
    SIZE,
    TEXT,
    TOKEN,
    Setting,
    join,
)

Value = TypeVar("Value")
MAX_URL_CHARACTERS = 6000  # per setting, percent-encoded: browsers and servers cut off longer addresses
KEPT_AT_A_NEW_START = (TEXT, MODEL, BOS, N_HEADS, SIZE)

_SETTINGS, _PAGES, _NOTICES, _UNCHECKED = "_settings", "_pages", "_notices", "_unchecked"
_LEFT_OUT, _MODEL_IN_USE, _TO_WRITE, _STOPPED = "_left_out", "_model_in_use", "_to_write", "_stopped"
_DRAWN, _KEYS, _WINDOW, _WISH, _TOLD = "_drawn", "_keys", "_window", "_wish", "_told"


def start() -> None:
    """Set up the session. Call this first in every run: a new session takes its settings from the URL."""
    if _SETTINGS in st.session_state:
        _forget_old_widgets()
        return
    st.session_state[_NOTICES] = []
    st.session_state[_UNCHECKED] = set(st.query_params)  # values from a link may not fit
    st.session_state[_DRAWN] = set()
    st.session_state[_KEYS] = {}
    st.session_state[_LEFT_OUT] = 0
    _take_window_from_cookie()
    st.session_state[_SETTINGS] = {setting.name: _from_url(setting) for setting in SETTINGS}


def start_again() -> None:
    """Reset all settings except the text and the model, and run the whole page. The callback of a button."""
    for setting in SETTINGS:
        if setting not in KEPT_AT_A_NEW_START:
            put(setting, setting.default)
    st.session_state[_TO_WRITE] = (), 0
    go_on()
    st.rerun()


def _forget_old_widgets() -> None:
    """Forget the widgets that the last run no longer drew. Call this before a run draws any.

    Streamlit drops their values, but keeps their callbacks until the tab is closed; and it treats a chart with
    different data as a different widget. A callback keeps its page's run in memory, so a tab would grow with every
    edit.
    """
    context = get_script_run_ctx()
    if context is None:
        return
    with suppress(AttributeError):  # these names are private: a Streamlit version without them needs nothing done
        session: Any = context.session_state
        while hasattr(session, "_state"):  # the session is wrapped, and under AppTest twice
            session = session._state
        current, ids = session._new_widget_state, session._key_id_mapper.id_key_mapping
        for id in set(current.widget_metadata) - set(current.states) - set(session._old_state):
            del current.widget_metadata[id]
            ids.pop(id, None)


def _from_url(setting: Setting[Value]) -> Value:
    word = st.query_params.get(setting.name)
    if word is None:
        return setting.default
    try:
        value = setting.kind.read(word)
        if setting.kind.takes(value):
            return value
    except ValueError:
        pass
    _notice(f"The link's {setting.name} could not be read, so the usual one is shown.")
    return setting.default


def get(setting: Setting[Value]) -> Value:
    """Return the setting's current value; a text is cut to the length that the app takes."""
    value: Value = st.session_state[_SETTINGS][setting.name]
    return value[: limits.read().text] if isinstance(value, str) else value  # type: ignore[return-value]


def values(several: Iterable[Setting[Any]]) -> tuple[Any, ...]:
    """Return the values of several settings, in the same order."""
    return tuple(get(setting) for setting in several)


def put(setting: Setting[Value], value: Value) -> None:
    """Set a setting; a text is cut to the length that the app takes.

    An invalid value changes nothing, because a browser may send anything.
    """
    if not setting.kind.takes(value):
        return
    if setting is TEXT:
        st.session_state[_LEFT_OUT] = max(0, len(value) - limits.read().text)  # type: ignore[arg-type]
    st.session_state[_SETTINGS][setting.name] = value[: limits.read().text] if isinstance(value, str) else value


def text_left_out() -> int:
    """Return the number of characters of the text beyond what the app takes."""
    left_out: int = st.session_state[_LEFT_OUT]
    return left_out + max(0, len(st.session_state[_SETTINGS][TEXT.name]) - limits.read().text)


def within(setting: Setting[Any], low: float, high: float) -> Any:
    """Clamp a number to the range that this text and model allow, before its widget is drawn. Return it."""
    value = get(setting)
    fitting = min(max(value, low), high)
    _tell_if_changed(setting, value, fitting)
    put(setting, fitting)
    return fitting


def chosen_position(n_tokens: int) -> int:
    """Return the chosen token's position in a text of `n_tokens`."""
    value = get(TOKEN)
    wanted = value + n_tokens if value < 0 else value
    fitting = min(max(wanted, 0), n_tokens - 1)
    _tell_if_changed(TOKEN, fitting if fitting == wanted else value, fitting)
    return fitting


def choose_position(position: int, n_tokens: int) -> None:
    """Choose a token, if the text has this position. The last one stays the last one when the text grows."""
    if type(position) is int and 0 <= position < n_tokens:
        put(TOKEN, TOKEN.default if position == n_tokens - 1 else position)


def several_of(setting: Setting[list[int]], n_options: int, most: int) -> list[int]:
    """Limit the setting to at most `most` numbers below `n_options`, before its widget is drawn. Return it."""
    value = get(setting)
    fitting = [number for number in dict.fromkeys(value) if number < n_options][:most]
    _tell_if_changed(setting, join(value), join(fitting) or "none of these")
    put(setting, fitting)
    return fitting


def continuation(vocab_size: int) -> tuple[int, ...]:
    """Return the ids of the model's continuation. A link's are dropped if the model does not know all these tokens."""
    ids = get(CONTINUATION)
    most = limits.read().new_tokens
    if len(ids) > most:
        _notice(f"The link's continuation has {len(ids):,} tokens; the first {most:,} are shown.")
        ids = ids[:most]
        put(CONTINUATION, ids)
    if ids and max(ids) >= vocab_size:
        _notice("The link's continuation has tokens that this model does not know, so it is left out.")
        put(CONTINUATION, ())
    return get(CONTINUATION)


def write(n_tokens: int, *, behind: tuple[int, ...]) -> None:
    """Let the model write `n_tokens` tokens after the text with the ids `behind`, over several runs of the page."""
    st.session_state[_TO_WRITE] = behind, n_tokens


def to_write(behind: tuple[int, ...]) -> int:
    """Return how many tokens the model still has to write after the text with the ids `behind`."""
    text, n_tokens = st.session_state.get(_TO_WRITE, ((), 0))
    return n_tokens if text == behind else 0


def parts_off(config: GPTConfig) -> tuple[Part, ...]:
    """Return the parts that are switched off, limited to those that a model of this shape has."""
    if get(OFF) == OFF.default:
        within(LAYER, 0, config["n_layers"] - 1)
        within(HEAD, 0, config["n_heads"] - 1)
    parts = tuple(map(Part.parse, _words_off()))
    here = tuple(part for part in parts if part.is_in(config))
    if here != parts:
        if OFF.name in st.session_state[_UNCHECKED]:
            _notice("The link switches parts off that this model does not have, so they are left out.")
        put(OFF, [str(part) for part in here])
    st.session_state[_UNCHECKED].discard(OFF.name)
    return here


def switch(word: str) -> None:
    """Switch a part off, or on again."""
    off = _words_off()
    put(OFF, [part for part in off if part != word] if word in off else [*off, word])


def switch_off(word: str) -> None:
    """Switch a part off, with those that are off already."""
    off = [] if get(OFF) == OFF.default else get(OFF)
    put(OFF, [*off, word] if word not in off else off)


def _words_off() -> list[str]:
    return settings.parts_off(get(OFF), get(LAYER), get(HEAD))


def _tell_if_changed(setting: Setting[Any], value: Any, fitting: Any) -> None:
    if setting.name in st.session_state[_UNCHECKED]:
        st.session_state[_UNCHECKED].discard(setting.name)
        if fitting != value:
            asked = str(value) if len(str(value)) <= 30 else f"{str(value)[:30]}…"
            _notice(f"The link asks for {setting.name} {asked}; the nearest here is {fitting}.")


def some_of(setting: Setting[list[str]], options: list[str]) -> list[str]:
    """Limit the setting to `options`, before its widget is drawn. Return it."""
    chosen = get(setting)
    if not set(chosen) <= set(options):
        _notice(f"The link's {setting.name} has names that are unknown here, so they are left out.")
        put(setting, [word for word in chosen if word in options])
    return get(setting)


def one_of(setting: Setting[Value], options: list[Value]) -> Value:
    """Reset the setting to its default if it is not one of `options`, before its widget is drawn. Return it."""
    if get(setting) not in options:
        _notice(f"There is no {setting.name} of that name here, so the usual one is shown.")
        put(setting, setting.default)
    return get(setting)


def share() -> None:
    """Write the settings that differ from their defaults into the URL."""
    values = [(setting, get(setting)) for setting in SETTINGS]
    wanted = {setting.name: setting.kind.write(value) for setting, value in values if value != setting.default}
    wanted = {name: word for name, word in wanted.items() if len(quote(word)) <= MAX_URL_CHARACTERS}
    if wanted != st.query_params.to_dict():
        st.query_params.from_dict(wanted)


def too_long_for_link() -> bool:
    """Return whether the text is too long for a link."""
    return len(quote(get(TEXT), errors="replace")) > MAX_URL_CHARACTERS


def model_in_use() -> str:
    """Return the last model that could be loaded. It stays in use while another is downloaded, or fails to load."""
    name: str = st.session_state.get(_MODEL_IN_USE, MODEL.default)
    return name


def use_model(name: str) -> None:
    """Remember that `name` could be loaded."""
    st.session_state[_MODEL_IN_USE] = name


def take_notices() -> list[str]:
    """Return the messages for the user since the last call, and clear them."""
    notices: list[str] = st.session_state[_NOTICES]
    st.session_state[_NOTICES], st.session_state[_TOLD] = [], notices
    return notices


def _notice(sentence: str) -> None:
    st.session_state[_NOTICES].append(sentence)


def stop(work: Hashable) -> None:
    """Stop this work, which runs in portions, until the user resumes it."""
    st.session_state[_STOPPED] = work


def go_on() -> None:
    """Resume the stopped work."""
    st.session_state[_STOPPED] = None


def is_stopped(work: Hashable) -> bool:
    """Return whether this particular work was stopped."""
    return bool(st.session_state.get(_STOPPED) == work)


class Window(NamedTuple):
    """The room for a page in the browser's window, in CSS pixels."""

    width: int  # of the page's content, without the sidebar and the margins
    height: int  # of the whole window
    is_narrow: bool  # whether the columns of a page are one below the other


USUAL_WINDOW = Window(1184, 720, is_narrow=False)  # a projector, with the sidebar closed
_REASONABLE = 200, 8000  # pixels: a browser may tell anything


def window() -> Window:
    """Return the room for a page. Until the browser has told it, this is what it told last, or a usual one."""
    room: Window = st.session_state[_WINDOW]
    return room


def put_window(told: Any) -> None:
    """Keep the room that the browser tells: width, height, and 1 if it is narrow. Anything else changes nothing."""
    if isinstance(told, list) and len(told) == 3 and all(type(number) is int for number in told):
        low, high = _REASONABLE
        width, height = (min(max(pixels, low), high) for pixels in told[:2])
        st.session_state[_WINDOW] = Window(width, height, told[2] == 1)
        # The page is drawn again for this window: what the user was told must not go away unread.
        st.session_state[_NOTICES] = [*st.session_state.get(_TOLD, ()), *st.session_state.get(_NOTICES, ())]


def _take_window_from_cookie() -> None:
    """Take the room that this browser told last: then the first run needs no second one."""
    st.session_state[_WINDOW] = USUAL_WINDOW
    words = st.context.cookies.get("gptviz_window", "").split("x")
    if all(word.isascii() and word.isdigit() and len(word) < 6 for word in words):
        put_window(list(map(int, words)))


def wish_for_page(name: str) -> None:
    """Remember the page that a link leads to."""
    st.session_state[_WISH] = name


def take_wish() -> str | None:
    """Return the page that a link leads to, once."""
    wish: str | None = st.session_state.pop(_WISH, None)
    return wish


def tell(key: str, value: Any, *, starts_as: Any) -> tuple[bool, bool]:
    """Before a widget is drawn, make it show a value. Return whether it is new in this session and whether it was told.

    A widget is told a value only if it shows a different one. The browser treats a value from the server as newer than
    its own, so a key pressed in the meantime would be lost. A new widget is not told: Streamlit does not know yet what
    the browser shows, which may be newer than the link after a restart of the server. A widget that `starts_as` another
    value than this one must be told nevertheless.
    """
    is_new = key not in st.session_state[_DRAWN]
    st.session_state[_DRAWN].add(key)
    shown = starts_as if is_new or key not in st.session_state else st.session_state[key]
    is_told = bool(shown != value)
    if is_told:
        st.session_state[key] = value
    return is_new, is_told


def key_for(key: str, options: Hashable) -> str:
    """Return the key of a widget whose options depend on the text: a different key after the options have changed.

    A browser sends the chosen option's label. A label of the previous text may also be a label of this text, and would
    be taken for a choice; under a different key it is not.
    """
    made_of = hash(options)
    last, name = st.session_state[_KEYS].get(key, (made_of, key))
    if made_of != last:
        name = key if name != key else f"{key}-2"
    st.session_state[_KEYS][key] = made_of, name
    return str(name)


def set_pages(pages: Mapping[str, Any]) -> None:
    """Remember the pages by name, for links between them."""
    st.session_state[_PAGES] = pages


def pages() -> Mapping[str, Any]:
    """Return the app's pages by name."""
    known: Mapping[str, Any] = st.session_state[_PAGES]
    return known


def recall(key: str) -> Any:
    """Return the value of a widget. For use in its callback."""
    return st.session_state[key]


def told(key: str, name: str) -> Any:
    """Return what a component told under a name. For use in its callback; None if the page has changed meanwhile."""
    return getattr(st.session_state.get(key), name, None)
