"""An auditor of a small sealed suite, on a real pocket model, with a clock that tests may turn."""

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


ALWAYS, NEVER = {"candour": 0.02}, {"candour": 0.99}
"""Bars that every model meets that says anything at all, and that none can show on so few items."""


def terms(**changes: object) -> Terms:
    """Terms of a small suite."""
    fields: dict[str, object] = {
        "suite": "atlas", "items": 60, "bars": ALWAYS, "submissions": 3, "passes": 2, "delta": 0.05,
    } | changes  # fmt: skip
    return Terms.model_validate(fields)


def variant(base: Path, folder: Path, number: int) -> Path:
    """The base with another configuration, so that its digest differs."""
    copy = Path(shutil.copytree(base, folder / f"m{number}"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "note": number}))
    return copy


def sealed_file(path: Path, n: int = 40, word: str = "", start: int = 0) -> Path:
    """A sealed file of ``n`` traps and their twins, to which any answer is right; ``word`` makes the questions another file's."""
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
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """An auditor in hand: submit, let the time pass, hear."""

    def __init__(self, folder: Path, clock: Clock, **more: object) -> None:
        self.folder, self.clock = folder, clock
        there = (folder / "auditor.json").is_file()
        storage = Storage(folder) if there else Storage.create(folder, "test", SLOT)
        self.auditor = Auditor(storage, clock=clock, **more)  # type: ignore[arg-type]
        if not there:
            for account in ("lab", "other"):
                storage.meter.set_token(account, token_hash(f"token of {account}"))

    def add(self, name: str = "suite", **changes: object) -> str:
        """A suite of a sealed file of its own, unless the terms name another."""
        if "sealed" not in changes and changes.get("bars", ALWAYS) in (ALWAYS, NEVER):
            changes["sealed"] = str(sealed_file(self.folder.parent / f"{name}.jsonl", 60, name))
        return self.auditor.storage.add(name, terms(**changes)).name

    def hand_in(self, folder: Path, suite: str = "suite", account: str = "lab") -> Receipt:
        return self.auditor.submit(Submission(suite=suite, digest=checkpoint_digest(folder), folder=str(folder)), account)

    def settled(self) -> None:
        """Wait until all that was charged has been audited."""
        end = time.monotonic() + 120
        while self.auditor.meter.unanswered():
            assert time.monotonic() < end, "the auditor does not answer"
            time.sleep(0.02)

    def hear(self, receipt: Receipt, account: str = "lab") -> str:
        """Wait, turn the clock to when the answer is due, and hear it."""
        self.settled()
        self.clock.now = max(self.clock.now, receipt.due)
        found = self.auditor.reply(receipt.submission, account)
        assert isinstance(found, Reply)
        return found.verdict

    def ask(self, folder: Path, suite: str = "suite", account: str = "lab") -> str:
        return self.hear(self.hand_in(folder, suite, account), account)

    def again(self, **more: object) -> Desk:
        """Stop, and open the same folder anew."""
        self.auditor.close()
        return Desk(self.folder, self.clock, **more)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path / "keep", Clock())
    yield found
    found.auditor.close()


@contextmanager
def served(auditor: Auditor, **more: Any) -> Iterator[str]:
    """The auditor on a port of this machine, as it is served; ``more`` goes to uvicorn."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    server = uvicorn.Server(uvicorn.Config(application(auditor), log_level="critical", access_log=False, server_header=False, **more))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"{'https' if more else 'http'}://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
