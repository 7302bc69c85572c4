"""Parts of a page that Streamlit runs on their own, each with a last line of defence around it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import wraps
from typing import NoReturn, ParamSpec

import streamlit as st
from streamlit.delta_generator import DeltaGenerator
from streamlit.errors import StreamlitAPIException
from streamlit.runtime.scriptrunner import StopException

from gptviz.ui import state

Arguments = ParamSpec("Arguments")
_LOGGER = logging.getLogger(__name__)
_INSIDE = ContextVar("inside", default=False)  # whether this code runs inside a part


@contextmanager
def part(name: str) -> Iterator[None]:
    """Enclose a part of the app that Streamlit runs on its own: the whole page, or a fragment. `name` identifies it.

    At the end, the new link is written, and one box above the part says which values of a link did not fit. If the
    part fails, a message says so in its place, the traceback is logged, and the rest of the page goes on. What
    Streamlit raises to end or restart a run is not an `Exception`, and passes through.
    """
    place = st.empty()
    is_outermost = not _INSIDE.get()
    token = _INSIDE.set(True)
    try:
        try:
            yield
        except StopException:
            if is_outermost:
                _finish(place)
            raise
        if is_outermost:
            _finish(place)
    except Exception:
        _LOGGER.exception("A part of a page failed: %s", name)
        _tell_of_failure(place, name)
    finally:
        _INSIDE.reset(token)


def fragment(show: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Like `st.fragment`: make a part of the page that runs on its own when one of its widgets is used."""

    @wraps(show)
    def shown(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        with part(show.__name__):
            show(*args, **kwargs)

    return st.fragment(shown)


def rerun_fragment() -> NoReturn:
    """Run the fragment again, or the whole page if the whole page is running."""
    with suppress(StreamlitAPIException):
        st.rerun(scope="fragment")
    st.rerun()


def _finish(place: DeltaGenerator) -> None:
    if notices := state.take_notices():
        place.info("  \n".join(notices), icon=":material/link:")
    state.share()


def _tell_of_failure(place: DeltaGenerator, name: str) -> None:
    with place.container():
        st.error(
            "Something went wrong here. Start the page again: your text and model stay, all other settings go back to "
            "the usual ones.",
            icon=":material/error:",
        )
        st.button("Start this page again", on_click=state.start_again, key=f"start-again-{name}", type="primary")
    with suppress(Exception):  # the message stays, even if this fails
        state.share()
