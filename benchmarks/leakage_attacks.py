"""Every known way to get more out of sealed items than the certificate allows: attacks on the answers, on the budget, and on the door.

On the answers, in memory, with labels that are coin flips (``_attacks``): PRF-majority, boosting, read-out of the labels, Sybil accounts.
On the budget, against a real auditor with real small models (``_resets``). On the door, over HTTP against ``stagezero audit serve``: counts
that the caller holds, error texts, cancelled requests, two hundred clients at once, and timing.

For each: what was gained, what the certificate allows in the same unit, their ratio, and whether it was held. Controls must *not* be
held: budgets for each account, a paraphrase that nobody registered, a second auditor, answers that leave when they are ready. Exit 1
when an attack that should be held is not, or a control is.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from _attacks import DELTA, certificate_violations, naive_violations, statistical_attacks, unmetered_attacks
from _common import arguments
from _resets import ALWAYS, NEVER, Models, Tried, resets, rows, write
from kills import make_base
from scipy import stats

from stagezero.auditor.http_api import token_hash
from stagezero.auditor.storage import Storage
from stagezero.door import Terms
from stagezero.models import checkpoint_digest

CLIENTS, FEW, ACCOUNTS, PATIENCE = 200, 3, 10, 60.0
AUDITS, SEEN = 12, 5e-3  # audits of each kind that are timed; the level at which a difference is called seen
SLOT = 2.0


class Served:
    """``stagezero audit serve`` on a keep with some suites of sealed items."""

    def __init__(self, folder: Path, suites: dict[str, dict[str, Any]]) -> None:
        folder.mkdir()
        self.keep = folder / "keep"
        with Storage.create(self.keep, "attacked", SLOT) as storage:
            for number in range(ACCOUNTS):
                storage.meter.set_token(f"lab{number}", token_hash(f"token {number}"))
            for name, changes in suites.items():
                path = write(folder / f"{name}.jsonl", rows(word=f"In {name}, is it so that"))
                fields = {"suite": "jsonl", "sealed": str(path), "items": 30, "bars": NEVER, "submissions": FEW, "passes": FEW} | changes
                storage.add(name, Terms.model_validate(fields))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "stagezero.cli", "audit", "serve", str(self.keep), "--port", str(self.port), "--folders"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.http = self.client(0)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                if self.http.get("/v1/suites").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise SystemExit("the auditor does not start")

    def client(self, account: int) -> httpx.Client:
        headers = {"Authorization": f"Bearer token {account}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=PATIENCE, trust_env=False)

    def used(self, suite: str) -> int:
        return int(self.http.get(f"/v1/suites/{suite}").json()["submissions_used"])

    def close(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def served(folder: Path, suites: dict[str, dict[str, Any]]) -> Iterator[Served]:
    found = Served(folder, suites)
    try:
        yield found
    finally:
        found.close()


def submission(suite: str, model: Path, **more: Any) -> dict[str, Any]:
    return {"suite": suite, "digest": checkpoint_digest(model), "folder": str(model), **more}


def _budget(name: str, used: int, note: str = "") -> Tried:
    return Tried(name, "answers", used, FEW, used <= FEW, note=note)


def caller_held_count(door: Served, models: Models) -> Tried:
    """The lab says itself how much it has used, in every place where a count might be read."""
    for held in ({"submissions_used": 0}, {"submissions_left": 99}, {"budget": 99.0}, {"account": "lab1"}, {"dry_run": True}, {}):
        for _ in range(2):
            model = models.new()
            door.http.post("/v1/submissions", json=submission("held", model, **held), params=held, headers={"X-Submissions-Used": "0"})
            door.http.post("/v1/submissions", json=submission("held", model))
    return _budget("caller_held_count", door.used("held"))


def cancelled_requests(door: Served, models: Models) -> Tried:
    """Requests cut off at every stage: half a body, no reading of the reply, a reset."""
    for cut in (0.5, 1.0, 1.0, 1.0, 1.0):
        body = json.dumps(submission("cancelled", models.new())).encode()
        head = (
            f"POST /v1/submissions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer token 0\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()  # fmt: skip
        with socket.create_connection(("127.0.0.1", urlsplit(str(door.http.base_url)).port or 0)) as wire:
            wire.sendall(head + body[: int(len(body) * cut)])
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset, not an end
        time.sleep(0.2)
    for _ in range(FEW):
        door.http.post("/v1/submissions", json=submission("cancelled", models.new()))
    return _budget("cancelled_requests", door.used("cancelled"))


def double_spend(door: Served, models: Models) -> list[Tried]:
    """Two hundred clients at once, from ten accounts: as many models, and then all with one model."""
    given = [models.new() for _ in range(CLIENTS)]
    clients = [door.client(number % ACCOUNTS) for number in range(CLIENTS)]
    same = models.new()

    def ask(suite: str, client: httpx.Client, model: Path) -> int:
        return client.post("/v1/submissions", json=submission(suite, model)).status_code

    with ThreadPoolExecutor(CLIENTS) as pool:
        told = list(pool.map(lambda pair: ask("crowd", *pair), zip(clients, given, strict=True)))
        together = list(pool.map(lambda client: ask("one", client, same), clients))
    for client in clients:
        client.close()
    accepted, used = told.count(202), door.used("crowd")
    one = together.count(202) if door.used("one") == 1 else 0
    return [
        _budget("concurrent_double_spend", max(accepted, used), f"{CLIENTS} clients: {accepted} receipts, {used} charged"),
        Tried("concurrent_retries", "answers", door.used("one"), 1, one == CLIENTS, note=f"{CLIENTS} clients, one model: {one} receipts"),
    ]


def error_text(door: Served, models: Models) -> Tried:
    """The same requests about two suites, on one of which everything passes and on the other nothing: all that is said before it is due."""
    told: dict[str, list[Any]] = {}
    model, broken, third = models.new(), models.new(broken=True), models.new()
    for suite in ("passing", "failing"):
        said = told.setdefault(suite, [])
        for given in (model, broken):
            receipt = door.http.post("/v1/submissions", json=submission(suite, given))
            said.append(receipt.status_code)
            number = receipt.json()["submission"]
            time.sleep(0.7)  # the audit is over, and the answer not due
            for path in (f"/v1/submissions/{number}", f"/v1/submissions/{number}/attestation", f"/v1/suites/{suite}"):
                reply = door.http.get(path)
                said.append((reply.status_code, sorted(reply.headers), _plain(reply.text, suite, number)))
        for bad in (submission(suite, third), submission(suite, third, folder="/nowhere"), {"suite": suite}):
            reply = door.http.post("/v1/submissions", json=bad)
            said.append((reply.status_code, sorted(reply.headers), _plain(reply.text, suite, 0)))
    differ = sum(a != b for a, b in zip(*told.values(), strict=True))
    return Tried("error_text", "bits", float(differ), 0.0, differ == 0, note=f"{len(told['passing'])} replies compared")


def _plain(text: str, suite: str, number: int) -> str:
    """A reply without what differs because it is another suite and another time."""
    found = json.loads(text)
    for key in ("due", "wait", "commitment", "suite", "submission", "generator", "bars", "bits_allowed"):
        found.pop(key, None)
    return json.dumps(found, sort_keys=True).replace(suite, "S").replace(f"submission {number}", "submission N")


def _timed(work: Callable[[], httpx.Response]) -> tuple[float, httpx.Response]:
    start = time.perf_counter()
    reply = work()
    return time.perf_counter() - start, reply


def timing(door: Served, models: Models, tell: Callable[[str], None]) -> list[Tried]:
    """Models that pass, that fail and that break, in turn; all that a client can time while an answer is out, and the answer itself.

    Compared pair by pair with a rank test. Its power is shown by the control: when the audit was over, as the auditor itself knows it,
    which is when a door without slots would answer.
    """
    kinds = {"pass": ("timed_pass", False), "fail": ("timed_fail", False), "crash": ("timed_fail", True)}
    seen: dict[str, dict[str, list[float]]] = {}
    full, spent = models.new(), models.new()
    door.http.post("/v1/submissions", json=submission("full", full))

    def note(what: str, kind: str, value: float) -> None:
        seen.setdefault(what, {}).setdefault(kind, []).append(value)

    for _ in range(AUDITS):
        for kind, (suite, broken) in kinds.items():
            model = models.new(broken)
            begun = time.time()
            receipt = door.http.post("/v1/submissions", json=submission(suite, model)).json()
            path = f"/v1/submissions/{receipt['submission']}"
            note("due", kind, receipt["due"] - begun)
            note("audit_over", kind, _over(door.keep, receipt["submission"], begun))
            while time.time() < receipt["due"] - 0.3:  # the audit is over
                note("reply_before_due", kind, _timed(lambda path=path: door.http.get(path))[0])  # type: ignore[misc]
                note("status", kind, _timed(lambda suite=suite: door.http.get(f"/v1/suites/{suite}"))[0])  # type: ignore[misc]
                note("refusal", kind, _timed(lambda: door.http.post("/v1/submissions", json=submission("full", spent)))[0])
                note("checkpoint", kind, _timed(lambda: door.http.post("/v1/checkpoint", json={}))[0])
                time.sleep(0.05)
            time.sleep(max(0.0, receipt["due"] - time.time()))
            while door.http.get(path).status_code != 200:
                time.sleep(0.001)
            note("answer", kind, time.time() - receipt["due"])
    found, pairs = [], [("pass", "fail"), ("pass", "crash"), ("fail", "crash")]
    for what, by in seen.items():
        # One value an audit: polls during one audit are not independent.
        each = {kind: _medians(values, AUDITS) for kind, values in by.items()}
        smallest = min(float(stats.mannwhitneyu(each[a], each[b]).pvalue) for a, b in pairs)
        held = smallest * len(pairs) * (len(seen) - 1) > SEEN
        largest = max(abs(_median(each[a]) - _median(each[b])) for a, b in pairs)
        control = what == "audit_over"
        name = "control_answer_when_ready" if control else f"timing_of_{what}"
        shift = max(abs(2 * float(stats.mannwhitneyu(each[a], each[b]).statistic) / AUDITS**2 - 1) for a, b in pairs)
        note_ = f"p {smallest:.2g}, medians {1e3 * largest:.2f} ms apart" + ("; what slots hide" if control else "")
        found.append(Tried(name, "advantage", shift if not held else 0.0, 0.0, held, control, note_))
        tell(f"  {name:<32} {note_}")
    return found


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _medians(values: list[float], parts: int) -> list[float]:
    size = max(1, len(values) // parts)
    return [_median(values[i * size : (i + 1) * size]) for i in range(parts)]


def _over(keep: Path, number: int, begun: float) -> float:
    """When the auditor knew the answer, read out of its own folder."""
    db = sqlite3.connect(f"file:{keep / 'meter.sqlite'}?mode=ro", uri=True)
    try:
        while True:
            if db.execute("SELECT word FROM submissions WHERE number = ?", (number,)).fetchone()[0] is not None:
                return time.time() - begun
            time.sleep(0.002)
    finally:
        db.close()


def at_the_door(folder: Path, models: Models, tell: Callable[[str], None]) -> list[Tried]:
    many = {"submissions": 60, "passes": 40}
    suites: dict[str, dict[str, Any]] = {
        "held": {}, "cancelled": {}, "crowd": {}, "one": {}, "passing": {"bars": ALWAYS}, "failing": {},
        "timed_pass": {**many, "bars": ALWAYS}, "timed_fail": many, "full": {"submissions": 1, "passes": 1},
    }  # fmt: skip
    with served(folder, suites) as door:
        found = timing(door, models, tell)
        found += [error_text(door, models), caller_held_count(door, models), cancelled_requests(door, models), *double_spend(door, models)]
    for tried in found[-5:]:
        tell(f"  {tried.name:<32} {tried.note or tried.gain}")
    return found


def on_the_answers() -> list[Tried]:
    found = []
    for control, outcomes in ((False, statistical_attacks()), (True, unmetered_attacks())):
        for o in outcomes:
            name = f"{'control_unmetered_' if control else ''}{o.attack}_{o.meter}"
            found.append(Tried(name, "accuracy", o.gain, o.allowed, o.held, control, f"{o.replies:.0f} replies, over in {o.over:.4f}"))
    return found


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--runs", type=int, default=2000, help="runs that the certificate's violations are counted in")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    started = time.monotonic()

    def tell(line: str) -> None:
        print(f"{time.monotonic() - started:5.0f} s{line}", flush=True)

    tried = on_the_answers()
    violations, naive = certificate_violations(options.runs), naive_violations(options.runs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = Models(make_base(folder / "base"), folder / "models")
        tried += at_the_door(folder / "door", models, tell)
        (folder / "resets").mkdir()
        tried += resets(folder / "resets", models, tell)
    print(f"\n{'attack':<36} {'unit':<9} {'gain':>8} {'allowed':>8} {'ratio':>6}")
    for t in tried:
        word = "held" if t.held else "not held"
        print(f"{t.name:<36} {t.unit:<9} {t.gain:>8.4g} {t.allowed:>8.4g} {t.ratio:>6.2f}  {word}{', as it must' if t.control else ''}"
              f"{'' if t.as_expected else ' UNEXPECTED'}  {t.note}")  # fmt: skip
    attacks = [t for t in tried if not t.control]
    figures: dict[str, Any] = {
        "certificate_violations": max(violations.values()),
        "naive_violations": naive,
        "attacks_tried": len(attacks),
        "attacks_held": sum(t.held for t in attacks),
        "controls_tried": len(tried) - len(attacks),
        "controls_as_expected": sum(t.as_expected for t in tried if t.control),
        "seconds": time.monotonic() - started,
    }
    for name, value in figures.items():
        print(f"{name:<24} {value:.4g}")
    if options.json is not None:
        told = [
            {"attack": t.name, "unit": t.unit, "gain": t.gain, "allowed": t.allowed, "ratio": t.ratio, "held": t.held, "control": t.control,
             "note": t.note} for t in tried
        ]  # fmt: skip
        options.json.write_text(json.dumps({**figures, "rows": told}, indent=1, sort_keys=True) + "\n")
    sound = all(t.as_expected for t in tried) and figures["certificate_violations"] <= DELTA and naive >= 0.99
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
