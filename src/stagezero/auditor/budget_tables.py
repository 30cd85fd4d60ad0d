"""The budget's database: its tables, the connection to them, and the plain values that are read from them.

SQLite in WAL mode with full sync. The layout is fixed by the migrations: a change is another migration at their end.
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

from stagezero.door.messages import Terms, Word
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
_COUNTS = {
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
"""Of every pool and every suite: its counts as they are stored, then the same counts as its rows add up to."""
SHADOW = ".shadow"
"""How the name of a suite ends that no lab can ask: the shadow of another."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The budget of some sealed items, and what is used of it."""

    number: int
    allowance: Allowance
    replies: int
    passes: int
    pending: int

    def may_ask(self) -> bool:
        return self.allowance.may_ask(self.replies, self.passes, self.pending)


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite as it was set up: its terms, and what the auditor publishes about its items."""

    name: str
    terms: Terms
    commitment: str
    facts: Mapping[str, Any]
    pools: tuple[int, ...]

    @property
    def slot(self) -> float:
        """Seconds from charge to answer, at least as long as the worst audit."""
        return float(self.facts["slot"])


@dataclass(frozen=True, slots=True)
class Charge:
    """A charged submission; ``word`` is None until it has been audited."""

    number: int
    suite: str
    model: str
    due: float
    word: Word | None


class Database:
    """The connection, which many threads may use in turn.

    Raises:
        sqlite3.Error: from any method; the file is no database, or another process holds it.
    """

    def __init__(self, path: Path) -> None:
        """Open with the newest layout; the file is made if need be."""
        self.turn = threading.RLock()
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self.run(f"PRAGMA {pragma}")
        version = int(self.row("PRAGMA user_version")[0])
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            self._connection.executescript(f"BEGIN; {script} PRAGMA user_version={number}; COMMIT;")

    def close(self) -> None:
        self._connection.close()

    def rows(self, sql: str, *values: object) -> list[Any]:
        with self.turn:
            return self._connection.execute(sql, values).fetchall()

    def row(self, sql: str, *values: object) -> Any:
        """The first row; None where there is none."""
        with self.turn:
            return self._connection.execute(sql, values).fetchone()

    def run(self, sql: str, *values: object) -> None:
        self._connection.execute(sql, values)

    def run_each(self, sql: str, values: Sequence[tuple[object, ...]]) -> None:
        self._connection.executemany(sql, values)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what is run meanwhile, all of it or, after an exception, none of it."""
        with self.turn:
            self.run("BEGIN IMMEDIATE")
            try:
                yield
                self.run("COMMIT")
            except BaseException:
                self.run("ROLLBACK")
                raise

    def disagreement(self) -> str | None:
        """The first stored count that its rows do not add up to; None where all of them agree."""
        for kind, sql in _COUNTS.items():
            for name, *counts in self.rows(sql):
                stored, found = counts[: len(counts) // 2], counts[len(counts) // 2 :]
                if stored != found:
                    return f"{kind} {name} of the meter counts {stored} where its rows say {found}"
        return None


@lru_cache(maxsize=256)
def total_bits(allowance: Allowance) -> float:
    """The bits that an allowance can disclose. Slow to count for a large one, and every status asks for it, so that it is cached."""
    return allowance.total()


def allowance_of(terms: Terms) -> Allowance:
    """The budget that new items get under these terms; a shadow's burn will disclose one more bit about them."""
    return Allowance(terms.meter, terms.submissions, terms.passes, terms.bits, terms.flip, 1.0 if terms.shadow else 0.0)


def comparable(terms: Terms) -> Terms:
    """Terms as they are stored and compared: the path of a sealed file is no part of them, nor is the lab's own suite beside it."""
    if terms.sealed is None:
        return terms
    return terms.model_copy(update={"sealed": Path(terms.sealed).name, "suite": "jsonl"})


def refusal(pool: Pool, last_due: float) -> DoorError:
    """Why a pool may not be asked: it is spent, or only waiting for answers that are still out."""
    allowed = pool.allowance
    if pool.pending and allowed.may_ask(pool.replies, pool.passes):
        return WaitError("answers about these sealed items are still out; ask again when they have come.", last_due)
    counted = allowed.kind == "counted"
    passes = f"{pool.passes} of {allowed.passes} passes" if counted else f"{pool.passes} passes, {allowed.total():.1f} bits allowed"
    return BudgetSpentError(
        f"the sealed items have answered all they may ({pool.replies + pool.pending} of {allowed.submissions} submissions, {passes}); "
        "add fresh sealed items."
    )


def other_budget(name: str, pool: Pool) -> DoorError:
    """Why a suite cannot have items of this pool: its terms give them another budget."""
    a = pool.allowance
    budget = f"submissions: {a.submissions}, passes: {a.passes}" if a.kind == "counted" else f"submissions: {a.submissions}, bits: {a.bits}"
    return DoorError(
        f"suite {name!r}: some of its sealed items have had a budget before ({a.kind}, {budget}, {pool.replies + pool.pending} submissions "
        "used), and it does not grow; give the suite that budget, or fresh items."
    )
