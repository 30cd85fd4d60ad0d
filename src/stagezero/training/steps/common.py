"""Functions that the TRL-based steps share: loading, arguments, adapters, training and saving.

TRL and torch are imported inside the functions, since importing them takes seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagezero.models.chat import encode_answers, load_tokenizer
from stagezero.models.checkpoint import copy_all_but_weights
from stagezero.models.network import bfloat16_unit, check_rows, load_network
from stagezero.training.layers import adapted_layers
from stagezero.training.recipes import Lora, Trained

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_model(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a checkpoint's model, in float32, and its tokenizer."""
    return load_network(folder), load_tokenizer(folder)


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel, prompts: Sequence[str], *answers: Sequence[str]
) -> list[tuple[list[list[int]], list[list[int]]]]:
    """Return the token ids of prompts and answers, for each sequence of answers.

    Raises:
        ModelError: the network cannot read a prompt with its answer.
    """
    encoded = [encode_answers(tokenizer, prompts, sequence) for sequence in answers]
    for heads, tails in encoded:
        check_rows(network, [head + tail for head, tail in zip(heads, tails, strict=True)])
    return encoded


def trainer_arguments(step: Trained, seed: int, scratch: Path) -> dict[str, Any]:
    """Return the keyword arguments that every TRL configuration receives.

    Training prints nothing, is seeded, and saves nothing before it ends.
    """
    import torch

    return {
        "output_dir": str(scratch), "max_steps": step.steps, "per_device_train_batch_size": step.batch_size // step.gradient_accumulation,
        "learning_rate": step.learning_rate, "lr_scheduler_type": step.schedule, "warmup_steps": step.warmup,
        "weight_decay": step.weight_decay, "seed": seed % 2**32, "data_seed": seed % 2**32, "report_to": [], "save_strategy": "no",
        "logging_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False,
        "gradient_accumulation_steps": step.gradient_accumulation, "gradient_checkpointing": step.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False}, "bf16": step.dtype == "bfloat16" and bfloat16_unit() is not None,
        "use_cpu": not torch.cuda.is_available(), "full_determinism": False,
    }  # fmt: skip


def lora_config(lora: Lora | None, network: PreTrainedModel, task: str = "CAUSAL_LM") -> Any:
    """Return the PEFT configuration of a step; None for full training.

    Raises:
        BuildError: a target of the adapters is no linear layer of the network.
    """
    if lora is None:
        return None
    from peft import LoraConfig

    # All layers of a reward model are named by a word, because PEFT also trains its new head then.
    # For a language model that word would add the fused tensors of experts, and leave layers out.
    by_word = lora.targets is None and task != "CAUSAL_LM"
    targets = "all-linear" if by_word else [name for name, _ in adapted_layers(network, lora)]
    return LoraConfig(r=lora.rank, lora_alpha=lora.alpha, lora_dropout=0.0, target_modules=targets, task_type=task)


def run_trainer(trainer: Any) -> None:
    """Train without printing; the campaign displays the progress."""
    from transformers import PrinterCallback

    trainer.remove_callback(PrinterCallback)
    trainer.train()


def save_model(model: Any, source: Path, out: Path, config: bool = True) -> None:
    """Write a checkpoint: weights with merged adapters, and the files of the step's input.

    Args:
        model: the trained model.
        source: the step's input folder; its tokenizer is copied unchanged.
        out: folder to fill.
        config: copy the configuration from ``source`` too, instead of writing the model's own.
    """
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    out.mkdir(parents=True, exist_ok=True)
    model.to("cpu").save_pretrained(out)
    copy_all_but_weights(source, out, config)
