"""The named models: what each one is, and where its weights come from."""

from dataclasses import dataclass
from pathlib import Path

from .config import GPT_CONFIG_124M, GPT_CONFIG_355M, GPT_CONFIG_774M, GPT_CONFIG_1558M, GPTConfig, parameter_count

STORY_GPT = Path(__file__).parent / "data" / "story-gpt"
STORY_GPT_CONFIG = GPTConfig(
    vocab_size=50257, context_length=256, emb_dim=192, n_heads=6, n_layers=6, drop_rate=0.1, qkv_bias=False
)


@dataclass(frozen=True)
class NamedModel:
    """A model that `gptviz.load` knows by name. All have a tied output head."""

    name: str
    title: str
    about: str  # one sentence
    config: GPTConfig
    folder: Path | None = None  # set if the weights ship with the package
    repo: str | None = None  # set if the weights are on the Hugging Face hub

    @property
    def n_parameters(self) -> int:
        """The number of trainable values; the tied head counts once."""
        return parameter_count(self.config, tied_head=True)

    @property
    def n_bytes(self) -> int:
        """The size of the float32 weights in bytes: about the download size, and the memory that the model takes."""
        return 4 * self.n_parameters


def _with_bias(config: GPTConfig, **changes: int) -> GPTConfig:
    """Return the config with query, key and value biases, which OpenAI's models have and the course's do not."""
    return GPTConfig(**{**config, "qkv_bias": True, **changes})  # type: ignore[typeddict-item]


_ALL = (
    NamedModel(
        "story-gpt",
        "story-gpt (bundled)",
        "A small GPT-2 trained on children's stories; it comes with gptviz and needs no network.",
        STORY_GPT_CONFIG,
        folder=STORY_GPT,
    ),
    NamedModel(
        "gpt2",
        "GPT-2 small",
        "OpenAI's smallest GPT-2 (2019), the one that most papers look into.",
        _with_bias(GPT_CONFIG_124M),
        repo="openai-community/gpt2",
    ),
    NamedModel(
        "gpt2-medium",
        "GPT-2 medium",
        "OpenAI's GPT-2 with 24 blocks.",
        _with_bias(GPT_CONFIG_355M),
        repo="openai-community/gpt2-medium",
    ),
    NamedModel(
        "gpt2-large",
        "GPT-2 large",
        "OpenAI's GPT-2 with 36 blocks.",
        _with_bias(GPT_CONFIG_774M),
        repo="openai-community/gpt2-large",
    ),
    NamedModel(
        "gpt2-xl",
        "GPT-2 XL",
        "OpenAI's largest GPT-2, with 48 blocks.",
        _with_bias(GPT_CONFIG_1558M),
        repo="openai-community/gpt2-xl",
    ),
    NamedModel(
        "distilgpt2",
        "DistilGPT2",
        "Half the blocks of GPT-2 small, trained to imitate it (Hugging Face, 2019).",
        _with_bias(GPT_CONFIG_124M, n_layers=6),
        repo="distilbert/distilgpt2",
    ),
    NamedModel(
        "untrained",
        "Untrained (random weights)",
        "The course's GPT_CONFIG_124M before any training: random weights, from a seed.",
        GPT_CONFIG_124M,
    ),
)
MODELS: dict[str, NamedModel] = {model.name: model for model in _ALL}
