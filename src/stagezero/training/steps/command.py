"""A team's own trainer as a step: a program that reads one checkpoint folder and writes another, in the sandbox."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stagezero.isolation import Confinement, Task
from stagezero.training.data import Example
from stagezero.training.recipes import Command
from stagezero.training.steps import run_program


def train(source: Path, base: Path, out: Path, step: Command, examples: Sequence[Example], seed: int, confinement: Confinement) -> None:
    """Run the program and take its checkpoint.

    Raises:
        BuildError: it failed, was stopped twice, or wrote something that is not the same model with other weights.
        SandboxError: it could not be confined, and was not run.
    """
    files = {Path(name).name: Path(name).read_bytes() for name in step.inputs}
    data = "".join(json.dumps(example) + "\n" for example in examples).encode() if step.data is not None else None
    task = Task(step.run, source, base, files, data, seed, step.timeout, run_program.weights_at_most(source))
    run_program.run(task, f"command step {step.name!r}", confinement, out)
