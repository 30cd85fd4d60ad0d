"""Learning from pairs of answers: direct preference optimisation, and a reward model of preference.

Both losses are −log σ of a difference. DPO (Rafailov et al. 2023) takes β times the difference of log P(answer) between the policy and
where it started; the reward model (Bradley & Terry 1952; Christiano et al. 2017) takes the difference of two scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import softplus

from stagezero.models.loader import load_tokenizer
from stagezero.tasks import Item
from stagezero.training.data import Example, no_rejected_answer
from stagezero.training.recipes import DPO, Reward
from stagezero.training.reference import adapters
from stagezero.training.reference.network import (  # fmt: skip
    Row,
    batch_of,
    load,
    load_scorer,
    log_probabilities,
    padded,
    rows_of,
    save,
    without_dropout,
)
from stagezero.training.reference.optimise import order, seeded

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _sums(network: PreTrainedModel, rows: Sequence[Row], pad: int) -> Tensor:
    """log P(answer | prompt) in nats of each row: one number a row."""
    found, places = log_probabilities(network, *batch_of(rows, pad))
    return found.new_zeros(len(rows)).index_add(0, places, found)


def train_dpo(source: Path, out: Path, step: DPO, examples: Sequence[Example], seed: int) -> None:
    """Train from ``source``, which is also the reference, and save to ``out``.

    The reference's log-probabilities are taken once, before the first update, so that no second network is held.

    Raises:
        BuildError: no example has a rejected answer.
    """
    pairs = [(e["prompt"], e["completion"], e["rejected"]) for e in examples if e["rejected"]]
    if not pairs:
        raise no_rejected_answer(step)
    network, tokenizer = load(source)
    better, worse = rows_of(tokenizer, [p for p, _, _ in pairs], [b for _, b, _ in pairs], [str(w) for _, _, w in pairs])
    pad = tokenizer.pad_token_id
    margins = torch.zeros(len(pairs), device=network.device)  # of the reference, better over worse
    with seeded(seed), torch.no_grad():
        seen: set[int] = set()
        for batch in islice(order(len(pairs), step.batch_size, seed), step.steps):
            if not seen.issuperset(batch):
                sums = _sums(network, [better[i] for i in batch] + [worse[i] for i in batch], pad)
                margins[batch] = sums[: len(batch)] - sums[len(batch) :]
                seen.update(batch)
            elif len(seen) == len(pairs):
                break

    def loss(batch: list[int]) -> Tensor:
        sums = _sums(network, [better[i] for i in batch] + [worse[i] for i in batch], pad)
        return softplus(-step.beta * (sums[: len(batch)] - sums[len(batch) :] - margins[batch])).mean()

    without_dropout(network)
    adapters.fit(network, step, order(len(pairs), step.batch_size, seed), loss, seed)
    save(network, source, out)


def train_reward(source: Path, out: Path, step: Reward, examples: Sequence[Example], items: Sequence[Item], seed: int) -> None:
    """Train a scorer that starts from ``source`` and save it to ``out``. Which answer people preferred is the item's label.

    Raises:
        BuildError: no example has a rejected answer.
    """
    prompts, better, worse = [], [], []
    for example, item in zip(examples, items, strict=True):
        if example["rejected"]:
            told = (example["completion"], example["rejected"])
            prompts.append(example["prompt"])
            better.append(told[item.mislabelled])
            worse.append(told[not item.mislabelled])
    if not prompts:
        raise no_rejected_answer(step)
    tokenizer = load_tokenizer(source)
    pad = tokenizer.pad_token_id
    with seeded(seed):
        network = load_scorer(source, pad)  # its head is drawn
    network.config.use_cache = False  # as the first trainer leaves it in the configuration that this step writes
    preferred, other = rows_of(tokenizer, prompts, better, worse)

    def loss(batch: list[int]) -> Tensor:
        ids, real = padded([preferred[i].ids for i in batch] + [other[i].ids for i in batch], pad)
        scores = network(input_ids=ids, attention_mask=real, use_cache=False).logits[:, 0]
        return softplus(scores[len(batch) :] - scores[: len(batch)]).mean()

    without_dropout(network)
    adapters.fit(network, step, order(len(prompts), step.batch_size, seed), loss, seed)
    save(network, source, out, config=False)
