"""Running a program as a step, for ``command`` and ``code``.

The program runs in the sandbox, and a second time if it was stopped. Its weights are accepted only
if they are safetensors with exactly the tensors of the input (names, shapes, types). They are
written to a new file, so that only their values cross: no metadata and no order of tensors.
Configuration and tokenizer are copied from the input.
"""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from stagezero.errors import BuildError, MemoryShortError, ModelError, SandboxError, WorkerError
from stagezero.isolation import Confinement, Kind, RunResult, Task, confine, unavailable_reason
from stagezero.models.checkpoint import MAX_HEADER_BYTES, checkpoint_digest, copy_all_but_weights, tensors
from stagezero.training.recipes import Code, Command, Recipe

RETRY_PAUSE_SECONDS = 2.0
"""Pause before the second attempt.

If a whole group of processes is being stopped, the signal has reached this process by then.
"""
MAX_OUTPUT_CHARACTERS = 300
"""Characters of a program's text that an error message may contain."""
MIN_FREE_BYTES = 4 * 2**20
"""Free space below which a disk counts as full."""
_BYTES_PER_NUMBER = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}


class NotStartedError(BuildError):
    """The program is not on this machine or may not be executed, so it did not run at all."""


def max_weight_bytes(folder: Path) -> int:
    """Return the most bytes that a model's weights can take as safetensors, with all headers."""
    return sum(_BYTES_PER_NUMBER.get(kind, 1) * math.prod(shape) for shape, kind in tensors(folder).values()) + 2 * MAX_HEADER_BYTES


def run(task: Task, step_label: str, confinement: Confinement, out: Path) -> None:
    """Run a program and write its checkpoint to ``out``.

    A program that was stopped or killed runs once more, because the machine may be the cause. After
    the second time, the program counts as the cause.

    Args:
        task: the program and its inputs.
        step_label: kind and name of the step, for error messages.
        confinement: how the program is confined.
        out: folder to fill.

    Raises:
        BuildError: the program failed, was stopped twice, or sent anything but the same model with
            other weights.
        NotStartedError: the program could not be started.
        MemoryShortError: the program was killed twice, and not for exceeding a limit.
        WorkerError: the program failed, and the disk is full.
        SandboxError: the program could not be confined, and was not run.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for is_last in (False, True):
        # Each attempt has a folder of its own: a program that outlived a killed worker must not
        # write into it.
        scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix="sandbox-"))
        try:
            result = confine(task, confinement, scratch / "sent", scratch / "run")
            _reject_full_disk(result, step_label, scratch)
            reason = _stop_reason(result, step_label, task)
            if reason is None:
                _accept_weights(task.model, scratch / "sent", out, step_label)
                return
        finally:
            _remove(scratch)
        if is_last and result.stopped is None and _exit_signal(result.code) == signal.SIGKILL:
            # Nothing in the sandbox kills a program that stays within its limits.
            raise MemoryShortError(
                f"{step_label}: its program was killed twice; free memory, or use fewer workers, then run the same command again."
            )
        if is_last:
            raise BuildError(f"{step_label}: stopped twice: {reason}")
        time.sleep(RETRY_PAUSE_SECONDS)


def _reject_full_disk(result: RunResult, step_label: str, scratch: Path) -> None:
    """Stop the run if a program failed while the disk under it was full.

    The program's own words prove nothing. Its own limit on disk space is smaller than the disk.

    Raises:
        WorkerError: the disk is full.
    """
    if result.code != 0 and result.stopped is None and shutil.disk_usage(scratch).free < MIN_FREE_BYTES:
        raise WorkerError(
            f"{step_label}: its program failed, and the disk of {scratch.parent} is full; free some space, then run the same command again."
        )


def _stop_reason(result: RunResult, step_label: str, task: Task) -> str | None:
    """Return why a program was stopped from outside; None if it ended successfully.

    Raises:
        BuildError: the program ended by itself with an error, or could not be started.
    """
    lines = [line for line in result.output.strip().splitlines() if line.strip()]
    last_line = printable(lines[-1]) if lines else "it printed nothing"
    if result.not_started:
        raise NotStartedError(
            f"{step_label}: {last_line:.200}; correct 'run', or install the program where the sandbox can read it "
            "(/usr, or the Python environment)."
        )
    if result.stopped is not None:
        return result.stopped
    number = _exit_signal(result.code)
    if number is not None:
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"killed by {name}; reduce its memory use, or fix what kills it."
    if result.code != 0:
        message = last_line.removeprefix("technique: ") if not task.run else f"exit code {result.code}: {last_line}"
        raise BuildError(f"{step_label}: {message:.{MAX_OUTPUT_CHARACTERS}}")
    return None


def _exit_signal(code: int) -> int | None:
    """Return the signal that ended a program, from its exit code or that of its shell."""
    return -code if code < 0 else code - 128 if 128 < code <= 128 + 31 else None


def printable(text: str) -> str:
    """Return untrusted text for an error message: truncated, without unprintable characters."""
    return "".join(c if c.isprintable() else " " for c in text[:MAX_OUTPUT_CHARACTERS])


def _remove(folder: Path) -> None:
    """Remove a folder that a program could write to, however deeply it nested its folders."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def _accept_weights(source: Path, sent: Path, out: Path, step_label: str) -> None:
    """Write the weights that a program sent to ``out``.

    Raises:
        BuildError: they are not the same model with other weights.
    """
    from safetensors.torch import load_file, save_file

    before, files = tensors(source), sorted(sent.glob("*.safetensors"))
    try:
        if _header_bytes(files) > MAX_HEADER_BYTES:
            raise ModelError(f"its lists of tensors are too long; expected at most {MAX_HEADER_BYTES:,} bytes; send only the model's own")
        after = tensors(sent, files)
    except ModelError as error:
        message = str(error).replace(f"{sent}/", "").replace(str(sent), "its output")
        raise BuildError(f"{step_label}: {printable(message)}") from None
    if before != after:
        name = min(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        raise BuildError(
            f"{step_label}: tensor {name!r:.100} was {before.get(name, 'absent')!s:.100} and came back "
            f"{after.get(name, 'absent')!s:.100}; save the model with the names, shapes and types with which it was loaded."
        )
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: tensor for path in files for name, tensor in load_file(path).items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    copy_all_but_weights(source, out)


def _header_bytes(files: Sequence[Path]) -> int:
    """Return the size of all lists of tensors together, in bytes.

    Parsed, they take many times as much memory.
    """
    total = 0
    for path in files:
        with path.open("rb") as handle:
            total += min(int.from_bytes(handle.read(8), "little"), path.stat().st_size)
    return total


def are_identical(first: Path, second: Path) -> bool:
    """Return True if two checkpoints are identical, byte for byte."""
    return checkpoint_digest(first) == checkpoint_digest(second)


def check_programs(recipe: Recipe, kind: Kind, where: str) -> None:
    """Reject early a recipe whose programs cannot run here in the requested sandbox.

    Args:
        recipe: a recipe written by people.
        kind: the requested kind of sandbox.
        where: the recipe's origin, for error messages.

    Raises:
        SandboxError: the message contains the reason and the fix.
    """
    programs = [step.name for step in recipe.steps if isinstance(step, Code | Command)]
    if not programs:
        return
    if kind == "none" and any(isinstance(step, Code) for step in recipe.steps):
        raise SandboxError(f"{where}: code is never run without a sandbox; set the sandbox's kind to box or landlock.")
    if (reason := unavailable_reason(kind)) is not None:
        raise SandboxError(
            f"{where}: step {programs[0]!r} runs a program, and no sandbox can be made for it: {reason}. To use a weaker one, set "
            "sandbox: {kind: landlock} or {kind: none} in a project, or --sandbox in compare."
        )
