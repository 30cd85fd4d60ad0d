"""Starts the two parts of a campaign separately: the auditor outside, and the lab in a box.

The auditor's folder and processes do not exist in the box.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from stagezero.door import EmbeddedAuditor
from stagezero.door.auditor_process import DOOR_FD_VARIABLE
from stagezero.files import user_home
from stagezero.isolation import lab_box, unavailable_reason
from stagezero.isolation.broker import Broker
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.models import home
from stagezero.project import Audit
from stagezero.trials.jobs import Progress

PASS_ON_SECONDS = 2.0
"""Time after which a lab that still runs has not received an interrupt."""


def run_boxed(project: Path, runs: Path, command: Sequence[str], progress: Progress) -> int | None:
    """Run a lab's command in a box, with its auditor outside.

    Args:
        project: the project file.
        runs: the folder that contains the run's folder.
        command: the command; it finds its auditor through ``inherited_endpoint``.
        progress: receives the reason if no box can be made.

    Returns:
        The command's exit code. None means that the caller runs the campaign in its own process:
        the project starts no auditor, this process is already in a box, or no box can be made.
    """
    if DOOR_FD_VARIABLE in os.environ:
        return None
    resolved = ResolvedProject(project)
    if not isinstance(resolved.project.audit, Audit):
        return None
    reason = lab_box.unavailable_reason()
    if reason is not None:
        progress.message(f"the lab is not boxed off from its auditor (colocated): {reason}")
        return None
    auditor_folder, sealed = resolved.auditor_folder, resolved.sealed_file
    # The project's folder is read-only, because a program that the lab wrote there could later run
    # outside the box.
    writable = [runs, home(), *_download_caches()]
    hidden = [auditor_folder, *([sealed] if sealed is not None and sealed.exists() else [])]
    for folder in (runs, home()):
        folder.mkdir(parents=True, exist_ok=True)
    with EmbeddedAuditor(auditor_folder, "boxed", sealed) as auditor, _sandbox_broker(resolved) as broker_environment:
        pipe = auditor.endpoint().write_to_pipe()
        try:
            line = lab_box.Box([w for w in writable if w.exists()], hidden, resolved.named_folders()).command(command, Path.cwd())
            environment = {"MPLCONFIGDIR": "/tmp/matplotlib", **os.environ, **broker_environment, DOOR_FD_VARIABLE: str(pipe)}
            process = subprocess.Popen(line, pass_fds=[pipe], env=environment)
        finally:
            os.close(pipe)
        return _wait_for(process)


@contextmanager
def _sandbox_broker(resolved: ResolvedProject) -> Iterator[dict[str, str]]:
    """Make sandboxes for the lab's builds outside the box, because none can be made inside.

    Yields:
        The environment variables through which the lab reaches the broker; empty without one.
    """
    if resolved.confinement.kind != "box" or unavailable_reason() is not None:
        yield {}
        return
    base = Path(resolved.base)
    with Broker([home(), *([base] if base.is_absolute() else [])]) as broker:
        yield broker.environment


def _download_caches() -> list[Path]:
    """Return the folders in which libraries store their downloads."""
    hf_home = os.environ.get("HF_HOME")
    cache = os.environ.get("XDG_CACHE_HOME")
    return [Path(hf_home) if hf_home else (Path(cache) if cache else user_home() / ".cache") / "huggingface"]


def _wait_for(process: subprocess.Popen[bytes]) -> int:
    """Wait for the box and return its exit code.

    Ctrl-C reaches the lab directly, and the lab prints what it has stored. An interrupt that was
    sent to this process alone (by a supervisor, or a notebook) is passed on to the lab.
    """
    interrupted: list[float] = []
    before = signal.signal(signal.SIGINT, lambda *_: interrupted.append(time.monotonic()))
    try:
        while True:
            try:
                code = process.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if interrupted and time.monotonic() - interrupted[0] > PASS_ON_SECONDS:
                    interrupted.clear()
                    for pid in _descendants(process.pid):
                        with suppress(OSError):
                            os.kill(pid, signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
        if process.poll() is None:
            process.kill()
    return code if code >= 0 else 128 - code


def _descendants(pid: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    with suppress(OSError, ValueError):
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        return [*children, *(below for child in children for below in _descendants(child))]
    return []


def command_line(arguments: Sequence[str]) -> list[str]:
    """Return the command line that runs this program with some arguments."""
    return [sys.executable, "-P", "-m", "stagezero.cli", *arguments]  # -P: nothing is imported from the current folder
