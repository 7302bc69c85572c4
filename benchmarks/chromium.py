"""Helpers for the parts that use a browser: servers, a headless Chromium, and a clock that watches a page redraw."""

import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, sync_playwright

from benchmarks.frame import Row, row, table

# 30 tokens with any of WORDS filled in; each word is a single token.
TEXT = (
    "Once upon a time there was a little {0}. The little {0} lived in a house by the river, and every day the little "
    "{0} ran to the"
)
WORDS = ("dog", "cat", "bird", "fish", "girl", "boy", "bear", "mouse", "horse", "pig", "cow", "duck", "king", "frog")
QUICK = 3  # With this many repeats or fewer, measure only the first page or picker.
CONSTANT = "benchmarks/constant_page.py"
_CHROMIUM = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# Start two clocks: one stops at the last change inside a chart (the drawing of the model counts as one), the other at
# the last change anywhere (such as a table's hidden copy for screen readers, which appears 200 ms after the table).
# Both stop once nothing has changed for half a second and at least one chart has changed.
_WATCH = """
() => {
  const start = performance.now();
  let chart = start, anything = start;
  const CHART = ".stPlotlyChart";
  const isIn = (node) => (node.closest ? node : node.parentElement)?.closest(CHART);
  const holds = (node) => node.matches && (node.matches(CHART) || node.querySelector(CHART));
  const see = (records) => {
    anything = performance.now();
    if (records.some(({ target, addedNodes }) => isIn(target) || [...addedNodes].some(holds))) chart = anything;
  };
  const everything = { childList: true, subtree: true, attributes: true, characterData: true };
  const observers = [new MutationObserver(see)];
  observers[0].observe(document.body, everything);
  for (const { shadowRoot } of document.querySelectorAll("[data-testid=stBidiComponentIsolated]")) {
    if (!shadowRoot?.querySelector(".drawing")) continue;
    observers.push(new MutationObserver(() => { chart = anything = performance.now(); }));
    observers.at(-1).observe(shadowRoot, everything);
  }
  window.__still = new Promise((resolve, reject) => {
    const timer = setInterval(() => {
      if (performance.now() - start > 30000) reject(new Error("no chart was redrawn"));
      if (performance.now() - anything < 500 || chart === start) return;
      clearInterval(timer);
      observers.forEach((observer) => observer.disconnect());
      resolve([chart - start, anything - start]);
    }, 20);
  });
}
"""
_FIGURES = """
() => JSON.stringify(
  [...document.querySelectorAll(".js-plotly-plot")].map(({ data, layout }) => ({ data, layout })),
  (key, value) => ArrayBuffer.isView(value) ? Array.from(value, (x) => Number.isFinite(x) ? x : null) : value)
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Yield a headless browser, closed when the block ends."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(_CHROMIUM))
        yield browser
        browser.close()


def opened(browser: Browser, url: str) -> Page:
    """Open the page in a new tab and return it once it is fully drawn."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(url)
    page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
    page.wait_for_timeout(3000)
    return page


def redraw(page: Page, act: Callable[[], None]) -> tuple[float, float]:
    """Return the milliseconds from `act` to the last change in a chart, and to the last change anywhere on the page."""
    page.wait_for_timeout(100)
    page.evaluate(_WATCH)
    act()
    chart, anything = page.evaluate("() => window.__still")
    return chart, anything


def figures(page: Page) -> list[dict[str, Any]]:
    """Return the figures shown on a page, as JSON-like dicts."""
    found: list[dict[str, Any]] = json.loads(page.evaluate(_FIGURES))
    return found


def plain_figures(n_sets: int, n_figures: int) -> list[list[dict[str, Any]]]:
    """Return plain Plotly heat maps of 30 x 30 cells, all different: `n_sets` lists of `n_figures` figures."""
    random = np.random.default_rng(0)
    maps = random.random((n_sets, n_figures, 30, 30)).round(4).tolist()
    return [[{"data": [{"type": "heatmap", "z": z}], "layout": {"template": "plotly"}} for z in one] for one in maps]


def in_turns(acts: Mapping[str, Callable[[int], tuple[float, float]]], steps: int) -> dict[str, float]:
    """Return each page's two median times, as `NAME_ms` and `NAME_all_ms`; the first two steps are a warm-up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in acts}
    for number in range(steps):
        for name, act in acts.items():
            times[name].append(act(number))
    row = {}
    for name, pairs in times.items():
        charts, anything = zip(*pairs[2:], strict=True)
        row |= {f"{name}_ms": statistics.median(charts), f"{name}_all_ms": statistics.median(anything)}
    return row


BARE = {"plain": "as many plain maps", "same": "the same charts, constant"}


def compared(what: str, case: str, times: Mapping[str, float], at_most: float | None = None) -> list[Row]:
    """Return one row per bare page and clock; `at_most` bounds the first clock, that of the charts."""
    rows = [
        row(
            what,
            f"{case}, {told}",
            times[f"ours{clock}_ms"],
            "ms",
            against=name,
            theirs=times[f"{kind}{clock}_ms"],
            at_most=limit,
        )
        for clock, told, limit in (("", "charts", at_most), ("_all", "anything", None))
        for kind, name in BARE.items()
        if f"{kind}_ms" in times
    ]
    print(table(rows), flush=True)
    return rows


@contextmanager
def server(script: str, *arguments: str) -> Iterator[str]:
    """Yield the address of a Streamlit server on this machine, stopped when the block ends."""
    port = free_port()
    process = start(script, port, *arguments)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(script: str, port: int, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start `streamlit run` without opening a browser."""
    command = [sys.executable, "-m", "streamlit", "run", script, "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true", "--", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(port: int) -> None:
    """Wait until something listens on the port."""
    for _ in range(6000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError("the server did not start")
