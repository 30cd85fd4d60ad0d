"""The disclosure budget: which sealed items exist, what has been asked about them, and what may still be asked.

A budget belongs to a *pool* of sealed items and not to whoever asks. An item is identified by its commitment and stays in the pool it
first came in, so that a suite with the same item, under any name, in any order, beside any others, is charged to that pool. A
suite's allowance is the sum over the pools that its items lie in.

A submission is charged before anything sealed is touched. It is identified by its suite and its model's digest: the same one again is
free and has the same answer. An answer is stored before it may leave; the lab sees only the answers that are due, which are
counted apart (``left``), so that no request takes longer the more has been asked.

Counts are stored beside the rows and must agree with them, and the clock may not run backwards: in doubt the auditor closes.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stagezero.auditor.budget_tables import Charge, Database, Pool, Suite, allowance_of, comparable, other_budget, refusal, total_bits
from stagezero.door.messages import Terms, Word
from stagezero.errors import ClosedError, DoorError
from stagezero.evidence import Allowance

BACKWARDS = 5.0  # seconds that a clock may be set back without the meter closing
_NOTED = 1.0  # seconds that the clock runs on before it is noted anew


class Meter:
    """Suites, pools, accounts and charges of one auditor. Many threads may use it; the ledger's lock lets one process at a time charge."""

    def __init__(self, path: Path) -> None:
        """Open or create; closes itself where the counts do not agree with the rows.

        Raises:
            ClosedError: the file is no meter, or another process holds it.
        """
        self.path = path
        try:
            self._db = Database(path)
            if (why := self._db.disagreement()) is not None:
                self.close_for_good(why)
        except sqlite3.Error as error:
            raise ClosedError(f"{path}: the meter's database cannot be used ({error}); the auditor's operator must look into it.") from None

    def close(self) -> None:
        self._db.close()

    # --- in doubt -------------------------------------------------------------------------------------------------

    def close_for_good(self, why: str) -> None:
        """Answer no more requests, also after a restart; the first reason is the one that stays."""
        with self._db.transaction():
            self._db.run("UPDATE seen SET closed = COALESCE(closed, ?)", why)

    @property
    def closed(self) -> str | None:
        """Why the meter is closed; None while it is open."""
        found: str | None = self._db.row("SELECT closed FROM seen")[0]
        return found

    @property
    def ledger_seen(self) -> tuple[int, str]:
        """Number of entries and head of the ledger when the last charge was made."""
        entries, head = self._db.row("SELECT entries, head FROM seen")
        return int(entries), str(head)

    def refuse_if_closed(self) -> None:
        """
        Raises:
            ClosedError: it was closed.
        """
        if (why := self.closed) is not None:
            raise ClosedError(f"the auditor is closed: {why}; its operator must look into it.")

    # --- suites and pools -----------------------------------------------------------------------------------------

    def add_suite(
        self, name: str, terms: Terms, commitment: str, clusters: Sequence[Sequence[str]], facts: Mapping[str, Any]
    ) -> tuple[Suite, bool]:
        """Set up a suite, or find the one that is there.

        Args:
            clusters: commitments of the sealed items, those that are not independent together (rewordings, twins).
            facts: what the auditor will publish about the items: generator, clusters a claim.

        Returns:
            The suite, and whether it is new.

        Raises:
            DoorError: another suite of that name, or items whose budget is a different one.
        """
        stored = comparable(terms)
        with self._db.transaction():
            self.refuse_if_closed()
            found = self.suite(name)
            if found is not None:
                if (found.terms, found.commitment) != (stored, commitment):
                    raise DoorError(
                        f"the auditor was set up with other terms for suite {name!r} (items, bars, budget); restore them, or add "
                        "fresh sealed items under another name."
                    )
                return found, False
            pools = tuple(sorted(self._add_items(name, clusters, allowance_of(terms))))
            self._db.run(
                "INSERT INTO suites (suite, terms, commitment, facts) VALUES (?, ?, ?, ?)",
                *(name, stored.model_dump_json(), commitment, json.dumps(dict(facts))),
            )
            self._db.run_each("INSERT INTO suite_pools VALUES (?, ?)", [(name, pool) for pool in pools])
            return Suite(name, stored, commitment, dict(facts), pools), True

    def _add_items(self, name: str, clusters: Sequence[Sequence[str]], allowance: Allowance) -> set[int]:
        """The pools that some items lie in; items that are new inherit their cluster's pool, or make up a new one."""
        pools, fresh = set[int](), list[tuple[str, int | None]]()
        for cluster in clusters:
            of_item = {item: self._pool_of(item) for item in cluster}
            known = {pool for pool in of_item.values() if pool is not None}
            pools |= known
            # A rewording inherits its cluster's budget: with several, the first one's; all of them are charged.
            fresh += [(item, min(known, default=None)) for item, pool in of_item.items() if pool is None]
        for pool in sorted(pools):
            if self.pool(pool).allowance != allowance:
                raise other_budget(name, self.pool(pool))
        new = None
        if any(pool is None for _, pool in fresh):
            new = int(self._db.row("SELECT COALESCE(MAX(pool), 0) + 1 FROM pools")[0])
            self._db.run("INSERT INTO pools (pool, allowance) VALUES (?, ?)", new, json.dumps(asdict(allowance)))
            pools.add(new)
        self._db.run_each("INSERT OR IGNORE INTO items VALUES (?, ?)", [(i, new if pool is None else pool) for i, pool in fresh])
        return pools

    def _pool_of(self, commitment: str) -> int | None:
        row = self._db.row("SELECT pool FROM items WHERE commitment = ?", commitment)
        return row[0] if row is not None else None

    def known(self, commitments: Sequence[str]) -> int:
        """How many of some items belong to a pool already."""
        return sum(self._pool_of(c) is not None for c in commitments)

    def inventory(self) -> str:
        """One digest of every item ever set up and of its pool: an item that the database lost would have a fresh budget."""
        found = hashlib.sha256()
        for commitment, pool in self._db.rows("SELECT commitment, pool FROM items ORDER BY commitment"):
            found.update(f"{commitment} {pool}\n".encode())
        return found.hexdigest()

    def suite(self, name: str) -> Suite | None:
        """A suite by its name."""
        with self._db.turn:
            row = self._db.row("SELECT terms, commitment, facts FROM suites WHERE suite = ?", name)
            pools = self._db.rows("SELECT pool FROM suite_pools WHERE suite = ? ORDER BY pool", name)
        if row is None:
            return None
        return Suite(name, Terms.model_validate_json(row[0]), row[1], json.loads(row[2]), tuple(pool for (pool,) in pools))

    def suites(self) -> list[str]:
        """Names of all suites."""
        return [name for (name,) in self._db.rows("SELECT suite FROM suites ORDER BY rowid")]

    def pool(self, number: int) -> Pool:
        """A pool's allowance and counts."""
        allowance, *counts = self._db.row("SELECT allowance, replies, passes, pending FROM pools WHERE pool = ?", number)
        return Pool(number, Allowance(**json.loads(allowance)), *counts)

    def bits_allowed(self, suite: Suite) -> float:
        """B: the most that may ever be disclosed about any item of a suite, over all its pools."""
        return sum(total_bits(self.pool(number).allowance) for number in suite.pools)

    # --- accounts -------------------------------------------------------------------------------------------------

    def set_token(self, account: str, token_hash: str) -> None:
        """Give an account access by the hash of its token; the token that it had before is void."""
        with self._db.transaction():
            self._db.run("INSERT OR REPLACE INTO accounts VALUES (?, ?)", account, token_hash)

    def account_of(self, token_hash: str) -> str | None:
        """The account of a token."""
        row = self._db.row("SELECT account FROM accounts WHERE token = ?", token_hash)
        return row[0] if row is not None else None

    # --- time -----------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        """Store the latest time seen, and count the answers that may have left by then; inside a transaction."""
        self._db.run("UPDATE seen SET clock = ?", max(now, self._seen(now)))
        for suite, words, passes in self._leaving(now):
            self._db.run("UPDATE suites SET left_passes = left_passes + ? WHERE suite = ?", passes, suite)
            self._db.run(
                "UPDATE pools SET left_replies = left_replies + ?, left_passes = left_passes + ? "
                "WHERE pool IN (SELECT pool FROM suite_pools WHERE suite = ?)",
                *(words, passes, suite),
            )
        self._db.run("UPDATE submissions SET left = 1 WHERE word IS NOT NULL AND left = 0 AND due <= ?", now)

    def _seen(self, now: float) -> float:
        """The latest time seen.

        Raises:
            ClosedError: it is later than now.
        """
        seen: float = self._db.row("SELECT clock FROM seen")[0]
        if now < seen - BACKWARDS:
            raise ClosedError(f"the auditor's clock went back by {seen - now:.0f} s; it answers again when the time is made good.")
        return seen

    def now(self, now: float) -> float:
        """Store the time, and refuse a clock that was set back.

        Raises:
            ClosedError: it was.
        """
        with self._db.turn:
            if now > self._seen(now) + _NOTED:
                with self._db.transaction():
                    self._tick(now)
        return now

    def _leaving(self, now: float) -> list[tuple[str, int, int]]:
        """Suite, answers and passes that have become due since answers were last counted."""
        return self._db.rows(
            "SELECT suite, COUNT(*), SUM(word = 'pass') FROM submissions INDEXED BY leaving "
            "WHERE word IS NOT NULL AND left = 0 AND due <= ? GROUP BY suite",
            now,
        )

    # --- as the lab knows it --------------------------------------------------------------------------------------

    def heard(self, number: int, now: float) -> Pool:
        """A pool as the lab knows it: an answer that has not left yet counts as pending, also where it is stored here.

        Refusals and reports use this, so that they disclose neither an audit's outcome nor its end before the answer is due.
        """
        with self._db.turn:
            pool = self.pool(number)
            replies, passes = self._db.row("SELECT left_replies, left_passes FROM pools WHERE pool = ?", number)
            for suite, words, more in self._leaving(now):
                if self._db.row("SELECT 1 FROM suite_pools WHERE suite = ? AND pool = ?", suite, number) is not None:
                    replies, passes = replies + words, passes + more
        return Pool(number, pool.allowance, replies, passes, pool.replies + pool.pending - replies)

    def counts(self, suite: str, now: float) -> tuple[int, int]:
        """A suite's own submissions, and how many of them the lab knows to have passed."""
        with self._db.turn:
            charged, passes = self._db.row("SELECT charged, left_passes FROM suites WHERE suite = ?", suite)
            return charged, passes + sum(more for name, _, more in self._leaving(now) if name == suite)

    def pools_of(self, suite: Suite, now: float) -> list[Pool]:
        """The pools that a suite is charged to, as the lab knows them."""
        return [self.heard(number, now) for number in suite.pools]

    # --- charging and answering -----------------------------------------------------------------------------------

    def charge(self, suite: Suite, model: str, account: str, now: float, ledger: tuple[int, str] | None = None) -> tuple[Charge, bool]:
        """Commit the charge for a model, to every pool that the suite touches; free if it was charged before.

        The answer is due one slot after the one before it: audits are made one after another and none may take longer than a slot, so
        that it is there by then, and its time depends on no sealed item.

        Args:
            ledger: number of entries and head of the ledger as it is now, which it can never go back behind.

        Returns:
            The charge, and whether it is new.

        Raises:
            BudgetSpentError, WaitError, ClosedError: no charge was made.
        """
        with self._db.transaction():
            self.refuse_if_closed()
            self._tick(now)
            charge = self.find(suite.name, model)
            new = charge is None
            if charge is None:
                for pool in self.pools_of(suite, now):
                    if not pool.may_ask():
                        raise refusal(pool, self._last_due())
                last = self._db.row("SELECT COALESCE(MAX(number), 0) FROM submissions")[0]
                charge = Charge(last + 1, suite.name, model, max(now, self._last_due()) + suite.slot, None)
                self._db.run(
                    "INSERT INTO submissions (number, suite, model, due) VALUES (?, ?, ?, ?)",
                    *(charge.number, charge.suite, charge.model, charge.due),
                )
                if ledger is not None:
                    self._db.run("UPDATE seen SET entries = ?, head = ?", *ledger)
                self._db.run("UPDATE suites SET charged = charged + 1 WHERE suite = ?", suite.name)
                self._db.run_each("UPDATE pools SET pending = pending + 1 WHERE pool = ?", [(p,) for p in suite.pools])
            self._db.run("INSERT OR IGNORE INTO heard VALUES (?, ?)", charge.number, account)
            return charge, new

    def _last_due(self) -> float:
        """When the last answer is due; 0 where there is none."""
        return float(self._db.row("SELECT COALESCE(MAX(due), 0) FROM submissions")[0])

    def settle(self, charge: Charge, word: Word, reached: float | None = None) -> Word:
        """Commit the answer before it may leave; the first one stands. ``reached`` is how far up a ladder the model has come."""
        with self._db.transaction():
            earlier: Word | None = self._db.row("SELECT word FROM submissions WHERE number = ?", charge.number)[0]
            if earlier is not None:
                return earlier
            self._db.run("UPDATE submissions SET word = ?, reached = ? WHERE number = ?", word, reached, charge.number)
            self._db.run(
                "UPDATE pools SET pending = pending - 1, replies = replies + 1, passes = passes + ? "
                "WHERE pool IN (SELECT pool FROM suite_pools WHERE suite = ?)",
                *(word == "pass", charge.suite),
            )
            return word

    def reached(self, suite: str) -> float | None:
        """How far up its ladder a suite's best model has come."""
        found: float | None = self._db.row("SELECT MAX(reached) FROM submissions WHERE suite = ?", suite)[0]
        return found

    def reschedule(self, now: float) -> None:
        """After a stop, give what was not answered in time new times, so that they are again fixed beforehand."""
        with self._db.transaction():
            last = now
            for charge in self.unanswered():
                suite = self.suite(charge.suite)
                assert suite is not None
                last = max(charge.due, last + suite.slot)
                self._db.run("UPDATE submissions SET due = ? WHERE number = ?", last, charge.number)

    def _charges(self, which: str, *values: object) -> list[Charge]:
        return [Charge(*row) for row in self._db.rows(f"SELECT number, suite, model, due, word FROM submissions {which}", *values)]

    def find(self, suite: str, model: str) -> Charge | None:
        """An earlier submission of the same model."""
        return next(iter(self._charges("WHERE suite = ? AND model = ?", suite, model)), None)

    def heard_by(self, number: int, account: str) -> Charge | None:
        """A submission that an account has made itself."""
        return next(iter(self._charges("JOIN heard USING (number) WHERE number = ? AND account = ?", number, account)), None)

    def unanswered(self) -> list[Charge]:
        """Charged and not yet audited, in the order they came."""
        return self._charges("WHERE word IS NULL ORDER BY number")

    def wanted(self, model: str) -> bool:
        """Whether a model is still to be audited."""
        return self._db.row("SELECT 1 FROM submissions WHERE model = ? AND word IS NULL", model) is not None

    def charges(self, suite: str | None = None) -> list[Charge]:
        """Every submission, or those of a suite."""
        if suite is None:
            return self._charges("ORDER BY number")
        return self._charges("WHERE suite = ? ORDER BY number", suite)
