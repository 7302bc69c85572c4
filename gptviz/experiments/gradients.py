"""Gradients over depth: whether the training signal reaches the first blocks."""

import re
from collections.abc import Iterable
from functools import partial

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..engine import Engine
from ..hooks import replace
from ..interventions import Part, switched_off
from ..model import GPTModel
from ..numerics.chunks import chunks
from ..tokens import Tokens

_IN_BLOCK = re.compile(r"trf_blocks\.(\d+)\.([a-z0-9]+)\.")
ROWS_OF_LOGITS = 64  # held at once; in a longer text each block is run twice


def gradient_norms(engine: Engine, tokens: Tokens, *, off: Iterable[Part] = ()) -> tuple[float, dict[str, float]]:
    """Return the mean loss over the text's own next tokens in nats, and the length of each parameter's gradient.

    Parameters have the course's names; the gradient of a tied head is part of the token embedding's. The model is
    in evaluation mode and keeps no gradient. Raises the same errors as `Engine.run`, and `ValueError` for one token.
    """
    engine.check(tokens)
    if len(tokens) < 2:
        raise ValueError("One token alone has no next token to foresee, so there is no loss: add a second.")
    norms: dict[str, float] = {}

    def measure(name: str, parameter: Tensor) -> None:
        assert parameter.grad is not None, "the hook is called with a gradient"
        norms[name] = parameter.grad.norm().item()
        parameter.grad = None  # keep one at a time: all of GPT-2 XL's would take 6 GB

    model = engine.modules()
    parameters = dict(model.requires_grad_().named_parameters())
    head = "tok_emb.weight" if engine.tied_head else "out_head.weight"  # its gradient is accumulated in pieces
    for name, parameter in parameters.items():
        if name != head:
            parameter.register_post_accumulate_grad_hook(partial(measure, name))
    with torch.enable_grad(), replace(model, switched_off(off, engine.config)):
        loss = _go_back(model, torch.tensor(tokens.ids, device=engine.device)[None])
    measure(head, parameters[head])
    return loss, {name: norms[name] for name in parameters}


def gradient_table(engine: Engine, tokens: Tokens, off: Iterable[Part] = ()) -> pd.DataFrame:
    """`gradient_norms` by parameter group: one row per group, inside each block and outside the blocks.

    Columns: layer (missing outside the blocks); group (the course's name: `att`, `ff`, `norm1`, `norm2`; outside the
    blocks `tok_emb`, `pos_emb`, `final_norm` or `out_head`); norm (the root of the sum of the squares of its
    parameters' gradient lengths); loss (the text's mean loss in nats, the same in each row).
    Raises the same errors as `gradient_norms`.
    """
    loss, norms = gradient_norms(engine, tokens, off=off)
    rows = []
    for name, norm in norms.items():
        match = _IN_BLOCK.match(name)
        layer, group = (int(match[1]), match[2]) if match else (None, name.split(".")[0])
        rows.append((layer, group, norm**2))
    table = pd.DataFrame(rows, columns=["layer", "group", "norm"]).astype({"layer": "Int64"})
    summed = table.groupby(["layer", "group"], dropna=False, sort=False).sum().reset_index()
    return summed.assign(norm=summed["norm"] ** 0.5, loss=loss)


def all_shortcuts(n_layers: int) -> tuple[Part, ...]:
    """Both shortcut connections of every block."""
    return tuple(Part(kind, layer) for layer in range(n_layers) for kind in ("shortcut1", "shortcut2"))


def _go_back(model: GPTModel, ids: Tensor) -> float:
    """Back-propagate the mean loss of predicting the next ids, with `ids` [batch = 1, pos], and return it in nats.

    Only a few positions' logits are held at a time. In a long text only the stream between blocks is held, and each
    block is run again in the backward pass (Chen et al. 2016): this is slower, but takes a third of the memory.
    """
    is_long = ids.numel() > ROWS_OF_LOGITS
    stream = model.embed(ids)
    for block in model.trf_blocks:
        stream = checkpoint(block, stream, use_reentrant=False) if is_long else block(stream)
    normed = model.final_norm(stream)
    ends, n_losses = normed.detach().requires_grad_(), ids.numel() - 1
    total = 0.0
    for rows in chunks(n_losses, ROWS_OF_LOGITS):
        logits, following = model.out_head(ends[0, rows]), ids[0, rows.start + 1 : rows.stop + 1]
        loss = F.cross_entropy(logits, following, reduction="sum") / n_losses
        loss.backward()
        total += loss.item()
    normed.backward(ends.grad)
    return total
