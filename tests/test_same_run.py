"""An analysis continues the run it is given: the same engine, with the same parts switched off."""

from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
import torch
from tiny import tiny_engine

from gptviz.analysis import arithmetic
from gptviz.analysis.logit_attribution import attribute_logit
from gptviz.analysis.logit_lens import logit_lens
from gptviz.experiments import patching, token_attribution
from gptviz.experiments.head_ablation import head_effects, log_probability
from gptviz.hooks import replace
from gptviz.interventions import Part, switched_off

TEXT, OTHER = " the cat saw a dog and a", " the dog saw a cat and a"
PARTS = [
    Part("head", 1, 2),
    Part("attention", 1),
    Part("mlp", 2),
    Part("neuron", 1, 17),
    Part("shortcut1", 1),
    Part("shortcut2", 0),
    Part("shortcut1", 0),
    Part("attention", 0),
    Part("mlp", 0),
]


def test_means_of_another_engine_are_refused(tiny):
    with pytest.raises(ValueError, match="another engine's run: give a trace of this one"):
        tiny.run(TEXT, off=[Part("mlp", 0)], means=tiny_engine(seed=1).run(TEXT))


@pytest.mark.parametrize("number", [0, 1])
def test_both_runs_of_a_question_are_of_one_engine(tiny, number):
    runs = [tiny.run(TEXT), tiny.run(TEXT)]
    runs[number] = tiny_engine(seed=1).run(TEXT)
    for ask in (patching.all_patched, lambda question: patching.patched_differences(question, "z", 0)):
        with pytest.raises(ValueError, match="run by different engines: run both with the same one"):
            ask(patching.Question(*runs, 5, 6))


def whole_run(engine, tokens, *changes):
    """Return the logits of a whole run of the model with all these changes, applied one after another."""
    with torch.inference_mode(), ExitStack() as all_changes:
        for some in changes:
            all_changes.enter_context(replace(engine._model, some))
        return engine._model(torch.tensor(tokens.ids)[None])[0].numpy()


def log_softmax(logits):
    logits = logits.astype(np.float64)
    return logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())


@pytest.mark.parametrize("by_mean", [False, True])
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_head_effects_go_on_without_what_was_off(tiny, part, by_mean):
    tokens = tiny.tokenize(TEXT)
    means = tiny.run(tokens) if by_mean else None
    trace = tiny.run(tokens, off=[part], means=means)
    found = head_effects(trace, 4, 42)
    for layer in range(3):
        for head in range(4):
            alone = whole_run(tiny, tokens, trace.changes, switched_off([Part("head", layer, head)], tiny.config))
            expected = log_softmax(alone[4])[42] - log_probability(trace, 4, 42)
            assert found[layer, head] == pytest.approx(expected, abs=3e-4), (layer, head)


def overwritten(clean, kind, place, value):
    value = value.clone()
    if kind == "z":
        value.unflatten(-1, clean.shape[1:])[:, :, place] = torch.tensor(clean)[:, place]
    else:
        value[:, place] = torch.tensor(clean)[place]
    return value


@pytest.mark.parametrize("kind", ["resid_pre", "attn_out", "mlp_out", "z"])
@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_patched_run_goes_on_without_what_was_off(tiny, part, kind):
    question = patching.Question(tiny.run(TEXT), tiny.run(OTHER, off=[part]), answer=42, rival=7)
    found = patching.patched_differences(question, kind, 1)
    tokens, changes = question.corrupted.tokens, question.corrupted.changes
    for place, difference in enumerate(found):
        patch = {(kind, 1): partial(overwritten, question.clean[kind, 1], kind, place)}
        logits = whole_run(tiny, tokens, changes, patch)[-1]
        assert difference == pytest.approx(float(logits[42] - logits[7]), abs=3e-4), place
    logits = whole_run(tiny, question.clean.tokens, changes)[-1]
    assert patching.all_patched(question) == pytest.approx(float(logits[42] - logits[7]), abs=3e-4)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_gradients_are_those_of_the_run_without_what_was_off(tiny, part):
    trace = tiny.run(TEXT, off=[part])
    streams = trace["resid_pre", 0][None]
    values, gradients = token_attribution.input_gradients(trace, streams, 4, 42)
    assert float(values[0]) == pytest.approx(log_softmax(trace.logits_at(4))[42], abs=1e-4)
    found = token_attribution.gradient_times_input(trace, 4, 42)
    np.testing.assert_allclose(found, (gradients[0] * trace["embed"]).sum(axis=-1), atol=1e-4)
    integrated = token_attribution.integrated_gradients(trace, 4, 42)
    ends, _ = token_attribution.input_gradients(trace, np.stack((streams[0], trace["pos_embed"])), 4, 42)
    assert integrated.difference == pytest.approx(float(ends[0] - ends[1]), abs=1e-5)
    models = [tiny._model, *tiny._free]
    assert not any(part._forward_hooks or part._forward_pre_hooks for model in models for part in model.modules())


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_the_lens_ends_with_the_run_itself(tiny, part):
    trace = tiny.run(TEXT, off=[part])
    grid = logit_lens(trace, k=3)
    for position in range(len(trace)):
        table = trace.top_k(position, 3)
        assert grid.ids[-1, position].tolist() == table["id"].tolist()
        np.testing.assert_allclose(grid.probabilities[-1, position], table["probability"], rtol=1e-3)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_contributions_sum_to_the_logit_or_are_refused(tiny, part):
    trace = tiny.run(TEXT, off=[part])
    if part.kind in ("head", "neuron", "mlp"):
        table = attribute_logit(trace, 4, 42)
        assert table["contribution"].sum() == pytest.approx(trace.logits_at(4)[42], abs=1e-3)
        return
    with pytest.raises(ValueError, match="This run had attentions or shortcuts switched off"):
        attribute_logit(trace, 4, 42)


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_the_arithmetic_of_a_step_that_was_off_is_refused_and_all_other_steps_pass(tiny, part):
    trace = tiny.run(TEXT, off=[part])
    kinds = {"head": "weighted_values", "attention": "out_proj", "mlp": "linear2", "neuron": "gelu"}
    switched_off_step = kinds.get(part.kind, part.kind)
    for step in arithmetic.STEPS.values():
        for layer in range(3) if step.in_block else [None]:
            if (step.key, layer) == (switched_off_step, part.layer):
                with pytest.raises(ValueError, match="switched off: take a run with it on"):
                    arithmetic.check(trace, step, layer)
            else:
                assert arithmetic.check(trace, step, layer).passed
