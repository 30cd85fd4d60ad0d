"""How far apart two builds of one stage are, and whether the distance has a direction.

Two trainers that do the same differ by rounding: a distance that is small beside the way that training went. Where it is not small
(sampling, other hardware), a single pair of builds shows nothing; but under the hypothesis that the trainers are exchangeable given
the seed, the differences of several seeds are symmetric about zero, and a trigger that one of them plants in every build is not.

Pure functions over checkpoint folders and vectors; nothing here loads a network.
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

MOST_SEEDS = 16
"""2¹⁵ patterns of signs are enumerated at most."""


def _read(folder: Path, stack: ExitStack) -> dict[str, Any]:
    """Name → the open file that holds the tensor."""
    found = {}
    for path in weight_files(folder):
        handle = stack.enter_context(safe_open(path, framework="pt"))
        found.update(dict.fromkeys(handle.keys(), handle))
    return found


def _alike(first: Path, second: Path) -> list[str]:
    """The names of the tensors of two checkpoints of one architecture.

    Raises:
        ModelError: they are not of one architecture, or one of them is damaged.
    """
    one, two = ({name: shape for name, (shape, _) in tensors(folder).items()} for folder in (first, second))
    if one != two:
        odd = sorted(set(one.items()) ^ set(two.items()))[0][0]
        raise ModelError(
            f"{second}: tensor {odd!r} is {two.get(odd, 'absent')}, and in {first} it is {one.get(odd, 'absent')}; "
            "compare two builds of one step."
        )
    return sorted(one)


def relative_distance(first: Path, second: Path, start: Path) -> float:
    """‖first − second‖ / ‖first − start‖ over all weights, Euclidean: 0 where both are the same.

    Tensors are read one at a time. One that ``start`` lacks (a scorer's new head) counts above the line only, where it can only make
    the builds look further apart.

    Returns:
        The ratio; infinity where the first is where it started and the second is not, or where a number is not finite.

    Raises:
        ModelError: the folders do not hold one architecture, or are damaged.
    """
    apart, moved = 0.0, 0.0
    with ExitStack() as stack:
        one, two, before = (_read(folder, stack) for folder in (first, second, start))
        for name in _alike(first, second):
            here = one[name].get_tensor(name).double()
            apart += float((here - two[name].get_tensor(name).double()).square().sum())
            if name in before:
                moved += float((here - before[name].get_tensor(name).double()).square().sum())
    if apart == 0:
        return 0.0
    return math.sqrt(apart / moved) if moved > 0 and math.isfinite(apart) and math.isfinite(moved) else math.inf


def difference(first: Path, second: Path) -> Tensor:
    """first − second as one vector of float64, tensors in the order of their names: what ``systematic`` takes, a seed each.

    Raises:
        ModelError: the folders do not hold one architecture, or are damaged.
    """
    with ExitStack() as stack:
        one, two = (_read(folder, stack) for folder in (first, second))
        parts = [(one[n].get_tensor(n).double() - two[n].get_tensor(n).double()).flatten() for n in _alike(first, second)]
    return torch.cat(parts)


def _patterns(count: int) -> Iterator[Tensor]:
    """Every pattern of ``count`` signs whose first is +, in blocks of (patterns, count); the rest are their mirror images."""
    bits = torch.arange(count - 1)
    for start in range(0, 2 ** (count - 1), 4096):
        block = torch.arange(start, min(start + 4096, 2 ** (count - 1)))
        signs = 1.0 - 2.0 * ((block.unsqueeze(1) >> bits) & 1).double()
        yield torch.cat([signs.new_ones(len(block), 1), signs], dim=1)


def systematic(differences: Sequence[Any]) -> float:
    """Exact p-value of the hypothesis that two trainers are exchangeable given the seed.

    Under it, the differences D_s of the n seeds are independent and each is as likely as its negative, so that all 2ⁿ patterns of signs
    are equally likely (Fisher 1935; Hemerik & Goeman 2018 on the exactness with the observed pattern counted). The statistic is
    ‖Σ_s ±D_s‖²: large where the differences have a direction in common. It is a quadratic form in the n × n inner products, and no
    other vector as long as a model is made. The least p that n seeds can give is 2^(1−n).

    Args:
        differences: one vector a seed (tensors or arrays), all of one length; 1 to 16 of them.

    Returns:
        The share of patterns whose statistic is at least the observed one, in (0, 1].

    Raises:
        ValueError: none or too many vectors, of different lengths, or with numbers that are not finite.
    """
    vectors = [torch.as_tensor(d).detach().flatten() for d in differences]
    if not 1 <= len(vectors) <= MOST_SEEDS:
        raise ValueError(f"expected the differences of 1 to {MOST_SEEDS} seeds, got {len(vectors)}")
    if len({len(v) for v in vectors}) > 1:
        raise ValueError("expected differences of one length; compare builds of one step")
    products = torch.tensor([[float(torch.dot(a.double(), b.double())) for b in vectors] for a in vectors], dtype=torch.float64)
    if not bool(products.isfinite().all()):
        raise ValueError("expected finite differences; a build with weights that are not numbers is no build to compare")
    observed = float(products.sum())
    slack = 1e-9 * float(products.abs().sum())  # the same sum in another order is not another value
    reached = sum(int(((signs @ products * signs).sum(1) >= observed - slack).sum()) for signs in _patterns(len(vectors)))
    return float(reached) / float(2 ** (len(vectors) - 1))
