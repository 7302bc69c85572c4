"""Fine-tuning on examples, as in the course: texts with a class (chapter 6), instructions with an answer (chapter 7).

Both are batches like those of a text, so the same loop trains on them: a text's class is the target of its last token,
and every other target is ignored.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from ..model import GPTModel
from ..tokens import END_OF_TEXT_ID, gpt2_tokenizer
from .data import IGNORED, Batch, DataError


class Example(NamedTuple):
    """One row before it is padded; both have one entry a token."""

    inputs: tuple[int, ...]
    targets: tuple[int, ...]


class ExampleData:
    """Examples in batches, in another order each epoch, padded at the end with `<|endoftext|>` as in the course."""

    def __init__(
        self, training: Sequence[Example], held_out: Sequence[Example], batch_size: int, *, seed: int = 0
    ) -> None:
        """Raises `DataError` where there are no examples."""
        if not training or not held_out:
            raise DataError("There are no examples to train on, or none held out: give some of both.")
        self._training, self._held_out, self._batch_size, self._seed = training, held_out, batch_size, seed

    def batch(self, number: int) -> Batch:
        """Batch `number`: [batch_size, tokens of the longest example in it]."""
        return pad([self._example(number * self._batch_size + row) for row in range(self._batch_size)])

    def held_out(self) -> Batch:
        """All held-out examples."""
        return pad(self._held_out)

    def _example(self, count: int) -> Example:
        epoch, place = divmod(count, len(self._training))
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._training))
        return self._training[order[place]]


def pad(examples: Sequence[Example]) -> Batch:
    """Examples -> one batch: short ones are padded, and targets that pad are ignored."""
    longest = max(len(example.inputs) for example in examples)
    inputs = torch.full((len(examples), longest), END_OF_TEXT_ID)
    targets = torch.full((len(examples), longest), IGNORED)
    for row, example in enumerate(examples):
        inputs[row, : len(example.inputs)] = torch.tensor(example.inputs)
        targets[row, : len(example.targets)] = torch.tensor(example.targets)
    return Batch(inputs, targets)


# --- classes -----------------------------------------------------------------------------------


def add_classifier(model: GPTModel, n_classes: int, *, seed: int = 0) -> None:
    """Put a new head for `n_classes` in the place of the output head; only it, the last block and the last norm learn.

    The course's choice of what is trained. Other parameters: set their `requires_grad`.
    """
    model.requires_grad_(False)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model.out_head = nn.Linear(model.tok_emb.embedding_dim, n_classes)
    for part in (model.trf_blocks[-1], model.final_norm):
        part.requires_grad_(True)


def classified(text: str, label: int, context_length: int) -> Example:
    """A text whose last token's target is its class; its end is cut off where it has more tokens than the context.

    The course reads the last position after padding; here it is the text's own, so that an answer does not depend on
    the other texts of its batch. Raises `DataError` for an empty text.
    """
    ids = gpt2_tokenizer().encode(text).ids[:context_length]
    if not ids:
        raise DataError("A text to classify is empty: leave it out.")
    return Example(ids, (IGNORED,) * (len(ids) - 1) + (label,))


@torch.inference_mode()
def accuracy(model: GPTModel, batch: Batch) -> float:
    """The share of targets, of those that count, which are the model's first choice."""
    device = next(model.parameters()).device
    chosen = model(batch.inputs.to(device)).argmax(dim=-1).cpu()
    counts = batch.targets != IGNORED
    return float((chosen[counts] == batch.targets[counts]).double().mean())


# --- instructions ------------------------------------------------------------------------------


def prompt_of(pair: Mapping[str, str]) -> str:
    """What the model reads before it answers, in the Alpaca style (Taori et al. 2023) that the course takes.

    `pair` has an `instruction`, and perhaps an `input`.
    """
    start = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    parts = [start, f"### Instruction:\n{pair['instruction']}"]
    if pair.get("input"):
        parts.append(f"### Input:\n{pair['input']}")
    return "\n\n".join(parts)


def answered(pair: Mapping[str, str], context_length: int, *, count_prompt: bool = True) -> Example:
    """An instruction and its `output` as one row that ends with `<|endoftext|>`, cut off at the context.

    Every next token counts, as in the course; without `count_prompt` those of the answer alone. Raises `DataError` for
    a pair that lacks one or the other, and where nothing of the answer fits into the context.
    """
    if not pair.get("instruction") or not pair.get("output"):
        raise DataError("A pair lacks its instruction or its output: add it.")
    encode = gpt2_tokenizer().encode
    prompt = encode(f"{prompt_of(pair)}\n\n### Response:\n").ids
    ids = (*prompt, *encode(pair["output"]).ids, END_OF_TEXT_ID)[: context_length + 1]
    if len(ids) <= len(prompt):
        raise DataError(
            f"An instruction has {len(prompt)} tokens, too many for a context of {context_length}: shorten it."
        )
    n_ignored = 0 if count_prompt else len(prompt) - 1
    return Example(ids[:-1], (IGNORED,) * n_ignored + ids[1 + n_ignored :])
