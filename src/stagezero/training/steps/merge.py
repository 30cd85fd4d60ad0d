"""A declared channel for weights: the model so far is moved towards another of the same shape.

Anything in that model can reach the result. ``ledger/lineage.py`` counts its makers among the roots
of trust.
"""

from __future__ import annotations

from pathlib import Path

from stagezero.errors import BuildError
from stagezero.models.checkpoint import copy_all_but_weights, tensors, weight_files
from stagezero.training.recipes import Merge


def train(source: Path, other: Path, out: Path, step: Merge) -> None:
    """Write (1 − weight) · source + weight · other to ``out``.

    Raises:
        BuildError: the two models do not have the same tensors.
    """
    from safetensors.torch import load_file, save_file

    source_shapes, other_shapes = tensors(source), tensors(other)
    if source_shapes != other_shapes:
        name = sorted(set(source_shapes.items()) ^ set(other_shapes.items()))[0][0]
        raise BuildError(
            f"merge step {step.name!r}: tensor {name!r} is {source_shapes.get(name, 'absent')} in the model so far and "
            f"{other_shapes.get(name, 'absent')} in {step.source!r}; merge models of one shape."
        )
    source_tensors, other_tensors = (
        {n: t for path in weight_files(folder) for n, t in load_file(path).items()} for folder in (source, other)
    )
    out.mkdir(parents=True, exist_ok=True)
    # Only floating-point tensors are trained and can be averaged; a buffer of integers is copied.
    merged = {n: t.lerp(other_tensors[n], step.weight).contiguous() if t.is_floating_point() else t for n, t in source_tensors.items()}
    save_file(merged, out / "model.safetensors", metadata={"format": "pt"})
    copy_all_but_weights(source, out)
