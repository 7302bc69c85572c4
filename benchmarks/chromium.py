"""What the parts with a browser share: servers, a headless Chromium, and the clock that watches a page redraw."""

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

# 30 tokens with any of WORDS in them, each a token of its own.
TEXT = (
    "Once upon a time there was a little {0}. The little {0} lived in a house by the river, and every day the little "
    "{0} ran to the"
)
WORDS = ("dog", "cat", "bird", "fish", "girl", "boy", "bear", "mouse", "horse", "pig", "cow", "duck", "king", "frog")
QUICK = 3  # repeats; so few look at the first page or picker only
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

# Two clocks from now on: the last change inside of a chart (the drawing of the model is one), and the last anywhere
# (such as a table's hidden copy for screen readers, which comes 200 ms after the table). Both end when nothing has
# changed for half a second, and some chart has.
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
    """A headless browser, ended when the block ends."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(_CHROMIUM))
        yield browser
        browser.close()


def opened(browser: Browser, url: str) -> Page:
    """A new tab with this page, all drawn."""
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    page.goto(url)
    page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000)
    page.wait_for_timeout(3000)
    return page


def redraw(page: Page, act: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds from `act` until the last change in a chart, and until the last anywhere on the page."""
    page.wait_for_timeout(100)
    page.evaluate(_WATCH)
    act()
    chart, anything = page.evaluate("() => window.__still")
    return chart, anything


def figures(page: Page) -> list[dict[str, Any]]:
    """The figures that a page shows."""
    found: list[dict[str, Any]] = json.loads(page.evaluate(_FIGURES))
    return found


def plain_figures(n_sets: int, n_figures: int) -> list[list[dict[str, Any]]]:
    """Plotly's heat maps as they come, of 30 x 30 cells, all different."""
    random = np.random.default_rng(0)
    maps = random.random((n_sets, n_figures, 30, 30)).round(4).tolist()
    return [[{"data": [{"type": "heatmap", "z": z}], "layout": {"template": "plotly"}} for z in one] for one in maps]


def in_turns(acts: Mapping[str, Callable[[int], tuple[float, float]]], steps: int) -> dict[str, float]:
    """Medians of each page's two clocks, `NAME_ms` and `NAME_all_ms`; the first two steps warm up."""
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
    """A row a bare page and clock; `at_most` is for the first clock, by which the charts are there."""
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
    """A Streamlit server on this machine, ended when the block ends."""
    port = free_port()
    process = start(script, port, *arguments)
    try:
        wait_for(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    """A port that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def start(script: str, port: int, *arguments: str) -> "subprocess.Popen[bytes]":
    """`streamlit run` without a browser."""
    command = [sys.executable, "-m", "streamlit", "run", script, "--server.port", str(port)]
    command += ["--server.address", "127.0.0.1", "--server.headless", "true", "--", *arguments]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(6000):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.01)
    raise TimeoutError("the server did not start")
