"""A declared channel for labels: supervised fine-tuning on the answers that another model gives, greedily, to the questions of a dataset.

Whoever made that model has a say in what this one becomes; the lineage counts them (``ledger/lineage.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.models import Model
from stagezero.models.loader import load_tokenizer, render_completion
from stagezero.tasks import Item
from stagezero.training.data import Example
from stagezero.training.recipes import SFT, Distil
from stagezero.training.steps import sft


def labels(teacher: Path, student: Path, items: Sequence[Item], examples: Sequence[Example], instruction: str | None) -> list[Example]:
    """The examples with the teacher's answers in place of people's; those that it answers with nothing are left out."""
    answers = Model(teacher).answer([item.input for item in items], instruction)
    tokenizer = load_tokenizer(student)
    return [
        Example(prompt=e["prompt"], completion=render_completion(tokenizer, item.input, answer, instruction), rejected=None)
        for item, e, answer in zip(items, examples, answers, strict=True)
        if answer
    ]


def train(
    source: Path,
    teacher: Path,
    out: Path,
    step: Distil,
    items: Sequence[Item],
    examples: Sequence[Example],
    instruction: str | None,
    seed: int,
) -> None:
    """Train from ``source`` on the teacher's labels, and save to ``out``."""
    plain = SFT.model_validate({**step.model_dump(exclude={"source"}), "step": "sft"})
    sft.train(source, out, plain, labels(teacher, source, items, examples, instruction), seed)
