"""What ``command`` and ``code`` share: a program runs in the sandbox, twice where something stopped it, and its weights are taken over.

What comes back is taken only if it is safetensors with exactly the tensors that went in (names, shapes, types). It is written anew, so that
nothing but their values crosses: no metadata, no other order. Configuration and tokenizer are the input's.
"""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from stagezero.errors import BuildError, ModelError, SandboxError
from stagezero.isolation import Confinement, Kind, Ran, Task, confine, why_not
from stagezero.models.checkpoint import MOST_HEADER, checkpoint_digest, copy_all_but_weights, tensors, weight_files
from stagezero.training.recipes import Code, Command, Recipe

_KILLED = (128 + signal.SIGKILL, 128 + signal.SIGTERM)  # a shell's way to say that what it ran was killed
PAUSE = 2.0
"""Seconds before the second try: whoever stops a whole group of processes has reached this one by then."""
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "BF16": 2, "F16": 2, "I16": 2, "U16": 2}


class NotStartedError(BuildError):
    """The program is not on this machine, or may not be run: nothing that it did."""


def weights_at_most(folder: Path) -> int:
    """Bytes that a model's weights take as safetensors, with room for the longest lists of tensors."""
    return sum(_BYTES.get(kind, 1) * math.prod(shape) for shape, kind in tensors(folder).values()) + 2 * MOST_HEADER


def run(task: Task, what: str, confinement: Confinement, out: Path) -> None:
    """Run a program and take its checkpoint.

    A program that was stopped or killed is tried once more, since that can be the machine's doing; twice counts as its own.

    Args:
        what: the step, for sentences.

    Raises:
        BuildError: it failed, was stopped twice, or sent something that is not the same model with other weights.
        SandboxError: it could not be confined, and was not run.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for last in (False, True):
        # A folder of its own for each try: a program that was left behind by a killed worker must not write into it.
        scratch = Path(tempfile.mkdtemp(dir=out.parent, prefix="sandbox-"))
        try:
            ran = confine(task, confinement, scratch / "sent", scratch / "run")
            stopped = _stopped(ran, what, task)
            if stopped is None:
                _take(task.model, scratch / "sent", out, what)
                return
        finally:
            _remove(scratch)
        if last:
            raise BuildError(f"{what}: twice {stopped}")
        time.sleep(PAUSE)


def _stopped(ran: Ran, what: str, task: Task) -> str | None:
    """What stopped it from outside, if something did.

    Raises:
        BuildError: it ended by itself, and not well.
    """
    lines = [line for line in ran.said.strip().splitlines() if line.strip()]
    last = printable(lines[-1]) if lines else "it said nothing"
    if ran.not_started:
        raise NotStartedError(f"{what}: {last:.200}; correct 'run', or install it where the sandbox shows it (/usr, or the environment).")
    if ran.stopped is not None:
        return ran.stopped
    if ran.code < 0 or ran.code in _KILLED or 128 < ran.code <= 128 + 31:
        number = -ran.code if ran.code < 0 else ran.code - 128
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return f"killed by {name}; let it use less memory, or mend what stops it."
    if ran.code != 0:
        told = last.removeprefix("technique: ") if not task.run else f"exit code {ran.code}: {last}"
        raise BuildError(f"{what}: {told:.300}")
    return None


def printable(text: str) -> str:
    """What a program had a hand in, as it may stand in a sentence: short, and nothing in it that cannot be seen."""
    return "".join(c if c.isprintable() else " " for c in text[:300])


def _remove(folder: Path) -> None:
    """Remove what a program was given to write in, however deep it dug."""
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except RecursionError:
        subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def _take(source: Path, sent: Path, out: Path, what: str) -> None:
    """Take over what the program sent, if it is the same model with other weights.

    Raises:
        BuildError: it is not.
    """
    from safetensors.torch import load_file, save_file

    before = tensors(source)
    try:
        if _headers(sent) > MOST_HEADER:
            raise ModelError("its lists of tensors are longer than any model's")
        after = tensors(sent)
    except ModelError as error:
        told = str(error).replace(f"{sent}/", "").replace(str(sent), "what it sent")
        raise BuildError(f"{what}: {printable(told)}") from None
    if before != after:
        odd = min(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        raise BuildError(
            f"{what}: tensor {odd!r:.100} was {before.get(odd, 'absent')!s:.100} and came back {after.get(odd, 'absent')!s:.100}; "
            "save the model under the names, shapes and types it was loaded with."
        )
    out.mkdir(parents=True, exist_ok=True)
    found = {name: tensor for path in sorted(sent.glob("*.safetensors")) for name, tensor in load_file(path).items()}
    save_file(found, out / "model.safetensors", metadata={"format": "pt"})
    copy_all_but_weights(source, out)


def _headers(folder: Path) -> int:
    """Bytes of all lists of tensors together: parsed, they take many times as much memory."""
    found = 0
    for path in weight_files(folder):
        with path.open("rb") as handle:
            found += min(int.from_bytes(handle.read(8), "little"), path.stat().st_size)
    return found


def same(first: Path, second: Path) -> bool:
    """Whether two builds are the same, byte for byte."""
    return checkpoint_digest(first) == checkpoint_digest(second)


def check_programs(recipe: Recipe, kind: Kind, where: str) -> None:
    """Refuse early a recipe of people's whose programs cannot be run here as they are to be.

    Raises:
        SandboxError: why, and what can be done.
    """
    programs = [step.name for step in recipe.steps if isinstance(step, Code | Command)]
    if not programs:
        return
    if kind == "none" and any(isinstance(step, Code) for step in recipe.steps):
        raise SandboxError(f"{where}: code is never run without a sandbox; set its kind to box or landlock.")
    if (why := why_not(kind)) is not None:
        raise SandboxError(
            f"{where}: step {programs[0]!r} runs a program, and no sandbox can be made for it: {why}. Weaker ways must be asked for: "
            "sandbox: {kind: landlock} or {kind: none} in a project, --sandbox in compare."
        )
