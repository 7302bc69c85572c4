"""Every activation in the table, in all layers, against TransformerLens' run_with_cache.

Both read the same folder, and first their logits and patterns are checked to agree. TransformerLens' cache has more
names, but most of them name the same tensors; both sides compute the logits of every position. So does the bare pass
of transformers in the second row, which captures nothing: its cost is part of both sides.
"""

import numpy as np
import torch

import gptviz
from benchmarks.frame import Row, gpt2_folder, ids, in_turns, peer, row, transformers_model


def run(repeats: int) -> list[Row]:
    """Return the rows for every text length."""
    lens = peer("transformer_lens")
    engine = gptviz.load(gpt2_folder(), device="cpu")
    bare = transformers_model()
    bridge = lens.TransformerBridge.boot_transformers(str(gpt2_folder()), device="cpu")
    rows = []
    for n_tokens in (16, 64, 256, 1024):
        tokens, batch = engine.tokenizer.tokens(ids(n_tokens)), torch.tensor([ids(n_tokens)])
        calls = {
            "theirs": torch.inference_mode()(lambda batch=batch: bridge.run_with_cache(batch)),
            "ours": lambda tokens=tokens: engine.run(tokens, keep=gptviz.ACTIVATIONS),
            "bare": torch.inference_mode()(lambda batch=batch: bare(batch)),
        }
        if n_tokens == 16:
            _check_that_they_agree(calls["ours"](), *calls["theirs"]())
        times = in_turns(calls, repeats if n_tokens < 1024 else max(2, repeats // 2))
        case = f"{n_tokens:,} tokens"
        for name, what, limit in (("ours", "run, every activation", 0.7), ("bare", "transformers, bare", None)):
            rows.append(
                row(what, case, times[name], "ms", against="TransformerLens", theirs=times["theirs"], at_most=limit)
            )
    return rows


def _check_that_they_agree(trace: gptviz.Trace, logits: torch.Tensor, cache: dict[str, torch.Tensor]) -> None:
    np.testing.assert_allclose(trace["logits"], logits[0], atol=1e-3)
    for layer in (0, trace.config["n_layers"] - 1):
        np.testing.assert_allclose(trace["pattern", layer], cache[f"blocks.{layer}.attn.hook_pattern"][0], atol=1e-4)
