"""Another head of 1,024 tokens on GPT-2 small's shape: from the key to the still page, and bytes on the wire."""

import shutil
import statistics
from typing import Any

from playwright.sync_api import sync_playwright

from benchmarks.redraw import CHROMIUM, _open, _server, _step

TEXT = "word" + " word" * 1023
PATIENCE = 120_000  # milliseconds
_LINE = "another head at 1,024 tokens: {milliseconds:.0f} ms, slowest {slowest:.0f} ms, {bytes:,.0f} bytes"


def run(repeats: int) -> list[dict[str, Any]]:
    """Each step goes to a head that was not shown before, so that nothing comes from the browser's cache."""
    received: list[int] = []
    with sync_playwright() as playwright, _server("app.py") as app:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM))
        page = _open(browser, f"{app}/attention?model=untrained&layer=1&head=0")
        page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(len(frame))))
        page.reload()
        page.wait_for_timeout(5000)
        box = page.get_by_label("Text", exact=True)
        box.fill(TEXT)
        box.press("Control+Enter")
        page.get_by_text("1023 · ␣word").first.wait_for(timeout=PATIENCE)
        page.wait_for_timeout(5000)
        times, sizes = [], []
        for _ in range(min(repeats, 11)):
            received.clear()
            times.append(_step(page, "Head", 0))
            sizes.append(sum(received))
        browser.close()
    row = {"milliseconds": statistics.median(times), "slowest": max(times), "bytes": statistics.median(sizes)}
    print(_LINE.format(**row))
    return [row]
