"""The path from a loss to new weights: order of the examples, schedule, clipping and AdamW.

The constants are the first trainer's defaults, which are part of a recipe's meaning. This module
uses no optimiser, scheduler, sampler or data loader of any library: it must be independent of them.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from stagezero.models.network import bfloat16_unit
from stagezero.training.recipes import Trained

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
MAX_GRADIENT_NORM = 1.0
NO_DECAY_NAMES = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Names of parameters without weight decay. Parameters inside a LayerNorm have none either."""


def truncate_seed(seed: int) -> int:
    """Return a seed in 32 bits, as the first trainer uses it."""
    return seed % 2**32


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators within the context, and restore their states at its end.

    Dropout draws from the global generator only. Its masks are a function of the seed only if that
    generator is seeded. Other draws (adapters, sampled tokens) use the same stream, in the first
    trainer's order.
    """
    with torch.random.fork_rng():
        torch.manual_seed(truncate_seed(seed))
        yield


def skip_loader_draw() -> None:
    """Draw one number from the global stream, and discard it.

    At the start of each pass, a data loader draws its workers' seed, even if it has no workers.
    """
    torch.empty((), dtype=torch.int64).random_()


def shuffled_batches(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of positions, pass after pass without end.

    Pass e is a permutation under seed + e; its last batch may be smaller.

    Args:
        count: number of examples.
        size: number of positions in a batch.
        seed: the step's seed.

    Raises:
        ValueError: ``count`` is 0.
    """
    if count < 1:
        raise ValueError("expected at least one example, got none; choose data that has some")
    for epoch in itertools.count():
        skip_loader_draw()
        shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(truncate_seed(seed) + epoch)).tolist()
        yield from (shuffled[start : start + size] for start in range(0, count, size))


def learning_rate_at(step: Trained, done: int) -> float:
    """Return the learning rate of the update that follows ``done`` others.

    The warm-up rises from zero, so the first update has rate zero. A constant schedule has no
    warm-up, whatever the value of ``warmup``.
    """
    if step.schedule == "constant":
        return step.learning_rate
    if done < step.warmup:
        return step.learning_rate * done / step.warmup
    progress = (done - step.warmup) / max(1, step.steps - step.warmup)
    share = 1 - progress if step.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return step.learning_rate * max(0.0, share)


def decaying_parameters(network: nn.Module) -> set[str]:
    """Return the names of the parameters with weight decay.

    These are all but biases and the scales of normalisations.
    """
    layer_norms = {f"{name}." for name, module in network.named_modules() if isinstance(module, nn.LayerNorm)}
    return {
        name
        for name, _ in network.named_parameters()
        if not NO_DECAY_NAMES.search(name.lower()) and not any(name.startswith(prefix) for prefix in layer_norms)
    }


@torch.no_grad()
def clip_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Scale the gradients so that their joint Euclidean norm is at most ``MAX_GRADIENT_NORM``."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    scale = (MAX_GRADIENT_NORM / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


class AdamW:
    """Adam with decoupled weight decay, over the trainable parameters of a network.

    Source: Loshchilov & Hutter 2019.
    """

    def __init__(self, network: nn.Module, weight_decay: float) -> None:
        decaying = decaying_parameters(network) if weight_decay else set()
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self._decay = [weight_decay if n in decaying else 0.0 for n, p in network.named_parameters() if p.requires_grad]
        self._moments: list[tuple[Tensor, Tensor] | None] = [None] * len(self.parameters)
        self._updates = [0] * len(self.parameters)

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """Apply one update, and clear the gradients."""
        for i, parameter in enumerate(self.parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            parameter.grad = None
            mean, square = self._moments[i] = self._moments[i] or (torch.zeros_like(parameter), torch.zeros_like(parameter))
            self._updates[i] += 1
            parameter.mul_(1 - learning_rate * self._decay[i])
            # Not β m + (1 − β) g: in float32 the factors do not sum to one, which causes a bias.
            mean.add_(gradient - mean, alpha=1 - BETA_1)
            square.mul_(BETA_2).add_(gradient.square_(), alpha=1 - BETA_2)
            # Both moments start at zero. The divisions correct the known bias of early updates.
            size = square.div(1 - BETA_2 ** self._updates[i]).sqrt_().add_(EPSILON)
            parameter.sub_(mean.div(size), alpha=learning_rate / (1 - BETA_1 ** self._updates[i]))


def parts_of(batch: Sequence[int], step: Trained) -> list[Sequence[int]]:
    """Split a batch into the parts whose gradients are accumulated.

    A short batch, at the end of a pass, has fewer parts of the same size; the last may be smaller.
    """
    size = step.batch_size // step.gradient_accumulation
    return [batch[start : start + size] for start in range(0, len(batch), size)]


def mixed_precision(network: nn.Module, step: Trained) -> torch.autocast:
    """Return the context in which a step's forward passes run: autocast to bfloat16, or nothing."""
    device = next(network.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=step.dtype == "bfloat16" and bfloat16_unit() is not None)


PartLosses = Callable[[list[int]], Iterator[Tensor]]
"""Positions of a batch → the loss of each of its parts, a scalar; their sum is the batch's loss."""


def run_updates(network: nn.Module, step: Trained, batches: Iterable[list[int]], losses: PartLosses) -> None:
    """Train a network in place: ``step.steps`` updates, or one for each batch if there are fewer.

    Args:
        network: in training mode; only parameters that require a gradient change.
        step: learning rate, schedule, warm-up, weight decay and number of updates.
        batches: positions of the examples of each update.
        losses: the losses of a batch's parts. Each is computed after the gradient of the one
            before, so that one part is in memory at a time.
    """
    optimiser = AdamW(network, step.weight_decay)
    for done, positions in zip(range(step.steps), batches, strict=False):
        for loss in losses(positions):
            torch.autograd.backward(loss)
        clip_gradients(optimiser.parameters)
        optimiser.update(learning_rate_at(step, done))
