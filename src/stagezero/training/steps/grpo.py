"""Group-relative policy optimisation with TRL.

A step samples several answers to a question, scores each with a reward, and makes the better ones
more likely. Two steps share this code: ``grpo`` takes rewards from the task's own checker, ``rlhf``
from a reward model that a ``reward`` step trained on human preference pairs. Both rewards can be
hacked, so the trained model is tested like that of any other idea.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stagezero.models.chat import encode
from stagezero.models.network import check_rows
from stagezero.tasks import Item, score
from stagezero.training.data import Example, equal_rewards_error
from stagezero.training.recipes import GRPO, RLHF
from stagezero.training.steps import common

RewardFunction = Callable[[Sequence[str], Sequence[str], Sequence[Sequence[int]], Sequence[int]], list[float]]
"""(prompts, answers without stop token, the answers' tokens, positions in the dataset) → one reward
each."""


def checker_rewards(step: GRPO, items: Sequence[Item]) -> RewardFunction:
    """Return the reward function of the task's checker, with the step's payoff for each outcome."""
    pays = step.pays.model_dump()
    return lambda _, answers, __, rows: [float(pays[score(items[i], answer)]) for answer, i in zip(answers, rows, strict=True)]


def model_rewards(reward_model: Path) -> RewardFunction:
    """Return the reward function of a reward model.

    The model's output is read at the end of the answer, as in its training.

    Args:
        reward_model: checkpoint folder of the reward model, whose tokenizer is the policy's.
    """
    import torch

    from stagezero.models.chat import answer_end, load_tokenizer, with_answer_end
    from stagezero.models.network import load_reward_network

    network = load_reward_network(reward_model)
    tokenizer = load_tokenizer(reward_model)
    end = answer_end(tokenizer)

    @torch.inference_mode()
    def rewards_of(prompts: Sequence[str], _: Sequence[str], answers: Sequence[Sequence[int]], __: Sequence[int]) -> list[float]:
        heads = encode(tokenizer, prompts)
        ids = {"input_ids": [head + with_answer_end(answer, end) for head, answer in zip(heads, answers, strict=True)]}
        rows = tokenizer.pad(ids, padding_side="right", return_tensors="pt").to(network.device)
        rewards: list[float] = network(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits[:, 0].tolist()
        return rewards

    return rewards_of


def train(source: Path, out: Path, step: GRPO | RLHF, examples: Sequence[Example], reward: RewardFunction, seed: int) -> None:
    """Train from ``source`` and save to ``out``.

    The model receives the questions of ``examples``, without their answers. Touches the global
    generators: call it in a build's own worker process.

    Raises:
        BuildError: the rewards never differed within a group, and no answer earned the checker's
            highest payoff.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = common.load_model(source)
    check_rows(model, encode(tokenizer, [e["prompt"] for e in examples]), step.length)
    rows = Dataset.from_list([{"prompt": e["prompt"], "row": i} for i, e in enumerate(examples)])
    differed, highest = 0, float("-inf")
    highest_payoff = max(step.pays.model_dump().values()) if isinstance(step, GRPO) else float("inf")

    def recorded_reward(
        prompts: Sequence[str], completions: Sequence[str], completion_ids: Sequence[Sequence[int]], row: Sequence[int], **_: Any
    ) -> list[float]:
        nonlocal differed, highest
        rewards = reward(prompts, completions, completion_ids, row)
        differed += any(len({round(r, 9) for r in rewards[i : i + step.group]}) > 1 for i in range(0, len(rewards), step.group))
        highest = max(highest, *rewards)
        return rewards

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=recorded_reward,
        args=GRPOConfig(
            **common.trainer_arguments(step, seed, out / ".scratch"), num_generations=step.group, max_completion_length=step.length,
            temperature=step.temperature, beta=step.beta, mask_truncated_completions=False,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=common.lora_config(step.lora, model),
    )  # fmt: skip
    common.run_trainer(trainer)
    # A policy that always earns the highest payoff has nothing to learn; that is not a failure.
    if not differed and highest < highest_payoff:
        raise equal_rewards_error(step)
    common.save_model(trainer.model, source, out)
