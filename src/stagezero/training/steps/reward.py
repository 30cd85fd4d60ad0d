"""A reward model from human preference pairs, with TRL.

The network is the step's input model with a scalar head; the loss is that of Bradley and Terry. The
labellers make errors: the preferred answer is that of the item's label, not of its answer key.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.tasks import Item
from stagezero.training.data import Example, no_rejected_answer_error, preference_pairs
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
    from trl import RewardConfig, RewardTrainer

    from stagezero.models.chat import load_tokenizer
    from stagezero.models.network import load_reward_network

    pairs = []
    for example, item in zip(examples, items, strict=True):
        for _, rejected in preference_pairs([example]):
            answers = (example["completion"], rejected)
            pairs.append((example["prompt"], answers[item.mislabelled], answers[not item.mislabelled]))
    if not pairs:
        raise no_rejected_answer_error(step)
    tokenizer = load_tokenizer(source)
    torch.manual_seed(seed % 2**32)  # the new head is initialised at random
    model = load_reward_network(source)
    model.config.pad_token_id = tokenizer.pad_token_id
    encoded = common.encode_examples(tokenizer, model, *([pair[i] for pair in pairs] for i in range(3)))
    chosen_rows, rejected_rows = ([head + tail for head, tail in zip(*rows, strict=True)] for rows in encoded)
    trainer = RewardTrainer(
        model=model, args=RewardConfig(**common.trainer_arguments(step, seed, out / ".scratch"), max_length=None),
        train_dataset=Dataset.from_list([{"chosen_ids": c, "rejected_ids": r} for c, r in zip(chosen_rows, rejected_rows, strict=True)]),
        processing_class=tokenizer, peft_config=common.lora_config(step.lora, model, task="SEQ_CLS"),
    )  # fmt: skip
    common.run_trainer(trainer)
    common.save_model(trainer.model, source, out, config=False)
