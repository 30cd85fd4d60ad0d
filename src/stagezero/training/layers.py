"""The layers of a network that low-rank adapters are attached to; both trainers use this module."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stagezero.errors import BuildError

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from stagezero.training.recipes import Lora


def _is_linear(module: nn.Module) -> bool:
    from torch import nn

    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's linear layer


def output_head(network: PreTrainedModel) -> nn.Module | None:
    """Return the head: of a language model over the vocabulary, of a reward model its score."""
    head: nn.Module | None = network.get_output_embeddings()  # type: ignore[no-untyped-call]
    return head if head is not None else getattr(network, "score", None) or getattr(network, "classifier", None)


def adapted_layers(network: PreTrainedModel, lora: Lora) -> list[tuple[str, nn.Module]]:
    """Return name and module of every layer that gets an adapter, in the network's order.

    Raises:
        BuildError: no linear layer has the name of a target.
    """
    head = output_head(network)
    linear = [(name, module) for name, module in network.named_modules() if _is_linear(module) and module is not head]
    if lora.targets is None:
        return linear
    short_names = sorted({name.rpartition(".")[2] for name, _ in linear})
    for target in lora.targets:
        if not any(_has_name(name, target) for name, _ in linear):
            raise BuildError(
                f"lora: 'targets' names {target!r:.80}, which is no linear layer of this model; its linear layers are: "
                f"{', '.join(short_names)}; correct 'targets'."
            )
    return [(name, module) for name, module in linear if any(_has_name(name, target) for target in lora.targets)]


def _has_name(name: str, target: str) -> bool:
    """Return whether a module's full name is, or ends with, a target."""
    return name == target or name.endswith(f".{target}")
