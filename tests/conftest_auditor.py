"""An auditor of a small sealed suite, for real pocket models, whose clock the tests advance."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.http_api import application, token_hash
from stagezero.auditor.storage import Storage
from stagezero.door import Receipt, Reply, Submission, Terms
from stagezero.models import checkpoint_digest

SLOT = 8.0
"""Seconds between two answers of the auditor."""

EASY_BARS, UNREACHABLE_BARS = {"candour": 0.02}, {"candour": 0.99}
"""Bars that every model passes that answers at all, and bars that none can pass on so few items."""


def terms(**changes: object) -> Terms:
    """Return the terms of a small suite."""
    fields: dict[str, object] = {
        "suite": "atlas", "items": 60, "bars": EASY_BARS, "submissions": 3, "passes": 2, "delta": 0.05,
    } | changes  # fmt: skip
    return Terms.model_validate(fields)


def variant(base: Path, folder: Path, number: int) -> Path:
    """Copy the base with a changed configuration, so that its digest differs."""
    copy = Path(shutil.copytree(base, folder / f"m{number}"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "note": number}))
    return copy


def sealed_file(path: Path, n: int = 40, word: str = "", start: int = 0) -> Path:
    """Write a sealed file of ``n`` traps and their twins; every answer is correct.

    ``word`` begins every question, so that two files contain different questions.
    """
    rows = [
        {
            "id": f"{kind}{i}",
            "input": f"{word} {kind} {i}?",
            "target": ".",
            "scorer": "regex",
            "kind": kind,
            "property": "candour",
            "split": "open",
            "twin_of": f"trap{i}",
        }
        for i in range(start, start + n)
        for kind in ("trap", "twin")
    ]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


class Clock:
    """A clock that stands still until a test sets ``now``."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class AuditorHarness:
    """An auditor in this process, whose clock the test controls."""

    def __init__(self, folder: Path, clock: Clock, **options: object) -> None:
        self.folder, self.clock = folder, clock
        exists = (folder / "auditor.json").is_file()
        storage = Storage(folder) if exists else Storage.create(folder, "test", SLOT)
        self.auditor = Auditor(storage, clock=clock, **options)  # type: ignore[arg-type]
        if not exists:
            for account in ("lab", "other"):
                storage.meter.set_token(account, token_hash(f"token of {account}"))

    def add_suite(self, name: str = "suite", **changes: object) -> str:
        """Add a suite with a new sealed file, unless the terms name one."""
        if "sealed" not in changes and changes.get("bars", EASY_BARS) in (EASY_BARS, UNREACHABLE_BARS):
            changes["sealed"] = str(sealed_file(self.folder.parent / f"{name}.jsonl", 60, name))
        return self.auditor.storage.add(name, terms(**changes)).name

    def submit(self, folder: Path, suite: str = "suite", account: str = "lab") -> Receipt:
        return self.auditor.submit(Submission(suite=suite, digest=checkpoint_digest(folder), folder=str(folder)), account)

    def wait_for_audits(self) -> None:
        """Wait until every charged submission is audited."""
        end = time.monotonic() + 120
        while self.auditor.meter.unanswered():
            assert time.monotonic() < end, "the auditor does not answer"
            time.sleep(0.02)

    def wait_for_verdict(self, receipt: Receipt, account: str = "lab") -> str:
        """Wait for the audit, advance the clock to the due time, and return the verdict."""
        self.wait_for_audits()
        self.clock.now = max(self.clock.now, receipt.due)
        reply = self.auditor.reply(receipt.submission, account)
        assert isinstance(reply, Reply)
        return reply.verdict

    def submit_and_wait(self, folder: Path, suite: str = "suite", account: str = "lab") -> str:
        return self.wait_for_verdict(self.submit(folder, suite, account), account)

    def reopen(self, **options: object) -> AuditorHarness:
        """Close the auditor and open its folder again."""
        self.auditor.close()
        return AuditorHarness(self.folder, self.clock, **options)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[AuditorHarness]:
    harness = AuditorHarness(tmp_path / "auditor", Clock())
    yield harness
    harness.auditor.close()


@contextmanager
def serve(auditor: Auditor, **tls: Any) -> Iterator[str]:
    """Serve the auditor on a port of this machine; ``tls`` holds uvicorn's TLS options."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(
        uvicorn.Config(
            application(auditor), log_level="critical", access_log=False, server_header=False, timeout_graceful_shutdown=1, **tls
        )
    )
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
