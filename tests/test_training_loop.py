"""The training loop against plain PyTorch, and its parts by value."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler
from training import some_text, tiny_data, tiny_recipe

from gptviz.model import GPTModel
from gptviz.training import DivergedError
from gptviz.training.data import IGNORED, Batch, encode, split
from gptviz.training.loop import loss_sum, start, train
from gptviz.training.optimizers import by_group, learning_rate, make_optimizers
from gptviz.training.run import first_model
from gptviz.weights import untrained_model

SMALL = {"vocab_size": 400}
PLAIN = {"config": SMALL, "shared_row": False, "most_frequent_ids": None}


class Random:
    """Data of random ids, some of whose targets count for nothing."""

    def __init__(self, recipe, ignored=0.0, divided_by=1):
        shape = (1000, recipe.batch_size * divided_by, recipe.config["context_length"])
        generator = torch.Generator().manual_seed(7)
        self.inputs = torch.randint(0, recipe.config["vocab_size"], shape, generator=generator)
        self.targets = torch.randint(0, recipe.config["vocab_size"], shape, generator=generator)
        self.targets[torch.rand(shape, generator=generator) < ignored] = IGNORED
        self.size, self.divided_by = recipe.batch_size, divided_by

    def batch(self, number):
        whole, part = divmod(number, self.divided_by)
        rows = slice(part * self.size, (part + 1) * self.size)
        return Batch(self.inputs[whole, rows], self.targets[whole, rows])

    def held_out(self):
        return self.batch(0)


def model_of(recipe):
    return untrained_model(recipe.config, recipe.seed, tied_head=recipe.tied_head).requires_grad_(True)


def trained(recipe, data, stops):
    state = start(model_of(recipe), recipe)
    return state, list(train(state, data, recipe, stops))


def assert_same_weights(one, other, atol=0.0):
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(tensor, other.state_dict()[name], rtol=0, atol=atol, msg=name)


def test_20_steps_equal_a_plain_loop():
    recipe = tiny_recipe(SMALL, warmup_steps=4, decay="linear", constant_share=0.5, final_share=0.1, clip_norm=0.5)
    data = Random(recipe, ignored=0.3)
    ours, intervals = trained(recipe, data, [7, 20])

    model = model_of(recipe)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=0.1)
    losses = []
    for step in range(20):
        rise = (step + 1) / 5 if step < 4 else 1.0
        fall = 1.0 if step <= 10 else 1 - 0.9 * (step - 10) / 9
        optimizer.param_groups[0]["lr"] = 3e-3 * rise * fall
        inputs, targets = data.batch(step)
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        losses.append(loss.item())
    assert_same_weights(ours.model, model, atol=1e-6)
    assert [one.step for one in intervals] == [7, 20]
    expected = [np.mean(losses[:7]), np.mean(losses[7:])]
    np.testing.assert_allclose([one.training_loss for one in intervals], expected, atol=1e-6)


class Windows(Dataset):
    """After chapter 5's data set: windows of `context_length` ids, and the same one token later."""

    def __init__(self, ids, length):
        starts = range(0, len(ids) - length, length)
        self.pairs = [(torch.tensor(ids[i : i + length]), torch.tensor(ids[i + 1 : i + length + 1])) for i in starts]

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        return self.pairs[index]


class InOrder(Sampler):
    """The first epoch's order of the seed."""

    def __init__(self, n_windows, seed):
        self.order = np.random.default_rng((seed, 0, 0)).permutation(n_windows).tolist()

    def __iter__(self):
        return iter(self.order)

    def __len__(self):
        return len(self.order)


def test_a_script_after_chapter_5_reaches_the_same_losses_with_dropout_from_the_same_seed():
    recipe = tiny_recipe({"drop_rate": 0.1}, shared_row=False, most_frequent_ids=None, clip_norm=None, tied_head=False)
    data = tiny_data(recipe)
    state = start(first_model(recipe, data), recipe)
    loss_of = lambda model: (loss_sum(model, data.held_out()) / data.held_out().targets.numel()).item()  # noqa: E731
    ours = [(one.training_loss, loss_of(state.model)) for one in train(state, data, recipe, [5, 10, 15, 20])]

    # The script: its own data set, loader, model and loop.
    ids, _ = split(encode([some_text()]), 0.1)
    windows = Windows(ids.tolist(), 16)
    loader = DataLoader(
        windows, batch_size=4, sampler=InOrder(len(windows), seed=0), drop_last=True, generator=torch.Generator()
    )
    model = GPTModel(recipe.config)
    model.load_state_dict(untrained_model(recipe.config, seed=0, tied_head=False).state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)
    torch.manual_seed(0)
    theirs, losses = [], []
    for step, (input_batch, target_batch) in enumerate(loader, start=1):
        model.train()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(input_batch).flatten(0, 1), target_batch.flatten())
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 5 == 0:
            model.eval()
            with torch.no_grad():
                theirs.append((np.mean(losses), loss_of(model)))
            losses = []
        if step == 20:
            break
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert theirs[-1][0] < theirs[0][0] - 1, "it learns"


def test_dropout_depends_on_the_runs_own_generator_alone():
    recipe = tiny_recipe({**SMALL, "drop_rate": 0.5})
    data = Random(recipe)
    state = start(model_of(recipe), recipe)
    torch.manual_seed(99)
    disturbed = torch.get_rng_state()
    losses = []
    for interval in train(state, data, recipe, range(1, 11)):
        losses.append(interval.training_loss)
        assert not state.model.training
    assert torch.equal(torch.get_rng_state(), disturbed), "who calls keeps the own generator"
    torch.manual_seed(1)
    _, again = trained(recipe, data, range(1, 11))
    assert losses == [one.training_loss for one in again]


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_accumulated_batches_are_one_larger_batch(optimizer):
    parts = tiny_recipe(SMALL, accumulated_batches=3, optimizer=optimizer, batch_size=2)
    whole = tiny_recipe(SMALL, batch_size=6, optimizer=optimizer)
    ours, (in_parts,) = trained(parts, Random(parts, ignored=0.5, divided_by=3), [1])
    other, (at_once,) = trained(whole, _Joined(parts), [1])
    assert in_parts.training_loss == pytest.approx(at_once.training_loss, abs=1e-6)
    assert in_parts.gradient_norm == pytest.approx(at_once.gradient_norm, rel=1e-5)
    assert ours.tokens_seen == other.tokens_seen == 6 * 16


class _Joined(Random):
    """All parts of a batch at once."""

    def __init__(self, recipe):
        super().__init__(recipe, ignored=0.5, divided_by=3)

    def batch(self, number):
        return Batch(self.inputs[number], self.targets[number])


def test_gradients_are_clipped_to_the_norm_and_measured_before():
    recipe = tiny_recipe(SMALL, clip_norm=0.01)
    state = start(model_of(recipe), recipe)
    kept = {}
    for optimizer in state.optimizers:
        step = optimizer.step

        def watched(step=step):
            kept.update({name: p.grad.clone() for name, p in state.model.named_parameters()})
            step()

        optimizer.step = watched
    (interval,) = train(state, Random(recipe), recipe, [1])
    assert torch.cat([gradient.flatten() for gradient in kept.values()]).norm().item() == pytest.approx(0.01, rel=1e-4)
    assert interval.gradient_norm > 0.1
    lengths = np.array(list(interval.gradient_norms.values()))
    assert np.sqrt((lengths**2).sum()) == pytest.approx(interval.gradient_norm, rel=1e-5)


def test_without_clipping_the_norm_is_measured_and_nothing_changed():
    free, loose = tiny_recipe(SMALL, clip_norm=None), tiny_recipe(SMALL, clip_norm=1e6)
    (one, (a,)), (other, (b,)) = (trained(recipe, Random(recipe), [3]) for recipe in (free, loose))
    assert a.gradient_norm == pytest.approx(b.gradient_norm)
    assert_same_weights(one.model, other.model, atol=1e-7)


def test_weights_decay_by_their_share_where_there_is_no_gradient():
    recipe = tiny_recipe(SMALL, weight_decay=0.5, learning_rate=0.1)
    state = start(model_of(recipe), recipe)
    before = state.model.pos_emb.weight.detach().clone()
    for parameter in state.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizers[0].step()
    torch.testing.assert_close(state.model.pos_emb.weight.detach(), before * (1 - 0.1 * 0.5))


def test_update_ratios_are_the_change_over_the_weights():
    recipe = tiny_recipe(SMALL)
    state = start(model_of(recipe), recipe)
    before = {name: [p.detach().clone() for p in group] for name, group in state.groups.items()}
    (interval,) = train(state, Random(recipe), recipe, [1])
    blocks = {f"trf_blocks.{layer}.{part}" for layer in range(2) for part in ("att", "ff")}
    assert set(interval.update_ratios) == {"tok_emb", "pos_emb", "norms"} | blocks
    for name, ratio in interval.update_ratios.items():
        change = math.sqrt(
            sum(((p - q) ** 2).sum().item() for p, q in zip(state.groups[name], before[name], strict=True))
        )
        weights = math.sqrt(sum((q**2).sum().item() for q in before[name]))
        assert ratio == pytest.approx(change / weights, rel=1e-4)


def test_the_learning_rate_rises_stays_and_falls():
    linear = tiny_recipe(n_steps=11, warmup_steps=3, decay="linear", constant_share=0.5, final_share=0.1)
    rates = [learning_rate(step, linear) / linear.learning_rate for step in range(11)]
    np.testing.assert_allclose(rates, [0.25, 0.5, 0.75, 1, 1, 1, 1, 0.775, 0.55, 0.325, 0.1])
    cosine = tiny_recipe(n_steps=5, decay="cosine")
    rates = [learning_rate(step, cosine) / cosine.learning_rate for step in range(5)]
    np.testing.assert_allclose(rates, [1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0], atol=1e-12)
    constant = tiny_recipe(n_steps=5)
    assert {learning_rate(step, constant) for step in range(5)} == {constant.learning_rate}


def test_muon_changes_the_blocks_matrices_and_adamw_the_rest():
    model = model_of(tiny_recipe(SMALL))
    muon, adamw = make_optimizers(model, tiny_recipe(SMALL, optimizer="muon"))
    in_muon = {id(parameter) for group in muon.param_groups for parameter in group["params"]}
    in_adamw = {id(parameter) for group in adamw.param_groups for parameter in group["params"]}
    for name, parameter in model.named_parameters():
        is_matrix = name.startswith("trf_blocks.") and parameter.dim() == 2
        assert (id(parameter) in in_muon, id(parameter) in in_adamw) == (is_matrix, not is_matrix), name


def test_a_muon_update_is_about_as_large_as_an_adamw_one():
    for optimizer in ("muon", "adamw"):
        recipe = tiny_recipe(SMALL, optimizer=optimizer, weight_decay=0.0)
        state = start(model_of(recipe), recipe)
        matrix = state.model.trf_blocks[0].ff.layers[0].weight
        before = matrix.detach().clone()
        list(train(state, Random(recipe), recipe, [1]))
        change = (matrix.detach() - before).pow(2).mean().sqrt().item()
        assert 0.1 * recipe.learning_rate < change <= 1.01 * recipe.learning_rate


def test_frozen_parameters_stay():
    recipe = tiny_recipe(SMALL)
    model = model_of(recipe)
    model.tok_emb.requires_grad_(False)
    before = model.tok_emb.weight.detach().clone()
    state = start(model, recipe)
    list(train(state, Random(recipe), recipe, [3]))
    assert torch.equal(model.tok_emb.weight, before)
    assert "tok_emb" not in by_group(model)


def test_bfloat16_computes_nearly_the_same_in_less_precise_numbers():
    exact, rough = tiny_recipe(SMALL), tiny_recipe(SMALL, precision="bfloat16")
    (_, (a,)), (state, (b,)) = (trained(recipe, Random(recipe), [20]) for recipe in (exact, rough))
    assert b.training_loss == pytest.approx(a.training_loss, abs=0.02)
    assert b.training_loss != a.training_loss
    assert {parameter.dtype for parameter in state.model.parameters()} == {torch.float32}


def test_a_loss_that_is_no_number_ends_the_training_with_a_sentence():
    recipe = tiny_recipe(SMALL, learning_rate=1e30, clip_norm=None)
    with pytest.raises(DivergedError, match=r"^The loss became .* take a smaller learning rate, or more warm-up\.$"):
        trained(recipe, Random(recipe), [20])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_trains_on_cuda(precision):
    recipe = tiny_recipe({**SMALL, "drop_rate": 0.1}, precision=precision)
    state = start(model_of(recipe).to("cuda"), recipe)
    first, *_, last = train(state, Random(recipe), recipe, range(1, 21))
    assert last.training_loss < first.training_loss
