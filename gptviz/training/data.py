"""A text as batches of windows: what to read, and which token comes next."""

import hashlib
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..shared_row import SharedRow
from ..tokens import END_OF_TEXT, END_OF_TEXT_ID, gpt2_tokenizer
from .recipe import Recipe
from .repetition import repeated_random_row, say_passage_again

IGNORED = -100  # a target that counts for nothing; PyTorch's own number for it
Ids = NDArray[np.int32]


class DataError(ValueError):
    """A text or a list of examples that nothing can be learned from; the message says what to change."""


class Batch(NamedTuple):
    """What the model reads, and what should come next at each position."""

    inputs: Tensor  # [row, tokens]
    targets: Tensor  # [row, tokens]: the next token, a class, or IGNORED


class Data(Protocol):
    """What the training loop reads."""

    def batch(self, number: int) -> Batch:
        """Batch `number` of the run, the same whenever it is asked for: a run that goes on needs no more than it."""

    def held_out(self) -> Batch:
        """What is never trained on."""


class Facts(NamedTuple):
    """What a text is, and what a loss on it means. Entropies in nats a token."""

    sha256: str  # of the ids as little-endian int32, the training part first, then the held-out one
    n_training_tokens: int
    n_held_out_tokens: int
    n_different_ids: int
    guessing: float  # ln(vocab_size): the loss of who guesses
    unigram_entropy: float  # of the training part: the least loss of who knows how frequent each token is
    bigram_entropy: float  # of the training part: the least loss there of who looks at one token


class TextData:
    """Windows of a text, in an order of their own in each epoch, with repeated rows where the recipe asks for them.

    A window is `context_length` tokens and the one after; windows do not overlap, as in the course.
    """

    def __init__(self, training: Ids, held_out: Ids, recipe: Recipe) -> None:
        """Both parts are ids, with `<|endoftext|>` between documents. Raises `DataError` where they are too short."""
        self._recipe = recipe
        if recipe.most_frequent_ids is not None:
            kept = most_frequent(training, recipe.most_frequent_ids)
            training, held_out = training[np.isin(training, kept)], held_out[np.isin(held_out, kept)]
        self._length = recipe.config["context_length"]
        self.n_windows = (len(training) - 1) // self._length
        if self.n_windows < 1 or len(held_out) < 2:
            raise DataError(
                f"The text has {len(training):,} tokens to train on and {len(held_out):,} held out, and one window "
                f"takes {self._length + 1:,}: give a longer text, or a smaller context_length."
            )
        ids = np.union1d(training, held_out)
        vocab_size = recipe.config["vocab_size"]
        if ids[-1] >= vocab_size:
            raise DataError(
                f"The text has token id {ids[-1]}, and vocab_size is {vocab_size}: make that {ids[-1] + 1}."
            )
        self.shared_row = SharedRow(ids, vocab_size) if recipe.shared_row and len(ids) < vocab_size else None
        self.facts = Facts(
            sha256=hashlib.sha256(training.astype("<i4").tobytes() + held_out.astype("<i4").tobytes()).hexdigest(),
            n_training_tokens=len(training),
            n_held_out_tokens=len(held_out),
            n_different_ids=len(ids),
            guessing=math.log(vocab_size),
            unigram_entropy=unigram_entropy(training),
            bigram_entropy=bigram_entropy(training),
        )
        self._training, self._held_out = self._rows(training), self._rows(held_out)
        self.words = self._rows(ids[ids != END_OF_TEXT_ID])  # what random rows are drawn from
        if recipe.random_share and len(self.words) < recipe.longest_period:
            raise DataError(f"The text has {len(self.words)} different tokens: make longest_period that at most.")
        self._epoch, self._order = -1, np.empty(0, dtype=np.int64)

    def _rows(self, ids: Ids) -> Ids:
        return ids if self.shared_row is None else self.shared_row.rows(ids).astype(np.int32)

    def batch(self, number: int) -> Batch:
        """Batch `number`: [batch_size, context_length] inputs and targets, as embedding rows where one is shared."""
        size = self._recipe.batch_size
        rows = np.stack([self._window(number * size + row) for row in range(size)]).astype(np.int64)
        targets = rows[:, 1:].copy()
        random = np.random.default_rng((self._recipe.seed, 1, number))
        kinds = random.random(size)  # below random_share: random ids; below both shares together: a passage said again
        for row, kind in enumerate(kinds):
            period = int(random.integers(self._recipe.shortest_period, self._recipe.longest_period + 1))
            if kind < self._recipe.random_share:
                rows[row] = repeated_random_row(self.words, period, self._length + 1, random)
                targets[row] = rows[row, 1:]
                targets[row, :period] = IGNORED
            elif kind < self._recipe.random_share + self._recipe.passage_share:
                rows[row] = say_passage_again(rows[row], period, random)
                targets[row] = rows[row, 1:]
        return Batch(torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(targets))

    def _window(self, count: int) -> Ids:
        """The window that comes after `count` others: [context_length + 1]."""
        epoch, place = divmod(count, self.n_windows)
        if epoch != self._epoch:
            order = np.random.default_rng((self._recipe.seed, 0, epoch)).permutation(self.n_windows)
            self._epoch, self._order = epoch, order
        start = self._order[place] * self._length
        return self._training[start : start + self._length + 1]

    def held_out(self) -> Batch:
        """`held_out_windows` windows at most, evenly apart; a shorter one where the text has no whole one."""
        length = min(self._length, len(self._held_out) - 1)
        n_windows = (len(self._held_out) - 1) // length
        chosen = np.linspace(0, n_windows - 1, min(self._recipe.held_out_windows, n_windows)).round().astype(int)
        rows = np.stack([self._held_out[at * length : (at + 1) * length + 1] for at in chosen]).astype(np.int64)
        return Batch(torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy()))


def text_data(text: str, recipe: Recipe, held_out: str | None = None) -> TextData:
    """The data of a text in which documents are apart by `<|endoftext|>`; `held_out` is one of the same kind.

    Without it the end of the text is held out: `held_out_share` of the tokens, whole documents where there are some.
    """
    ids = encode(text.split(END_OF_TEXT))
    if held_out is None:
        return TextData(*split(ids, recipe.held_out_share), recipe)
    return TextData(ids, encode(held_out.split(END_OF_TEXT)), recipe)


def read_text(path: Path) -> str:
    """A text file in UTF-8. Raises `DataError`, or `OSError`."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not in UTF-8: save it as such.") from error


def encode(documents: Iterable[str]) -> Ids:
    """The ids of all documents that hold something, with `<|endoftext|>` between them."""
    tokenizer = gpt2_tokenizer()
    parts = [np.array((*tokenizer.encode(one).ids, END_OF_TEXT_ID), dtype=np.int32) for one in documents if one.strip()]
    return np.concatenate(parts)[:-1] if parts else np.empty(0, dtype=np.int32)


def split(ids: Ids, held_out_share: float) -> tuple[Ids, Ids]:
    """The training part, and the held-out one at the end: `held_out_share` of the tokens.

    The cut moves to the nearest `<|endoftext|>`, which neither part keeps, if the share changes by no more than half.
    """
    n_held_out = round(len(ids) * held_out_share)
    cut = len(ids) - n_held_out
    borders = np.flatnonzero(ids == END_OF_TEXT_ID)
    near = borders[2 * np.abs(borders - cut) <= n_held_out]
    if not len(near):
        return ids[:cut], ids[cut:]
    border = near[np.abs(near - cut).argmin()]
    return ids[:border], ids[border + 1 :]


def most_frequent(ids: Ids, count: int) -> Ids:
    """The `count` most frequent ids, rising; of two as frequent, the lower one goes first."""
    different, counts = np.unique(ids, return_counts=True)
    return np.sort(different[np.argsort(-counts, kind="stable")[:count]])


def unigram_entropy(ids: Ids) -> float:
    """Entropy of the tokens' frequencies in nats: -sum p ln p (Shannon 1948)."""
    return _entropy(np.unique(ids, return_counts=True)[1])


def bigram_entropy(ids: Ids) -> float:
    """Entropy of a token in nats where the one before is known: that of the pairs, less that of their first tokens.

    Counted on `ids` themselves: a short text has few pairs of each kind, and seems surer than it is.
    """
    pairs = ids[:-1].astype(np.int64) << 32 | ids[1:]
    return _entropy(np.unique(pairs, return_counts=True)[1]) - unigram_entropy(ids[:-1])


def _entropy(counts: NDArray[np.integer]) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum())
