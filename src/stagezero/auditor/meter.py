"""The counted meter: at most ``passes`` passes in ``submissions`` submissions, charged before sealed data is touched.

SQLite in WAL mode with full sync. A submission is known by its digest: the same model twice is charged once and
answered the same; a crash between charge and answer leaves the charge, and the next request finishes the audit.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Literal

from stagezero.door.messages import Terms
from stagezero.errors import BudgetSpentError, DoorError
from stagezero.evidence import counted_bits
from stagezero.ledger import digest

Verdict = Literal["pass", "fail"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS terms (one INTEGER PRIMARY KEY CHECK (one = 1), digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS submissions (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    digest TEXT NOT NULL UNIQUE,
    verdict TEXT CHECK (verdict IN ('pass', 'fail'))
);
"""


class Meter:
    """The budget of one set of sealed items."""

    def __init__(self, path: Path, terms: Terms) -> None:
        """Open or create.

        Raises:
            DoorError: the database belongs to other terms.
        """
        self.terms = terms
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        # Where a sealed file lies is not part of the terms, nor is the lab's own suite beside it.
        placed = {"sealed", "suite"} if terms.sealed is not None else set()
        key = digest(terms.model_dump(mode="json", exclude=placed))
        row = self._db.execute("SELECT digest FROM terms").fetchone()
        if row is None:
            self._db.execute("INSERT INTO terms VALUES (1, ?)", (key,))
        elif row[0] != key:
            raise DoorError(
                "the auditor was set up with other terms (suite, bars, budget); restore them, or start anew with fresh sealed items."
            )

    @property
    def bits_allowed(self) -> float:
        return counted_bits(self.terms.submissions, self.terms.passes)

    def used(self) -> tuple[int, int]:
        """(submissions charged, passes given)."""
        row = self._db.execute("SELECT COUNT(*), COALESCE(SUM(verdict = 'pass'), 0) FROM submissions").fetchone()
        return int(row[0]), int(row[1])

    def verdict_of(self, model: str) -> Verdict | None:
        """The verdict already given on a model."""
        row = self._db.execute("SELECT verdict FROM submissions WHERE digest = ?", (model,)).fetchone()
        return row[0] if row is not None else None

    def charge(self, model: str) -> None:
        """Commit the charge for a model; free if it was charged before.

        Raises:
            BudgetSpentError: nothing is left. Nothing was charged.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            known = self._db.execute("SELECT 1 FROM submissions WHERE digest = ?", (model,)).fetchone()
            submissions, passes = self.used()
            if known is None:
                if submissions >= self.terms.submissions or passes >= self.terms.passes:
                    raise BudgetSpentError(
                        f"the sealed items have answered all they may ({submissions} of {self.terms.submissions} submissions, {passes} of "
                        f"{self.terms.passes} passes); set up an auditor with fresh sealed items."
                    )
                self._db.execute("INSERT INTO submissions (digest) VALUES (?)", (model,))
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise

    def settle(self, model: str, verdict: Verdict) -> None:
        """Commit the verdict before it is sent."""
        self._db.execute("UPDATE submissions SET verdict = ? WHERE digest = ? AND verdict IS NULL", (verdict, model))
