"""What every page looks like on the screen: in windows of several sizes, in light and dark mode, on a stage.

Each page is opened once and walked through all of that while `screen.js` measures it. Then each test judges one kind of
finding, and lists all findings of its kind.
"""

import re
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import Tab
from page_table import PAGES

from gptviz.charts import DARK, LIGHT

pytestmark = [pytest.mark.browser, pytest.mark.measured]


class Size(NamedTuple):
    """A window, and whether the sidebar is open in it."""

    width: int
    height: int
    is_open: bool

    def __str__(self):
        return f"{self.width}x{self.height}{' with sidebar' if self.is_open else ''}"


PHONE, TABLET = Size(390, 844, False), Size(820, 1180, False)
LAPTOP, LAPTOP_WITH_SIDEBAR = Size(1280, 720, False), Size(1280, 720, True)
PROJECTOR, PROJECTOR_WITH_SIDEBAR = Size(1920, 1080, False), Size(1920, 1080, True)
# Each step changes as little as possible, because each change draws the page again.
WALK = (
    (TABLET, "light"),
    (TABLET, "dark"),
    (PHONE, "dark"),
    (PHONE, "light"),
    (LAPTOP, "light"),
    (LAPTOP, "dark"),
    (LAPTOP_WITH_SIDEBAR, "dark"),
    (PROJECTOR_WITH_SIDEBAR, "dark"),
    (PROJECTOR, "light"),
)
THEMES = {"light": LIGHT, "dark": DARK}
MEASURES = Path(__file__).with_name("screen.js")
SMALLEST_ON_STAGE = 0.022  # of the window's height
ODD_TEXT = "<b>ーの京</b> 👍 disproportionately telecommunications!"  # 15 tokens
PAGES_WITH_ODD_TEXT = ("attention", "residual", "next_token", "compare")

# For every page, the control that people use most and the picture that it changes. The selectors are Playwright's.
FIRST_WINDOW = {
    "": (".drawing button", ".drawing"),
    "tokens": ("role=combobox[name='Coloured by']", ".chips"),
    "glossary": ("role=textbox[name='Find a word']", "[data-testid=stExpander]"),
    "embeddings": (".st-key-embedding", ".st-key-embedding-map"),
    "attention": ("role=spinbutton[name='Layer']", ".st-key-attention-map"),
    "block": ("role=button[name='Next step']", "[class*=st-key-step-map]"),
    "residual": ("role=combobox[name='Token']", ".st-key-lens"),
    "next_token": ("role=combobox[name='After token']", ".st-key-next-token-bars"),
    "ablation": (".st-key-board", ".st-key-before-after"),
    "patching": (".st-key-patched", ".st-key-patched-map"),
    "compare": ("role=textbox[name='Other text']", ".st-key-next-pair"),
    "dropout": (".st-key-rate", ".st-key-spread"),
    "gradients": (".st-key-group", ".st-key-gradients"),
}


class Findings:
    """What was found on one page: kind -> finding -> where it was seen."""

    def __init__(self, page):
        self.page = page
        self.maps = set()  # the charts whose cells were measured
        self.of_kind = defaultdict(lambda: defaultdict(list))

    def add(self, kind, where, findings):
        for finding in findings:
            self.of_kind[kind][finding].append(str(where))

    def fail_if_any(self, kind):
        if found := self.of_kind[kind]:
            seen = defaultdict(list)
            for finding, where in found.items():
                seen[", ".join(dict.fromkeys(where))].append(f"    {finding}")
            lines = [line for where, findings in seen.items() for line in (f"  {where}:", *findings)]
            pytest.fail("\n".join([f"{self.page or 'start'}: {len(found)} findings", *lines]), pytrace=False)


# --- the walk through a page ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def screen(browser, address):
    """The tab in which all pages are measured."""
    tab = Tab(browser, address)
    tab.context.add_init_script(path=MEASURES)
    yield tab
    tab.close()


@pytest.fixture(scope="module", params=PAGES, ids=lambda page: page or "start")
def findings(request, screen):
    """All findings on one page, with the usual text."""
    page = request.param
    found = Findings(page)
    found.add("sidebar", TABLET, open_in_narrow_window(screen, TABLET, page))
    for size, mode in WALK:
        show(screen, size, mode)
        where = f"{size} {mode}"
        add_texts(found, where, screen)
        if not size.is_open:
            found.add("sidebar", size, outside(screen, [".edit-text"]))
        add_cells(found, size, screen)
        if size == LAPTOP:
            found.add("axe", mode, barriers(screen))
        if size in (LAPTOP, PROJECTOR_WITH_SIDEBAR):
            found.add("first window", size, outside(screen, FIRST_WINDOW[page]))
    normal = measure(screen, "sizes")
    set_stage(screen)
    where = f"{PROJECTOR} light stage"
    add_texts(found, where, screen)
    found.add("small", where, measure(screen, "smallTexts", SMALLEST_ON_STAGE * PROJECTOR.height))
    found.add("not larger", where, not_larger(normal, measure(screen, "sizes")))
    screen.check()
    return found


@pytest.fixture(scope="module", params=PAGES_WITH_ODD_TEXT)
def findings_with_odd_text(request, screen):
    """What is found about texts and cells on one page with long and odd tokens."""
    found = Findings(request.param)
    open_in_narrow_window(screen, TABLET, request.param, text=ODD_TEXT)
    for size in (TABLET, PHONE, LAPTOP, PROJECTOR_WITH_SIDEBAR):
        show(screen, size, "light")
        add_texts(found, size, screen)
        add_cells(found, size, screen)
    screen.check()
    return found


def open_in_narrow_window(screen, size, page, **query):
    """Open a page in a window in which the sidebar starts closed. Return what is wrong with that."""
    screen.page.set_viewport_size({"width": size.width, "height": size.height})
    screen.page.emulate_media(color_scheme="light")
    screen.open(page, **query)
    rest(screen, "light")
    return ["the sidebar starts open"] if is_sidebar_open(screen) else []


def show(screen, size, mode):
    """Change the window, the sidebar and the mode, and wait until the page is drawn for them."""
    screen.page.set_viewport_size({"width": size.width, "height": size.height})
    screen.page.emulate_media(color_scheme=mode)
    screen.page.evaluate("new Promise(requestAnimationFrame)")
    set_sidebar(screen, size.is_open)
    rest(screen, mode)
    while is_sidebar_open(screen) != size.is_open:  # Streamlit may open it after a narrow window becomes a wide one.
        set_sidebar(screen, size.is_open)
        rest(screen, mode)


def is_sidebar_open(screen):
    return screen.page.get_by_test_id("stSidebar").get_attribute("data-collapsed") == "false"


def set_sidebar(screen, is_open):
    if is_sidebar_open(screen) != is_open:
        button = "[data-testid=stExpandSidebarButton]" if is_open else "[data-testid=stSidebarCollapseButton] button"
        screen.page.locator(button).dispatch_event("click")  # One of them shows only while a mouse is over it.
        collapsed = "false" if is_open else "true"
        screen.page.locator(f"[data-testid=stSidebar][data-collapsed={collapsed}]").wait_for(state="attached")


def set_stage(screen):
    screen.page.locator(".st-key-size").get_by_text("Stage", exact=True).click()
    screen.page.wait_for_url("**size=stage*")
    rest(screen, "light")


def rest(screen, mode):
    """Wait until the page is drawn for its window and this mode, and nothing moves any more."""
    screen.page.wait_for_function(
        "color => getComputedStyle(document.documentElement).getPropertyValue('--main') === color",
        arg=THEMES[mode].main,
        polling=100,
    )
    screen.settle()
    screen.page.wait_for_function("gptvizScreen.isStill()", polling=100)


# --- what is measured -------------------------------------------------------------------------------


def measure(screen, what, *arguments):
    """Return what a function of screen.js returns."""
    return screen.page.evaluate(f"arguments => gptvizScreen.{what}(...arguments)", list(arguments))


def add_texts(found, where, screen):
    for kind, findings in measure(screen, "textFindings").items():
        found.add(kind, where, findings)
    found.add("sideways", where, measure(screen, "sideways"))


def add_cells(found, where, screen):
    cells = measure(screen, "cells")
    found.maps |= {chart for chart, _, _ in cells}
    found.add("cells", where, uneven(cells))


def uneven(cells):
    return [
        f"{chart}: a cell is {across:.1f} px wide and {down:.1f} px high"
        for chart, across, down in cells
        if abs(across - down) >= 0.02 * across
    ]


def not_larger(normal, stage):
    """Return the charts whose area is no larger on a stage than usual; both are chart -> (width, height)."""
    sizes = {chart: (usual, stage.get(chart, (0, 0))) for chart, usual in normal.items()}
    return [
        f"{chart} has {wide} x {high} px, and {usual[0]} x {usual[1]} at the usual size"
        for chart, (usual, (wide, high)) in sizes.items()
        if wide * high <= usual[0] * usual[1]
    ]


def outside(screen, selectors):
    """Return which elements are not wholly within the window."""
    found = []
    for selector in selectors:
        shown = screen.page.locator(selector).filter(visible=True)
        found += (
            shown.first.evaluate("(it, name) => gptvizScreen.outside(name, it)", selector)
            if shown.count()
            else [f"{selector} is not on the page"]
        )
    return found


def barriers(screen):
    """Return what axe-core calls serious or critical. It judges only what is not scrolled away."""
    unrolled = screen.page.evaluate_handle("gptvizScreen.unroll()")
    violations = Axe().run(screen.page).response["violations"]
    unrolled.evaluate("style => style.remove()")
    return [
        f"{violation['id']}: {node['html'][:200]} {' '.join(node['failureSummary'].split())}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


# --- what must hold ---------------------------------------------------------------------------------


def test_every_page_says_what_its_first_window_holds():
    assert FIRST_WINDOW.keys() == PAGES.keys()


def test_the_first_window_holds_the_control_and_the_picture_that_it_changes(findings):
    findings.fail_if_any("first window")


def test_no_text_is_cut(findings):
    findings.fail_if_any("cut")


def test_no_text_covers_another(findings):
    findings.fail_if_any("overlapping")


def test_no_page_scrolls_sideways(findings):
    findings.fail_if_any("sideways")


def test_cells_of_token_maps_are_square(findings):
    assert findings.page != "attention" or "attention-map" in findings.maps
    findings.fail_if_any("cells")


def test_a_narrow_window_starts_without_the_sidebar_and_with_a_way_to_it(findings):
    findings.fail_if_any("sidebar")


@pytest.mark.parametrize("size", [PHONE, TABLET], ids=str)
def test_the_way_to_the_sidebar_leads_to_the_text(screen, size):
    assert open_in_narrow_window(screen, size, "") == []
    screen.page.locator(".edit-text").click()
    screen.page.wait_for_function("document.activeElement.matches('[data-testid=stSidebar] textarea')")
    rest(screen, "light")
    assert outside(screen, ["[data-testid=stSidebar] textarea"]) == []


def test_on_a_stage_texts_of_charts_and_tables_are_large(findings):
    findings.fail_if_any("small")


def test_on_a_stage_charts_are_larger(findings):
    findings.fail_if_any("not larger")


def test_axe_finds_no_serious_barrier(findings):
    findings.fail_if_any("axe")


@pytest.mark.parametrize("kind", ["cut", "overlapping", "sideways", "cells"])
def test_long_and_odd_tokens_keep_to_their_places(findings_with_odd_text, kind):
    findings_with_odd_text.fail_if_any(kind)


# --- the measures themselves ------------------------------------------------------------------------

# A page with faults. Every box is 40 px below the one before.
FAULTY = """<!DOCTYPE html>
<style>
    body {margin: 0; font: 16px sans-serif;}
    main {height: 500px; overflow: auto; position: absolute; inset: 0;}
    main > * {position: absolute; left: 20px; white-space: nowrap;}
    .narrow {width: 60px;}
</style>
<header data-testid="stHeader" style="position: absolute; height: 40px"></header>
<main data-testid="stMain">
    <div class="narrow" style="top: 40px; overflow: hidden">Cut at the side</div>
    <div class="narrow" style="top: 80px; overflow: hidden; text-overflow: ellipsis">Cut by an ellipsis</div>
    <div style="top: 120px; height: 20px; overflow: hidden">Whole<br>Cut from below</div>
    <div class="narrow" style="top: 160px; overflow: auto">In a box that can be scrolled</div>
    <div style="top: 200px; width: 1px; height: 1px; overflow: hidden">For a screen reader</div>
    <input class="narrow" style="top: 240px" placeholder="Cut in its field">
    <div style="top: 280px">Below another</div> <div style="top: 285px">Over another</div>
    <div style="top: 320px">One line</div> <div style="top: 336px">The next line</div>
    <div style="top: 360px; width: 3000px">Wide</div>
    <table style="top: 400px; font-size: 12px"><tr><td>Small cell</td></tr></table>
    <div class="js-plotly-plot st-key-map" style="left: 400px; top: 40px; width: 300px; height: 200px">
        <svg width="300" height="200" style="overflow: visible">
            <clipPath id="clip"><rect x="0" y="0" width="100" height="200"/></clipPath>
            <text x="250" y="20">Out of the chart</text>
            <g clip-path="url(#clip)"><text x="60" y="40">Out of the clip</text></g>
            <text transform="translate(20,150) rotate(-60)">Slanted one</text>
            <text transform="translate(45,150) rotate(-60)">Slanted apart</text>
            <text transform="translate(200,150) rotate(-60)">Slanted two</text>
            <text transform="translate(208,150) rotate(-60)">Slanted close</text>
            <text transform="translate(10,180) scale(0.5)">Scaled down</text>
            <text x="150" y="180" opacity="0">Hidden one</text> <text x="150" y="180" opacity="0">Hidden two</text>
        </svg>
    </div>
</main>
<script>
    const axis = (length, range) => ({ _length: length, range })
    const meta = { click: "row", across: 3, down: 3 }
    document.querySelector(".js-plotly-plot")._fullLayout =
        { meta, xaxis: axis(90, [-0.5, 2.5]), yaxis: axis(60, [2.5, -0.5]) }
</script>
"""


@pytest.fixture
def faulty(new_tab):
    tab = new_tab(width=1000, height=600)
    tab.page.set_content(FAULTY)
    tab.page.add_script_tag(path=MEASURES)
    return tab


def named(findings):
    """Return the texts that findings name, a sorted tuple for each finding."""
    return {tuple(sorted(re.findall("“(.*?)”", finding))) for finding in findings}


def test_faults_in_texts_are_found_and_nothing_else(faulty):
    found = measure(faulty, "textFindings")
    assert named(found["cut"]) == {
        *[("Cut at the side",), ("Cut by an ellipsis",), ("Cut from below",), ("Cut in its field",)],
        *[("Out of the chart",), ("Out of the clip",)],
    }
    assert named(found["overlapping"]) == {("Below another", "Over another"), ("Slanted close", "Slanted two")}


def test_faults_in_sizes_are_found_and_nothing_else(faulty):
    assert len(measure(faulty, "sideways")) == 1
    assert named(measure(faulty, "smallTexts", 13)) == {("Small cell",), ("Scaled down",)}
    assert measure(faulty, "cells") == [["map", 30, 20]]
    assert uneven([["map", 30, 20], ["square", 30, 30.5]]) == ["map: a cell is 30.0 px wide and 20.0 px high"]
    assert measure(faulty, "sizes") == {"map": [300, 200]}
    assert not_larger({"same": (9, 9), "larger": (9, 9), "gone": (9, 9)}, {"same": (9, 9), "larger": (9, 10)}) == [
        "same has 9 x 9 px, and 9 x 9 at the usual size",
        "gone has 0 x 0 px, and 9 x 9 at the usual size",
    ]
    assert outside(faulty, [".st-key-map"]) == []
    assert len(outside(faulty, ["text=Wide", ".nowhere"])) == 2
