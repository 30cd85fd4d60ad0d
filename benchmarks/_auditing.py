"""An auditor that hostile models are handed in to over its HTTP surface, and what must hold of each of them."""

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
MANY = 100_000


class Clock:
    """A clock that stands until it is turned."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class Alarms(logging.Handler):
    """Whatever an auditor logs as an error: a failed request, an answer that could not be settled."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage() + (f": {record.exc_info[1]!r:.500}" if record.exc_info else ""))


@contextmanager
def alarms() -> Iterator[list[str]]:
    """The errors that are logged meanwhile."""
    handler, log = Alarms(), logging.getLogger("stagezero.auditor")
    log.addHandler(handler)
    try:
        yield handler.told
    finally:
        log.removeHandler(handler)


def sealed_file(path: Path, n: int) -> Path:
    """A sealed file of ``n`` traps and their twins, to which any answer at all is right."""
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
    """An auditor in a folder, on a clock that is turned by hand, asked over its HTTP surface."""

    def __init__(self, folder: Path, slot: float, memory: float = 2.0, **more: Any) -> None:
        self.folder, self.clock = folder, Clock()
        storage = Storage.create(folder / "keep", "fuzzed", slot, memory=memory, largest=0.125)
        self.auditor = Auditor(storage, clock=self.clock, **more)
        storage.meter.set_token("lab", token_hash(TOKEN))
        sealed = str(sealed_file(folder / "sealed.jsonl", 150))
        bars = {"candour": 0.02}
        terms = Terms(suite="x", sealed=sealed, items=1, bars=bars, submissions=MANY, passes=2, meter="flat", bits=float(400))
        storage.add("suite", terms)
        self.app = application(self.auditor)
        self.http = TestClient(self.app, raise_server_exceptions=False, headers={"Authorization": f"Bearer {TOKEN}"})
        self.slot = slot

    def close(self) -> None:
        self.auditor.close()

    def counts(self) -> tuple[int, int, int]:
        """Charges by the meter's rows, by its counts, and by the ledger; they must be one number."""
        meter = self.auditor.meter
        suite = meter.suite("suite")
        assert suite is not None
        pool = meter.pool(suite.pools[0])
        written = sum(entry.kind == "charged" for entry in read(self.folder / "keep" / "ledger.jsonl"))
        return len(meter.charges("suite")), pool.replies + pool.pending, written

    def submit(self, folder: str, digest: str) -> Any:
        return self.http.post("/v1/submissions", json={"suite": "suite", "digest": digest, "folder": folder})

    def settled(self, seconds: float) -> bool:
        """Whether all that was charged is answered within so many seconds."""
        end = time.monotonic() + seconds
        while self.auditor.meter.unanswered():
            if time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def hear(self, receipt: dict[str, Any]) -> str:
        """The word, once the clock says that it is due."""
        early = self.http.get(f"/v1/submissions/{receipt['submission']}")
        assert early.status_code == 202, "an answer left before it was due"
        self.clock.now = receipt["due"]
        return str(self.http.get(f"/v1/submissions/{receipt['submission']}").json()["verdict"])


def honest(base: Path, folder: Path, number: int) -> Path:
    """A copy of an honest checkpoint with a digest of its own."""
    copy = Path(shutil.copytree(base, folder))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "note": number}))
    return copy


def bad_reason(reply: Any, keep: Path) -> str | None:
    """What is wrong with a refusal; None when it is one sentence that tells nothing of the auditor's insides."""
    try:
        reason = str(reply.json()["reason"])
    except (ValueError, KeyError):
        return f"no reason: {reply.text:.100}"
    for told in ("Traceback", str(keep), "/intake", ".py", "line 1,\n", "\n"):
        if told in reason:
            return f"tells {told!r}: {reason}"
    return None if 10 < len(reason) <= 500 else f"{len(reason)} characters"


def attempt(audited: Audited, attack: Attack, base: Path, number: int) -> tuple[str, str | None]:
    """Hand in one hostile model: what came of it, and what is wrong with that; None when nothing is."""
    place = audited.folder / f"attack-{number}"
    place.mkdir()
    folder = honest(base, place / "model", number)
    try:
        with alarms() as told:
            found = _attempt(audited, attack, folder)
        if told:
            return found[0], f"an error was logged: {told[0]}"
        if (place / MARKER).exists():
            return found[0], "something of the model's was run"
        if (left := sorted(path.name for path in (audited.folder / "keep" / "intake").iterdir())) != []:
            return found[0], f"left behind: {left}"
        return found
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _attempt(audited: Audited, attack: Attack, folder: Path) -> tuple[str, str | None]:
    submitted = attack.act(folder)
    before = audited.counts()[0]
    reply = audited.submit(str(folder) if submitted is None else submitted, digest_of(folder))
    charged = time.monotonic()
    after = audited.counts()
    if len(set(after)) != 1:
        return "?", f"the meter and the ledger disagree: {after}"
    if reply.status_code != 202:
        if not 400 <= reply.status_code < 500:
            return str(reply.status_code), f"answered {reply.status_code}: {reply.text:.200}"
        if after[0] != before:
            return "refused", "refused and charged"
        if attack.expected == "answered":
            return "refused", f"refused: {reply.text:.200}"
        return "refused", bad_reason(reply, audited.folder / "keep")
    if after[0] != before + 1:
        return "answered", "a receipt without a charge"
    if not audited.settled(audited.slot + charged - time.monotonic()):
        return "late", f"not answered within its slot of {audited.slot:g} s"
    word = audited.hear(reply.json())
    if multiprocessing.active_children():
        return word, "an examination is still running"
    if attack.expected == "refused":
        return word, "charged, expected a refusal"
    return word, None if attack.word in (None, word) else f"expected {attack.word!r}"
