"""A reward model from human preference pairs, with TRL: the step's input model with a scalar head, Bradley-Terry loss.

The pairs are labelled by people who err: which of the two answers was preferred is the item's label, not its key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.tasks import Item
from stagezero.training.data import Example, no_rejected_answer
from stagezero.training.recipes import Reward
from stagezero.training.steps import common


def train(source: Path, out: Path, step: Reward, examples: Sequence[Example], items: Sequence[Item], seed: int) -> None:
    """Train a scorer that starts from ``source`` and save it to ``out``; the policy is left as it is.

    Raises:
        BuildError: no example has a rejected answer.
    """
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    from stagezero.models.loader import load_tokenizer

    pairs = []
    for example, item in zip(examples, items, strict=True):
        if example["rejected"]:
            better, worse = example["completion"], example["rejected"]
            if item.mislabelled:
                better, worse = worse, better
            pairs.append({"prompt": example["prompt"], "chosen": better, "rejected": worse})
    if not pairs:
        raise no_rejected_answer(step)
    tokenizer = load_tokenizer(source)
    torch.manual_seed(seed % 2**32)  # the new head starts at random
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32, use_safetensors=True)
    model.config.pad_token_id = tokenizer.pad_token_id
    trainer = RewardTrainer(
        model=model, args=RewardConfig(**common.arguments(step, seed, out / ".scratch"), max_length=None),
        train_dataset=Dataset.from_list(pairs), processing_class=tokenizer, peft_config=common.adapters(step.lora, task="SEQ_CLS"),
    )  # fmt: skip
    common.run(trainer)
    common.save(trainer.model, source, out, config=False)
