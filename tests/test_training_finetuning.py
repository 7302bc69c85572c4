"""LoRA, classes and instructions."""

import copy

import numpy as np
import pytest
import torch
from tiny import tiny_model
from torch.nn import functional as F
from training import tiny_data, tiny_recipe

import gptviz
from gptviz.tokens import END_OF_TEXT_ID, gpt2_tokenizer
from gptviz.training import DataError, Run
from gptviz.training.data import IGNORED
from gptviz.training.examples import (
    Example,
    ExampleData,
    accuracy,
    add_classifier,
    answered,
    classified,
    pad,
    prompt_of,
)
from gptviz.training.loop import loss_sum, start, train
from gptviz.training.lora import LinearWithLoRA, add_lora, merge_lora
from gptviz.weights import load_model, untrained_model

IDS = torch.tensor([[5, 100, 7, 5, 100, 2000]])
PLAIN = {"shared_row": False, "most_frequent_ids": None}


# --- LoRA --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied_head", [True, False])
def test_lora_changes_nothing_at_first_and_merges_to_the_same_logits_after_training(tied_head):
    model = tiny_model(tied_head=tied_head)
    before = model(IDS)
    frozen = copy.deepcopy(model.state_dict())
    add_lora(model, rank=3, alpha=8.0)
    torch.testing.assert_close(model(IDS), before)

    recipe = tiny_recipe()
    data = ExampleData([Example((5, 100, 7), (100, 7, 5))] * 4, [Example((5,), (1,))], batch_size=4)
    first, *_, last = train(start(model, recipe), data, recipe, range(1, 21))
    assert last.training_loss < first.training_loss - 1
    with torch.no_grad():
        trained = model(IDS)
        assert (trained - before).abs().max() > 0.1
        plain = merge_lora(model)
        torch.testing.assert_close(plain(IDS), trained, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, LinearWithLoRA) for module in plain.modules())
    assert plain.state_dict().keys() == frozen.keys()
    assert plain.tied_head is tied_head
    for name, tensor in model.state_dict().items():
        if ".lora." not in name:
            assert torch.equal(tensor, frozen[name.replace(".linear.", ".")]), f"{name} was frozen"


def test_lora_has_the_courses_shapes_and_is_all_that_learns():
    model = tiny_model(tied_head=True)
    add_lora(model, rank=3, alpha=8.0)
    learns = {name: tuple(p.shape) for name, p in model.named_parameters() if p.requires_grad}
    assert learns["trf_blocks.0.att.W_query.lora.A"] == (16, 3)
    assert learns["trf_blocks.0.ff.layers.0.lora.B"] == (3, 64)
    assert len(learns) == 3 * 6 * 2, "three blocks, six matrices each"
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 3 * (4 * 3 * 32 + 2 * 3 * 80)
    x = torch.randn(2, 16)
    layer = model.trf_blocks[0].att.W_query
    layer.lora.B.data.normal_()
    expected = layer.linear(x) + 8.0 * (x @ layer.lora.A @ layer.lora.B)
    torch.testing.assert_close(layer(x), expected)


def test_a_model_without_lora_merges_to_itself_and_a_rank_is_one_at_least():
    model = tiny_model()
    assert merge_lora(model) is model
    with pytest.raises(ValueError, match="make it 1 or more"):
        add_lora(model, rank=0, alpha=1.0)


def test_the_same_seed_gives_the_same_lora_and_leaves_torchs_generator():
    weights = []
    for seed in (1, 1, 2):
        model = tiny_model()
        before = torch.get_rng_state()
        add_lora(model, rank=2, alpha=1.0, seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(model.trf_blocks[0].att.W_query.lora.A.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_run_of_lora_keeps_plain_checkpoints_and_goes_on(tmp_path):
    recipe = tiny_recipe(lora_rank=2, n_steps=10, **PLAIN)
    data, model = tiny_data(recipe), untrained_model(recipe.config, seed=9)
    run = Run.create(tmp_path / "run", recipe, data, model)
    rows = run.train(data)
    next(rows), next(rows)
    rows.close()
    *_, last = Run(tmp_path / "run").train(data)
    engine = gptviz.load(run.checkpoints()[10], device="cpu")
    embedding = engine.weights["tok_emb.weight"]
    np.testing.assert_array_equal(embedding, model.tok_emb.weight.numpy())
    assert (engine.weights["trf_blocks.0.att.W_query.weight"] != model.trf_blocks[0].att.W_query.weight.numpy()).any()
    merged, _ = load_model(run.checkpoints()[10])
    batch = data.held_out()
    assert last["held_out_loss"] == pytest.approx((loss_sum(merged, batch) / batch.targets.numel()).item(), abs=1e-5)


# --- classes -----------------------------------------------------------------------------------


def test_a_text_s_class_is_the_target_of_its_last_token():
    ids = gpt2_tokenizer().encode("The cat sat").ids
    assert classified("The cat sat", 1, 100) == Example(ids, (IGNORED, IGNORED, 1))
    assert classified("The cat sat", 1, 2) == Example(ids[:2], (IGNORED, 1))
    with pytest.raises(DataError, match="is empty"):
        classified("", 1, 2)


def test_the_answer_does_not_depend_on_the_padding():
    model = tiny_model()
    add_classifier(model, 3)
    short, long = classified("The cat", 2, 32), classified("The cat sat on the mat", 0, 32)
    together = loss_sum(model, pad([short, long]))
    alone = loss_sum(model, pad([short])) + loss_sum(model, pad([long]))
    torch.testing.assert_close(together, alone)
    assert pad([short, long]).inputs[0, 2:].tolist() == [END_OF_TEXT_ID] * 4


def test_the_loss_of_classes_is_that_of_the_course():
    """Chapter 6: the logits of the last token, and cross-entropy over the classes."""
    model = tiny_model()
    add_classifier(model, 2)
    texts, labels = ["The cat sat", "A dog ran off"], [0, 1]
    theirs = torch.stack(
        [
            F.cross_entropy(model(torch.tensor([gpt2_tokenizer().encode(text).ids]))[:, -1, :], torch.tensor([label]))
            for text, label in zip(texts, labels, strict=True)
        ]
    ).mean()
    ours = loss_sum(model, pad([classified(text, label, 32) for text, label in zip(texts, labels, strict=True)])) / 2
    torch.testing.assert_close(ours, theirs)


def test_a_classifier_learns_what_it_is_told_with_the_head_the_last_block_and_the_last_norm():
    texts = [(f"Number {n}: a{animal}", label) for n in range(8) for label, animal in enumerate((" cat", " dog"))]
    examples = [classified(text, label, 32) for text, label in texts]
    model = tiny_model(drop_rate=0.0)
    add_classifier(model, 2)
    learns = {name.rsplit(".", 1)[0] for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in learns} == {"trf_blocks", "final_norm", "out_head"}
    assert {name.split(".")[1] for name in learns if name.startswith("trf_blocks")} == {"2"}
    data = ExampleData(examples[:12], examples[12:], batch_size=4)
    recipe = tiny_recipe(learning_rate=1e-2)
    *_, last = train(start(model, recipe), data, recipe, [200, 220])
    assert last.training_loss < 0.1
    assert accuracy(model, data.held_out()) == 1.0
    wrong = data.held_out()
    wrong.targets[wrong.targets != IGNORED] = 1 - wrong.targets[wrong.targets != IGNORED]
    assert accuracy(model, wrong) == 0.0


# --- instructions ------------------------------------------------------------------------------

PAIR = {"instruction": "Say the opposite.", "input": "hot", "output": "cold"}


def test_the_prompt_has_the_alpaca_form():
    start_ = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    assert prompt_of(PAIR) == f"{start_}\n\n### Instruction:\nSay the opposite.\n\n### Input:\nhot"
    assert prompt_of({"instruction": "Sing."}) == f"{start_}\n\n### Instruction:\nSing."


def test_every_next_token_counts_or_the_answers_alone():
    encode = gpt2_tokenizer().encode
    prompt = encode(f"{prompt_of(PAIR)}\n\n### Response:\n").ids
    ids = (*prompt, *encode("cold").ids, END_OF_TEXT_ID)
    assert answered(PAIR, 200) == Example(ids[:-1], ids[1:])
    inputs, targets = answered(PAIR, 200, count_prompt=False)
    assert inputs == ids[:-1]
    assert targets == (IGNORED,) * (len(prompt) - 1) + (*encode("cold").ids, END_OF_TEXT_ID)


def test_padding_is_ignored_but_the_first_end_of_text():
    """As the course's collate function: one `<|endoftext|>` is learned, and those that fill up are not."""
    short, long = answered(PAIR, 200), answered(PAIR | {"output": "very very cold"}, 200)
    inputs, targets = pad([short, long])
    n = len(short.inputs)
    assert targets[0, n - 1] == END_OF_TEXT_ID
    assert (targets[0, n:] == IGNORED).all()
    assert (inputs[0, n:] == END_OF_TEXT_ID).all()
    assert END_OF_TEXT_ID not in inputs[0, :n]


def test_pairs_that_cannot_be_learned_are_a_sentence():
    for pair in ({"instruction": "Sing."}, {"output": "la"}, {"instruction": "", "output": "la"}):
        with pytest.raises(DataError, match="lacks its instruction or its output"):
            answered(pair, 200)
    with pytest.raises(DataError, match="too many for a context of 10: shorten it"):
        answered(PAIR, 10)
    with pytest.raises(DataError, match="none held out"):
        ExampleData([answered(PAIR, 200)], [], 1)


def test_each_epoch_has_every_example_once():
    examples = [Example((n,), (n,)) for n in range(7)]
    data = ExampleData(examples, examples[:1], batch_size=2)
    seen = torch.cat([data.batch(n).inputs.flatten() for n in range(7)]).tolist()
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))
    assert seen[:7] != seen[7:]


def test_an_answer_is_learned():
    model = untrained_model(gptviz.GPTConfig(**{**tiny_recipe().config, "context_length": 64}), seed=0)
    model.requires_grad_(True)
    data = ExampleData([answered(PAIR, 64, count_prompt=False)] * 2, [answered(PAIR, 64)], batch_size=2)
    recipe = tiny_recipe(learning_rate=1e-2)
    first, _ = train(start(model, recipe), data, recipe, [1, 30])
    assert first.training_loss > 10
    assert loss_sum(model, data.batch(0)).item() / 4 < 1
