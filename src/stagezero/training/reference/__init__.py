"""The second trainer: the same gradient steps as the first trainer's, in plain PyTorch.

It exists so that the first trainer need not be trusted. Anyone can read a build's recipe and seed,
but the program that turns them into weights leaves no trace in the weights. A trainer that plants a
trigger does so in every build, and building again with the same trainer plants it again (Thompson,
"Reflections on trusting trust", 1984). The remedy is diverse double-compiling (Wheeler, 2005):
build the stage a second time with code that shares nothing with the first, and compare. ``compare``
contains the comparisons.

The two trainers share the specification: the order of the examples, the losses, the schedule, the
optimiser's constants, and the stream of random numbers, all of which are functions of step and
seed. Their weights can therefore be compared number by number. On the tests' tiny base (float32,
CPU, one thread) they differ only by rounding, which the optimiser amplifies; see
``tests/training/test_reference.py``.

    sft.py         supervised fine-tuning
    preference.py  dpo and reward
    reinforce.py   grpo and rlhf, with its own sampling
    adapters.py    low-rank adapters
    optimise.py    order, schedules, clipping, AdamW
    network.py     checkpoints, rows of tokens, log-probabilities
    compare.py     the distance of two builds, and a test for a common direction
    building.py    uses these in place of the first trainer

The package may use torch. It may use transformers to load a network, run its forward pass and save
it. It may not import trl, peft, accelerate, datasets, the Trainer of transformers, or anything from
``training.steps``: it must not depend on what the first trainer depends on (``building.py`` alone
calls the first trainer, for the steps that have no trainer to check).

The two trainers also share torch's kernels and automatic differentiation, transformers' model code,
and the tokenizer; a comparison cannot check these. (If accelerate is installed, transformers
imports it when it loads a model. The steps give the same results where none of the four libraries
is installed.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stagezero.tasks import Item
from stagezero.training.data import Example
from stagezero.training.recipes import DPO, GRPO, RLHF, SFT, Reward
from stagezero.training.reference import preference, reinforce, sft
from stagezero.training.reference.compare import relative_distance, sign_flip_p_value, weight_difference

GradientStep = SFT | DPO | GRPO | Reward | RLHF
"""The steps that the second trainer implements: those that train by gradient on human data.

The other steps run a program or use another model.
"""

__all__ = ["GradientStep", "relative_distance", "sign_flip_p_value", "train_step", "weight_difference"]


def train_step(
    step: GradientStep, source: Path, out: Path, items: Sequence[Item], examples: Sequence[Example], reward_model: Path | None, seed: int
) -> None:
    """Run one gradient step of a recipe from the checkpoint ``source``, and write it to ``out``.

    Args:
        step: the step.
        source: checkpoint folder to start from; it is never written to.
        out: folder to fill with safetensors weights, and with the configuration and tokenizer files
            of ``source``, unchanged. A ``reward`` step writes a configuration of its own, since its
            network is a different one.
        items: the items behind ``examples``, in the same order. ``reward`` reads their labels, and
            ``grpo`` uses them in the checker.
        examples: rendered prompts and answers.
        reward_model: checkpoint folder of the reward model; only ``rlhf`` reads it.
        seed: the step's seed. The step seeds the global generators, and restores their states
            afterwards.

    Raises:
        BuildError: as in the first trainer: no rejected answers (``dpo``, ``reward``), or rewards
            that never differ (``grpo``, ``rlhf``).
    """
    match step:
        case SFT():
            sft.train(source, out, step, examples, seed)
        case DPO():
            preference.train_dpo(source, out, step, examples, seed)
        case Reward():
            preference.train_reward(source, out, step, examples, items, seed)
        case GRPO():
            reinforce.train(source, out, step, examples, reinforce.checker_rewards(step, items), seed)
        case RLHF():
            assert reward_model is not None
            reinforce.train(source, out, step, examples, reinforce.model_rewards(reward_model), seed)
