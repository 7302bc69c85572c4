"""The app on its own server, driven in headless Chromium."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import patience
import pytest
from patience import until

ROOT = Path(__file__).parents[1]
SCREENSHOTS = "GPTVIZ_SCREENSHOTS"  # The environment variable that names a folder for screenshots of every page.
_CHROMIUM = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]
# True once nothing stale is left and every visible chart is drawn (Plotly itself is loaded with the first chart).
_ALL_IS_DRAWN = """() => !document.querySelector('[data-stale=true], [data-testid=stSkeleton]')
    && [...document.querySelectorAll('[data-testid=stPlotlyChart]')]
        .every(chart => !chart.checkVisibility() || chart.querySelector('.js-plotly-plot .main-svg'))"""


def free_port():
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def app_server(
    folder, *, start=("-m", "streamlit"), options=("--server.address", "127.0.0.1"), port=None, **environment
):
    """Serve app.py while inside; yield its address. The server's output is in `folder`/log.

    `start` holds the Python arguments that start the server, if it is not Streamlit itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    hub = f"http://127.0.0.1:{free_port()}"  # nothing listens there
    environment = {"HF_ENDPOINT": hub, "HF_HOME": str(folder / "hf"), "NO_PROXY": "127.0.0.1", **environment}
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "GPTVIZ_", "STREAMLIT_"))}
    command = [sys.executable, *start, "run", "app.py", "--server.headless", "true"]
    command += ["--server.port", str(port), *options]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=kept | environment, stdout=log, stderr=log)
        try:
            _wait_until_up(process, address, folder / "log")
            yield address
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_up(process, address, log):
    def is_up():
        if process.poll() is not None:
            pytest.fail(f"the app's server did not start:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(f"{address}/_stcore/health") as answer:
                return answer.status == 200
        except OSError:
            return False

    until(is_up, f"the app's server, whose log is {log},")


@contextmanager
def chromium():
    """Yield a running browser; skip the test if there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser tests")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium on this machine: no browser tests")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_CHROMIUM)
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A user's browser tab at the app. It records all requests, and the page's errors."""

    def __init__(self, browser, address, *, scheme="light", width=1440, height=1000):
        self.address = address
        self.context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": height})
        self.context.set_default_timeout(1000 * patience.SECONDS)
        self.page = self.context.new_page()
        self.requests, self.errors = [], []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))

    def close(self):
        self.context.close()

    def open(self, page="", **query):
        """Open a page by its link, and wait until it is completely drawn."""
        self.page.goto(f"{self.address}/{page}" + (f"?{urlencode(query)}" if query else ""))
        self.page.locator("h1").first.wait_for()
        self.settle()
        return self

    def settle(self):
        """Wait until the script is done and nothing stale is left on the page.

        The run that follows a click may not have started yet. So the wait happens inside the page, where the page's own
        timers fire first, however slow the page is.
        """
        app = self.page.locator('[data-testid="stApp"]')
        fits = False
        while not fits:
            for _ in range(3):
                self.page.evaluate("new Promise(done => setTimeout(() => requestAnimationFrame(done), 120))")
                app.and_(self.page.locator('[data-test-script-state="notRunning"]')).wait_for()
            fits = self.page.evaluate("!window.gptvizFits || window.gptvizFits()")  # drawn for this window
        self.page.wait_for_function(_ALL_IS_DRAWN)

    def go(self, title):
        """Choose another page in the navigation."""
        role = self.page.get_by_role
        link = role("link", name=title, exact=True).or_(role("menuitem", name=title, exact=True))
        if not link.is_visible():
            # Streamlit keeps an inert copy of the menu, to measure it.
            menus = self.page.locator("xpath=//header//*[not(ancestor-or-self::*[@inert])]")
            menus.filter(has_text=re.compile(r"^(Experiments|\d+ more)$")).last.click()
        link.click()
        self.settle()

    def type(self, text):
        box = self.page.get_by_label("Text", exact=True)
        box.fill(text)
        box.press("Control+Enter")
        self.settle()

    @property
    def text(self):
        return self.page.get_by_label("Text", exact=True).input_value()

    @property
    def query(self):
        """The settings in the address."""
        query = parse_qs(urlsplit(self.page.url).query, keep_blank_values=True, strict_parsing=False)
        return {name: values[0] for name, values in query.items()}

    def wait_for_query(self, **expected):
        """Wait until the address holds exactly these settings."""
        for _ in range(10 * patience.SECONDS):
            if self.query == expected:
                return
            self.page.wait_for_timeout(100)
        assert self.query == expected

    def check(self):
        """Assert that the page shows no error and that no request left this machine."""
        for test_id in ("stException", "stAlertContentError"):
            box = self.page.get_by_test_id(test_id)
            assert box.count() == 0, box.first.inner_text()
        assert not self.errors
        strangers = [url for url in self.requests if urlsplit(url).scheme in ("http", "https", "ws", "wss")]
        assert [url for url in strangers if urlsplit(url).hostname != "127.0.0.1"] == []

    def chart(self, key):
        return Chart(self.page, key)

    def n_charts(self):
        return self.page.locator(".js-plotly-plot").count()

    def screenshot(self, name):
        """Save screenshots of the page, if the environment asks for them."""
        if folder := os.environ.get(SCREENSHOTS):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.wait_for_timeout(600)  # Charts fade in.
            self.page.screenshot(path=Path(folder) / f"{name}.png")
            size = self.page.viewport_size
            height = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
            self.page.set_viewport_size({**size, "height": height + 20})
            self.page.wait_for_timeout(600)
            self.page.screenshot(path=Path(folder) / f"{name}-whole.png")
            self.page.set_viewport_size(size)


class Chart:
    """A Plotly chart on the page, by its key."""

    def __init__(self, page, key):
        self.page = page
        self.key = key
        self.plot = page.locator(f".st-key-{key} .js-plotly-plot")

    def data(self):
        """Return the chart's data, one dict per Plotly trace (only what JSON can hold)."""
        return json.loads(self.plot.evaluate("plot => JSON.stringify(plot.data)"))

    def font_color(self):
        return self.plot.evaluate("plot => plot.layout.font.color")

    def pixel(self, x, y):
        """Return where the point (x, y) of the axes is on the screen."""
        self.plot.scroll_into_view_if_needed()
        return self.plot.evaluate(
            """(plot, [x, y]) => {
                const {xaxis, yaxis} = plot._fullLayout
                const at = () => {
                    const box = plot.getBoundingClientRect()
                    return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)]
                }
                const below = at()[1] - innerHeight * 0.8
                const main = document.querySelector('[data-testid=stMain]')
                if (below > 0) main.scrollBy({top: below, behavior: "instant"})
                return at()
            }""",
            [x, y],
        )

    def hover(self, x, y):
        """Point at (x, y); return the text of the label that appears."""
        at_x, at_y = self.pixel(x, y)
        self.page.mouse.move(at_x - 3, at_y - 3)
        self.page.mouse.move(at_x, at_y, steps=4)
        label = self.plot.locator(".hoverlayer .hovertext").first
        label.wait_for()
        return label.text_content()

    def click(self, x, y):
        self.page.mouse.click(*self.pixel(x, y))
