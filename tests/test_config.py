import pytest
import torch

from gptviz import GPT_CONFIG_124M, GPT_CONFIGS, MODELS, ConfigError
from gptviz.config import check_config, parameter_count
from gptviz.model import GPTModel


def test_the_124m_config_is_the_courses():
    assert GPT_CONFIG_124M == {
        "vocab_size": 50257,
        "context_length": 1024,
        "emb_dim": 768,
        "n_heads": 12,
        "n_layers": 12,
        "drop_rate": 0.1,
        "qkv_bias": False,
    }


@pytest.mark.parametrize(
    ("size", "emb_dim", "n_layers", "n_heads"),
    [("small", 768, 12, 12), ("medium", 1024, 24, 16), ("large", 1280, 36, 20), ("xl", 1600, 48, 25)],
)
def test_the_four_sizes_differ_in_three_numbers(size, emb_dim, n_layers, n_heads):
    assert GPT_CONFIGS[size] == {**GPT_CONFIG_124M, "emb_dim": emb_dim, "n_layers": n_layers, "n_heads": n_heads}


def test_there_are_four_sizes():
    assert list(GPT_CONFIGS) == ["small", "medium", "large", "xl"]


def test_a_good_config_comes_back_equal():
    assert check_config(dict(GPT_CONFIG_124M)) == GPT_CONFIG_124M


@pytest.mark.parametrize("name", ["vocab_size", "context_length", "emb_dim", "n_heads", "n_layers"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "12", None])
def test_a_size_that_is_no_positive_whole_number_is_named(name, value):
    with pytest.raises(ConfigError, match=rf"^{name} is .*: make it a whole number above 0\.$"):
        check_config({**GPT_CONFIG_124M, name: value})


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, True, "0.1", float("nan")])
def test_a_drop_rate_outside_of_0_to_1_is_refused(value):
    with pytest.raises(ConfigError, match=r"drop_rate is .*: make it a number from 0 to below 1"):
        check_config({**GPT_CONFIG_124M, "drop_rate": value})


def test_qkv_bias_is_true_or_false():
    with pytest.raises(ConfigError, match="qkv_bias is 1: make it True or False"):
        check_config({**GPT_CONFIG_124M, "qkv_bias": 1})


def test_heads_that_do_not_divide_the_width_are_refused_with_both_numbers():
    with pytest.raises(ConfigError, match=r"emb_dim \(768\) is not divisible by n_heads \(11\): change one"):
        check_config({**GPT_CONFIG_124M, "n_heads": 11})


def test_missing_and_unknown_keys_are_named():
    with pytest.raises(ConfigError, match="lacks emb_dim, n_heads: add"):
        check_config({name: value for name, value in GPT_CONFIG_124M.items() if name not in ("emb_dim", "n_heads")})
    with pytest.raises(ConfigError, match="unknown keys: remove n_embd"):
        check_config({**GPT_CONFIG_124M, "n_embd": 768})


@pytest.mark.parametrize("tied_head", [True, False])
@pytest.mark.parametrize("qkv_bias", [True, False])
def test_parameter_count_is_the_sum_over_the_model(tied_head, qkv_bias):
    config = {**GPT_CONFIG_124M, "n_layers": 3, "emb_dim": 48, "qkv_bias": qkv_bias}
    with torch.device("meta"):
        model = GPTModel(config, tied_head=tied_head)
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert parameter_count(config, tied_head=tied_head) == counted


@pytest.mark.parametrize(("tied_head", "published"), [(True, 124_439_808), (False, 163_037_184)])
def test_gpt2_small_has_its_published_number_of_parameters(tied_head, published):
    config = {**GPT_CONFIG_124M, "qkv_bias": True}
    with torch.device("meta"):
        model = GPTModel(config, tied_head=tied_head)
    assert sum(parameter.numel() for parameter in model.parameters()) == published
    assert parameter_count(config, tied_head=tied_head) == published


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("story-gpt", 12_364_608),
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("distilgpt2", 81_912_576),
    ],
)
def test_the_catalogue_has_the_published_parameter_counts(name, published):
    assert MODELS[name].n_parameters == published
    assert MODELS[name].n_bytes == 4 * published


def test_the_catalogue_names_the_hubs_repositories():
    assert {name: model.repo for name, model in MODELS.items()} == {
        "story-gpt": None,
        "gpt2": "openai-community/gpt2",
        "gpt2-medium": "openai-community/gpt2-medium",
        "gpt2-large": "openai-community/gpt2-large",
        "gpt2-xl": "openai-community/gpt2-xl",
        "distilgpt2": "distilbert/distilgpt2",
        "untrained": None,
    }
    assert all(check_config(model.config) for model in MODELS.values())
