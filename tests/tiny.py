"""A GPT-2 small enough to compute by hand, and the ways in which other programs write one to disk."""

import json

import torch
from safetensors.torch import save_file

from gptviz.config import GPTConfig
from gptviz.engine import Engine
from gptviz.model import GPTModel

TINY = GPTConfig(vocab_size=50257, context_length=32, emb_dim=16, n_heads=4, n_layers=3, drop_rate=0.1, qkv_bias=True)


def tiny_model(seed=0, *, tied_head=False, **changes):
    """Make a model with weights far larger than trained ones, so attention is uneven and the logits show every term."""
    model = GPTModel({**TINY, **changes}, tied_head=tied_head)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if name.endswith("scale") else 0.0, 0.4, generator=generator)
    return model.requires_grad_(False).eval()


def tiny_engine(seed=0, **changes):
    return Engine(tiny_model(seed, **changes), GPTConfig(**{**TINY, **changes}), name="tiny", device="cpu")


def gpt2_tensors(model, prefix=""):
    """Return a model's weights under GPT-2's own names and layout: matrices [in, out], query, key and value joined."""
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    tensors = {
        "wte.weight": state["tok_emb.weight"],
        "wpe.weight": state["pos_emb.weight"],
        "ln_f.weight": state["final_norm.scale"],
        "ln_f.bias": state["final_norm.shift"],
    }
    for layer in range(len(model.trf_blocks)):
        ours, theirs = f"trf_blocks.{layer}", f"h.{layer}"
        for kind in ("weight", "bias"):
            none = torch.zeros(model.tok_emb.weight.shape[1])  # for a model without query, key and value biases
            parts = [state.get(f"{ours}.att.W_{name}.{kind}", none) for name in ("query", "key", "value")]
            joined = torch.cat(parts)
            tensors[f"{theirs}.attn.c_attn.{kind}"] = joined.T.contiguous() if kind == "weight" else joined
            for target, source in (
                ("attn.c_proj", "att.out_proj"),
                ("mlp.c_fc", "ff.layers.0"),
                ("mlp.c_proj", "ff.layers.2"),
            ):
                tensor = state[f"{ours}.{source}.{kind}"]
                tensors[f"{theirs}.{target}.{kind}"] = tensor.T.contiguous() if kind == "weight" else tensor
        for norm in (1, 2):
            tensors[f"{theirs}.ln_{norm}.weight"] = state[f"{ours}.norm{norm}.scale"]
            tensors[f"{theirs}.ln_{norm}.bias"] = state[f"{ours}.norm{norm}.shift"]
    tensors = {prefix + name: tensor.clone() for name, tensor in tensors.items()}
    if not model.tied_head:
        tensors["lm_head.weight"] = state["out_head.weight"].clone()
    return tensors


def gpt2_config(*, tied_head=False, **changes):
    """Return the parts of config.json that matter here, as transformers writes them."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-05,
        "n_embd": TINY["emb_dim"],
        "n_head": TINY["n_heads"],
        "n_inner": None,
        "n_layer": TINY["n_layers"],
        "n_positions": TINY["context_length"],
        "resid_pdrop": 0.1,
        "tie_word_embeddings": tied_head,
        "vocab_size": TINY["vocab_size"],
        **changes,
    }


def write_folder(folder, tensors, config):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder
