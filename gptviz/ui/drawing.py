"""The drawing of the model: boxes from the text at the bottom to the prediction at the top, each a link."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import streamlit as st

from gptviz.ui.assets import asset


class Box(TypedDict, total=False):
    """One box of the drawing, and the arrow that leads up from it."""

    title: str
    detail: str  # on the right of the box: what it holds
    flow: str  # beside the arrow: the shape and size of the box's output
    explanation: str  # under the title, if any
    page: str  # the page that a click opens; if missing, the box is not a link
    fold: int  # the number of the block that a click folds or unfolds
    opened: bool  # with `fold`: whether the block is unfolded
    kind: str  # "part", "add" (a shortcut ends here), "tokens" (text and prediction)
    chips: list[str]
    inside: "list[Box]"


_component = st.components.v2.component("gptviz.drawing", js=asset("drawing.js"), css=asset("drawing.css"))


def drawing(boxes: Sequence[Box], *, on_fold: Callable[[], None], on_open: Callable[[], None], key: str) -> Any:
    """Draw `boxes`, the first at the bottom. In the result, `fold` is the clicked block and `open` the clicked page."""
    return _component(data=list(boxes), key=key, on_fold_change=on_fold, on_open_change=on_open)
