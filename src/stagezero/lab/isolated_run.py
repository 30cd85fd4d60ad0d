"""Starts a campaign's two wings apart: the auditor outside, the lab in a box where the auditor's folder and processes do not exist."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from stagezero.door import EmbeddedAuditor
from stagezero.door.auditor_process import ENVIRONMENT
from stagezero.isolation import lab_box, why_not
from stagezero.isolation.broker import Broker
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.models import home
from stagezero.project import Audit
from stagezero.trials.jobs import Tell


def boxed(project: Path, runs: Path, command: Sequence[str], tell: Tell) -> int | None:
    """Run a lab's command in a box beside its auditor.

    Args:
        project: the project file.
        runs: the folder that the run is kept under.
        command: what to run; it finds its auditor through ``handed_over``.

    Returns:
        Its exit code; None where there is nothing to keep apart, or no box can be made: run in this process then.
    """
    if ENVIRONMENT in os.environ:
        return None
    resolved = ResolvedProject(project)
    if not isinstance(resolved.project.audit, Audit):
        return None
    why = lab_box.why_not()
    if why is not None:
        tell.say(f"the lab is not boxed off from its auditor (colocated): {why}")
        return None
    keep, sealed = resolved.auditor_folder, resolved.sealed
    # The project's folder is read-only: what the lab left there would be run outside the box some day.
    writable = [runs, home(), *_caches()]
    hidden = [keep, *([sealed] if sealed is not None and sealed.exists() else [])]
    for folder in (runs, home()):
        folder.mkdir(parents=True, exist_ok=True)
    with EmbeddedAuditor(keep, "boxed", sealed) as auditor, _sandboxes(resolved) as sandboxes:
        handed = auditor.opened().handed_on()
        try:
            line = lab_box.Box([w for w in writable if w.exists()], hidden, resolved.named_folders()).command(command, Path.cwd())
            environment = {"MPLCONFIGDIR": "/tmp/matplotlib", **os.environ, **sandboxes, ENVIRONMENT: str(handed)}
            running = subprocess.Popen(line, pass_fds=[handed], env=environment)
        finally:
            os.close(handed)
        return _follow(running)


@contextmanager
def _sandboxes(resolved: ResolvedProject) -> Iterator[dict[str, str]]:
    """Sandboxes for the lab's builds are made out here, since none can be made in a box; what the lab is to be told of it."""
    if resolved.confinement.kind != "box" or why_not() is not None:
        yield {}
        return
    beside = Path(resolved.base)
    with Broker([home(), *([beside] if beside.is_absolute() else [])]) as broker:
        yield broker.environment


def _caches() -> list[Path]:
    """Where libraries keep what they have downloaded."""
    given = os.environ.get("HF_HOME")
    return [Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "huggingface"]


def _follow(running: subprocess.Popen[bytes]) -> int:
    """Wait for the box; Ctrl-C reaches it by itself, and it says what was kept."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        code = running.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        if running.poll() is None:
            running.kill()
    return code if code >= 0 else 128 - code


def again(arguments: Sequence[str]) -> list[str]:
    """The command line that runs this program once more."""
    return [sys.executable, "-m", "stagezero.cli", *arguments]
