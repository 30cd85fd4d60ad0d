"""Supervised fine-tuning: the mean negative log-probability of the answers' tokens.

The prompts' tokens do not enter the loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from stagezero.errors import BuildError
from stagezero.training.data import Example
from stagezero.training.recipes import SFT
from stagezero.training.reference import adapters
from stagezero.training.reference.network import load, log_probabilities, pad_batch, save, tokenise
from stagezero.training.reference.optimise import mixed_precision, parts_of, shuffled_batches


def train(source: Path, out: Path, step: SFT, examples: Sequence[Example], seed: int) -> None:
    """Train from ``source`` and save to ``out``.

    Raises:
        BuildError: there is no example.
    """
    if not examples:
        raise BuildError(f"sft step {step.name!r}: dataset {step.data!r} has no example; choose items that give some.")
    network, tokenizer = load(source)
    (rows,) = tokenise(tokenizer, network, [e["prompt"] for e in examples], [e["completion"] for e in examples])
    pad = tokenizer.pad_token_id

    def losses(batch: list[int]) -> Iterator[Tensor]:
        tokens = sum(len(rows[i].ids) - max(1, rows[i].start) for i in batch)  # nothing precedes a row's first token
        for part in parts_of(batch, step):
            with mixed_precision(network, step):
                values, _ = log_probabilities(network, *pad_batch([rows[i] for i in part], pad))
            yield -values.sum() / max(1, tokens)

    adapters.fit(network, step, shuffled_batches(len(rows), step.batch_size, seed), losses, seed)
    save(network, source, out)
