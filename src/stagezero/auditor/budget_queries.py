"""Read-only queries over the budget's tables.

``BudgetMeter`` (``budget``) inherits them and adds everything that writes. No query here changes
the database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from stagezero.auditor.budget_tables import Charge, Database, Pool, Suite, total_bits
from stagezero.door.messages import Terms
from stagezero.errors import ClosedError
from stagezero.evidence import Allowance

MAX_CLOCK_SETBACK_SECONDS = 5.0
"""How far the clock may be set back before requests are refused."""


class BudgetQueries:
    """The suites, pools and charges of one auditor, for reading."""

    def __init__(self, database: Database) -> None:
        """Use an open database."""
        self._db = database

    # --- whether the auditor is closed ---

    @property
    def closed_reason(self) -> str | None:
        """The reason for which the auditor is closed; None while it is open."""
        reason: str | None = self._db.row("SELECT closed FROM seen")[0]
        return reason

    def require_open(self) -> None:
        """Raise an error if the auditor is closed.

        Raises:
            ClosedError: the auditor is closed.
        """
        if (reason := self.closed_reason) is not None:
            raise ClosedError(f"the auditor is closed: {reason}; its operator must investigate.")

    @property
    def ledger_at_last_charge(self) -> tuple[int, str]:
        """The ledger's number of entries and head hash when the last charge was made."""
        entries, head = self._db.row("SELECT entries, head FROM seen")
        return int(entries), str(head)

    # --- suites and pools ---

    def suite(self, name: str) -> Suite | None:
        """Return a suite by its name; None if there is none."""
        with self._db.lock:
            row = self._db.row("SELECT terms, commitment, facts FROM suites WHERE suite = ?", name)
            pools = self._db.rows("SELECT pool FROM suite_pools WHERE suite = ? ORDER BY pool", name)
        if row is None:
            return None
        return Suite(name, Terms.model_validate_json(row[0]), row[1], json.loads(row[2]), tuple(pool for (pool,) in pools))

    def suites(self) -> list[str]:
        """Return the names of all suites, shadows included."""
        return [name for (name,) in self._db.rows("SELECT suite FROM suites ORDER BY rowid")]

    def pool(self, number: int) -> Pool:
        """Return a pool with all its counts, including answers that are not released yet."""
        allowance, *counts = self._db.row("SELECT allowance, replies, passes, pending FROM pools WHERE pool = ?", number)
        return Pool(number, Allowance(**json.loads(allowance)), *counts)

    def bits_allowed(self, suite: Suite) -> float:
        """Return B: the most bits that may ever be disclosed about a suite, over all its pools."""
        return sum(total_bits(self.pool(number).allowance) for number in suite.pools)

    def pool_of_item(self, commitment: str) -> int | None:
        """Return the pool of an item; None if the item is new."""
        row = self._db.row("SELECT pool FROM items WHERE commitment = ?", commitment)
        return row[0] if row is not None else None

    def count_known_items(self, commitments: Sequence[str]) -> int:
        """Return how many of these items belong to a pool already."""
        return sum(self.pool_of_item(c) is not None for c in commitments)

    def items_digest(self) -> str:
        """Return one digest over every item ever set up, with its pool.

        It detects items that the database has lost; a lost item would get a fresh budget.
        """
        digest = hashlib.sha256()
        for commitment, pool in self._db.rows("SELECT commitment, pool FROM items ORDER BY commitment"):
            digest.update(f"{commitment} {pool}\n".encode())
        return digest.hexdigest()

    def account_of(self, token_hash: str) -> str | None:
        """Return the account of a token, given the token's hash; None if there is none."""
        row = self._db.row("SELECT account FROM accounts WHERE token = ?", token_hash)
        return row[0] if row is not None else None

    # --- counts as the lab can observe them ---

    def visible_pool(self, number: int, now: float) -> Pool:
        """Return a pool as the lab can observe it: an answer that is not due counts as pending.

        Refusals and reports use this, so that they disclose neither the outcome nor the end of an
        audit before its answer is due.
        """
        with self._db.lock:
            pool = self.pool(number)
            replies, passes = self._db.row("SELECT left_replies, left_passes FROM pools WHERE pool = ?", number)
            for suite, new_replies, new_passes in self._newly_due(now):
                if self._db.row("SELECT 1 FROM suite_pools WHERE suite = ? AND pool = ?", suite, number) is not None:
                    replies, passes = replies + new_replies, passes + new_passes
        return Pool(number, pool.allowance, replies, passes, pool.replies + pool.pending - replies)

    def visible_pools(self, suite: Suite, now: float) -> list[Pool]:
        """Return the pools that a suite is charged to, as the lab can observe them."""
        return [self.visible_pool(number, now) for number in suite.pools]

    def visible_counts(self, suite: str, now: float) -> tuple[int, int]:
        """Return a suite's own number of submissions, and the passes that the lab can observe."""
        with self._db.lock:
            charged, passes = self._db.row("SELECT charged, left_passes FROM suites WHERE suite = ?", suite)
            return charged, passes + sum(new_passes for name, _, new_passes in self._newly_due(now) if name == suite)

    def _newly_due(self, now: float) -> list[tuple[str, int, int]]:
        """Return (suite, answers, passes) for the answers that became due since the last count."""
        return self._db.rows(
            "SELECT suite, COUNT(*), SUM(word = 'pass') FROM submissions INDEXED BY leaving "
            "WHERE word IS NOT NULL AND left = 0 AND due <= ? GROUP BY suite",
            now,
        )

    # --- charges ---

    def find_charge(self, suite: str, model: str) -> Charge | None:
        """Return the charge of an earlier submission of the same model; None if there is none."""
        return next(iter(self._charges("WHERE suite = ? AND model = ?", suite, model)), None)

    def charge_for_account(self, number: int, account: str) -> Charge | None:
        """Return a charge if the account has submitted its model itself, else None."""
        return next(iter(self._charges("JOIN heard USING (number) WHERE number = ? AND account = ?", number, account)), None)

    def unanswered(self) -> list[Charge]:
        """Return the charges that have not been audited, in the order of submission."""
        return self._charges("WHERE word IS NULL ORDER BY number")

    def awaits_audit(self, model: str) -> bool:
        """Return whether a model has a charge that has not been audited."""
        return self._db.row("SELECT 1 FROM submissions WHERE model = ? AND word IS NULL", model) is not None

    def charges(self, suite: str | None = None) -> list[Charge]:
        """Return all charges, or those of one suite."""
        if suite is None:
            return self._charges("ORDER BY number")
        return self._charges("WHERE suite = ? ORDER BY number", suite)

    def best_rung(self, suite: str) -> float | None:
        """Return the highest rung that any model has reached on a ladder; None if none has."""
        rung: float | None = self._db.row("SELECT MAX(reached) FROM submissions WHERE suite = ?", suite)[0]
        return rung

    def _charges(self, condition: str, *values: object) -> list[Charge]:
        return [Charge(*row) for row in self._db.rows(f"SELECT number, suite, model, due, word FROM submissions {condition}", *values)]

    def _last_due(self) -> float:
        """Return when the last answer is due (seconds since 1970); 0 if there is none."""
        return float(self._db.row("SELECT COALESCE(MAX(due), 0) FROM submissions")[0])

    def _latest_time(self, now: float) -> float:
        """Return the latest time that was stored.

        Raises:
            ClosedError: the stored time is later than ``now`` by more than the tolerance.
        """
        latest: float = self._db.row("SELECT clock FROM seen")[0]
        if now < latest - MAX_CLOCK_SETBACK_SECONDS:
            raise ClosedError(f"the auditor's clock was set back by {latest - now:.0f} s; it answers again once the clock is correct.")
        return latest
