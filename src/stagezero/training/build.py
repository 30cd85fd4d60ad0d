"""recipe + seed → checkpoint. Builds are hermetic: base, human data, recipe, seed and library versions; nothing else.

Each training step is stored under a key that chains the step before it, so that recipes which share a prefix share
its work, and so that candidate and control of a replicate differ in exactly what the idea changed.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stagezero.errors import BuildError, StagezeroError, WorkerError
from stagezero.isolation import Confinement
from stagezero.ledger import digest, file_digest
from stagezero.models import checkpoint_digest
from stagezero.models.loader import load_tokenizer, materialise, render_completion, render_prompt
from stagezero.tasks import Item, Suite
from stagezero.training.data import Example, datasets_before, definition_of, derive_seed, everything, nameless, used_rewards
from stagezero.training.recipes import (
    DPO,
    GRPO,
    RLHF,
    SELF,
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
from stagezero.training.store import Store, Stored

BUILD_FORMAT = "build/2"


@dataclass(frozen=True, slots=True)
class Built:
    """A checkpoint and what it cost."""

    folder: Path
    digest: str
    key: str
    seconds: float
    steps_made: int
    steps_reused: int


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """What besides recipe and seed can change a build's bits: library versions, threads, processor, device."""
    import torch

    names = ("torch", "transformers", "trl", "peft", "accelerate", "tokenizers")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "versions": {name: importlib.metadata.version(name) for name in names}, "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(), "device": device,
    }  # fmt: skip


def examples_of(items: list[Item], tokenizer: Any, instruction: str | None) -> list[Example]:
    rows = []
    for item in items:
        rejected = render_completion(tokenizer, item.input, item.rejected, instruction) if item.rejected else None
        rows.append(
            Example(
                prompt=render_prompt(tokenizer, item.input, instruction),
                completion=render_completion(tokenizer, item.input, item.demonstration, instruction),
                rejected=rejected,
            )
        )
    return rows


@dataclass(frozen=True, slots=True)
class Making:
    """What a step is made from."""

    source: Path
    items: list[Item]
    instruction: str | None
    other: Path | None
    """The reward model, or the model of a declared channel."""
    base: Path
    seed: int
    build_seed: int
    confinement: Confinement


Trainer = Callable[[TrainStep, Making, Path], None]
"""Makes one training step's checkpoint in a folder."""


def first_trainer(step: TrainStep, making: Making, out: Path) -> None:
    """Make one step with TRL, or in the sandbox."""
    from stagezero.training.steps import code, command, distil, dpo, grpo, merge, reward, sft

    source, items, instruction, seed = making.source, making.items, making.instruction, making.seed
    tokenizer = load_tokenizer(source)
    examples = examples_of(items, tokenizer, instruction)
    match step:
        case SFT():
            sft.train(source, out, step, examples, seed)
        case DPO():
            dpo.train(source, out, step, examples, seed)
        case GRPO():
            grpo.train(source, out, step, examples, grpo.checked(step, items), seed)
        case Reward():
            reward.train(source, out, step, examples, items, seed)
        case RLHF():
            assert making.other is not None
            grpo.train(source, out, step, examples, grpo.modelled(making.other, str(tokenizer.eos_token)), seed)
        case Command():
            command.train(source, making.base, out, step, examples, seed, making.confinement)
        case Code():
            code.train(source, making.base, out, step, items, examples, seed, making.build_seed, making.confinement)
        case Distil():
            assert making.other is not None
            distil.train(source, making.other, out, step, items, examples, instruction, seed)
        case Merge():
            assert making.other is not None
            merge.train(source, making.other, out, step)


def _key_of(
    step: TrainStep, position: int, recipe: Recipe, before: str, suite: Suite, seed: int, step_seed: int, other: str | None, base: str
) -> dict[str, Any]:
    """Everything that determines one training step's result."""
    data: Any = nameless(definition_of(step.data, recipe.steps[:position])) if step.data is not None else []
    content: dict[str, Any] = step.model_dump(mode="json", exclude={"name", "data", "timeout", "reward"})
    if isinstance(step, Command):
        # The bytes of the files count, not where they lie; they are known to the program by their bare names.
        content["inputs"] = {Path(name).name: file_digest(Path(name)) for name in step.inputs}
    if isinstance(step, Command | Code):
        content["base"] = base  # its program is shown the base too
    if isinstance(step, Code) and step.data is None:
        data = "all"
    if isinstance(step, RLHF):
        content["reward_model"] = other
    if isinstance(step, Distil | Merge):
        content["source"] = other  # which model that is, not what it is called
    return {
        "format": BUILD_FORMAT, "before": before, "step": content, "step_seed": step_seed, "data": data,
        "data_seed": seed if data else None, "suite": suite.digest() if data else None, "environment": environment(),
    }  # fmt: skip


def source_of(step: Distil | Merge, base: Path, so_far: Path) -> Path:
    """The folder of the model that a declared channel names.

    Raises:
        ModelError: there is none.
    """
    return so_far if step.source == SELF else base if step.source == "base" else materialise(step.source)


def build(
    base: Path,
    recipe: Recipe,
    suite: Suite,
    seed: int,
    store: Store,
    confinement: Confinement | None = None,
    trainer: Trainer = first_trainer,
) -> Built:
    """Build a recipe from a base, reusing every step that was built before.

    Args:
        base: checkpoint folder of the base; it is never written to.
        recipe: what to do to it; the empty recipe gives back the base.
        suite: whose training items the data steps draw on.
        seed: determines the draw, the data order and every step's generator.
        store: where finished steps are kept; one for each trainer, since a step is known by what determines it and not by who made it.
        confinement: how programs are confined; in a box when None.
        trainer: makes the steps.

    Raises:
        BuildError, RecipeError: a step failed or fits no data.
        SandboxError: a program could not be confined, and was not run.
    """
    import torch

    folder, content = base, checkpoint_digest(base)
    key, seconds, made, reused = content, 0.0, 0, 0
    used: dict[str, int] = {}
    rewards: dict[str, Stored] = {}
    judges = used_rewards(recipe)
    for position, step in enumerate(recipe.steps):
        if isinstance(step, Mix | Filter) or (isinstance(step, Reward) and position not in judges):
            continue
        occurrence = used[step.step] = used.get(step.step, 0) + 1
        step_seed = derive_seed(seed, step.step, occurrence)
        other: Path | None = None
        other_key: str | None = None
        if isinstance(step, RLHF):
            other, other_key = rewards[step.reward].folder, rewards[step.reward].key
        elif isinstance(step, Distil | Merge):
            other = source_of(step, base, folder)
            other_key = checkpoint_digest(other)
        determined_by = _key_of(step, position, recipe, key, suite, seed, step_seed, other_key, checkpoint_digest(base))
        source = folder
        name = digest(determined_by)
        # With more time the program may succeed, which makes it another question, if the same build.
        attempt = digest({"build": name, "timeout": step.timeout}) if isinstance(step, Command | Code) else None

        def make(
            out: Path, step: TrainStep = step, position: int = position, source: Path = source, step_seed: int = step_seed,
            other: Path | None = other, attempt: str | None = attempt,
        ) -> float:  # fmt: skip
            if attempt is not None and (known := store.failure(attempt)) is not None:
                raise BuildError(known)
            start = time.perf_counter()
            items = datasets_before(recipe, position, suite, seed)[step.data] if step.data is not None else []
            if isinstance(step, Code) and step.data is None:
                items = everything(suite, seed)
            making = Making(source, items, suite.instruction, other, base, step_seed, seed, confinement or Confinement())
            try:
                trainer(step, making, out)
            except StagezeroError as error:
                if attempt is not None and isinstance(error, BuildError) and not isinstance(error, NotStartedError):
                    store.keep_failure(attempt, str(error))
                raise
            except (OSError, MemoryError, torch.OutOfMemoryError) as error:
                raise WorkerError(
                    f"{step.step} step {step.name!r}: {type(error).__name__}: {error}; free memory or disk, run again."
                ) from error
            except Exception as error:
                first = (str(error).strip() or "no message").splitlines()[0]
                raise BuildError(f"{step.step} step {step.name!r} failed: {type(error).__name__}: {first:.200}") from error
            return time.perf_counter() - start

        stored = store.obtain(name, determined_by, make)
        if isinstance(step, Reward):
            rewards[step.name] = stored  # it judges; the policy goes on from where it was
        else:
            key, folder, content = stored.key, stored.folder, stored.digest
        if stored.reused:
            reused += 1
        else:
            made += 1
            seconds += stored.seconds
    return Built(folder, content, key, seconds, made, reused)
