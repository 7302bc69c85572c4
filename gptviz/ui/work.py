"""Long work in portions behind one progress bar; other sessions can have a turn between two portions."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import streamlit as st

from gptviz.experiments.portions import Run
from gptviz.ui import state
from gptviz.ui.models import key_of
from gptviz.ui.view import View

_SECONDS = 0.7  # of work in one run of a stoppable fragment: a click takes effect only between two runs


def behind_bar(view: View, doing: str) -> Run:
    """Return a function that runs an experiment's portions behind a progress bar with the text `doing`."""

    def run(function: Callable[..., Any], portions: Sequence[tuple[Any, ...]]) -> list[Any]:
        results, missing = _known(view, function, portions)
        if missing:
            bar = st.progress(0.0)
            for number in missing:
                _tell(bar, results, doing)
                results[number] = view.computed(function, *portions[number])
            bar.empty()
        return results

    return run


def is_done(view: View, experiment: Callable[..., Any], *arguments: Any) -> bool:
    """Return whether the results of all portions of an experiment are known."""

    def look_up(function: Callable[..., Any], portions: Sequence[tuple[Any, ...]]) -> list[Any]:
        results, missing = _known(view, function, portions)
        if missing:
            raise LookupError
        return results

    try:
        experiment(*arguments, run=look_up)
    except LookupError:
        return False
    return True


class Progress(NamedTuple):
    """The progress of work in portions."""

    results: list[Any]  # one per portion; None if it is not done yet
    goes_on: bool  # whether the fragment must run again


def stoppable(view: View, function: Callable[..., Any], portions: Sequence[tuple[Any, ...]], doing: str) -> Progress:
    """Run some portions behind a bar with a Stop button; the fragment shows the results so far.

    If the work goes on, the fragment must end in `rerun_fragment`. Stopped work can be resumed, because finished
    portions are kept.
    """
    key = key_of(function, *portions[0])
    results, missing = _known(view, function, portions)
    if not missing:
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
        for number in missing:
            results[number] = view.computed(function, *portions[number])
            _tell(bar, results, doing)
            if time.monotonic() > until:
                break
    goes_on = any(result is None for result in results)
    if not goes_on:
        place.empty()
    return Progress(results, goes_on)


def _known(
    view: View, function: Callable[..., Any], portions: Sequence[tuple[Any, ...]]
) -> tuple[list[Any], list[int]]:
    """Return the portions' results, None where one is not done, and the numbers of those."""
    results = [view.known(function, *portion) for portion in portions]
    return results, [number for number, result in enumerate(results) if result is None]


def _tell(bar: Any, results: Sequence[object], doing: str) -> None:
    n_done = sum(result is not None for result in results)
    bar.progress(n_done / len(results), text=f"{doing} {n_done} of {len(results)}")
