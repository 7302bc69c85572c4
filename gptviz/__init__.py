"""See inside GPT-2: text -> tokens -> model and hooks -> trace -> analysis -> charts.

>>> import gptviz
>>> engine = gptviz.load("story-gpt")
>>> trace = engine.run("Every effort moves you")
>>> trace["pattern", 3].shape  # head, query, key
(6, 4, 4)
"""

import os

# While one thread of torch waits for the next piece of work, it spins: 300,000 times, unless it is told another number
# before torch is loaded. So long it keeps a core from the browser beside it and from other sessions: a page was new a
# sixth later. With this number the model is as fast.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

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
