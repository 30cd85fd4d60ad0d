"""An idea's code as a step: one function ``technique(ctx) -> model``.

It runs in the sandbox, on the model that the earlier steps have made. A build must be a function of
base, data, idea and seed. Code could depend on other things that a sandbox cannot remove: the
clock, the load of the machine, memory addresses. That would be a channel. One build in four, chosen
by a seed that the code cannot read, is therefore made twice in two sandboxes and compared bit for
bit. An accelerator's arithmetic does not repeat that exactly, so the comparison is left out there.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from stagezero.errors import BuildError
from stagezero.isolation import Confinement, Task
from stagezero.tasks import Item
from stagezero.training.data import Example, derive_seed
from stagezero.training.recipes import Code
from stagezero.training.steps import run_program

REPEATED_BUILD_ONE_IN = 4
"""One build in this many is made twice."""


def train(
    source: Path, base: Path, out: Path, step: Code, items: Sequence[Item], examples: Sequence[Example], stop: str, seed: int,
    build_seed: int, confinement: Confinement,
) -> None:  # fmt: skip
    """Run the code and write its model to ``out``.

    Args:
        source: checkpoint folder of the model so far.
        base: checkpoint folder of the base.
        out: folder to fill.
        step: the code and its timeout.
        items: the items behind ``examples``, in the same order.
        examples: rendered prompts and answers.
        stop: the model's stop token.
        seed: the seed that the code receives.
        build_seed: the whole build's seed; the code cannot derive it from ``seed``.
        confinement: how the code is confined.

    Raises:
        BuildError: the code failed, was stopped twice, returned another model, or does not depend
            on its inputs alone.
        SandboxError: the code could not be confined, and was not run.
    """
    import torch

    rows = ({**e, "claim": item.property, "kind": item.kind} for item, e in zip(items, examples, strict=True))
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    step_label = f"code step {step.name!r}"
    files = {"technique.py": step.source.encode(), "stop_token": stop.encode()}
    task = Task((), source, base, files, data, seed, step.timeout, run_program.max_weight_bytes(source))
    run_program.run(task, step_label, confinement, out)
    if derive_seed(build_seed, "again", seed) % REPEATED_BUILD_ONE_IN == 0 and not torch.cuda.is_available():
        second = out.with_name(out.name + "-again")
        try:
            run_program.run(task, step_label, confinement, second)
            if not run_program.are_identical(out, second):
                raise BuildError(
                    f"{step_label}: built twice from the same base, data, idea and seed, it returned two different models; "
                    "expected code that depends on these alone: use no clock, no unseeded random numbers and no order of sets."
                )
        finally:
            shutil.rmtree(second, ignore_errors=True)
