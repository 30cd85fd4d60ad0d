"""Group-relative policy optimisation (Shao et al. 2024), with its own sampling.

A batch is a few questions with ``group`` sampled answers each. An answer's advantage is its reward
minus its group's mean, divided by the group's standard deviation. The loss is summed over all
tokens of the batch and divided by their number (Yu et al. 2025). Each batch serves one update, so
the ratio of new to old probability is one, and its clipping never applies: only its gradient
remains. β weighs Schulman's estimate of the divergence from the start, r − log r − 1, corrected by
the same ratio.

Tokens are drawn by an exponential race: argmax p/e with e ~ Exp(1) has distribution p. The numbers
e come from the seed's stream, in the order and shape in which torch's own sampler draws them. On a
CPU, the answers therefore equal the first trainer's token by token, until rounding first decides a
race (about one draw in a million). After that draw, on other devices, and for a model with dropout,
the trainers agree in distribution only: their rewards are similar, their weights are not. A
comparison may not assume more than that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from stagezero.models.chat import answer_end, encode, load_tokenizer, with_answer_end
from stagezero.models.network import check_rows
from stagezero.tasks import Item, score
from stagezero.training.data import Example, equal_rewards_error
from stagezero.training.recipes import GRPO, RLHF
from stagezero.training.reference import adapters
from stagezero.training.reference.network import load, load_reward_model, log_probabilities, pad_rows, save, set_checkpointing
from stagezero.training.reference.optimise import mixed_precision, parts_of, skip_loader_draw, truncate_seed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RewardFunction = Callable[[Sequence[str], Sequence[str], Sequence[Sequence[int]], Sequence[int]], list[float]]
"""(prompts, answers without stop token, the answers' tokens, positions in the dataset) → one reward
each."""


def checker_rewards(step: GRPO, items: Sequence[Item]) -> RewardFunction:
    """Return the reward function of the task's checker, with the step's payoff for each outcome."""
    pays = step.pays.model_dump()
    return lambda _, answers, __, positions: [float(pays[score(items[i], answer)]) for answer, i in zip(answers, positions, strict=True)]


def model_rewards(reward_model: Path) -> RewardFunction:
    """Return the reward function of a reward model.

    The model's output is read at the end of the answer, as in its training.

    Args:
        reward_model: checkpoint folder of the reward model, whose tokenizer is the policy's.
    """
    network = load_reward_model(reward_model)
    tokenizer = load_tokenizer(reward_model)
    end = answer_end(tokenizer)

    @torch.inference_mode()
    def rewards_of(prompts: Sequence[str], _: Sequence[str], answers: Sequence[Sequence[int]], __: Sequence[int]) -> list[float]:
        rows = [head + with_answer_end(answer, end) for head, answer in zip(encode(tokenizer, prompts), answers, strict=True)]
        ids, mask = pad_rows(rows, tokenizer.pad_token_id)
        rewards: list[float] = network(input_ids=ids, attention_mask=mask).logits[:, 0].tolist()
        return rewards

    return rewards_of


def _question_batches(count: int, questions: int, group: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of ``questions`` positions, each position ``group`` times.

    A pass is a permutation. Positions that do not fill a batch are left out of the pass.
    """
    generator = torch.Generator().manual_seed(truncate_seed(seed))
    while count >= questions:
        skip_loader_draw()
        shuffled = torch.randperm(count, generator=generator).tolist()
        for start in range(0, count - questions + 1, questions):
            yield [i for i in shuffled[start : start + questions] for _ in range(group)]


@torch.no_grad()
def sample(
    network: PreTrainedModel, prompts: Sequence[Sequence[int]], stops: Sequence[int], pad: int, length: int, temperature: float
) -> list[list[int]]:
    """Sample one answer to each prompt.

    A row that has ended leaves the batch. The numbers of its races are still drawn, so that the
    draws of other rows do not change. Draws from the global generator: call it under
    ``optimise.seeded``.

    Args:
        network: a language model.
        prompts: the prompts' tokens.
        stops: the tokens that end an answer.
        pad: the padding token.
        length: the maximum number of tokens of an answer.
        temperature: the logits are divided by it.

    Returns:
        The answers' tokens, including the stop token of an answer that one ended.
    """
    from transformers import DynamicCache

    ids, mask = pad_rows(prompts, pad, left=True)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    running = torch.arange(len(ids), device=ids.device)
    stop_ids = torch.tensor(list(stops), device=ids.device)
    cache = DynamicCache(config=network.config)
    answers: list[list[int]] = [[] for _ in prompts]
    for _ in range(length):
        logits = network(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1].float()  # fmt: skip
        races = torch.empty(len(prompts), logits.shape[1], device=ids.device).exponential_()
        drawn = ((logits / temperature).softmax(1) / races[running]).argmax(1)
        for row, token in zip(running.tolist(), drawn.tolist(), strict=True):
            answers[row].append(token)
        unfinished = (~torch.isin(drawn, stop_ids)).nonzero().squeeze(1)
        if len(unfinished) == 0:
            break
        if len(unfinished) < len(running):
            cache.batch_select_indices(unfinished)
            running, drawn, mask, positions = running[unfinished], drawn[unfinished], mask[unfinished], positions[unfinished]
        ids = drawn.unsqueeze(1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        positions = positions[:, -1:] + 1
    return answers


def _stop_tokens(network: PreTrainedModel, eos: int) -> list[int]:
    """Return the tokens that end an answer: the tokenizer's, and those of the network."""
    declared = network.generation_config.eos_token_id if network.generation_config is not None else None
    tokens = declared if isinstance(declared, list) else [] if declared is None else [declared]
    return tokens if eos in tokens else [eos, *tokens]


def train(source: Path, out: Path, step: GRPO | RLHF, examples: Sequence[Example], reward: RewardFunction, seed: int) -> None:
    """Train from ``source`` and save to ``out``.

    The model receives the questions of ``examples``, without their answers.

    Raises:
        BuildError: the rewards never differed within a group, and no answer earned the checker's
            highest payoff.
    """
    network, tokenizer = load(source)
    reference = load(source)[0] if step.beta and step.lora is None else None
    prompts = [e["prompt"] for e in examples]
    prompt_ids = encode(tokenizer, prompts)
    check_rows(network, prompt_ids, step.length)
    pad, stops = tokenizer.pad_token_id, _stop_tokens(network, int(tokenizer.eos_token_id))
    differed, highest = False, float("-inf")
    highest_payoff = max(step.pays.model_dump().values()) if isinstance(step, GRPO) else float("inf")

    def losses(batch: list[int]) -> Iterator[Tensor]:
        nonlocal differed, highest
        questions = [prompt_ids[i] for i in batch]
        set_checkpointing(network, False)  # with it, the network would not use its cache
        with mixed_precision(network, step):
            answers = sample(network, questions, stops, pad, step.length, step.temperature)
        set_checkpointing(network, step.gradient_checkpointing)
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        rewards = reward([prompts[i] for i in batch], texts, answers, batch)
        differed |= any(len({round(r, 9) for r in rewards[i : i + step.group]}) > 1 for i in range(0, len(rewards), step.group))
        highest = max(highest, *rewards)
        groups = torch.tensor(rewards, device=network.device).view(-1, step.group)
        advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()

        left, right = pad_rows(questions, pad, left=True), pad_rows(answers, pad)
        # The first trainer shuffles its batch here, which draws from the stream.
        shuffled = torch.randperm(len(batch)).to(network.device)
        ids, mask = (torch.cat(parts, dim=1)[shuffled] for parts in zip(left, right, strict=True))
        in_answer = (mask > 0) & (torch.arange(ids.shape[1], device=ids.device) >= left[0].shape[1])
        for rows_of_part in parts_of(range(len(batch)), step):
            part = slice(rows_of_part[0], rows_of_part[-1] + 1)
            tokens, advantage = (ids[part], mask[part], in_answer[part]), advantages[shuffled[part]]
            old = None  # log-probabilities under the start
            if step.beta:
                start = reference if reference is not None else network
                with mixed_precision(network, step), torch.no_grad(), adapters.disabled(network):
                    old, _ = log_probabilities(start, *tokens, step.temperature)
            # Autocast would reuse, in one context, the weights that it converted without gradients.
            with mixed_precision(network, step):
                values, rows = log_probabilities(network, *tokens, step.temperature)
            ratio = (values - values.detach()).exp()
            terms = -ratio * advantage[rows]
            if old is not None:
                terms = terms + step.beta * ((old - values).exp() - (old - values) - 1) * ratio
            yield terms.sum() / in_answer.sum()

    adapters.fit(network, step, _question_batches(len(prompt_ids), step.batch_size // step.group, step.group, seed), losses, seed)
    # A policy that always earns the highest payoff has nothing to learn; that is not a failure.
    if not differed and highest < highest_payoff:
        raise equal_rewards_error(step)
    save(network, source, out)
