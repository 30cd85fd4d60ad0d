"""A declared channel for labels: supervised fine-tuning on another model's greedy answers.

The maker of that model influences this one. ``ledger/lineage.py`` counts them among the roots of
trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.models import Model
from stagezero.models.chat import load_tokenizer, render_completion
from stagezero.tasks import Item
from stagezero.training.data import Example
from stagezero.training.recipes import SFT, Distil
from stagezero.training.steps import sft


def label_examples(
    teacher: Path, student: Path, items: Sequence[Item], examples: Sequence[Example], instruction: str | None, max_tokens: int
) -> list[Example]:
    """Return the examples with the teacher's answers in place of people's answers.

    Examples that the teacher answers with an empty text are left out.

    Args:
        teacher: checkpoint folder of the model that answers.
        student: checkpoint folder of the model that is trained; its tokenizer renders the answers.
        items: the items behind ``examples``, in the same order.
        examples: rendered prompts and answers.
        instruction: the suite's system message; None for no system message.
        max_tokens: most tokens of an answer.
    """
    answers = Model(teacher).answer([item.input for item in items], instruction, max_tokens)
    tokenizer = load_tokenizer(student)
    return [
        Example(prompt=e["prompt"], completion=render_completion(tokenizer, item.input, answer, instruction, e["prompt"]), rejected=None)
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
    max_tokens: int,
) -> None:
    """Train from ``source`` on the teacher's labels, and save to ``out``.

    ``label_examples`` describes the other arguments.
    """
    plain = SFT.model_validate({**step.model_dump(exclude={"source"}), "step": "sft"})
    sft.train(source, out, plain, label_examples(teacher, source, items, examples, instruction, max_tokens), seed)
