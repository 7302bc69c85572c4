"""The components of a GPT-2 in the order of the data, with live shapes, norms and parameter counts."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ..config import GPTConfig, attention_parameters, block_parameters, feed_forward_parameters, parameter_count
from ..trace import Trace


@dataclass(frozen=True)
class Component:
    """One component of the model, and its output for this text."""

    name: str  # of the course's module, such as `trf_blocks.3.att`
    title: str
    explanation: str  # two sentences
    shape: tuple[int, ...] = ()  # of the output, with the batch
    norm: float | None = None  # mean Euclidean length of the tokens' vectors; for logits: the last token's
    n_parameters: int = 0
    shortcut: bool = False  # the component adds its output to the stream, which bypasses it
    inside: "tuple[Component, ...]" = ()


def anatomy(trace: Trace, *, unfolded: int | None = None) -> list[Component]:
    """The model's components from the ids to the logits. Only the block `unfolded` holds its components inside."""
    config = trace.config
    n_tokens, width = len(trace), config["emb_dim"]
    stream = (1, n_tokens, width)
    last = config["n_layers"] - 1
    embeddings = [
        Component(
            "tok_emb",
            "Token embedding",
            "Looks up a learned vector for each id. At this point a token means the same wherever it stands.",
            stream,
            mean_norm(trace["embed"]),
            config["vocab_size"] * width,
        ),
        Component(
            "pos_emb",
            "Positional embedding",
            "Adds a learned vector for each position. Without it the model could not tell one order from another.",
            stream,
            mean_norm(trace["resid_pre", 0]),
            config["context_length"] * width,
            shortcut=True,
        ),
        Component("drop_emb", "Dropout", _DROPOUT, stream, mean_norm(trace["resid_pre", 0])),
    ]
    blocks = [
        Component(
            f"trf_blocks.{layer}",
            f"Transformer block {layer}",
            "Lets tokens gather from earlier ones (attention), then works on each alone (MLP). "
            "Both add to the stream rather than replace it.",
            stream,
            mean_norm(trace["resid_post", layer]),
            block_parameters(config),
            inside=tuple(_inside_block(trace, layer)) if layer == unfolded else (),
        )
        for layer in range(last + 1)
    ]
    head = [
        Component(
            "final_norm",
            "Final LayerNorm",
            "Brings every token's vector to mean 0 and variance 1, then a learned gain and bias. "
            "The output head always reads numbers of the same size.",
            stream,
            mean_norm(trace["final_norm_out"]),
            2 * width,
        ),
        Component(
            "out_head",
            "Output head",
            "Compares each vector with every token of the vocabulary: one logit each. "
            "A softmax makes the logits of a position the probabilities of its next token.",
            (1, n_tokens, config["vocab_size"]),
            float(np.linalg.norm(trace.logits_at(-1))),
            config["vocab_size"] * width,
        ),
    ]
    return embeddings + blocks + head


_DROPOUT = (
    "In training it sets a random share of the numbers to zero, so that no single one is relied on. Now it is off."
)


def _inside_block(trace: Trace, layer: int) -> list[Component]:
    config = trace.config
    width, n_heads = config["emb_dim"], config["n_heads"]
    stream = (1, len(trace), width)
    att = f"trf_blocks.{layer}.att"
    feed_forward = f"trf_blocks.{layer}.ff"
    return [
        Component(
            f"trf_blocks.{layer}.norm1",
            "LayerNorm 1",
            "Brings every token's vector to mean 0 and variance 1, then a learned gain and bias. "
            "Only the copy that attention reads is changed, not the stream.",
            stream,
            mean_norm(trace["norm1_out", layer]),
            2 * width,
        ),
        Component(
            att,
            f"Masked multi-head attention, {n_heads} heads",
            "Each head weighs the tokens up to this one and gathers their values. The mask hides the future.",
            stream,
            mean_norm(trace["attn_out", layer]),
            attention_parameters(config),
        ),
        Component(
            f"trf_blocks.{layer}.drop_shortcut", "Dropout", _DROPOUT, stream, mean_norm(trace["attn_out", layer])
        ),
        Component(
            f"trf_blocks.{layer}.shortcut1",
            "Shortcut: add to the stream",
            "What attention found is added to what came in. So gradients reach the first layer undiminished.",
            stream,
            mean_norm(trace["resid_mid", layer]),
            shortcut=True,
        ),
        Component(
            f"trf_blocks.{layer}.norm2",
            "LayerNorm 2",
            "The same again for the MLP. It has a gain and bias of its own.",
            stream,
            mean_norm(trace["norm2_out", layer]),
            2 * width,
        ),
        Component(
            feed_forward,
            "Feed-forward network (MLP) with GELU",
            "Widens each token's vector fourfold, bends it with GELU, and brings it back. "
            "Every token is worked on alone.",
            stream,
            mean_norm(trace["mlp_out", layer]),
            feed_forward_parameters(config),
        ),
        Component(f"trf_blocks.{layer}.drop_shortcut", "Dropout", _DROPOUT, stream, mean_norm(trace["mlp_out", layer])),
        Component(
            f"trf_blocks.{layer}.shortcut2",
            "Shortcut: add to the stream",
            "What the MLP found is added to what came in. This is the Transformer block's output.",
            stream,
            mean_norm(trace["resid_post", layer]),
            shortcut=True,
        ),
    ]


def mean_norm(vectors: NDArray[np.floating]) -> float:
    """Euclidean length of the vectors, mean over the positions: [pos, emb_dim] -> one number."""
    return float(np.linalg.norm(np.asarray(vectors, dtype=np.float64), axis=-1).mean())


def size_table(configs: Mapping[str, GPTConfig], *, tied_head: bool = True) -> pd.DataFrame:
    """Sizes of models, computed from their configs, one row per model.

    Columns: model, layers, width (emb_dim), heads, context, parameters, megabytes (in float32).
    """
    return pd.DataFrame(
        [
            {
                "model": name,
                "layers": config["n_layers"],
                "width": config["emb_dim"],
                "heads": config["n_heads"],
                "context": config["context_length"],
                "parameters": parameter_count(config, tied_head=tied_head),
                "megabytes": 4 * parameter_count(config, tied_head=tied_head) / 1e6,
            }
            for name, config in configs.items()
        ]
    )


def parameter_tree(config: GPTConfig, *, tied_head: bool) -> pd.DataFrame:
    """Parameter counts, one row per component with its parent; a parent's count is the sum of its children's.

    Columns: id, parent ("" for the whole model), label, parameters. A tied output head is the token
    embedding and has no row of its own.
    """
    width, layers = config["emb_dim"], range(config["n_layers"])
    qkv_bias = width if config["qkv_bias"] else 0
    total = parameter_count(config, tied_head=tied_head)
    rows: list[tuple[str, str, str, int]] = [
        ("model", "", "GPT-2", total),
        ("tok_emb", "model", "token embedding" + (" = output head" if tied_head else ""), config["vocab_size"] * width),
        ("pos_emb", "model", "positional embedding", config["context_length"] * width),
        ("final_norm", "model", "final LayerNorm", 2 * width),
    ]
    if not tied_head:
        rows.append(("out_head", "model", "output head", config["vocab_size"] * width))
    for layer in layers:
        block = f"trf_blocks.{layer}"
        rows.append((block, "model", f"layer {layer}", block_parameters(config)))
        rows += [
            (f"{block}.att", block, "attention", attention_parameters(config)),
            (f"{block}.ff", block, "MLP", feed_forward_parameters(config)),
            (f"{block}.norms", block, "two LayerNorms", 4 * width),
        ]
        rows += [
            (f"{block}.att.{part}", f"{block}.att", part, width * width + bias)
            for part, bias in (("W_query", qkv_bias), ("W_key", qkv_bias), ("W_value", qkv_bias), ("out_proj", width))
        ]
        rows += [
            (f"{block}.ff.layers.0", f"{block}.ff", "first linear", 4 * width * width + 4 * width),
            (f"{block}.ff.layers.2", f"{block}.ff", "second linear", 4 * width * width + width),
        ]
    return pd.DataFrame(rows, columns=["id", "parent", "label", "parameters"])
