"""Bytes of all heads' maps at 64 tokens, 12 layers of 12 heads, against the HTML of BertViz' model view.

Our side counts all bytes that the server sends for the whole page. With random weights attention is nearly even, which
compresses well, so one row shows the worst case: the chart of noise instead of patterns, as JSON.
"""

import asyncio

import numpy as np
import torch

import gptviz
from benchmarks.frame import Row, gpt2_folder, peer, row
from benchmarks.session import Session, exceptions, server
from gptviz import charts

N_TOKENS = 64


def run(repeats: int) -> list[Row]:
    """Return two rows; byte counts need no repeats."""
    engine = gptviz.load(gpt2_folder(), device="cpu")
    text = " a" * N_TOKENS
    trace = engine.run(text, keep=["pattern"])
    patterns = [torch.from_numpy(trace["pattern", layer].copy())[None] for layer in range(engine.config["n_layers"])]
    view = peer("bertviz").model_view(patterns, list(trace.tokens.strings), html_action="return")
    theirs = len(view.data.encode()) / 1e3
    shape = (engine.config["n_layers"], engine.config["n_heads"], N_TOKENS, N_TOKENS)
    noise = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    worst = len(charts.small_maps(noise).to_json().encode()) / 1e3
    return [
        row("all heads", case, ours, "kB", against="BertViz", theirs=theirs, at_most=0.05)
        for case, ours in (("the page", asyncio.run(_page_kilobytes(text))), ("the chart, of noise", worst))
    ]


async def _page_kilobytes(text: str) -> float:
    folder = gpt2_folder()
    with server(GPTVIZ_MODELS=str(folder)) as (url, _):
        async with Session(url, "attention", {"model": folder.name, "view": "all", "text": text}) as session:
            messages = await session.open()
    if wrong := exceptions(messages):
        raise RuntimeError(wrong[0])
    return sum(message.ByteSize() for message in messages) / 1e3
