"""Pictures: named charts, so that a page, a test, a link or an export can make one by its key."""

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
    """A chart function with its data, and what the chart says, for people who cannot see it."""

    draw: Callable[..., go.Figure]  # takes `theme`
    alt: str  # plain text: see `descriptions`


@dataclass(frozen=True)
class Picture:
    """A named chart of a page. Call it with a view and the values of its settings to make a `Chart`."""

    key: str
    title: str
    settings: tuple[Setting[Any], ...]  # what it depends on, besides the text and model
    variants: tuple[str, ...]  # names of its versions, such as "before", if a page shows several
    make: Callable[..., Chart | None]  # returns None if this text or model has nothing to draw

    def __call__(self, view: View, **values: Any) -> Chart | None:
        """Return the chart. `values` are the settings' values by name, and `variant` if there are several."""
        return self.make(view, **values)


PICTURES: dict[str, Picture] = {}  # by key; complete once all pages are imported


def picture(
    key: str, title: str, *settings: Setting[Any], variants: tuple[str, ...] = ()
) -> Callable[[Callable[..., Chart | None]], Picture]:
    """Register a function as the picture `key`. It takes a view, and the values of `settings` by name."""

    def register(make: Callable[..., Chart | None]) -> Picture:
        if key in PICTURES:
            raise ValueError(f"There are two pictures with the key {key!r}: rename one.")
        PICTURES[key] = Picture(key, title, settings, variants, make)
        return PICTURES[key]

    return register


def show_picture(picture: Picture, view: View, *, variant: str = "", across: float = 1.0, taken: float = 14.0) -> bool:
    """Draw a picture with the current settings. Return whether it was drawn. `across` and `taken`: see `look.theme`."""
    values = {setting.name: setting.fitting(state.get(setting), view) for setting in picture.settings}
    chart = picture(view, **values, **({"variant": variant} if variant else {}))
    if chart is None:
        return False
    key = f"{picture.key}-{variant}" if variant else picture.key
    figure = chart.draw(theme=look.theme(across, taken))
    options = {
        "displaylogo": False,
        "modeBarButtonsToRemove": ["select2d", "lasso2d", "autoScale2d"],
        "toImageButtonOptions": {"format": "svg", "filename": f"gptviz-{key}"},
    }
    st.plotly_chart(figure, theme=None, key=key, config=options, alt=chart.alt)
    return True
