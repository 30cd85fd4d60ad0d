"""Group-relative policy optimisation (Shao et al. 2024), with its own sampling.

A batch is a few questions with ``group`` sampled answers each. An answer's advantage is its reward less its group's mean, over the
group's standard deviation; the loss is summed over all tokens of the batch and divided by their number (Yu et al. 2025). Each batch
serves one update, so the ratio of new to old probability is one and its clipping never binds: only its gradient is left. β weighs
Schulman's estimate of the divergence from the start, r − log r − 1, corrected by the same ratio.

Tokens are drawn by an exponential race: argmax p/e with e ~ Exp(1) has the law p. The numbers e come from the seed's stream in the order
and shape in which torch's own sampler would draw them, so on a CPU the answers are the first trainer's, token by token, until rounding
first decides a race (about one draw in a million). From there on, and on other devices, and for a model with dropout, the trainers
agree in distribution only: the rewards that they gain are alike, their weights are not. Nothing may rest on more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stagezero.models.loader import load_tokenizer
from stagezero.tasks import Item, score
from stagezero.training.data import Example, nothing_to_learn
from stagezero.training.recipes import GRPO, RLHF
from stagezero.training.reference import adapters
from stagezero.training.reference.network import load, load_scorer, log_probabilities, padded, save
from stagezero.training.reference.optimise import bounded, draw_as_a_loader_does

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Judge = Callable[[Sequence[str], Sequence[str], Sequence[int]], list[float]]
"""(prompts, answers without stop token, positions in the dataset) → one reward each."""


def checked(step: GRPO, items: Sequence[Item]) -> Judge:
    """What the task's checker pays for each outcome."""
    pays = step.pays.model_dump()
    return lambda _, answers, positions: [float(pays[score(items[i], told)]) for told, i in zip(answers, positions, strict=True)]


def modelled(reward_model: Path, source: Path) -> Judge:
    """What a reward model gives to prompt and answer, read at the policy's stop token as it was trained."""
    network = load_scorer(reward_model)
    tokenizer = load_tokenizer(reward_model)
    stop = str(load_tokenizer(source).eos_token)

    @torch.inference_mode()
    def judge(prompts: Sequence[str], answers: Sequence[str], _: Sequence[int]) -> list[float]:
        texts = [f"{prompt}{told}{stop}" for prompt, told in zip(prompts, answers, strict=True)]
        ids, real = padded(tokenizer(texts, add_special_tokens=False).input_ids, tokenizer.pad_token_id)
        found: list[float] = network(input_ids=ids, attention_mask=real).logits[:, 0].tolist()
        return found

    return judge


def _order(count: int, questions: int, group: int, seed: int) -> Iterator[list[int]]:
    """Batches of ``questions`` positions, each ``group`` times. A pass is a permutation; what is too little for a batch is left out."""
    generator = torch.Generator().manual_seed(bounded(seed))
    while count >= questions:
        draw_as_a_loader_does()
        shuffled = torch.randperm(count, generator=generator).tolist()
        for start in range(0, count - questions + 1, questions):
            yield [i for i in shuffled[start : start + questions] for _ in range(group)]


@torch.no_grad()
def sample(
    network: PreTrainedModel, prompts: Sequence[Sequence[int]], stops: Sequence[int], pad: int, length: int, temperature: float
) -> list[list[int]]:
    """One sampled answer to each prompt: at most ``length`` tokens, the stop token that ended it included.

    Rows that have ended leave the batch; the numbers of their races are drawn all the same, so that nobody else's change.
    """
    from transformers import DynamicCache

    ids, real = padded(prompts, pad, left=True)
    places = (real.cumsum(1) - 1).clamp(min=0)
    running = torch.arange(len(ids), device=ids.device)
    ends = torch.tensor(list(stops), device=ids.device)
    cache = DynamicCache(config=network.config)
    answers: list[list[int]] = [[] for _ in prompts]
    for _ in range(length):
        logits = network(
            input_ids=ids, attention_mask=real, position_ids=places, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1].float()  # fmt: skip
        races = torch.empty(len(prompts), logits.shape[1], device=ids.device).exponential_()
        told = ((logits / temperature).softmax(1) / races[running]).argmax(1)
        for row, token in zip(running.tolist(), told.tolist(), strict=True):
            answers[row].append(token)
        on = (~torch.isin(told, ends)).nonzero().squeeze(1)
        if len(on) == 0:
            break
        if len(on) < len(running):
            cache.batch_select_indices(on)
            running, told, real, places = running[on], told[on], real[on], places[on]
        ids = told.unsqueeze(1)
        real = torch.cat([real, real.new_ones(len(real), 1)], dim=1)
        places = places[:, -1:] + 1
    return answers


def _stops(network: PreTrainedModel, own: int) -> list[int]:
    declared = network.generation_config.eos_token_id if network.generation_config is not None else None
    listed = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return listed if own in listed else [own, *listed]


def train(source: Path, out: Path, step: GRPO | RLHF, examples: Sequence[Example], judge: Judge, seed: int) -> None:
    """Train from ``source`` and save to ``out``; the questions of ``examples`` are asked, their answers are not shown.

    Raises:
        BuildError: no answer ever earned anything that another in its group did not, nor all that the checker pays at best.
    """
    network, tokenizer = load(source)
    reference = load(source)[0] if step.beta and step.lora is None else None
    prompts = [e["prompt"] for e in examples]
    heads = tokenizer(prompts).input_ids
    pad, stops = tokenizer.pad_token_id, _stops(network, int(tokenizer.eos_token_id))
    differed, most = False, float("-inf")
    best = max(step.pays.model_dump().values()) if isinstance(step, GRPO) else float("inf")

    def loss(batch: list[int]) -> Tensor:
        nonlocal differed, most
        asked = [heads[i] for i in batch]
        answers = sample(network, asked, stops, pad, step.length, step.temperature)
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        earned = judge([prompts[i] for i in batch], texts, batch)
        differed |= any(len({round(r, 9) for r in earned[i : i + step.group]}) > 1 for i in range(0, len(earned), step.group))
        most = max(most, *earned)
        groups = torch.tensor(earned, device=network.device).view(-1, step.group)
        advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()

        left, right = padded(asked, pad, left=True), padded(answers, pad)
        mixed = torch.randperm(len(batch)).to(network.device)  # the first trainer mixes its batch here: a draw from the stream
        ids, real = (torch.cat(parts, dim=1)[mixed] for parts in zip(left, right, strict=True))
        wanted = (real > 0) & (torch.arange(ids.shape[1], device=ids.device) >= left[0].shape[1])
        old = None
        if step.beta:
            with torch.no_grad(), adapters.switched_off(network):
                old, _ = log_probabilities(reference if reference is not None else network, ids, real, wanted, step.temperature)
        found, rows = log_probabilities(network, ids, real, wanted, step.temperature)
        ratio = (found - found.detach()).exp()
        losses = -ratio * advantages[mixed][rows]
        if old is not None:
            losses = losses + step.beta * ((old - found).exp() - (old - found) - 1) * ratio
        return losses.sum() / len(found)

    adapters.fit(network, step, _order(len(heads), step.batch_size // step.group, step.group, seed), loss, seed)
    if not differed and most < best:  # a policy that always earns the most has nothing to learn, and that is no failure
        raise nothing_to_learn(step)
    save(network, source, out)
