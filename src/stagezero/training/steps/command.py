"""A team's own trainer as a step.

The trainer is a program that reads one checkpoint folder and writes another, in the sandbox.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from stagezero.isolation import Confinement, Task
from stagezero.training.data import Example
from stagezero.training.recipes import Command
from stagezero.training.steps import run_program


def train(source: Path, base: Path, out: Path, step: Command, examples: Sequence[Example], seed: int, confinement: Confinement) -> None:
    """Run the program and write its checkpoint to ``out``.

    Args:
        source: checkpoint folder of the model so far.
        base: checkpoint folder of the base.
        out: folder to fill.
        step: the program, its input files and its timeout.
        examples: rendered prompts and answers.
        seed: the seed that the program receives.
        confinement: how the program is confined.

    Raises:
        BuildError: the program failed, was stopped twice, or wrote anything but the same model with
            other weights.
        SandboxError: the program could not be confined, and was not run.
    """
    files = {Path(name).name: Path(name).read_bytes() for name in step.inputs}
    data = "".join(json.dumps(example) + "\n" for example in examples).encode() if step.data is not None else None
    task = Task(step.run, source, base, files, data, seed, step.timeout, run_program.max_weight_bytes(source))
    run_program.run(task, f"command step {step.name!r}", confinement, out)
