"""The drawing of the model: boxes from the text at the bottom to the prediction on top, each a link."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import streamlit as st

from gptviz.ui.assets import asset


class Box(TypedDict, total=False):
    """One row of the drawing, and the arrow that leaves it upwards."""

    title: str
    detail: str  # to the right in the box: what it holds
    flow: str  # beside the arrow: the shape and size of what leaves it
    explanation: str  # under the title, if any
    page: str  # the page that a click opens; none: no link
    fold: int  # a click folds or unfolds this block
    opened: bool  # with `fold`: whether it is unfolded
    kind: str  # "part", "add" (a shortcut ends here), "tokens" (text and prediction)
    chips: list[str]
    inside: "list[Box]"


_component = st.components.v2.component("gptviz.drawing", js=asset("drawing.js"), css=asset("drawing.css"))


def drawing(boxes: Sequence[Box], *, on_fold: Callable[[], None], on_open: Callable[[], None], key: str) -> Any:
    """Draw `boxes`, the first at the bottom. In the result, `fold` is the block that was clicked, `open` the page."""
    return _component(data=list(boxes), key=key, on_fold_change=on_fold, on_open_change=on_open)
