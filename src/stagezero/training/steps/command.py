"""A team's own trainer as a step: a program that reads one checkpoint folder and writes another.

What comes back is taken only if it is safetensors with exactly the tensors that went in (names, shapes, types);
configuration and tokenizer are the input's. It runs with the user's rights; what it may read is not limited here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stagezero.errors import BuildError, ModelError, WorkerError
from stagezero.models.checkpoint import CONTENT, tensors
from stagezero.training.data import Example
from stagezero.training.recipes import Command

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR", "VIRTUAL_ENV")


def train(source: Path, out: Path, step: Command, examples: Sequence[Example], seed: int) -> None:
    """Run the program and take its checkpoint.

    Raises:
        BuildError: it failed, ran too long, or wrote something that is not the same model with other weights.
    """
    scratch = out.parent / f"{out.name}.command"
    work, written = scratch / "work", scratch / "out"
    work.mkdir(parents=True)
    written.mkdir()
    for name in step.inputs:
        shutil.copyfile(name, work / Path(name).name)
    environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    environment |= {
        "STAGEZERO_MODEL": str(source),
        "STAGEZERO_OUT": str(written),
        "STAGEZERO_SEED": str(seed),
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        "HOME": str(scratch),
    }
    if step.data is not None:
        data = scratch / "data.jsonl"
        data.write_text("".join(json.dumps(example) + "\n" for example in examples))
        environment["STAGEZERO_DATA"] = str(data)
    # "python" means the interpreter that stagezero itself runs in, where torch is.
    program = [sys.executable if step.run[0] in ("python", "python3") else step.run[0], *step.run[1:]]
    try:
        done = subprocess.run(program, cwd=work, env=environment, capture_output=True, text=True, timeout=step.timeout, check=False)
    except subprocess.TimeoutExpired:
        raise BuildError(f"command step {step.name!r}: still running after {step.timeout} s; raise 'timeout' or make it faster.") from None
    except OSError as error:
        raise BuildError(f"command step {step.name!r}: could not start {step.run[0]!r} ({error.strerror}); correct 'run'.") from None
    if done.returncode == -signal.SIGKILL:  # nobody sends that to itself: the machine was short of memory, or a person stopped it
        raise WorkerError(f"command step {step.name!r}: the program was killed; free memory, run again.")
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise BuildError(f"command step {step.name!r}: exit code {done.returncode}: {last:.200}")
    try:
        before, after = tensors(source), tensors(written)
    except ModelError as error:
        raise BuildError(f"command step {step.name!r}: {error}") from None
    if before != after:
        odd = sorted(set(before.items()) ^ set(after.items()))[0][0]
        raise BuildError(
            f"command step {step.name!r}: tensor {odd!r} was {before.get(odd, 'absent')} and came back {after.get(odd, 'absent')}; "
            "save the model under the names, shapes and types it was loaded with."
        )
    out.mkdir(parents=True, exist_ok=True)
    for path in (*written.glob("*.safetensors"), *written.glob("*.safetensors.index.json")):
        shutil.copyfile(path, out / path.name)
    for name in CONTENT:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)
    shutil.rmtree(scratch, ignore_errors=True)
