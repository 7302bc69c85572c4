"""One run of the engine against a bare forward pass of transformers (SDPA) that captures nothing.

A run returns the residual stream at every block boundary and the last position's ten most probable tokens. The bare
pass computes the logits of every position, as it does by default. Patterns are either captured in the pass, or derived
from the trace layer by layer, as the app does.
"""

import torch

import gptviz
from benchmarks.frame import Row, gpt2_folder, ids, in_turns, row, transformers_model

CASES = {16: 0.75, 64: 0.75, 256: 0.9, 1024: 0.9}  # tokens -> upper bound on our time / the bare pass'
WITH_PATTERNS = (16, 64, 256)


def run(repeats: int) -> list[Row]:
    """Return the rows for every text length."""
    bare = transformers_model()
    engine = gptviz.load(gpt2_folder(), device="cpu")
    rows = []
    for n_tokens, at_most in CASES.items():
        tokens, batch = engine.tokenizer.tokens(ids(n_tokens)), torch.tensor([ids(n_tokens)])
        calls = {
            "bare": torch.inference_mode()(lambda batch=batch: bare(batch)),
            "run": lambda tokens=tokens: engine.run(tokens).top_k(),
        }
        if n_tokens in WITH_PATTERNS:
            calls["kept"] = lambda tokens=tokens: engine.run(tokens, keep=["pattern"]).top_k()
            calls["derived"] = lambda tokens=tokens: _all_patterns(engine.run(tokens))
        times = in_turns(calls, repeats if n_tokens < 1024 else max(2, repeats // 2))
        for name, what, limit in (
            ("run", "run", at_most),
            ("kept", "run, every head's pattern kept", 1.0),
            ("derived", "run, every head's pattern derived", 1.0),
        ):
            if name in times:
                case = f"{n_tokens:,} tokens"
                rows.append(
                    row(what, case, times[name], "ms", against="transformers", theirs=times["bare"], at_most=limit)
                )
    return rows


def _all_patterns(trace: gptviz.Trace) -> list[object]:
    return [trace.top_k(), *(trace["pattern", layer] for layer in range(trace.config["n_layers"]))]
