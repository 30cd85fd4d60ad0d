"""The store of builds: each build is stored under the hash of everything that determined it.

A finished build appears by one rename, so a kill at any moment leaves either no build or the whole
build. Two processes that need the same build queue on its lock, and the second one finds it done. A
build whose bytes no longer match its record is moved to ``damaged`` and made again.

The failure of a team's own program is stored too: the program might succeed on another day, but a
run that continues must reach the same result. To have a program run again, remove its file from
``failures``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stagezero.errors import ModelError
from stagezero.files import locked, write_atomic
from stagezero.models import checkpoint, checkpoint_digest

RECORD = "build.json"


@dataclass(frozen=True, slots=True)
class StoredBuild:
    """A finished build.

    Args:
        key: the hash of everything that determined it.
        folder: its checkpoint folder.
        digest: its checkpoint's digest.
        seconds: the time that it took to make.
        reused: True if it was already stored.
    """

    key: str
    folder: Path
    digest: str
    seconds: float
    reused: bool


class Store:
    """A folder of builds and of measured answers. Several processes may use it at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.builds = root / "builds"
        self.answers = root / "answers"
        self.failures = root / "failures"

    def find(self, key: str) -> StoredBuild | None:
        """Return a finished, undamaged build; None if there is none.

        A damaged build is moved to ``damaged``.
        """
        folder = self.builds / key
        record_file = folder / RECORD
        if not folder.exists():
            return None
        try:
            record: dict[str, Any] = json.loads(record_file.read_text())
            if checkpoint_digest(folder) != record["digest"]:
                raise ModelError("changed")
            checkpoint.check(folder)
        except (ModelError, ValueError, KeyError, OSError):
            self._move_to_damaged(folder)
            return None
        return StoredBuild(key, folder, record["digest"], float(record["seconds"]), reused=True)

    def find_digest(self, content_digest: str) -> Path | None:
        """Return the folder of a build with this checkpoint digest; None if there is none."""
        for record_file in self.builds.glob(f"[!.]*/{RECORD}"):
            with suppress(OSError, ValueError, TypeError, KeyError):
                if json.loads(record_file.read_text())["digest"] == content_digest and self.find(record_file.parent.name):
                    return record_file.parent
        return None

    def _move_to_damaged(self, folder: Path) -> None:
        damaged = self.root / "damaged"
        damaged.mkdir(parents=True, exist_ok=True)
        folder.rename(Path(tempfile.mkdtemp(dir=damaged)) / folder.name)

    def recorded_failure(self, attempt: str) -> str | None:
        """Return the reason why an attempt failed earlier; None if no failure is recorded.

        Args:
            attempt: the hash of the build's key and the program's timeout.
        """
        try:
            return str(json.loads((self.failures / f"{attempt}.json").read_text())["why"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def record_failure(self, attempt: str, why: str) -> None:
        """Record the reason why an attempt failed."""
        write_atomic(self.failures / f"{attempt}.json", json.dumps({"why": why}))

    def get_or_build(self, key: str, determined_by: dict[str, Any], make: Callable[[Path], float]) -> StoredBuild:
        """Return the build under ``key``; make it first if it is not stored.

        Args:
            key: hash of ``determined_by``.
            determined_by: written beside the weights.
            make: fills the folder that it receives, and returns the seconds that it took.

        Raises:
            ModelError: ``make`` wrote no valid checkpoint.
        """
        stored = self.find(key)
        if stored is not None:
            return stored
        with locked(self.root / "locks" / key):
            stored = self.find(key)
            if stored is not None:
                return stored
            self.builds.mkdir(parents=True, exist_ok=True)
            staging = self.builds / f".making-{key}"
            # A process that was killed may have left this folder. The lock proves that no process
            # uses it.
            shutil.rmtree(staging, ignore_errors=True)
            try:
                out = staging / "model"
                seconds = make(out)
                shutil.rmtree(out / ".scratch", ignore_errors=True)
                checkpoint.check(out)
                content_digest = checkpoint_digest(out)
                record = {"key": key, "digest": content_digest, "seconds": seconds, "determined_by": determined_by}
                write_atomic(out / RECORD, json.dumps(record, indent=1, sort_keys=True))
                for path in checkpoint.weight_files(out):
                    # The sandbox's user owns no file, and must be able to read this one. The
                    # store's own permissions decide who else can.
                    path.chmod(0o644)
                out.rename(self.builds / key)
            finally:
                shutil.rmtree(staging, ignore_errors=True)
        return StoredBuild(key, self.builds / key, content_digest, seconds, reused=False)
