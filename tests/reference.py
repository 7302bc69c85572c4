"""GPT-2's forward pass in float64 NumPy, written from its formulas: no code from gptviz."""

import numpy as np


def layer_norm(x, scale, shift):
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return scale * (x - mean) / np.sqrt(variance + 1e-5) + shift


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def attention(x, weights, n_heads):
    """[pos, emb_dim] -> [pos, emb_dim], computed head by head and query by query."""
    n_pos, emb_dim = x.shape
    head_dim = emb_dim // n_heads
    q, k, v = (linear(x, weights, f"W_{name}") for name in ("query", "key", "value"))
    z = np.zeros_like(x)
    for head in range(n_heads):
        columns = slice(head * head_dim, (head + 1) * head_dim)
        for query in range(n_pos):
            scores = k[: query + 1, columns] @ q[query, columns] / np.sqrt(head_dim)
            weight = np.exp(scores - scores.max())
            z[query, columns] = weight / weight.sum() @ v[: query + 1, columns]
    return linear(z, weights, "out_proj")


def linear(x, weights, name):
    return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0)


def forward(ids, weights, n_heads):
    """ids [pos] -> logits [pos, vocab_size]; `weights` uses the course's names."""
    return unembed(streams(ids, weights, n_heads)[-1], weights)


def unembed(x, weights):
    """Apply the final norm and the output head: x [..., emb_dim] -> logits [..., vocab_size]."""
    scale, shift, head = (
        np.asarray(weights[name], dtype=np.float64)
        for name in ("final_norm.scale", "final_norm.shift", "out_head.weight")
    )
    return layer_norm(x, scale, shift) @ head.T


def streams(ids, weights, n_heads):
    """ids [pos] -> the residual stream after the embeddings, each attention and each MLP: [point, pos, emb_dim]."""
    weights = {name: np.asarray(array, dtype=np.float64) for name, array in weights.items()}
    x = weights["tok_emb.weight"][ids] + weights["pos_emb.weight"][: len(ids)]
    found = [x]
    n_layers = 1 + max(int(name.split(".")[1]) for name in weights if name.startswith("trf_blocks."))
    for layer in range(n_layers):
        block = _under(weights, f"trf_blocks.{layer}.")
        normed = layer_norm(x, block["norm1.scale"], block["norm1.shift"])
        x = x + attention(normed, _under(block, "att."), n_heads)
        found.append(x)
        normed = layer_norm(x, block["norm2.scale"], block["norm2.shift"])
        x = x + linear(gelu(linear(normed, block, "ff.layers.0")), block, "ff.layers.2")
        found.append(x)
    return np.stack(found)


def lens_logits(engine, ids):
    """The logit lens of an engine's model: [point, pos, vocab_size]."""
    weights = engine._model.state_dict()
    return unembed(streams(list(ids), weights, engine.config["n_heads"]), weights)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _under(weights, prefix):
    return {name.removeprefix(prefix): array for name, array in weights.items() if name.startswith(prefix)}
