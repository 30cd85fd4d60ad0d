"""What an auditor keeps count of, in one database: suites and the pools of sealed items behind them, accounts, and whether it is in doubt.

SQLite in WAL mode with full sync. The budget belongs to *pools* of sealed items and never to whoever asks: an item is known
for ever by its commitment and stays in the pool it first came in, so that a suite that holds it again, under any name, in any
order, beside any others, is charged to that pool. A suite's allowance is the sum over the pools that its items lie in.

Counts are kept beside the rows and must agree with them: in doubt the auditor stays closed.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from stagezero.door.messages import Terms
from stagezero.errors import ClosedError, DoorError
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
    """A suite as it was set up: its terms, and what the auditor says of its items."""

    name: str
    terms: Terms
    commitment: str
    facts: Mapping[str, Any]
    pools: tuple[int, ...]

    @property
    def slot(self) -> float:
        """Seconds from charge to answer, at least as long as the worst audit."""
        return float(self.facts["slot"])


@lru_cache(maxsize=256)
def _total(allowance: Allowance) -> float:
    """Of a large allowance it takes a while to count, and everybody who looks at the status has it counted."""
    return allowance.total()


def allowance_of(terms: Terms) -> Allowance:
    """The budget that new items get under these terms; a shadow's burn will disclose one more bit about them."""
    return Allowance(terms.meter, terms.submissions, terms.passes, terms.bits, terms.flip, 1.0 if terms.shadow else 0.0)


class Register:
    """Suites, pools and accounts. Safe to use from many threads; one process at a time charges (the ledger's lock sees to that)."""

    def __init__(self, path: Path) -> None:
        """Open or create; closes itself where the counts do not agree with the rows.

        Raises:
            ClosedError: the file is no meter, or another process holds it.
        """
        self.path = path
        self._turn = threading.RLock()
        try:
            self._db = self._connected()
            self._check_counts()
        except sqlite3.Error as error:
            raise ClosedError(f"{path}: the meter's database cannot be used ({error}); the auditor's operator must look into it.") from None

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            db.execute(f"PRAGMA {pragma}")
        version = int(db.execute("PRAGMA user_version").fetchone()[0])
        for number, script in enumerate(_MIGRATIONS[version:], version + 1):
            db.executescript(f"BEGIN; {script} PRAGMA user_version={number}; COMMIT;")
        return db

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        with self._turn:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                self._db.execute("ROLLBACK")
                raise

    def _check_counts(self) -> None:
        rows = self._db.execute(
            "SELECT pool, replies, passes, pending, "
            "(SELECT COUNT(word) FROM suite_pools JOIN submissions USING (suite) WHERE pool = p.pool), "
            "(SELECT COUNT(*) FROM suite_pools JOIN submissions USING (suite) WHERE pool = p.pool AND word = 'pass'), "
            "(SELECT COUNT(*) FROM suite_pools JOIN submissions USING (suite) WHERE pool = p.pool AND word IS NULL), "
            "left_replies, left_passes, "
            "(SELECT COUNT(*) FROM suite_pools JOIN submissions USING (suite) WHERE pool = p.pool AND left), "
            "(SELECT COUNT(*) FROM suite_pools JOIN submissions USING (suite) WHERE pool = p.pool AND left AND word = 'pass') FROM pools p"
        ).fetchall()
        for pool, *counts in rows:
            kept, found = [*counts[:3], *counts[6:8]], [*counts[3:6], *counts[8:]]
            if kept != found:
                return self.close_for_good(f"pool {pool} of the meter counts {kept} where its rows say {found}")
        for suite, *counts in self._db.execute(
            "SELECT suite, charged, left_passes, (SELECT COUNT(*) FROM submissions WHERE suite = s.suite), "
            "(SELECT COUNT(*) FROM submissions WHERE suite = s.suite AND left AND word = 'pass') FROM suites s"
        ).fetchall():
            if counts[:2] != counts[2:]:
                return self.close_for_good(f"suite {suite} of the meter counts {counts[:2]} where its rows say {counts[2:]}")
        return None

    # --- in doubt -------------------------------------------------------------------------------------------------

    def close_for_good(self, why: str) -> None:
        """Answer nothing more, not even after a restart: the first reason stands."""
        with self._writing():
            self._db.execute("UPDATE seen SET closed = COALESCE(closed, ?)", (why,))

    @property
    def closed(self) -> str | None:
        """Why the meter is closed; None while it is open."""
        with self._turn:
            found: str | None = self._db.execute("SELECT closed FROM seen").fetchone()[0]
        return found

    @property
    def ledger_seen(self) -> tuple[int, str]:
        """Number of entries and head of the ledger when the last charge was made."""
        with self._turn:
            entries, head = self._db.execute("SELECT entries, head FROM seen").fetchone()
        return int(entries), str(head)

    def refuse_if_closed(self) -> None:
        """
        Raises:
            ClosedError: it was closed.
        """
        if self.closed is not None:
            raise ClosedError(f"the auditor is closed: {self.closed}; its operator must look into it.")

    # --- setting up -----------------------------------------------------------------------------------------------

    def add_suite(
        self, name: str, terms: Terms, commitment: str, clusters: Sequence[Sequence[str]], facts: Mapping[str, Any]
    ) -> tuple[Suite, bool]:
        """Set up a suite, or find the one that is there.

        Args:
            clusters: commitments of the sealed items, those that are not independent together (rewordings, twins).
            facts: what the auditor will say of the items: generator, clusters a claim.

        Returns:
            The suite, and whether it is new.

        Raises:
            DoorError: another suite of that name, or items whose budget is a different one.
        """
        with self._writing():
            self.refuse_if_closed()
            found = self.suite(name)
            if found is not None:
                if (found.terms, found.commitment) != (_kept(terms), commitment):
                    raise DoorError(
                        f"the auditor was set up with other terms for suite {name!r} (items, bars, budget); restore them, or add "
                        "fresh sealed items under another name."
                    )
                return found, False
            allowance, pools, fresh = allowance_of(terms), set[int](), []
            for cluster in clusters:
                known = {pool for item in cluster if (pool := self._pool_of(item)) is not None}
                pools |= known
                # A rewording inherits its cluster's budget: with several, the first one's; all of them are charged.
                fresh += [(item, min(known, default=None)) for item in cluster if self._pool_of(item) is None]
            for pool in sorted(pools):
                if self.pool(pool).allowance != allowance:
                    raise DoorError(_other_budget(name, self.pool(pool)))
            new = None
            if any(pool is None for _, pool in fresh):
                new = int(self._db.execute("SELECT COALESCE(MAX(pool), 0) + 1 FROM pools").fetchone()[0])
                self._db.execute("INSERT INTO pools (pool, allowance) VALUES (?, ?)", (new, json.dumps(asdict(allowance))))
                pools.add(new)
            self._db.executemany(
                "INSERT OR IGNORE INTO items VALUES (?, ?)", [(item, pool if pool is not None else new) for item, pool in fresh]
            )
            kept = _kept(terms)
            self._db.execute(
                "INSERT INTO suites (suite, terms, commitment, facts) VALUES (?, ?, ?, ?)",
                (name, kept.model_dump_json(), commitment, json.dumps(dict(facts))),
            )
            self._db.executemany("INSERT INTO suite_pools VALUES (?, ?)", [(name, pool) for pool in sorted(pools)])
            return Suite(name, kept, commitment, dict(facts), tuple(sorted(pools))), True

    def _pool_of(self, commitment: str) -> int | None:
        row = self._db.execute("SELECT pool FROM items WHERE commitment = ?", (commitment,)).fetchone()
        return row[0] if row is not None else None

    def known(self, commitments: Sequence[str]) -> int:
        """How many of some items the meter has met before."""
        return sum(self._pool_of(c) is not None for c in commitments)

    def inventory(self) -> str:
        """One digest of every item that was ever met and of the pool it belongs to: forgetting one would be a fresh budget."""
        found = hashlib.sha256()
        with self._turn:
            for commitment, pool in self._db.execute("SELECT commitment, pool FROM items ORDER BY commitment"):
                found.update(f"{commitment} {pool}\n".encode())
        return found.hexdigest()

    def suite(self, name: str) -> Suite | None:
        """A suite by its name."""
        with self._turn:
            row = self._db.execute("SELECT terms, commitment, facts FROM suites WHERE suite = ?", (name,)).fetchone()
            if row is None:
                return None
            pools = self._db.execute("SELECT pool FROM suite_pools WHERE suite = ? ORDER BY pool", (name,)).fetchall()
        return Suite(name, Terms.model_validate_json(row[0]), row[1], json.loads(row[2]), tuple(p for (p,) in pools))

    def suites(self) -> list[str]:
        """Names of all suites."""
        return [name for (name,) in self._db.execute("SELECT suite FROM suites ORDER BY rowid")]

    def pool(self, number: int) -> Pool:
        """A pool's allowance and counts."""
        row = self._db.execute("SELECT allowance, replies, passes, pending FROM pools WHERE pool = ?", (number,)).fetchone()
        return Pool(number, Allowance(**json.loads(row[0])), *row[1:])

    def bits_allowed(self, suite: Suite) -> float:
        """B: the most that may ever be disclosed about any item of a suite, over all its pools."""
        return sum(_total(self.pool(number).allowance) for number in suite.pools)

    # --- accounts -------------------------------------------------------------------------------------------------

    def set_token(self, account: str, token_hash: str) -> None:
        """Let an account in by the hash of its token; the token that it had before is void."""
        with self._writing():
            self._db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", (account, token_hash))

    def account_of(self, token_hash: str) -> str | None:
        """Whose token it is."""
        with self._turn:
            row = self._db.execute("SELECT account FROM accounts WHERE token = ?", (token_hash,)).fetchone()
        return row[0] if row is not None else None


def _kept(terms: Terms) -> Terms:
    """Terms as they are compared: where a sealed file lies is no part of them, nor is the lab's own suite beside it."""
    if terms.sealed is None:
        return terms
    return terms.model_copy(update={"sealed": Path(terms.sealed).name, "suite": "jsonl"})


def _other_budget(name: str, pool: Pool) -> str:
    a = pool.allowance
    budget = f"submissions: {a.submissions}, passes: {a.passes}" if a.kind == "counted" else f"submissions: {a.submissions}, bits: {a.bits}"
    return (
        f"suite {name!r}: some of its sealed items have had a budget before ({a.kind}, {budget}, {pool.replies + pool.pending} submissions "
        "used), and it does not grow; give the suite that budget, or fresh items."
    )
