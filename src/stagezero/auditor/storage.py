"""The auditor folder: its keys, settings, budget database, ledger, and copies of sealed files.

One folder is one identity. The lifetime key signs; the lifetime secret makes commitments and draws.
An operator who loses them has a different auditor, with another public key that no one trusts yet.
For the same reason a fresh folder does not help an attacker: no one accepts its signatures.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stagezero.auditor.budget import BudgetMeter
from stagezero.auditor.budget_tables import SHADOW_SUFFIX, Charge, Suite, allowance_of
from stagezero.auditor.sealed import SealedItems, copy_sealed_file, load_sealed_items
from stagezero.door.messages import NAME_PATTERN, SEPARATIONS, Separation, Terms, Verdict
from stagezero.errors import ClosedError, DoorError, InputError, explain
from stagezero.files import STAGED_PREFIX, Closeable, load_or_create_secret, write_atomic
from stagezero.ledger import Ledger, VerifyKey, digest, read
from stagezero.ledger.keys import SigningKey

DEFAULT_SLOT_SECONDS = 7 * 86400.0
MIN_SLOT_SECONDS = 1.0
MAX_SLOT_SECONDS = 100 * 366 * 86400.0
MAX_GIB = 2.0**20
"""Limit of the settings that are sizes, in GiB."""
SETTINGS_FILE, LEDGER_FILE, METER_FILE = "auditor.json", "ledger.jsonl", "meter.sqlite"
_STARTUP_LEFTOVERS = {"auditor.writing", "auditor.log"}
"""Files that a killed first start may leave in the folder, besides staged files."""


class Settings(BaseModel):
    """The settings that are fixed when the auditor is created."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME_PATTERN)
    slot: float = Field(ge=MIN_SLOT_SECONDS, le=MAX_SLOT_SECONDS, description="seconds from charge to answer")
    memory: float = Field(default=8.0, gt=0.25, le=MAX_GIB, description="GiB that an audit may use in addition to what the libraries use")
    largest: float = Field(default=16.0, gt=0, le=MAX_GIB, description="GiB that a submitted model may have")
    created: float


class Records(Closeable):
    """The settings, counts and suites that an operator may read while the auditor serves.

    It gives no access to sealed items and does not write the ledger.
    """

    def __init__(self, folder: Path) -> None:
        """Open a folder that ``Storage.create`` made.

        Raises:
            DoorError: there is no auditor in the folder.
            LedgerError: its ledger does not verify.
        """
        self.folder = folder.resolve()
        path = self.folder / SETTINGS_FILE
        if not path.is_file():
            raise DoorError(f"there is no auditor in {folder}; set one up with: stagezero audit init {folder}")
        try:
            self.settings = Settings.model_validate_json(path.read_text())
        except ValidationError as error:
            raise DoorError(explain(error, str(path), Settings)) from None
        self.key = SigningKey.load_or_create(self.folder / "key", self.settings.name)
        self._levels = set[Separation]()
        self._open()

    def _open(self) -> None:
        for entry in read(self.folder / LEDGER_FILE):
            if entry.kind == "opened":
                self._levels.add(entry.body["separation"])
        self.meter = BudgetMeter(self.folder / METER_FILE)

    @property
    def public_key(self) -> VerifyKey:
        """The auditor's public key, which identifies it."""
        return self.key.verify_key

    def separation(self) -> Separation:
        """Return the weakest separation ever recorded: a lab may have read the items then."""
        return min(self._levels, key=SEPARATIONS.index, default="colocated")

    def suite(self, name: str) -> Suite:
        """Return a suite by its name.

        Raises:
            DoorError: there is no such suite.
        """
        suite = self.meter.suite(name)
        if suite is None:
            known = ", ".join(self.served_suites()) or "none yet"
            raise DoorError(f"suite {name!r}: expected one that this auditor serves ({known}); correct the name.")
        return suite

    def served_suites(self) -> list[str]:
        """Return the names of the suites that take submissions; shadows do not."""
        return [name for name in self.meter.suites() if not name.endswith(SHADOW_SUFFIX)]

    def close(self) -> None:
        """Close the budget database."""
        self.meter.close()


class Storage(Records):
    """An auditor folder, opened for writing. Only one process at a time can open it."""

    def _open(self) -> None:
        """Open the ledger and the budget, and reconcile them.

        Raises:
            LedgerError: the ledger does not verify, or another process has locked it.
        """
        self.secret = load_or_create_secret(self.folder / "secret")
        self.ledger = Ledger(self.folder / LEDGER_FILE)
        self.ledger.catch_up()
        self.meter = BudgetMeter(self.folder / METER_FILE)
        self._queue = dict[tuple[int, str], tuple[float, dict[str, Any]]]()
        if not self.ledger.size:
            s = self.settings
            self.ledger.record("auditor", {"name": s.name, "key": self.public_key.text(), "slot": s.slot})
        self._reconcile()

    @classmethod
    def create(cls, folder: Path, name: str | None = None, slot: float = DEFAULT_SLOT_SECONDS, **more: float) -> Storage:
        """Set up an auditor in an empty folder.

        Args:
            folder: the auditor folder; must be empty or not exist.
            name: the name with which the auditor signs; made from the host's name if None.
            slot: seconds from a charge to its answer.
            more: further fields of ``Settings``.

        Raises:
            DoorError: the folder is in use, or a setting is out of range.
        """
        if folder.exists() and any(
            path.name not in _STARTUP_LEFTOVERS and not path.name.startswith(STAGED_PREFIX) for path in folder.iterdir()
        ):
            raise DoorError(f"{folder}: expected an empty folder or none, found files; name another, or use the auditor that is there.")
        try:
            settings = Settings(name=name or f"auditor-{socket.gethostname()}"[:100], slot=slot, created=time.time(), **more)
        except ValidationError as error:
            raise DoorError(explain(error, "audit init")) from None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        write_atomic(folder / SETTINGS_FILE, json.dumps(settings.model_dump(mode="json"), indent=1, sort_keys=True) + "\n", mode=0o666)
        return cls(folder)

    def close(self) -> None:
        """Close the budget database and the ledger."""
        super().close()
        self.ledger.close()

    # --- consistency of the budget and the ledger ---

    def _reconcile(self) -> None:
        """Record what a crash left unrecorded; close the auditor if the ledger knows more.

        Charges and answers are committed to the budget first and to the ledger later. If the ledger
        contains anything that the budget lacks, the database was restored or changed, and the
        auditor stays closed.
        """
        size, head = self.meter.ledger_at_last_charge
        if size > self.ledger.size or (size and self.ledger.entries[size - 1].hash != head):
            self.meter.close_permanently(
                "the ledger was restored from an earlier time, or changed: at the last charge it had other entries"
            )
            return
        charged, answered, suites = dict[int, Any](), dict[int, Any](), dict[str, Any]()
        for entry in self.ledger.entries:
            if entry.kind == "charged":
                charged[entry.body["number"]] = entry.body
            elif entry.kind == "answered":
                answered[entry.body["number"]] = entry.body
            elif entry.kind == "suite":
                suites[entry.body["suite"]] = entry.body
            elif entry.kind == "opened":
                self._levels.add(entry.body["separation"])
        charges = {charge.number: charge for charge in self.meter.charges()}
        stored_suites = {name: self._suite_entry(self._stored_suite(name)) for name in self.meter.suites()}
        consistent = (
            all(number in charges and _contains(_charge_body(charges[number]), body) for number, body in charged.items())
            and all(number in charges and _contains(_answer_body(charges[number]), body) for number, body in answered.items())
            and all(
                name in stored_suites and _contains({**stored_suites[name], "items": None}, {**body, "items": None})
                for name, body in suites.items()
            )
            and all(
                self.meter.pool(pool).allowance == allowance_of(suite.terms)
                for suite in map(self._stored_suite, stored_suites)
                for pool in suite.pools
            )
            # The newest suite entry contains the digest of all items known at that time.
            and (
                not suites
                or suites.keys() != stored_suites.keys()
                or next(reversed(suites.values())).get("items") == self.meter.items_digest()
            )
        )
        if not consistent:
            self.meter.close_permanently(
                "the budget lacks entries of the ledger: its database was restored from an earlier time, or changed"
            )
            return
        for name in stored_suites.keys() - suites.keys():
            self._record_suite(self._stored_suite(name))
        for number, charge in charges.items():
            if number not in charged:
                self.queue_charge(charge)
            if charge.verdict is not None and number not in answered:
                self.queue_answer(charge, charge.verdict)
        self.flush_queue(0.0)

    def queue_charge(self, charge: Charge) -> None:
        """Queue a charge for the ledger; the next ``flush_queue`` writes it."""
        self._queue[charge.number, "charged"] = (0.0, _charge_body(charge))

    def queue_answer(self, charge: Charge, verdict: Verdict) -> None:
        """Queue an answer for the ledger; ``flush_queue`` writes it only once it is due.

        The ledger's length and times are public, and the duration of an audit may depend on the
        sealed items.
        """
        self._queue[charge.number, "answered"] = (charge.due, _answer_body(replace(charge, verdict=verdict)))

    def flush_queue(self, now: float) -> None:
        """Write the queued entries that may be public by now into the ledger.

        No answer is released before this succeeds. Entries that the disk rejects stay in the queue,
        and the next request writes them.
        """
        ready = (key for key, (when, _) in self._queue.items() if when <= now)
        for key in sorted(ready, key=lambda k: (k[1] == "answered", k[0])):
            self.ledger.record(key[1], self._queue[key][1])
            del self._queue[key]

    def record_separation(self, level: Separation) -> None:
        """Record the separation from the labs in the ledger, unless it was recorded before."""
        if level not in self._levels:
            self.ledger.record("opened", {"separation": level})
            self._levels.add(level)

    # --- suites ---

    def add(self, name: str, terms: Terms, slot: float | None = None, fresh: bool = False) -> Suite:
        """Set up a suite and return it; return an existing suite with the same terms unchanged.

        Args:
            name: the suite's name.
            terms: the terms on which it answers.
            slot: seconds from charge to answer; the auditor's own if None.
            fresh: require that none of the items belongs to another suite.

        Raises:
            SuiteError: the items are malformed, or too few for a claim.
            DoorError: the name has another suite, or the items have a budget already.
        """
        sealed = load_sealed_items(name, terms, self.secret)
        clusters = {claim: len(items) for claim, items in sealed.items_by_claim.items()}
        facts = {"generator": sealed.generator, "clusters": clusters, "slot": slot or self.settings.slot}
        if fresh and self.meter.suite(name) is None:
            used = self.meter.count_known_items([item for cluster in sealed.clusters for item in cluster])
            if used:
                raise DoorError(f"suite {name!r}: expected fresh items, and {used} of them belong to another suite already; take them out.")
        if terms.sealed is not None and self.meter.suite(name) is None:
            copy_sealed_file(Path(terms.sealed), self._sealed_folder(name))
        suite, new = self.meter.add_suite(name, terms, sealed.commitment, sealed.clusters, facts)
        if new:
            self._record_suite(suite)
        return suite

    def _record_suite(self, suite: Suite) -> None:
        self.ledger.record("suite", {**self._suite_entry(suite), "items": self.meter.items_digest()})

    @staticmethod
    def _suite_entry(suite: Suite) -> dict[str, Any]:
        return {
            "suite": suite.name, "terms": without_none(suite.terms.model_dump(mode="json")), "commitment": suite.commitment,
            "facts": without_none(dict(suite.facts)), "pools": list(suite.pools),
        }  # fmt: skip

    def _stored_suite(self, name: str) -> Suite:
        suite = self.meter.suite(name)
        assert suite is not None
        return suite

    def sealed_items(self, suite: Suite) -> SealedItems:
        """Return the sealed items of a suite. Call it only after a charge, or for the operator.

        Raises:
            ClosedError: the items differ from those that were set up; the auditor closes.
        """
        folder = self._sealed_folder(suite.name)
        copy = folder / Path(suite.terms.sealed).name if suite.terms.sealed is not None else None
        sealed = load_sealed_items(suite.name, suite.terms, self.secret, copy)
        if sealed.commitment != suite.commitment:
            self.meter.close_permanently(f"the sealed items of suite {suite.name} are not those that were set up")
            raise ClosedError("the auditor is closed; its operator must investigate.")
        return sealed

    def _sealed_folder(self, name: str) -> Path:
        return self.folder / "sealed" / name


def _charge_body(charge: Charge) -> dict[str, Any]:
    return charge_entry(charge.number, charge.suite, charge.model)


def _answer_body(charge: Charge) -> dict[str, Any]:
    return {"number": charge.number, "word": charge.verdict}


def _contains(current: Any, recorded: Any) -> bool:
    """Return whether a current value has everything that was recorded; it may have new keys."""
    if isinstance(recorded, dict):
        return isinstance(current, dict) and all(key in current and _contains(current[key], value) for key, value in recorded.items())
    return bool(recorded == current)


def charge_entry(number: int, suite: str, model: str) -> dict[str, Any]:
    """Return the body of a charge's ledger entry."""
    return {"number": number, "suite": suite, "model": model}


def without_none(value: dict[str, Any]) -> dict[str, Any]:
    """Return a dictionary without its None values, as the ledger stores it."""
    return {k: v for k, v in value.items() if v is not None}


def embedded_suite_name(project: str, terms: Terms) -> str:
    """Return the name of a project's suite at an embedded auditor.

    Other terms give another name. A run that starts again gets the same name.

    Raises:
        InputError: the project's name does not begin with a letter or digit.
    """
    named_terms = terms.model_dump(mode="json", exclude={"sealed", "suite"} if terms.sealed is not None else set())
    name = f"{project[:80]}-{digest(without_none(named_terms))[:8]}"
    if not name[0].isalnum():
        raise InputError(f"project name {project!r}: expected letters or digits at its start; rename the project.")
    return name
