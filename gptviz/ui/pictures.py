"""Pictures: charts that have a name, so that a page, a test, a link or an export can make one by its key."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from gptviz.ui.state import Setting


@dataclass(frozen=True)
class Chart:
    """A chart function with its data, and one sentence on what it shows for those who cannot see it."""

    draw: Callable[..., go.Figure]  # takes `theme`
    alt: str


@dataclass(frozen=True)
class Picture:
    """A chart of a page: called with a view and its settings by name, it gives a `Chart`."""

    key: str  # on the page and in links
    title: str
    settings: tuple[Setting[Any], ...]  # what it needs, besides the text and the model
    make: Callable[..., Chart]

    def __call__(self, *arguments: Any, **values: Any) -> Chart:
        """The chart for these values of `settings`."""
        return self.make(*arguments, **values)


PICTURES: dict[str, Picture] = {}  # by key, of all pages that were imported


def picture(key: str, title: str, *settings: Setting[Any]) -> Callable[[Callable[..., Chart]], Picture]:
    """Register a function of a view and of `settings`, by name, as the picture `key`."""

    def register(make: Callable[..., Chart]) -> Picture:
        if key in PICTURES:
            raise ValueError(f"There are two pictures with the key {key!r}: rename one.")
        PICTURES[key] = Picture(key, title, settings, make)
        return PICTURES[key]

    return register
