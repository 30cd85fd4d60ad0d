"""Kill the auditor, the lab or both with SIGKILL at random moments of a submission.

No answer may be uncharged, no model charged twice, and no submission lost. A real auditor serves on
a port (``stagezero audit serve``); the lab's client is a process of its own. In each round the lab
submits a new model, and the auditor, the lab or both are killed at a random moment (sometimes while
the auditor starts). What was killed is started again, and the lab repeats its command. Before
anything is started again, and at the end of the round, the budget and the ledger are compared with
the answers that the lab has received. The benchmark counts:

    uncharged   answers that the lab received and that the budget or the ledger does not contain
    double      models that were charged twice, or counts that disagree with the rows
    lost        submissions that did not end in an answer
    changed     models with another answer when they are submitted again at the end

Every fifth model crashes its own audit. Half of the kills occur in the first quarter of a second,
when the charge is made.

Then faults of the machine are caused in the lab: full disks, lost mounts and killed workers at
random moments of a comparison (``_machine_faults.py``). No entry of its ledger may be wrong, and
the same command must go on to the ledger of an undisturbed run.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path

from _common import arguments, publish
from _machine_faults import run_faults

from stagezero.auditor.http_api import new_token, token_hash
from stagezero.auditor.storage import Storage
from stagezero.door import Door, Terms
from stagezero.errors import LedgerError, StagezeroError
from stagezero.ledger import read, verify
from stagezero.models import checkpoint_digest, home, materialise

KILLS, SLOT_SECONDS, TIMEOUT_SECONDS, CLUSTERS = 100, 1.0, 120.0, 40
SUITE, ACCOUNT = "sealed", "lab"
CHARGE_SECONDS, SUBMISSION_SECONDS, START_SECONDS = 0.25, 2.0, 5.0
"""Upper bounds of the time of a kill: during a charge, a submission, and an auditor's start."""
_FORK = multiprocessing.get_context("fork")

MAKE_BASE = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from stagezero.models import pocket
torch.set_num_threads(1)
pocket.SIZES["16k"] = replace(pocket.SIZES["16k"], steps=int(sys.argv[2]))
Path(sys.argv[1]).mkdir()
pocket.save(pocket.pretrain("16k", seed=0), Path(sys.argv[1]), {"kind": "benchmark"})
"""


def make_base(folder: Path, steps: int = 200) -> Path:
    """Train a real pocket model for a few steps, in a process of its own, and return its folder."""
    subprocess.run([sys.executable, "-c", MAKE_BASE, str(folder), str(steps)], check=True, stderr=subprocess.DEVNULL)
    return folder


def variant(base: Path, folder: Path, number: int) -> Path:
    """Copy the base with another digest, and return the copy's folder.

    Every fifth copy fails when it is loaded.
    """
    copy = Path(shutil.copytree(base, folder / f"m{number}"))
    config = json.loads((copy / "config.json").read_text())
    config["note"] = number
    if number % 5 == 4:
        config["hidden_size"] = 10
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def sealed_file(path: Path, clusters: int = CLUSTERS) -> Path:
    """Write a sealed file to which any answer is right, and return its path."""
    rows = [
        {
            "id": f"{kind}{i}", "input": f"{kind} {i}?", "target": ".", "scorer": "regex", "kind": kind,
            "property": "candour", "split": "open", "twin_of": f"trap{i}",
        }
        for i in range(clusters)
        for kind in ("trap", "twin")
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _free_port() -> int:
    """Return a free port of this machine."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def lab(address: str, token: str, model: Path, digest: str, answers: Path) -> None:
    """Submit a model, wait for the verdict and append it to a file; this is the lab's command.

    Args:
        address: address of the auditor.
        token: token of the lab.
        model: the model's folder.
        digest: the model's digest.
        answers: file of the received answers, one line each: digest and verdict.
    """
    verdict = Door(address, token, SUITE, timeout=TIMEOUT_SECONDS).submit_and_wait(model, digest).verdict
    handle = os.open(answers, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{digest} {verdict}\n".encode())
    os.close(handle)


@dataclass
class Counts:
    """Kills and failures over all rounds; ``failures`` describes each failure."""

    kills: int = 0
    auditor_kills: int = 0
    lab_kills: int = 0
    while_starting: int = 0
    before_charge: int = 0
    between_charge_and_answer: int = 0
    after_answer: int = 0
    uncharged: int = 0
    double: int = 0
    lost: int = 0
    changed: int = 0
    broken: int = 0
    failures: list[str] = field(default_factory=list)


class KillTest:
    """An auditor on a port, a lab, and the answers that the lab has received."""

    def __init__(self, folder: Path, base: Path, report: Callable[[str], None]) -> None:
        """Create the auditor's folder.

        Args:
            folder: existing folder for all files.
            base: model that is copied for each submission.
            report: receives lines of progress.
        """
        self.folder, self.base, self.report, self.counts = folder, base, report, Counts()
        self.auditor_folder, self.answers_file, self.port = folder / "auditor", folder / "answers", _free_port()
        self.models: dict[str, Path] = {}
        self.token = new_token()
        self._auditor: subprocess.Popen[bytes] | None = None
        with Storage.create(self.auditor_folder, "killed", SLOT_SECONDS) as storage:
            terms = Terms(
                suite="jsonl", sealed=str(sealed_file(folder / "sealed.jsonl")), items=CLUSTERS, bars={"candour": 0.02},
                submissions=2 * KILLS, passes=2 * KILLS,
            )  # fmt: skip
            storage.add(SUITE, terms)
            storage.meter.set_token(ACCOUNT, token_hash(self.token))

    @property
    def address(self) -> str:
        """Address of the auditor."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: bool) -> None:
        """Start the auditor's server; optionally wait until it responds."""
        command = [sys.executable, "-m", "stagezero.cli", "audit", "serve", str(self.auditor_folder), "--port", str(self.port), "--folders"]
        with (self.folder / "auditor.log").open("ab") as log:
            self._auditor = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        if wait:
            self.wait_until_ready()

    def wait_until_ready(self) -> None:
        """Wait until the auditor responds.

        Raises:
            SystemExit: it has ended, or does not respond in time.
        """
        end = time.monotonic() + TIMEOUT_SECONDS
        while True:
            with contextlib.suppress(StagezeroError):
                Door(self.address, self.token, SUITE, timeout=TIMEOUT_SECONDS).status()
                return
            assert self._auditor is not None
            if time.monotonic() > end or self._auditor.poll() is not None:
                raise SystemExit(f"the auditor does not start: {(self.folder / 'auditor.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill_auditor(self) -> None:
        """Kill the auditor's server with SIGKILL."""
        assert self._auditor is not None
        self._auditor.send_signal(signal.SIGKILL)
        self._auditor.wait()

    def submit(self, model: Path, digest: str) -> BaseProcess:
        """Start the lab's command in a process of its own."""
        process = _FORK.Process(target=_lab_process, args=(self.address, self.token, model, digest, self.answers_file))
        process.start()
        return process

    # --- comparison of the records with the received answers --------------------------------------

    def answers(self) -> list[tuple[str, str]]:
        """Return the answers that the lab has received, as digest and verdict."""
        if not self.answers_file.exists():
            return []
        return [(d, w) for d, w in (line.split() for line in self.answers_file.read_text().splitlines())]

    def compare(self, when: str) -> None:
        """Compare the budget, the ledger and the received answers, and count what is wrong.

        The budget and the ledger must contain every received answer, every model must have one
        charge, and the counts must agree with the rows.

        Args:
            when: moment of the comparison, for the description of failures.
        """
        db = sqlite3.connect(f"file:{self.auditor_folder / 'meter.sqlite'}?mode=ro", uri=True)
        try:
            # One transaction: both queries see the same charges.
            db.execute("BEGIN")
            rows = db.execute("SELECT number, model, word FROM submissions").fetchall()
            ((replies, pending),) = db.execute("SELECT replies, pending FROM pools").fetchall()
        finally:
            db.close()
        verdicts = {model: verdict for _, model, verdict in rows}
        try:
            entries = list(read(self.auditor_folder / "ledger.jsonl"))
        except LedgerError as error:
            if self._auditor is not None and self._auditor.poll() is None:
                raise
            entries = []  # the last line is incomplete; the auditor removes it when it starts
            self.report(f"  {error}")
        charged = [e.body["model"] for e in entries if e.kind == "charged"]
        answered = {e.body["number"]: e.body["word"] for e in entries if e.kind == "answered"}
        in_ledger = {model: answered.get(number) for number, model, _ in rows if model in charged}
        for digest, verdict in self.answers():
            if verdicts.get(digest) != verdict or (entries and in_ledger.get(digest) != verdict):
                self.counts.uncharged += 1
                self.counts.failures.append(
                    f"{when}: the lab received {verdict} for {digest[:8]}; the budget contains {verdicts.get(digest)}, "
                    f"the ledger {in_ledger.get(digest)}"
                )
        if len(charged) != len(set(charged)) or len(rows) != len(verdicts) or replies + pending != len(rows):
            self.counts.double += 1
            self.counts.failures.append(
                f"{when}: {len(rows)} rows, {len(verdicts)} models, counts {replies} + {pending}, {len(charged)} charges in the ledger"
            )

    def _count_phase(self, digest: str) -> None:
        """Count whether a kill came before the charge, before the answer, or after it."""
        db = sqlite3.connect(f"file:{self.auditor_folder / 'meter.sqlite'}?mode=ro", uri=True)
        row = db.execute("SELECT word FROM submissions WHERE model = ?", (digest,)).fetchone()
        db.close()
        self.counts.before_charge += row is None
        self.counts.between_charge_and_answer += row is not None and row[0] is None
        self.counts.after_answer += row is not None and row[0] is not None

    # --- rounds -----------------------------------------------------------------------------------

    def round(self, number: int, rng: random.Random) -> None:
        """Submit a model, kill a process, and repeat the command."""
        model = variant(self.base, self.folder, number)
        digest = checkpoint_digest(model)
        self.models[digest] = model
        target = rng.choices(("auditor", "lab", "both"), (22, 65, 13))[0]
        starting = target == "auditor" and rng.random() < 0.2
        if starting:
            self.kill_auditor()
            self.start(wait=False)
        process = self.submit(model, digest)
        time.sleep(rng.uniform(0, START_SECONDS if starting else CHARGE_SECONDS if rng.random() < 0.5 else SUBMISSION_SECONDS))
        self.counts.kills += 1
        self.counts.while_starting += starting
        if target in ("lab", "both"):
            process.kill()
            process.join()
            self.counts.lab_kills += 1
        if target in ("auditor", "both"):
            self.kill_auditor()
            self.counts.auditor_kills += 1
        self._count_phase(digest)
        self.compare(f"round {number}, {target} killed")
        if target in ("auditor", "both"):
            self.start(wait=False)
        process.join(TIMEOUT_SECONDS)
        for _ in range(2):
            if process.exitcode == 0:
                break
            process.kill()
            self.wait_until_ready()
            process = self.submit(model, digest)
            process.join(TIMEOUT_SECONDS)
        if process.exitcode != 0 or digest not in dict(self.answers()):
            process.kill()
            self.counts.lost += 1
            self.counts.failures.append(f"round {number}: {target} killed; {digest[:8]} has no answer")
        self.compare(f"end of round {number}")

    def end(self) -> None:
        """Submit every model again, verify the ledger, and open the auditor's folder again."""
        first: dict[str, str] = {}
        for digest, verdict in self.answers():
            if first.setdefault(digest, verdict) != verdict:
                self.counts.changed += 1
        self.wait_until_ready()
        door = Door(self.address, self.token, SUITE, timeout=TIMEOUT_SECONDS)
        for digest, model in self.models.items():
            verdict = door.submit_and_wait(model, digest).verdict
            if first.get(digest) != verdict:
                self.counts.changed += 1
                self.counts.failures.append(f"the answer for {digest[:8]} was {first.get(digest)} and is {verdict}")
        self.compare("end of the test")
        status = door.status()
        self.kill_auditor()
        try:
            verify(self.auditor_folder / "ledger.jsonl", deep=True)
            with Storage(self.auditor_folder) as storage:
                if (
                    storage.meter.closed_reason
                    or status.submissions_used != len(self.models)
                    or len(storage.meter.charges()) != len(self.models)
                ):
                    raise StagezeroError(
                        f"closed: {storage.meter.closed_reason}; {status.submissions_used} charges for {len(self.models)} models"
                    )
        except StagezeroError as error:
            self.counts.broken += 1
            self.counts.failures.append(str(error))


def _lab_process(*parameters: object) -> None:
    """Run the lab's command; exit with 1 on an expected error, without a traceback."""
    try:
        lab(*parameters)  # type: ignore[arg-type]
    except StagezeroError:
        os._exit(1)
    os._exit(0)


def opens_after_kill(folder: Path, rng: random.Random) -> bool:
    """Kill an embedded auditor while it creates its folder; return whether the folder opens."""
    from stagezero.door.auditor_process import EmbeddedAuditor

    first = EmbeddedAuditor(folder)
    time.sleep(rng.uniform(0.2, START_SECONDS))
    os.kill(first._process.pid, signal.SIGKILL)
    first.close()
    try:
        with EmbeddedAuditor(folder) as second:
            second.endpoint()
        return verify(folder / "ledger.jsonl", deep=True) >= 2
    except StagezeroError:
        return False


def main() -> int:
    """Run the benchmark; return 1 if anything is wrong."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=KILLS, help="number of kills")
    parser.add_argument("--created", type=int, default=3, help="how many of the kills occur while an auditor's folder is created")
    parser.add_argument("--seed", type=int, default=4, help="seed of the random moments")
    parser.add_argument("--faults", type=int, default=20, help="number of full disks; other faults in proportion")
    parser.add_argument("--base", type=Path, help="folder of a tiny model to submit; by default, one is trained")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    start = time.monotonic()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = options.base or make_base(folder / "base")
        test = KillTest(folder, base, print)
        test.start(wait=True)
        for number in range(options.kills - options.created):
            test.round(number, rng)
            if number % 10 == 9:
                print(f"  {number + 1} kills, {time.monotonic() - start:.0f} s", flush=True)
        test.end()
        counts = test.counts
        for number in range(options.created):
            counts.kills += 1
            counts.auditor_kills += 1
            counts.while_starting += 1
            embedded = folder / f"embedded{number}"
            if not opens_after_kill(embedded, rng):
                counts.broken += 1
                counts.failures.append(
                    f"an auditor that was killed while it created its folder does not open again: {list(embedded.iterdir())}"
                )
    materialise("pocket/16k")
    machine = run_faults(options.faults, home(), options.seed) if options.faults else {}
    for line in [*counts.failures, *(line for count in machine.values() for line in count.failures)]:
        print(line)
    figures: dict[str, float] = {
        "kills": counts.kills, "kills_of_auditor": counts.auditor_kills, "kills_of_lab": counts.lab_kills,
        "kills_while_starting": counts.while_starting, "kills_before_charge": counts.before_charge,
        "kills_between_charge_and_answer": counts.between_charge_and_answer, "kills_after_answer": counts.after_answer,
        "uncharged_answers": counts.uncharged, "double_charges": counts.double, "lost_submissions": counts.lost,
        "changed_answers": counts.changed, "broken_records": counts.broken, "seconds": time.monotonic() - start,
    }  # fmt: skip
    for name, count in machine.items():
        figures |= {f"{name}_rounds": count.rounds, f"{name}_stopped": count.stopped, f"{name}_wrong": len(count.failures)}
    wrong = tuple(f"{name}_wrong" for name in machine)
    faults = (*wrong, "uncharged_answers", "double_charges", "lost_submissions", "changed_answers", "broken_records")
    publish(figures, dict.fromkeys(faults, "0"), options.json)
    return 1 if any(figures[name] for name in faults) else 0


if __name__ == "__main__":
    sys.exit(main())
