"""A team's own trainer as a step: a program that reads one checkpoint folder and writes another.

What comes back is taken only if it is safetensors with exactly the tensors that went in (names, shapes, types);
configuration and tokenizer are the input's. It runs with the user's rights; what it may read is not limited here.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from stagezero.errors import BuildError, ModelError
from stagezero.models.checkpoint import CONTENT, tensors
from stagezero.training.data import Example
from stagezero.training.recipes import Command

_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TMPDIR", "VIRTUAL_ENV")
_KILLED = (128 + signal.SIGKILL, 128 + signal.SIGTERM)  # a shell's way to say that what it ran was killed
PAUSE = 2.0
"""Seconds before the second try: whoever stops a whole group of processes has reached this one by then."""


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None
_PR_SET_PDEATHSIG = 1


def _end_with_worker() -> None:
    """In the program's process, before it starts: when the worker dies, so does it. Elsewhere than on Linux it is left behind."""
    assert _LIBC is not None
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class NotStartedError(BuildError):
    """The program is not on this machine, or may not be run: nothing that it did."""


def train(source: Path, out: Path, step: Command, examples: Sequence[Example], seed: int) -> None:
    """Run the program and take its checkpoint.

    A program that was killed or ran too long is tried once more, since that can be the machine's doing; twice counts as its own.

    Raises:
        BuildError: it failed, was killed or ran too long twice, or wrote something that is not the same model with other weights.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for last in (False, True):
        # A folder of its own for each try: a program that was left behind by a killed worker must not write into it.
        scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix="command-"))
        stopped = _run(source, scratch, step, examples, seed)
        if stopped is None:
            _take(source, scratch / "out", out, step)
            return
        shutil.rmtree(scratch, ignore_errors=True)
        if last:
            raise BuildError(f"command step {step.name!r}: twice {stopped}")
        time.sleep(PAUSE)


def _run(source: Path, scratch: Path, step: Command, examples: Sequence[Example], seed: int) -> str | None:
    """Run the program once; what stopped it, if something did.

    Raises:
        BuildError: it could not start, or says that it failed.
    """
    work, written = scratch / "work", scratch / "out"
    work.mkdir()
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
        running = subprocess.Popen(
            program, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True, errors="replace", process_group=0, preexec_fn=_end_with_worker if _LIBC is not None else None,
        )  # fmt: skip
    except OSError as error:
        if error.errno in (errno.ENOMEM, errno.EAGAIN):
            raise  # the machine's doing
        raise NotStartedError(f"command step {step.name!r}: could not start {step.run[0]!r} ({error.strerror}); correct 'run'.") from None
    with running:
        try:
            said, complained = running.communicate(timeout=step.timeout)
        except BaseException as error:
            os.killpg(running.pid, signal.SIGKILL)  # with all that it has started
            if isinstance(error, subprocess.TimeoutExpired):
                return f"still running after {step.timeout} s; raise 'timeout' or make it faster."
            raise
    code = running.returncode
    if code < 0 or code in _KILLED:
        number = -code if code < 0 else code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"killed by {name}; let it use less memory, or mend what stops it."
    if code != 0:
        last = (complained.strip() or said.strip() or "it said nothing").splitlines()[-1]
        raise BuildError(f"command step {step.name!r}: exit code {code}: {last:.200}")
    return None


def _take(source: Path, written: Path, out: Path, step: Command) -> None:
    """Take over what the program wrote, if it is the same model with other weights.

    Raises:
        BuildError: it is not.
    """
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
