"""Greedy answers and log-probabilities in batches; results do not depend on the batch.

Prompts are sorted by length and padded on the left with explicit positions. Rows that have finished
leave the batch, so that a long answer does not delay short ones. Results are in the order of the
prompts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from stagezero.errors import NonFiniteScoresError
from stagezero.models.chat import encode, encode_answers
from stagezero.models.generation_check import NON_FINITE_SCORES, check_generation
from stagezero.models.network import check_rows, context_length

MIN_NEW_TOKENS = 24
"""Tokens that the context must leave for an answer."""
MAX_RUNNING_SHARE = 0.6
"""Remove finished rows when at most this share of the batch is still running."""


def default_batch_size(model: PreTrainedModel) -> int:
    """Return the number of rows per batch: many for pocket models, few for large ones on a CPU."""
    parameters = sum(p.numel() for p in model.parameters())
    if parameters < 5_000_000:
        return 256
    return 32 if model.device.type == "cpu" else 128


def stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids that end an answer, sorted."""
    declared = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = declared if isinstance(declared, list) else [declared]
    return sorted({i for i in (*listed, tokenizer.eos_token_id) if isinstance(i, int)})


@torch.inference_mode()
def _greedy_batch(
    model: PreTrainedModel, rows: Sequence[Sequence[int]], pad: int, stops: Sequence[int], limits: Sequence[int]
) -> list[list[int]]:
    """Generate answers to one left-padded batch, as token ids without the stop token.

    ``limits`` has the most tokens of each answer.
    """
    max_new_tokens, most = max(limits), torch.tensor(list(limits), device=model.device)
    width = max(len(row) for row in rows)
    device = model.device
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ends = torch.tensor(list(stops), device=device)
    answer_row = torch.arange(len(rows), device=device)  # the row of ``answers`` for each row of the batch
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    answers = torch.full((len(rows), max_new_tokens), -1, device=device)
    cache, last = DynamicCache(config=model.config), context_length(model) - 1
    for step in range(max_new_tokens):
        output = model(input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1)
        chosen = output.logits[:, -1].argmax(-1)
        best = output.logits[:, -1].gather(1, chosen.unsqueeze(1)).squeeze(1)  # NaN or infinite if any score is
        if bool((running & ~torch.isfinite(best)).any()):
            raise NonFiniteScoresError(NON_FINITE_SCORES)
        running = running & ~torch.isin(chosen, ends) & (step < most[answer_row])
        answers[answer_row[running], step] = chosen[running]
        running_count = int(running.sum())
        if running_count == 0:
            break
        if running_count <= MAX_RUNNING_SHARE * len(answer_row):
            remaining = running.nonzero().squeeze(1)
            cache.batch_select_indices(remaining)
            chosen, mask, positions, answer_row, running = (
                chosen[remaining], mask[remaining], positions[remaining], answer_row[remaining], running[remaining]
            )  # fmt: skip
        ids = chosen.unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = (positions[:, -1:] + 1).clamp(max=last)  # a row that has ended may stay for a while
    return [[token for token in row if token >= 0] for row in answers.tolist()]


def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    max_new_tokens: int,
    batch_size: int | None = None,
    stops: Sequence[int] | None = None,
) -> list[str]:
    """Generate the greedy answer to each prompt, without the stop token and outer white space.

    Args:
        prompts: complete prompts, with the chat template applied.
        max_new_tokens: most tokens of an answer; fewer where the context has less room.
        batch_size: rows per batch; None chooses by the size of the model.
        stops: token ids that end an answer; None takes those of the model. With an empty sequence
            every answer has ``max_new_tokens`` tokens.

    Returns:
        One answer per prompt, in order.

    Raises:
        ModelError: this module cannot generate with the architecture.
        NonFiniteScoresError: a score of the model is NaN or infinite.
    """
    if not prompts:
        return []
    rows = encode(tokenizer, prompts)
    check_rows(model, rows, min(MIN_NEW_TOKENS, max_new_tokens))
    check_generation(model, tokenizer)
    context = context_length(model)
    limits = [min(max_new_tokens, context - len(row)) for row in rows]
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    size = batch_size or default_batch_size(model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    stops = stop_tokens(model, tokenizer) if stops is None else stops
    answers: dict[int, list[int]] = {}
    for start in range(0, len(order), size):
        chunk = order[start : start + size]
        tokens = _greedy_batch(model, [rows[i] for i in chunk], pad, stops, [limits[i] for i in chunk])
        answers.update(zip(chunk, tokens, strict=True))
    texts = tokenizer.batch_decode([answers[i] for i in range(len(rows))], skip_special_tokens=True)
    return [text.strip() for text in texts]


@torch.inference_mode()
def log_probabilities(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], batch_size: int | None = None
) -> list[float]:
    """Return log P(completion | prompt) in nats for each (prompt, completion).

    The value is summed over the completion's tokens. Padding is on the right, where causal
    attention cannot read it.
    """
    if not pairs:
        return []
    heads, tails = encode_answers(tokenizer, [prompt for prompt, _ in pairs], [completion for _, completion in pairs])
    check_rows(model, [head + tail for head, tail in zip(heads, tails, strict=True)])
    order = sorted(range(len(pairs)), key=lambda i: (-len(heads[i]) - len(tails[i]), i))
    size = batch_size or default_batch_size(model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    sums: dict[int, float] = {}
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
            sums[i] = float(scores[line, max(first, 0) : first + len(tails[i])].sum())
    return [sums[i] for i in range(len(pairs))]
