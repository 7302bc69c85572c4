"""Switched-off parts, dropout and gradients, each against the same computation done by hand on the model."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import patience
import pytest
import torch
from test_experiments_head_ablation import logits_with_z
from tiny import tiny_engine, tiny_model

from gptviz.experiments import gradients as gradients_module
from gptviz.experiments.dropout import PLACES, Dropout
from gptviz.experiments.dropout import dropout_runs as drop
from gptviz.experiments.gradients import gradient_norms
from gptviz.experiments.head_ablation import head_effects
from gptviz.experiments.skeleton import untrained_twin
from gptviz.experiments.token_attribution import input_gradients
from gptviz.hooks import replace
from gptviz.interventions import Part, dropout
from gptviz.model import GPTModel
from gptviz.numerics.sampling import log_softmax

TEXT = "Once upon a time there was a cat"
PARTS = [
    Part("head", 1, 2),
    Part("attention", 0),
    Part("mlp", 2),
    Part("neuron", 1, 17),
    Part("shortcut1", 1),
    Part("shortcut2", 0),
]


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_is_written_and_read(part):
    assert Part.parse(str(part)) == part


@pytest.mark.parametrize(
    "word", ["", "L2", "H5", "L2H", "L2H5 ", "L2h5", "L-1H0", "L2mlp3", "L2shortcut3", "L1H9999999"]
)
def test_what_is_no_part_is_refused(word):
    with pytest.raises(ValueError, match="is no part of a model: L2H5"):
        Part.parse(word)


@pytest.mark.parametrize(
    "part",
    [Part("head", 3, 0), Part("head", 0, 4), Part("neuron", 0, 64), Part("mlp", 0, 1), Part("head", 0), Part("x", 0)],
)
def test_a_part_that_the_model_lacks_is_refused(tiny, part):
    with pytest.raises(ValueError, match="it has 3 layers of 4 heads"):
        tiny.run(TEXT, off=[part])


def test_nothing_switched_off_changes_nothing(tiny):
    plain, other = tiny.run(TEXT), tiny.run(TEXT, off=[])
    for layer in range(3):
        for name in ("resid_post", "pattern", "mlp_out"):
            assert np.array_equal(plain[name, layer], other[name, layer])
    assert np.array_equal(plain.logits_at(-1), other.logits_at(-1))


@pytest.mark.parametrize(
    ("means", "by_hand"), [(False, torch.zeros_like), (True, lambda z: z.mean(dim=1, keepdim=True).expand_as(z))]
)
def test_a_head_off_is_its_slice_of_the_output_projections_input_replaced(tiny, means, by_hand):
    tokens = tiny.tokenize(TEXT)
    without = tiny.run(tokens, off=[Part("head", 1, 2)], means=tiny.run(tokens) if means else None)
    np.testing.assert_allclose(without["logits"], logits_with_z(tiny, tokens, 1, 2, by_hand), atol=2e-5)


def by_hand(engine, tokens, part, fill):
    """Compute the whole forward pass step by step, with one part's output replaced by `fill(output)`."""

    def at(kind, layer, value):
        return fill(value) if part == Part(kind, layer) else value

    with torch.inference_mode():
        x = engine._model.embed(torch.tensor(tokens.ids)[None])
        for layer, block in enumerate(engine._model.trf_blocks):
            found = at("attention", layer, block.att(block.norm1(x)))
            x = (0 if part == Part("shortcut1", layer) else x) + found
            post = block.ff.layers[1](block.ff.layers[0](block.norm2(x)))
            if part[:2] == ("neuron", layer):
                post[..., part.number] = fill(post)[..., part.number]
            found = at("mlp", layer, block.ff.layers[2](post))
            x = (0 if part == Part("shortcut2", layer) else x) + found
        return engine._model.out_head(engine._model.final_norm(x))[0].numpy()


def zero(value):
    return torch.zeros_like(value)


def mean(value):
    return value.mean(dim=1, keepdim=True).expand_as(value)


@pytest.mark.parametrize("part", PARTS[1:], ids=str)
def test_every_other_part_off_is_the_same_done_by_hand(tiny, part):
    tokens = tiny.tokenize(TEXT)
    np.testing.assert_allclose(tiny.run(tokens, off=[part])["logits"], by_hand(tiny, tokens, part, zero), atol=2e-5)


@pytest.mark.parametrize("part", [Part("attention", 0), Part("mlp", 2), Part("neuron", 1, 17)], ids=str)
def test_a_mean_is_taken_over_the_baselines_positions(tiny, part):
    tokens = tiny.tokenize(TEXT)
    without = tiny.run(tokens, off=[part], means=tiny.run(tokens))
    np.testing.assert_allclose(without["logits"], by_hand(tiny, tokens, part, mean), atol=2e-5)


def test_several_parts_go_off_together(tiny):
    tokens = tiny.tokenize(TEXT)
    all_heads = [Part("head", 1, head) for head in range(4)]
    bias = torch.tensor(tiny.weights["trf_blocks.1.att.out_proj.bias"])
    expected = by_hand(tiny, tokens, Part("attention", 1), bias.expand_as)
    np.testing.assert_allclose(tiny.run(tokens, off=all_heads)["logits"], expected, atol=2e-5)


def test_what_is_derived_from_a_changed_run_is_the_changed_one(tiny):
    off = [Part("head", 1, 2), Part("neuron", 2, 5), Part("shortcut1", 0), Part("mlp", 1)]
    names = ["z", "pattern", "attn_out", "resid_mid", "post", "mlp_out"]
    derived, captured = tiny.run(TEXT, off=off), tiny.run(TEXT, off=off, keep=names)
    for name in names:
        for layer in range(3):
            np.testing.assert_allclose(derived[name, layer], captured[name, layer], atol=1e-5)
    assert not derived["z", 1][:, 2].any()
    assert not derived["post", 2][:, 5].any()
    assert not derived["mlp_out", 1].any()
    np.testing.assert_array_equal(derived["resid_mid", 0], derived["attn_out", 0])


def test_a_change_that_fails_leaves_the_model_as_it_was(tiny):
    before = tiny.run(TEXT).logits_at(-1)

    def fail(_value):
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), replace(tiny._model, {("mlp_out", 1): fail}):
        tiny._model(torch.tensor([[1, 2]]))
    assert no_hooks(tiny._model)
    assert np.array_equal(tiny.run(TEXT).logits_at(-1), before)


def no_hooks(model):
    return not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_16_threads_half_of_them_with_interventions_get_what_each_gets_alone(tiny):
    def work(number):
        tokens = tiny.tokenize(f"{' the' * number} cat number {number}")
        off = [Part("head", number % 3, number % 4), Part("shortcut2", 1)] if number % 2 else []
        trace = tiny.run(tokens, off=off)
        runs = drop(tiny, tokens, Dropout(0.3, ("attention",), number), range(3), layer=1, head=0)
        norms = gradient_norms(tiny, tokens, off=off)[1]
        values, gradients = input_gradients(trace, trace["resid_pre", 0][None], -1, 5)
        return [
            *(trace[name, 1] for name in ("z", "resid_post", "pattern")),
            trace.logits_at(-1),
            *runs,
            np.array(list(norms.values())),
            values,
            gradients,
        ]

    alone = [work(number) for number in range(16)]
    together = Barrier(16)

    def at_once(number):
        together.wait(patience.SECONDS)
        return work(number)

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(at_once, range(16)))
    for expected, result in zip(alone, results, strict=True):
        for one, other in zip(expected, result, strict=True):
            np.testing.assert_array_equal(one, other)
    assert no_hooks(tiny._model)


# --- dropout -----------------------------------------------------------------------------------


def dropout_runs(engine, rate, runs, *, places=PLACES, seed=1, layer=1):
    return drop(engine, engine.tokenize(TEXT), Dropout(rate, places, seed), runs, layer=layer, head=2)


def test_dropout_of_rate_0_is_the_evaluation(tiny):
    runs, trace = dropout_runs(tiny, 0.0, range(2)), tiny.run(TEXT)
    for run in range(2):
        np.testing.assert_allclose(runs.logits[run], trace.logits_at(-1), atol=1e-5)
        np.testing.assert_allclose(runs.dropped[run], trace["pattern", 1][2], atol=1e-6)


def test_what_is_dropped_is_0_and_the_rest_is_scaled(tiny):
    runs = dropout_runs(tiny, 0.25, range(40))
    zeroed = (runs.dropped == 0) & (runs.pattern > 0)
    np.testing.assert_allclose(runs.dropped[~zeroed], runs.pattern[~zeroed] / 0.75, atol=1e-6)
    assert zeroed.sum() / (runs.pattern > 0).sum() == pytest.approx(0.25, abs=0.03)


def test_a_run_of_a_seed_is_the_same_alone(tiny):
    many = dropout_runs(tiny, 0.5, range(5))
    for run in range(5):
        (alone,) = dropout_runs(tiny, 0.5, range(run, run + 1)).dropped
        np.testing.assert_array_equal(alone == 0, many.dropped[run] == 0)
        np.testing.assert_allclose(alone, many.dropped[run], atol=1e-6)
    assert not np.array_equal(many.dropped[0], many.dropped[1])
    assert not np.array_equal(many.dropped[0], dropout_runs(tiny, 0.5, range(1), seed=2).dropped[0])


def test_the_mean_of_many_draws_is_the_number_itself():
    change = dropout(0.5, [(0, run) for run in range(4000)])
    value = torch.tensor([1.0, -2.0, 0.5]).expand(4000, 3)
    np.testing.assert_allclose(change(value).mean(dim=0), [1.0, -2.0, 0.5], atol=0.1)


def test_the_mean_of_many_runs_comes_near_the_evaluation(story):
    """With little dropout, the model is nearly linear in what is dropped."""
    tokens = story.tokenize("Once upon a time there was a little")
    runs = drop(story, tokens, Dropout(0.05, ("attention",), 0), range(300), layer=5, head=2)
    np.testing.assert_allclose(runs.dropped.mean(axis=0), runs.pattern.mean(axis=0), atol=0.08)
    own = story.run(tokens).logits_at(-1)
    shares = np.exp(runs.logits - runs.logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    expected = np.exp(own - own.max()) / np.exp(own - own.max()).sum()
    best = np.argsort(-expected)[:10]
    assert np.abs(shares.mean(axis=0)[best] - expected[best]).max() < 0.02
    assert shares[:, best[0]].std() > 0.005, "the runs differ"


def test_places_that_are_not_asked_for_do_not_drop(tiny):
    runs = dropout_runs(tiny, 0.9, range(3), places=("attention",), layer=0)
    trace = tiny.run(TEXT)
    for run in range(3):
        np.testing.assert_allclose(runs.pattern[run], trace["pattern", 0][2], atol=1e-6)  # no dropout in the embeddings
    none = dropout_runs(tiny, 0.9, range(1), places=())
    np.testing.assert_allclose(none.logits[0], trace.logits_at(-1), atol=1e-5)


# --- gradients ---------------------------------------------------------------------------------


AS_A_LONG_TEXT = pytest.mark.parametrize("rows", [64, 2])  # Rows of logits at once; a longer text is run twice.


@AS_A_LONG_TEXT
@pytest.mark.parametrize("tied_head", [False, True])
def test_gradient_norms_equal_autograds_on_a_plain_pass(tied_head, rows, monkeypatch):
    monkeypatch.setattr(gradients_module, "ROWS_OF_LOGITS", rows)
    engine = tiny_engine(tied_head=tied_head)
    tokens = engine.tokenize(TEXT)
    model = tiny_model(tied_head=tied_head).requires_grad_(True)
    ids = torch.tensor(tokens.ids)[None]
    logits = model(ids)[0, :-1]
    loss = (torch.logsumexp(logits, dim=-1) - logits[range(len(logits)), ids[0, 1:]]).mean()
    loss.backward()
    found_loss, norms = gradient_norms(engine, tokens)
    assert found_loss == pytest.approx(loss.item(), abs=1e-5)
    assert set(norms) == {name for name, _ in model.named_parameters()}
    for name, parameter in model.named_parameters():
        assert norms[name] == pytest.approx(parameter.grad.norm().item(), rel=1e-4, abs=1e-6), name
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in engine._model.parameters())


@AS_A_LONG_TEXT
def test_gradients_without_shortcuts_are_those_of_a_model_without(tiny, rows, monkeypatch):
    monkeypatch.setattr(gradients_module, "ROWS_OF_LOGITS", rows)
    tokens = tiny.tokenize(TEXT)
    off = [Part(kind, layer) for layer in range(3) for kind in ("shortcut1", "shortcut2")]
    loss, norms = gradient_norms(tiny, tokens, off=off)
    model = tiny_model().requires_grad_(True)
    for block in model.trf_blocks:
        monkeypatch.setattr(block.shortcut1, "forward", lambda _x, found: found)
        monkeypatch.setattr(block.shortcut2, "forward", lambda _x, found: found)
    ids = torch.tensor(tokens.ids)[None]
    expected = torch.nn.functional.cross_entropy(model(ids)[0, :-1], ids[0, 1:])
    expected.backward()
    assert loss == pytest.approx(expected.item(), abs=1e-4)
    for name, parameter in model.named_parameters():
        assert norms[name] == pytest.approx(parameter.grad.norm().item(), rel=1e-3, abs=1e-6), name


def test_weights_can_be_read_while_gradients_are_measured(tiny):
    """Gradients are computed in a separate model: swapping the shared model's parameters would make them unreadable."""
    tokens, before = tiny.tokenize(TEXT), tiny.weights["out_head.weight"].copy()
    with ThreadPoolExecutor(2) as pool:
        measuring = pool.submit(lambda: [gradient_norms(tiny, tokens) for _ in range(10)])
        while not measuring.done():
            assert np.array_equal(tiny.weights["out_head.weight"], before)
    assert len(measuring.result()) == 10


def test_one_token_has_no_loss(tiny):
    with pytest.raises(ValueError, match="One token alone has no next token"):
        gradient_norms(tiny, tiny.tokenize("a"))


def test_input_gradients_equal_a_difference_quotient(tiny):
    trace = tiny.run(TEXT)
    stream = trace["resid_pre", 0]
    direction = np.random.default_rng(0).normal(size=stream.shape).astype(np.float32)
    step = 1e-2
    values, gradients = input_gradients(
        trace, np.stack((stream, stream + step * direction, stream - step * direction)), 4, 42
    )
    slope = (float(values[1]) - float(values[2])) / (2 * step)
    assert np.sum(gradients[0] * direction) == pytest.approx(slope, rel=0.03)
    assert not gradients[0][5:].any(), "later positions are not seen"
    row = tiny.run(TEXT).logits_at(4).astype(np.float64)
    assert values[0] == pytest.approx(row[42] - np.log(np.exp(row - row.max()).sum()) - row.max(), abs=1e-4)


# --- streams that replace a run's own -------------------------------------------------------------


def test_the_own_stream_put_back_anywhere_ends_as_it_did(tiny):
    trace = tiny.run(TEXT)
    places = [(name, layer) for layer in range(3) for name in ("resid_pre", "resid_mid", "resid_post")]
    last = trace.resume({place: trace[place][None] for place in places})
    assert last.shape == (9, 16)
    np.testing.assert_allclose(last, np.tile(trace["resid_post", 2][-1], (9, 1)), atol=1e-4)


CHANGED = [Part("head", 2, 1), Part("mlp", 1), Part("shortcut2", 2), Part("attention", 1)]


@pytest.mark.parametrize("by_mean", [False, True])
def test_a_trace_knows_its_engine_and_what_is_off(tiny, by_mean):
    trace = tiny.run(TEXT, off=CHANGED, means=tiny.run(TEXT) if by_mean else None)
    assert (trace.engine, trace.weights, trace.off) == (tiny, tiny.weights, tuple(CHANGED))
    assert trace.means_of == (tiny.run(TEXT).key if by_mean else None)
    assert (tiny.run(TEXT).off, tiny.run(TEXT).means_of) == ((), None)


def test_the_means_of_another_run_are_another_key(tiny):
    """Results are cached by key: other numbers under the same key would be shown for these."""
    runs = [tiny.run(TEXT, off=CHANGED, means=tiny.run(means)) for means in (TEXT, "Something else", TEXT)]
    assert runs[0].key == runs[2].key != runs[1].key
    assert not np.array_equal(runs[0].logits_at(-1), runs[1].logits_at(-1))


@pytest.mark.parametrize("by_mean", [False, True])
def test_what_runs_on_from_a_trace_keeps_its_parts_off(tiny, by_mean):
    trace = tiny.run(TEXT, off=CHANGED, means=tiny.run(TEXT) if by_mean else None)
    places = [(name, layer) for layer in range(3) for name in ("resid_pre", "resid_mid", "resid_post")]
    last = trace.resume({place: trace[place][None] for place in places})
    np.testing.assert_allclose(last, np.tile(trace["resid_post", 2][-1], (9, 1)), atol=1e-4)
    assert np.abs(last - tiny.run(TEXT)["resid_post", 2][-1]).max() > 0.1, "the parts matter"


def test_heads_of_a_changed_run_are_switched_off_beside_what_is_off(tiny):
    off = [Part("mlp", 1), Part("attention", 2), Part("head", 0, 3)]
    trace = tiny.run(TEXT, off=off)
    effects = head_effects(trace, len(trace) - 1, token=42)
    before = log_softmax(trace.logits_at(-1))[42]
    for layer, head in np.ndindex(3, 4):
        without = tiny.run(TEXT, off=[*off, Part("head", layer, head)])
        assert effects[layer, head] == pytest.approx(log_softmax(without.logits_at(-1))[42] - before, abs=2e-4)
    np.testing.assert_allclose(effects[2], 0, atol=1e-5, err_msg="the attention of layer 2 is off")
    assert effects[0, 3] == pytest.approx(0, abs=1e-5)


def test_input_gradients_of_a_changed_run_are_those_of_the_changed_model(tiny):
    trace = tiny.run(TEXT, off=CHANGED)
    values, gradients = input_gradients(trace, trace["resid_pre", 0][None], -1, 42)
    assert values[0] == pytest.approx(log_softmax(trace.logits_at(-1))[42], abs=1e-4)
    assert np.abs(gradients - input_gradients(tiny.run(TEXT), trace["resid_pre", 0][None], -1, 42)[1]).max() > 1e-3


def test_an_untrained_twin_has_the_shape_and_not_the_weights(tiny):
    twin = untrained_twin(tiny, seed=3)
    assert twin.config == tiny.config
    assert twin.tied_head == tiny.tied_head
    assert isinstance(twin._model, GPTModel)
    assert not np.array_equal(twin.weights["tok_emb.weight"], tiny.weights["tok_emb.weight"])
    assert np.array_equal(twin.weights["tok_emb.weight"], untrained_twin(tiny, seed=3).weights["tok_emb.weight"])
