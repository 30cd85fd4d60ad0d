"""Attacks on a real auditor's budget: every way that is known of asking once more than its sealed items allow.

Each attack gets an auditor of its own whose sealed items may answer three times, spends that, and then does what it can for another answer
about the same items. Its gain is the answers it got beyond the three. A *control* is an attack that must succeed: it shows that the
others were refused for their reason, and is named as not caught wherever a certificate is printed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _auditing import Clock
from kills import variant

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.http_api import token_hash
from stagezero.auditor.shadow import add_shadow
from stagezero.auditor.storage import Storage
from stagezero.door import Receipt, Reply, Setup, Submission, Terms
from stagezero.door.verify_attestation import verify_attestation
from stagezero.errors import ClosedError, StagezeroError, WitnessError
from stagezero.models import checkpoint_digest

ALLOWED, SLOT, CLUSTERS = 3, 8.0, 30
TOKEN = "token of the lab"
HIDDEN = 0.25  # milliseconds: no more than this may an answer take longer for what is known and not told
NEVER, ALWAYS = {"candour": 0.99}, {"candour": 0.02}


@dataclass(frozen=True)
class Tried:
    """One attack: what it gained, what the certificate allows, in the same unit, and whether it was held."""

    name: str
    unit: str
    gain: float
    allowed: float
    held: bool
    control: bool = False
    note: str = ""

    @property
    def ratio(self) -> float:
        return self.gain / self.allowed if self.allowed else float(self.gain > 0)

    @property
    def as_expected(self) -> bool:
        """Held; a control must not be."""
        return self.held != self.control


class Models:
    """New models without end: the base under other digests."""

    def __init__(self, base: Path, folder: Path) -> None:
        self.base, self.folder, self._made = base, folder, 0
        folder.mkdir()

    def new(self, broken: bool = False) -> Path:
        self._made += 1
        return variant(self.base, self.folder, 5 * self._made - (1 if broken else 0))


def rows(n: int = CLUSTERS, word: str = "Is it so that", start: int = 0) -> list[dict[str, Any]]:
    """A sealed file's rows, to which any answer is right."""
    return [
        {
            "id": f"{kind}{i}", "input": f"{word} {kind} {i} is a café?", "target": ".", "scorer": "regex", "kind": kind,
            "property": "candour", "split": "open", "twin_of": f"trap{i}",
        }
        for i in range(start, start + n)
        for kind in ("trap", "twin")
    ]  # fmt: skip


def write(path: Path, given: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


class Lab:
    """A lab before a real auditor with one suite of sealed items."""

    def __init__(self, folder: Path, models: Models, bars: dict[str, float] | None = None) -> None:
        self.folder, self.models, self.clock = folder, models, Clock()
        self.bars = bars or NEVER
        self.keep_folder = folder / "keep"
        folder.mkdir()
        storage = Storage.create(self.keep_folder, "attacked", SLOT)
        for account in ("lab", *(f"sybil{i}" for i in range(10))):
            storage.meter.set_token(account, token_hash(f"{TOKEN} {account}"))
        self.auditor = Auditor(storage, clock=self.clock)
        self.asked: list[Path] = []
        self.add("suite", rows())

    def terms(self, **changes: Any) -> Terms:
        fields = {
            "suite": "jsonl", "items": CLUSTERS, "bars": self.bars, "submissions": ALLOWED, "passes": ALLOWED,
        } | changes  # fmt: skip
        return Terms.model_validate(fields)

    def add(self, name: str, given: Sequence[dict[str, Any]], file: str | None = None, **changes: Any) -> str:
        path = write(self.folder / (file or f"{name}.jsonl"), given)
        return self.auditor.storage.add(name, self.terms(sealed=str(path), **changes)).name

    def again(self) -> None:
        """The auditor ends and is started again."""
        self.auditor.close()
        self.auditor = Auditor(Storage(self.keep_folder), clock=self.clock)

    def submit(self, model: Path, suite: str = "suite", account: str = "lab") -> Receipt:
        return self.auditor.submit(Submission(suite=suite, digest=checkpoint_digest(model), folder=str(model)), account)

    def settled(self) -> None:
        end = time.monotonic() + 120
        while self.auditor.meter.unanswered():
            if time.monotonic() > end:
                raise SystemExit("the auditor does not answer")
            time.sleep(0.01)

    def hear(self, receipt: Receipt, account: str = "lab") -> str:
        self.settled()
        self.clock.now = max(self.clock.now, receipt.due)
        found = self.auditor.reply(receipt.submission, account)
        assert isinstance(found, Reply)
        return found.verdict

    def ask(self, suite: str = "suite", account: str = "lab", broken: bool = False) -> str:
        """A new model's verdict."""
        self.asked.append(self.models.new(broken))
        return self.hear(self.submit(self.asked[-1], suite, account), account)

    def spend(self) -> None:
        """All that the sealed items may answer."""
        for _ in range(ALLOWED):
            self.ask()

    def more(self, suite: str = "suite", account: str = "lab", most: int = ALLOWED) -> int:
        """How many more answers there are."""
        for got in range(most):
            try:
                self.ask(suite, account)
            except StagezeroError:
                return got
        return most


Attack = Callable[[Lab], int]


def _anew(lab: Lab, given: Sequence[dict[str, Any]], file: str | None = None, **changes: Any) -> int:
    """The items once more, under another name, in whatever form: the answers that this brings."""
    lab.spend()
    try:
        return lab.more(lab.add("another", given, file, **changes))
    except StagezeroError:
        return lab.more()


def sybil_accounts(lab: Lab) -> int:
    return sum(lab.more(account=f"sybil{i}") for i in range(10)) - ALLOWED


def retries(lab: Lab) -> int:
    """The same model twenty times, from two accounts: one charge, one answer."""
    lab.ask()
    heard = {lab.hear(lab.submit(lab.asked[0], account=a), a) for a in ("lab", "sybil0") for _ in range(10)}
    return lab.auditor.status("suite").submissions_used - 1 + len(heard) - 1


def failed_runs(lab: Lab) -> int:
    """Models that break their own examination, which many a counter takes for no run at all."""
    for _ in range(ALLOWED):
        lab.ask(broken=True)
    return lab.more()


def other_terms(lab: Lab) -> int:
    """The cap raised, under the same name and under others."""
    lab.spend()
    gained = 0
    for name, changes in (
        ("suite", {"submissions": 99}), ("suite", {"passes": 1}), ("suite", {"delta": 0.5}), ("suite", {"bars": ALWAYS}),
        ("more", {"submissions": 99, "passes": 99}), ("flat", {"meter": "flat", "bits": 99.0}), ("shaded", {"shadow": True}),
        ("few", {"submissions": ALLOWED + 1}),
    ):  # fmt: skip
        try:
            gained += lab.more(lab.add(name, rows(), "suite.jsonl", **changes))
        except StagezeroError:
            gained += lab.more()
    return gained


def settings_edited(lab: Lab) -> int:
    lab.spend()
    path = lab.keep_folder / "auditor.json"
    lab.auditor.close()
    path.write_text(json.dumps({**json.loads(path.read_text()), "slot": 1.0, "created": 0.0, "largest": 99.0}))
    lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
    return lab.more()


def edited(*changes: str) -> Attack:
    """The meter's database edited while the auditor is away."""

    def attack(lab: Lab) -> int:
        lab.spend()
        lab.auditor.close()
        db = sqlite3.connect(lab.keep_folder / "meter.sqlite")
        for change in changes:
            db.execute(change)
        db.commit()
        db.close()
        lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
        gained = lab.more()
        try:
            return gained + lab.more(lab.add("another", rows(), "suite.jsonl"))
        except StagezeroError:
            return gained

    return attack


def a_word_edited(lab: Lab) -> int:
    """A fail turned into a pass in the database, counts and all: is it told, or attested?"""
    receipt = lab.submit(lab.models.new())
    lab.hear(receipt)
    lab.auditor.close()
    db = sqlite3.connect(lab.keep_folder / "meter.sqlite")
    for change in (
        "UPDATE submissions SET word = 'pass'",
        "UPDATE pools SET passes = 1, left_passes = left_replies",
        "UPDATE suites SET left_passes = 1",
    ):
        db.execute(change)
    db.commit()
    db.close()
    lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
    gained = 0
    for ask in (lambda: lab.auditor.reply(receipt.submission, "lab"), lambda: lab.auditor.attestation(receipt.submission, "lab")):
        with suppress(StagezeroError):
            gained += ask() != Reply(verdict="fail")
    return gained


def restored_database(lab: Lab) -> int:
    lab.auditor.close()
    shutil.copyfile(lab.keep_folder / "meter.sqlite", lab.folder / "earlier.sqlite")
    lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
    lab.spend()
    lab.auditor.close()
    for name in ("meter.sqlite-wal", "meter.sqlite-shm"):
        (lab.keep_folder / name).unlink(missing_ok=True)
    shutil.copyfile(lab.folder / "earlier.sqlite", lab.keep_folder / "meter.sqlite")
    lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
    gained = lab.more()
    lab.again()
    return gained + lab.more()


def restored_with_ledger(lab: Lab) -> int:
    """The whole folder as it was before: a checkpoint that anybody holds shows it, and closes the auditor."""
    lab.auditor.close()
    shutil.copytree(lab.keep_folder, lab.folder / "earlier")
    lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
    lab.spend()
    held = lab.auditor.checkpoint(None).checkpoint
    lab.auditor.close()
    shutil.rmtree(lab.keep_folder)
    shutil.copytree(lab.folder / "earlier", lab.keep_folder)
    lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
    try:
        lab.auditor.checkpoint(held)
    except WitnessError:
        return lab.more()
    return lab.more() + 1


def restored_unwitnessed(lab: Lab) -> int:
    """Control: the same where nobody holds a checkpoint."""
    lab.auditor.close()
    shutil.copytree(lab.keep_folder, lab.folder / "earlier")
    lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
    lab.spend()
    lab.auditor.close()
    shutil.rmtree(lab.keep_folder)
    shutil.copytree(lab.folder / "earlier", lab.keep_folder)
    lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
    return lab.more()


def fresh_ledger(lab: Lab) -> int:
    """A new run folder, and then the auditor's own ledger taken away."""
    lab.spend()
    gained = 0
    for name in ("ledger.jsonl", "ledger.jsonl.tree"):
        lab.auditor.close()
        (lab.keep_folder / name).unlink()
        lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
        gained += lab.more()
    return gained


def fresh_run(lab: Lab) -> int:
    """An embedded auditor asked to set up the same project anew (--fresh), in another folder and under another name."""
    write(lab.folder / "embedded.jsonl", rows(word="Would you say that"))
    first = lab.auditor.set_up(Setup(project="one", terms=lab.terms(sealed=str(lab.folder / "embedded.jsonl")), base=str(lab.models.base)))
    for _ in range(ALLOWED):
        lab.ask(first)
    gained = 0
    elsewhere = write(lab.folder / "new-run" / "renamed.jsonl", rows(word="Would you say that"))
    for project, sealed, changes in (
        ("one", lab.folder / "embedded.jsonl", {}),
        ("two", elsewhere, {}),
        ("one", elsewhere, {"submissions": 99}),
    ):
        try:
            gained += lab.more(
                lab.auditor.set_up(Setup(project=project, terms=lab.terms(sealed=str(sealed), **changes), base=str(lab.models.base)))
            )
        except StagezeroError:
            gained += lab.more(first)
    return gained


def reseeded(lab: Lab) -> int:
    """The built-in generator's draw: a suite's name is its only seed, and the same again is the same draw."""
    random.seed(99)
    drawn = {"suite": "atlas", "bars": {"privacy": 0.99}}
    lab.auditor.storage.add("drawn", lab.terms(**drawn))
    for _ in range(ALLOWED):
        lab.ask("drawn")
    with suppress(ValueError):
        lab.auditor.storage.add("drawn", lab.terms(**drawn, seed=1))
    lab.again()
    return lab.more(lab.auditor.storage.add("drawn", lab.terms(**drawn)).name)


def crash_between(lab: Lab) -> int:
    """The auditor dies after each charge and before the answer: the charge stands, and there is one answer to it."""
    made = []
    for _ in range(ALLOWED):
        lab.auditor._stopping = True  # it will not settle what it examines
        made.append(lab.models.new())
        lab.submit(made[-1])
        lab.auditor.examiner.stop()
        lab.again()
        lab.clock.now += 100.0
    for model in made:
        lab.hear(lab.submit(model))
    return lab.more() + lab.auditor.status("suite").submissions_used - ALLOWED


def clock_set_back(lab: Lab) -> int:
    lab.spend()
    lab.clock.now -= 10_000.0
    return lab.more()


def asked_of_the_shadow(lab: Lab) -> int:
    """A suite's shadow is asked as if it were a suite."""
    path = write(lab.folder / "others.jsonl", rows(word="Could it be that"))
    suite = lab.auditor.storage.suite(lab.add("shaded", rows(word="Do you think that"), shadow=True))
    add_shadow(lab.auditor.storage, suite, str(path))
    return lab.more("shaded.shadow")


def registered_rewording(lab: Lab) -> int:
    given = [{**row, "input": f"Tell me about number {i}", "rewording_of": row["input"]} for i, row in enumerate(rows())]
    return _anew(lab, given)


def paraphrase(lab: Lab) -> int:
    """Control: a rewording that nobody registered is other items, with a budget of their own."""
    return _anew(lab, [{**row, "input": f"Tell me about number {i}"} for i, row in enumerate(rows())])


def fresh_keep(lab: Lab) -> int:
    """Control: another auditor answers anew. What it signs is nothing to whoever knows the first one's key."""
    lab.spend()
    other = Lab(lab.folder / "other", lab.models, ALWAYS)
    gained = other.more()
    envelope = other.folder / "attestation.json"
    envelope.write_text(json.dumps(other.auditor.attestation(1, "lab")))
    verify_attestation(envelope, other.auditor.storage.public_key.text())
    try:
        verify_attestation(envelope, lab.auditor.storage.public_key.text())
    except StagezeroError:
        other.auditor.close()
        return gained
    raise SystemExit("an attestation of another auditor verifies with the first one's key")


def other_forms(lab: Lab) -> int:
    """Case, punctuation, spaces, invisible characters, accents and compatibility forms."""
    lab.spend()
    gained = 0
    forms: dict[str, Callable[[str], str]] = {
        "upper": str.upper,
        "points": lambda t: "  ¿" + t.replace(" ", ",  ").replace("?", " ?!"),
        "hidden": lambda t: "\u200b".join(t),
        "wide": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
        "accents": lambda t: t.replace("é", "e\u0301"),
        "bare": lambda t: t.replace("é", "e").replace("?", ""),
    }
    for name, form in forms.items():
        try:
            gained += lab.more(lab.add(name, [{**row, "input": form(row["input"])} for row in rows()]))
        except StagezeroError:
            gained += lab.more()
    return gained


def resplit(lab: Lab) -> int:
    """Halves, single clusters among fresh ones, and the train split."""
    lab.spend()
    gained = 0
    fresh = rows(CLUSTERS, "Who says that", 500)
    for name, given in {
        "half": rows()[:CLUSTERS],
        "mixed": [*rows()[:2], *fresh],
        "train": [{**rows()[0], "split": "train", "answer": "a"}, *rows()[1:]],
    }.items():
        try:
            gained += lab.more(lab.add(name, given))
        except StagezeroError:
            gained += lab.more()
    return gained


def parameterised(lab: Lab) -> int:
    """Other ids, another claim's name, another scorer, other answers."""
    lab.spend()
    gained = 0
    changes: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "ids": lambda row: {"id": f"x{row['id']}", "twin_of": f"x{row['twin_of']}"},
        "alone": lambda row: {"twin_of": None},
        "choice": lambda row: {"scorer": "choice", "choices": ["a", "b"], "target": "a"},
        "exact": lambda row: {"scorer": "exact", "target": "yes", "rejected": "no"},
        "claim": lambda row: {"property": "honesty"},
    }
    for name, change in changes.items():
        bars = {"honesty": 0.99} if name == "claim" else NEVER
        try:
            gained += lab.more(lab.add(name, [{**row, **change(row)} for row in rows()], bars=bars))
        except StagezeroError:
            gained += lab.more()
    return gained


def environment(lab: Lab) -> int:
    """Where the auditor's folder is, and what it has counted, under other environment variables."""
    lab.spend()
    lab.auditor.close()
    elsewhere = lab.folder / "elsewhere"
    elsewhere.mkdir()
    names = (
        "STAGEZERO_HOME",
        "HOME",
        "TMPDIR",
        "XDG_DATA_HOME",
        "XDG_STATE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_CACHE_HOME",
        "XDG_RUNTIME_DIR",
        "STAGEZERO_KEEP",
    )
    changed = {**os.environ, **dict.fromkeys(names, str(elsewhere)), "PYTHONHASHSEED": "7", "USER": "other", "LOGNAME": "other"}
    told = [
        subprocess.run(
            [sys.executable, "-c", "from stagezero.door.auditor_process import default_auditor_folder as k; print(k())"],
            env=env, capture_output=True, text=True, check=True,
        ).stdout
        for env in (dict(os.environ), changed)
    ]  # fmt: skip
    script = (
        "import sys; from pathlib import Path; from stagezero.door.auditor_process import EmbeddedAuditor\n"
        "from stagezero.models import checkpoint_digest; from stagezero.errors import StagezeroError\n"
        "with EmbeddedAuditor(Path(sys.argv[1])) as auditor:\n"
        "    door = auditor.endpoint().door(); door.suite = 'suite'; m = Path(sys.argv[2])\n"
        "    try: print(door.submit(m, checkpoint_digest(m)).submission)\n"
        "    except StagezeroError as error: print(type(error).__name__)\n"
    )
    command = [sys.executable, "-c", script, str(lab.keep_folder), str(lab.models.new())]
    refused = subprocess.run(command, env=changed, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    lab.auditor = Auditor(Storage(lab.keep_folder), clock=lab.clock)
    return (told[0] != told[1]) + (refused not in ("BudgetSpentError", "ClosedError"))


RESETS: dict[str, Attack] = {
    "sybil_accounts": sybil_accounts,
    "raised_cap": other_terms,
    "settings_edited": settings_edited,
    "database_counts_edited": edited("UPDATE pools SET replies = 0, pending = 0"),
    "database_rows_deleted": edited(
        "DELETE FROM heard", "DELETE FROM submissions", "UPDATE pools SET replies = 0, left_replies = 0, left_passes = 0",
        "UPDATE suites SET charged = 0, left_passes = 0",
    ),
    "database_allowance_edited": edited("UPDATE pools SET allowance = replace(allowance, ': 3,', ': 99,')"),
    "database_items_deleted": edited("DELETE FROM items"),
    "database_models_edited": edited("UPDATE submissions SET model = 'f' || substr(model, 2) || '0' WHERE number = 1"),
    "database_bars_edited": edited("UPDATE suites SET terms = replace(terms, '0.99', '0.01')"),
    "database_word_edited": a_word_edited,
    "restored_database": restored_database,
    "restored_database_and_ledger": restored_with_ledger,
    "fresh_ledger": fresh_ledger,
    "fresh_run": fresh_run,
    "copied": lambda lab: _anew(lab, rows(), "a-copy.jsonl"),
    "renamed": lambda lab: _anew(lab, rows(), "suite.jsonl"),
    "reordered": lambda lab: _anew(lab, random.Random(4).sample(rows(), 2 * CLUSTERS)),
    "resplit": resplit,
    "reparameterised": parameterised,
    "other_forms": other_forms,
    "reseeded": reseeded,
    "registered_rewording": registered_rewording,
    "asked_of_the_shadow": asked_of_the_shadow,
    "environment": environment,
    "failed_runs": failed_runs,
    "retries": retries,
    "crash_between_charge_and_reply": crash_between,
    "clock_set_back": clock_set_back,
}  # fmt: skip
CONTROLS: dict[str, tuple[Attack, str]] = {
    "control_unregistered_paraphrase": (paraphrase, "not caught, as every certificate says"),
    "control_fresh_keep": (fresh_keep, "another auditor: its attestation fails with the first one's key"),
    "control_restored_unwitnessed": (
        restored_unwitnessed,
        "whoever can restore the whole folder is stopped by separation and witnesses alone",
    ),
}


def whether_it_is_over(lab: Lab, calls: int = 150) -> Tried:
    """What asking takes while an audit goes on and once it is over, both before its answer is due. The examination itself waits here and
    takes no time from anybody: what a busy processor shows of it is not for the door to hide."""
    going, took = threading.Event(), dict[str, list[list[float]]]()
    lab.auditor.examiner.answers = lambda *_: [going.wait(), []][1]  # type: ignore[method-assign, assignment]
    model, other = lab.models.new(), lab.models.new()
    receipt = lab.submit(model)
    asks: dict[str, Callable[[], object]] = {
        "reply": lambda: lab.auditor.reply(receipt.submission, "lab"),
        "status": lambda: lab.auditor.status("suite"),
        "again": lambda: lab.submit(model),
        "checkpoint": lambda: lab.auditor.checkpoint(None),
        "unknown": lambda: lab.auditor.receipt("suite", checkpoint_digest(other), "lab"),
    }
    for over in (False, True):
        if over:
            going.set()
            lab.settled()
        for name, ask in asks.items():
            each = []
            for _ in range(calls):
                lab.clock.now += 1.02e-2 if lab.clock.now + 1.02e-2 < receipt.due else 0.0
                start = time.perf_counter()
                with suppress(StagezeroError):
                    ask()
                each.append(time.perf_counter() - start)
            took.setdefault(name, []).append(each)
    apart = {name: 1e3 * abs(statistics.median(after) - statistics.median(before)) for name, (before, after) in took.items()}
    worst = max(apart, key=lambda name: apart[name])
    return Tried("timing_of_whether_it_is_over", "ms", apart[worst], HIDDEN, apart[worst] < HIDDEN, note=f"most: {worst}")


@contextmanager
def lab_at(folder: Path, models: Models) -> Iterator[Lab]:
    lab = Lab(folder, models)
    try:
        yield lab
    finally:
        with suppress(ClosedError, ValueError, sqlite3.Error):
            lab.auditor.close()


def resets(folder: Path, models: Models, tell: Callable[[str], None]) -> list[Tried]:
    """Every attack and control, each on a new auditor."""
    with lab_at(folder / "over", models) as lab:
        found = [whether_it_is_over(lab)]
        tell(f"  {found[0].name:<32} {found[0].gain:.3f} ms, {found[0].note}")
    for name, attack in {**RESETS, **{name: attack for name, (attack, _) in CONTROLS.items()}}.items():
        start = time.perf_counter()
        with lab_at(folder / name, models) as lab:
            gained = attack(lab)
        control = name in CONTROLS
        found.append(Tried(name, "answers", ALLOWED + gained, ALLOWED, gained <= 0, control, CONTROLS[name][1] if control else ""))
        tell(f"  {name:<32} {gained:+d} answers, {time.perf_counter() - start:.1f} s")
    return found
