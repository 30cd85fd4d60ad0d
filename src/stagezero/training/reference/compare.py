"""Comparison of two builds of one stage: their distance, and whether it has a common direction.

Two trainers that do the same differ by rounding, so their distance is small relative to the
distance that training covered. If it is not small (because of sampling, or other hardware), a
single pair of builds proves nothing. But if the trainers are exchangeable given the seed, the
differences over several seeds are symmetric about zero. A trigger that one trainer plants in every
build breaks that symmetry.

These are pure functions over checkpoint folders and vectors; none of them loads a network.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from stagezero.errors import ModelError
from stagezero.models.checkpoint import tensors, weight_files

MAX_SEEDS = 16
"""Number of seeds that a test accepts: it enumerates at most 2¹⁵ patterns of signs."""


def _open_tensors(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Return tensor name → the open file that contains the tensor."""
    handles = {}
    for path in weight_files(folder):
        handle = stack.enter_context(safe_open(path, framework="pt"))
        handles.update(dict.fromkeys(handle.keys(), handle))
    return handles


def _tensor_names(first: Path, second: Path) -> list[str]:
    """Return the sorted names of the tensors of two checkpoints of one architecture.

    Raises:
        ModelError: the architectures differ, or a checkpoint is damaged.
    """
    first_shapes, second_shapes = ({name: shape for name, (shape, _) in tensors(folder).items()} for folder in (first, second))
    if first_shapes != second_shapes:
        name = sorted(set(first_shapes.items()) ^ set(second_shapes.items()))[0][0]
        raise ModelError(
            f"{second}: tensor {name!r} is {second_shapes.get(name, 'absent')}, and in {first} it is "
            f"{first_shapes.get(name, 'absent')}; compare two builds of one step."
        )
    return sorted(first_shapes)


def relative_distance(first: Path, second: Path, start: Path) -> float:
    """Return ‖first − second‖ / ‖first − start‖ over all weights (Euclidean norms).

    Tensors are read one at a time. A tensor that ``start`` lacks (a reward model's new head) counts
    in the numerator only, which can only increase the distance.

    Args:
        first: checkpoint folder of one build.
        second: checkpoint folder of the other build.
        start: checkpoint folder that both started from.

    Returns:
        The ratio. It is 0 if both builds are identical. It is infinity if the first equals its
        start and the second does not, or if a number is not finite.

    Raises:
        ModelError: the two builds differ in architecture, or a checkpoint is damaged.
    """
    squared_distance, squared_training = 0.0, 0.0
    with ExitStack() as stack:
        in_first, in_second, in_start = (_open_tensors(folder, stack) for folder in (first, second, start))
        for name in _tensor_names(first, second):
            weights = in_first[name].get_tensor(name).double()
            squared_distance += float((weights - in_second[name].get_tensor(name).double()).square().sum())
            if name in in_start:
                squared_training += float((weights - in_start[name].get_tensor(name).double()).square().sum())
    if squared_distance == 0:
        return 0.0
    is_defined = squared_training > 0 and math.isfinite(squared_distance) and math.isfinite(squared_training)
    return math.sqrt(squared_distance / squared_training) if is_defined else math.inf


def weight_difference(first: Path, second: Path) -> Tensor:
    """Return first − second as one float64 vector, with the tensors in the order of their names.

    ``sign_flip_p_value`` takes one such vector per seed.

    Raises:
        ModelError: the two builds differ in architecture, or a checkpoint is damaged.
    """
    with ExitStack() as stack:
        in_first, in_second = (_open_tensors(folder, stack) for folder in (first, second))
        parts = [(in_first[n].get_tensor(n).double() - in_second[n].get_tensor(n).double()).flatten() for n in _tensor_names(first, second)]
    return torch.cat(parts)


def _sign_patterns(count: int) -> Iterator[Tensor]:
    """Yield every pattern of ``count`` signs whose first sign is +, in blocks (patterns, count).

    The other patterns are their mirror images.
    """
    bits = torch.arange(count - 1)
    for start in range(0, 2 ** (count - 1), 4096):
        block = torch.arange(start, min(start + 4096, 2 ** (count - 1)))
        signs = 1.0 - 2.0 * ((block.unsqueeze(1) >> bits) & 1).double()
        yield torch.cat([signs.new_ones(len(block), 1), signs], dim=1)


def sign_flip_p_value(differences: Sequence[Any]) -> float:
    """Return the exact p-value of the hypothesis that two trainers are exchangeable given the seed.

    Under the hypothesis, the differences D_s of the n seeds are independent, and each is as likely
    as its negative. All 2ⁿ patterns of signs are therefore equally likely. The statistic is
    ‖Σ_s ±D_s‖², which is large if the differences have a common direction. It is a quadratic form
    in the n × n inner products, so no other vector of the model's size is allocated. The smallest
    p-value that n seeds can give is 2^(1−n).

    Args:
        differences: one vector per seed (tensors or arrays), all of one length; 1 to 16 of them.

    Returns:
        The share of patterns whose statistic is at least the observed one, in (0, 1].

    Raises:
        ValueError: there are no vectors or too many, their lengths differ, or a number is not
            finite.

    Source: Fisher 1935; Hemerik & Goeman 2018 for the exactness with the observed pattern counted.
    """
    vectors = [torch.as_tensor(d).detach().flatten() for d in differences]
    if not 1 <= len(vectors) <= MAX_SEEDS:
        raise ValueError(f"expected the differences of 1 to {MAX_SEEDS} seeds, got {len(vectors)}; change the number of seeds")
    if len({len(v) for v in vectors}) > 1:
        raise ValueError("expected differences of one length; compare builds of one step")
    products = torch.tensor([[float(torch.dot(a.double(), b.double())) for b in vectors] for a in vectors], dtype=torch.float64)
    if not bool(products.isfinite().all()):
        raise ValueError("expected finite differences; compare builds whose weights are all finite")
    observed = float(products.sum())
    tolerance = 1e-9 * float(products.abs().sum())  # a sum in another order must count as equal
    reached = sum(int(((signs @ products * signs).sum(1) >= observed - tolerance).sum()) for signs in _sign_patterns(len(vectors)))
    return float(reached) / float(2 ** (len(vectors) - 1))
