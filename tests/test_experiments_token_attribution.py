import copy
from itertools import product

import numpy as np
import pytest
import torch
from tiny import gpt2_tensors

from gptviz.experiments import token_attribution
from gptviz.experiments.portions import run_all
from gptviz.experiments.token_attribution import gradient_times_input, input_gradients, integrated_gradients
from gptviz.model import TransformerBlock

TEXT = "Once upon a time there was a little dog. The little dog"


@pytest.fixture(scope="module", params=["tiny", "story"])
def engine(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("text", [TEXT, "Hello", "a b c d e f"])
def test_integrated_gradients_sum_to_the_difference(engine, text):
    trace = engine.run(text)
    token = int(trace.logits_at(-1).argmax())
    found = integrated_gradients(trace, len(trace) - 1, token)
    assert found.contributions.shape == (len(trace),)
    assert found.contributions.sum() == pytest.approx(found.difference, rel=0.01)
    assert found.error <= 0.01
    ends, _ = input_gradients(trace, np.stack((trace["resid_pre", 0], trace["pos_embed"])), -1, token)
    assert found.difference == pytest.approx(float(ends[0] - ends[1]), abs=1e-5)


def test_later_tokens_do_not_count(story):
    trace = story.run(TEXT)
    found = integrated_gradients(trace, 5, token=262)
    assert not found.contributions[6:].any()
    assert found.contributions[:6].any()
    assert not gradient_times_input(trace, 5, token=262)[6:].any()


def test_steps_are_doubled_until_the_sum_is_right(story, monkeypatch):
    trace, told = story.run(TEXT), []

    def run(function, portions):
        told.extend(portion[-2:] for portion in portions)
        return run_all(function, portions)

    rough = integrated_gradients(trace, 12, 262, tolerance=1.0)
    fine = integrated_gradients(trace, 12, 262, tolerance=1e-9, run=run)
    assert (rough.n_steps, fine.n_steps) == (32, token_attribution.MOST_STEPS)
    assert told[-1] == (256, slice(247, 256))


def in_float64(engine, trace, position, token):
    """Return the log-probability and gradient times input, by autograd through a float64 copy of the model."""
    model = copy.deepcopy(engine._model).double()
    entering = torch.tensor(trace["resid_pre", 0], dtype=torch.float64)[None].requires_grad_()
    with torch.enable_grad():
        x = entering
        for block in model.trf_blocks:
            x = block(x)
        value = model.out_head(model.final_norm(x[0, position])).log_softmax(dim=-1)[token]
        (gradient,) = torch.autograd.grad(value, entering)
    return value.item(), (gradient[0].numpy() * trace["embed"]).sum(axis=-1)


@pytest.mark.parametrize("n_variants", [1, 2, 3, 8])
@pytest.mark.parametrize(("position", "token"), [(4, 11), (0, 262), (7, 40_000)])
def test_gradients_keep_the_digits_of_float32(story, n_variants, position, token):
    trace = story.run("Once upon a time there was a", bos=True)
    value, expected = in_float64(story, trace, position, token)
    streams = np.repeat(trace["resid_pre", 0][None], n_variants, axis=0)
    values, gradients = input_gradients(trace, streams, position, token)
    found = np.einsum("vpd,pd->vp", gradients.astype(np.float64), trace["embed"])
    np.testing.assert_allclose(values, np.full(n_variants, value), atol=3e-5)
    np.testing.assert_allclose(found, np.tile(expected, (n_variants, 1)), atol=3e-5)
    np.testing.assert_allclose(gradient_times_input(trace, position, token), expected, atol=3e-5)


def test_later_positions_are_not_computed(tiny, monkeypatch):
    trace, seen = tiny.run("a b c d e f"), set()
    for name in ("embed", "pos_embed"):
        trace[name]  # Derive these first: the model must not run for them below.

    def look(block, x):
        seen.add(x.shape[1])
        return forward(block, x)

    forward = TransformerBlock.forward
    monkeypatch.setattr(TransformerBlock, "forward", look)
    found = gradient_times_input(trace, 2, 5)
    integrated = integrated_gradients(trace, 2, 5)
    assert seen == {3}
    for contributions in (found, integrated.contributions):
        assert contributions.shape == (6,)
        assert contributions[:3].all()
        assert not contributions[3:].any()


@pytest.mark.oracle
def test_gradients_are_as_good_as_transformers(story):
    """Over many logits, they are no further from float64 than transformers' own float32 results on the same weights.

    A single logit says little: rounding may by chance cancel in one of the two.
    """
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=192, n_head=6, n_layer=6, n_positions=256, attn_implementation="eager", tie_word_embeddings=True
    )
    theirs = transformers.GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(gpt2_tensors(story._model, prefix="transformer."), strict=False)
    assert torch.equal(theirs.lm_head.weight, story._model.tok_emb.weight)
    exact = copy.deepcopy(theirs).double()
    trace = story.run("Once upon a time there was a", bos=True)

    def by_transformers(model, dtype, position, token):
        embedding = model.transformer.wte(torch.tensor([trace.tokens.ids])).detach().to(dtype).requires_grad_()
        with torch.enable_grad():
            value = model(inputs_embeds=embedding).logits[0, position].log_softmax(dim=-1)[token]
            (gradient,) = torch.autograd.grad(value, embedding)
        return (gradient[0].double().numpy() * embedding[0].detach().double().numpy()).sum(axis=-1)

    errors, their_errors = [], []
    for position, token in product((2, 4, 6, 7), (11, 40_000, 1310, 262)):
        double = by_transformers(exact, torch.float64, position, token)
        errors.append(gradient_times_input(trace, position, token) - double)
        their_errors.append(by_transformers(theirs, torch.float32, position, token) - double)
    assert np.abs(errors).max() < 1e-4
    assert np.sqrt(np.mean(np.square(errors))) <= np.sqrt(np.mean(np.square(their_errors)))


def test_gradient_times_input_is_the_slope_when_a_token_fades(tiny):
    trace = tiny.run("a b c d")
    found = gradient_times_input(trace, 3, token=5)
    for position in range(4):
        step = np.zeros_like(trace["embed"])
        step[position] = 2e-3 * trace["embed"][position]
        values, _ = input_gradients(trace, trace["resid_pre", 0] + np.stack((step, -step)), 3, 5)
        assert found[position] == pytest.approx(float(values[0] - values[1]) / 4e-3, rel=0.05, abs=2e-3)
