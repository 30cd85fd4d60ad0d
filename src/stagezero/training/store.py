"""Builds, each under the hash of everything that determined it.

A build appears by one rename, so a kill at any moment leaves either nothing or all of it; two processes that want the
same build queue on its lock and the second finds it done. A build whose bytes no longer match what was recorded
is set aside and made again. The failure of a team's own program is kept too: tried again on another day it might not fail, and
a run that continues must meet the same fate. Whoever wants it tried again removes it from ``failures``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagezero.errors import ModelError
from stagezero.files import locked, write_whole
from stagezero.models import checkpoint, checkpoint_digest

RECORD = "build.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """A finished build."""

    key: str
    folder: Path
    digest: str
    seconds: float
    reused: bool


class Store:
    """A folder of builds and of measured answers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.builds = root / "builds"
        self.answers = root / "answers"
        self.failures = root / "failures"

    def find(self, key: str) -> Stored | None:
        """A finished, undamaged build."""
        folder = self.builds / key
        record = folder / RECORD
        if not folder.exists():
            return None
        try:
            known: dict[str, Any] = json.loads(record.read_text())
            if checkpoint_digest(folder) != known["digest"]:
                raise ModelError("changed")
            checkpoint.check(folder)
        except (ModelError, ValueError, KeyError, OSError):
            self._set_aside(folder)
            return None
        return Stored(key, folder, known["digest"], float(known["seconds"]), reused=True)

    def _set_aside(self, folder: Path) -> None:
        damaged = self.root / "damaged"
        damaged.mkdir(parents=True, exist_ok=True)
        folder.rename(Path(tempfile.mkdtemp(dir=damaged)) / folder.name)

    def failure(self, name: str) -> str | None:
        """Why something could not be built, where that is known."""
        try:
            return str(json.loads((self.failures / f"{name}.json").read_text())["why"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep_failure(self, name: str, why: str) -> None:
        """Remember why something could not be built."""
        write_whole(self.failures / f"{name}.json", json.dumps({"why": why}))

    def obtain(self, key: str, determined_by: dict[str, Any], make: Callable[[Path], float]) -> Stored:
        """The build under ``key``, made now if it is not there.

        Args:
            key: hash of ``determined_by``.
            determined_by: written beside the weights.
            make: fills the folder it is given and returns the seconds it took.
        """
        found = self.find(key)
        if found is not None:
            return found
        with locked(self.root / "locks" / key):
            found = self.find(key)
            if found is not None:
                return found
            self.builds.mkdir(parents=True, exist_ok=True)
            staging = self.builds / f".making-{key}"
            shutil.rmtree(staging, ignore_errors=True)  # left by a maker that was killed; the lock says that none is at work
            try:
                out = staging / "model"
                seconds = make(out)
                shutil.rmtree(out / ".scratch", ignore_errors=True)
                checkpoint.check(out)
                content = checkpoint_digest(out)
                record = {"key": key, "digest": content, "seconds": seconds, "determined_by": determined_by}
                write_whole(out / RECORD, json.dumps(record, indent=1, sort_keys=True))
                for path in checkpoint.weight_files(out):
                    path.chmod(0o644)  # a sandbox's user reads it, who owns nothing; the store itself is as private as the user keeps it
                out.rename(self.builds / key)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        return Stored(key, self.builds / key, content, seconds, reused=False)
