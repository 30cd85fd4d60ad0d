"""Direct preference optimisation with TRL: the answer a person would write against the tempting one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.training.data import Example, no_rejected_answer
from stagezero.training.recipes import DPO
from stagezero.training.steps import common


def train(source: Path, out: Path, step: DPO, examples: Sequence[Example], seed: int) -> None:
    """Train from ``source``, which is also the reference, and save to ``out``.

    Raises:
        BuildError: no example has a rejected answer.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = [{"prompt": e["prompt"], "chosen": e["completion"], "rejected": e["rejected"]} for e in examples if e["rejected"]]
    if not pairs:
        raise no_rejected_answer(step)
    model, tokenizer = common.load(source)
    reference, _ = common.load(source)
    adapters = common.adapters(step.lora)
    trainer = DPOTrainer(
        model=model,
        # With adapters the reference is the same network with them switched off.
        ref_model=None if adapters is not None else reference,
        args=DPOConfig(**common.arguments(step, seed, out / ".scratch"), max_length=None, beta=step.beta),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=adapters,
    )
    common.run(trainer)
    common.save(trainer.model, source, out)
