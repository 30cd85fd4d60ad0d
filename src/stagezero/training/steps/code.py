"""An idea's code as a step: one function ``technique(ctx) -> model``, run in the sandbox on what the steps before it have made.

A build is a function of base, data, idea and seed. Code could make it depend on something else that a sandbox cannot take away (the
clock, how busy the machine is, where memory lies), which would be a channel. So one build in four, chosen where the code cannot see it,
is made twice in two sandboxes and compared bit for bit; an accelerator's arithmetic does not repeat itself so exactly, and there it is
not done.
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

ONE_IN = 4


def train(
    source: Path, base: Path, out: Path, step: Code, items: Sequence[Item], examples: Sequence[Example], seed: int, build_seed: int,
    confinement: Confinement,
) -> None:  # fmt: skip
    """Run the code and take its model.

    Args:
        seed: what the code is given.
        build_seed: the whole build's, which it cannot find from that.

    Raises:
        BuildError: it failed, was stopped twice, returned another model, or is no function of its inputs.
        SandboxError: it could not be confined, and was not run.
    """
    import torch

    rows = ({**e, "claim": item.property, "kind": item.kind} for item, e in zip(items, examples, strict=True))
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    what = f"code step {step.name!r}"
    files = {"technique.py": step.source.encode()}
    task = Task((), source, base, files, data, seed, step.timeout, run_program.weights_at_most(source))
    run_program.run(task, what, confinement, out)
    if derive_seed(build_seed, "again", seed) % ONE_IN == 0 and not torch.cuda.is_available():
        again = out.with_name(out.name + "-again")
        try:
            run_program.run(task, what, confinement, again)
            if not run_program.same(out, again):
                raise BuildError(
                    f"{what}: built twice from the same base, data, idea and seed it gave two models; let it depend on nothing else "
                    "(no clock, no random numbers but the seeded ones, no order of sets)."
                )
        finally:
            shutil.rmtree(again, ignore_errors=True)
