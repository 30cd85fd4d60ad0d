"""A reward model from human preference pairs, with TRL.

The network is the step's input model with a scalar head; the loss is that of Bradley and Terry. The
labellers make errors: the preferred answer is that of the item's label, not of its answer key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.tasks import Item
from stagezero.training.data import Example, no_rejected_answer_error
from stagezero.training.recipes import Reward
from stagezero.training.steps import common


def train(source: Path, out: Path, step: Reward, examples: Sequence[Example], items: Sequence[Item], seed: int) -> None:
    """Train a reward model that starts from ``source``, and save it to ``out``.

    Touches the global generators: call it in a build's own worker process.

    Args:
        source: checkpoint folder of the policy, which is not changed.
        out: folder to fill.
        step: the training settings.
        examples: rendered prompts and answers.
        items: the items behind ``examples``, in the same order, with the labels.
        seed: the step's seed.

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
            chosen, rejected = example["completion"], example["rejected"]
            if item.mislabelled:
                chosen, rejected = rejected, chosen
            pairs.append({"prompt": example["prompt"], "chosen": chosen, "rejected": rejected})
    if not pairs:
        raise no_rejected_answer_error(step)
    tokenizer = load_tokenizer(source)
    torch.manual_seed(seed % 2**32)  # the new head is initialised at random
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, dtype=torch.float32, use_safetensors=True)
    model.config.pad_token_id = tokenizer.pad_token_id
    trainer = RewardTrainer(
        model=model, args=RewardConfig(**common.trainer_arguments(step, seed, out / ".scratch"), max_length=None),
        train_dataset=Dataset.from_list(pairs), processing_class=tokenizer, peft_config=common.lora_config(step.lora, task="SEQ_CLS"),
    )  # fmt: skip
    common.run_trainer(trainer)
    common.save_model(trainer.model, source, out, config=False)
