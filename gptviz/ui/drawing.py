"""The drawing of the model: boxes from the text at the bottom to the prediction on top, each a link."""

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

import streamlit as st


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


# Text reaches the page by textContent alone, so nothing in a token can become markup.
_SCRIPT = """
export default function ({ data, parentElement, setTriggerValue }) {
  const make = (tag, name, text) => {
    const node = document.createElement(tag);
    node.className = name;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const button = (box) => {
    const node = make(box.page || box.fold !== undefined ? "button" : "div", "box " + (box.kind || "part"));
    const title = make("span", "title", box.title);
    if (box.fold !== undefined) title.prepend(make("span", "fold", box.opened ? "▾ " : "▸ "));
    node.append(title);
    if (box.detail) node.append(make("span", "detail", box.detail));
    for (const chip of box.chips || []) node.append(make("span", "chip", chip));
    if (box.explanation) node.append(make("span", "explanation", box.explanation));
    if (box.fold !== undefined) {
      node.setAttribute("aria-expanded", box.opened ? "true" : "false");
      node.onclick = () => setTriggerValue("fold", box.fold);
    } else if (box.page) {
      node.onclick = () => setTriggerValue("open", box.page);
    }
    return node;
  };
  const draw = (boxes, frame) => {
    let into = frame;
    for (const box of [...boxes].reverse()) {
      if (box.kind === "add" && frame !== root) {
        into = make("div", "branch"); // what lies between the shortcut's two ends
        frame.append(into);
      }
      if (box.flow) into.append(make("div", "flow", box.flow));
      if (box.inside) {
        const frame = make("div", "frame");
        frame.append(button(box));
        draw(box.inside, frame);
        into.append(frame);
      } else {
        into.append(button(box));
      }
    }
  };
  let root = parentElement.querySelector(".drawing");
  if (!root) {
    root = make("div", "drawing");
    parentElement.append(root);
  }
  const focused = [...root.querySelectorAll("button")].indexOf(parentElement.activeElement);
  root.replaceChildren();
  draw(data, root);
  if (focused >= 0) root.querySelectorAll("button")[focused]?.focus();
}
"""

_STYLE = """
.drawing { font-family: var(--st-font); color: var(--st-text-color); max-width: 50rem; }
.box {
  display: flex; flex-wrap: wrap; align-items: baseline; gap: 0.15rem 1rem; width: 100%; box-sizing: border-box;
  padding: 0.4rem 0.9rem; border: 2px solid var(--st-border-color); border-radius: 8px; text-align: left;
  background: var(--st-secondary-background-color); color: inherit; font: inherit;
}
button.box { cursor: pointer; }
button.box:hover, button.box:focus-visible {
  border-color: var(--st-primary-color); outline: 2px solid var(--st-primary-color);
}
.title { font-weight: 600; }
button.box .title { color: var(--st-link-color); }
.detail { margin-left: auto; font-size: 0.9em; opacity: 0.8; }
.explanation { flex-basis: 100%; font-size: 0.95em; }
.add { border-style: dashed; background: transparent; }
.add::before { content: "⊕"; font-weight: 700; }
.tokens { background: transparent; border-color: var(--st-primary-color); }
.chip {
  background: color-mix(in srgb, var(--st-primary-color) 18%, transparent); border-radius: 5px; padding: 0 0.3rem;
  white-space: pre;
}
.flow { padding: 0.05rem 0 0.05rem 1.4rem; font-size: 0.9em; }
.flow::before {
  content: "↑"; font-size: 1.15em; font-weight: 700; margin-right: 0.6rem; color: var(--st-primary-color);
}
.branch {
  border: 3px dashed var(--st-primary-color); border-left: none; border-radius: 0 14px 14px 0;
  margin: 0.2rem 0 0.5rem; padding: 0.2rem 1.4rem 0.5rem 0;
}
.frame { border: 2px solid var(--st-primary-color); border-radius: 10px; padding: 0.5rem 0.7rem 0.7rem; }
.frame > .box:first-child { margin-bottom: 0.4rem; border: none; background: transparent; }
"""

_component = st.components.v2.component("gptviz.drawing", js=_SCRIPT, css=_STYLE)


def drawing(boxes: Sequence[Box], *, on_fold: Callable[[], None], on_open: Callable[[], None], key: str) -> Any:
    """Draw `boxes`, the first at the bottom. In the result, `fold` is the block that was clicked, `open` the page."""
    return _component(data=list(boxes), key=key, on_fold_change=on_fold, on_open_change=on_open)
