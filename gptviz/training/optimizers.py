"""How weights are changed: AdamW as in the course, or Muon for the blocks' matrices; the learning rate over time."""

import math

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from ..model import GPTModel
from .recipe import Recipe


def make_optimizers(model: GPTModel, recipe: Recipe) -> list[Optimizer]:
    """AdamW (Loshchilov and Hutter 2019) for all that is trainable, or Muon (Jordan et al. 2024) beside it.

    Muon changes a matrix by an orthogonal one. It is scaled to the size of an AdamW step (`match_rms_adamw`; Liu et
    al. 2025, "Muon is Scalable for LLM Training"), so that one learning rate fits both.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = {
        name for name, parameter in trainable.items() if name.startswith("trf_blocks.") and parameter.dim() == 2
    }
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adamw" or not matrices:
        return [AdamW(trainable.values(), lr=rate, weight_decay=decay, fused=True)]
    others = [parameter for name, parameter in trainable.items() if name not in matrices]
    muon = Muon(
        [trainable[name] for name in sorted(matrices)], lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"
    )
    return [muon, AdamW(others, lr=rate, weight_decay=decay, fused=True)] if others else [muon]


def learning_rate(step: int, recipe: Recipe) -> float:
    """The learning rate of step number `step`, from 0 on.

    It rises in a line over `warmup_steps`, stays at its peak until `constant_share` of all steps, and goes down to
    `final_share` of the peak at the last one: in a line, or along a half cosine (Loshchilov and Hutter 2017).
    """
    rise = min(1.0, (step + 1) / (recipe.warmup_steps + 1))
    start, last = max(recipe.warmup_steps, round(recipe.constant_share * recipe.n_steps)), recipe.n_steps - 1
    if recipe.decay == "constant" or step <= start:
        return recipe.learning_rate * rise
    way = min(1.0, (step - start) / max(1, last - start))
    left = 1 - way if recipe.decay == "linear" else (1 + math.cos(math.pi * way)) / 2
    return recipe.learning_rate * (recipe.final_share + (1 - recipe.final_share) * left)


def group_of(name: str) -> str:
    """The group that a parameter is measured in: an embedding, a block's attention or feed-forward, norms, the head."""
    module = name.split(".")
    if module[0] != "trf_blocks":
        return "norms" if module[0] == "final_norm" else module[0]
    return "norms" if module[2].startswith("norm") else ".".join(module[:3])


def by_group(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters of each group, in the model's order."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(group_of(name), []).append(parameter)
    return groups
