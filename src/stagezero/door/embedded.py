"""Starts the auditor as a process of its own, for runs that have no auditor elsewhere.

The two wings share a user and a machine here, which stops accidents and nothing more; every report says
"colocated". The process ends when its standard input closes, so it never outlives a killed lab.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from stagezero.door.client import Door
from stagezero.door.messages import Terms
from stagezero.errors import DoorError


class EmbeddedAuditor:
    """An auditor process with its own folder. Use as a context manager."""

    def __init__(self, folder: Path, terms: Terms) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._log = (folder / "auditor.log").open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "stagezero.auditor", "--folder", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
        )
        self._folder = folder
        self._door: Door | None = None
        assert self._process.stdin is not None
        self._process.stdin.write(terms.model_dump_json().encode() + b"\n")
        self._process.stdin.flush()

    def door(self) -> Door:
        """The door, once the auditor has opened it; the process starts while the lab gets ready.

        Raises:
            DoorError: the auditor did not start, with its own sentence why.
        """
        if self._door is None:
            assert self._process.stdout is not None
            line = self._process.stdout.readline()
            try:
                opened = json.loads(line)
            except ValueError:
                raise DoorError(f"the auditor did not start; see {self._folder / 'auditor.log'}.") from None
            if "error" in opened:
                raise DoorError(str(opened["error"]))
            self._door = Door(opened["address"], opened["token"])
        return self._door

    def close(self) -> None:
        """Close the door; the process ends by itself."""
        if self._door is not None:
            self._door.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def __enter__(self) -> EmbeddedAuditor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
