"""See inside GPT-2: text -> tokens -> model and hooks -> trace -> analysis -> charts.

>>> import gptviz
>>> engine = gptviz.load("story-gpt")
>>> trace = engine.run("Every effort moves you")
>>> trace["pattern", 3].shape  # head, query, key
(6, 4, 4)
"""

from .catalog import MODELS
from .checkpoints import WeightsError
from .config import GPT_CONFIG_124M, GPT_CONFIGS, ConfigError, GPTConfig
from .engine import EmptyTextError, Engine, GeneratedToken, NotDownloadedError, load
from .hooks import ACTIVATIONS
from .hub import DownloadError
from .interventions import Part
from .model import ContextLengthError
from .tokens import Tokens
from .trace import Trace
from .version import __version__

__all__ = [
    "ACTIVATIONS",
    "GPT_CONFIGS",
    "GPT_CONFIG_124M",
    "MODELS",
    "ConfigError",
    "ContextLengthError",
    "DownloadError",
    "EmptyTextError",
    "Engine",
    "GPTConfig",
    "GeneratedToken",
    "NotDownloadedError",
    "Part",
    "Tokens",
    "Trace",
    "WeightsError",
    "__version__",
    "load",
]
