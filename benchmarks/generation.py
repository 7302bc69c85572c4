"""Greedy generation of 64 tokens after 16, with the key-value cache, against transformers' generate: time per token.

First both are checked to write the same tokens.
"""

import torch

import gptviz
from benchmarks.frame import Row, gpt2_folder, ids, in_turns, row, transformers_model

N_NEW = 64


def run(repeats: int) -> list[Row]:
    """Return one row."""
    model = transformers_model()
    engine = gptviz.load(gpt2_folder(), device="cpu")
    tokens, batch = engine.tokenizer.tokens(ids(16)), torch.tensor([ids(16)])
    settings = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW, "do_sample": False, "pad_token_id": 50256}

    def theirs() -> object:
        with torch.inference_mode():
            return model.generate(batch, attention_mask=torch.ones_like(batch), **settings)[0, 16:].tolist()

    calls = {"theirs": theirs, "ours": lambda: [token.id for token in engine.generate(tokens, N_NEW)]}
    if calls["ours"]() != calls["theirs"]():
        raise AssertionError("The two sides write different tokens.")
    times = in_turns(calls, repeats)
    return [
        row(
            "generation, a token",
            f"{N_NEW} new tokens",
            times["ours"] / N_NEW,
            "ms",
            against="transformers",
            theirs=times["theirs"] / N_NEW,
            at_most=1.0,
        )
    ]
