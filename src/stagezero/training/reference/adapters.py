"""Low-rank adapters (Hu et al. 2021) on every linear layer: W + (alpha / rank) B A, with A drawn at random and B zero.

A is drawn as the first trainer's library draws it, in the order of the modules and with the draws it throws away, from the seed alone:
so adapters agree between the trainers as closely as full training does. Adapters are attached, trained and merged within one step;
no checkpoint ever holds one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stagezero.training.recipes import Lora, Trained
from stagezero.training.reference.optimise import learn, seeded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _drawn(rows: int, columns: int) -> Tensor:
    """A new linear layer's weights: uniform, bounded by 1/√columns."""
    return nn.init.kaiming_uniform_(torch.empty(rows, columns), a=math.sqrt(5))


class Adapted(nn.Module):
    """A linear layer and the low-rank matrix that is added to it. ``on`` switches the addition off for a reference's forward pass."""

    def __init__(self, layer: nn.Module, lora: Lora) -> None:
        super().__init__()
        self.layer = layer
        self.on = True
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self._transposed = not isinstance(layer, nn.Linear)  # GPT-2's Conv1D keeps inputs × outputs
        outputs, inputs = reversed(weight.shape) if self._transposed else weight.shape
        self._scale = lora.alpha / lora.rank
        _drawn(lora.rank, inputs)  # both matrices are drawn like any layer's, then the first again: only that one stays
        _drawn(outputs, lora.rank)
        self.down = nn.Parameter(_drawn(lora.rank, inputs).to(weight.device))
        self.up = nn.Parameter(torch.zeros(outputs, lora.rank, device=weight.device))

    def forward(self, inputs: Tensor) -> Tensor:
        """(…, inputs) → (…, outputs)."""
        plain: Tensor = self.layer(inputs)
        return plain + (inputs @ self.down.T) @ self.up.T * self._scale if self.on else plain

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """The layer itself, with the addition in its weights."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        added = self.up @ self.down * self._scale
        weight.add_(added.T if self._transposed else added)
        return self.layer


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def attach(network: PreTrainedModel, lora: Lora) -> None:
    """Freeze a network and put an adapter on every linear layer but its head; a scorer's new head is trained as it is.

    Draws from the global generator: call it under ``optimise.seeded``.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    head = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is None:
        head = getattr(network, "score", None) or getattr(network, "classifier", None)
        for parameter in head.parameters() if head is not None else ():
            parameter.requires_grad_(True)
    for name, module in [(n, m) for n, m in network.named_modules() if _is_linear(m) and m is not head]:
        network.set_submodule(name, Adapted(module, lora))


def merge(network: nn.Module) -> None:
    """Take every adapter off again, its addition kept in the weights. A network without adapters is left as it is."""
    for name, module in [(n, m) for n, m in network.named_modules() if isinstance(m, Adapted)]:
        network.set_submodule(name, module.merged())


@contextlib.contextmanager
def switched_off(network: nn.Module) -> Iterator[None]:
    """The network as it was before its adapters, for as long as the context lasts."""
    found = [module for module in network.modules() if isinstance(module, Adapted)]
    for module in found:
        module.on = False
    try:
        yield
    finally:
        for module in found:
            module.on = True


def fit(network: PreTrainedModel, step: Trained, batches: Iterable[list[int]], loss: Callable[[list[int]], Tensor], seed: int) -> None:
    """Train a network in place as a step says: through adapters where the step has them, which are merged at the end.

    The generators are seeded twice: the adapters' draws and the training's draws are two streams, as in the first trainer.
    """
    if step.lora is not None:
        with seeded(seed):
            attach(network, step.lora)
    network.train()
    with seeded(seed):
        learn(network, step, batches, loss)
    merge(network)
