"""Direct preference optimisation with TRL: the answer of a person against the tempting answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.training.data import Example, no_rejected_answer_error
from stagezero.training.recipes import DPO
from stagezero.training.steps import common


def train(source: Path, out: Path, step: DPO, examples: Sequence[Example], seed: int) -> None:
    """Train from ``source``, which is also the reference, and save to ``out``.

    Touches the global generators: call it in a build's own worker process.

    Raises:
        BuildError: no example has a rejected answer.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    pairs = [{"prompt": e["prompt"], "chosen": e["completion"], "rejected": e["rejected"]} for e in examples if e["rejected"]]
    if not pairs:
        raise no_rejected_answer_error(step)
    model, tokenizer = common.load_model(source)
    reference, _ = common.load_model(source)
    adapters = common.lora_config(step.lora)
    trainer = DPOTrainer(
        model=model,
        # With adapters, the reference is the same network with the adapters disabled.
        ref_model=None if adapters is not None else reference,
        args=DPOConfig(**common.trainer_arguments(step, seed, out / ".scratch"), max_length=None, beta=step.beta),
        train_dataset=Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=adapters,
    )
    common.run_trainer(trainer)
    common.save_model(trainer.model, source, out)
