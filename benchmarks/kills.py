"""kill -9 of the auditor, of the lab, or of both, at random moments of a submission: nothing uncharged, charged twice or lost.

A real auditor serves on a port (``stagezero audit serve``) and a lab's client is a process of its own. In each round the lab submits a new
model, one of the two is killed at a random moment (some while the auditor starts), what is dead is started again, and the lab gives the
same command again. Then, and also before anything is started again, the two records are compared with what the lab has heard:

    uncharged   an answer was heard that the meter or the ledger does not have, word for word
    double      a model was charged twice, or the counts disagree with the rows
    lost        a submission did not end in an answer
    changed     a model that was answered is answered otherwise when it is asked again at the end

Every fifth model breaks its own audit. Half of the moments fall into the first quarter of a second, where the charge is.
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

from stagezero.auditor.http_api import new_token, token_hash
from stagezero.auditor.storage import Storage
from stagezero.door import Door, Terms
from stagezero.errors import LedgerError, StagezeroError
from stagezero.ledger import read, verify
from stagezero.models import checkpoint_digest

KILLS, SLOT, PATIENCE, CLUSTERS = 100, 1.0, 120.0, 40
SUITE, ACCOUNT = "sealed", "lab"
AT_ONCE, IN_ALL, START = 0.25, 2.0, 5.0  # seconds: of the charge, of a submission, of an auditor's start
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
    """A real pocket model, hardly trained; made in a process of its own."""
    subprocess.run([sys.executable, "-c", MAKE_BASE, str(folder), str(steps)], check=True, stderr=subprocess.DEVNULL)
    return folder


def variant(base: Path, folder: Path, number: int) -> Path:
    """The base under another digest; every fifth breaks when it is loaded."""
    copy = Path(shutil.copytree(base, folder / f"m{number}"))
    config = json.loads((copy / "config.json").read_text())
    config["note"] = number
    if number % 5 == 4:
        config["hidden_size"] = 10
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def sealed_file(path: Path, clusters: int = CLUSTERS) -> Path:
    """A sealed file to which any answer at all is right."""
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
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def lab(address: str, token: str, model: Path, digest: str, heard: Path) -> None:
    """The lab's command: submit, wait, and write down what was heard."""
    word = Door(address, token, SUITE, timeout=PATIENCE).submit_and_wait(model, digest).verdict
    handle = os.open(heard, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, f"{digest} {word}\n".encode())
    os.close(handle)


@dataclass
class Found:
    """What was counted over all rounds."""

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
    told: list[str] = field(default_factory=list)


class Scene:
    """An auditor on a port, a lab, and all that was ever heard."""

    def __init__(self, folder: Path, base: Path, tell: Callable[[str], None]) -> None:
        self.folder, self.base, self.tell, self.found = folder, base, tell, Found()
        self.keep, self.heard, self.port = folder / "keep", folder / "heard", _free_port()
        self.models: dict[str, Path] = {}
        self.token = new_token()
        self._auditor: subprocess.Popen[bytes] | None = None
        with Storage.create(self.keep, "killed", SLOT) as storage:
            terms = Terms(
                suite="jsonl", sealed=str(sealed_file(folder / "sealed.jsonl")), items=CLUSTERS, bars={"candour": 0.02},
                submissions=2 * KILLS, passes=2 * KILLS,
            )  # fmt: skip
            storage.add(SUITE, terms)
            storage.meter.set_token(ACCOUNT, token_hash(self.token))

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, wait: bool) -> None:
        """Have the auditor serve."""
        command = [sys.executable, "-m", "stagezero.cli", "audit", "serve", str(self.keep), "--port", str(self.port), "--folders"]
        with (self.folder / "auditor.log").open("ab") as log:
            self._auditor = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log)
        if wait:
            self.ready()

    def ready(self) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(StagezeroError):
                Door(self.address, self.token, SUITE, timeout=PATIENCE).status()
                return
            assert self._auditor is not None
            if time.monotonic() > end or self._auditor.poll() is not None:
                raise SystemExit(f"the auditor does not start: {(self.folder / 'auditor.log').read_text()[-2000:]}")
            time.sleep(0.05)

    def kill_auditor(self) -> None:
        assert self._auditor is not None
        self._auditor.send_signal(signal.SIGKILL)
        self._auditor.wait()

    def submit(self, model: Path, digest: str) -> BaseProcess:
        process = _FORK.Process(target=_quietly, args=(self.address, self.token, model, digest, self.heard))
        process.start()
        return process

    # --- the two records, and what was heard ----------------------------------------------------------------------

    def hearings(self) -> list[tuple[str, str]]:
        if not self.heard.exists():
            return []
        return [(d, w) for d, w in (line.split() for line in self.heard.read_text().splitlines())]

    def compare(self, when: str) -> None:
        """Every hearing stands in the meter and in the ledger; every model has one charge; counts agree with rows."""
        db = sqlite3.connect(f"file:{self.keep / 'meter.sqlite'}?mode=ro", uri=True)
        try:
            # In one read: what is charged in between is in all of them or in none.
            db.execute("BEGIN")
            rows = db.execute("SELECT number, model, word FROM submissions").fetchall()
            ((replies, pending),) = db.execute("SELECT replies, pending FROM pools").fetchall()
        finally:
            db.close()
        words = {model: word for _, model, word in rows}
        try:
            entries = list(read(self.keep / "ledger.jsonl"))
        except LedgerError as error:
            if self._auditor is not None and self._auditor.poll() is None:
                raise
            entries = []  # a torn last line: it is set aside when the auditor next starts
            self.tell(f"  {error}")
        charged = [e.body["model"] for e in entries if e.kind == "charged"]
        answered = {e.body["number"]: e.body["word"] for e in entries if e.kind == "answered"}
        in_ledger = {model: answered.get(number) for number, model, _ in rows if model in charged}
        for digest, word in self.hearings():
            if words.get(digest) != word or (entries and in_ledger.get(digest) != word):
                self.found.uncharged += 1
                self.found.told.append(
                    f"{when}: heard {word} of {digest[:8]}; the meter has {words.get(digest)}, the ledger {in_ledger.get(digest)}"
                )
        if len(charged) != len(set(charged)) or len(rows) != len(words) or replies + pending != len(rows):
            self.found.double += 1
            self.found.told.append(
                f"{when}: {len(rows)} rows, {len(words)} models, counts {replies} + {pending}, {len(charged)} in the ledger"
            )

    def _phase(self, digest: str) -> None:
        db = sqlite3.connect(f"file:{self.keep / 'meter.sqlite'}?mode=ro", uri=True)
        row = db.execute("SELECT word FROM submissions WHERE model = ?", (digest,)).fetchone()
        db.close()
        self.found.before_charge += row is None
        self.found.between_charge_and_answer += row is not None and row[0] is None
        self.found.after_answer += row is not None and row[0] is not None

    # --- rounds ---------------------------------------------------------------------------------------------------

    def round(self, number: int, draw: random.Random) -> None:
        """One submission, one kill, and the same command again."""
        model = variant(self.base, self.folder, number)
        digest = checkpoint_digest(model)
        self.models[digest] = model
        whom = draw.choices(("auditor", "lab", "both"), (22, 65, 13))[0]
        starting = whom == "auditor" and draw.random() < 0.2
        if starting:
            self.kill_auditor()
            self.start(wait=False)
        process = self.submit(model, digest)
        time.sleep(draw.uniform(0, START if starting else AT_ONCE if draw.random() < 0.5 else IN_ALL))
        self.found.kills += 1
        self.found.while_starting += starting
        if whom in ("lab", "both"):
            process.kill()
            process.join()
            self.found.lab_kills += 1
        if whom in ("auditor", "both"):
            self.kill_auditor()
            self.found.auditor_kills += 1
        self._phase(digest)
        self.compare(f"round {number}, {whom} killed")
        if whom in ("auditor", "both"):
            self.start(wait=False)
        process.join(PATIENCE)
        for _ in range(2):
            if process.exitcode == 0:
                break
            process.kill()
            self.ready()
            process = self.submit(model, digest)
            process.join(PATIENCE)
        if process.exitcode != 0 or digest not in dict(self.hearings()):
            process.kill()
            self.found.lost += 1
            self.found.told.append(f"round {number}: {whom} killed, and {digest[:8]} has no answer")
        self.compare(f"round {number}, over")

    def end(self) -> None:
        """Everything asked again, the ledger verified, the folder opened once more."""
        first: dict[str, str] = {}
        for digest, word in self.hearings():
            if first.setdefault(digest, word) != word:
                self.found.changed += 1
        self.ready()
        door = Door(self.address, self.token, SUITE, timeout=PATIENCE)
        for digest, model in self.models.items():
            word = door.submit_and_wait(model, digest).verdict
            if first.get(digest) != word:
                self.found.changed += 1
                self.found.told.append(f"{digest[:8]} was {first.get(digest)} and is {word}")
        self.compare("the end")
        status = door.status()
        self.kill_auditor()
        try:
            verify(self.keep / "ledger.jsonl", deep=True)
            with Storage(self.keep) as storage:
                if (
                    storage.meter.closed_reason
                    or status.submissions_used != len(self.models)
                    or len(storage.meter.charges()) != len(self.models)
                ):
                    raise StagezeroError(
                        f"closed: {storage.meter.closed_reason}; {status.submissions_used} used by {len(self.models)} models"
                    )
        except StagezeroError as error:
            self.found.broken += 1
            self.found.told.append(str(error))


def _quietly(*given: object) -> None:
    try:
        lab(*given)  # type: ignore[arg-type]
    except StagezeroError:
        os._exit(1)
    os._exit(0)


def killed_while_created(folder: Path, draw: random.Random) -> bool:
    """Whether an embedded auditor that was killed while it made its folder opens the next time."""
    from stagezero.door.auditor_process import EmbeddedAuditor

    first = EmbeddedAuditor(folder)
    time.sleep(draw.uniform(0.2, START))
    os.kill(first._process.pid, signal.SIGKILL)
    first.close()
    try:
        with EmbeddedAuditor(folder) as second:
            second.endpoint()
        return verify(folder / "ledger.jsonl", deep=True) >= 2
    except StagezeroError:
        return False


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--kills", type=int, default=KILLS)
    parser.add_argument("--created", type=int, default=3, help="of them, kills while an auditor's folder is made")
    parser.add_argument("--seed", type=int, default=4)
    parser.add_argument("--base", type=Path, help="a tiny model to submit; one is made otherwise")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    started = time.monotonic()
    os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base = options.base or make_base(folder / "base")
        scene = Scene(folder, base, print)
        scene.start(wait=True)
        for number in range(options.kills - options.created):
            scene.round(number, draw)
            if number % 10 == 9:
                print(f"  {number + 1} kills, {time.monotonic() - started:.0f} s", flush=True)
        scene.end()
        found = scene.found
        for number in range(options.created):
            found.kills += 1
            found.auditor_kills += 1
            found.while_starting += 1
            if not killed_while_created(folder / f"embedded{number}", draw):
                found.broken += 1
                found.told.append(
                    f"an auditor killed while its folder was made does not open again: {list((folder / f'embedded{number}').iterdir())}"
                )
    for line in found.told:
        print(line)
    figures = {
        "kills": found.kills, "kills_of_auditor": found.auditor_kills, "kills_of_lab": found.lab_kills,
        "kills_while_starting": found.while_starting, "kills_before_charge": found.before_charge,
        "kills_between_charge_and_answer": found.between_charge_and_answer, "kills_after_answer": found.after_answer,
        "uncharged_answers": found.uncharged, "double_charges": found.double, "lost_submissions": found.lost,
        "changed_answers": found.changed, "broken_records": found.broken, "seconds": time.monotonic() - started,
    }  # fmt: skip
    faults = ("uncharged_answers", "double_charges", "lost_submissions", "changed_answers", "broken_records")
    publish(figures, dict.fromkeys(faults, "0"), options.json)
    return 1 if any(figures[name] for name in faults) else 0


if __name__ == "__main__":
    sys.exit(main())
