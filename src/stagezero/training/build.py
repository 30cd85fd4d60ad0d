"""Builds: makes a checkpoint from a base, a recipe and a seed.

Builds are hermetic: they depend on base, human data, recipe, seed and library versions only. Each
training step is stored under a key that includes the key of the step before it. Recipes with a
common prefix therefore share its work, and the candidate and control of a replicate differ exactly
in what the idea changed.

A change to ``_key_content`` changes the key of every build: raise ``BUILD_FORMAT`` with it.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stagezero.errors import BuildError, MemoryShortError, RunChangedError, StagezeroError, UnreadableTextError, WorkerError
from stagezero.isolation import Confinement
from stagezero.ledger import digest, file_digest
from stagezero.machine_faults import is_memory_short, machine_fault
from stagezero.models import checkpoint, checkpoint_digest
from stagezero.models.chat import load_tokenizer, render_completion, render_prompt
from stagezero.models.network import bfloat16_unit
from stagezero.tasks import DEFAULT_ANSWER_TOKENS, Item, Suite, answer_tokens
from stagezero.training.channels import channel_folder
from stagezero.training.data import (
    Example,
    all_training_items,
    datasets_before,
    definition_of,
    derive_seed,
    used_reward_positions,
    without_names,
)
from stagezero.training.recipes import (
    DPO,
    GRPO,
    RLHF,
    SFT,
    Code,
    Command,
    Distil,
    Filter,
    Merge,
    Mix,
    Recipe,
    Reward,
    TrainStep,
)  # fmt: skip
from stagezero.training.steps.run_program import NotStartedError
from stagezero.training.store import Store, StoredBuild

BUILD_FORMAT = "build/3"
TOO_LITTLE_MEMORY = "the machine has too little memory; free some, or use fewer workers, then run the same command again."


@dataclass(frozen=True, slots=True)
class Built:
    """A checkpoint and its cost.

    Args:
        folder: the checkpoint's folder.
        digest: the checkpoint's digest.
        key: the key of the last step; the base's digest if there is no step.
        seconds: time spent on the steps that were not stored yet.
        steps_made: number of steps that were made.
        steps_reused: number of steps that were already stored.
    """

    folder: Path
    digest: str
    key: str
    seconds: float
    steps_made: int
    steps_reused: int


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Return what can change a build's bits besides recipe and seed.

    That is library versions, number of threads, processor and device. It enters every build's key.
    """
    import torch

    names = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "versions": {name: importlib.metadata.version(name) for name in names}, "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(), "device": device,
    }  # fmt: skip


def render_examples(items: list[Item], tokenizer: Any, instruction: str | None) -> list[Example]:
    """Render items in a model's chat template.

    Args:
        items: training items.
        tokenizer: the model's tokenizer.
        instruction: the system message; None for no system message.
    """
    rows = []
    for item in items:
        prompt = render_prompt(tokenizer, item.input, instruction)
        rejected = render_completion(tokenizer, item.input, item.rejected, instruction, prompt) if item.rejected else None
        completion = render_completion(tokenizer, item.input, item.demonstration, instruction, prompt)
        rows.append(Example(prompt=prompt, completion=completion, rejected=rejected))
    return rows


@dataclass(frozen=True, slots=True)
class StepInputs:
    """Everything that a step is made from.

    Args:
        source: checkpoint folder that the step starts from.
        items: training items of the step's dataset.
        instruction: the suite's system message; None for no system message.
        other: checkpoint folder of the reward model, or of a declared channel's model.
        base: checkpoint folder of the base.
        seed: the step's seed.
        build_seed: the whole build's seed.
        confinement: how programs are confined.
        max_tokens: most tokens of another model's answer.
    """

    source: Path
    items: list[Item]
    instruction: str | None
    other: Path | None
    base: Path
    seed: int
    build_seed: int
    confinement: Confinement
    max_tokens: int


Trainer = Callable[[TrainStep, StepInputs, Path], None]
"""Writes one training step's checkpoint to a folder."""


def first_trainer(step: TrainStep, inputs: StepInputs, out: Path) -> None:
    """Make one step with TRL, or in the sandbox.

    Raises:
        BuildError: the step failed.
        SandboxError: a program could not be confined, and was not run.
    """
    from stagezero.training.steps import code, command, distil, dpo, grpo, merge, reward, sft

    source, items, instruction, seed = inputs.source, inputs.items, inputs.instruction, inputs.seed
    tokenizer = load_tokenizer(source)
    examples, stop = render_examples(items, tokenizer, instruction), str(tokenizer.eos_token)
    match step:
        case SFT():
            sft.train(source, out, step, examples, seed)
        case DPO():
            dpo.train(source, out, step, examples, seed)
        case GRPO():
            grpo.train(source, out, step, examples, grpo.checker_rewards(step, items), seed)
        case Reward():
            reward.train(source, out, step, examples, items, seed)
        case RLHF():
            assert inputs.other is not None
            grpo.train(source, out, step, examples, grpo.model_rewards(inputs.other), seed)
        case Command():
            command.train(source, inputs.base, out, step, examples, seed, inputs.confinement)
        case Code():
            code.train(source, inputs.base, out, step, items, examples, stop, seed, inputs.build_seed, inputs.confinement)
        case Distil():
            assert inputs.other is not None
            distil.train(source, inputs.other, out, step, items, examples, instruction, seed, inputs.max_tokens)
        case Merge():
            assert inputs.other is not None
            merge.train(source, inputs.other, out, step)


def _key_content(
    step: TrainStep, position: int, recipe: Recipe, before: str, suite: Suite, seed: int, step_seed: int, other: str | None, base: str,
    tokens: int,
) -> dict[str, Any]:  # fmt: skip
    """Return everything that determines one training step's result. Its hash is the build's key."""
    data: Any = without_names(definition_of(step.data, recipe.steps[:position])) if step.data is not None else []
    content: dict[str, Any] = step.model_dump(mode="json", exclude={"name", "data", "timeout", "reward"})
    if "dtype" in content:  # only if it is not float32
        unit = bfloat16_unit()
        content |= {"dtype": f"bfloat16 on {unit}"} if unit is not None else {"dtype": "float32"}
    if isinstance(step, Command):
        # The files' bytes count, not their folders: the program finds them under their bare names.
        content["inputs"] = {Path(name).name: file_digest(Path(name)) for name in step.inputs}
    if isinstance(step, Command | Code):
        content["base"] = base  # the program can read the base too
    if isinstance(step, Code) and step.data is None:
        data = "all"
    if isinstance(step, RLHF):
        content["reward_model"] = other
    if isinstance(step, Distil | Merge):
        content["source"] = other  # the model's digest, not its name
    if isinstance(step, Distil) and tokens != DEFAULT_ANSWER_TOKENS:
        content["answer_tokens"] = tokens
    return {
        "format": BUILD_FORMAT, "before": before, "step": content, "step_seed": step_seed, "data": data,
        "data_seed": seed if data else None, "suite": suite.digest() if data else None, "environment": environment(),
    }  # fmt: skip


def _reject_non_finite_weights(step: TrainStep, folder: Path) -> None:
    """Reject a checkpoint with a weight that is NaN or infinite: its answers would mean nothing.

    Raises:
        BuildError: the message names the tensor.
    """
    name = checkpoint.first_non_finite_tensor(folder)
    if name is not None:
        raise BuildError(
            f"{step.step} step {step.name!r}: tensor {name!r} has a weight that is not a finite number; train with a lower learning rate."
        )


def build(
    base: Path,
    recipe: Recipe,
    suite: Suite,
    seed: int,
    store: Store,
    confinement: Confinement | None = None,
    trainer: Trainer = first_trainer,
    max_tokens: int | None = None,
    base_digest: str | None = None,
) -> Built:
    """Build a recipe from a base, reusing every step that is already stored.

    Args:
        base: checkpoint folder of the base; it is never written to.
        recipe: the steps; the empty recipe returns the base.
        suite: the source of the training items.
        seed: determines the draw, the data order and every step's generator.
        store: where finished steps are stored. Each trainer needs a store of its own, since a
            step's key does not include its trainer.
        confinement: how programs are confined; None confines them in a box.
        trainer: makes the steps.
        max_tokens: most tokens of another model's answer, in a distil step; None takes what the
            suite needs.
        base_digest: the base's registered digest; None accepts any base.

    Raises:
        RunChangedError: the base, or a channel's model, is not the registered one or has changed.
        BuildError, RecipeError: a step failed, or selects no data.
        ModelError: a declared channel names a model that does not exist.
        SandboxError: a program could not be confined, and was not run.
        WorkerError: a disk or mount failed.
        MemoryShortError: the machine has too little memory.
    """
    tokens = answer_tokens(suite) if max_tokens is None else max_tokens
    read = {base: checkpoint.fingerprint(base)}
    """Folders outside the store that are hashed and later loaded, as they were before."""
    folder, content = base, checkpoint_digest(base)
    if base_digest is not None and content != base_digest:
        raise RunChangedError(f"{base}: the base changed during the run; undo the change, or start again with --fresh.")
    key, seconds, made, reused = content, 0.0, 0, 0
    occurrences: dict[str, int] = {}
    rewards: dict[str, StoredBuild] = {}
    used_rewards = used_reward_positions(recipe)
    for position, step in enumerate(recipe.steps):
        if isinstance(step, Mix | Filter) or (isinstance(step, Reward) and position not in used_rewards):
            continue
        occurrence = occurrences[step.step] = occurrences.get(step.step, 0) + 1
        step_seed = derive_seed(seed, step.step, occurrence)
        other: Path | None = None
        other_key: str | None = None
        if isinstance(step, RLHF):
            other, other_key = rewards[step.reward].folder, rewards[step.reward].key
        elif isinstance(step, Distil | Merge):
            other = channel_folder(step, base, folder)
            read.setdefault(other, checkpoint.fingerprint(other))
            other_key = checkpoint_digest(other)
        determined_by = _key_content(step, position, recipe, key, suite, seed, step_seed, other_key, checkpoint_digest(base), tokens)
        source = folder
        step_key = digest(determined_by)
        # The timeout is no part of a build's key. It is part of a failure's key, since the program
        # may succeed with more time.
        attempt = digest({"build": step_key, "timeout": step.timeout}) if isinstance(step, Command | Code) else None

        def make(
            out: Path, step: TrainStep = step, position: int = position, source: Path = source, step_seed: int = step_seed,
            other: Path | None = other, attempt: str | None = attempt,
        ) -> float:  # fmt: skip
            if attempt is not None and (reason := store.recorded_failure(attempt)) is not None:
                raise BuildError(reason)
            start = time.perf_counter()
            items = datasets_before(recipe, position, suite, seed)[step.data] if step.data is not None else []
            if isinstance(step, Code) and step.data is None:
                items = all_training_items(suite, seed)
            inputs = StepInputs(source, items, suite.instruction, other, base, step_seed, seed, confinement or Confinement(), tokens)
            try:
                trainer(step, inputs, out)
                changed = next((path for path, before in read.items() if checkpoint.fingerprint(path) != before), None)
                if changed is not None:
                    raise RunChangedError(f"{changed}: this model changed while it was used; run the same command again.")
                _reject_non_finite_weights(step, out)
            except UnreadableTextError as error:
                raise BuildError(f"{step.step} step {step.name!r}: {error}") from None
            except StagezeroError as error:
                if attempt is not None and isinstance(error, BuildError) and not isinstance(error, NotStartedError):
                    store.record_failure(attempt, str(error))
                raise
            except Exception as error:
                if is_memory_short(error):
                    raise MemoryShortError(f"{step.step} step {step.name!r}: {TOO_LITTLE_MEMORY}") from error
                fault = machine_fault(error) or (error.strerror or str(error) if isinstance(error, OSError) else None)
                if fault is not None:
                    raise WorkerError(
                        f"{step.step} step {step.name!r}: {fault}; mend the disk or free space, then run the same command again."
                    ) from error
                first_line = (str(error).strip() or "no message").splitlines()[0]
                raise BuildError(f"{step.step} step {step.name!r} failed: {type(error).__name__}: {first_line:.200}") from error
            return time.perf_counter() - start

        stored = store.get_or_build(step_key, determined_by, make)
        if isinstance(step, Reward):
            rewards[step.name] = stored  # a reward step does not change the policy
        else:
            key, folder, content = stored.key, stored.folder, stored.digest
        if stored.reused:
            reused += 1
        else:
            made += 1
            seconds += stored.seconds
    return Built(folder, content, key, seconds, made, reused)
