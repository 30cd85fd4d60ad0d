"""Low-rank adapters (Hu et al. 2021) on linear layers: W + (alpha / rank) B A.

A is drawn at random and B is zero. A is drawn from the seed alone as the first trainer's library
draws it: in the order of the modules, and with the draws that the library discards. Adapters
therefore agree between the trainers as closely as full training does. They are attached, trained
and merged within one step; no checkpoint ever contains one.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stagezero.training.layers import adapted_layers, output_head
from stagezero.training.recipes import Lora, Trained
from stagezero.training.reference.network import set_checkpointing
from stagezero.training.reference.optimise import PartLosses, run_updates, seeded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _draw_weights(rows: int, columns: int) -> Tensor:
    """Draw a new linear layer's weights: uniform, bounded by 1/√columns. Shape (rows, columns)."""
    return nn.init.kaiming_uniform_(torch.empty(rows, columns), a=math.sqrt(5))


class AdaptedLayer(nn.Module):
    """A linear layer with the low-rank matrix that is added to it.

    If ``enabled`` is False, the matrix is not added; a reference's forward pass needs this.
    """

    def __init__(self, layer: nn.Module, lora: Lora) -> None:
        super().__init__()
        self.layer = layer
        self.enabled = True
        weight = layer.weight
        assert isinstance(weight, Tensor)
        self._transposed = not isinstance(layer, nn.Linear)  # GPT-2's Conv1D has shape (inputs, outputs)
        outputs, inputs = reversed(weight.shape) if self._transposed else weight.shape
        self._scale = lora.alpha / lora.rank
        # The first trainer's library draws both matrices like any layer's, and then the first one
        # again. Only the last draw is used; the others advance the stream of random numbers.
        _draw_weights(lora.rank, inputs)
        _draw_weights(outputs, lora.rank)
        self.down = nn.Parameter(_draw_weights(lora.rank, inputs).to(weight.device))
        self.up = nn.Parameter(torch.zeros(outputs, lora.rank, device=weight.device))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the layer's output: (…, inputs) → (…, outputs)."""
        plain: Tensor = self.layer(inputs)
        return plain + (inputs @ self.down.T) @ self.up.T * self._scale if self.enabled else plain

    @torch.no_grad()
    def merged(self) -> nn.Module:
        """Add the low-rank matrix to the layer's own weights, and return the layer."""
        weight = self.layer.weight
        assert isinstance(weight, Tensor)
        added = self.up @ self.down * self._scale
        weight.add_(added.T if self._transposed else added)
        return self.layer


def attach(network: PreTrainedModel, lora: Lora) -> None:
    """Freeze a network, and put an adapter on its linear layers except the head.

    A reward model's new head gets no adapter: its weights are trained directly. Draws from the
    global generator: call it under ``optimise.seeded``.
    """
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    head = output_head(network)
    is_new = network.get_output_embeddings() is None  # type: ignore[no-untyped-call]
    for parameter in head.parameters() if head is not None and is_new else ():
        parameter.requires_grad_(True)
    for name, module in adapted_layers(network, lora):
        network.set_submodule(name, AdaptedLayer(module, lora))


def merge(network: nn.Module) -> None:
    """Merge every adapter into its layer's weights, and remove it.

    A network without adapters is not changed.
    """
    for name, module in [(n, m) for n, m in network.named_modules() if isinstance(m, AdaptedLayer)]:
        network.set_submodule(name, module.merged())


@contextlib.contextmanager
def disabled(network: nn.Module) -> Iterator[None]:
    """Disable all adapters of a network within the context."""
    layers = [module for module in network.modules() if isinstance(module, AdaptedLayer)]
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


def fit(network: PreTrainedModel, step: Trained, batches: Iterable[list[int]], losses: PartLosses, seed: int) -> None:
    """Train a network in place; if the step has adapters, train these and merge them at the end.

    The generators are seeded twice: the adapters' draws and the training's draws are two streams,
    as in the first trainer. ``optimise.run_updates`` describes the arguments.
    """
    if step.lora is not None:
        with seeded(seed):
            attach(network, step.lora)
    network.train()
    set_checkpointing(network, step.gradient_checkpointing)
    with seeded(seed):
        run_updates(network, step, batches, losses)
    set_checkpointing(network, False)
    merge(network)
