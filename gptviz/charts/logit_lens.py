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
    values: NDArray[np.floating] | None = None,
    what: str = "probability",
    limits: tuple[float, float] = (0, 1),
    first: int = 0,
    theme: Theme = LIGHT,
) -> go.Figure:
    """The most probable token in each cell, coloured by its probability or by other `values`; hover shows the first k.

    `probabilities` and `tokens` (as strings) are [point, pos, k], the most probable first. `values` [point, pos] are
    what `what` says, in colours between `limits`. `rows` names the points of the stream, the deepest on top; `strings`
    names the positions.
    """
    return depth_map(
        probabilities[:, :, 0] if values is None else values,
        rows,
        strings,
        what=what,
        limits=limits,
        text=tokens[:, :, 0],
        hover=np.array(_listed(probabilities, tokens)),
        first=first,
        theme=theme,
    )


def lens_rank_map(
    ranks: NDArray[np.integer],
    vocab_size: int,
    probabilities: NDArray[np.floating],
    tokens: NDArray[np.str_],
    rows: Sequence[str],
    strings: Sequence[str],
    *,
    first: int = 0,
    theme: Theme = LIGHT,
) -> go.Figure:
    """`lens_map` coloured by the rank of a chosen token: `ranks` is [point, pos], and 1 is the most probable.

    The scale is logarithmic, from rank 1 in the strongest colour to `vocab_size`.
    """
    listed = _listed(probabilities, tokens)
    told = [
        [f"rank {rank:,}\n{cell}" for rank, cell in zip(*row, strict=True)]
        for row in zip(ranks.tolist(), listed, strict=True)
    ]
    made = depth_map(
        -np.log10(ranks),
        rows,
        strings,
        what="rank",
        limits=(-np.log10(vocab_size), 0),
        text=tokens[:, :, 0],
        hover=np.array(told),
        first=first,
        theme=theme,
    )
    powers = range(int(np.log10(vocab_size)) + 1)
    made.data[0].colorbar.update(tickvals=[-power for power in powers], ticktext=[f"{10**power:,}" for power in powers])
    made.data[0].hovertemplate = "<b>%{x}</b><br>%{y}<br>%{customdata}<extra></extra>"
    return made


def _listed(probabilities: NDArray[np.floating], tokens: NDArray[np.str_]) -> list[list[str]]:
    """Each cell's k tokens with their probabilities, one a line: [point, pos]."""
    return [
        [
            "\n".join(f"{token} {share:.1%}" for token, share in zip(*cell, strict=True))
            for cell in zip(*row, strict=True)
        ]
        for row in zip(tokens, probabilities, strict=True)
    ]
