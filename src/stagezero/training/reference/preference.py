"""Learning from pairs of answers: direct preference optimisation, and a reward model.

Both losses are −log σ of a difference. DPO takes β times the difference of log P(answer) between
the policy and its start. The reward model takes the difference of two scores.

Source: Rafailov et al. 2023 (DPO); Bradley & Terry 1952 and Christiano et al. 2017 (reward model).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import softplus

from stagezero.models.chat import load_tokenizer
from stagezero.tasks import Item
from stagezero.training.data import Example, no_rejected_answer_error, preference_pairs
from stagezero.training.recipes import DPO, Reward
from stagezero.training.reference import adapters
from stagezero.training.reference.network import (  # fmt: skip
    Row,
    disable_dropout,
    load,
    load_reward_model,
    log_probabilities,
    pad_batch,
    pad_rows,
    save,
    tokenise,
)
from stagezero.training.reference.optimise import mixed_precision, parts_of, seeded, shuffled_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _answer_log_probabilities(network: PreTrainedModel, rows: Sequence[Row], pad: int) -> Tensor:
    """Return log P(answer | prompt) of each row, in nats: one number per row."""
    values, row_indices = log_probabilities(network, *pad_batch(rows, pad))
    return values.new_zeros(len(rows)).index_add(0, row_indices, values)


def train_dpo(source: Path, out: Path, step: DPO, examples: Sequence[Example], seed: int) -> None:
    """Train from ``source``, which is also the reference, and save to ``out``.

    The reference's log-probabilities are computed once, before the first update, so that no second
    network is in memory.

    Raises:
        BuildError: no example has a rejected answer.
    """
    pairs = [(e["prompt"], e["completion"], rejected) for e, rejected in preference_pairs(examples)]
    if not pairs:
        raise no_rejected_answer_error(step)
    network, tokenizer = load(source)
    chosen, rejected = tokenise(tokenizer, network, [p for p, _, _ in pairs], [c for _, c, _ in pairs], [r for _, _, r in pairs])
    pad = tokenizer.pad_token_id

    def margins(part: Sequence[int]) -> Tensor:
        """Return log P(chosen) − log P(rejected) of pairs under the network as it is now."""
        with mixed_precision(network, step):
            sums = _answer_log_probabilities(network, [chosen[i] for i in part] + [rejected[i] for i in part], pad)
        return sums[: len(part)] - sums[len(part) :]

    reference_margins = torch.zeros(len(pairs), device=network.device)
    with seeded(seed), torch.no_grad():
        computed: set[int] = set()
        for batch in islice(shuffled_batches(len(pairs), step.batch_size, seed), step.steps):
            if not computed.issuperset(batch):
                for part in parts_of(batch, step):
                    reference_margins[part] = margins(part)
                computed.update(batch)
            elif len(computed) == len(pairs):
                break

    def losses(batch: list[int]) -> Iterator[Tensor]:
        parts = parts_of(batch, step)
        for part in parts:
            yield softplus(-step.beta * (margins(part) - reference_margins[part])).mean() / len(parts)

    disable_dropout(network)
    adapters.fit(network, step, shuffled_batches(len(pairs), step.batch_size, seed), losses, seed)
    save(network, source, out)


def train_reward(source: Path, out: Path, step: Reward, examples: Sequence[Example], items: Sequence[Item], seed: int) -> None:
    """Train a reward model that starts from ``source``, and save it to ``out``.

    The preferred answer of a pair is that of the item's label.

    Raises:
        BuildError: no example has a rejected answer.
    """
    prompts, preferred, other = [], [], []
    for example, item in zip(examples, items, strict=True):
        for _, rejected in preference_pairs([example]):
            answers = (example["completion"], rejected)
            prompts.append(example["prompt"])
            preferred.append(answers[item.mislabelled])
            other.append(answers[not item.mislabelled])
    if not prompts:
        raise no_rejected_answer_error(step)
    tokenizer = load_tokenizer(source)
    pad = tokenizer.pad_token_id
    with seeded(seed):
        network = load_reward_model(source, pad)  # draws the new head
    # The first trainer leaves this value in the configuration that this step writes.
    network.config.use_cache = False
    preferred_rows, other_rows = tokenise(tokenizer, network, prompts, preferred, other)

    def losses(batch: list[int]) -> Iterator[Tensor]:
        parts = parts_of(batch, step)
        for part in parts:
            ids, mask = pad_rows([preferred_rows[i].ids for i in part] + [other_rows[i].ids for i in part], pad)
            with mixed_precision(network, step):
                scores = network(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, 0].float()
            yield softplus(scores[len(part) :] - scores[: len(part)]).mean() / len(parts)

    disable_dropout(network)
    adapters.fit(network, step, shuffled_batches(len(prompts), step.batch_size, seed), losses, seed)
    save(network, source, out, config=False)
