import numpy as np
import pytest
import torch
from tiny import tiny_engine

from gptviz.analysis.heads import all_head_scores
from gptviz.experiments import head_ablation
from gptviz.experiments.head_ablation import head_effect, head_effects, log_probability
from gptviz.experiments.portions import run_all
from gptviz.interventions import Part
from gptviz.numerics.head_kinds import repeated_random_ids
from gptviz.numerics.sampling import log_softmax


def logits_with_z(engine, tokens, layer, head, replace):
    """Run the whole model with the head's slice of the output projection's input replaced."""
    head_dim = engine.config["emb_dim"] // engine.config["n_heads"]
    piece = slice(head * head_dim, (head + 1) * head_dim)

    def hook(_module, inputs):
        z = inputs[0].clone()
        z[..., piece] = replace(z[..., piece])
        return (z,)

    handle = engine._model.trf_blocks[layer].att.out_proj.register_forward_pre_hook(hook)
    try:
        with torch.inference_mode():
            return engine._model(torch.tensor(tokens.ids)[None])[0].numpy()
    finally:
        handle.remove()


@pytest.mark.parametrize(
    ("replacement", "replace"),
    [("zero", torch.zeros_like), ("mean", lambda z: z.mean(dim=1, keepdim=True).expand_as(z))],
)
@pytest.mark.parametrize("position", [3, 7])
@pytest.mark.parametrize("together", [1, 70, 10_000])  # one layer at once, two, all
def test_effects_equal_a_run_with_the_heads_z_replaced(tiny, monkeypatch, replacement, replace, position, together):
    monkeypatch.setattr(head_ablation, "TOKENS_AT_ONCE", together)
    tokens = tiny.tokenizer.tokens([5, 17, 300, 5, 17, 9, 300, 12])
    trace = tiny.run(tokens)
    effects = head_effects(trace, position, token=42, replacement=replacement)
    assert effects.shape == (tiny.config["n_layers"], tiny.config["n_heads"])
    before = log_probability(trace, position, 42)
    for layer in range(tiny.config["n_layers"]):
        for head in range(tiny.config["n_heads"]):
            logits = logits_with_z(tiny, tokens, layer, head, replace)[position]
            assert effects[layer, head] == pytest.approx(log_softmax(logits)[42] - before, abs=2e-4)


@pytest.mark.parametrize("ids", [[5], [5, 17], [5, 5, 5, 5], [5, 17, 300, 5, 17, 9, 300, 12]])
@pytest.mark.parametrize("shape", [{}, {"n_layers": 1, "n_heads": 1}])
@pytest.mark.parametrize(
    ("replacement", "replace"),
    [("zero", torch.zeros_like), ("mean", lambda z: z.mean(dim=1, keepdim=True).expand_as(z))],
)
def test_one_heads_effect_equals_a_run_with_its_z_replaced(ids, shape, replacement, replace):
    engine = tiny_engine(**shape)
    tokens = engine.tokenizer.tokens(ids)
    trace = engine.run(tokens)
    foreseen = [*ids[1:], int(trace.logits_at(-1).argmax())]
    before = log_softmax(trace["logits"])
    for layer, head in np.ndindex(engine.config["n_layers"], engine.config["n_heads"]):
        after = log_softmax(logits_with_z(engine, tokens, layer, head, replace))
        for position, token in enumerate(foreseen):
            effect = head_effect(trace, position, token, layer, head, replacement)
            assert effect == pytest.approx(after[position, token] - before[position, token], abs=2e-4)


def test_one_heads_effect_on_story_gpt_is_that_of_a_run_with_the_head_off(story):
    tokens = story.tokenize("Once upon a time there was a little dog. The little dog")
    trace, without = story.run(tokens), story.run(tokens, off=[Part("head", 5, 2)])
    after_little, dog = 11, tokens.ids[12]
    change = log_probability(without, after_little, dog) - log_probability(trace, after_little, dog)
    assert head_effect(trace, after_little, dog, 5, 2) == pytest.approx(change, abs=1e-4)
    assert change < -0.5


def test_the_model_stays_as_it_was(tiny):
    tokens = tiny.tokenize("the cat sat")
    before = tiny.run(tokens)["logits"]
    head_effects(tiny.run(tokens), 2, token=1)
    np.testing.assert_array_equal(tiny.run(tokens)["logits"], before)


@pytest.mark.parametrize("together", [1, 3, 4, 5, 12])
def test_heads_go_in_portions_across_layers(tiny, monkeypatch, together):
    trace, told = tiny.run("the cat"), []
    expected = head_effects(trace, 1, token=1)
    monkeypatch.setattr(head_ablation, "TOKENS_AT_ONCE", 2 * together)  # Each prompt has two tokens.

    def run(function, portions):
        told.extend(portion[-1] for portion in portions)
        return run_all(function, portions)

    np.testing.assert_allclose(head_effects(trace, 1, token=1, run=run), expected, atol=1e-5)
    assert told == [range(start, min(start + together, 12)) for start in range(0, 12, together)]


def test_without_its_induction_head_story_gpt_foresees_a_repetition_worse(story):
    """On a repeated random sequence, only looking up what followed a token's first copy can predict the next token."""
    ids = repeated_random_ids(40)
    trace = story.run(story.tokenizer.tokens(ids))
    scores = all_head_scores(trace).set_index(["layer", "head"])["induction"]
    layer, head = scores.idxmax()
    assert (layer, head) == (5, 2)
    changes = [head_effect(trace, position, ids[position + 1], layer, head) for position in range(45, 79, 3)]
    assert np.mean(changes) < -0.5
    assert np.mean(np.array(changes) < 0) > 0.7
