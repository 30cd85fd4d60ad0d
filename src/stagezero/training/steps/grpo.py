"""Group-relative policy optimisation with TRL: sample several answers to a question, reward each, push towards the better ones.

Two rewards share the machinery: ``grpo`` asks the task's own checker, ``rlhf`` asks a reward model that a ``reward`` step
trained from human preference pairs. Both can be hacked, which is why what comes out is tried like any other idea.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stagezero.tasks import Item, score
from stagezero.training.data import Example, nothing_to_learn
from stagezero.training.recipes import GRPO, RLHF
from stagezero.training.steps import common

Reward = Callable[[Sequence[str], Sequence[str], Sequence[int]], list[float]]
"""(prompts, answers without stop token, positions in the dataset) → one reward each."""


def checked(step: GRPO, items: Sequence[Item]) -> Reward:
    """What the task's checker pays for each outcome."""
    pays = step.pays.model_dump()
    return lambda _, answers, rows: [float(pays[score(items[i], answer)]) for answer, i in zip(answers, rows, strict=True)]


def modelled(reward_model: Path, stop: str) -> Reward:
    """What a reward model gives to prompt and answer, read at the stop token as it was trained."""
    import torch
    from transformers import AutoModelForSequenceClassification

    from stagezero.models.loader import load_tokenizer

    network = AutoModelForSequenceClassification.from_pretrained(reward_model, dtype=torch.float32, use_safetensors=True)
    network.to("cuda" if torch.cuda.is_available() else "cpu").train(False)
    tokenizer = load_tokenizer(reward_model)

    @torch.inference_mode()
    def rewards(prompts: Sequence[str], answers: Sequence[str], _: Sequence[int]) -> list[float]:
        texts = [f"{prompt}{answer}{stop}" for prompt, answer in zip(prompts, answers, strict=True)]
        rows = tokenizer(texts, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt").to(network.device)
        found: list[float] = network(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits[:, 0].tolist()
        return found

    return rewards


def train(source: Path, out: Path, step: GRPO | RLHF, examples: Sequence[Example], reward: Reward, seed: int) -> None:
    """Train from ``source`` and save to ``out``; the questions of ``examples`` are asked, their answers are not shown.

    Raises:
        BuildError: no answer ever earned anything that another in its group did not, nor all that the checker pays at best.
    """
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = common.load(source)
    rows = Dataset.from_list([{"prompt": e["prompt"], "row": i} for i, e in enumerate(examples)])
    differed, most = 0, float("-inf")
    best = max(step.pays.model_dump().values()) if isinstance(step, GRPO) else float("inf")

    def judge(prompts: Sequence[str], completions: Sequence[str], row: Sequence[int], **_: Any) -> list[float]:
        nonlocal differed, most
        found = reward(prompts, completions, row)
        differed += any(len({round(r, 9) for r in found[i : i + step.group]}) > 1 for i in range(0, len(found), step.group))
        most = max(most, *found)
        return found

    trainer = GRPOTrainer(
        model=model,
        reward_funcs=judge,
        args=GRPOConfig(
            **common.arguments(step, seed, out / ".scratch"), num_generations=step.group, max_completion_length=step.length,
            temperature=step.temperature, beta=step.beta, mask_truncated_completions=False,
        ),
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=common.adapters(step.lora),
    )  # fmt: skip
    common.run(trainer)
    if not differed and most < best:  # a policy that always earns the most has nothing to learn, and that is no failure
        raise nothing_to_learn(step)
    common.save(trainer.model, source, out)
