"""See inside GPT-2: text -> tokens -> model and hooks -> trace -> analysis -> charts.

>>> import gptviz
>>> engine = gptviz.load("story-gpt")
>>> trace = engine.run("Every effort moves you")
>>> trace["pattern", 3].shape  # head, query, key
(6, 4, 4)
"""

from importlib import import_module
from typing import TYPE_CHECKING

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

# Names are loaded when they are first used, so that `gptviz.charts` and `gptviz.numerics` work without torch.
_MODULES = {
    "ACTIVATIONS": "hooks",
    "ConfigError": "config",
    "ContextLengthError": "model",
    "DownloadError": "hub",
    "EmptyTextError": "engine",
    "Engine": "engine",
    "GPTConfig": "config",
    "GPT_CONFIGS": "config",
    "GPT_CONFIG_124M": "config",
    "GeneratedToken": "engine",
    "MODELS": "catalog",
    "NotDownloadedError": "loading",
    "Part": "interventions",
    "Tokens": "tokens",
    "Trace": "trace",
    "WeightsError": "checkpoints",
    "load": "loading",
}

if TYPE_CHECKING:
    from .catalog import MODELS
    from .checkpoints import WeightsError
    from .config import GPT_CONFIG_124M, GPT_CONFIGS, ConfigError, GPTConfig
    from .engine import EmptyTextError, Engine, GeneratedToken
    from .hooks import ACTIVATIONS
    from .hub import DownloadError
    from .interventions import Part
    from .loading import NotDownloadedError, load
    from .model import ContextLengthError
    from .tokens import Tokens
    from .trace import Trace
else:

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
