"""Data for training: windows, splits, entropies, repeated rows, a shared row."""

import hashlib
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F
from training import some_text, tiny_data, tiny_recipe

import gptviz
from gptviz.shared_row import SharedRow
from gptviz.tokens import END_OF_TEXT_ID, gpt2_tokenizer
from gptviz.training import DataError, RecipeError, read_recipe, read_text, text_data
from gptviz.training.checkpoints import model_file, whole_model
from gptviz.training.data import IGNORED, bigram_entropy, encode, most_frequent, split, unigram_entropy
from gptviz.training.loop import loss_sum, start
from gptviz.training.recipe import recipe_from
from gptviz.training.repetition import repeated_random_row, say_passage_again
from gptviz.training.run import first_model
from gptviz.weights import untrained_model

PLAIN = {"shared_row": False, "most_frequent_ids": None}


def test_documents_are_apart_by_the_end_of_text():
    a, b = gpt2_tokenizer().encode("One.").ids, gpt2_tokenizer().encode(" Two.").ids
    assert encode(["One.", "", " \n", " Two."]).tolist() == [*a, END_OF_TEXT_ID, *b]
    assert len(encode([])) == 0


def test_an_epoch_has_every_window_once_and_each_its_own_order():
    recipe = tiny_recipe(batch_size=1, **PLAIN)
    data, ids = tiny_data(recipe), split(encode([some_text()]), 0.1)[0]
    n = data.n_windows
    assert n == (len(ids) - 1) // 16
    epochs = [[tuple(data.batch(epoch * n + k).inputs[0].tolist()) for k in range(n)] for epoch in range(2)]
    windows = [tuple(ids[16 * k : 16 * k + 16].tolist()) for k in range(n)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(windows)
    assert epochs[0] != epochs[1]


def test_targets_are_the_inputs_one_token_later():
    recipe = tiny_recipe(batch_size=1, **PLAIN)
    data, ids = tiny_data(recipe), split(encode([some_text()]), 0.1)[0].tolist()
    inputs, targets = data.batch(3)
    at = next(16 * k for k in range(data.n_windows) if ids[16 * k : 16 * k + 16] == inputs[0].tolist())
    assert targets[0].tolist() == ids[at + 1 : at + 17]


def test_a_batch_is_the_same_whenever_it_is_asked_for():
    recipe = tiny_recipe(random_share=0.3, passage_share=0.3)
    one, other = tiny_data(recipe), tiny_data(recipe)
    other.batch(700)
    assert all(torch.equal(a, b) for a, b in zip(one.batch(5), other.batch(5), strict=True))
    assert not torch.equal(one.batch(5).inputs, one.batch(6).inputs)
    assert not torch.equal(one.batch(5).inputs, tiny_data(tiny_recipe(seed=1)).batch(5).inputs)


def test_the_held_out_part_is_the_end_and_whole_documents_where_there_are_some():
    ids = np.arange(100, dtype=np.int32)
    assert [len(part) for part in split(ids, 0.1)] == [90, 10]
    ids[[30, 87, 97]] = END_OF_TEXT_ID
    training, held_out = split(ids, 0.1)
    assert (training.tolist(), held_out.tolist()) == (ids[:87].tolist(), ids[88:].tolist())
    ids[:] = 0
    ids[50] = END_OF_TEXT_ID
    assert [len(part) for part in split(ids, 0.1)] == [90, 10], "the only border is too far away"


def test_held_out_windows_never_come_in_training():
    data = text_data("one two three four " * 40, tiny_recipe(**PLAIN), held_out=" five six" * 40)
    held_out = set(data.held_out().inputs.unique().tolist())
    assert held_out.isdisjoint(torch.cat([data.batch(n).inputs for n in range(20)]).unique().tolist())


def test_entropies_by_value():
    assert unigram_entropy(np.array([1, 2, 3, 4], dtype=np.int32)) == pytest.approx(math.log(4))
    ids = np.array([0, 1, 0, 2, 0, 1, 0, 2, 0], dtype=np.int32)  # after 0 comes 1 or 2, after these always 0
    assert bigram_entropy(ids) == pytest.approx(math.log(2) / 2)
    high = np.array([50256, 3, 50256, 3, 50256], dtype=np.int32)
    assert bigram_entropy(high) == pytest.approx(0)


def test_no_model_that_knows_the_token_before_is_better_than_the_bigram_entropy():
    data = tiny_data(**PLAIN)
    ids = split(encode([some_text()]), 0.1)[0]
    counts = {}
    for a, b in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True):
        counts.setdefault(a, {}).setdefault(b, 0)
        counts[a][b] += 1
    losses = [
        -math.log(counts[a][b] / sum(counts[a].values()))
        for a, b in zip(ids[:-1].tolist(), ids[1:].tolist(), strict=True)
    ]
    assert data.facts.bigram_entropy == pytest.approx(np.mean(losses))
    assert data.facts.bigram_entropy < data.facts.unigram_entropy < data.facts.guessing == math.log(50257)


def test_the_hash_is_that_of_the_ids():
    data = tiny_data(**PLAIN)
    training, held_out = split(encode([some_text()]), 0.1)
    assert data.facts.sha256 == hashlib.sha256(np.concatenate([training, held_out]).astype("<i4").tobytes()).hexdigest()
    assert tiny_data().facts.sha256 == tiny_data(batch_size=2).facts.sha256
    assert text_data(some_text(seed=1), tiny_recipe(**PLAIN)).facts.sha256 != data.facts.sha256


def test_only_the_most_frequent_ids_are_kept():
    ids = np.array([5, 5, 5, 9, 9, 2, 7], dtype=np.int32)
    assert most_frequent(ids, 3).tolist() == [2, 5, 9]
    data = tiny_data(most_frequent_ids=5)
    assert data.facts.n_different_ids == 5
    assert data.shared_row.n_rows == 6


# --- repetition --------------------------------------------------------------------------------


def test_random_ids_come_again_after_the_period_and_only_what_can_be_known_counts():
    data = tiny_data(random_share=1.0, batch_size=16)
    periods = set()
    for number in range(20):
        for inputs, targets in zip(*data.batch(number), strict=True):
            period = int((targets != IGNORED).nonzero()[0])
            assert 4 <= period <= 8
            periods.add(period)
            assert len(set(inputs[:period].tolist())) == period
            assert torch.equal(inputs[period:], inputs[:-period])
            assert (targets[:period] == IGNORED).all()
            # What followed the earlier copy of the token is what comes next.
            assert torch.equal(targets[period:], inputs[1 : len(inputs) - period + 1])
    assert periods == {4, 5, 6, 7, 8}


def test_a_share_of_the_rows_is_random():
    data = tiny_data(random_share=0.3, passage_share=0.2, batch_size=200)
    ignored = (data.batch(0).targets == IGNORED).any(dim=1).double().mean()
    assert 0.2 < ignored < 0.4


def test_a_passage_is_said_again_at_distances_that_vary():
    random = np.random.default_rng(0)
    distances = set()
    for _ in range(50):
        row = np.arange(20)
        said = say_passage_again(row, 5, random)
        (changed,) = np.nonzero(said != row)
        assert len(changed) == 5
        assert (np.diff(changed) == 1).all()
        assert said[changed].tolist() == list(range(said[changed[0]], said[changed[0]] + 5))
        assert said[changed[-1]] < changed[0], "the first copy ends before the second begins"
        distances.add(int(changed[0] - said[changed[0]]))
        assert row.tolist() == list(range(20))
    assert len(distances) > 5


def test_a_period_as_long_as_half_the_row_fits_twice():
    assert say_passage_again(np.arange(10), 5, np.random.default_rng(0)).tolist() == [0, 1, 2, 3, 4] * 2
    row = repeated_random_row(np.arange(50), 4, 9, np.random.default_rng(0))
    assert row[:4].tolist() * 2 + [row[0]] == row.tolist()


# --- a shared row ------------------------------------------------------------------------------


def test_a_shared_row_gives_the_loss_of_the_whole_vocabulary():
    recipe = tiny_recipe(tied_head=False)
    data = tiny_data(recipe)
    state = start(first_model(recipe, data), recipe, data.shared_row)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    inputs, targets = data.batch(0)
    ours = loss_sum(state.model, data.batch(0), log_counts=state.log_counts)

    whole = whole_model(state.model, recipe.config, data.shared_row)
    ids = torch.tensor([*data.shared_row.ids.tolist(), 0])
    logits = whole(ids[inputs])
    assert logits.shape[-1] == 50257
    theirs = F.cross_entropy(logits.flatten(0, 1), ids[targets].flatten(), reduction="sum")
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


@pytest.mark.parametrize("tied_head", [True, False])
def test_a_file_with_a_shared_row_is_loaded_as_a_gpt2_of_the_usual_form(tmp_path, tied_head):
    recipe = tiny_recipe(tied_head=tied_head)
    data = tiny_data(recipe)
    model = first_model(recipe, data)
    path = tmp_path / "step.safetensors"
    path.write_bytes(model_file(model, recipe.config, data.shared_row, "float32"))
    assert path.stat().st_size < 100_000
    engine = gptviz.load(path, device="cpu")
    assert engine.config == recipe.config
    assert engine.tied_head is tied_head
    ids = data.shared_row.ids
    embedding = engine.weights["tok_emb.weight"]
    assert embedding.shape == (50257, 16)
    np.testing.assert_array_equal(embedding[ids], model.tok_emb.weight.detach()[:-1])
    others = np.setdiff1d(np.arange(50257), ids)
    assert (embedding[others] == model.tok_emb.weight.detach()[-1].numpy()).all()
    text = some_text()[:40]
    rows = torch.from_numpy(data.shared_row.rows(encode([text])))[None]
    np.testing.assert_allclose(engine.run(text)["logits"][:, ids], model(rows)[0, :, :-1].detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "vocab_size"), [([], 5), ([0, 0], 5), ([3, 1], 5), ([-1, 2], 5), ([1, 5], 5), ([0, 1, 2], 3)]
)
def test_ids_that_cannot_have_rows_are_refused(ids, vocab_size):
    with pytest.raises(ValueError, match="must rise"):
        SharedRow(ids, vocab_size)


@pytest.mark.parametrize(
    ("token_ids", "vocab_size"),
    [
        ("[1, 2, 3", 50257),
        ('{"a": 1}', 50257),
        ('[1, 2, "3"]', 50257),
        ("[1, 2, true]", 50257),
        ("[3, 2, 1]", 50257),
        ("[1, 2, 3, 4]", 50257),
        ("[1, 2, 99999999999999999999999]", 50257),
        ("[1, 2, 3]", 2**40),
        ("[1, 2, 3]", "many"),
        ("[1, 2, 3]", None),
        ("[" * 100_000, 50257),
    ],
)
def test_a_file_that_lies_about_its_rows_is_a_sentence(tmp_path, token_ids, vocab_size):
    recipe = tiny_recipe({"vocab_size": 4}, shared_row=False, most_frequent_ids=None)
    model = untrained_model(recipe.config, 0)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name != "out_head.weight"}
    config = {**recipe.config, "vocab_size": vocab_size}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={"config": json.dumps(config), "token_ids": token_ids})
    with pytest.raises(gptviz.WeightsError) as caught:
        gptviz.load(path)
    assert "ave the model again" in str(caught.value) or "save it again" in str(caught.value)
    assert len(str(caught.value)) < 500


# --- what is refused ---------------------------------------------------------------------------


def test_a_text_that_is_too_short_is_a_sentence():
    for text in ("", "Hello", "<|endoftext|>"):
        with pytest.raises(DataError, match=r"one window takes 17: give a longer text"):
            text_data(text, tiny_recipe(**PLAIN))


def test_ids_beyond_the_vocabulary_are_a_sentence():
    with pytest.raises(DataError, match=r"vocab_size is 300"):
        text_data(some_text(), tiny_recipe({"vocab_size": 300}, **PLAIN))


def test_a_file_in_another_encoding_is_a_sentence(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("für".encode("latin-1"))
    with pytest.raises(DataError, match=r"^latin\.txt is not in UTF-8"):
        read_text(path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"optimizer": "sgd"}, "optimizer is 'sgd': make it adamw or muon."),
        ({"n_steps": 0}, "n_steps is 0: make it a whole number, 1 or more."),
        ({"n_steps": 2.5}, "n_steps is 2.5"),
        ({"batch_size": True}, "batch_size is True"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"clip_norm": -1}, "clip_norm is -1"),
        ({"held_out_share": 1.5}, "held_out_share is 1.5: make it a number from 0 to 1."),
        ({"random_share": 0.6, "passage_share": 0.6}, "more than 1 together"),
        ({"random_share": 0.6, "longest_period": 9}, "nothing is said twice"),
        ({"shortest_period": 9}, "exchange them"),
        ({"prompt": ""}, "The prompt is no text"),
        ({"shared_row": 1}, "shared_row is 1"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(changes, sentence):
    with pytest.raises(RecipeError) as caught:
        tiny_recipe(**changes)
    assert sentence in str(caught.value)


def test_a_recipe_is_read_from_a_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(
        "n_steps = 5\nbatch_size = 2\nlearning_rate = 1e-3\n[config]\nvocab_size = 50257\ncontext_length = 8\n"
        "emb_dim = 4\nn_heads = 1\nn_layers = 1\ndrop_rate = 0.0\nqkv_bias = false\n"
    )
    recipe = read_recipe(path)
    assert (recipe.n_steps, recipe.config["emb_dim"], recipe.optimizer) == (5, 4, "adamw")
    other = tmp_path / "recipe.json"
    other.write_text(json.dumps({"n_steps": 5, "batch_size": 2, "learning_rate": 1e-3, "config": recipe.config}))
    assert read_recipe(other) == recipe
    for text in ("n_steps = ", "\xff"):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(RecipeError, match=r"^recipe\.toml cannot be read"):
            read_recipe(path)
    with pytest.raises(RecipeError, match="unknown fields: remove speed"):
        recipe_from({"config": {}, "n_steps": 1, "batch_size": 1, "learning_rate": 1, "speed": 9})
    with pytest.raises(RecipeError, match="lacks batch_size, learning_rate, n_steps"):
        recipe_from({"config": {}})
