"""Plotly figures from arrays: pure functions with a common look, which need neither Streamlit nor torch."""

from .attention import attention_lines, attention_map
from .changes import dropped_map, next_token_pair, run_spread, switch_board
from .heads import head_grid, small_maps
from .heat_maps import depth_map, dimension_map, token_pair_map
from .logit_lens import lens_map, lens_rank_map
from .parameters import parameter_treemap
from .prediction import next_token_bars, surprisal_bars
from .theme import DARK, LIGHT, Theme
from .vectors import (
    depth_lines,
    dimension_lines,
    gelu_curve,
    position_similarity,
    position_waves,
    principal_scatter,
    token_lines,
    value_bars,
)

__all__ = [
    "DARK",
    "LIGHT",
    "Theme",
    "attention_lines",
    "attention_map",
    "depth_lines",
    "depth_map",
    "dimension_lines",
    "dimension_map",
    "dropped_map",
    "gelu_curve",
    "head_grid",
    "lens_map",
    "lens_rank_map",
    "next_token_bars",
    "next_token_pair",
    "parameter_treemap",
    "position_similarity",
    "position_waves",
    "principal_scatter",
    "run_spread",
    "small_maps",
    "surprisal_bars",
    "switch_board",
    "token_lines",
    "token_pair_map",
    "value_bars",
]
