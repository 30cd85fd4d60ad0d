"""Requests made from an auditor's own OpenAPI description by Schemathesis, sent over real HTTP to an auditor that is served as always."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

# What a model's digest or a proof is cannot be said in a description: well-formed requests may be refused.
LEFT_OUT = "positive_data_acceptance"
PHASES = "examples,coverage,fuzzing,stateful"


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An application on a port of this machine."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, server_header=False))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


class Counted:
    """An application that counts its answers by status."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.statuses: dict[int, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def noting(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] = self.statuses.get(message["status"], 0) + 1
            await send(message)

        await self.app(scope, receive, noting)


@dataclass(frozen=True, slots=True)
class Fuzzed:
    """What came of a run: answers by status, and what Schemathesis found wrong."""

    statuses: Mapping[int, int]
    failures: tuple[str, ...]

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    @property
    def server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)


def fuzz(app: Any, token: str | None, examples: int, known: Mapping[str, str] | None = None, phases: str = PHASES) -> Fuzzed:
    """Fuzz an application.

    Args:
        token: an account's; None asks without one.
        examples: cases an operation, in each of the phases.
        known: parameters that always have these values, so that what is asked for is there.
        phases: of Schemathesis, with commas.
    """
    # A parameter that is held at a good value cannot be expected to be refused.
    left_out = LEFT_OUT if known is None else f"{LEFT_OUT},negative_data_rejection"
    counted = Counted(app)
    with tempfile.TemporaryDirectory() as place, served(counted) as address:
        settings = "[parameters]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in (known or {}).items())
        (Path(place) / "schemathesis.toml").write_text(settings)
        line = [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json", "--phases", phases,
            "--max-examples", str(examples), "--seed", "1", "--workers", "1",
            "--exclude-checks", left_out, "--continue-on-failure", "--no-color",
            "--no-shrink", "--suppress-health-check", "all", "--generation-database", "none",
        ]  # fmt: skip
        if token is not None:
            line += ["--header", f"Authorization: Bearer {token}"]
        done = subprocess.run(line, cwd=place, capture_output=True, text=True, check=False)
    found = re.findall(r"^- (.+)$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or (done.returncode == 1 and not found):
        found = [f"schemathesis ended with {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"]
    return Fuzzed(counted.statuses, tuple(found) if done.returncode else ())
