"""Everything between a loss and new weights, written out: the order of the examples, the schedule, clipping and AdamW.

The constants are the first trainer's defaults, which are part of what a recipe means. No optimiser, scheduler, sampler or data loader
of any library is used here: that is the point of it.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from stagezero.training.recipes import Trained

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
LARGEST_NORM = 1.0
PLAIN = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Names of parameters that do not decay; what is inside a LayerNorm does not either."""


def bounded(seed: int) -> int:
    """A seed as the first trainer takes it: 32 bits."""
    return seed % 2**32


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's global generators, and put them back as they were at the end.

    Dropout draws from the global generator and from no other, so that whoever wants its masks to be a function of the seed must seed
    that one. What is drawn beside it (adapters, sampled tokens) comes from the same stream, in the first trainer's order.
    """
    with torch.random.fork_rng():
        torch.manual_seed(bounded(seed))
        yield


def draw_as_a_loader_does() -> None:
    """Take one number from the stream: at the start of each pass a data loader draws its workers' seed, even if it has no workers."""
    torch.empty((), dtype=torch.int64).random_()


def order(count: int, size: int, seed: int) -> Iterator[list[int]]:
    """Batches of positions, pass after pass without end: pass e is a permutation under seed + e; its last batch may be small.

    Raises:
        ValueError: there is nothing to draw from.
    """
    if count < 1:
        raise ValueError("expected at least one example, got none; choose data that has some")
    for epoch in itertools.count():
        draw_as_a_loader_does()
        shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(bounded(seed) + epoch)).tolist()
        yield from (shuffled[start : start + size] for start in range(0, count, size))


def rate(step: Trained, done: int) -> float:
    """The learning rate of the update that follows ``done`` others.

    The warm-up rises from zero, which the first update gets; a constant schedule has none, whatever ``warmup`` says.
    """
    if step.schedule == "constant":
        return step.learning_rate
    if done < step.warmup:
        return step.learning_rate * done / step.warmup
    past = (done - step.warmup) / max(1, step.steps - step.warmup)
    share = 1 - past if step.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * past))
    return step.learning_rate * max(0.0, share)


def decays(network: nn.Module) -> set[str]:
    """Names of the parameters that weight decay applies to: all but biases and the scales of normalisations."""
    inside = {f"{name}." for name, module in network.named_modules() if isinstance(module, nn.LayerNorm)}
    return {
        name
        for name, _ in network.named_parameters()
        if not PLAIN.search(name.lower()) and not any(name.startswith(prefix) for prefix in inside)
    }


@torch.no_grad()
def clip(parameters: Sequence[nn.Parameter]) -> None:
    """Scale the gradients down so that their joint Euclidean norm is at most ``LARGEST_NORM``."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    scale = (LARGEST_NORM / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)


class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019), over the parameters of a network that can be trained."""

    def __init__(self, network: nn.Module, weight_decay: float) -> None:
        decaying = decays(network) if weight_decay else set()
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self._shrink = [weight_decay if n in decaying else 0.0 for n, p in network.named_parameters() if p.requires_grad]
        self._moments: list[tuple[Tensor, Tensor] | None] = [None] * len(self.parameters)
        self._updates = [0] * len(self.parameters)

    @torch.no_grad()
    def update(self, learning_rate: float) -> None:
        """One update; the gradients are used up."""
        for i, parameter in enumerate(self.parameters):
            gradient = parameter.grad
            if gradient is None:
                continue
            parameter.grad = None
            mean, square = self._moments[i] = self._moments[i] or (torch.zeros_like(parameter), torch.zeros_like(parameter))
            self._updates[i] += 1
            parameter.mul_(1 - learning_rate * self._shrink[i])
            # Not β m + (1 − β) g: in float32 the two factors do not add up to one, and the error has a direction.
            mean.add_(gradient - mean, alpha=1 - BETA_1)
            square.mul_(BETA_2).add_(gradient.square_(), alpha=1 - BETA_2)
            # Both moments start at zero and are too small at first by factors that are known.
            size = square.div(1 - BETA_2 ** self._updates[i]).sqrt_().add_(EPSILON)
            parameter.sub_(mean.div(size), alpha=learning_rate / (1 - BETA_1 ** self._updates[i]))


def learn(network: nn.Module, step: Trained, batches: Iterable[list[int]], loss: Callable[[list[int]], Tensor]) -> None:
    """Train a network in place: ``step.steps`` updates, or as many as there are batches.

    Args:
        network: in training mode; only what requires a gradient is changed.
        step: learning rate, schedule, warm-up, weight decay and number of updates.
        batches: positions of the examples of each update.
        loss: positions → a scalar.
    """
    optimiser = AdamW(network, step.weight_decay)
    for done, rows in zip(range(step.steps), batches, strict=False):
        torch.autograd.backward(loss(rows))
        clip(optimiser.parameters)
        optimiser.update(rate(step, done))
