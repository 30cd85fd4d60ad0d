"""Checks that a model's answers depend on the question alone, and not on the cache or the batch.

Some architectures ignore the cache of earlier tokens or the positions that are given to them. They
would be measured, with answers that are not theirs.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from stagezero.errors import ModelError, NonFiniteScoresError
from stagezero.machine_faults import is_memory_short
from stagezero.models.chat import encode
from stagezero.models.network import context_length

MAX_LOGIT_DIFFERENCE = 0.002
"""Largest difference between two ways of computing logits, in their standard deviations. Rounding
causes 1e-5."""
NON_FINITE_SCORES = (
    "the model has no answer to a question: its scores for the next token are NaN or infinite; train it with a lower learning rate, or "
    "give another model."
)
_TEXT = "Which of these answers is the right one?"
_checked: set[str] = set()
"""Configurations of models whose answers were found not to depend on cache and batch."""


@torch.inference_mode()
def check_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Reject an architecture whose answers would depend on the cache or on the batch.

    A short row is continued by one token: alone and without a cache, and as this module does it,
    beside a longer row. Models that ignore the cache or the positions (Mamba, encoders) differ.

    Raises:
        ModelError: the two differ, or the model cannot be run in this way.
        NonFiniteScoresError: a score of the model is NaN or infinite.
    """
    key = json.dumps({**model.config.to_dict(), "_name_or_path": type(model).__name__}, sort_keys=True, default=str)
    if key in _checked:
        return
    embedding: Any = model.get_input_embeddings()
    known = [token for token in encode(tokenizer, [_TEXT])[0] if token < embedding.weight.shape[0]]
    tokens = (known or [0])[: max(2, min(8, context_length(model) - 2))]
    short, pad = tokens[: max(1, len(tokens) // 2)], tokenizer.pad_token_id or 0
    reason = ""
    try:
        alone = [model(input_ids=torch.tensor([short + more], device=model.device)).logits[0, -1].float() for more in ([], short[:1])]
        gap = len(tokens) - len(short)
        mask = torch.tensor([[0] * gap + [1] * len(short), [1] * len(tokens)], device=model.device)
        cache, rows = DynamicCache(config=model.config), torch.tensor([[pad] * gap + short, tokens], device=model.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        batched = []
        for ids in (rows, torch.tensor([short[:1], tokens[:1]], device=model.device)):
            output = model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
            batched.append(output.logits[0, -1].float())
            mask, positions = torch.cat([mask, mask.new_ones(2, 1)], dim=1), positions[:, -1:] + 1
        scale = max(float(logits.std()) for logits in alone) + 1e-6
        if not all(bool(torch.isfinite(logits.max())) for logits in (*alone, *batched)):
            raise NonFiniteScoresError(NON_FINITE_SCORES)
        if max(float((a - b).abs().max()) for a, b in zip(alone, batched, strict=True)) > MAX_LOGIT_DIFFERENCE * scale:
            reason = "its answers depend on the batch, or it does not use the cache of earlier tokens"
    except NonFiniteScoresError:
        raise
    except Exception as error:  # an architecture may reject these arguments in any way
        if is_memory_short(error):
            raise
        reason = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
    if reason:
        raise ModelError(
            f"models of the kind {type(model).__name__} cannot be measured here ({reason}); use a decoder-only transformer, such as Llama, "
            "Qwen, Gemma, Mistral, GPT-2 or Phi."
        )
    _checked.add(key)
