"""Supervised fine-tuning with TRL. Only the tokens of the answers enter the loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.training.data import Example
from stagezero.training.recipes import SFT
from stagezero.training.steps import common


def train(source: Path, out: Path, step: SFT, examples: Sequence[Example], seed: int) -> None:
    """Train from ``source`` and save to ``out``.

    Touches the global generators: call it in a build's own worker process.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = common.load_model(source)
    ((heads, tails),) = common.encode_examples(tokenizer, model, [e["prompt"] for e in examples], [e["completion"] for e in examples])
    rows = Dataset.from_list(
        [{"input_ids": head + tail, "completion_mask": [0] * len(head) + [1] * len(tail)} for head, tail in zip(heads, tails, strict=True)]
    )
    trainer = SFTTrainer(
        model=model, args=SFTConfig(**common.trainer_arguments(step, seed, out / ".scratch"), max_length=None, completion_only_loss=True),
        train_dataset=rows, processing_class=tokenizer, peft_config=common.lora_config(step.lora, model),
    )  # fmt: skip
    common.run_trainer(trainer)
    common.save_model(trainer.model, source, out)
