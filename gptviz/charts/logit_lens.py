"""The logit lens as a grid: what the stream would predict at every depth and position."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from .heat_maps import depth_map
from .theme import LIGHT, Theme


def lens_map(
    probabilities: NDArray[np.floating],
    tokens: NDArray[np.str_],
    rows: Sequence[str],
    strings: Sequence[str],
    *,
    first: int = 0,
    theme: Theme = LIGHT,
) -> go.Figure:
    """The most probable token in each cell, coloured by its probability; hover shows the first k.

    `probabilities` and `tokens` (as strings) are [point, pos, k], the most probable first. `rows` names the
    points of the stream, the deepest on top; `strings` names the positions, which begin at `first`.
    """
    told = [
        [
            "\n".join(f"{token} {share:.1%}" for token, share in zip(*cell, strict=True))
            for cell in zip(*row, strict=True)
        ]
        for row in zip(tokens, probabilities, strict=True)
    ]
    return depth_map(
        probabilities[:, :, 0],
        rows,
        strings,
        what="probability",
        limits=(0, 1),
        text=tokens[:, :, 0],
        hover=np.array(told),
        first=first,
        theme=theme,
    )
