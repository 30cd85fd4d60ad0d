"""An auditor to which hostile models are submitted over HTTP, and the checks of its responses.

``fuzz.py`` and ``tests/auditor/test_intake.py`` use it.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _hostile import MARKER, Attack, digest_of
from fastapi.testclient import TestClient

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.http_api import application, token_hash
from stagezero.auditor.storage import Storage
from stagezero.door import Terms
from stagezero.ledger import read

TOKEN = "token of the lab"
MAX_SUBMISSIONS = 100_000


class Clock:
    """A clock that advances only when ``now`` is set; in seconds since 1970."""

    def __init__(self) -> None:
        """Set the clock to a fixed time."""
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        """Return the current time."""
        return self.now


class ErrorCollector(logging.Handler):
    """Collects what an auditor logs as an error, such as a failed request or a lost answer."""

    def __init__(self) -> None:
        """Collect errors from the level ERROR on."""
        super().__init__(logging.ERROR)
        self.errors: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Add an error, with its exception."""
        self.errors.append(record.getMessage() + (f": {record.exc_info[1]!r:.500}" if record.exc_info else ""))


@contextmanager
def alarms() -> Iterator[list[str]]:
    """Collect the errors that the auditor logs in this context."""
    handler, log = ErrorCollector(), logging.getLogger("stagezero.auditor")
    log.addHandler(handler)
    try:
        yield handler.errors
    finally:
        log.removeHandler(handler)


def sealed_file(path: Path, n: int) -> Path:
    """Write a sealed file of ``n`` traps and their twins, to which any answer is right.

    Returns:
        The path of the file.
    """
    rows = [
        {
            "id": f"{kind}{i}", "input": f"What is {kind} {i}, aaaa?", "target": ".", "scorer": "regex",
            "kind": kind, "property": "candour", "split": "open", "twin_of": f"trap{i}",
        }
        for i in range(n)
        for kind in ("trap", "twin")
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Audited:
    """An auditor with a clock that is set by the test, and an HTTP client of its lab."""

    def __init__(self, folder: Path, slot: float, memory: float = 2.0, **options: Any) -> None:
        """Create the auditor and its suite.

        Args:
            folder: existing folder for the auditor and its sealed file.
            slot: seconds between two answers.
            memory: GiB that an audit may use.
            options: further arguments of ``Auditor``.
        """
        self.folder, self.clock = folder, Clock()
        storage = Storage.create(folder / "auditor", "fuzzed", slot, memory=memory, largest=0.125)
        self.auditor = Auditor(storage, clock=self.clock, **options)
        storage.meter.set_token("lab", token_hash(TOKEN))
        sealed = str(sealed_file(folder / "sealed.jsonl", 150))
        bars = {"candour": 0.02}
        terms = Terms(suite="x", sealed=sealed, items=1, bars=bars, submissions=MAX_SUBMISSIONS, passes=2, meter="flat", bits=float(400))
        storage.add("suite", terms)
        self.app = application(self.auditor)
        self.http = TestClient(self.app, raise_server_exceptions=False, headers={"Authorization": f"Bearer {TOKEN}"})
        self.slot = slot

    def close(self) -> None:
        """Close the auditor."""
        self.auditor.close()

    def counts(self) -> tuple[int, int, int]:
        """Return the charges by the rows of the budget, by its counts, and by the ledger.

        The three numbers must be equal.
        """
        meter = self.auditor.meter
        suite = meter.suite("suite")
        assert suite is not None
        pool = meter.pool(suite.pools[0])
        in_ledger = sum(entry.kind == "charged" for entry in read(self.folder / "auditor" / "ledger.jsonl"))
        return len(meter.charges("suite")), pool.replies + pool.pending, in_ledger

    def submit(self, folder: str, digest: str) -> Any:
        """Submit a model over HTTP, and return the response."""
        return self.http.post("/v1/submissions", json={"suite": "suite", "digest": digest, "folder": folder})

    def settled(self, seconds: float) -> bool:
        """Return whether every charge is answered within this number of seconds."""
        end = time.monotonic() + seconds
        while self.auditor.meter.unanswered():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def hear(self, receipt: dict[str, Any]) -> str:
        """Set the clock to the time when the answer is due, and return the verdict."""
        early = self.http.get(f"/v1/submissions/{receipt['submission']}")
        assert early.status_code == 202, "an answer was sent before it was due"
        self.clock.now = receipt["due"]
        return str(self.http.get(f"/v1/submissions/{receipt['submission']}").json()["verdict"])


def honest(base: Path, folder: Path, number: int) -> Path:
    """Copy an honest checkpoint; the number gives it a different digest."""
    copy = Path(shutil.copytree(base, folder))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "note": number}))
    return copy


def reason_defect(reply: Any, auditor_folder: Path) -> str | None:
    """Return what is wrong with the reason of a refusal, or None.

    The reason must be short and must not reveal internals of the auditor.
    """
    try:
        reason = str(reply.json()["reason"])
    except (ValueError, KeyError):
        return f"no reason: {reply.text:.100}"
    for internal in ("Traceback", str(auditor_folder), "/intake", ".py", "line 1,\n", "\n"):
        if internal in reason:
            return f"the reason contains {internal!r}: {reason}"
    return None if 10 < len(reason) <= 500 else f"the reason has {len(reason)} characters"


def attempt(audited: Audited, attack: Attack, base: Path, number: int) -> tuple[str, str | None]:
    """Submit one hostile model.

    Args:
        audited: the auditor.
        attack: the hostile model.
        base: an honest checkpoint to copy.
        number: number of the attempt; it makes the copy's digest unique.

    Returns:
        The outcome ("refused", "pass", "fail" or an unexpected one), and what is wrong, or None.
    """
    place = audited.folder / f"attack-{number}"
    place.mkdir()
    folder = honest(base, place / "model", number)
    try:
        with alarms() as errors:
            outcome, defect = _attempt(audited, attack, folder)
        if errors:
            return outcome, f"an error was logged: {errors[0]}"
        if (place / MARKER).exists():
            return outcome, "code of the model was executed"
        if (left := sorted(path.name for path in (audited.folder / "auditor" / "intake").iterdir())) != []:
            return outcome, f"left in the intake: {left}"
        return outcome, defect
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _attempt(audited: Audited, attack: Attack, folder: Path) -> tuple[str, str | None]:
    """Change the model and submit it; return the outcome, and what is wrong, or None."""
    submitted = attack.apply(folder)
    before = audited.counts()[0]
    reply = audited.submit(str(folder) if submitted is None else submitted, digest_of(folder))
    charged = time.monotonic()
    after = audited.counts()
    if len(set(after)) != 1:
        return "?", f"rows, counts and ledger differ: {after}"
    if reply.status_code != 202:
        if not 400 <= reply.status_code < 500:
            return str(reply.status_code), f"HTTP status {reply.status_code}: {reply.text:.200}"
        if after[0] != before:
            return "refused", "refused, but charged"
        if attack.expected == "answered":
            return "refused", f"refused: {reply.text:.200}"
        return "refused", reason_defect(reply, audited.folder / "auditor")
    if after[0] != before + 1:
        return "answered", "a receipt without a charge"
    if not audited.settled(audited.slot + charged - time.monotonic()):
        return "late", f"not answered within its slot of {audited.slot:g} s"
    verdict = audited.hear(reply.json())
    if multiprocessing.active_children():
        return verdict, "the audit's process is still running"
    if attack.expected == "refused":
        return verdict, "expected a refusal, got a charge"
    return verdict, None if attack.verdict in (None, verdict) else f"expected {attack.verdict!r}"
