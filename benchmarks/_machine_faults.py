"""Faults of the machine for ``kills.py``: full disks, killed workers, lost mounts.

A comparison runs on a file system of its own. At a random moment the file system is filled, or
detached, or a worker is killed. Then the fault is removed, and the same command runs to its end.
Its ledger must be that of an undisturbed run, entry by entry. A run that a fault stops must print
one sentence, with exit code 2, and its ledger must be the beginning of that ledger.

The file system needs root. Without root, only workers are killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from stagezero.errors import LedgerError
from stagezero.ledger import read

FILE_SYSTEM_MB = 64
RECIPES = {
    "sft": "{step: sft, steps: 3, batch_size: 8, learning_rate: 0.002}",
    "lora": "{step: sft, steps: 3, batch_size: 8, learning_rate: 0.002, lora: {rank: 2}}",
    "dpo": "{step: dpo, steps: 3, batch_size: 8, learning_rate: 0.002}",
    "rlhf": "{step: reward, steps: 2, batch_size: 8, learning_rate: 0.002}\n"
    "  - {step: rlhf, steps: 1, batch_size: 8, group: 4, learning_rate: 0.002, length: 8}",
    "distil": "{step: distil, source: base, steps: 2, batch_size: 8, learning_rate: 0.002}",
    "merge": "{step: sft, steps: 2, batch_size: 8, learning_rate: 0.002}\n  - {step: merge, source: base, weight: 0.5}",
}
"""A recipe for each kind of job."""
CONTROL = "{step: sft, steps: 2, batch_size: 8, learning_rate: 0.001}"


@dataclass
class Counts:
    """How many faults occurred, how many stopped a run, and what was wrong."""

    rounds: int = 0
    stopped: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """A folder on a file system of its own, with a comparison of one kind."""

    folder: Path
    kind: str

    def command(self) -> list[str]:
        """Return the command of the comparison."""
        recipes = (str(self.folder / "a.yaml"), str(self.folder / f"{self.kind}.yaml"))
        runs = str(self.folder / "fs" / "runs")
        options = ["--property", "privacy", "--model", "pocket/16k", "--items", "5", "--seed", "3", "--max-pairs", "10", "--runs", runs]
        return [sys.executable, "-m", "stagezero.cli", "compare", *recipes, *options]

    def start(self) -> subprocess.Popen[str]:
        """Start the comparison."""
        environment = {**os.environ, "STAGEZERO_HOME": str(self.folder / "fs" / "home")}
        return subprocess.Popen(
            self.command(), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def entries(self) -> list[str]:
        """Return the hashes of the entries in the comparison's ledger; none without a ledger."""
        ledgers = list((self.folder / "fs" / "runs").glob("*/ledger.jsonl"))
        try:
            return [entry.hash for entry in read(ledgers[0])] if ledgers else []
        except LedgerError:
            return []


def mount(folder: Path) -> None:
    """Put a file system of its own on a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={FILE_SYSTEM_MB}m", "tmpfs", str(folder)], check=True)


def can_mount() -> bool:
    """Return whether this process may mount file systems."""
    with tempfile.TemporaryDirectory() as name, contextlib.suppress(OSError, subprocess.CalledProcessError):
        mount(Path(name))
        subprocess.run(["umount", name], check=True)
        return True
    return False


def write_recipes(folder: Path) -> None:
    """Write the control and a candidate for each kind of job."""
    mix = "steps:\n  - {step: mix, parts: [{kinds: [trap, twin], each: 8}]}\n  - "
    for name, steps in {"a": CONTROL, **RECIPES}.items():
        (folder / f"{name}.yaml").write_text(f"{mix}{steps}\n")


@contextlib.contextmanager
def file_system(folder: Path, base_home: Path, mounted: bool) -> Iterator[Path]:
    """Yield a folder with a new file system, which has the bases of ``base_home``."""
    place = folder / "fs"
    place.mkdir()
    if mounted:
        mount(place)
    try:
        for base in (base_home / "bases").glob("pocket-16k-*"):
            if base.is_dir():
                shutil.copytree(base, place / "home" / "bases" / base.name)
        yield place
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], check=False)
        shutil.rmtree(place, ignore_errors=True)


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """Return the worker processes of a run: the children of its fork server that compute."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parts = (path / "stat").read_text().rpartition(")")[2].split()
            if int(parts[3]) == process.pid and "forkserver" in (path / "cmdline").read_text():  # the session
                found.append((int(path.name), int(parts[1])))
    servers = {parent for _, parent in found}
    return [pid for pid, parent in found if pid not in servers and parent != process.pid]


def fill(place: Path) -> Path:
    """Fill a file system; return the file that does it."""
    path = place / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
    return path


def finish(place: Place, expected: list[str], counts: Counts, label: str) -> None:
    """Run the command to its end without a fault, and compare the ledger."""
    process = place.start()
    out, err = process.communicate()
    if process.returncode != 0:
        counts.failures.append(f"{label}: the same command ends with {process.returncode}: {err[-300:]}{out[-100:]}")
    elif place.entries() != expected:
        counts.failures.append(f"{label}: the ledger differs from that of an undisturbed run")


def check_stop(process: subprocess.Popen[str], err: str, counts: Counts, label: str) -> None:
    """Check how a run that met a fault has ended."""
    lines = [line for line in err.splitlines() if line.startswith("stagezero: ")]
    if process.returncode == 0:
        return
    counts.stopped += 1
    if process.returncode != 2 or len(lines) != 1 or "Traceback" in err:
        counts.failures.append(f"{label}: exit code {process.returncode}: {err[-300:]}")


def check_prefix(place: Place, expected: list[str], counts: Counts, label: str) -> None:
    """Check that no entry is wrong after a fault."""
    found = place.entries()
    if found != expected[: len(found)]:
        counts.failures.append(f"{label}: an entry is wrong after the fault")


def run_faults(rounds: int, base_home: Path, seed: int) -> dict[str, Counts]:
    """Cause faults at random moments.

    Args:
        rounds: number of full disks; a fifth as many mounts are lost; for each kind of job, workers
            are killed once and, in a second round, three times.
        base_home: a home folder that has the base pocket/16k.
        seed: seed of the random moments.
    """
    rng, kinds, mounted = random.Random(seed), sorted(RECIPES), can_mount()
    counts = {name: Counts() for name in ("full_disk", "lost_mount", "worker_killed")}
    plan = [("full_disk", kinds[i % len(kinds)]) for i in range(rounds)]
    plan += [("lost_mount", kinds[i % len(kinds)]) for i in range(rounds // 5)]
    plan = (plan if mounted else []) + [("worker_killed", kind) for kind in kinds for _ in range(2)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_recipes(folder)
        expected, seconds = {}, {}
        for kind in sorted({kind for _, kind in plan}):
            place = Place(folder, kind)
            with file_system(folder, base_home, mounted):
                start = time.monotonic()
                process = place.start()
                _, err = process.communicate()
                if process.returncode != 0:
                    raise RuntimeError(f"the undisturbed comparison {kind} ends with {process.returncode}: {err[-500:]}")
                expected[kind], seconds[kind] = place.entries(), time.monotonic() - start
        for number, (fault, kind) in enumerate(plan):
            place, count, label = Place(folder, kind), counts[fault], f"{fault} {number} ({kind})"
            count.rounds += 1
            with file_system(folder, base_home, mounted) as on:
                process = place.start()
                time.sleep(rng.uniform(0, seconds[kind]))
                if fault == "full_disk":
                    filler = fill(on)
                    _, err = process.communicate()
                    filler.unlink(missing_ok=True)
                elif fault == "lost_mount":
                    # The files remain, and no path leads to them, until they are mounted again.
                    hidden = folder / "hidden"
                    hidden.mkdir(exist_ok=True)
                    subprocess.run(["mount", "--move", str(on), str(hidden)], check=True)
                    _, err = process.communicate()
                    subprocess.run(["mount", "--move", str(hidden), str(on)], check=True)
                else:
                    for _ in range(1 if number % 2 else 3):
                        for pid in workers_of(process)[:1]:
                            with contextlib.suppress(OSError):
                                os.kill(pid, signal.SIGKILL)
                        time.sleep(rng.uniform(0.5, 2))
                    _, err = process.communicate()
                check_stop(process, err, count, label)
                check_prefix(place, expected[kind], count, label)
                finish(place, expected[kind], count, label)
    return counts
