"""The meter: what has been asked about which sealed items, charged before anything sealed is touched.

A submission is known by its suite and its model's digest: the same twice is charged once and answered the same. The clock may not
run backwards: then nothing is charged or answered until the time is made good.

An answer is known here before it may leave. What the lab is told of the counts goes by the answers that are due, which are counted
apart (``left``) as time passes them, so that nothing here takes longer the more has been asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from stagezero.auditor.register import Pool, Register, Suite
from stagezero.auditor.schedule import due_time
from stagezero.door.messages import Word
from stagezero.errors import BudgetSpentError, ClosedError, DoorError, WaitError

BACKWARDS = 5.0  # seconds that a clock may be set back without the meter closing
_NOTED = 1.0  # seconds that the clock runs on before it is noted anew


@dataclass(frozen=True, slots=True)
class Charge:
    """A charged submission; ``word`` is None until it has been audited."""

    number: int
    suite: str
    model: str
    due: float
    word: Word | None


class Meter(Register):
    """Every count of one auditor, and the charging of submissions."""

    # --- time -----------------------------------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        """Remember the latest time seen, and count the answers that may have left by then; inside a transaction."""
        self._db.execute("UPDATE seen SET clock = ?", (max(now, self._seen(now)),))
        for suite, words, passes in self._leaving(now):
            self._db.execute("UPDATE suites SET left_passes = left_passes + ? WHERE suite = ?", (passes, suite))
            self._db.execute(
                "UPDATE pools SET left_replies = left_replies + ?, left_passes = left_passes + ? "
                "WHERE pool IN (SELECT pool FROM suite_pools WHERE suite = ?)",
                (words, passes, suite),
            )
        self._db.execute("UPDATE submissions SET left = 1 WHERE word IS NOT NULL AND left = 0 AND due <= ?", (now,))

    def _seen(self, now: float) -> float:
        """The latest time seen.

        Raises:
            ClosedError: it is later than now.
        """
        seen: float = self._db.execute("SELECT clock FROM seen").fetchone()[0]
        if now < seen - BACKWARDS:
            raise ClosedError(f"the auditor's clock went back by {seen - now:.0f} s; it answers again when the time is made good.")
        return seen

    def _leaving(self, now: float) -> list[tuple[str, int, int]]:
        """Suite, answers and passes that have become due since answers were last counted."""
        return self._db.execute(
            "SELECT suite, COUNT(*), SUM(word = 'pass') FROM submissions INDEXED BY leaving "
            "WHERE word IS NOT NULL AND left = 0 AND due <= ? GROUP BY suite",
            (now,),
        ).fetchall()

    # --- as the lab knows it -----------------------------------------------------------------------------------------

    def heard(self, number: int, now: float) -> Pool:
        """A pool as the lab knows it: an answer that has not left yet is still out, whatever is known of it here.

        Refusals and reports go by this, so that they never tell how an audit went, or that it is over, before the answer is due.
        """
        with self._turn:
            pool = self.pool(number)
            replies, passes = self._db.execute("SELECT left_replies, left_passes FROM pools WHERE pool = ?", (number,)).fetchone()
            for suite, words, more in self._leaving(now):
                if self._db.execute("SELECT 1 FROM suite_pools WHERE suite = ? AND pool = ?", (suite, number)).fetchone() is not None:
                    replies, passes = replies + words, passes + more
        return Pool(number, pool.allowance, replies, passes, pool.replies + pool.pending - replies)

    def counts(self, suite: str, now: float) -> tuple[int, int]:
        """A suite's own submissions, and how many of them the lab knows to have passed."""
        with self._turn:
            row = self._db.execute("SELECT charged, left_passes FROM suites WHERE suite = ?", (suite,)).fetchone()
            return row[0], row[1] + sum(passes for name, _, passes in self._leaving(now) if name == suite)

    def pools_of(self, suite: Suite, now: float) -> list[Pool]:
        """The pools that a suite is charged to, as the lab knows them."""
        return [self.heard(number, now) for number in suite.pools]

    # --- charging and answering -----------------------------------------------------------------------------------

    def find(self, suite: str, model: str) -> Charge | None:
        """An earlier submission of the same model."""
        with self._turn:
            row = self._db.execute("SELECT number, suite, model, due, word FROM submissions WHERE suite = ? AND model = ?", (suite, model))
            found = row.fetchone()
        return Charge(*found) if found is not None else None

    def charge(self, suite: Suite, model: str, account: str, now: float, ledger: tuple[int, str] | None = None) -> tuple[Charge, bool]:
        """Commit the charge for a model, to every pool that the suite touches; free if it was charged before.

        Args:
            ledger: number of entries and head of the ledger as it is now, which it can never go back behind.

        Returns:
            The charge, and whether it is new.

        Raises:
            BudgetSpentError, WaitError, ClosedError: nothing was charged.
        """
        with self._writing():
            self.refuse_if_closed()
            self._tick(now)
            charge = self.find(suite.name, model)
            new = charge is None
            if charge is None:
                for pool in self.pools_of(suite, now):
                    if not pool.may_ask():
                        raise self._refusal(pool)
                row = self._db.execute(
                    "SELECT COALESCE((SELECT MAX(number) FROM submissions), 0), COALESCE((SELECT MAX(due) FROM submissions), 0)"
                ).fetchone()
                charge = Charge(row[0] + 1, suite.name, model, due_time(now, suite.slot, row[1]), None)
                self._db.execute(
                    "INSERT INTO submissions (number, suite, model, due) VALUES (?, ?, ?, ?)",
                    (charge.number, charge.suite, charge.model, charge.due),
                )
                if ledger is not None:
                    self._db.execute("UPDATE seen SET entries = ?, head = ?", ledger)
                self._db.execute("UPDATE suites SET charged = charged + 1 WHERE suite = ?", (suite.name,))
                self._db.executemany("UPDATE pools SET pending = pending + 1 WHERE pool = ?", [(p,) for p in suite.pools])
            self._db.execute("INSERT OR IGNORE INTO heard VALUES (?, ?)", (charge.number, account))
            return charge, new

    def _refusal(self, pool: Pool) -> DoorError:
        """Spent, or only waiting for answers that are still out."""
        if pool.pending and pool.allowance.may_ask(pool.replies, pool.passes):
            last = self._db.execute("SELECT MAX(due) FROM submissions").fetchone()[0]
            return WaitError("answers about these sealed items are still out; ask again when they have come.", float(last))
        allowed = pool.allowance
        return BudgetSpentError(
            f"the sealed items have answered all they may ({pool.replies + pool.pending} of {allowed.submissions} submissions, "
            + (
                f"{pool.passes} of {allowed.passes} passes"
                if allowed.kind == "counted"
                else f"{pool.passes} passes, {allowed.total():.1f} bits allowed"
            )
            + "); add fresh sealed items."
        )

    def settle(self, charge: Charge, word: Word, reached: float | None = None) -> Word:
        """Commit the answer before it may leave; the first one stands. ``reached`` is how far up a ladder the model has come."""
        with self._writing():
            row = self._db.execute("SELECT word FROM submissions WHERE number = ?", (charge.number,)).fetchone()
            if row[0] is not None:
                return row[0]  # type: ignore[no-any-return]
            self._db.execute("UPDATE submissions SET word = ?, reached = ? WHERE number = ?", (word, reached, charge.number))
            self._db.execute(
                "UPDATE pools SET pending = pending - 1, replies = replies + 1, passes = passes + ? "
                "WHERE pool IN (SELECT pool FROM suite_pools WHERE suite = ?)",
                (word == "pass", charge.suite),
            )
            return word

    def reached(self, suite: str) -> float | None:
        """How far up its ladder a suite's best model has come."""
        with self._turn:
            found: float | None = self._db.execute("SELECT MAX(reached) FROM submissions WHERE suite = ?", (suite,)).fetchone()[0]
        return found

    def reschedule(self, now: float) -> None:
        """After a stop, give what was not answered in time new times, so that they are again fixed beforehand."""
        with self._writing():
            last = now
            for charge in self.unanswered():
                suite = self.suite(charge.suite)
                assert suite is not None
                last = max(charge.due, last + suite.slot)
                self._db.execute("UPDATE submissions SET due = ? WHERE number = ?", (last, charge.number))

    def unanswered(self) -> list[Charge]:
        """Charged and not yet audited, in the order they came."""
        with self._turn:
            rows = self._db.execute("SELECT number, suite, model, due, word FROM submissions WHERE word IS NULL ORDER BY number").fetchall()
        return [Charge(*row) for row in rows]

    def wanted(self, model: str) -> bool:
        """Whether a model is still to be audited."""
        with self._turn:
            return self._db.execute("SELECT 1 FROM submissions WHERE model = ? AND word IS NULL", (model,)).fetchone() is not None

    def charges(self, suite: str | None = None) -> list[Charge]:
        """Every submission, or those of a suite."""
        where, given = ("WHERE suite = ?", (suite,)) if suite is not None else ("", ())
        with self._turn:
            rows = self._db.execute(f"SELECT number, suite, model, due, word FROM submissions {where} ORDER BY number", given).fetchall()
        return [Charge(*row) for row in rows]

    def heard_by(self, number: int, account: str) -> Charge | None:
        """A submission that an account has made itself."""
        with self._turn:
            row = self._db.execute(
                "SELECT number, suite, model, due, word FROM submissions JOIN heard USING (number) WHERE number = ? AND account = ?",
                (number, account),
            ).fetchone()
        return Charge(*row) if row is not None else None

    def now(self, now: float) -> float:
        """Remember the time, and refuse a clock that was set back.

        Raises:
            ClosedError: it was.
        """
        with self._turn:
            if now > self._seen(now) + _NOTED:
                with self._writing():
                    self._tick(now)
        return now
