"""A step of training, against transformers' GPT2LMHeadModel in a plain AdamW loop, neither compiled.

Both have story-gpt's shape (six layers of 192 dimensions, the whole vocabulary, 256 tokens), four windows a batch, no
dropout, the same batches, AdamW and a clipped gradient: tokens per second are as steps are. In the second row a step
has its share of a measurement with all its files, at the usual interval.
"""

import itertools
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.frame import Row, in_turns, peer, row
from gptviz.catalog import STORY_GPT_CONFIG
from gptviz.config import GPTConfig
from gptviz.training import Recipe, Run, TextData, text_data
from gptviz.training.loop import start, train
from gptviz.training.run import first_model

TEXT = Path(__file__).parents[1] / "tests/data/held_out.txt"
CONFIG = GPTConfig(**{**STORY_GPT_CONFIG, "drop_rate": 0.0})  # type: ignore[typeddict-item]
N_STEPS = 3  # a turn: what a measurement needs of its last step is in it, and weighs more than it does usually
RECIPE = Recipe(config=CONFIG, n_steps=100_000, batch_size=4, learning_rate=1e-4)


def run(repeats: int) -> list[Row]:
    """Rows for a step, without and with its share of a measurement."""
    data = text_data(TEXT.read_text(encoding="utf-8"), RECIPE)
    ours = train(start(first_model(RECIPE, data), RECIPE), data, RECIPE, itertools.count(N_STEPS, N_STEPS))
    theirs = _plain_loop(data)
    often_measured = replace(RECIPE, measure_every=N_STEPS, n_checkpoints=2)
    with tempfile.TemporaryDirectory() as folder:
        rows = Run.create(Path(folder) / "run", often_measured, data).train(data)
        next(rows)
        calls = {
            "ours": lambda: next(ours),
            "theirs": lambda: [next(theirs) for _ in range(N_STEPS)],
            "measured": lambda: next(rows),
        }
        times = in_turns(calls, repeats)
        rows.close()
    measurement = times["measured"] - times["ours"]
    step, their_step = times["ours"] / N_STEPS, times["theirs"] / N_STEPS
    case = f"{RECIPE.batch_size} x {CONFIG['context_length']} tokens"
    against: dict[str, Any] = {"against": "transformers", "theirs": their_step}
    often = RECIPE.measure_every
    with_share = step + measurement / often
    return [
        row("a step", case, step, "ms", **against, at_most=1.0),
        row(f"a step, measured every {often}", case, with_share, "ms", **against, at_most=round(1 / 0.9, 2)),
        row("a measurement with its files", case, measurement, "ms"),
    ]


def _plain_loop(data: TextData) -> Iterator[float]:
    """One step each time; gives its loss."""
    transformers = peer("transformers")
    config = transformers.GPT2Config(
        vocab_size=CONFIG["vocab_size"], n_positions=CONFIG["context_length"], n_embd=CONFIG["emb_dim"],
        n_layer=CONFIG["n_layers"], n_head=CONFIG["n_heads"], resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
        attn_implementation="sdpa",
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RECIPE.learning_rate, weight_decay=RECIPE.weight_decay)
    for number in itertools.count():
        inputs, targets = data.batch(number)
        # The targets are the next tokens already: they are not to be moved once more.
        loss = model(inputs, labels=targets, shift_labels=targets).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), RECIPE.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()
