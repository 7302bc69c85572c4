"""Pictures: charts that have a name, so that a page, a test, a link or an export can make one by its key."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from gptviz.ui import look, state
from gptviz.ui.settings import Setting
from gptviz.ui.view import View


@dataclass(frozen=True)
class Chart:
    """A chart function with its data, and one sentence on what it shows for those who cannot see it."""

    draw: Callable[..., go.Figure]  # takes `theme`
    alt: str


@dataclass(frozen=True)
class Picture:
    """A chart of a page, under a name. Called with a view and the values of its settings, it gives a `Chart`."""

    key: str
    title: str
    settings: tuple[Setting[Any], ...]  # what it depends on, besides the text and the model
    variants: tuple[str, ...]  # where a page shows it several times: what tells them apart, such as "before"
    make: Callable[..., Chart | None]  # None where this text or model gives nothing to draw

    def __call__(self, view: View, **values: Any) -> Chart | None:
        """The chart. `values` are the settings' by name, and `variant` where there are several."""
        return self.make(view, **values)


PICTURES: dict[str, Picture] = {}  # by key; complete once all pages are imported


def picture(
    key: str, title: str, *settings: Setting[Any], variants: tuple[str, ...] = ()
) -> Callable[[Callable[..., Chart | None]], Picture]:
    """Register a function of a view and of `settings`, by name, as the picture `key`."""

    def register(make: Callable[..., Chart | None]) -> Picture:
        if key in PICTURES:
            raise ValueError(f"There are two pictures with the key {key!r}: rename one.")
        PICTURES[key] = Picture(key, title, settings, variants, make)
        return PICTURES[key]

    return register


def show_picture(
    picture: Picture, view: View, *, variant: str = "", on_click: Callable[[], None] | None = None
) -> bool:
    """Draw a picture as the settings say; with `on_click` its points can be clicked. Gives whether there is one."""
    values = {setting.name: setting.fitting(state.get(setting), view) for setting in picture.settings}
    chart = picture(view, **values, **({"variant": variant} if variant else {}))
    if chart is None:
        return False
    _draw(chart, f"{picture.key}-{variant}" if variant else picture.key, on_click)
    return True


def _draw(chart: Chart, key: str, on_click: Callable[[], None] | None) -> None:
    figure = chart.draw(theme=look.theme())
    options = {
        "displaylogo": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "svg", "filename": f"gptviz-{key}"},
    }
    if on_click is None:
        st.plotly_chart(figure, theme=None, key=key, config=options, alt=chart.alt)
        return
    # Streamlit would set these two after the first drawing, and draw again.
    figure.layout.clickmode, figure.layout.dragmode = "event+select", "pan"
    st.plotly_chart(
        figure, theme=None, key=key, config=options, alt=chart.alt, on_select=on_click, selection_mode="points"
    )
