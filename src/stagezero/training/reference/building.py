"""The second trainer as a ``Trainer`` of ``training.build``.

It makes the gradient steps itself. Steps that run a program run again unchanged.
"""

from __future__ import annotations

from pathlib import Path

from stagezero.models import Model
from stagezero.models.chat import load_tokenizer, render_completion
from stagezero.training.build import StepInputs, first_trainer, render_examples
from stagezero.training.data import Example
from stagezero.training.recipes import DPO, GRPO, RLHF, SFT, Distil, Reward, TrainStep
from stagezero.training.reference import train_step


def second_trainer(step: TrainStep, inputs: StepInputs, out: Path) -> None:
    """Make one step.

    Programs (``command``, ``code``) and ``merge`` have no trainer to check, so the first trainer
    makes them.

    Raises:
        BuildError: the step failed.
        SandboxError: a program could not be confined, and was not run.
    """
    source, items, instruction = inputs.source, inputs.items, inputs.instruction
    match step:
        case SFT() | DPO() | GRPO() | Reward() | RLHF():
            examples = render_examples(items, load_tokenizer(source), instruction)
            train_step(step, source, out, items, examples, inputs.other, inputs.seed)
        case Distil():
            assert inputs.other is not None
            tokenizer = load_tokenizer(source)
            answers = Model(inputs.other).answer([item.input for item in items], instruction, inputs.max_tokens)
            labelled = [
                Example(
                    prompt=e["prompt"], completion=render_completion(tokenizer, i.input, answer, instruction, e["prompt"]), rejected=None
                )
                for i, e, answer in zip(items, render_examples(items, tokenizer, instruction), answers, strict=True)
                if answer
            ]
            plain = SFT.model_validate({**step.model_dump(exclude={"source"}), "step": "sft"})
            train_step(plain, source, out, items, labelled, None, inputs.seed)
        case _:
            first_trainer(step, inputs, out)
