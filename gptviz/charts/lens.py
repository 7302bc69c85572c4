"""The logit lens as a grid: what the stream would say at every depth and position."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from ..analysis.lens import Lens
from ..analysis.ranking import strings_of
from .matrix import depth_map
from .theme import LIGHT, Theme


def lens_map(lens: Lens, strings: Sequence[str], *, theme: Theme = LIGHT) -> go.Figure:
    """The most probable token in each cell, coloured by its probability; hover tells the first k.

    One row a point of the stream, the deepest on top; `strings` are the positions that `lens` holds.
    """
    tokens = np.array(strings_of(lens.ids.ravel())).reshape(lens.ids.shape)  # [point, pos, k]
    told = [
        [
            "\n".join(f"{token} {share:.1%}" for token, share in zip(*cell, strict=True))
            for cell in zip(*row, strict=True)
        ]
        for row in zip(tokens, lens.probabilities, strict=True)
    ]
    return depth_map(
        lens.probabilities[:, :, 0],
        [point.label for point in lens.points],
        strings,
        what="probability",
        limits=(0, 1),
        text=tokens[:, :, 0],
        hover=np.array(told),
        theme=theme,
    )
