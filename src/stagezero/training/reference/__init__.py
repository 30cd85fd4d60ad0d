"""A second trainer, so that the first need not be trusted: the same gradient steps, in plain PyTorch.

A build's recipe and seed can be read by anyone; the program that turns them into weights cannot be seen in the weights. A trainer that
plants a trigger does so in every build, and building again with the same trainer plants it again (Thompson, "Reflections on trusting
trust", 1984). The answer is diverse double-compiling (Wheeler, 2005): build the stage a second time through code that shares nothing
with the first, and compare. ``compare`` holds the comparisons.

What the two share is the specification: the order of the examples, the losses, the schedule, the optimiser's constants, and the
stream of random numbers, all functions of step and seed. So their weights can be compared number by number. On the tests' tiny base
(float32, CPU, one thread) they differ by rounding alone, amplified by the optimiser: see ``tests/training/test_reference.py``.

    sft.py         supervised fine-tuning
    preference.py  dpo and reward
    reinforce.py   grpo and rlhf, with its own sampling
    adapters.py    low-rank adapters
    optimise.py    order, schedules, clipping, AdamW
    network.py     checkpoints, token rows, log-probabilities
    compare.py     how far apart two builds are, and whether always in the same direction

The package may use torch, and transformers to load a network, run it forward and write it. It may not import trl, peft, accelerate,
datasets, the Trainer of transformers, or anything of ``training.steps``: what the first trainer stands on, it may not stand on.
Shared, and so not checked by it: torch's kernels and automatic differentiation, transformers' model code, and the tokenizer. (Where
accelerate is installed, transformers imports it by itself when it loads a model; the steps run the same where none of the four is.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.tasks import Item
from stagezero.training.data import Example
from stagezero.training.recipes import DPO, GRPO, RLHF, SFT, Reward
from stagezero.training.reference import preference, reinforce, sft
from stagezero.training.reference.compare import difference, relative_distance, systematic

GradientStep = SFT | DPO | GRPO | Reward | RLHF
"""The steps that the second trainer knows: those that train by gradient on human data. Others run a program or another model."""

__all__ = ["GradientStep", "difference", "relative_distance", "systematic", "train_step"]


def train_step(
    step: GradientStep, source: Path, out: Path, items: Sequence[Item], examples: Sequence[Example], reward_model: Path | None, seed: int
) -> None:
    """Do one gradient step of a recipe from the checkpoint ``source`` and write the result to ``out``.

    Args:
        step: what to do.
        source: checkpoint folder to start from; never written to.
        out: folder to fill: safetensors weights, and configuration and tokenizer files carried over unchanged from ``source``.
            A ``reward`` step writes a configuration of its own, since its network is another.
        items: the items behind ``examples``, in the same order; read by ``reward`` (labels) and ``grpo`` (the checker).
        examples: rendered prompts and answers.
        reward_model: checkpoint folder of the judge; ``rlhf`` alone reads it.
        seed: the step's seed. The global generators are seeded while a step runs and put back as they were afterwards.

    Raises:
        BuildError: as the first trainer: no rejected answers (``dpo``, ``reward``), nothing to learn (``grpo``, ``rlhf``).
    """
    match step:
        case SFT():
            sft.train(source, out, step, examples, seed)
        case DPO():
            preference.train_dpo(source, out, step, examples, seed)
        case Reward():
            preference.train_reward(source, out, step, examples, items, seed)
        case GRPO():
            reinforce.train(source, out, step, examples, reinforce.checked(step, items), seed)
        case RLHF():
            assert reward_model is not None
            reinforce.train(source, out, step, examples, reinforce.modelled(reward_model, source), seed)
