"""Long work in portions, behind one bar: everybody else has a turn between two of them."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import streamlit as st

from gptviz.ui import state
from gptviz.ui.models import key_of
from gptviz.ui.view import View

Result = TypeVar("Result")
_SECONDS = 0.7  # of work in one run of a fragment that can be stopped: a click is heard only between two runs


class Progress(NamedTuple):
    """How far some work is."""

    results: list[Any]  # one per portion; None where it is not done
    goes_on: bool  # whether the fragment must run again


def whole(view: View, function: Callable[..., Result], portions: Sequence[tuple[Any, ...]], doing: str) -> list[Result]:
    """`function(*portion)` for each portion, each kept for everybody who asks for the same.

    A bar under the words `doing` shows how far it is.
    """
    results = [view.known(function, *portion) for portion in portions]
    if None in results:
        bar = st.progress(0.0)
        for number, portion in enumerate(portions):
            _tell(bar, results, doing)
            if results[number] is None:
                results[number] = view.computed(function, *portion)
        bar.empty()
    return [result for result in results if result is not None]


def stoppable(
    view: View, function: Callable[..., Result], portions: Sequence[tuple[Any, ...]], doing: str
) -> Progress:
    """As `whole`, with a Stop button: it computes some portions, and the fragment shows what there is so far.

    Where it goes on, the fragment must end in `rerun_fragment`.
    """
    key = key_of(function, *portions[0])
    results = [view.known(function, *portion) for portion in portions]
    if None not in results:
        return Progress(results, False)
    place = st.empty()
    with place.container(horizontal=True, vertical_alignment="center"):
        bar = st.progress(0.0)
        _tell(bar, results, doing)
        if state.is_stopped(key):
            st.button("Go on", icon=":material/play_arrow:", on_click=state.go_on, key="go-on")
            return Progress(results, False)
        st.button("Stop", icon=":material/stop:", on_click=state.stop, args=(key,), key="stop")
        until = time.monotonic() + _SECONDS
        for number in [number for number, result in enumerate(results) if result is None]:
            results[number] = view.computed(function, *portions[number])
            _tell(bar, results, doing)
            if time.monotonic() > until:
                break
    if None not in results:
        place.empty()
    return Progress(results, None in results)


def _tell(bar: Any, results: Sequence[object], doing: str) -> None:
    n_done = sum(result is not None for result in results)
    bar.progress(n_done / len(results), text=f"{doing} {n_done} of {len(results)}")
