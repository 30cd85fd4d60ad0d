"""Starts an embedded auditor as a separate process, for runs that have no auditor elsewhere.

The program that starts both the lab and the auditor states their separation: *colocated* if the lab
is the process that starts the auditor, *boxed* if the lab runs in a box beside it
(``isolation/lab_box.py``). The auditor exits when its stdin closes, so it does not outlive a killed
lab.
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
from stagezero.files import Closeable

DOOR_FD_VARIABLE = "STAGEZERO_DOOR_FD"
"""Environment variable with the number of the file descriptor from which a boxed lab reads its
auditor's endpoint."""
AUDITOR_COMMAND = (sys.executable, "-P", "-m", "stagezero.auditor")
"""Starts an auditor. -P: it must not import from its working directory; a lab may write to it."""
_SHUTDOWN_TIMEOUT_SECONDS = 10


def default_auditor_folder() -> Path:
    """Return the user's own auditor folder.

    The home directory comes from the password database, so no environment variable can change it.
    """
    return Path(pwd.getpwuid(os.getuid()).pw_dir) / ".local" / "state" / "stagezero" / "auditor"


@dataclass(frozen=True, slots=True)
class AuditorEndpoint:
    """The address of a running auditor, the lab's token for it, and its separation from the lab."""

    address: str
    token: str
    separation: Separation

    def door(self) -> Door:
        """Return a client of this auditor."""
        return Door(self.address, self.token)

    def write_to_pipe(self) -> int:
        """Write the endpoint into a pipe; return the read end, which a child process inherits.

        ``inherited_endpoint`` can read it once.
        """
        read_end, write_end = os.pipe()
        os.write(write_end, json.dumps(asdict(self)).encode())
        os.close(write_end)
        return read_end


def inherited_endpoint() -> AuditorEndpoint | None:
    """Return the endpoint that the parent process passed on; None if it passed none.

    Raises:
        DoorError: the environment variable names no readable endpoint.
    """
    descriptor = os.environ.pop(DOOR_FD_VARIABLE, None)
    if descriptor is None:
        return None
    try:
        with os.fdopen(int(descriptor), "rb") as handle:
            return AuditorEndpoint(**json.loads(handle.read()))
    except (OSError, ValueError, TypeError):
        raise DoorError(f"{DOOR_FD_VARIABLE}: expected a file descriptor with an auditor's address; unset the variable.") from None


class EmbeddedAuditor(Closeable):
    """An auditor process with its own folder. Use it as a context manager."""

    def __init__(self, folder: Path, separation: Separation = "colocated", sealed: Path | None = None) -> None:
        """Start the process. It loads in parallel with the lab; ``endpoint`` waits for it.

        Args:
            folder: the auditor folder; created on first use.
            separation: the separation that every status and certificate reports.
            sealed: the only sealed file that a boxed lab may name. Any other file could bring a
                checker, which is code, or belong to another user.

        Raises:
            DoorError: the folder cannot be created or written to.
        """
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(exist_ok=True, mode=0o700)
            self._log = (folder / "auditor.log").open("ab")
        except OSError as error:
            raise DoorError(f"audit.folder: {folder}: {error.strerror}; name a folder you may write to in audit.folder.") from None
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.folder = folder
        self._process = subprocess.Popen(
            [
                *(*AUDITOR_COMMAND, "--folder", str(folder), "--separation", separation),
                *(["--sealed", str(sealed)] if sealed is not None else []),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self._endpoint: AuditorEndpoint | None = None

    def endpoint(self) -> AuditorEndpoint:
        """Return the auditor's endpoint; block until the process has printed it.

        Raises:
            DoorError: the auditor did not start; the message is the auditor's own.
        """
        if self._endpoint is None:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            try:
                printed = json.loads(line)
            except ValueError:
                raise DoorError(f"the auditor did not start; see {self.folder / 'auditor.log'}.") from None
            if "error" in printed:
                raise DoorError(str(printed["error"]))
            self._endpoint = AuditorEndpoint(**printed)
        return self._endpoint

    def close(self) -> None:
        """End the process. Every charge is already on disk."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_SHUTDOWN_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
