"""Time to redraw all charts of a page after its text is edited, against bare pages with as many constant charts.

The two bare pages and the two clocks are those of `redraw`. Every text is new to the server, so the model runs.
Tokens and Patching are left out: Tokens has no chart, and Patching has its own texts. Dropout runs the text 31 times,
and Gradients runs four backward passes through two models; both are still compared with the same bare pages.
"""

import json
import tempfile
from pathlib import Path
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

PAGES = {
    "attention": 0,
    "": 1,
    "embeddings": 0,
    "block": 0,
    "residual": 0,
    "next_token": 0,
    "ablation": 0,
    "compare": 0,
    "dropout": 0,
    "gradients": 0,
}  # page -> number of drawings not made by Plotly


def run(repeats: int) -> list[Row]:
    """Measure every page, or only the first in a quick run; return the rows."""
    rows: list[Row] = []
    pages = list(PAGES.items())[: None if repeats > QUICK else 1]
    steps = min(repeats + 2, len(WORDS) - 1)
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        for name, n_drawings in pages:
            with server("app.py") as app:  # This server is not measured.
                page = _our_page(browser, app, name)
                shown = [figures(page)]
                for number in range(steps):
                    _edit(page, number)
                    shown.append(figures(page))
                page.close()
            paths = {kind: Path(folder) / f"{kind}.json" for kind in ("plain", "same")}
            paths["same"].write_text(json.dumps(shown))
            n_charts = len(shown[0]) + n_drawings
            paths["plain"].write_text(json.dumps(plain_figures(len(shown), n_charts)))
            case = f"{name or 'birds_eye'}, {n_charts} charts"
            rows += compared("edited text", case, _times(browser, name, paths, steps), at_most=1.6)
    return rows


def _times(browser: Browser, name: str, paths: dict[str, Path], steps: int) -> dict[str, float]:
    with (
        server("app.py") as app,
        server(CONSTANT, str(paths["plain"]), "text") as plain,
        server(CONSTANT, str(paths["same"]), "text") as same,
    ):
        tabs = {"ours": _our_page(browser, app, name), "plain": opened(browser, plain), "same": opened(browser, same)}
        acts = {
            kind: lambda number, tab=tab: _edit(tab, number)  # type: ignore[misc]
            for kind, tab in tabs.items()
            if kind != "same" or name  # The drawing on the bird's-eye view is not a Plotly figure.
        }
        times = in_turns(acts, steps)
        for tab in tabs.values():
            tab.close()
    return times


def _our_page(browser: Browser, app: str, name: str) -> Page:
    return opened(browser, f"{app}/{name}?{urlencode({'text': TEXT.format(WORDS[0])})}")


def _edit(page: Page, number: int) -> tuple[float, float]:
    """Put another word into the text and time the redraw."""
    field = page.get_by_label("Text", exact=True)
    field.fill(TEXT.format(WORDS[number + 1]))
    return redraw(page, lambda: field.press("Control+Enter"))
