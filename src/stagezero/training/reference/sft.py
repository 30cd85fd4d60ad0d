"""Supervised fine-tuning: the mean negative log-probability of the answers' tokens, prompts left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from stagezero.errors import BuildError
from stagezero.training.data import Example
from stagezero.training.recipes import SFT
from stagezero.training.reference import adapters
from stagezero.training.reference.network import batch_of, load, log_probabilities, rows_of, save
from stagezero.training.reference.optimise import order


def train(source: Path, out: Path, step: SFT, examples: Sequence[Example], seed: int) -> None:
    """Train from ``source`` and save to ``out``.

    Raises:
        BuildError: there is no example.
    """
    if not examples:
        raise BuildError(f"sft step {step.name!r}: dataset {step.data!r} has no example; choose items that give some.")
    network, tokenizer = load(source)
    (rows,) = rows_of(tokenizer, [e["prompt"] for e in examples], [e["completion"] for e in examples])
    pad = tokenizer.pad_token_id

    def loss(batch: list[int]) -> Tensor:
        found, _ = log_probabilities(network, *batch_of([rows[i] for i in batch], pad))
        return -found.sum() / max(1, len(found))

    adapters.fit(network, step, order(len(rows), step.batch_size, seed), loss, seed)
    save(network, source, out)
