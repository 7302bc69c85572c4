"""The table of activations, and context managers that record or replace them as a model runs.

This module refers to the course's modules by name and depends on no model class.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

Key = tuple[str, int | None]  # an activation's name and its layer (None if it is not per layer)
Change = Callable[[Tensor], Tensor]  # activation with batch -> its replacement; must not write to its input


class Site(NamedTuple):
    """Where an activation is found: at the input or output of a module."""

    module: str  # its path; {layer} stands for the layer
    side: Literal["input", "output"]
    by_head: bool = False  # the last axis holds all heads joined and must be split


# The names are those of TransformerLens, so that its literature applies. Shapes are without the batch axis.
ACTIVATIONS: dict[str, Site] = {
    "embed": Site("tok_emb", "output"),  # [pos, emb_dim]
    "pos_embed": Site("pos_emb", "output"),  # [pos, emb_dim]
    "resid_pre": Site("trf_blocks.{layer}", "input"),  # [pos, emb_dim]
    "norm1_out": Site("trf_blocks.{layer}.norm1", "output"),  # [pos, emb_dim]
    "q": Site("trf_blocks.{layer}.att.W_query", "output", by_head=True),  # [pos, head, head_dim]
    "k": Site("trf_blocks.{layer}.att.W_key", "output", by_head=True),
    "v": Site("trf_blocks.{layer}.att.W_value", "output", by_head=True),
    "attn_scores": Site("trf_blocks.{layer}.att.causal_softmax", "input"),  # [head, query, key]
    "pattern": Site("trf_blocks.{layer}.att.causal_softmax", "output"),  # [head, query, key]
    "z": Site("trf_blocks.{layer}.att.out_proj", "input", by_head=True),  # [pos, head, head_dim]
    "attn_out": Site("trf_blocks.{layer}.att", "output"),  # [pos, emb_dim]
    "resid_mid": Site("trf_blocks.{layer}.shortcut1", "output"),  # [pos, emb_dim]
    "norm2_out": Site("trf_blocks.{layer}.norm2", "output"),  # [pos, emb_dim]
    "pre": Site("trf_blocks.{layer}.ff.layers.0", "output"),  # [pos, 4 * emb_dim]
    "post": Site("trf_blocks.{layer}.ff.layers.1", "output"),  # [pos, 4 * emb_dim]
    "mlp_out": Site("trf_blocks.{layer}.ff", "output"),  # [pos, emb_dim]
    "resid_post": Site("trf_blocks.{layer}", "output"),  # [pos, emb_dim]
    "final_norm_out": Site("final_norm", "output"),  # [pos, emb_dim]
    "logits": Site("out_head", "output"),  # [pos, vocab_size]
}
# Other places where a run can be changed: the stream that passes a sub-layer by, and the output of dropout.
SWITCHES: dict[str, Site] = {
    "shortcut1": Site("trf_blocks.{layer}.shortcut1", "input"),  # [pos, emb_dim]
    "shortcut2": Site("trf_blocks.{layer}.shortcut2", "input"),  # [pos, emb_dim]
    "drop_emb": Site("drop_emb", "output"),  # [pos, emb_dim]
    "drop_attention": Site("trf_blocks.{layer}.att.dropout", "output"),  # [head, query, key]
    "drop_shortcut": Site("trf_blocks.{layer}.drop_shortcut", "output"),  # [pos, emb_dim], twice per block
}
PER_LAYER = frozenset(name for name, site in ACTIVATIONS.items() if "{layer}" in site.module)


def check_name(name: object) -> None:
    """Raise a `KeyError` that lists the known names if `name` is an unknown activation."""
    if name not in ACTIVATIONS:
        raise KeyError(f"{name!r} is no activation; known are: {', '.join(ACTIVATIONS)}.")


def keys(names: Iterable[str], n_layers: int) -> list[Key]:
    """Return every (name, layer) that `names` stand for in a model with `n_layers` blocks."""
    names = list(names)
    for name in names:
        check_name(name)
    return [(name, layer) for name in names for layer in (range(n_layers) if name in PER_LAYER else (None,))]


class _HasAllError(Exception):
    """Ends a forward pass once all wanted activations are recorded."""


@contextmanager
def record(model: nn.Module, wanted: Iterable[Key], *, stop: bool = False) -> Iterator[dict[Key, Tensor]]:
    """Record activations: forward passes of `model` in this block fill the dict that it yields, key -> batched tensor.

    Hooks see every pass through the model, from any thread, so run the passes in `Engine.session`.
    The hooks are removed when the block ends, also after an error. With `stop` the block ends as
    soon as everything in `wanted` is recorded, and the model computes nothing after that.
    """
    wanted = list(wanted)
    recorded: dict[Key, Tensor] = {}

    def keep(key: Key) -> Change:
        def unchanged(value: Tensor) -> Tensor:
            recorded[key] = value
            if stop and len(recorded) == len(wanted):
                raise _HasAllError
            return value

        return unchanged

    with suppress(_HasAllError), replace(model, {key: keep(key) for key in wanted}):
        yield recorded


@contextmanager
def replace(model: nn.Module, changes: Mapping[Key, Change]) -> Iterator[None]:
    """Replace activations: forward passes of `model` in this block continue with what `changes` return for them.

    The model's weights are not touched. As with `record`, run the passes in `Engine.session`. A
    `record` inside this block records the replaced values, with which the model continues.
    """
    handles = []
    try:
        for (name, layer), change in changes.items():
            site = (ACTIVATIONS | SWITCHES)[name]
            module = model.get_submodule(site.module.format(layer=layer))
            if site.side == "input":
                handles.append(module.register_forward_pre_hook(_on_input(change)))
            else:
                handles.append(module.register_forward_hook(_on_output(change)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_input(change: Change) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return change(inputs[0]), *inputs[1:]

    return hook


def _on_output(change: Change) -> Any:
    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return change(output)

    return hook
