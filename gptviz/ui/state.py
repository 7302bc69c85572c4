"""What a person has chosen: kept from page to page, and in the URL, so that a copied link opens the same view.

The only place that touches Streamlit's session state and query parameters. The settings lie in one dict of their own;
a widget shows one of them, and what it sends is checked before it becomes one (see `gptviz.ui.widgets`).
"""

import math
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from gptviz.config import GPTConfig
from gptviz.interventions import Part
from gptviz.ui import limits

Value = TypeVar("Value")
MAX_URL_CHARACTERS = 6000  # of one setting, percent-encoded: browsers and servers cut longer addresses


@dataclass(frozen=True)
class Kind(Generic[Value]):
    """What a setting's values are: how a link's word is read, how one is written, and which values it takes."""

    read: Callable[[str], Value]  # raises ValueError
    write: Callable[[Value], str]
    takes: Callable[[Any], bool]  # of whatever a link or a browser sends


@dataclass(frozen=True)
class Setting(Generic[Value]):
    """One choice: its name in the URL, its value at the start, and what its values are."""

    name: str
    default: Value
    kind: Kind[Value]


def _switch(word: str) -> bool:
    if word not in ("0", "1"):
        raise ValueError(word)
    return word == "1"


def _ids(word: str) -> tuple[int, ...]:
    return tuple(int(id) for id in word.split("-") if id)


def _join(ids: Iterable[int]) -> str:
    return "-".join(str(id) for id in ids)


def _words(word: str) -> list[str]:
    return [part for part in word.split("-") if part]


def _parts(word: str) -> list[str]:
    return [str(Part.parse(part)) for part in _words(word)]


def _is_part(word: Any) -> bool:
    try:
        return isinstance(word, str) and str(Part.parse(word)) == word
    except ValueError:
        return False


def _are_whole(values: Iterable[Any]) -> bool:
    return all(type(value) is int for value in values)  # True and False are none


STRING = Kind[str](str, str, lambda value: isinstance(value, str))
WHOLE = Kind[int](int, str, lambda value: type(value) is int)
DECIMAL = Kind[float](float, str, lambda value: type(value) is float and math.isfinite(value))
SWITCH = Kind[bool](_switch, lambda on: str(int(on)), lambda value: type(value) is bool)
IDS = Kind[tuple[int, ...]](_ids, _join, lambda value: isinstance(value, tuple) and _are_whole(value))
NUMBERS = Kind[list[int]](
    lambda word: list(_ids(word)), _join, lambda value: isinstance(value, list) and _are_whole(value)
)
NAMES = Kind[list[str]](
    _words, "-".join, lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value)
)
PARTS = Kind[list[str]](_parts, "-".join, lambda value: isinstance(value, list) and all(map(_is_part, value)))

TEXT = Setting("text", "Once upon a time there was a little dog. The little dog", STRING)
MODEL = Setting("model", "story-gpt", STRING)
BOS = Setting("bos", False, SWITCH)
N_HEADS = Setting("n_heads", 0, WHOLE)  # of a model whose file does not say; 0: as it was guessed
VIEW = Setting("view", "one", STRING)  # of the Attention page
READING = Setting("reading", "weights", STRING)
KIND_OF_HEAD = Setting("kind", "previous_token", STRING)
REPLACEMENT = Setting("replacement", "zero", STRING)
LAYER = Setting("layer", 2, WHOLE)  # with this head the bundled model's clearest previous-token head
HEAD = Setting("head", 5, WHOLE)
UNFOLDED = Setting("unfolded", 0, WHOLE)  # the block that the drawing shows opened; -1: none
EXPLAINED = Setting("explained", False, SWITCH)
SKELETON = Setting("skeleton", False, SWITCH)
KIND = Setting("embedding", "resid_pre", STRING)
IN_3D = Setting("in_3d", False, SWITCH)
PROBE = Setting("probe", "", STRING)
DIMENSIONS: Setting[list[int]] = Setting("dimensions", [0, 1, 2, 3], NUMBERS)
STEP = Setting("step", "norm1", STRING)
DIM = Setting("dim", 0, WHOLE)  # the chosen dimension or neuron
KEY = Setting("key", 0, WHOLE)  # the chosen key position
TARGET = Setting("target", "", STRING)  # the token whose logit is shared out; empty: the most probable
AGAINST = Setting("against", "", STRING)
TOKEN = Setting("token", -1, WHOLE)  # the chosen position; -1 is the last, also when the text grows
K = Setting("k", 10, WHOLE)
TEMPERATURE = Setting("temperature", 1.0, DECIMAL)
TOP_K = Setting("top_k", 0, WHOLE)  # 0 keeps every token
TOP_P = Setting("top_p", 1.0, DECIMAL)
SEED = Setting("seed", 0, WHOLE)
WORD = Setting("word", 0, WHOLE)
CONTINUATION: Setting[tuple[int, ...]] = Setting("continuation", (), IDS)
OFF: Setting[list[str]] = Setting("off", ["L5H2"], PARTS)  # one of story-gpt's two induction heads
NEURON_LAYER = Setting("neuron_layer", 0, WHOLE)
NEURON = Setting("neuron", 0, WHOLE)
CLEAN = Setting("clean", "", STRING)  # the two prompts of patching; empty: a pair that suits the model
CORRUPTED = Setting("corrupted", "", STRING)
ANSWER = Setting("answer", "", STRING)
RIVAL = Setting("rival", "", STRING)
PATCHED = Setting("patched", "resid_pre", STRING)
OTHER_TEXT = Setting("other_text", "Once upon a time there was a little cat. The little cat", STRING)  # of Compare
SAME_TEXT = Setting("same_text", False, SWITCH)  # on both sides of Compare
OTHER_MODEL = Setting("other_model", "", STRING)  # empty: the same model
TRAINING = Setting("training", True, SWITCH)
RATE = Setting("rate", 0.1, DECIMAL)
RUNS = Setting("runs", 30, WHOLE)
RUN = Setting("run", 0, WHOLE)
DROPPED: Setting[list[str]] = Setting("dropped", ["embedding", "attention", "shortcut"], NAMES)
GROUP = Setting("group", "att", STRING)
TWIN = Setting("twin", True, SWITCH)
METHOD = Setting("method", "integrated", STRING)
SETTINGS: tuple[Setting[Any], ...] = (
    TEXT, MODEL, BOS, N_HEADS, VIEW, READING, KIND_OF_HEAD, REPLACEMENT, LAYER, HEAD, UNFOLDED, EXPLAINED, SKELETON,
    KIND, IN_3D, PROBE, DIMENSIONS, STEP, DIM, KEY, TARGET, AGAINST, TOKEN, K, TEMPERATURE, TOP_K, TOP_P, SEED, WORD,
    CONTINUATION, OFF, NEURON_LAYER, NEURON, CLEAN, CORRUPTED, ANSWER, RIVAL, PATCHED, OTHER_TEXT, SAME_TEXT,
    OTHER_MODEL, TRAINING, RATE, RUNS, RUN, DROPPED, GROUP, TWIN, METHOD,
)  # fmt: skip

KEPT_AT_A_NEW_START = (TEXT, MODEL, BOS, N_HEADS)

_SETTINGS, _STARTED, _NOTICES, _UNCHECKED = "_settings", "_started", "_notices", "_unchecked"
_LEFT_OUT, _MODEL_IN_USE, _TO_WRITE, _STOPPED = "_left_out", "_model_in_use", "_to_write", "_stopped"
_DRAWN, _KEYS = "_drawn", "_keys"


def take_start() -> bool:
    """Whether `start` was called in this run."""
    return bool(st.session_state.pop(_STARTED, False))


def start() -> None:
    """Call first in every run: a new session takes its settings from the URL."""
    st.session_state[_STARTED] = True
    if _SETTINGS in st.session_state:
        _forget_old_widgets()
        return
    st.session_state[_NOTICES] = []
    st.session_state[_UNCHECKED] = set(st.query_params)  # what came by a link may not fit
    st.session_state[_DRAWN] = set()
    st.session_state[_KEYS] = {}
    st.session_state[_LEFT_OUT] = 0
    st.session_state[_SETTINGS] = {setting.name: _from_url(setting) for setting in SETTINGS}


def start_again() -> None:
    """Put all settings back but the text and the model, and run the whole page. For a button."""
    for setting in SETTINGS:
        if setting not in KEPT_AT_A_NEW_START:
            put(setting, setting.default)
    st.session_state[_TO_WRITE] = (), 0
    go_on()
    st.rerun()


def _forget_old_widgets() -> None:
    """Forget the widgets that the last run no longer had. Call before a run draws any.

    Streamlit drops their values, but keeps their callbacks until the tab is closed; and to Streamlit a chart with other
    data is another widget. A callback keeps its page's run in memory, so a tab would grow with every edit.
    """
    context = get_script_run_ctx()
    if context is None:
        return
    with suppress(AttributeError):  # private: where another Streamlit has none of these, there is nothing to do here
        session: Any = context.session_state
        while hasattr(session, "_state"):  # it is wrapped, under AppTest twice
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
    """The setting's value now; of a text, as much as the app takes."""
    value: Value = st.session_state[_SETTINGS][setting.name]
    return value[: limits.read().text] if isinstance(value, str) else value  # type: ignore[return-value]


def put(setting: Setting[Value], value: Value) -> None:
    """Set it; of a text, keep as much as the app takes. A value that the setting does not take changes nothing: a
    browser may send anything."""
    if not setting.kind.takes(value):
        return
    if setting is TEXT:
        st.session_state[_LEFT_OUT] = max(0, len(value) - limits.read().text)  # type: ignore[arg-type]
    st.session_state[_SETTINGS][setting.name] = value[: limits.read().text] if isinstance(value, str) else value


def text_left_out() -> int:
    """How many characters of the text are more than the app takes."""
    left_out: int = st.session_state[_LEFT_OUT]
    return left_out + max(0, len(st.session_state[_SETTINGS][TEXT.name]) - limits.read().text)


def within(setting: Setting[Any], low: float, high: float) -> Any:
    """Bring a number into the range that this text and model have, before its widget is drawn."""
    value = get(setting)
    fitting = min(max(value, low), high)
    _tell_if_changed(setting, value, fitting)
    put(setting, fitting)
    return fitting


def chosen_position(n_tokens: int) -> int:
    """The chosen token's position in a text of `n_tokens`."""
    value = get(TOKEN)
    wanted = value + n_tokens if value < 0 else value
    fitting = min(max(wanted, 0), n_tokens - 1)
    _tell_if_changed(TOKEN, fitting if fitting == wanted else value, fitting)
    return fitting


def choose_position(position: int, n_tokens: int) -> None:
    """Choose a token of those that the text has. The last one stays the last when the text grows."""
    if type(position) is int and 0 <= position < n_tokens:
        put(TOKEN, TOKEN.default if position == n_tokens - 1 else position)


def several_of(setting: Setting[list[int]], n_options: int, most: int) -> list[int]:
    """Make sure that the setting has `most` numbers below `n_options` at most, before its widget is drawn."""
    value = get(setting)
    fitting = [number for number in dict.fromkeys(value) if number < n_options][:most]
    _tell_if_changed(setting, _join(value), _join(fitting) or "none of these")
    put(setting, fitting)
    return fitting


def continuation(vocab_size: int) -> tuple[int, ...]:
    """The ids that the model went on with; a link's are dropped where the model has no such tokens."""
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
    """Let the model write so many tokens behind the text with these ids, over several runs of the page."""
    st.session_state[_TO_WRITE] = behind, n_tokens


def to_write(behind: tuple[int, ...]) -> int:
    """How many tokens the model is still to write behind this text."""
    text, n_tokens = st.session_state.get(_TO_WRITE, ((), 0))
    return n_tokens if text == behind else 0


def parts_off(config: GPTConfig) -> tuple[Part, ...]:
    """The parts that are switched off, as far as a model of this shape has them."""
    words = get(OFF)
    parts = tuple(map(Part.parse, words))
    here = tuple(part for part in parts if part.is_in(config))
    if here != parts:
        if OFF.name in st.session_state[_UNCHECKED]:
            _notice("The link switches parts off that this model does not have, so they are left out.")
        put(OFF, [str(part) for part in here])
    st.session_state[_UNCHECKED].discard(OFF.name)
    return here


def switch(word: str) -> None:
    """Switch a part off, or on again."""
    off = get(OFF)
    put(OFF, [part for part in off if part != word] if word in off else [*off, word])


def _tell_if_changed(setting: Setting[Any], value: Any, fitting: Any) -> None:
    if setting.name in st.session_state[_UNCHECKED]:
        st.session_state[_UNCHECKED].discard(setting.name)
        if fitting != value:
            asked = str(value) if len(str(value)) <= 30 else f"{str(value)[:30]}…"
            _notice(f"The link asks for {setting.name} {asked}; the nearest here is {fitting}.")


def some_of(setting: Setting[list[str]], options: list[str]) -> list[str]:
    """Make sure that the setting holds none but `options`, before its widget is drawn."""
    chosen = get(setting)
    if not set(chosen) <= set(options):
        _notice(f"The link's {setting.name} has names that are unknown here, so they are left out.")
        put(setting, [word for word in chosen if word in options])
    return get(setting)


def one_of(setting: Setting[Value], options: list[Value]) -> Value:
    """Make sure that the setting is one of `options`, before its widget is drawn; else it is the default."""
    if get(setting) not in options:
        _notice(f"There is no {setting.name} of that name here, so the usual one is shown.")
        put(setting, setting.default)
    return get(setting)


def share() -> None:
    """Write what differs from the start into the URL."""
    values = [(setting, get(setting)) for setting in SETTINGS]
    wanted = {setting.name: setting.kind.write(value) for setting, value in values if value != setting.default}
    wanted = {name: word for name, word in wanted.items() if len(quote(word)) <= MAX_URL_CHARACTERS}
    if wanted != st.query_params.to_dict():
        st.query_params.from_dict(wanted)


def too_long_for_link() -> bool:
    """Whether the text does not fit into a link."""
    return len(quote(get(TEXT), errors="replace")) > MAX_URL_CHARACTERS


def model_in_use() -> str:
    """The last model that could be loaded: it stays in use while another is fetched, or fails."""
    name: str = st.session_state.get(_MODEL_IN_USE, MODEL.default)
    return name


def use_model(name: str) -> None:
    """Remember that `name` could be loaded."""
    st.session_state[_MODEL_IN_USE] = name


def take_notices() -> list[str]:
    """Sentences for the person that gathered since the last call."""
    notices: list[str] = st.session_state[_NOTICES]
    st.session_state[_NOTICES] = []
    return notices


def _notice(sentence: str) -> None:
    st.session_state[_NOTICES].append(sentence)


def stop(work: Hashable) -> None:
    """Do no more of this work, which goes on in portions, until it is asked for again."""
    st.session_state[_STOPPED] = work


def go_on() -> None:
    """Take up what was stopped."""
    st.session_state[_STOPPED] = None


def is_stopped(work: Hashable) -> bool:
    """Whether this very work was stopped."""
    return bool(st.session_state.get(_STOPPED) == work)


def clicked(chart_key: str) -> Any:
    """The customdata of the point that was clicked in this chart, or None."""
    points = st.session_state[chart_key]["selection"]["points"]
    return points[0].get("customdata") if points else None


def clicked_again(chart_key: str) -> Any:
    """As `clicked`, where a second click on the same point counts too: the browser takes it as one that unchooses."""
    last = f"_last {chart_key}"
    st.session_state[last] = clicked(chart_key) or st.session_state.get(last)
    return st.session_state[last]


def tell(key: str, value: Any) -> tuple[bool, bool]:
    """Before a widget is drawn, let it show this value; gives whether it is drawn for the first time in this session,
    and whether it had to be told.

    It is told only where it shows another one. What a browser is told it takes for newer than what it has, so a key
    pressed meanwhile would be lost. The first time, Streamlit does not know yet what the browser shows: after a restart
    of the server it may be newer than the link.
    """
    is_new = key not in st.session_state[_DRAWN]
    st.session_state[_DRAWN].add(key)
    is_told = not is_new and key in st.session_state and bool(st.session_state[key] != value)
    if is_told:
        st.session_state[key] = value
    return is_new, is_told


def key_for(key: str, options: Hashable) -> str:
    """The key of a widget whose options depend on the text: another one when they have changed.

    A browser sends the chosen option's label. One of the text before may be one of this text's too, and would be taken
    for a choice; under the other key it is not.
    """
    made_of = hash(options)
    last, name = st.session_state[_KEYS].get(key, (made_of, key))
    if made_of != last:
        name = key if name != key else f"{key}-2"
    st.session_state[_KEYS][key] = made_of, name
    return str(name)


def recall(key: str) -> Any:
    """The value of a widget, in its callback."""
    return st.session_state[key]
