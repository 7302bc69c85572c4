"""Gradients over depth: whether what training would change reaches the first blocks."""

import re
from collections.abc import Mapping

import pandas as pd

from ..interventions import Part

GROUPS = {
    "att": "attention",
    "ff": "feed-forward",
    "norm1": "LayerNorm 1",
    "norm2": "LayerNorm 2",
}
_IN_BLOCK = re.compile(r"trf_blocks\.(\d+)\.([a-z0-9]+)\.")


def gradient_table(norms: Mapping[str, float]) -> pd.DataFrame:
    """Lengths of gradients by parameter group: `Engine.gradient_norms`' -> one row a group of a block, or outside.

    Columns: layer (missing outside of the blocks), group (a key of `GROUPS`; outside `tok_emb`, `pos_emb`,
    `final_norm` or `out_head`), norm: the root of the sum of the squares of its parameters' lengths.
    """
    rows = []
    for name, norm in norms.items():
        match = _IN_BLOCK.match(name)
        layer, group = (int(match[1]), match[2]) if match else (None, name.split(".")[0])
        rows.append((layer, group, norm**2))
    table = pd.DataFrame(rows, columns=["layer", "group", "norm"]).astype({"layer": "Int64"})
    summed = table.groupby(["layer", "group"], dropna=False, sort=False).sum().reset_index()
    return summed.assign(norm=summed["norm"] ** 0.5)


def all_shortcuts(n_layers: int) -> tuple[Part, ...]:
    """Both shortcut connections of every block."""
    return tuple(Part(kind, layer) for layer in range(n_layers) for kind in ("shortcut1", "shortcut2"))
