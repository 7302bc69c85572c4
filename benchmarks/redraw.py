"""How long a page takes to redraw after a picker was stepped, against bare pages of as many constant charts.

One bare page has the very figures that ours shows, taken from the browser: the ratio is what our
app adds to drawing them. The other has Plotly's plain heat maps of 30 x 30. All three in the same
headless Chromium, in turns. The time runs from the key that steps the picker to the last change in
the page's document before 500 ms without any.
"""

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

TEXT = (
    "Once upon a time there was a little dog. The little dog lived in a house by the river, and every day the little "
    "dog ran to the"
)  # 30 tokens
# page -> (label of the picker, what its link adds)
PICKERS: dict[str, tuple[str, dict[str, str]]] = {
    "attention": ("Layer", {"layer": "1"}),
    "block": ("Head", {"head": "1"}),
    "residual": ("Token", {}),
    "embeddings": ("Token of the text", {}),
    "next_token": ("Show", {}),
}
CHROMIUM = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

CONSTANT = "benchmarks/constant_page.py"
_LINE = (
    "{page:12} {charts:2} charts  {ours_ms:6.0f} ms  the same charts {same_ms:6.0f} ms, {to_same:.2f}x  "
    "plain ones {plain_ms:6.0f} ms, {to_plain:.2f}x"
)
_FIGURES = """
() => JSON.stringify(
  [...document.querySelectorAll(".js-plotly-plot")].map(({ data, layout }) => ({ data, layout })),
  (key, value) => ArrayBuffer.isView(value) ? Array.from(value, (x) => Number.isFinite(x) ? x : null) : value)
"""
_WATCH = """
() => {
  const start = performance.now();
  let last = start;
  const observer = new MutationObserver(() => { last = performance.now(); });
  observer.observe(document.body, { childList: true, subtree: true, attributes: true, characterData: true });
  window.__still = new Promise((resolve) => {
    const timer = setInterval(() => {
      if (performance.now() - last > 500 && last > start) {
        clearInterval(timer); observer.disconnect(); resolve(last - start);
      }
    }, 20);
  });
}
"""


def run(repeats: int) -> list[dict[str, Any]]:
    """Measure every page; print a table; give back its rows."""
    rows = []
    with sync_playwright() as playwright, _server("app.py") as app, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM))
        for name, (label, settings) in PICKERS.items():
            page = _open(browser, f"{app}/{name}?{urlencode({'text': TEXT, **settings})}")
            same, plain = Path(folder) / f"{name}-same.json", Path(folder) / f"{name}-plain.json"
            n_charts = _write_figures(page, label, same, plain)
            with _server(CONSTANT, str(same)) as same_url, _server(CONSTANT, str(plain)) as plain_url:
                tabs = {"ours": page, "same": _open(browser, same_url), "plain": _open(browser, plain_url)}
                times: dict[str, list[float]] = {kind: [] for kind in tabs}
                for number in range(repeats + 2):
                    for kind, tab in tabs.items():
                        times[kind].append(_step(tab, label if kind == "ours" else "Layer", number))
                for tab in tabs.values():
                    tab.close()
            median = {f"{kind}_ms": statistics.median(values[2:]) for kind, values in times.items()}
            row = {"page": name, "charts": n_charts, **median}
            row["to_same"], row["to_plain"] = (row["ours_ms"] / row[f"{kind}_ms"] for kind in ("same", "plain"))
            rows.append(row)
            print(_LINE.format(**row), flush=True)
        browser.close()
    return rows


def _write_figures(page: Page, label: str, same: Path, plain: Path) -> int:
    """Write the page's own figures before and after a step, and as many plain heat maps; gives how many."""
    sets = []
    for number in range(2):
        sets.append(json.loads(page.evaluate(_FIGURES)))
        _step(page, label, number)
    same.write_text(json.dumps(sets))
    random = np.random.default_rng(0)
    z = [[random.random((30, 30)).tolist() for _ in figures] for figures in sets]
    plain.write_text(json.dumps([[{"data": [{"type": "heatmap", "z": one}]} for one in figures] for figures in z]))
    return len(sets[0])


def _open(browser: Browser, url: str) -> Page:
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(url)
    page.wait_for_selector(".js-plotly-plot", timeout=60_000)
    page.wait_for_timeout(3000)
    return page


def _step(page: Page, label: str, number: int) -> float:
    """Step the picker once, there and back in turns, by the keyboard; milliseconds until the page is still."""
    field = page.get_by_label(label, exact=True).first
    key = "ArrowUp" if number % 2 == 0 else "ArrowDown"
    is_number = field.get_attribute("type") == "number"
    field.focus()
    if not is_number:
        field.press("ArrowDown")  # opens the list
        page.wait_for_timeout(400)
        field.press(key)
    page.wait_for_timeout(100)
    page.evaluate(_WATCH)
    field.press(key if is_number else "Enter")
    elapsed: float = page.evaluate("() => window.__still")
    return elapsed


@contextmanager
def _server(script: str, *arguments: str) -> Iterator[str]:
    """A Streamlit server on this machine, ended when the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", script, "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true", "--", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
