"""Bytes that a trace holds, and the peak memory of a page above the loaded model.

A trace's bytes are counted after every pattern and neuron was read from it. Peaks are the kernel's (VmHWM), each
measured in a separate process that has already loaded the model and shown the same page for a short text; the text has
1,024 tokens. The comparison is with TransformerLens' run_with_cache.
"""

import json
import subprocess
import sys
from typing import Any

import gptviz
from benchmarks.frame import Row, gpt2_folder, ids, peer, row

TRACE_MB = {64: 10, 1024: 120}
# page -> (its path, its query settings); `--quick` measures only the first three
PAGES: dict[str, tuple[str, dict[str, str]]] = {
    "Attention, all heads": ("attention", {"view": "all"}),
    "Residual stream": ("residual", {}),
    "Block": ("block", {"step": "pattern"}),
    "Bird's-eye view": ("", {}),
    "Tokens": ("tokens", {}),
    "Embeddings": ("embeddings", {}),
    "Attention, one head": ("attention", {"view": "one"}),
    "Attention, head finder": ("attention", {"view": "finder"}),
    "Next token": ("next_token", {}),
    "Ablation": ("ablation", {}),
    "Compare": ("compare", {"other_text": ""}),
    "Dropout, 4 runs": ("dropout", {"runs": "4"}),
    "Gradients, by gradient x input": ("gradients", {"method": "times_input", "twin": "0"}),
}


def run(repeats: int) -> list[Row]:
    """Return the rows for two text lengths and for every page."""
    peer("transformer_lens")
    rows = [_trace_row(n_tokens, at_most) for n_tokens, at_most in TRACE_MB.items()]
    theirs = _peak("transformer_lens")
    for title, (page, query) in list(PAGES.items())[: 3 if repeats == 1 else None]:
        ours = _peak("page", page, json.dumps(query))
        rows.append(
            row(
                "peak of a page above the model",
                title,
                ours,
                "MB",
                against="TransformerLens",
                theirs=theirs,
                at_most=0.35,
            )
        )
    return rows


def _trace_row(n_tokens: int, at_most: float) -> Row:
    engine = gptviz.load(gpt2_folder(), device="cpu")
    trace = engine.run(engine.tokenizer.tokens(ids(n_tokens)))
    for layer in range(engine.config["n_layers"]):
        trace["pattern", layer], trace["post", layer]
    return row("one trace holds at most", f"{n_tokens:,} tokens", trace.max_bytes / 1e6, "MB", at_most=at_most)


def _peak(*arguments: Any) -> float:
    """Return the peak in megabytes, measured in a separate process."""
    command = [sys.executable, "-m", "benchmarks.peak", str(gpt2_folder()), *arguments]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(output.splitlines()[-1])
