"""Arrays in, Plotly figures out: pure functions, one look. They need neither Streamlit nor torch."""

from .attention import attention_lines, attention_map
from .parameters import parameter_treemap
from .prediction import next_token_bars, surprisal_bars
from .theme import DARK, LIGHT, Theme

__all__ = [
    "DARK",
    "LIGHT",
    "Theme",
    "attention_lines",
    "attention_map",
    "next_token_bars",
    "parameter_treemap",
    "surprisal_bars",
]
