"""Comparisons with transformers, on seeded random models that transformers itself writes."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gptviz

pytestmark = pytest.mark.oracle

IDS = torch.randint(0, 50257, (1, 64), generator=torch.Generator().manual_seed(1))
SIZES = {
    "tiny": {"n_embd": 48, "n_head": 4, "n_layer": 3, "n_positions": 64},
    "small": {},  # transformers' defaults are GPT-2 small's.
}


@pytest.fixture(scope="module", params=list(SIZES))
def pair(request, tmp_path_factory):
    """transformers' model, and ours loaded from the folder it wrote."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    # Use three times the default, so that attention is less even.
    config = transformers.GPT2Config(**SIZES[request.param], initializer_range=0.06, attn_implementation="eager")
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for parameter in theirs.parameters():
        if parameter.dim() == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(folder)
    return theirs, gptviz.load(folder, device="cpu")


@pytest.fixture(scope="module")
def runs(pair):
    theirs, engine = pair
    with torch.inference_mode():
        output = theirs(IDS, output_hidden_states=True, output_attentions=True)
    return output, engine.run(engine.tokenizer.tokens(IDS[0].tolist())), engine.config["n_layers"]


def assert_close(ours, theirs):
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-4, rtol=0)


def test_the_logits_agree(runs):
    output, trace, _ = runs
    assert_close(trace["logits"], output.logits)
    assert output.logits.std() > 0.1


def test_every_hidden_state_agrees(runs):
    output, trace, n_layers = runs
    assert len(output.hidden_states) == n_layers + 1
    for layer in range(n_layers):
        assert_close(trace["resid_pre", layer], output.hidden_states[layer])
    for layer in range(n_layers - 1):
        assert_close(trace["resid_post", layer], output.hidden_states[layer + 1])
    assert_close(trace["final_norm_out"], output.hidden_states[-1])  # theirs is after the final norm


def test_every_attention_map_agrees(runs):
    output, trace, n_layers = runs
    assert len(output.attentions) == n_layers
    for layer in range(n_layers):
        assert_close(trace["pattern", layer], output.attentions[layer])
    heads = trace["pattern", n_layers - 1][:, -1]
    assert np.abs(heads[0] - heads[1]).max() > 1e-3, "even attention would not tell one head from another"


def test_greedy_generation_agrees(pair):
    theirs, engine = pair
    text = "Every effort moves you"
    ids = torch.tensor([engine.tokenize(text).ids])
    with torch.inference_mode():
        output = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False, pad_token_id=50256
        )
    assert [token.id for token in engine.generate(text, 20)] == output[0, ids.shape[1] :].tolist()


def test_the_loaded_model_is_tied_and_has_their_number_of_parameters(pair):
    theirs, engine = pair
    assert engine.tied_head
    assert engine.n_parameters == theirs.num_parameters()


# --- unusual folders ----------------------------------------------------------------------------------


def random_model(kind, folder, **changes):
    """Return transformers' model of this kind, after saving it in the folder."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    config = transformers.GPT2Config(**SIZES["tiny"], initializer_range=0.06, attn_implementation="eager", **changes)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    return model


def logits_of(engine):
    return engine.run(engine.tokenizer.tokens(IDS[0].tolist()))["logits"]


def test_a_head_that_differs_although_the_config_says_tied_is_kept_by_both(tmp_path):
    theirs = random_model("GPT2LMHeadModel", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = 0.06 * torch.randn(50257, 48)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"]
    kept = type(theirs).from_pretrained(tmp_path).eval()
    for path in (tmp_path, tmp_path / "model.safetensors"):
        engine = gptviz.load(path, device="cpu")
        assert not engine.tied_head
        assert len(engine.notes) == 1
        with torch.inference_mode():
            assert_close(logits_of(engine), kept(IDS).logits)
            assert (theirs(IDS).logits - kept(IDS).logits).abs().max() > 0.1


@pytest.mark.parametrize("kind", ["GPT2ForSequenceClassification", "GPT2ForTokenClassification"])
def test_a_classifiers_trunk_agrees(tmp_path, kind):
    theirs = random_model(kind, tmp_path, num_labels=3, pad_token_id=50256)
    engine = gptviz.load(tmp_path, device="cpu")
    with torch.inference_mode():
        trunk = theirs.transformer(IDS).last_hidden_state
        assert_close(engine.run(engine.tokenizer.tokens(IDS[0].tolist()))["final_norm_out"], trunk)
        assert_close(logits_of(engine), trunk @ theirs.transformer.wte.weight.T)
    assert engine.notes[0].startswith("This is a classifier with 3 classes")


def test_attention_that_is_reordered_and_upcast_is_the_same_in_float32(tmp_path):
    theirs = random_model("GPT2LMHeadModel", tmp_path, reorder_and_upcast_attn=True)
    with torch.inference_mode():
        assert_close(logits_of(gptviz.load(tmp_path, device="cpu")), theirs(IDS).logits)


@pytest.mark.parametrize(
    "change",
    [
        {"activation_function": "relu"},
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"layer_norm_epsilon": 1e-2},
    ],
    ids=str,
)
def test_what_is_refused_computes_something_else(tmp_path, change):
    """Computed as GPT-2, its logits would be wrong; so it is refused, both as a folder and as a file."""
    changed = random_model("GPT2LMHeadModel", tmp_path, **change)
    usual = random_model("GPT2LMHeadModel", tmp_path / "usual")
    usual.load_state_dict(changed.state_dict())
    with torch.inference_mode():
        assert (usual(IDS).logits - changed(IDS).logits).abs().max() > 1e-3
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(gptviz.WeightsError, match=f"The model has {next(iter(change))} = "):
            gptviz.load(path)
