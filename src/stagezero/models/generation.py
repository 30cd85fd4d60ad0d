"""Greedy answers and log-probabilities in batches, the same whatever else is in the batch.

Prompts are sorted by length, padded on the left with explicit positions, and rows that have finished leave the
batch, so that a long answer never makes the short ones wait. Results come back in the order they were asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

SHRINK_AT = 0.6  # let finished rows leave when at most this share of the batch is still running


def default_batch_size(model: PreTrainedModel) -> int:
    """Rows a batch: many for pocket models, few for large ones on a CPU."""
    parameters = sum(p.numel() for p in model.parameters())
    if parameters < 5_000_000:
        return 256
    return 32 if model.device.type == "cpu" else 128


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids that end an answer."""
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = declared if isinstance(declared, list) else [declared]
    return sorted({int(i) for i in (*listed, tokenizer.eos_token_id) if i is not None})


@torch.inference_mode()
def _greedy_batch(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], pad: int, stops: Sequence[int], max_new_tokens: int
) -> list[list[int]]:
    """Answers, as token ids without the stop token, for one left-padded batch."""
    width = max(len(row) for row in rows)
    device = model.device
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ends = torch.tensor(list(stops), device=device)
    where = torch.arange(len(rows), device=device)  # the row of ``answers`` that each running row writes to
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    answers = torch.full((len(rows), max_new_tokens), -1, device=device)
    cache = DynamicCache(config=model.config)
    for step in range(max_new_tokens):
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        chosen = output.logits[:, -1].argmax(-1)
        running = running & ~torch.isin(chosen, ends)
        answers[where[running], step] = chosen[running]
        left = int(running.sum())
        if left == 0:
            break
        if left <= SHRINK_AT * len(where):
            keep = running.nonzero().squeeze(1)
            cache.batch_select_indices(keep)
            chosen, mask, positions, where, running = (
                chosen[keep], mask[keep], positions[keep], where[keep], running[keep]
            )  # fmt: skip
        ids = chosen.unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return [[token for token in row if token >= 0] for row in answers.tolist()]


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int | None = None,
    stops: Sequence[int] | None = None,
) -> list[str]:
    """The model's greedy answer to each prompt, stop token and outer white space removed.

    Args:
        prompts: complete prompts, chat template already applied.
        max_new_tokens: tokens an answer may have at most.
        batch_size: rows at once; by the model's size when None.
        stops: token ids that end an answer; the model's own when None. None of them makes every answer as long as can be.
    """
    if not prompts:
        return []
    rows = tokenizer(list(prompts), add_special_tokens=False).input_ids
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    size = batch_size or default_batch_size(model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    stops = stop_tokens(model, tokenizer) if stops is None else stops
    answers: dict[int, list[int]] = {}
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        tokens = _greedy_batch(model, [rows[i] for i in chunk], pad, stops, max_new_tokens)
        answers.update(zip(chunk, tokens, strict=True))
    texts = tokenizer.batch_decode([answers[i] for i in range(len(rows))], skip_special_tokens=True)
    return [text.strip() for text in texts]


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], batch_size: int | None = None
) -> list[float]:
    """log P(completion | prompt) in nats, summed over the completion's tokens, for each (prompt, completion).

    Padding is on the right: with causal attention nothing to the right can change what is read.
    """
    if not pairs:
        return []
    heads = tokenizer([prompt for prompt, _ in pairs], add_special_tokens=False).input_ids
    tails = tokenizer([completion for _, completion in pairs], add_special_tokens=False).input_ids
    order = sorted(range(len(pairs)), key=lambda i: (-len(heads[i]) - len(tails[i]), i))
    size = batch_size or default_batch_size(model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    found: dict[int, float] = {}
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        width = max(len(heads[i]) + len(tails[i]) for i in chunk)
        rows = [heads[i] + tails[i] for i in chunk]
        ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        scores = logits.log_softmax(-1).gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
        for line, i in enumerate(chunk):
            first = len(heads[i]) - 1
            found[i] = float(scores[line, max(first, 0) : first + len(tails[i])].sum())
    return [found[i] for i in range(len(pairs))]
