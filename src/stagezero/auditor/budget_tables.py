"""The budget's database: its tables, the connection, and the values that are read from them.

The database is SQLite in WAL mode with full sync. The migrations define the layout: a change to it
is one more migration at the end. Only the budget modules run queries; ``storage``, ``auditor`` and
``certificate`` use the values.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stagezero.door.messages import Terms, Verdict
from stagezero.errors import BudgetSpentError, DoorError, WaitError
from stagezero.evidence import Allowance

_MIGRATIONS = (
    """
    CREATE TABLE seen (one INTEGER PRIMARY KEY CHECK (one = 1), clock REAL NOT NULL, closed TEXT, entries INTEGER, head TEXT);
    INSERT INTO seen VALUES (1, 0, NULL, 0, '');
    CREATE TABLE pools (
        pool INTEGER PRIMARY KEY, allowance TEXT NOT NULL,
        replies INTEGER NOT NULL DEFAULT 0, passes INTEGER NOT NULL DEFAULT 0, pending INTEGER NOT NULL DEFAULT 0,
        left_replies INTEGER NOT NULL DEFAULT 0, left_passes INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE items (commitment TEXT PRIMARY KEY, pool INTEGER NOT NULL REFERENCES pools) WITHOUT ROWID;
    CREATE TABLE suites (
        suite TEXT PRIMARY KEY, terms TEXT NOT NULL, commitment TEXT NOT NULL, facts TEXT NOT NULL,
        charged INTEGER NOT NULL DEFAULT 0, left_passes INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE suite_pools (suite TEXT NOT NULL REFERENCES suites, pool INTEGER NOT NULL REFERENCES pools, PRIMARY KEY (suite, pool));
    CREATE TABLE accounts (account TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE);
    CREATE TABLE submissions (
        number INTEGER PRIMARY KEY, suite TEXT NOT NULL REFERENCES suites, model TEXT NOT NULL, due REAL NOT NULL,
        word TEXT CHECK (word IN ('pass', 'fail')), reached REAL, left INTEGER NOT NULL DEFAULT 0, UNIQUE (suite, model)
    );
    CREATE INDEX unanswered ON submissions (number) WHERE word IS NULL;
    CREATE INDEX wanted ON submissions (model) WHERE word IS NULL;
    CREATE INDEX due ON submissions (due);
    CREATE INDEX leaving ON submissions (due, suite, word) WHERE word IS NOT NULL AND left = 0;
    CREATE INDEX best ON submissions (suite, reached) WHERE reached IS NOT NULL;
    CREATE TABLE heard (number INTEGER NOT NULL REFERENCES submissions, account TEXT NOT NULL, PRIMARY KEY (number, account)) WITHOUT ROWID;
    """,
)
_COUNT_QUERIES = {
    "pool": (
        "SELECT pool, replies, passes, pending, left_replies, left_passes, COUNT(word), COALESCE(SUM(word = 'pass'), 0), "
        "COUNT(number) - COUNT(word), COALESCE(SUM(left <> 0), 0), COALESCE(SUM(left AND word = 'pass'), 0) "
        "FROM pools LEFT JOIN suite_pools USING (pool) LEFT JOIN submissions USING (suite) GROUP BY pool"
    ),
    "suite": (
        "SELECT suite, charged, left_passes, COUNT(number), COALESCE(SUM(left AND word = 'pass'), 0) "
        "FROM suites LEFT JOIN submissions USING (suite) GROUP BY suite"
    ),
}
"""For every pool and suite: the stored counts, then the same counts computed from the rows."""
SHADOW_SUFFIX = ".shadow"
"""The suffix of a shadow's name. No lab can submit to a suite with this suffix."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The budget of a set of sealed items, and how much of it is used."""

    number: int
    allowance: Allowance
    replies: int
    passes: int
    pending: int

    def can_charge(self) -> bool:
        """Return whether one more submission fits, with pending answers at their worst."""
        return self.allowance.allows_submission(self.replies, self.passes, self.pending)


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite: its terms, and the facts that the auditor publishes about its items."""

    name: str
    terms: Terms
    commitment: str
    facts: Mapping[str, Any]
    pools: tuple[int, ...]

    @property
    def slot(self) -> float:
        """Seconds from a charge to its answer; at least as long as the slowest audit."""
        return float(self.facts["slot"])


@dataclass(frozen=True, slots=True)
class Charge:
    """A charged submission. ``verdict`` is None until it has been audited."""

    number: int
    suite: str
    model: str
    due: float
    verdict: Verdict | None


class Database:
    """A connection to the budget's database. Many threads may use it; ``lock`` serialises them.

    Raises:
        sqlite3.Error: from any method; the file is not a database, or another process locked it.
    """

    def __init__(self, path: Path) -> None:
        """Open the database, create it if necessary, and migrate it to the newest layout."""
        self.lock = threading.RLock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self.execute(f"PRAGMA {pragma}")
        version = int(self.row("PRAGMA user_version")[0])
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            self._connection.executescript(f"BEGIN; {script} PRAGMA user_version={number}; COMMIT;")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def rows(self, sql: str, *values: object) -> list[Any]:
        """Return all rows of a query."""
        with self.lock:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> Any:
        """Return the first row of a query; None if there is none."""
        with self.lock:
            return self._connection.execute(sql, values).fetchone()

    def execute(self, sql: str, *values: object) -> None:
        """Execute one statement, inside a transaction."""
        self._connection.execute(sql, values)

    def execute_many(self, sql: str, values: Sequence[tuple[object, ...]]) -> None:
        """Execute one statement for each tuple of values, inside a transaction."""
        self._connection.executemany(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit every statement of the ``with`` block; after an exception, none of them."""
        with self.lock:
            self.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.execute("COMMIT")
            except BaseException:
                self.execute("ROLLBACK")
                raise

    def find_inconsistency(self) -> str | None:
        """Describe the first stored count that differs from its rows; None if all of them agree."""
        for kind, sql in _COUNT_QUERIES.items():
            for name, *counts in self.rows(sql):
                stored, computed = counts[: len(counts) // 2], counts[len(counts) // 2 :]
                if stored != computed:
                    return f"the stored counts of {kind} {name} are {stored} and its rows add up to {computed}"
        return None


@lru_cache(maxsize=256)
def total_bits(allowance: Allowance) -> float:
    """Return the bits that an allowance can disclose.

    The result is cached: it is slow to compute for a large allowance, and every status needs it.
    """
    return allowance.total_bits()


def allowance_of(terms: Terms) -> Allowance:
    """Return the budget that new items get under these terms.

    With a shadow it reserves one more bit, which the burn of the shadow discloses about the items.
    """
    return Allowance(terms.meter, terms.submissions, terms.passes, terms.bits, terms.flip, 1.0 if terms.shadow else 0.0)


def stored_terms(terms: Terms) -> Terms:
    """Return the terms in the form that is stored and compared.

    It contains the name of a sealed file without its path, and not the lab's own suite beside it.
    """
    if terms.sealed is None:
        return terms
    return terms.model_copy(update={"sealed": Path(terms.sealed).name, "suite": "jsonl"})


def charge_refusal(pool: Pool, last_due: float) -> DoorError:
    """Return the error for a pool that cannot be charged.

    Args:
        pool: the pool, as the lab can observe it.
        last_due: when the last pending answer is due (seconds since 1970).

    Returns:
        ``WaitError`` if the pool only waits for pending answers, else ``BudgetSpentError``.
    """
    allowed = pool.allowance
    if pool.pending and allowed.allows_submission(pool.replies, pool.passes):
        return WaitError("answers about these sealed items are pending; submit again when they are due.", last_due)
    counted = allowed.kind == "counted"
    passes = f"{pool.passes} of {allowed.passes} passes" if counted else f"{pool.passes} passes, {allowed.total_bits():.1f} bits allowed"
    return BudgetSpentError(
        f"the budget of the sealed items is spent ({pool.replies + pool.pending} of {allowed.submissions} submissions, {passes}); "
        "add fresh sealed items."
    )


def budget_mismatch(name: str, pool: Pool) -> DoorError:
    """Return the error for a suite whose terms give the items of this pool another budget."""
    a = pool.allowance
    budget = f"submissions: {a.submissions}, passes: {a.passes}" if a.kind == "counted" else f"submissions: {a.submissions}, bits: {a.bits}"
    return DoorError(
        f"suite {name!r}: some of its sealed items already have a budget ({a.kind}, {budget}, {pool.replies + pool.pending} submissions "
        "used), and a budget cannot grow; give the suite that budget, or fresh items."
    )
