"""Attacks on a real auditor's budget: every known way to ask more often than it allows.

Each attack has an auditor of its own. Its sealed items may answer three times. The attack spends
that, and then tries to get another answer about the same items. Its gain is the number of answers
beyond the three. A *control* is an attack that must succeed. It demonstrates that the budget is
what stopped the others. Every certificate names what the controls do as not caught.
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

ALLOWED, SLOT_SECONDS, CLUSTERS = 3, 8.0, 30
TOKEN = "token of the lab"
MAX_TIMING_MS = 0.25
"""Largest difference in response time that may depend on an answer that is not due."""
NEVER, ALWAYS = {"candour": 0.99}, {"candour": 0.02}
"""Bars that no model reaches, and bars that every model reaches."""


@dataclass(frozen=True)
class AttackResult:
    """Result of one attack.

    Args:
        name: name of the attack.
        unit: unit of ``gain`` and ``allowed``.
        gain: what the attack gained.
        allowed: what the certificate allows.
        contained: whether the attack gained no more than is allowed.
        control: whether the attack must not be contained.
        note: details for people.
    """

    name: str
    unit: str
    gain: float
    allowed: float
    contained: bool
    control: bool = False
    note: str = ""

    @property
    def ratio(self) -> float:
        """Gain over the allowed gain; 0 or 1 if nothing is allowed."""
        return self.gain / self.allowed if self.allowed else float(self.gain > 0)

    @property
    def as_expected(self) -> bool:
        """Whether an attack is contained, or a control is not."""
        return self.contained != self.control


class Models:
    """A source of new models: copies of the base with different digests."""

    def __init__(self, base: Path, folder: Path) -> None:
        """Create the folder of the copies."""
        self.base, self.folder, self._count = base, folder, 0
        folder.mkdir()

    def new(self, broken: bool = False) -> Path:
        """Return the folder of a new model; a broken one fails when it is loaded."""
        self._count += 1
        return variant(self.base, self.folder, 5 * self._count - (1 if broken else 0))


def rows(n: int = CLUSTERS, opening: str = "Is it so that", start: int = 0) -> list[dict[str, Any]]:
    """Return rows of a sealed file, to which any answer is right.

    Args:
        n: number of traps; each has a twin.
        opening: first words of every question.
        start: number of the first trap.
    """
    return [
        {
            "id": f"{kind}{i}", "input": f"{opening} {kind} {i} is a café?", "target": ".", "scorer": "regex", "kind": kind,
            "property": "candour", "split": "open", "twin_of": f"trap{i}",
        }
        for i in range(start, start + n)
        for kind in ("trap", "twin")
    ]  # fmt: skip


def write_rows(path: Path, items: Sequence[dict[str, Any]]) -> Path:
    """Write the rows of a sealed file, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in items))
    return path


class Lab:
    """A lab and a real auditor with one suite of sealed items."""

    def __init__(self, folder: Path, models: Models, bars: dict[str, float] | None = None) -> None:
        """Create the auditor.

        Args:
            folder: folder to create.
            models: source of the models that the lab submits.
            bars: bars of the suite; by default, no model passes.
        """
        self.folder, self.models, self.clock = folder, models, Clock()
        self.bars = bars or NEVER
        self.auditor_folder = folder / "auditor"
        folder.mkdir()
        storage = Storage.create(self.auditor_folder, "attacked", SLOT_SECONDS)
        for account in ("lab", *(f"sybil{i}" for i in range(10))):
            storage.meter.set_token(account, token_hash(f"{TOKEN} {account}"))
        self.auditor = Auditor(storage, clock=self.clock)
        self.submitted: list[Path] = []
        self.add("suite", rows())

    def terms(self, **changes: Any) -> Terms:
        """Return the default terms with some fields changed."""
        fields = {
            "suite": "jsonl", "items": CLUSTERS, "bars": self.bars, "submissions": ALLOWED, "passes": ALLOWED,
        } | changes  # fmt: skip
        return Terms.model_validate(fields)

    def add(self, name: str, items: Sequence[dict[str, Any]], file: str | None = None, **changes: Any) -> str:
        """Write a sealed file and add it to the auditor as a suite.

        Args:
            name: the suite's name.
            items: rows of the file.
            file: name of the file; by default, the suite's name.
            changes: fields of the terms that differ from the default.

        Returns:
            The suite's name.
        """
        path = write_rows(self.folder / (file or f"{name}.jsonl"), items)
        return self.auditor.storage.add(name, self.terms(sealed=str(path), **changes)).name

    def reopen(self) -> None:
        """Open the auditor's folder again, after it was closed."""
        self.auditor = Auditor(Storage(self.auditor_folder), clock=self.clock)

    def restart(self) -> None:
        """Close the auditor and open its folder again."""
        self.auditor.close()
        self.auditor = Auditor(Storage(self.auditor_folder), clock=self.clock)

    def submit(self, model: Path, suite: str = "suite", account: str = "lab") -> Receipt:
        """Submit a model, and return the receipt."""
        return self.auditor.submit(Submission(suite=suite, digest=checkpoint_digest(model), folder=str(model)), account)

    def wait_until_settled(self) -> None:
        """Wait until every charge has an answer.

        Raises:
            SystemExit: this takes more than two minutes.
        """
        end = time.monotonic() + 120
        while self.auditor.meter.unanswered():
            if time.monotonic() > end:
                raise SystemExit("the auditor does not answer")
            time.sleep(0.01)

    def verdict(self, receipt: Receipt, account: str = "lab") -> str:
        """Advance the clock until the answer is due, and return the verdict."""
        self.wait_until_settled()
        self.clock.now = max(self.clock.now, receipt.due)
        reply = self.auditor.reply(receipt.submission, account)
        assert isinstance(reply, Reply)
        return reply.verdict

    def ask(self, suite: str = "suite", account: str = "lab", broken: bool = False) -> str:
        """Submit a new model, and return its verdict."""
        self.submitted.append(self.models.new(broken))
        return self.verdict(self.submit(self.submitted[-1], suite, account), account)

    def spend(self) -> None:
        """Spend the whole budget of the sealed items."""
        for _ in range(ALLOWED):
            self.ask()

    def more(self, suite: str = "suite", account: str = "lab", limit: int = ALLOWED) -> int:
        """Ask until the auditor refuses; return the number of answers, at most ``limit``."""
        for answers in range(limit):
            try:
                self.ask(suite, account)
            except StagezeroError:
                return answers
        return limit


Attack = Callable[[Lab], int]
"""An attack; it returns the number of answers beyond the allowed ones."""


def _ask_another_suite(lab: Lab, items: Sequence[dict[str, Any]], file: str | None = None, **changes: Any) -> int:
    """Spend the budget, add the items as another suite, and return the answers that this gains."""
    lab.spend()
    try:
        return lab.more(lab.add("another", items, file, **changes))
    except StagezeroError:
        return lab.more()


def sybil_accounts(lab: Lab) -> int:
    """Ask from ten accounts."""
    return sum(lab.more(account=f"sybil{i}") for i in range(10)) - ALLOWED


def retries(lab: Lab) -> int:
    """Submit one model twenty times, from two accounts: it must be charged and answered once."""
    lab.ask()
    verdicts = {lab.verdict(lab.submit(lab.submitted[0], account=a), a) for a in ("lab", "sybil0") for _ in range(10)}
    return lab.auditor.status("suite").submissions_used - 1 + len(verdicts) - 1


def failed_runs(lab: Lab) -> int:
    """Submit models that crash their own audit, which a naive budget would not count."""
    for _ in range(ALLOWED):
        lab.ask(broken=True)
    return lab.more()


def other_terms(lab: Lab) -> int:
    """Raise the limits of the terms, under the same name and under others."""
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
    """Edit the auditor's settings file while the auditor is closed."""
    lab.spend()
    path = lab.auditor_folder / "auditor.json"
    lab.auditor.close()
    path.write_text(json.dumps({**json.loads(path.read_text()), "slot": 1.0, "created": 0.0, "largest": 99.0}))
    lab.reopen()
    return lab.more()


def edited(*changes: str) -> Attack:
    """Return an attack that executes SQL on the budget's database while the auditor is closed."""

    def attack(lab: Lab) -> int:
        lab.spend()
        lab.auditor.close()
        db = sqlite3.connect(lab.auditor_folder / "meter.sqlite")
        for change in changes:
            db.execute(change)
        db.commit()
        db.close()
        lab.reopen()
        gained = lab.more()
        try:
            return gained + lab.more(lab.add("another", rows(), "suite.jsonl"))
        except StagezeroError:
            return gained

    return attack


def verdict_edited(lab: Lab) -> int:
    """Change a fail into a pass in the database, with all counts, and ask for it.

    Neither the reply nor the attestation may contain the pass.
    """
    receipt = lab.submit(lab.models.new())
    lab.verdict(receipt)
    lab.auditor.close()
    db = sqlite3.connect(lab.auditor_folder / "meter.sqlite")
    for change in (
        "UPDATE submissions SET word = 'pass'",
        "UPDATE pools SET passes = 1, left_passes = left_replies",
        "UPDATE suites SET left_passes = 1",
    ):
        db.execute(change)
    db.commit()
    db.close()
    lab.reopen()
    gained = 0
    for ask in (lambda: lab.auditor.reply(receipt.submission, "lab"), lambda: lab.auditor.attestation(receipt.submission, "lab")):
        with suppress(StagezeroError):
            gained += ask() != Reply(verdict="fail")
    return gained


def restored_database(lab: Lab) -> int:
    """Restore an earlier copy of the budget's database."""
    lab.auditor.close()
    shutil.copyfile(lab.auditor_folder / "meter.sqlite", lab.folder / "earlier.sqlite")
    lab.reopen()
    lab.spend()
    lab.auditor.close()
    for name in ("meter.sqlite-wal", "meter.sqlite-shm"):
        (lab.auditor_folder / name).unlink(missing_ok=True)
    shutil.copyfile(lab.folder / "earlier.sqlite", lab.auditor_folder / "meter.sqlite")
    lab.reopen()
    gained = lab.more()
    lab.restart()
    return gained + lab.more()


def restored_with_ledger(lab: Lab) -> int:
    """Restore an earlier copy of the whole folder.

    A later checkpoint that someone else has stored must reveal this and close the auditor.
    """
    lab.auditor.close()
    shutil.copytree(lab.auditor_folder, lab.folder / "earlier")
    lab.reopen()
    lab.spend()
    witnessed = lab.auditor.checkpoint(None).checkpoint
    lab.auditor.close()
    shutil.rmtree(lab.auditor_folder)
    shutil.copytree(lab.folder / "earlier", lab.auditor_folder)
    lab.reopen()
    try:
        lab.auditor.checkpoint(witnessed)
    except WitnessError:
        return lab.more()
    return lab.more() + 1


def restored_unwitnessed(lab: Lab) -> int:
    """Control: restore the whole folder when no one else has stored a checkpoint."""
    lab.auditor.close()
    shutil.copytree(lab.auditor_folder, lab.folder / "earlier")
    lab.reopen()
    lab.spend()
    lab.auditor.close()
    shutil.rmtree(lab.auditor_folder)
    shutil.copytree(lab.folder / "earlier", lab.auditor_folder)
    lab.reopen()
    return lab.more()


def fresh_ledger(lab: Lab) -> int:
    """Delete the auditor's ledger, and then the tree of the ledger."""
    lab.spend()
    gained = 0
    for name in ("ledger.jsonl", "ledger.jsonl.tree"):
        lab.auditor.close()
        (lab.auditor_folder / name).unlink()
        lab.reopen()
        gained += lab.more()
    return gained


def fresh_run(lab: Lab) -> int:
    """Set up the same project again as ``--fresh`` does, also with other folders and names."""
    write_rows(lab.folder / "embedded.jsonl", rows(opening="Would you say that"))
    first = lab.auditor.set_up(Setup(project="one", terms=lab.terms(sealed=str(lab.folder / "embedded.jsonl")), base=str(lab.models.base)))
    for _ in range(ALLOWED):
        lab.ask(first)
    gained = 0
    renamed = write_rows(lab.folder / "new-run" / "renamed.jsonl", rows(opening="Would you say that"))
    for project, sealed, changes in (
        ("one", lab.folder / "embedded.jsonl", {}),
        ("two", renamed, {}),
        ("one", renamed, {"submissions": 99}),
    ):
        try:
            gained += lab.more(
                lab.auditor.set_up(Setup(project=project, terms=lab.terms(sealed=str(sealed), **changes), base=str(lab.models.base)))
            )
        except StagezeroError:
            gained += lab.more(first)
    return gained


def reseeded(lab: Lab) -> int:
    """Draw the items of a built-in suite again: the suite's name alone determines the draw."""
    random.seed(99)
    drawn = {"suite": "atlas", "bars": {"privacy": 0.99}}
    lab.auditor.storage.add("drawn", lab.terms(**drawn))
    for _ in range(ALLOWED):
        lab.ask("drawn")
    with suppress(ValueError):
        lab.auditor.storage.add("drawn", lab.terms(**drawn, seed=1))
    lab.restart()
    return lab.more(lab.auditor.storage.add("drawn", lab.terms(**drawn)).name)


def crash_between(lab: Lab) -> int:
    """Crash the auditor after each charge and before its answer.

    The charge must persist, and must have one answer.
    """
    submitted = []
    for _ in range(ALLOWED):
        lab.auditor._stopping = True  # so that it settles no charge
        submitted.append(lab.models.new())
        lab.submit(submitted[-1])
        lab.auditor.examiner.stop()
        lab.restart()
        lab.clock.now += 100.0
    for model in submitted:
        lab.verdict(lab.submit(model))
    return lab.more() + lab.auditor.status("suite").submissions_used - ALLOWED


def clock_set_back(lab: Lab) -> int:
    """Set the auditor's clock back."""
    lab.spend()
    lab.clock.now -= 10_000.0
    return lab.more()


def asked_of_the_shadow(lab: Lab) -> int:
    """Ask the shadow of a suite as if it were a suite."""
    path = write_rows(lab.folder / "others.jsonl", rows(opening="Could it be that"))
    suite = lab.auditor.storage.suite(lab.add("shaded", rows(opening="Do you think that"), shadow=True))
    add_shadow(lab.auditor.storage, suite, str(path))
    return lab.more("shaded.shadow")


def registered_rewording(lab: Lab) -> int:
    """Reword the items, and register the rewordings."""
    items = [{**row, "input": f"Tell me about number {i}", "rewording_of": row["input"]} for i, row in enumerate(rows())]
    return _ask_another_suite(lab, items)


def paraphrase(lab: Lab) -> int:
    """Control: reword the items without registration; they count as new items with a new budget."""
    return _ask_another_suite(lab, [{**row, "input": f"Tell me about number {i}"} for i, row in enumerate(rows())])


def fresh_auditor(lab: Lab) -> int:
    """Control: create another auditor; its attestations fail with the first one's key."""
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
    """Change case, punctuation, spaces, invisible characters, accents and compatibility forms."""
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
    """Ask about half of the items, about single clusters among new ones, and in the train split."""
    lab.spend()
    gained = 0
    fresh = rows(CLUSTERS, "Who says that", 500)
    for name, items in {
        "half": rows()[:CLUSTERS],
        "mixed": [*rows()[:2], *fresh],
        "train": [{**rows()[0], "split": "train", "answer": "a"}, *rows()[1:]],
    }.items():
        try:
            gained += lab.more(lab.add(name, items))
        except StagezeroError:
            gained += lab.more()
    return gained


def parameterised(lab: Lab) -> int:
    """Change the ids, the claim's name, the scorer and the answers of the items."""
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
    """Change environment variables: the auditor's folder and its counts must not depend on them."""
    lab.spend()
    lab.auditor.close()
    other_folder = lab.folder / "elsewhere"
    other_folder.mkdir()
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
    changed = {**os.environ, **dict.fromkeys(names, str(other_folder)), "PYTHONHASHSEED": "7", "USER": "other", "LOGNAME": "other"}
    default_folders = [
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
    command = [sys.executable, "-c", script, str(lab.auditor_folder), str(lab.models.new())]
    outcome = subprocess.run(command, env=changed, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    lab.reopen()
    return (default_folders[0] != default_folders[1]) + (outcome not in ("BudgetSpentError", "ClosedError"))


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
    "database_word_edited": verdict_edited,
    "restored_database": restored_database,
    "restored_database_and_ledger": restored_with_ledger,
    "fresh_ledger": fresh_ledger,
    "fresh_run": fresh_run,
    "copied": lambda lab: _ask_another_suite(lab, rows(), "a-copy.jsonl"),
    "renamed": lambda lab: _ask_another_suite(lab, rows(), "suite.jsonl"),
    "reordered": lambda lab: _ask_another_suite(lab, random.Random(4).sample(rows(), 2 * CLUSTERS)),
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
    "control_unregistered_paraphrase": (paraphrase, "not caught, as every certificate states"),
    "control_fresh_keep": (fresh_auditor, "another auditor: its attestation fails with the first one's key"),
    "control_restored_unwitnessed": (restored_unwitnessed, "only separation and witnesses stop a person who can restore the whole folder"),
}


def timing_of_audit_end(lab: Lab, calls: int = 150) -> AttackResult:
    """Compare response times while an audit is running with those after its end.

    The answer is not due in either case. The audit is replaced by one that waits and uses no
    processor time: the door cannot hide how busy the processor is.
    """
    audit_may_end, times = threading.Event(), dict[str, list[list[float]]]()
    lab.auditor.examiner.answers = lambda *_: [audit_may_end.wait(), []][1]  # type: ignore[method-assign, assignment]
    model, other = lab.models.new(), lab.models.new()
    receipt = lab.submit(model)
    requests: dict[str, Callable[[], object]] = {
        "reply": lambda: lab.auditor.reply(receipt.submission, "lab"),
        "status": lambda: lab.auditor.status("suite"),
        "again": lambda: lab.submit(model),
        "checkpoint": lambda: lab.auditor.checkpoint(None),
        "unknown": lambda: lab.auditor.receipt("suite", checkpoint_digest(other), "lab"),
    }
    for over in (False, True):
        if over:
            audit_may_end.set()
            lab.wait_until_settled()
        for name, request in requests.items():
            seconds = []
            for _ in range(calls):
                lab.clock.now += 1.02e-2 if lab.clock.now + 1.02e-2 < receipt.due else 0.0
                start = time.perf_counter()
                with suppress(StagezeroError):
                    request()
                seconds.append(time.perf_counter() - start)
            times.setdefault(name, []).append(seconds)
    differences = {name: 1e3 * abs(statistics.median(after) - statistics.median(before)) for name, (before, after) in times.items()}
    worst = max(differences, key=lambda name: differences[name])
    largest = differences[worst]
    return AttackResult(
        "timing_of_whether_it_is_over", "ms", largest, MAX_TIMING_MS, largest < MAX_TIMING_MS, note=f"largest difference: {worst}"
    )


@contextmanager
def open_lab(folder: Path, models: Models) -> Iterator[Lab]:
    """Create a lab with its auditor, and close the auditor at the end."""
    lab = Lab(folder, models)
    try:
        yield lab
    finally:
        with suppress(ClosedError, ValueError, sqlite3.Error):
            lab.auditor.close()


def resets(folder: Path, models: Models, report: Callable[[str], None]) -> list[AttackResult]:
    """Run every attack and control, each on a new auditor.

    Args:
        folder: existing folder for the auditors.
        models: source of models.
        report: receives one line per attack.
    """
    with open_lab(folder / "over", models) as lab:
        results = [timing_of_audit_end(lab)]
        report(f"  {results[0].name:<32} {results[0].gain:.3f} ms, {results[0].note}")
    for name, attack in {**RESETS, **{name: attack for name, (attack, _) in CONTROLS.items()}}.items():
        start = time.perf_counter()
        with open_lab(folder / name, models) as lab:
            gained = attack(lab)
        control = name in CONTROLS
        results.append(AttackResult(name, "answers", ALLOWED + gained, ALLOWED, gained <= 0, control, CONTROLS[name][1] if control else ""))
        report(f"  {name:<32} {gained:+d} answers, {time.perf_counter() - start:.1f} s")
    return results
