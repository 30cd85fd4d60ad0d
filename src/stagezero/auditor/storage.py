"""Where an auditor lives: its keys, its settings, its meter, its ledger and its copies of sealed files. One folder, one identity.

The lifetime key signs; the lifetime secret makes commitments and draws. Whoever loses them has another auditor, with another
public key, in which nobody has reason to trust yet: that is why a fresh folder wins an attacker nothing that anyone accepts.
"""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stagezero.auditor.budget import Meter
from stagezero.auditor.budget_tables import SHADOW, Charge, Suite, allowance_of
from stagezero.auditor.sealed import Sealed, keep_copy, sealed_suite
from stagezero.door.messages import SEPARATIONS, Separation, Terms, Word
from stagezero.errors import ClosedError, DoorError, InputError, explain
from stagezero.files import STAGED, Closing, lasting_secret, write_whole
from stagezero.ledger import Ledger, VerifyKey, digest, read
from stagezero.ledger.keys import SigningKey

WEEK = 7 * 86400.0
LEAST_SLOT = 1.0
SETTINGS, LEDGER, METER = "auditor.json", "ledger.jsonl", "meter.sqlite"
_LEFT_OVER = {"auditor.writing", "auditor.log"}
"""What a kill during the first start may leave in the folder, beside staged files."""


class Settings(BaseModel):
    """What was fixed when the auditor was set up."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    slot: float = Field(ge=LEAST_SLOT, description="seconds from charge to answer")
    memory: float = Field(default=8.0, gt=0.25, description="GiB an audit may use beyond what the libraries take")
    largest: float = Field(default=16.0, gt=0, description="GiB a submitted model may have")
    created: float


class Records(Closing):
    """What an auditor's operator may look at while it serves: settings, counts, suites. Nothing sealed, and no ledger to write."""

    def __init__(self, folder: Path) -> None:
        """Open a folder that ``Storage.create`` made.

        Raises:
            DoorError: there is no auditor there.
            LedgerError: its ledger does not verify.
        """
        self.folder = folder.resolve()
        path = self.folder / SETTINGS
        if not path.is_file():
            raise DoorError(f"there is no auditor in {folder}; set one up with: stagezero audit init {folder}")
        try:
            self.settings = Settings.model_validate_json(path.read_text())
        except ValidationError as error:
            raise DoorError(explain(error, str(path))) from None
        self.key = SigningKey.lasting(self.folder / "key", self.settings.name)
        self._levels = set[Separation]()
        self._open()

    def _open(self) -> None:
        for entry in read(self.folder / LEDGER):
            if entry.kind == "opened":
                self._levels.add(entry.body["separation"])
        self.meter = Meter(self.folder / METER)

    @property
    def public_key(self) -> VerifyKey:
        return self.key.verify_key

    def separation(self) -> Separation:
        """The weakest separation that ever held: what was read once is read."""
        return min(self._levels, key=SEPARATIONS.index, default="colocated")

    def suite(self, name: str) -> Suite:
        """A suite by its name.

        Raises:
            DoorError: there is none.
        """
        found = self.meter.suite(name)
        if found is None:
            known = ", ".join(self.served()) or "none yet"
            raise DoorError(f"suite {name!r}: expected one that this auditor serves ({known}); correct the name.")
        return found

    def served(self) -> list[str]:
        """Names of the suites that answer; shadows do not."""
        return [name for name in self.meter.suites() if not name.endswith(SHADOW)]

    def close(self) -> None:
        self.meter.close()


class Storage(Records):
    """An auditor's folder, held by one process at a time."""

    def _open(self) -> None:
        """
        Raises:
            LedgerError: the ledger does not verify, or another process holds it.
        """
        self.secret = lasting_secret(self.folder / "secret")
        self.ledger = Ledger(self.folder / LEDGER)
        self.ledger.catch_up()
        self.meter = Meter(self.folder / METER)
        self._owed = dict[tuple[int, str], tuple[float, dict[str, Any]]]()
        if not self.ledger.size:
            s = self.settings
            self.ledger.record("auditor", {"name": s.name, "key": self.public_key.text(), "slot": s.slot})
        self._agree()

    @classmethod
    def create(cls, folder: Path, name: str | None = None, slot: float = WEEK, **more: float) -> Storage:
        """Set up an auditor in an empty folder.

        Raises:
            DoorError: the folder is in use, or a setting is out of range.
        """
        if folder.exists() and any(path.name not in _LEFT_OVER and not path.name.startswith(STAGED) for path in folder.iterdir()):
            raise DoorError(f"{folder}: expected an empty folder or none, found files; name another, or use the auditor that is there.")
        try:
            settings = Settings(name=name or f"auditor-{socket.gethostname()}"[:100], slot=slot, created=time.time(), **more)
        except ValidationError as error:
            raise DoorError(explain(error, "audit init")) from None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        write_whole(folder / SETTINGS, json.dumps(settings.model_dump(mode="json"), indent=1, sort_keys=True) + "\n", mode=0o666)
        return cls(folder)

    def close(self) -> None:
        super().close()
        self.ledger.close()

    # --- the meter and the ledger must tell one story -------------------------------------------------------------

    def _agree(self) -> None:
        """Charges and answers are committed to the meter first and to the ledger later. Write down what a crash left out; a ledger that
        says anything that the meter does not means that the database was restored or changed, and then the auditor stays closed."""
        size, head = self.meter.ledger_seen
        if size > self.ledger.size or (size and self.ledger.entries[size - 1].hash != head):
            self.meter.close_for_good("the ledger was restored from an earlier time, or changed: the meter has seen more of it")
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
        rows = {charge.number: charge for charge in self.meter.charges()}
        there = {name: self._suite_entry(self._suite(name)) for name in self.meter.suites()}
        sound = (
            all(number in rows and _says(said, _charged(rows[number])) for number, said in charged.items())
            and all(number in rows and _says(said, _answered(rows[number])) for number, said in answered.items())
            and all(name in there and _says({**said, "items": None}, {**there[name], "items": None}) for name, said in suites.items())
            and all(self.meter.pool(p).allowance == allowance_of(s.terms) for s in map(self._suite, there) for p in s.pools)
            # The newest suite that was written down says which items had been met by then.
            and (not suites or suites.keys() != there.keys() or next(reversed(suites.values())).get("items") == self.meter.inventory())
        )
        if not sound:
            self.meter.close_for_good("the meter knows less than the ledger: its database was restored from an earlier time, or changed")
            return
        for name in there.keys() - suites.keys():
            self._record_suite(self._suite(name))
        for number, charge in rows.items():
            if number not in charged:
                self.owe(charge)
            if charge.word is not None and number not in answered:
                self.owe_answer(charge, charge.word)
        self.write_down(0.0)

    def owe(self, charge: Charge) -> None:
        """Have a charge written down with whatever is written down next."""
        self._owed[charge.number, "charged"] = (0.0, _charged(charge))

    def owe_answer(self, charge: Charge, word: Word) -> None:
        """Have an answer written down once it may leave, and not before: the ledger's length and its times are there for all to see, and
        how long an audit took may depend on what was asked in it."""
        self._owed[charge.number, "answered"] = (charge.due, _answered(replace(charge, word=word)))

    def write_down(self, now: float) -> None:
        """Write into the ledger what the meter has committed and what may be known by now. Nothing leaves before this is done; what the
        disk refuses is tried again by whoever asks next."""
        for key in sorted((key for key, (when, _) in self._owed.items() if when <= now), key=lambda k: (k[1] == "answered", k[0])):
            self.ledger.record(key[1], self._owed[key][1])
            del self._owed[key]

    # --- how far the labs are -------------------------------------------------------------------------------------

    def note_separation(self, level: Separation) -> None:
        """Write down how far the labs are from here, where that is new."""
        if level not in self._levels:
            self.ledger.record("opened", {"separation": level})
            self._levels.add(level)

    # --- suites ---------------------------------------------------------------------------------------------------

    def add(self, name: str, terms: Terms, slot: float | None = None, fresh: bool = False) -> Suite:
        """Set up a suite; the same again is found and changes nothing.

        Args:
            slot: seconds from charge to answer; the auditor's own when None.
            fresh: none of the items may have been met before.

        Raises:
            SuiteError: the items are malformed or too few for a claim.
            DoorError: another suite of that name, or items that have a budget already.
        """
        sealed = sealed_suite(name, terms, self.secret)
        clusters = {claim: len(items) for claim, items in sealed.chosen.items()}
        facts = {"generator": sealed.generator, "clusters": clusters, "slot": slot or self.settings.slot}
        if fresh and self.meter.suite(name) is None and (met := self.meter.known([i for cluster in sealed.clusters for i in cluster])):
            raise DoorError(f"suite {name!r}: expected fresh items, and {met} of them belong to another suite already; take them out.")
        if terms.sealed is not None and self.meter.suite(name) is None:
            keep_copy(Path(terms.sealed), self._sealed_folder(name))
        suite, new = self.meter.add_suite(name, terms, sealed.commitment, sealed.clusters, facts)
        if new:
            self._record_suite(suite)
        return suite

    def _record_suite(self, suite: Suite) -> None:
        self.ledger.record("suite", {**self._suite_entry(suite), "items": self.meter.inventory()})

    @staticmethod
    def _suite_entry(suite: Suite) -> dict[str, Any]:
        return {
            "suite": suite.name, "terms": plain(suite.terms.model_dump(mode="json")), "commitment": suite.commitment,
            "facts": plain(dict(suite.facts)), "pools": list(suite.pools),
        }  # fmt: skip

    def _suite(self, name: str) -> Suite:
        found = self.meter.suite(name)
        assert found is not None
        return found

    def sealed(self, suite: Suite) -> Sealed:
        """The sealed items themselves. Called after a charge, and by the auditor's own operator.

        Raises:
            ClosedError: the items are not those that were set up.
        """
        folder = self._sealed_folder(suite.name)
        kept = folder / Path(suite.terms.sealed).name if suite.terms.sealed is not None else None
        found = sealed_suite(suite.name, suite.terms, self.secret, kept)
        if found.commitment != suite.commitment:
            self.meter.close_for_good(f"the sealed items of suite {suite.name} are not those that were set up")
            raise ClosedError("the auditor is closed; its operator must look into it.")
        return found

    def _sealed_folder(self, name: str) -> Path:
        return self.folder / "sealed" / name


def _charged(charge: Charge) -> dict[str, Any]:
    return charge_entry(charge.number, charge.suite, charge.model)


def _answered(charge: Charge) -> dict[str, Any]:
    return {"number": charge.number, "word": charge.word}


def _says(written: Any, now: Any) -> bool:
    """Whether what was written down once is still said; what has been added to it since is no contradiction."""
    if isinstance(written, dict):
        return isinstance(now, dict) and all(key in now and _says(value, now[key]) for key, value in written.items())
    return bool(written == now)


def charge_entry(number: int, suite: str, model: str) -> dict[str, Any]:
    """What the ledger says of a charge."""
    return {"number": number, "suite": suite, "model": model}


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """The same without missing values, as a ledger keeps it."""
    return {k: v for k, v in value.items() if v is not None}


def name_of_suite(project: str, terms: Terms) -> str:
    """What an embedded auditor calls the suite of a project: another name for other terms, the same for a run begun anew."""
    said = terms.model_dump(mode="json", exclude={"sealed", "suite"} if terms.sealed is not None else set())
    name = f"{project[:80]}-{digest(plain(said))[:8]}"
    if not name[0].isalnum():
        raise InputError(f"project name {project!r}: expected letters or digits at its start; rename the project.")
    return name
