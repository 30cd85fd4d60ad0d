"""recipe + seed → checkpoint. Builds are hermetic: base, human data, recipe, seed and library versions; nothing else.

Each training step is stored under a key that chains the step before it, so that recipes which share a prefix share
its work, and so that candidate and control of a replicate differ in exactly what the idea changed.
"""

from __future__ import annotations

import importlib.metadata
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stagezero.errors import BuildError, StagezeroError, WorkerError
from stagezero.ledger import digest, file_digest
from stagezero.models import checkpoint_digest
from stagezero.models.loader import load_tokenizer, render_completion, render_prompt
from stagezero.tasks import Item, Suite
from stagezero.training.data import Example, datasets_before, definition_of, derive_seed, nameless, used_rewards
from stagezero.training.recipes import DPO, GRPO, RLHF, SFT, Command, Filter, Mix, Recipe, Reward, TrainStep
from stagezero.training.steps.command import NotStartedError
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
        "versions": {name: importlib.metadata.version(name) for name in names},
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "device": device,
    }


def _examples(items: list[Item], tokenizer: Any, instruction: str | None) -> list[Example]:
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


def _train(
    step: TrainStep, source: Path, out: Path, items: list[Item], instruction: str | None, reward_model: Path | None, seed: int
) -> None:
    from stagezero.training.steps import command, dpo, grpo, reward, sft

    tokenizer = load_tokenizer(source)
    examples = _examples(items, tokenizer, instruction)
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
            assert reward_model is not None
            grpo.train(source, out, step, examples, grpo.modelled(reward_model, str(tokenizer.eos_token)), seed)
        case Command():
            command.train(source, out, step, examples, seed)


def _key_of(
    step: TrainStep, position: int, recipe: Recipe, before: str, suite: Suite, seed: int, step_seed: int, reward_model: str | None
) -> dict[str, Any]:
    """Everything that determines one training step's result."""
    data = nameless(definition_of(step.data, recipe.steps[:position])) if step.data is not None else []
    content: dict[str, Any] = step.model_dump(mode="json", exclude={"name", "data", "timeout", "reward"})
    if isinstance(step, Command):
        # The bytes of the files count, not where they lie; they are known to the program by their bare names.
        content["inputs"] = {Path(name).name: file_digest(Path(name)) for name in step.inputs}
    if reward_model is not None:
        content["reward_model"] = reward_model
    return {
        "format": BUILD_FORMAT,
        "before": before,
        "step": content,
        "step_seed": step_seed,
        "data": data,
        "data_seed": seed if data else None,
        "suite": suite.digest() if data else None,
        "environment": environment(),
    }


def build(base: Path, recipe: Recipe, suite: Suite, seed: int, store: Store) -> Built:
    """Build a recipe from a base, reusing every step that was built before.

    Args:
        base: checkpoint folder of the base; it is never written to.
        recipe: what to do to it; the empty recipe gives back the base.
        suite: whose training items the data steps draw on.
        seed: determines the draw, the data order and every step's generator.
        store: where finished steps are kept.

    Raises:
        BuildError, RecipeError: a step failed or fits no data.
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
        judge = rewards[step.reward] if isinstance(step, RLHF) else None
        determined_by = _key_of(step, position, recipe, key, suite, seed, step_seed, judge.key if judge is not None else None)
        source = folder
        name = digest(determined_by)
        # With more time the program may succeed, which makes it another question, if the same build.
        attempt = digest({"build": name, "timeout": step.timeout}) if isinstance(step, Command) else None

        def make(
            out: Path, step: TrainStep = step, position: int = position, source: Path = source, step_seed: int = step_seed,
            judge: Stored | None = judge, attempt: str | None = attempt,
        ) -> float:  # fmt: skip
            if attempt is not None and (known := store.failure(attempt)) is not None:
                raise BuildError(known)
            start = time.perf_counter()
            items = datasets_before(recipe, position, suite, seed)[step.data] if step.data is not None else []
            try:
                _train(step, source, out, items, suite.instruction, judge.folder if judge is not None else None, step_seed)
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
