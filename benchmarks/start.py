"""From `streamlit run` to the first chart in the browser, against a Streamlit page of one constant chart and torch.

Both are timed in turn, each time with a new server and a new, empty browser context. Our side opens the bird's-eye
view with the bundled model, which is loaded and run; the page has the model's drawing and the parameters' chart.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser

from benchmarks.chromium import CONSTANT, chromium, free_port, plain_figures, start, wait_for
from benchmarks.frame import Row, row


def run(repeats: int) -> list[Row]:
    """Measure; return one row."""
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plain.json"
        path.write_text(json.dumps(plain_figures(1, 1)))
        for _ in range(repeats + 1):
            times["ours"].append(_first_chart(browser, "app.py"))
            times["bare"].append(_first_chart(browser, CONSTANT, str(path), "torch"))
    ours, bare = (1e3 * statistics.median(times[name][1:]) for name in ("ours", "bare"))
    return [
        row(
            "streamlit run to the first chart",
            "story-gpt",
            ours,
            "ms",
            against="one constant chart, torch imported",
            theirs=bare,
            at_most=1.5,
        )
    ]


def _first_chart(browser: Browser, script: str, *arguments: str) -> float:
    """Return the seconds from the command to the first chart; Chromium itself is already running."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    port = free_port()
    began = time.perf_counter()
    process = start(script, port, *arguments)
    try:
        wait_for(port)
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}", wait_until="commit")
        page.wait_for_selector(".js-plotly-plot .main-svg", timeout=60_000, state="attached")
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()
        context.close()
