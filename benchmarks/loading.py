"""Loading GPT-2 small's shape from safetensors, against transformers' from_pretrained; the file is in the page cache.

We map the file into memory, so that reading happens at first use: the second row has a first run of 16 tokens in it.
"""

import torch

import gptviz
from benchmarks.frame import Row, gpt2_folder, ids, in_turns, peer, row


def run(repeats: int) -> list[Row]:
    """Rows without and with a first run."""
    transformers = peer("transformers")
    folder, tokens = gpt2_folder(), ids(16)

    def theirs() -> torch.nn.Module:
        model: torch.nn.Module = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="sdpa")
        return model.eval()

    def ours() -> gptviz.Engine:
        return gptviz.load(folder, device="cpu")

    def our_first_run() -> object:
        engine = ours()
        return engine.run(engine.tokenizer.tokens(tokens))

    times = in_turns(
        {
            "theirs": theirs,
            "ours": ours,
            "theirs, run": torch.inference_mode()(lambda: theirs()(torch.tensor([tokens]))),
            "ours, run": our_first_run,
        },
        repeats,
    )
    return [
        row(what, "", times[f"ours{end}"], "ms", against="transformers", theirs=times[f"theirs{end}"], at_most=limit)
        for what, end, limit in (("loading", "", 0.5), ("loading and a first run", ", run", None))
    ]
