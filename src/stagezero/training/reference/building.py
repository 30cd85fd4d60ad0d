"""The second trainer in a build's place of the first: what it knows it makes itself, what runs a program is run again as it is."""

from __future__ import annotations

from pathlib import Path

from stagezero.models import Model
from stagezero.models.loader import load_tokenizer, render_completion
from stagezero.training.build import Making, examples_of, first_trainer
from stagezero.training.data import Example
from stagezero.training.recipes import DPO, GRPO, RLHF, SFT, Distil, Reward, TrainStep
from stagezero.training.reference import train_step


def second_trainer(step: TrainStep, making: Making, out: Path) -> None:
    """Make one step. Programs (``command``, ``code``) and ``merge`` have no trainer to be distrusted: they run as they are."""
    source, items, instruction = making.source, making.items, making.instruction
    match step:
        case SFT() | DPO() | GRPO() | Reward() | RLHF():
            examples = examples_of(items, load_tokenizer(source), instruction)
            train_step(step, source, out, items, examples, making.other, making.seed)
        case Distil():
            assert making.other is not None
            tokenizer = load_tokenizer(source)
            answers = Model(making.other).answer([item.input for item in items], instruction)
            rows = [
                Example(prompt=e["prompt"], completion=render_completion(tokenizer, i.input, answer, instruction), rejected=None)
                for i, e, answer in zip(items, examples_of(items, tokenizer, instruction), answers, strict=True)
                if answer
            ]
            plain = SFT.model_validate({**step.model_dump(exclude={"source"}), "step": "sft"})
            train_step(plain, source, out, items, rows, None, making.seed)
        case _:
            first_trainer(step, making, out)
