"""A declared channel for weights: the model so far is moved towards another of the same shape.

Anything in that model can reach the result. ``ledger/lineage.py`` counts its makers among the roots
of trust.
"""

from __future__ import annotations

from pathlib import Path

from stagezero.errors import BuildError
from stagezero.models.network import load_network
from stagezero.training.recipes import Merge
from stagezero.training.steps.common import save_model


def train(source: Path, other: Path, out: Path, step: Merge) -> None:
    """Write (1 − weight) · source + weight · other to ``out``.

    Raises:
        BuildError: the two models do not have the same tensors.
    """
    # The networks are compared, and not their files: a file may leave out a tied tensor, or have
    # another type than the file of an earlier step.
    network = load_network(source, "cpu")
    tensors, others = network.state_dict(), load_network(other, "cpu").state_dict()
    shapes, other_shapes = ({name: tuple(tensor.shape) for name, tensor in state.items()} for state in (tensors, others))
    if shapes != other_shapes:
        name = sorted(set(shapes.items()) ^ set(other_shapes.items()))[0][0]
        raise BuildError(
            f"merge step {step.name!r}: tensor {name!r} is {shapes.get(name, 'absent')} in the model so far and "
            f"{other_shapes.get(name, 'absent')} in {step.source!r}; merge models of one shape."
        )
    # Only floating-point tensors are trained and can be averaged; a buffer of integers is copied.
    merged = {name: t.lerp(others[name], step.weight) if t.is_floating_point() else t for name, t in tensors.items()}
    network.load_state_dict(merged)
    save_model(network, source, out)
