import numpy as np
import pytest
import torch

from gptviz.experiments.patching import Question, all_patched, n_places, patched_differences, recovered
from gptviz.hooks import ACTIVATIONS, replace
from gptviz.interventions import Part

CLEAN, CORRUPTED = " the cat saw a dog and a", " the dog saw a cat and a"


@pytest.fixture(scope="module")
def question(tiny):
    return Question(tiny.run(CLEAN), tiny.run(CORRUPTED), answer=42, rival=7)


def by_hand(engine, question, kind, layer, place):
    """Return the logit difference of a whole corrupted run in which a hook overwrites one activation."""
    clean = torch.tensor(question.clean[kind, layer])

    def change(value):
        value = value.clone()
        if kind == "z":
            value.unflatten(-1, clean.shape[1:])[:, :, place] = clean[:, place]
        else:
            value[:, place] = clean[place]
        return value

    with torch.inference_mode(), replace(engine._model, {(kind, layer): change}):
        logits = engine._model(torch.tensor(question.corrupted.tokens.ids)[None])[0, -1].numpy()
    return float(logits[question.answer] - logits[question.rival])


@pytest.mark.parametrize("kind", ["resid_pre", "attn_out", "mlp_out", "z"])
@pytest.mark.parametrize("layer", [0, 2])
def test_a_patch_equals_a_whole_run_with_the_activation_overwritten(tiny, question, kind, layer):
    assert kind in ACTIVATIONS
    found = patched_differences(question, kind, layer)
    assert len(found) == n_places(question, kind) == (4 if kind == "z" else 7)
    expected = [by_hand(tiny, question, kind, layer, place) for place in range(len(found))]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.ptp(expected) > 1e-3, "places that were all the same would show nothing"


def test_places_can_be_asked_for_in_portions(tiny, question):
    whole = patched_differences(question, "attn_out", 1)
    portions = [patched_differences(question, "attn_out", 1, slice(start, start + 3)) for start in (0, 3, 6)]
    np.testing.assert_allclose(np.concatenate(portions), whole, atol=1e-4)


def test_the_whole_stream_patched_before_the_first_block_is_the_clean_run(tiny, story, question):
    assert all_patched(question) == pytest.approx(question.of_clean, abs=1e-4)
    real = Question(story.run(CLEAN), story.run(CORRUPTED), *story.tokenize(" dog cat").ids)
    assert all_patched(real) == pytest.approx(real.of_clean, abs=1e-4)
    assert recovered(real, np.array([all_patched(real)])) == pytest.approx([1], abs=1e-4)


def test_nothing_patched_recovers_nothing(tiny, question):
    same = Question(question.corrupted, question.corrupted, 42, 7)
    for kind in ("resid_pre", "attn_out", "mlp_out", "z"):
        np.testing.assert_allclose(patched_differences(same, kind, 1), question.of_corrupted, atol=1e-4)
    np.testing.assert_allclose(recovered(question, np.array([question.of_corrupted])), 0, atol=1e-9)
    assert np.isnan(recovered(same, np.array([1.0, question.of_corrupted]))).all(), "there is no way back to measure"


def test_story_gpts_answer_comes_back_by_its_induction_head(story):
    """The default pair: the token after the first `little` is looked up by an induction head."""
    prompt = "Once upon a time there was a little {}. The little"
    question = Question(
        *(story.run(prompt.format(animal)) for animal in ("dog", "cat")), *story.tokenize(" dog cat").ids
    )
    assert question.of_clean > 2
    assert question.of_corrupted < -1
    by_head = np.stack([recovered(question, patched_differences(question, "z", layer)) for layer in range(6)])
    assert np.unravel_index(by_head.argmax(), by_head.shape) == (5, 2)
    assert by_head.max() > 0.2
    first = recovered(question, patched_differences(question, "resid_pre", 0))
    assert np.flatnonzero(first > 0.9).tolist() == [8], "before the first block only the token that differs counts"


@pytest.mark.parametrize("kind", ["resid_pre", "attn_out", "mlp_out", "z"])
@pytest.mark.parametrize("by_mean", [False, True])
def test_a_patch_into_a_changed_run_keeps_its_parts_off(tiny, kind, by_mean):
    off = [Part("mlp", 0), Part("neuron", 2, 5), Part("shortcut1", 2), Part("head", 2, 3)]
    corrupted = tiny.run(CORRUPTED, off=off, means=tiny.run(CORRUPTED) if by_mean else None)
    question = Question(tiny.run(CLEAN), corrupted, answer=42, rival=7)
    found = patched_differences(question, kind, 1)

    def whole_run(place):
        with replace(tiny._model, corrupted.changes):
            return by_hand(tiny, question, kind, 1, place)

    np.testing.assert_allclose(found, [whole_run(place) for place in range(len(found))], atol=2e-4)


def test_heads_of_an_attention_that_is_off_cannot_be_patched(tiny):
    question = Question(tiny.run(CLEAN), tiny.run(CORRUPTED, off=[Part("attention", 1)]), answer=42, rival=7)
    np.testing.assert_allclose(patched_differences(question, "z", 1), question.of_corrupted, atol=1e-4)
