"""The drawing of the model: its parts in the order of the data, from the text to the next token, each one a button."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, TypedDict

import streamlit as st

from gptviz.ui.assets import asset

DEEP = 24  # from this many blocks on, most of the folded ones share a box
SHOWN_AT_EACH_END = 3  # of a deep model's blocks
SHORTEST_RUN = 3


class Box(TypedDict, total=False):
    """One box of the drawing."""

    title: str
    shape: str  # of the box's output
    length: str  # of the output's vectors
    parameters: str
    explanation: str  # under the title, if any
    page: str  # the page that a click opens
    fold: int  # the number of the block that a click folds or unfolds
    kind: str  # "part", "add" (its output is added to the stream), "tokens" (text and prediction)
    chips: list[str]
    inside: "list[Box]"  # of an unfolded block: its parts
    run: "list[Box]"  # of a box for several folded blocks: these blocks


class Drawing(TypedDict):
    """The boxes of the whole model in the order of the data. Text, embeddings and head are a row each."""

    text: list[Box]
    embeddings: list[Box]
    blocks: list[Box]
    head: list[Box]  # and the next token


_component = st.components.v2.component("gptviz.drawing", js=asset("drawing.js"), css=asset("drawing.css"))


def drawing(parts: Drawing, *, on_fold: Callable[[], None], on_open: Callable[[], None], key: str) -> Any:
    """Draw the model. In the result, `fold` is the clicked block and `open` the clicked page."""
    return _component(data=parts, key=key, on_fold_change=on_fold, on_open_change=on_open)


def in_runs(blocks: Sequence[Box]) -> list[Box]:
    """Return the blocks' boxes; in a deep model, one box stands for each run of folded blocks between the ends."""
    last = len(blocks) - 1
    if len(blocks) < DEEP:
        return list(blocks)

    def is_shown(block: Box) -> bool:
        from_an_end = min(block["fold"], last - block["fold"])
        return from_an_end < SHOWN_AT_EACH_END or "inside" in block

    boxes: list[Box] = []
    for shown, group in groupby(blocks, is_shown):
        run = list(group)
        boxes += run if shown or len(run) < SHORTEST_RUN else [_run(run)]
    return boxes


def _run(blocks: list[Box]) -> Box:
    """Return one box for several blocks. Its output is the last one's."""
    first, last = blocks[0], blocks[-1]
    return {
        "title": f"Transformer blocks {first['fold']} to {last['fold']}: {len(blocks)} blocks",
        "kind": "part",
        "shape": last["shape"],
        "length": last["length"],
        "parameters": f"{last['parameters']} each",
        "run": blocks,
    }
