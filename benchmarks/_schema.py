"""Fuzzing of an auditor's HTTP interface by Schemathesis, from its own OpenAPI description.

The requests are sent over real HTTP.
"""

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

EXCLUDED_CHECK = "positive_data_acceptance"
"""A description cannot define a valid digest or proof, so well-formed requests may be refused."""
PHASES = "examples,coverage,fuzzing,stateful"


@contextmanager
def served(app: Any) -> Iterator[str]:
    """Serve an application on a free port of this machine; yield its address."""
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


class StatusCounter:
    """An ASGI application that counts the responses of another one by status."""

    def __init__(self, app: Any) -> None:
        """Wrap an application."""
        self.app = app
        self.statuses: dict[int, int] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Forward a request, and count the response."""

        async def count_and_send(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.statuses[message["status"]] = self.statuses.get(message["status"], 0) + 1
            await send(message)

        await self.app(scope, receive, count_and_send)


@dataclass(frozen=True, slots=True)
class FuzzResult:
    """Result of a run: responses by status, and the failures that Schemathesis reports."""

    statuses: Mapping[int, int]
    failures: tuple[str, ...]

    @property
    def requests(self) -> int:
        """Number of requests."""
        return sum(self.statuses.values())

    @property
    def server_errors(self) -> int:
        """Number of responses with a status of 500 or above."""
        return sum(count for status, count in self.statuses.items() if status >= 500)


def fuzz(app: Any, token: str | None, examples: int, known: Mapping[str, str] | None = None, phases: str = PHASES) -> FuzzResult:
    """Fuzz an application.

    Args:
        app: the ASGI application.
        token: token of an account; None sends no token.
        examples: cases per operation, in each phase.
        known: parameters with a fixed value, so that the requested resource exists.
        phases: phases of Schemathesis, separated by commas.
    """
    # A request with a fixed valid parameter need not be rejected.
    excluded = EXCLUDED_CHECK if known is None else f"{EXCLUDED_CHECK},negative_data_rejection"
    counter = StatusCounter(app)
    with tempfile.TemporaryDirectory() as place, served(counter) as address:
        settings = "[parameters]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in (known or {}).items())
        (Path(place) / "schemathesis.toml").write_text(settings)
        command = [
            str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json", "--phases", phases,
            "--max-examples", str(examples), "--seed", "1", "--workers", "1",
            "--exclude-checks", excluded, "--continue-on-failure", "--no-color",
            "--no-shrink", "--suppress-health-check", "all", "--generation-database", "none",
        ]  # fmt: skip
        if token is not None:
            command += ["--header", f"Authorization: Bearer {token}"]
        done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    failures = re.findall(r"^- (.+)$", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or (done.returncode == 1 and not failures):
        failures = [f"schemathesis ended with exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}"]
    return FuzzResult(counter.statuses, tuple(failures) if done.returncode else ())
