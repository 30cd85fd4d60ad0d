"""Starts the auditor as a process of its own, for runs that have no auditor elsewhere.

How far the two wings are apart is for whoever starts both to say: *colocated* when the lab is the process that starts the auditor,
*boxed* when the lab is put in a box beside it (``isolation/lab_box.py``). The auditor ends when its standard input closes, so it
never outlives a killed lab.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from stagezero.door.client import Door
from stagezero.door.messages import Separation
from stagezero.errors import DoorError
from stagezero.files import Closing

ENVIRONMENT = "STAGEZERO_DOOR_FD"
"""Names the file descriptor from which a lab in a box reads where its auditor is."""


def default_keep() -> Path:
    """The user's own auditor folder, from the password database: no environment variable moves it."""
    return Path(pwd.getpwuid(os.getuid()).pw_dir) / ".local" / "state" / "stagezero" / "auditor"


@dataclass(frozen=True, slots=True)
class Opened:
    """Where an auditor is, and how far from the lab."""

    address: str
    token: str
    separation: Separation

    def door(self) -> Door:
        return Door(self.address, self.token)

    def handed_on(self) -> int:
        """A file descriptor to inherit, from which this can be read once."""
        ours, theirs = os.pipe()
        os.write(theirs, json.dumps(asdict(self)).encode())
        os.close(theirs)
        return ours


def handed_over() -> Opened | None:
    """The auditor that whoever started this process has opened for it; None when there is none."""
    number = os.environ.pop(ENVIRONMENT, None)
    if number is None:
        return None
    try:
        with os.fdopen(int(number), "rb") as handle:
            return Opened(**json.loads(handle.read()))
    except (OSError, ValueError, TypeError):
        raise DoorError(f"{ENVIRONMENT}: expected a file descriptor with an auditor's address; unset the variable.") from None


class EmbeddedAuditor(Closing):
    """An auditor process with its own folder. Use as a context manager."""

    def __init__(self, keep: Path, separation: Separation = "colocated", sealed: Path | None = None) -> None:
        """
        Args:
            keep: the auditor's folder; set up on first use.
            separation: what is told of the lab in every status and certificate.
            sealed: the one sealed file that a boxed lab may name; another could bring a checker, which is code, or be anybody's.
        """
        try:
            keep.parent.mkdir(parents=True, exist_ok=True)
            keep.mkdir(exist_ok=True, mode=0o700)
            self._log = (keep / "auditor.log").open("ab") if any(keep.iterdir()) else None
        except OSError as error:
            raise DoorError(f"audit.keep: {keep}: {error.strerror}; name a folder you may write to in audit.keep.") from None
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.keep = keep
        # -P: nothing is imported from the folder it is started in, which a lab may write to.
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "stagezero.auditor", "--keep", str(keep), "--separation", separation),
                *(["--sealed", str(sealed)] if sealed is not None else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log if self._log is not None else subprocess.DEVNULL,
            env=environment,
        )
        self._opened: Opened | None = None

    def opened(self) -> Opened:
        """Where it is; the process starts while the lab gets ready.

        Raises:
            DoorError: the auditor did not start, with its own sentence why.
        """
        if self._opened is None:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            try:
                found = json.loads(line)
            except ValueError:
                raise DoorError(f"the auditor did not start; see {self.keep / 'auditor.log'}.") from None
            if "error" in found:
                raise DoorError(str(found["error"]))
            self._opened = Opened(**found)
        return self._opened

    def close(self) -> None:
        """End the process; whatever was charged is on disk."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._log is not None:
            self._log.close()
