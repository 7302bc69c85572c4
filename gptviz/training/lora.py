"""LoRA: a matrix is kept as it is, and a product of two thin ones beside it is trained (Hu et al. 2021).

As in the course's appendix E, whose names the parts carry.
"""

import copy
import math

import torch
from torch import Tensor, nn

from ..model import GPTModel


class LoRALayer(nn.Module):
    """alpha * x A B. B begins at 0, so that at first nothing changes."""

    def __init__(self, n_in: int, n_out: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.empty(n_in, rank))
        self.B = nn.Parameter(torch.zeros(rank, n_out))
        self.alpha = alpha
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))  # as nn.Linear begins

    def forward(self, x: Tensor) -> Tensor:
        """[..., n_in] -> [..., n_out]"""
        return self.alpha * (x @ self.A @ self.B)


class LinearWithLoRA(nn.Module):
    """A linear layer, and what LoRA adds to it."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear
        self.lora = LoRALayer(linear.in_features, linear.out_features, rank, alpha)

    def forward(self, x: Tensor) -> Tensor:
        """[..., n_in] -> [..., n_out]"""
        return self.linear(x) + self.lora(x)

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The one linear layer that computes the same."""
        linear = copy.deepcopy(self.linear)
        linear.weight += self.lora.alpha * (self.lora.A @ self.lora.B).T
        return linear


def add_lora(model: GPTModel, rank: int, alpha: float, *, seed: int = 0) -> None:
    """Freeze the model, and put a trainable LoRA beside every linear layer; a tied head stays as it is.

    `rank` is the width of the thin matrices, from 1 on; `alpha` is what their product is multiplied with.
    """
    if rank < 1:
        raise ValueError(f"The rank is {rank}: make it 1 or more.")
    model.requires_grad_(False)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        for name, linear in layers.items():
            if name != "out_head" or not model.tied_head:
                model.set_submodule(name, LinearWithLoRA(linear, rank, alpha))


def merge_lora(model: GPTModel) -> GPTModel:
    """A model with plain linear layers that computes the same: a copy, or the model itself where it has no LoRA."""
    if not any(isinstance(module, LinearWithLoRA) for module in model.modules()):
        return model
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, LinearWithLoRA):
            plain.set_submodule(name, module.merged())
    return plain
