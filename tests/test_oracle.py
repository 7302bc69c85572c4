"""Against transformers, on seeded random models that it writes itself."""

import numpy as np
import pytest
import torch

import gptviz

pytestmark = pytest.mark.oracle

SIZES = {
    "tiny": {"n_embd": 48, "n_head": 4, "n_layer": 3, "n_positions": 64},
    "small": {},  # transformers' own defaults are GPT-2 small's
}


@pytest.fixture(scope="module", params=list(SIZES))
def pair(request, tmp_path_factory):
    """transformers' model, and ours loaded from the folder that it wrote."""
    transformers = pytest.importorskip("transformers")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    # Three times the default, so that attention is less even.
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
    ids = torch.randint(0, 50257, (1, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        output = theirs(ids, output_hidden_states=True, output_attentions=True)
    return output, engine.run(engine.tokenizer.tokens(ids[0].tolist())), engine.config["n_layers"]


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
