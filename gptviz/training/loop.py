"""The training loop, as in chapter 5 of the course, with the additions of its appendix D."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import Optimizer

from ..model import GPTModel
from ..shared_row import SharedRow
from .data import IGNORED, Batch, Data
from .optimizers import by_group, learning_rate, make_optimizers
from .recipe import Recipe


class DivergedError(RuntimeError):
    """A loss that is no number: the weights are of no use any more."""


class Interval(NamedTuple):
    """What happened from one stop of the loop to the next. Lengths are Euclidean norms, by group of parameters."""

    step: int  # steps done
    training_loss: float  # mean over the interval's steps, in nats a counted target
    learning_rate: float  # of the last step, like all that follows but the last
    gradient_norm: float  # of all groups together, before clipping
    gradient_norms: dict[str, float]  # before clipping
    update_ratios: dict[str, float]  # length of the change, divided by the weights' own
    tokens_per_second: float  # over the interval's steps alone


@dataclass
class State:
    """What a run has come to: all that the next step depends on, besides the recipe and the data."""

    model: GPTModel
    optimizers: list[Optimizer]
    random: dict[str, Tensor]  # states of the generators that dropout draws from: "cpu", and "cuda" where it is used
    log_counts: Tensor | None = None  # [vocab_size]: added to the logits where a row is shared (see gptviz.shared_row)
    step: int = 0  # steps done
    tokens_seen: int = 0  # inputs of all batches, padding too
    groups: dict[str, list[nn.Parameter]] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = by_group(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device


def start(model: GPTModel, recipe: Recipe, shared_row: SharedRow | None = None) -> State:
    """The state before the first step. The parameters of `model` that have `requires_grad` are trained."""
    device = next(model.parameters()).device
    random = {kind: torch.Generator(kind).manual_seed(recipe.seed).get_state() for kind in {"cpu", device.type}}
    log_counts = None if shared_row is None else shared_row.log_counts.to(device)
    return State(model, make_optimizers(model, recipe), random, log_counts)


def train(state: State, data: Data, recipe: Recipe, stops: Iterable[int]) -> Iterator[Interval]:
    """Train until each of the rising `stops` in turn (in steps done), and tell what happened on the way there.

    The loop waits while its caller looks at an interval: to pause, ask later for the next; to end it, ask no more.
    Raises `DivergedError`.
    """
    for stop in stops:
        if stop <= state.step:
            continue
        begin, seen, losses = time.perf_counter(), state.tokens_seen, []
        with _training(state):
            for step in range(state.step, stop - 1):
                losses.append(_take_step(state, data, recipe, step))
            before = {name: [one.detach().clone() for one in group] for name, group in state.groups.items()}
            losses.append(_compute_gradients(state, data, recipe, stop - 1))
            gradients = {name: _norm([_gradient(one) for one in group]) for name, group in state.groups.items()}
            total = _update(state, recipe, stop - 1)
        loss = torch.stack(losses).mean().item()  # waits for a GPU, so that the clock is right
        seconds = time.perf_counter() - begin
        if not loss < torch.inf or not total < torch.inf:
            raise DivergedError(
                f"The loss became {loss} before step {stop}: take a smaller learning rate, or more warm-up."
            )
        ratios = {
            name: _norm([new.detach() - old for new, old in zip(state.groups[name], olds, strict=True)]) / _norm(olds)
            for name, olds in before.items()
        }
        rate, speed = learning_rate(stop - 1, recipe), (state.tokens_seen - seen) / seconds
        yield Interval(stop, loss, rate, total.item(), _numbers(gradients), _numbers(ratios), speed)


def _take_step(state: State, data: Data, recipe: Recipe, step: int) -> Tensor:
    loss = _compute_gradients(state, data, recipe, step)
    _update(state, recipe, step)
    return loss


def _compute_gradients(state: State, data: Data, recipe: Recipe, step: int) -> Tensor:
    """Gradients of the mean loss over all targets of the step's batches; gives that loss."""
    count = recipe.accumulated_batches
    batches = [data.batch(step * count + number) for number in range(count)]
    n_targets = max(1, sum(int((batch.targets != IGNORED).sum()) for batch in batches))
    total = torch.zeros((), device=state.device)
    for batch in batches:
        loss = loss_sum(state.model, batch, precision=recipe.precision, log_counts=state.log_counts) / n_targets
        loss.backward()
        total += loss.detach()
        state.tokens_seen += batch.inputs.numel()
    return total


def _update(state: State, recipe: Recipe, step: int) -> Tensor:
    """Change the weights by their gradients, and forget these; gives the gradients' length before clipping."""
    parameters = [parameter for group in state.groups.values() for parameter in group]
    if recipe.clip_norm is not None:
        norm = clip_grad_norm_(parameters, recipe.clip_norm)
    else:
        norm = get_total_norm([_gradient(parameter) for parameter in parameters])
    for optimizer in state.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        optimizer.step()
        optimizer.zero_grad()
    state.step = step + 1
    return norm


def loss_sum(model: nn.Module, batch: Batch, *, precision: str = "float32", log_counts: Tensor | None = None) -> Tensor:
    """Cross-entropy in nats, summed over the batch's targets that are not ignored."""
    device = next(model.parameters()).device
    inputs, targets = batch.inputs.to(device), batch.targets.to(device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
        logits = model(inputs)
    logits = logits.float().flatten(0, 1)
    if log_counts is not None:
        logits = logits + log_counts
    return F.cross_entropy(logits, targets.flatten(), ignore_index=IGNORED, reduction="sum")


@contextmanager
def _training(state: State) -> Iterator[None]:
    """The model in training mode, and torch's generators in the run's own states: other draws do not disturb these."""
    # With nothing to drop both modes compute the same, and attention is fused in evaluation mode.
    state.model.train(any(one.p > 0 for one in state.model.modules() if isinstance(one, nn.Dropout)))
    cuda = [state.device] if state.device.type == "cuda" else []
    with torch.random.fork_rng(cuda):
        torch.set_rng_state(state.random["cpu"])
        for device in cuda:
            torch.cuda.set_rng_state(state.random["cuda"], device)
        try:
            yield
        finally:
            state.random["cpu"] = torch.get_rng_state()
            for device in cuda:
                state.random["cuda"] = torch.cuda.get_rng_state(device)
            state.model.eval()


def _gradient(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _norm(tensors: list[Tensor]) -> Tensor:
    return get_total_norm(tensors)


def _numbers(tensors: dict[str, Tensor]) -> dict[str, float]:
    return {name: tensor.item() for name, tensor in tensors.items()}
