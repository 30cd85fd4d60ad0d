"""The disclosure budget: the known sealed items, the charges for them, and what is left.

A budget belongs to a *pool* of sealed items, not to the account that submits. An item is identified
by its commitment and stays in the pool to which it was first added. A suite with the same item is
therefore charged to that pool, under any name, in any order and beside any other items. A suite's
allowance is the sum over the pools of its items.

A submission is charged before sealed data is read. It is identified by its suite and its model's
digest: a repeated submission is free and receives the same answer. An answer is stored before it is
released. The lab can observe only the answers that are due. These are counted separately (the
``left`` columns), so that the cost of a request does not grow with the number of submissions.

Counts are stored beside the rows and must agree with them, and the clock must not run backwards.
On any inconsistency the auditor closes.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stagezero.auditor.budget_queries import BudgetQueries
from stagezero.auditor.budget_tables import Charge, Database, Suite, allowance_of, budget_mismatch, charge_refusal, stored_terms
from stagezero.door.messages import Terms, Verdict
from stagezero.errors import ClosedError, DoorError
from stagezero.evidence import Allowance

CLOCK_STORE_INTERVAL_SECONDS = 1.0
"""How far the clock must advance before the time is stored again."""


class BudgetMeter(BudgetQueries):
    """The suites, pools, accounts and charges of one auditor.

    Many threads may use it. Only the process that has locked the auditor's ledger may charge.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the database; close the auditor if the counts disagree with the rows.

        Args:
            path: the database file.

        Raises:
            ClosedError: the file is not a budget database, or another process has locked it.
        """
        self.path = path
        try:
            super().__init__(Database(path))
            if (inconsistency := self._db.find_inconsistency()) is not None:
                self.close_permanently(inconsistency)
        except sqlite3.Error as error:
            raise ClosedError(f"{path}: the budget database cannot be used ({error}); the auditor's operator must investigate.") from None

    def close(self) -> None:
        """Close the connection to the database."""
        self._db.close()

    def close_permanently(self, reason: str) -> None:
        """Refuse all further requests, also after a restart; the first reason is retained."""
        with self._db.transaction():
            self._db.execute("UPDATE seen SET closed = COALESCE(closed, ?)", reason)

    # --- suites and pools ---

    def add_suite(
        self, name: str, terms: Terms, commitment: str, clusters: Sequence[Sequence[str]], facts: Mapping[str, Any]
    ) -> tuple[Suite, bool]:
        """Set up a suite, or return the existing one.

        Args:
            name: the suite's name.
            terms: the terms on which it answers.
            commitment: one digest over all its items.
            clusters: the commitments of the sealed items; items that are not independent
                (rewordings, twins) form one cluster.
            facts: what the auditor publishes about the items: generator, clusters per claim, slot.

        Returns:
            The suite, and whether it is new.

        Raises:
            DoorError: the name has another suite, or some items have a different budget.
        """
        stored = stored_terms(terms)
        with self._db.transaction():
            self.require_open()
            existing = self.suite(name)
            if existing is not None:
                if (existing.terms, existing.commitment) != (stored, commitment):
                    raise DoorError(
                        f"the auditor was set up with other terms for suite {name!r} (items, bars, budget); restore them, or add "
                        "fresh sealed items under another name."
                    )
                return existing, False
            pools = tuple(sorted(self._add_items(name, clusters, allowance_of(terms))))
            self._db.execute(
                "INSERT INTO suites (suite, terms, commitment, facts) VALUES (?, ?, ?, ?)",
                *(name, stored.model_dump_json(), commitment, json.dumps(dict(facts))),
            )
            self._db.execute_many("INSERT INTO suite_pools VALUES (?, ?)", [(name, pool) for pool in pools])
            return Suite(name, stored, commitment, dict(facts), pools), True

    def _add_items(self, name: str, clusters: Sequence[Sequence[str]], allowance: Allowance) -> set[int]:
        """Store new items, and return the pools of all given items.

        A new item joins the pool of its cluster; without one, it joins a new pool.
        """
        pools, new_items = set[int](), list[tuple[str, int | None]]()
        for cluster in clusters:
            pool_by_item = {item: self.pool_of_item(item) for item in cluster}
            cluster_pools = {pool for pool in pool_by_item.values() if pool is not None}
            pools |= cluster_pools
            # A rewording inherits the budget of its cluster. If the cluster has several pools, it
            # joins the first one, and all of them are charged.
            new_items += [(item, min(cluster_pools, default=None)) for item, pool in pool_by_item.items() if pool is None]
        for pool in sorted(pools):
            if self.pool(pool).allowance != allowance:
                raise budget_mismatch(name, self.pool(pool))
        new_pool = None
        if any(pool is None for _, pool in new_items):
            new_pool = int(self._db.row("SELECT COALESCE(MAX(pool), 0) + 1 FROM pools")[0])
            self._db.execute("INSERT INTO pools (pool, allowance) VALUES (?, ?)", new_pool, json.dumps(asdict(allowance)))
            pools.add(new_pool)
        rows = [(item, new_pool if pool is None else pool) for item, pool in new_items]
        self._db.execute_many("INSERT OR IGNORE INTO items VALUES (?, ?)", rows)
        return pools

    # --- accounts ---

    def set_token(self, account: str, token_hash: str) -> None:
        """Give an account a token, by the token's hash; its previous token becomes invalid."""
        with self._db.transaction():
            self._db.execute("INSERT OR REPLACE INTO accounts VALUES (?, ?)", account, token_hash)

    # --- time ---

    def advance_clock(self, now: float) -> float:
        """Store the current time and return it.

        Raises:
            ClosedError: the clock was set back.
        """
        with self._db.lock:
            if now > self._latest_time(now) + CLOCK_STORE_INTERVAL_SECONDS:
                with self._db.transaction():
                    self._store_time(now)
        return now

    def _store_time(self, now: float) -> None:
        """Store the latest time, and count the answers that are due by then; in a transaction."""
        self._db.execute("UPDATE seen SET clock = ?", max(now, self._latest_time(now)))
        for suite, replies, passes in self._newly_due(now):
            self._db.execute("UPDATE suites SET left_passes = left_passes + ? WHERE suite = ?", passes, suite)
            self._db.execute(
                "UPDATE pools SET left_replies = left_replies + ?, left_passes = left_passes + ? "
                "WHERE pool IN (SELECT pool FROM suite_pools WHERE suite = ?)",
                *(replies, passes, suite),
            )
        self._db.execute("UPDATE submissions SET left = 1 WHERE word IS NOT NULL AND left = 0 AND due <= ?", now)

    # --- charging and answering ---

    def charge(self, suite: Suite, model: str, account: str, now: float, ledger: tuple[int, str] | None = None) -> tuple[Charge, bool]:
        """Commit the charge for a model to every pool of the suite; free if it was charged before.

        The answer is due one slot after the previous one. Audits run one after another and none may
        take longer than a slot, so the answer exists by then and its time depends on no sealed
        item.

        Args:
            suite: the suite.
            model: the model's digest.
            account: the account that submits it.
            now: seconds since 1970.
            ledger: the ledger's current number of entries and head hash; an earlier ledger is
                detected from now on.

        Returns:
            The charge, and whether it is new.

        Raises:
            BudgetSpentError, WaitError, ClosedError: no charge was made.
        """
        with self._db.transaction():
            self.require_open()
            self._store_time(now)
            charge = self.find_charge(suite.name, model)
            new = charge is None
            if charge is None:
                for pool in self.visible_pools(suite, now):
                    if not pool.can_charge():
                        raise charge_refusal(pool, self._last_due())
                last = self._db.row("SELECT COALESCE(MAX(number), 0) FROM submissions")[0]
                charge = Charge(last + 1, suite.name, model, max(now, self._last_due()) + suite.slot, None)
                self._db.execute(
                    "INSERT INTO submissions (number, suite, model, due) VALUES (?, ?, ?, ?)",
                    *(charge.number, charge.suite, charge.model, charge.due),
                )
                if ledger is not None:
                    self._db.execute("UPDATE seen SET entries = ?, head = ?", *ledger)
                self._db.execute("UPDATE suites SET charged = charged + 1 WHERE suite = ?", suite.name)
                self._db.execute_many("UPDATE pools SET pending = pending + 1 WHERE pool = ?", [(p,) for p in suite.pools])
            self._db.execute("INSERT OR IGNORE INTO heard VALUES (?, ?)", charge.number, account)
            return charge, new

    def settle(self, charge: Charge, verdict: Verdict, rung: float | None = None) -> Verdict:
        """Commit the verdict of a charge before it may be released, and return it.

        A charge that already has a verdict retains it; that one is returned.

        Args:
            charge: the charge.
            verdict: the verdict.
            rung: the rung of a ladder that the model reached; None if it reached none.
        """
        with self._db.transaction():
            earlier: Verdict | None = self._db.row("SELECT word FROM submissions WHERE number = ?", charge.number)[0]
            if earlier is not None:
                return earlier
            self._db.execute("UPDATE submissions SET word = ?, reached = ? WHERE number = ?", verdict, rung, charge.number)
            self._db.execute(
                "UPDATE pools SET pending = pending - 1, replies = replies + 1, passes = passes + ? "
                "WHERE pool IN (SELECT pool FROM suite_pools WHERE suite = ?)",
                *(verdict == "pass", charge.suite),
            )
            return verdict

    def reschedule(self, now: float) -> None:
        """After a restart, fix new due times in advance for the overdue unanswered charges."""
        with self._db.transaction():
            last = now
            for charge in self.unanswered():
                suite = self.suite(charge.suite)
                assert suite is not None
                last = max(charge.due, last + suite.slot)
                self._db.execute("UPDATE submissions SET due = ? WHERE number = ?", last, charge.number)
