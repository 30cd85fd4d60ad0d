"""What the TRL-based steps share: loading, arguments, adapters, saving. TRL is imported late: it takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagezero.models.checkpoint import copy_all_but_weights
from stagezero.models.loader import load_tokenizer
from stagezero.training.recipes import Lora, Trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in float32 and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return model, load_tokenizer(folder)


def arguments(step: Trained, seed: int, scratch: Path) -> dict[str, Any]:
    """Keyword arguments of every TRL configuration: quiet, seeded, nothing saved on the way."""
    import torch

    return {
        "output_dir": str(scratch), "max_steps": step.steps, "per_device_train_batch_size": step.batch_size,
        "learning_rate": step.learning_rate, "lr_scheduler_type": step.schedule, "warmup_steps": step.warmup,
        "weight_decay": step.weight_decay, "seed": seed % 2**32, "data_seed": seed % 2**32, "report_to": [], "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "gradient_checkpointing": False, "dataloader_pin_memory": False, "bf16": False,
        "use_cpu": not torch.cuda.is_available(), "full_determinism": False,
    }  # fmt: skip


def adapters(lora: Lora | None, task: str = "CAUSAL_LM") -> Any:
    """The PEFT configuration of a step, or None for full training."""
    if lora is None:
        return None
    from peft import LoraConfig

    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules="all-linear", task_type=task)


def run(trainer: Any) -> None:
    """Train without printing: progress is the campaign's to show."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()


def save(model: Any, source: Path, out: Path, config: bool = True) -> None:
    """Write weights (adapters merged) and carry the tokenizer over unchanged from the input, and the configuration if ``config``."""
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    out.mkdir(parents=True, exist_ok=True)
    model.to("cpu").save_pretrained(out)
    copy_all_but_weights(source, out, config)
