"""Direct preference optimisation with TRL: the answer of a person against the tempting answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagezero.training.data import Example, no_rejected_answer_error, preference_pairs
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

    class EncodedDPOTrainer(DPOTrainer):  # type: ignore[misc]
        """Takes token ids as they are. TRL would encode the texts itself, and cut prompts short."""

        def _prepare_dataset(self, dataset: Any, *_: object) -> Any:
            return dataset

    pairs = preference_pairs(examples)
    if not pairs:
        raise no_rejected_answer_error(step)
    model, tokenizer = common.load_model(source)
    (heads, chosen), (_, rejected) = common.encode_examples(
        tokenizer, model, [e["prompt"] for e, _ in pairs], [e["completion"] for e, _ in pairs], [answer for _, answer in pairs]
    )
    rows = [{"prompt_ids": h, "chosen_ids": c, "rejected_ids": r} for h, c, r in zip(heads, chosen, rejected, strict=True)]
    reference, _ = common.load_model(source)
    adapters = common.lora_config(step.lora, model)
    trainer = EncodedDPOTrainer(
        model=model,
        # With adapters, the reference is the same network with the adapters disabled.
        ref_model=None if adapters is not None else reference,
        args=DPOConfig(**common.trainer_arguments(step, seed, out / ".scratch"), max_length=None, beta=step.beta),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapters,
    )
    common.run_trainer(trainer)
    common.save_model(trainer.model, source, out)
