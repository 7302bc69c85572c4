"""Time to redraw a page after one step of a picker, against bare Streamlit pages with as many constant charts.

All pages run in the same headless Chromium, in turns. Each picker is compared with two bare pages:
- `plain`: as many plain Plotly heat maps as our page has charts, 30 x 30 cells each;
- `same`: the same figures that our page shows at each of these steps, read from a browser beforehand and built when
  the bare page started. That page benefits from everything that makes our figures small, so this ratio shows what our
  server, texts and tables add to drawing them. (Streamlit caches messages that it has sent. All three pages go through
  the same figures in the same order, so a tab has seen the same ones on each. Our server has seen none of them.)

The clock runs from the key press to the last change inside a chart, when the page is redrawn. The time in brackets
ends at the last change anywhere: usually the hidden copy that a table makes for screen readers, 200 ms after it was
drawn. A bare page draws all its charts at each step; ours redraws only those that depend on the picker.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page

from benchmarks.chromium import (
    CONSTANT,
    QUICK,
    TEXT,
    WORDS,
    chromium,
    compared,
    figures,
    in_turns,
    opened,
    plain_figures,
    redraw,
    server,
)
from benchmarks.frame import Row

# 1,024 tokens, one letter each
LONG_TEXT = "".join(f" {'abcdefghijklmnopqrstuvwxyz'[(7 * at + at * at // 5) % 26]}" for at in range(1024))


@dataclass(frozen=True)
class Picker:
    """A widget on one of our pages: its label and its kind (number, list, options, switch or fold)."""

    page: str
    label: str
    kind: str
    link: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()
    n_drawings: int = 0  # drawings not made by Plotly
    at_most: float | None = 1.6


PICKERS = (
    Picker("attention", "Head", "number", (("head", "0"),), at_most=1.3),
    Picker("attention", "Layer", "number", (("layer", "0"),)),
    Picker("attention", "Token", "list"),
    Picker("", "Explain each part", "switch", n_drawings=1),
    Picker("", "Transformer block 1", "fold", n_drawings=1),
    Picker("embeddings", "Embedding", "options", options=("Token", "Positional", "Summed")),
    Picker("embeddings", "Token of the text", "list"),
    Picker("block", "Layer", "number", (("layer", "0"),)),
    Picker("block", "Head", "number", (("head", "0"), ("step", "pattern"))),
    Picker("residual", "Token", "list"),
    Picker("residual", "After token", "list"),
    Picker("next_token", "Show", "number"),
    Picker("next_token", "After token", "list"),
)
HEAD_OF_LONG_TEXT = Picker(
    "attention",
    "Head",
    "number",
    (("head", "0"), ("layer", "0"), ("model", "untrained"), ("text", LONG_TEXT)),
    at_most=None,
)
LAST_POSITION = 29
_WAY_AND_BACK = 5  # steps up, then as many down: there are six layers and six heads


def run(repeats: int) -> list[Row]:
    """Measure every picker, or only the first in a quick run; return the rows."""
    return _measure(PICKERS if repeats > QUICK else PICKERS[:1], repeats)


def run_long(repeats: int) -> list[Row]:
    """Return the rows for another head at 1,024 tokens, on the untrained model of GPT-2 small's shape."""
    return _measure((HEAD_OF_LONG_TEXT,), repeats)


def _measure(pickers: tuple[Picker, ...], repeats: int) -> list[Row]:
    rows: list[Row] = []
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        paths = {kind: Path(folder) / f"{kind}.json" for kind in ("plain", "same")}
        for picker in pickers:
            shown = _shown(browser, picker, repeats + 2)
            n_charts = len(shown[0]) + picker.n_drawings
            paths["same"].write_text(json.dumps(shown))
            paths["plain"].write_text(json.dumps(plain_figures(len(shown), n_charts)))
            case = f"{picker.page or 'birds_eye'}, {picker.label}, {n_charts} charts"
            rows += compared("redraw", case, _times(browser, picker, paths, repeats + 2), picker.at_most)
    return rows


def _shown(browser: Browser, picker: Picker, steps: int) -> list[list[dict[str, Any]]]:
    """Return the figures of our page at the start and after each step, from a server that is not measured."""
    with server("app.py") as app:
        page = _our_page(browser, app, picker)
        shown = [figures(page)]
        for number in range(steps):
            _step(page, picker, number)
            shown.append(figures(page))
        page.close()
    return shown


def _times(browser: Browser, picker: Picker, paths: dict[str, Path], steps: int) -> dict[str, float]:
    bare = Picker("", "Layer", "number")
    with (
        server("app.py") as app,
        server(CONSTANT, str(paths["plain"]), "picker") as plain,
        server(CONSTANT, str(paths["same"]), "picker") as same,
    ):
        tabs = {
            "ours": (_our_page(browser, app, picker), picker),
            "plain": (opened(browser, plain), bare),
            "same": (opened(browser, same), bare),
        }
        acts: dict[str, Callable[[int], tuple[float, float]]] = {
            name: lambda number, tab=tab, which=which: _step(tab, which, number)  # type: ignore[misc]
            for name, (tab, which) in tabs.items()
            if name != "same" or picker.n_drawings == 0
        }
        times = in_turns(acts, steps)
        for tab, _ in tabs.values():
            tab.close()
    return times


def _our_page(browser: Browser, app: str, picker: Picker) -> Page:
    link = {"text": TEXT.format(WORDS[0])} | dict(picker.link)
    return opened(browser, f"{app}/{picker.page}?{urlencode(link)}")


def _step(page: Page, picker: Picker, number: int) -> tuple[float, float]:
    """Step the picker once (a few steps up, then down); return the milliseconds of the two clocks of `redraw`."""
    key = "ArrowUp" if number // _WAY_AND_BACK % 2 == 0 else "ArrowDown"
    if picker.kind == "options":
        option = page.get_by_role("radio", name=picker.options[number % len(picker.options)], exact=True)
        return redraw(page, lambda: option.press("Enter"))
    if picker.kind == "fold":
        block = page.get_by_role("button", name=picker.label).nth(0)
        return redraw(page, block.click)
    field = page.get_by_label(picker.label, exact=True).first
    if picker.kind == "switch":
        return redraw(page, lambda: field.press("Space"))
    field.focus()
    if picker.kind == "number":
        return redraw(page, lambda: field.press(key))
    field.fill(f"{LAST_POSITION - 1 - _zigzag(number)} ·")  # Typing this filters the list down to the position.
    page.wait_for_timeout(400)
    return redraw(page, lambda: field.press("Enter"))


def _zigzag(number: int) -> int:
    """Return 0, 1, ... 4, 5, 4, ... 1, 0, 1, ... for successive numbers."""
    return _WAY_AND_BACK - abs(number % (2 * _WAY_AND_BACK) - _WAY_AND_BACK)
