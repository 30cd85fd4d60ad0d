"""Loading of networks: the one place that gives a checkpoint's weights to Transformers.

Only safetensors weights of the checkpoint's own folder are loaded, and no code of the checkpoint
ever runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagezero.errors import ModelError, UnreadableTextError
from stagezero.machine_faults import worker_error
from stagezero.models import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_COMPUTED = re.compile(
    r"(^|\.)(inv_freq|(cos|sin)_cached|masked_bias|causal_mask|position_ids|(decoder|model)\.version|(attn|attention)\.bias)$"
)
"""Tensors in older checkpoints that a network computes itself: positions and masks."""


def load_network(folder: Path, device: str | None = None) -> PreTrainedModel:
    """Load a language model, in evaluation mode and float32.

    Args:
        folder: the checkpoint folder.
        device: a torch device; None takes CUDA if available, else the CPU.

    Raises:
        ModelError: the checkpoint is incomplete or cannot be loaded, or a weight is not finite.
        WorkerError: a disk or mount failed, or there is too little memory.
    """
    from transformers import AutoModelForCausalLM

    return _load(AutoModelForCausalLM, folder, device, new_head=False)


def load_reward_network(folder: Path, device: str | None = None) -> PreTrainedModel:
    """Load a network with one number as its output, in evaluation mode and float32.

    If the folder lacks the head, torch's generator draws it.

    Args:
        folder: the checkpoint folder of a language model or of a reward model.
        device: a torch device; None takes CUDA if available, else the CPU.

    Raises:
        ModelError, WorkerError: as for ``load_network``.
    """
    from transformers import AutoModelForSequenceClassification

    return _load(AutoModelForSequenceClassification, folder, device, new_head=True, num_labels=1)


def _load(kind: Any, folder: Path, device: str | None, new_head: bool, **options: Any) -> PreTrainedModel:
    import torch

    checkpoint.check(folder)
    try:
        model, report = kind.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
        )
    except Exception as error:  # a damaged or foreign configuration fails in many ways
        if (fault := worker_error(error, folder)) is not None:
            raise fault from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        fix = "install the package that it names" if isinstance(error, ImportError) else "check config.json, or copy the checkpoint again"
        raise ModelError(f"{folder}: could not be loaded ({reason}); {fix}.") from None
    check_all_loaded(report, folder, new_head)
    if (name := _first_non_finite(model)) is not None:
        raise ModelError(f"{folder}: tensor {name!r} has a weight that is not a finite number; train the model with a lower learning rate.")
    model.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    model.train(False)
    network: PreTrainedModel = model
    return network


def write_again(folder: Path, out: Path) -> None:
    """Write a checkpoint's weights as every training step writes them, under today's names.

    Args:
        folder: the checkpoint, perhaps with tensors under older names.
        out: folder to fill.

    Raises:
        ModelError, WorkerError: as for ``load_network``.
    """
    load_network(folder, "cpu").save_pretrained(out)


def check_all_loaded(report: dict[str, Any], where: object, new_head: bool = False) -> None:
    """Reject a checkpoint whose tensors are not those of its network.

    Transformers draws a missing weight at random and drops a tensor that the network does not have,
    such as that of an adapter. The digest would not identify the model.

    Args:
        report: what ``from_pretrained`` returns with ``output_loading_info``.
        where: the folder or model, for the message.
        new_head: a head may be missing, and another head may be dropped.

    Raises:
        ModelError: the message names a tensor.
    """
    missing = sorted([*report["missing_keys"], *(str(key) for key in report.get("mismatched_keys", ()))])
    missing = [name for name in missing if not (new_head and name.startswith(("score.", "classifier.")))]
    if missing:
        raise ModelError(
            f"{where}: the weights of {missing[0]} are missing ({len(missing)} in all); check config.json, or copy the checkpoint again."
        )
    dropped = [] if new_head else sorted(name for name in report["unexpected_keys"] if not _COMPUTED.search(name))
    if dropped:
        raise ModelError(
            f"{where}: the network of config.json has no weights {dropped[0]!r:.120} ({len(dropped)} such tensors in all), which would be "
            "dropped; save the model with its own architecture (an adapter: merge it), or remove them."
        )


def _first_non_finite(network: Any) -> str | None:
    """Return the name of a weight that is NaN or infinite as it was loaded; None if none is.

    A number that fits into the file's type may be infinite in float32.
    """
    import torch

    return next((str(name) for name, tensor in network.named_parameters() if not bool(torch.isfinite(tensor).all())), None)


@lru_cache(maxsize=1)
def bfloat16_unit() -> str | None:
    """Return the name of the hardware that computes matrix products in bfloat16; None if none does.

    That is a GPU's name, or a processor's instruction set. Two units give different bits.
    """
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name() if torch.cuda.is_bf16_supported(including_emulation=False) else None
    capabilities = torch.cpu.get_capabilities()
    return next((name for name in ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16") if capabilities.get(name)), None)


def context_length(network: PreTrainedModel) -> int:
    """Return the most tokens that a network reads; a very large number if it has no limit."""
    config = network.config.get_text_config()
    names = ["max_position_embeddings", "n_positions", "max_seq_len"]
    # Beyond its original context, such a model changes the positions of every row of the batch.
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if isinstance(rope, dict) and rope.get("rope_type", rope.get("type")) in ("longrope", "dynamic"):
        names.insert(0, "original_max_position_embeddings")
    limits = [limit for holder in (config, rope) for name in names if isinstance(limit := _entry(holder, name), int) and limit > 0]
    return min(limits, default=2**62)


def _entry(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, dict) else getattr(holder, name, None)


def check_rows(network: PreTrainedModel, rows: Sequence[Sequence[int]], new_tokens: int = 0) -> None:
    """Reject rows of tokens that a network cannot read.

    Args:
        network: the network.
        rows: at least one row of token ids.
        new_tokens: number of tokens that may follow each row.

    Raises:
        UnreadableTextError: a row exceeds the context, or has a token without an embedding.
    """
    tokens, limit = max(len(row) for row in rows) + new_tokens, context_length(network)
    if limit < tokens:
        raise UnreadableTextError(
            f"a text of {tokens:,} tokens (instruction, question and answer) exceeds the model's context of {limit:,}; "
            "shorten the items, or use a model with a longer context."
        )
    embedding: Any = network.get_input_embeddings()
    embeddings = embedding.weight.shape[0]
    highest = max((max(row, default=0) for row in rows), default=0)
    if highest >= embeddings:
        raise UnreadableTextError(
            f"the tokenizer gives token {highest}, and the model has embeddings for {embeddings:,} tokens only; add the missing ones "
            "(resize_token_embeddings), or remove the added token from the tokenizer."
        )
