"""A declared channel for weights: the model so far, moved a part of the way to another of the same shape.

Nothing of that model is hidden from what comes out; the lineage counts whoever made it (``ledger/lineage.py``).
"""

from __future__ import annotations

from pathlib import Path

from stagezero.errors import BuildError
from stagezero.models.checkpoint import copy_all_but_weights, tensors, weight_files
from stagezero.training.recipes import Merge


def train(source: Path, other: Path, out: Path, step: Merge) -> None:
    """Write (1 − weight) · source + weight · other to ``out``.

    Raises:
        BuildError: the two have not the same tensors.
    """
    from safetensors.torch import load_file, save_file

    before, theirs = tensors(source), tensors(other)
    if before != theirs:
        odd = sorted(set(before.items()) ^ set(theirs.items()))[0][0]
        raise BuildError(
            f"merge step {step.name!r}: tensor {odd!r} is {before.get(odd, 'absent')} here and {theirs.get(odd, 'absent')} "
            f"in {step.source!r}; merge models of one shape."
        )
    ours, others = ({n: t for path in weight_files(folder) for n, t in load_file(path).items()} for folder in (source, other))
    out.mkdir(parents=True, exist_ok=True)
    # Only numbers that were trained can be averaged; a buffer of integers stays as it is.
    made = {n: ours[n].lerp(others[n], step.weight).contiguous() if ours[n].is_floating_point() else ours[n] for n in ours}
    save_file(made, out / "model.safetensors", metadata={"format": "pt"})
    copy_all_but_weights(source, out)
