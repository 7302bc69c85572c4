"""The pages that look inside the model, and the attention lab, in headless Chromium."""

import re

import pytest
from patience import until

from gptviz.tokens import gpt2_tokenizer

pytestmark = pytest.mark.browser
TEXT = "The cat sat on the mat. The cat"
BERTVIZ_MODEL_VIEW = 15_900_000  # bytes that it sends for the same 64 tokens


def test_steps_of_a_block_are_walked_and_a_cell_is_picked(tab, story):
    tab.open("block", text=TEXT, step="key")
    tab.page.get_by_role("button", name="Next step").click()
    tab.wait_for_query(text=TEXT, step="value")
    dimension = tab.page.get_by_label("Dimension", exact=True)
    dimension.fill("5")
    dimension.press("Enter")
    tab.wait_for_query(text=TEXT, step="value", dim="5")
    tab.settle()
    own = float(story.run(TEXT)["v", 2][-1, 5, 5])
    shown = tab.page.get_by_test_id("stMetricValue").all_inner_texts()
    assert float(shown[0].replace("−", "-")) == pytest.approx(own, rel=1e-5)
    tab.check()


def test_all_heads_of_gpt2_smalls_size_send_a_twentieth_of_what_bertviz_sends(new_tab):
    tab = new_tab()
    received = []
    tab.page.on("websocket", lambda socket: socket.on("framereceived", lambda frame: received.append(len(frame))))
    text = "".join(gpt2_tokenizer().tokens(range(1000, 1064)).strings).replace("␣", " ")
    text = gpt2_tokenizer().encode(text)[:64].text
    tab.open("attention", model="untrained", text=text)
    before = sum(received)
    tab.page.get_by_role("radio", name="All heads").or_(tab.page.get_by_text("All heads", exact=True)).first.click()
    tab.page.locator(".st-key-all-heads .js-plotly-plot").wait_for()
    tab.settle()
    assert tab.page.get_by_text("All 144 heads").count()
    assert 0 < sum(received) - before < BERTVIZ_MODEL_VIEW / 20
    tab.check()


def test_zoom_keeps_tokens_at_the_axes(tab):
    text = " ".join(f"number {number} and" for number in range(60))
    strings = gpt2_tokenizer().encode(text).strings
    tab.open("attention", text=text)
    chart = tab.chart("attention-map")

    def ticks():
        return chart.plot.locator(".xtick text").all_text_contents()

    whole = ticks()
    assert len(whole) > 10
    assert set(whole) <= set(strings)
    left, top = chart.pixel(20, 30)
    right, bottom = chart.pixel(50, 60)
    tab.page.mouse.move(left, top)
    tab.page.mouse.down()
    tab.page.mouse.move(right, bottom, steps=5)
    tab.page.mouse.up()
    until(lambda: ticks() != whole)
    tab.settle()
    zoomed = [tick for tick in ticks() if tick.strip()]
    assert 10 < len(zoomed) <= 64
    assert set(zoomed) <= set(strings[18:53])


def test_the_lens_grid_tells_the_top_five(tab, story):
    tab.open("residual", text=TEXT)
    said = tab.chart("lens").hover(4, 12)
    best = story.run(TEXT).top_k(position=4, k=5)
    for row in best.itertuples():
        assert f"{row.token} {row.probability:.1%}" in re.sub(r"\s+", " ", said.replace("\xa0", " "))
    tab.check()


def test_another_head_draws_its_map_once(tab):
    """After the first drawing Streamlit passes Plotly a copy of the chart: see `gptviz.charts.theme.figure`."""
    tab.open("attention", head=1)
    tab.page.evaluate(
        """() => {
            window.gptvizDrawn = 0
            const real = HTMLCanvasElement.prototype.toDataURL  // how a heat map becomes an image
            HTMLCanvasElement.prototype.toDataURL = function (...how) {
                window.gptvizDrawn += 1
                return real.apply(this, how)
            }
        }"""
    )
    before = tab.chart("attention-map").data()[0]["z"]
    tab.page.get_by_label("Head", exact=True).press("ArrowUp")
    tab.settle()
    assert tab.chart("attention-map").data()[0]["z"] != before
    assert tab.page.evaluate("window.gptvizDrawn") == 1
