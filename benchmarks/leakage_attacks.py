"""Run every known attack that could gain more from sealed items than the certificate allows.

    answers  in memory, with random labels (``_attacks``): PRF-majority, boosting, read-out of the
             labels, Sybil accounts
    budget   against a real auditor with real small models (``_resets``)
    door     over HTTP against ``stagezero audit serve``: counts that the caller supplies, error
             texts, cancelled requests, two hundred clients at once, timing

For each attack the benchmark prints the gain, the gain that the certificate allows in the same
unit, their ratio, and whether the attack is contained. Controls must *not* be contained: budgets
for each account, a paraphrase that no one registered, a second auditor, answers that are released
when they are ready. The exit status is 1 if an attack is not contained, or a control is.
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
from _resets import ALWAYS, NEVER, AttackResult, Models, resets, rows, write_rows
from kills import make_base
from scipy import stats

from stagezero.auditor.http_api import token_hash
from stagezero.auditor.storage import Storage
from stagezero.door import Terms
from stagezero.models import checkpoint_digest

CLIENTS, MAX_SUBMISSIONS, ACCOUNTS, TIMEOUT_SECONDS = 200, 3, 10, 60.0
AUDITS = 12
"""Audits of each kind that are timed."""
TIMING_LEVEL = 5e-3
"""Significance level at which a difference in time counts as detected."""
SLOT_SECONDS = 2.0


class AuditorServer:
    """A process ``stagezero audit serve`` with some suites of sealed items."""

    def __init__(self, folder: Path, suites: dict[str, dict[str, Any]]) -> None:
        """Create the auditor, start the server and wait until it responds.

        Args:
            folder: folder to create.
            suites: terms that differ from the default, by suite name.

        Raises:
            SystemExit: the server does not start.
        """
        folder.mkdir()
        self.auditor_folder = folder / "auditor"
        with Storage.create(self.auditor_folder, "attacked", SLOT_SECONDS) as storage:
            for number in range(ACCOUNTS):
                storage.meter.set_token(f"lab{number}", token_hash(f"token {number}"))
            for name, changes in suites.items():
                path = write_rows(folder / f"{name}.jsonl", rows(opening=f"In {name}, is it so that"))
                fields = {
                    "suite": "jsonl", "sealed": str(path), "items": 30, "bars": NEVER, "submissions": MAX_SUBMISSIONS,
                    "passes": MAX_SUBMISSIONS,
                } | changes  # fmt: skip
                storage.add(name, Terms.model_validate(fields))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "stagezero.cli", "audit", "serve", str(self.auditor_folder), "--port", str(self.port), "--folders"]
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.http = self.client(0)
        end = time.monotonic() + TIMEOUT_SECONDS
        while time.monotonic() < end:
            try:
                if self.http.get("/v1/suites").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise SystemExit("the auditor does not start")

    def client(self, account: int) -> httpx.Client:
        """Return an HTTP client with the token of an account."""
        headers = {"Authorization": f"Bearer token {account}"}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False)

    def used(self, suite: str) -> int:
        """Return the number of submissions that were charged to a suite."""
        return int(self.http.get(f"/v1/suites/{suite}").json()["submissions_used"])

    def close(self) -> None:
        """Kill the server."""
        self._process.kill()
        self._process.wait()


@contextmanager
def running_auditor(folder: Path, suites: dict[str, dict[str, Any]]) -> Iterator[AuditorServer]:
    """Start an auditor, and kill it at the end."""
    server = AuditorServer(folder, suites)
    try:
        yield server
    finally:
        server.close()


def submission(suite: str, model: Path, **fields: Any) -> dict[str, Any]:
    """Return the body of a submission, with additional or changed fields."""
    return {"suite": suite, "digest": checkpoint_digest(model), "folder": str(model), **fields}


def _budget_result(name: str, used: int, note: str = "") -> AttackResult:
    """Return the result of an attack on the budget, from the number of charged submissions."""
    return AttackResult(name, "answers", used, MAX_SUBMISSIONS, used <= MAX_SUBMISSIONS, note=note)


def caller_held_count(door: AuditorServer, models: Models) -> AttackResult:
    """Send a count of used submissions in every place where a server might read one."""
    for count in ({"submissions_used": 0}, {"submissions_left": 99}, {"budget": 99.0}, {"account": "lab1"}, {"dry_run": True}, {}):
        for _ in range(2):
            model = models.new()
            door.http.post(
                "/v1/submissions", json=submission("caller_count", model, **count), params=count, headers={"X-Submissions-Used": "0"}
            )
            door.http.post("/v1/submissions", json=submission("caller_count", model))
    return _budget_result("caller_held_count", door.used("caller_count"))


def cancelled_requests(door: AuditorServer, models: Models) -> AttackResult:
    """Break off requests: after half a body, or without reading the reply; each with a reset."""
    for sent_share in (0.5, 1.0, 1.0, 1.0, 1.0):
        body = json.dumps(submission("cancelled", models.new())).encode()
        head = (
            f"POST /v1/submissions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer token 0\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        ).encode()  # fmt: skip
        with socket.create_connection(("127.0.0.1", urlsplit(str(door.http.base_url)).port or 0)) as connection:
            connection.sendall(head + body[: int(len(body) * sent_share)])
            # Without lingering, close() sends a reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        time.sleep(0.2)
    for _ in range(MAX_SUBMISSIONS):
        door.http.post("/v1/submissions", json=submission("cancelled", models.new()))
    return _budget_result("cancelled_requests", door.used("cancelled"))


def double_spend(door: AuditorServer, models: Models) -> list[AttackResult]:
    """Submit from 200 clients and ten accounts at once: different models, then one model."""
    different = [models.new() for _ in range(CLIENTS)]
    clients = [door.client(number % ACCOUNTS) for number in range(CLIENTS)]
    same = models.new()

    def submit(suite: str, client: httpx.Client, model: Path) -> int:
        return client.post("/v1/submissions", json=submission(suite, model)).status_code

    with ThreadPoolExecutor(CLIENTS) as pool:
        crowd = list(pool.map(lambda pair: submit("crowd", *pair), zip(clients, different, strict=True)))
        retries = list(pool.map(lambda client: submit("one", client, same), clients))
    for client in clients:
        client.close()
    accepted, used = crowd.count(202), door.used("crowd")
    receipts = retries.count(202) if door.used("one") == 1 else 0
    return [
        _budget_result("concurrent_double_spend", max(accepted, used), f"{CLIENTS} clients: {accepted} receipts, {used} charged"),
        AttackResult(
            "concurrent_retries",
            "answers",
            door.used("one"),
            1,
            receipts == CLIENTS,
            note=f"{CLIENTS} clients, one model: {receipts} receipts",
        ),
    ]


def error_text(door: AuditorServer, models: Models) -> AttackResult:
    """Compare all replies before the answer is due between two suites.

    In one suite every model passes, in the other none does. The requests are the same.
    """
    replies: dict[str, list[Any]] = {}
    model, broken, third = models.new(), models.new(broken=True), models.new()
    for suite in ("passing", "failing"):
        of_suite = replies.setdefault(suite, [])
        for submitted in (model, broken):
            receipt = door.http.post("/v1/submissions", json=submission(suite, submitted))
            of_suite.append(receipt.status_code)
            number = receipt.json()["submission"]
            time.sleep(0.7)  # the audit is over, and its answer is not due
            for path in (f"/v1/submissions/{number}", f"/v1/submissions/{number}/attestation", f"/v1/suites/{suite}"):
                reply = door.http.get(path)
                of_suite.append((reply.status_code, sorted(reply.headers), _comparable(reply.text, suite, number)))
        for bad in (submission(suite, third), submission(suite, third, folder="/nowhere"), {"suite": suite}):
            reply = door.http.post("/v1/submissions", json=bad)
            of_suite.append((reply.status_code, sorted(reply.headers), _comparable(reply.text, suite, 0)))
    differ = sum(a != b for a, b in zip(*replies.values(), strict=True))
    return AttackResult("error_text", "bits", float(differ), 0.0, differ == 0, note=f"{len(replies['passing'])} replies compared")


def _comparable(text: str, suite: str, number: int) -> str:
    """Return a reply without the fields and names that legitimately differ between two suites."""
    reply = json.loads(text)
    for key in ("due", "wait", "commitment", "suite", "submission", "generator", "bars", "bits_allowed"):
        reply.pop(key, None)
    return json.dumps(reply, sort_keys=True).replace(suite, "S").replace(f"submission {number}", "submission N")


def _request_seconds(request: Callable[[], httpx.Response]) -> float:
    """Return the time of one request, in seconds."""
    start = time.perf_counter()
    request()
    return time.perf_counter() - start


def timing(door: AuditorServer, models: Models, report: Callable[[str], None]) -> list[AttackResult]:
    """Compare everything that a client can time between models that pass, fail and crash.

    The client times requests while an answer is not yet due, and the answer itself. The models take
    turns. The times are compared pairwise with a rank test. The control demonstrates the power of
    the test: the time at which the auditor itself had the answer, which is when a door without
    slots would send it.
    """
    kinds = {"pass": ("timed_pass", False), "fail": ("timed_fail", False), "crash": ("timed_fail", True)}
    times: dict[str, dict[str, list[float]]] = {}
    full, refused = models.new(), models.new()
    door.http.post("/v1/submissions", json=submission("full", full))

    def add(quantity: str, kind: str, seconds: float) -> None:
        times.setdefault(quantity, {}).setdefault(kind, []).append(seconds)

    for _ in range(AUDITS):
        for kind, (suite, broken) in kinds.items():
            model = models.new(broken)
            start = time.time()
            receipt = door.http.post("/v1/submissions", json=submission(suite, model)).json()
            path = f"/v1/submissions/{receipt['submission']}"
            add("due", kind, receipt["due"] - start)
            add("audit_over", kind, _audit_seconds(door.auditor_folder, receipt["submission"], start))
            while time.time() < receipt["due"] - 0.3:  # the audit is over by then
                requests: dict[str, Callable[[], httpx.Response]] = {
                    "reply_before_due": lambda path=path: door.http.get(path),  # type: ignore[misc]
                    "status": lambda suite=suite: door.http.get(f"/v1/suites/{suite}"),  # type: ignore[misc]
                    "refusal": lambda: door.http.post("/v1/submissions", json=submission("full", refused)),
                    "checkpoint": lambda: door.http.post("/v1/checkpoint", json={}),
                }
                for quantity, request in requests.items():
                    add(quantity, kind, _request_seconds(request))
                time.sleep(0.05)
            time.sleep(max(0.0, receipt["due"] - time.time()))
            while door.http.get(path).status_code != 200:
                time.sleep(0.001)
            add("answer", kind, time.time() - receipt["due"])
    results, pairs = [], [("pass", "fail"), ("pass", "crash"), ("fail", "crash")]
    for quantity, by_kind in times.items():
        # One value per audit: requests during one audit are not independent.
        medians = {kind: _medians(values, AUDITS) for kind, values in by_kind.items()}
        tests = [stats.mannwhitneyu(medians[a], medians[b]) for a, b in pairs]
        smallest = min(float(test.pvalue) for test in tests)
        contained = smallest * len(pairs) * (len(times) - 1) > TIMING_LEVEL
        largest = max(abs(_median(medians[a]) - _median(medians[b])) for a, b in pairs)
        control = quantity == "audit_over"
        name = "control_answer_when_ready" if control else f"timing_of_{quantity}"
        shift = max(abs(2 * float(test.statistic) / AUDITS**2 - 1) for test in tests)
        note = f"p {smallest:.2g}, medians differ by {1e3 * largest:.2f} ms" + ("; the slots hide this" if control else "")
        results.append(AttackResult(name, "advantage", shift if not contained else 0.0, 0.0, contained, control, note))
        report(f"  {name:<32} {note}")
    return results


def _median(values: list[float]) -> float:
    """Return the upper median."""
    return sorted(values)[len(values) // 2]


def _medians(values: list[float], parts: int) -> list[float]:
    """Divide the values into consecutive parts, and return the median of each."""
    size = max(1, len(values) // parts)
    return [_median(values[i * size : (i + 1) * size]) for i in range(parts)]


def _audit_seconds(auditor_folder: Path, number: int, start: float) -> float:
    """Wait until the auditor has an answer, and return the seconds since ``start``.

    The answer is read from the auditor's database.
    """
    db = sqlite3.connect(f"file:{auditor_folder / 'meter.sqlite'}?mode=ro", uri=True)
    try:
        while True:
            if db.execute("SELECT word FROM submissions WHERE number = ?", (number,)).fetchone()[0] is not None:
                return time.time() - start
            time.sleep(0.002)
    finally:
        db.close()


def door_attacks(folder: Path, models: Models, report: Callable[[str], None]) -> list[AttackResult]:
    """Run every attack over HTTP against one auditor."""
    many = {"submissions": 60, "passes": 40}
    suites: dict[str, dict[str, Any]] = {
        "caller_count": {}, "cancelled": {}, "crowd": {}, "one": {}, "passing": {"bars": ALWAYS}, "failing": {},
        "timed_pass": {**many, "bars": ALWAYS}, "timed_fail": many, "full": {"submissions": 1, "passes": 1},
    }  # fmt: skip
    with running_auditor(folder, suites) as door:
        results = timing(door, models, report)
        results += [error_text(door, models), caller_held_count(door, models), cancelled_requests(door, models)]
        results += double_spend(door, models)
    for result in results[-5:]:
        report(f"  {result.name:<32} {result.note or result.gain}")
    return results


def answer_attacks() -> list[AttackResult]:
    """Run every attack on the answers, in memory."""
    results = []
    for control, outcomes in ((False, statistical_attacks()), (True, unmetered_attacks())):
        for o in outcomes:
            name = f"{'control_unmetered_' if control else ''}{o.attack}_{o.meter}"
            note = f"{o.replies:.0f} replies, exceeds the allowed gain in {o.over:.4f} of the runs"
            results.append(AttackResult(name, "accuracy", o.gain, o.allowed, o.contained, control, note))
    return results


def main() -> int:
    """Run the benchmark; return 1 if an attack is not contained, or a control is."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--runs", type=int, default=2000, help="runs in which violations of the certificate are counted")
    options = parser.parse_args()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    start = time.monotonic()

    def report(line: str) -> None:
        print(f"{time.monotonic() - start:5.0f} s{line}", flush=True)

    results = answer_attacks()
    violations, naive = certificate_violations(options.runs), naive_violations(options.runs)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = Models(make_base(folder / "base"), folder / "models")
        results += door_attacks(folder / "door", models, report)
        (folder / "resets").mkdir()
        results += resets(folder / "resets", models, report)
    print(f"\n{'attack':<36} {'unit':<9} {'gain':>8} {'allowed':>8} {'ratio':>6}")
    for r in results:
        outcome = ("contained" if r.contained else "not contained") + (", control" if r.control else "")
        print(f"{r.name:<36} {r.unit:<9} {r.gain:>8.4g} {r.allowed:>8.4g} {r.ratio:>6.2f}  {outcome}"
              f"{'' if r.as_expected else ' UNEXPECTED'}  {r.note}")  # fmt: skip
    attacks = [r for r in results if not r.control]
    figures: dict[str, Any] = {
        "certificate_violations": max(violations.values()),
        "naive_violations": naive,
        "attacks_tried": len(attacks),
        "attacks_held": sum(r.contained for r in attacks),
        "controls_tried": len(results) - len(attacks),
        "controls_as_expected": sum(r.as_expected for r in results if r.control),
        "seconds": time.monotonic() - start,
    }
    for name, value in figures.items():
        print(f"{name:<24} {value:.4g}")
    if options.json is not None:
        table = [
            {"attack": r.name, "unit": r.unit, "gain": r.gain, "allowed": r.allowed, "ratio": r.ratio, "held": r.contained,
             "control": r.control, "note": r.note} for r in results
        ]  # fmt: skip
        options.json.write_text(json.dumps({**figures, "rows": table}, indent=1, sort_keys=True) + "\n")
    passed = all(r.as_expected for r in results) and figures["certificate_violations"] <= DELTA and naive >= 0.99
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
