"""The user's settings, declared once, page by page. Each one is a query parameter in the page's address."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, Protocol, TypeVar

from gptviz.config import GPTConfig
from gptviz.interventions import Part
from gptviz.tokens import Tokens

Value = TypeVar("Value")
Number = TypeVar("Number", int, float)
Bounds = tuple[Number, Number]  # the smallest and the largest value


class Shown(Protocol):
    """The model and the text of a view, which a setting must fit."""

    @property
    def config(self) -> GPTConfig:
        """The model's shape."""

    @property
    def tokens(self) -> Tokens:
        """The text."""


@dataclass(frozen=True)
class Kind(Generic[Value]):
    """A type of value: how to read it from a link, how to write it there, and how to check it."""

    read: Callable[[str], Value]  # raises ValueError
    write: Callable[[Value], str]
    takes: Callable[[Any], bool]  # whether a value is of this kind; a link or a browser may send anything


def _unchanged(value: Value, _shown: Shown) -> Value:
    return value


@dataclass(frozen=True, eq=False)
class Setting(Generic[Value]):
    """One of the user's choices."""

    name: str  # in the address
    default: Value
    kind: Kind[Value]
    bounds: Callable[[Shown], tuple[Any, Any]] | None = None  # of a number, if they depend only on the model and text
    fit: Callable[[Value, Shown], Value] = _unchanged  # returns the nearest value that fits

    def fitting(self, value: Value, shown: Shown) -> Value:
        """Return the value nearest to `value` that this text and model allow."""
        if self.bounds is not None:
            low, high = self.bounds(shown)
            return min(max(value, low), high)
        return self.fit(value, shown)


# --- kinds of value ----------------------------------------------------------------------------


def _switch(word: str) -> bool:
    if word not in ("0", "1"):
        raise ValueError(word)
    return word == "1"


def _ids(word: str) -> tuple[int, ...]:
    return tuple(int(id) for id in word.split("-") if id)


def join(numbers: Iterable[int]) -> str:
    """Return the numbers as a link holds them."""
    return "-".join(str(number) for number in numbers)


def _words(word: str) -> list[str]:
    return [part for part in word.split("-") if part]


OPEN_HEAD = ["open"]  # of parts: the open head, until the user switches a part


def _parts(word: str) -> list[str]:
    words = _words(word)
    return words if words == OPEN_HEAD else [str(Part.parse(part)) for part in words]


def _is_part(word: Any) -> bool:
    try:
        return isinstance(word, str) and str(Part.parse(word)) == word
    except ValueError:
        return False


def _are_whole(values: Iterable[Any]) -> bool:
    return all(type(value) is int for value in values)  # excludes True and False, which are `int`s too


STRING = Kind[str](str, str, lambda value: isinstance(value, str))
WHOLE = Kind[int](int, str, lambda value: type(value) is int)
DECIMAL = Kind[float](float, str, lambda value: type(value) is float and math.isfinite(value))
SWITCH = Kind[bool](_switch, lambda on: str(int(on)), lambda value: type(value) is bool)
IDS = Kind[tuple[int, ...]](_ids, join, lambda value: isinstance(value, tuple) and _are_whole(value))
NUMBERS = Kind[list[int]](
    lambda word: list(_ids(word)), join, lambda value: isinstance(value, list) and _are_whole(value)
)
NAMES = Kind[list[str]](
    _words, "-".join, lambda value: isinstance(value, list) and all(isinstance(word, str) for word in value)
)
PARTS = Kind[list[str]](
    _parts, "-".join, lambda value: value == OPEN_HEAD or (isinstance(value, list) and all(map(_is_part, value)))
)


def _choice(name: str, default: StrEnum) -> Setting[str]:
    """Return a setting that is a member of an enumeration; the address and the session hold the member's string."""
    words = {str(member) for member in type(default)}
    fit = lambda word, _: word if word in words else str(default)  # noqa: E731
    return Setting(name, str(default), STRING, fit=fit)


# --- every page --------------------------------------------------------------------------------


def _last_layer(shown: Shown) -> Bounds[int]:
    return 0, shown.config["n_layers"] - 1


def _last_head(shown: Shown) -> Bounds[int]:
    return 0, shown.config["n_heads"] - 1


def _position(value: int, shown: Shown) -> int:
    """Return the nearest position in the text, counted from the start."""
    n_tokens = len(shown.tokens)
    return min(max(value + n_tokens if value < 0 else value, 0), n_tokens - 1)


TEXT = Setting("text", "Once upon a time there was a little dog. The little dog", STRING)
MODEL = Setting("model", "story-gpt", STRING)
BOS = Setting("bos", False, SWITCH)
N_HEADS = Setting("n_heads", 0, WHOLE)  # for a model whose file does not say; 0: the guess
LAYER = Setting("layer", 2, WHOLE, _last_layer)  # L2H5 is story-gpt's clearest previous-token head
HEAD = Setting("head", 5, WHOLE, _last_head)
TOKEN = Setting("token", -1, WHOLE, fit=_position)  # a position; -1 is the last one, even when the text grows
TARGET = Setting("target", "", STRING)  # a token whose logit or probability is explained; empty: the most probable


class Replacement(StrEnum):
    """What replaces a part that is switched off."""

    ZERO = "zero"
    MEAN = "mean"


REPLACEMENT = _choice("replacement", Replacement.ZERO)


class Size(StrEnum):
    """The sizes of text and charts."""

    NORMAL = "normal"
    LARGE = "large"
    STAGE = "stage"  # legible from the back row of a lecture hall


SIZE = _choice("size", Size.NORMAL)


class Fold(StrEnum):
    """The expanders of all pages. A link names them, so a name stays when a label changes; it has no hyphen."""

    SINK = "sink"
    OPERANDS = "operands"
    TEMPERATURES = "temperatures"
    ATTRIBUTION = "attribution"
    CANDIDATES = "candidates"
    PREDICTIONS = "predictions"


OPEN_FOLDS: Setting[list[str]] = Setting("open", [], NAMES)

# --- Bird's-eye view ---------------------------------------------------------------------------

UNFOLDED = Setting("unfolded", 0, WHOLE, lambda shown: (-1, shown.config["n_layers"] - 1))  # a block; -1: none
EXPLAINED = Setting("explained", False, SWITCH)
SKELETON = Setting("skeleton", False, SWITCH)

# --- Tokens ------------------------------------------------------------------------------------

WORD = Setting("word", 0, WHOLE)
MERGE = Setting("merge", -1, WHOLE)  # how many merges of the word are done; -1: all


class TokenValue(StrEnum):
    """The values that can colour the tokens."""

    NONE = "none"
    SURPRISAL = "surprisal"
    PROBABILITY = "probability"
    RANK = "rank"
    ATTENDS_TO = "attends_to"
    ATTENDED_BY = "attended_by"
    SALIENCY = "saliency"


TOKEN_VALUE = _choice("token_value", TokenValue.NONE)

# --- Embeddings --------------------------------------------------------------------------------


class Embedding(StrEnum):
    """The embeddings, by the names of their activations."""

    TOKEN = "embed"
    POSITIONAL = "pos_embed"
    SUMMED = "resid_pre"


EMBEDDING = _choice("embedding", Embedding.SUMMED)
IN_3D = Setting("in_3d", False, SWITCH)
PROBE = Setting("probe", "", STRING)
DIMENSIONS: Setting[list[int]] = Setting("dimensions", [0, 1, 2, 3], NUMBERS)

# --- Attention ---------------------------------------------------------------------------------


class AttentionView(StrEnum):
    """The views of the attention page."""

    ONE = "one"
    ALL = "all"
    FINDER = "finder"


class Reading(StrEnum):
    """Ways to read a head's pattern."""

    WEIGHTS = "weights"
    ROW = "row"
    WITHOUT_FIRST = "without_first"
    VALUE = "value"
    ROLLOUT = "rollout"
    SCORES = "scores"


class HeadScore(StrEnum):
    """The scores of heads, named like the columns of `all_head_scores`."""

    PREVIOUS_TOKEN = "previous_token"
    CURRENT_TOKEN = "current_token"
    FIRST_TOKEN = "first_token"
    DUPLICATE_TOKEN = "duplicate_token"
    INDUCTION = "induction"
    INDUCTION_RANDOM = "induction_random"
    ENTROPY = "entropy"
    DISTANCE = "distance"


VIEW = _choice("view", AttentionView.ONE)
READING = _choice("reading", Reading.WEIGHTS)
HEAD_SCORE = _choice("kind", HeadScore.PREVIOUS_TOKEN)

# --- Transformer block -------------------------------------------------------------------------

STEP = Setting("step", "norm1", STRING)  # a key of `gptviz.analysis.arithmetic.STEPS`
DIM = Setting("dim", 0, WHOLE)  # a dimension, neuron or token id
KEY = Setting("key", 0, WHOLE, lambda shown: (0, len(shown.tokens) - 1))

# --- Residual stream ---------------------------------------------------------------------------


class LensColor(StrEnum):
    """What the colours of the logit lens show."""

    PROBABILITY = "probability"
    RANK = "rank"
    ENTROPY = "entropy"
    DIVERGENCE = "divergence"


LENS_COLOR = _choice("lens_color", LensColor.PROBABILITY)
CALIBRATED = Setting("calibrated", False, SWITCH)  # whether the lens' logits are divided by a temperature per depth
AGAINST = Setting("against", "", STRING)  # a token whose logit is subtracted; empty: none

# --- Next token --------------------------------------------------------------------------------

K = Setting("k", 10, WHOLE, lambda _: (1, 50))
TEMPERATURE = Setting("temperature", 1.0, DECIMAL, lambda _: (0.0, 2.0))
TOP_K = Setting("top_k", 0, WHOLE, lambda _: (0, 50_257))  # 0 keeps every token
TOP_P = Setting("top_p", 1.0, DECIMAL, lambda _: (0.05, 1.0))
SEED = Setting("seed", 0, WHOLE, lambda _: (0, 999_999))
CONTINUATION: Setting[tuple[int, ...]] = Setting("continuation", (), IDS)

# --- Ablation ----------------------------------------------------------------------------------


def _parts_of(words: list[str], shown: Shown) -> list[str]:
    return words if words == OPEN_HEAD else [word for word in words if Part.parse(word).is_in(shown.config)]


def parts_off(words: list[str], layer: int, head: int) -> list[str]:
    """Return the parts that `OFF` names, where head `head` of layer `layer` is open."""
    return [str(Part("head", layer, head))] if words == OPEN_HEAD else words


OFF: Setting[list[str]] = Setting("off", OPEN_HEAD, PARTS, fit=_parts_of)
NEURON_LAYER = Setting("neuron_layer", 0, WHOLE, _last_layer)
NEURON = Setting("neuron", 0, WHOLE, lambda shown: (0, 4 * shown.config["emb_dim"] - 1))

# --- Patching ----------------------------------------------------------------------------------


class Patched(StrEnum):
    """The activations that can be patched."""

    STREAM = "resid_pre"
    ATTENTION = "attn_out"
    MLP = "mlp_out"
    HEAD = "z"


CLEAN = Setting("clean", "", STRING)  # empty: a pair of prompts that suits the model
CORRUPTED = Setting("corrupted", "", STRING)
ANSWER = Setting("answer", "", STRING)
RIVAL = Setting("rival", "", STRING)
PATCHED = _choice("patched", Patched.STREAM)

# --- Compare -----------------------------------------------------------------------------------

OTHER_TEXT = Setting("other_text", "Once upon a time there was a little cat. The little cat", STRING)
SAME_TEXT = Setting("same_text", False, SWITCH)  # whether both sides have the same text
OTHER_MODEL = Setting("other_model", "", STRING)  # empty: the same model

# --- Dropout -----------------------------------------------------------------------------------


class DropoutPlace(StrEnum):
    """The places where the course's model applies dropout."""

    EMBEDDING = "embedding"
    ATTENTION = "attention"
    SHORTCUT = "shortcut"


TRAINING = Setting("training", True, SWITCH)
RATE = Setting("rate", 0.1, DECIMAL, lambda _: (0.0, 0.9))
RUNS = Setting("runs", 30, WHOLE, lambda _: (1, 200))
RUN = Setting("run", 0, WHOLE)
DROPPED: Setting[list[str]] = Setting("dropped", [str(place) for place in DropoutPlace], NAMES)

# --- Gradients ---------------------------------------------------------------------------------


class ParameterGroup(StrEnum):
    """The groups of a block's parameters, by the course's names."""

    ATTENTION = "att"
    FEED_FORWARD = "ff"
    NORM1 = "norm1"
    NORM2 = "norm2"


class AttributionMethod(StrEnum):
    """The methods to attribute a prediction to the text's tokens."""

    INTEGRATED = "integrated"
    TIMES_INPUT = "times_input"


GROUP = _choice("group", ParameterGroup.ATTENTION)
TWIN = Setting("twin", True, SWITCH)
METHOD = _choice("method", AttributionMethod.INTEGRATED)

# --- Glossary ----------------------------------------------------------------------------------

TERM = Setting("term", "", STRING)  # a term, or words to look for; empty: all terms

SETTINGS: tuple[Setting[Any], ...] = tuple(value for value in list(globals().values()) if isinstance(value, Setting))
