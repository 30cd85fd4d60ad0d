"""A budget belongs to sealed items, counts pending answers at their worst, and hides them.

Covers: auditor/budget_queries.py, auditor/budget_tables.py.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from conftest_auditor import terms
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stagezero.auditor.budget import BudgetMeter
from stagezero.auditor.budget_tables import Charge, Suite, allowance_of
from stagezero.door import Terms
from stagezero.errors import BudgetSpentError, ClosedError, DoorError, WaitError

SLOT, START = 10.0, 1000.0
FACTS = {"slot": SLOT}


@pytest.fixture
def meter(tmp_path: Path) -> BudgetMeter:
    return BudgetMeter(tmp_path / "meter.sqlite")


def add(meter: BudgetMeter, name: str, *clusters: list[str], given: Terms | None = None) -> Suite:
    suite_terms = given or terms(suite="jsonl", sealed=f"/{name}.jsonl")
    return meter.add_suite(name, suite_terms, "+".join(sorted({i for c in clusters for i in c})), clusters, FACTS)[0]


def spend(meter: BudgetMeter, suite: Suite, model: str, verdict: str = "fail", now: float = START) -> Charge:
    """Charge a model and settle its verdict."""
    charge, _ = meter.charge(suite, model, "lab", now)
    meter.settle(charge, verdict)  # type: ignore[arg-type]
    return charge


# --- which items a budget belongs to --------------------------------------------------------------


def test_the_same_items_under_any_name_order_or_grouping_are_one_budget(meter: BudgetMeter) -> None:
    first = add(meter, "first", ["a"], ["b"], ["c"])
    for name, clusters in (("copy", (["c"], ["a"], ["b"])), ("joined", (["b", "a", "c"],)), ("part", (["b"],))):
        assert add(meter, name, *clusters).pools == first.pools, name
    for number, name in enumerate(("first", "copy", "part")):
        suite = meter.suite(name)
        assert suite is not None
        spend(meter, suite, f"m{number}", now=START + 100 * number)
    joined = meter.suite("joined")
    assert joined is not None
    with pytest.raises(BudgetSpentError, match="3 of 3 submissions"):
        meter.charge(joined, "m9", "other", START + 900)


def test_a_rewording_that_is_registered_inherits_the_budget_of_its_cluster(meter: BudgetMeter) -> None:
    first = add(meter, "first", ["a"], ["b"])
    second = add(meter, "again", ["new wording of a", "a"])
    assert second.pools == first.pools
    assert add(meter, "alone", ["new wording of a"]).pools == first.pools, "the rewording is registered from then on"


def test_new_items_have_a_budget_of_their_own(meter: BudgetMeter) -> None:
    first, other = add(meter, "first", ["a"]), add(meter, "other", ["b"])
    assert set(first.pools).isdisjoint(other.pools)
    for number in range(3):
        spend(meter, first, f"m{number}", now=START + 100 * number)
    spend(meter, other, "m0", now=START + 900)


def test_a_suite_with_items_of_two_pools_is_charged_to_both(meter: BudgetMeter) -> None:
    first, other = add(meter, "first", ["a"]), add(meter, "other", ["b"])
    both = add(meter, "both", ["a"], ["b"], ["c"])
    assert set(both.pools) > {*first.pools, *other.pools}
    assert meter.bits_allowed(both) == pytest.approx(3 * allowance_of(first.terms).total_bits())
    spend(meter, both, "m0", "pass")
    for suite in (first, other):
        pool = meter.visible_pool(suite.pools[0], START + 900)
        assert (pool.replies, pool.passes, pool.pending) == (1, 1, 0)
    for number in (1, 2):
        spend(meter, first, f"m{number}", now=START + 900 + 100 * number)
    with pytest.raises(BudgetSpentError):
        meter.charge(both, "m3", "lab", START + 2000)
    spend(meter, other, "m3", now=START + 2000)


def test_a_cluster_with_items_of_two_pools_is_charged_to_both(meter: BudgetMeter) -> None:
    first, other = add(meter, "first", ["a"]), add(meter, "other", ["b"])
    assert set(add(meter, "tied", ["a", "b", "c"]).pools) == {*first.pools, *other.pools}


@pytest.mark.parametrize(
    "changes", [{"submissions": 4}, {"passes": 1}, {"meter": "flat", "bits": 3.0}, {"shadow": True}, {"meter": "kraft", "bits": 20.0}]
)
def test_items_with_a_budget_cannot_get_another_budget(meter: BudgetMeter, changes: dict[str, object]) -> None:
    add(meter, "first", ["a"], ["b"])
    with pytest.raises(DoorError, match="already have a budget"):
        add(meter, "more", ["b"], ["c"], given=terms(suite="jsonl", sealed="/m.jsonl", **changes))
    assert meter.suites() == ["first"] and meter.count_known_items(["c"]) == 0, "a rejected suite must leave no rows"


def test_a_suites_items_and_terms_cannot_change(meter: BudgetMeter) -> None:
    first = add(meter, "first", ["a"])
    assert add(meter, "first", ["a"]) == first
    for changed_terms, items in ((terms(suite="jsonl", sealed="/first.jsonl", delta=0.5), ["a"]), (None, ["b"])):
        with pytest.raises(DoorError, match="other terms"):
            add(meter, "first", items, given=changed_terms)
    moved = terms(suite="other.jsonl", sealed="/elsewhere/first.jsonl")
    assert add(meter, "first", ["a"], given=moved) == first, "the path of the file is not part of the terms"


# --- charging -------------------------------------------------------------------------------------


def test_the_same_model_is_charged_once_for_all_accounts(meter: BudgetMeter) -> None:
    suite = add(meter, "first", ["a"])
    first, new = meter.charge(suite, "m", "lab", START)
    repeated, new_again = meter.charge(suite, "m", "other", START + 1)
    assert (new, new_again, repeated) == (True, False, first)
    assert meter.charge_for_account(first.number, "other") == first and meter.charge_for_account(first.number, "third") is None
    assert meter.pool(suite.pools[0]).pending == 1


def test_pending_answers_are_counted_at_their_worst(meter: BudgetMeter) -> None:
    """Two passes are allowed, and two pending answers may both be passes."""
    suite = add(meter, "first", ["a"])
    charges = [meter.charge(suite, f"m{i}", "lab", START)[0] for i in range(2)]
    with pytest.raises(WaitError) as refusal:
        meter.charge(suite, "m2", "lab", START)
    assert refusal.value.until == charges[1].due == START + 2 * SLOT
    meter.settle(charges[0], "fail")
    meter.settle(charges[1], "fail")
    with pytest.raises(WaitError):  # the verdicts exist, but are not due
        meter.charge(suite, "m2", "lab", START + SLOT - 1)
    meter.charge(suite, "m2", "lab", START + SLOT)


def test_a_verdict_is_not_visible_before_it_is_due(meter: BudgetMeter) -> None:
    suite = add(meter, "first", ["a"])
    number = suite.pools[0]
    charge, _ = meter.charge(suite, "m", "lab", START)
    before = meter.visible_pool(number, START), meter.visible_counts("first", START)
    meter.settle(charge, "pass")
    assert (
        (meter.visible_pool(number, START).pending, meter.visible_counts("first", START)) == (before[0].pending, before[1]) == (1, (1, 0))
    )
    assert meter.visible_pool(number, START).passes == 0 and meter.pool(number).passes == 1
    for now, advanced in ((charge.due, False), (charge.due, True)):
        if advanced:
            meter.advance_clock(now + 100)
        pool = meter.visible_pool(number, now)
        assert (pool.replies, pool.passes, pool.pending) == (1, 1, 0)
        assert meter.visible_counts("first", now) == (1, 1)


def test_the_first_verdict_of_a_charge_is_final(meter: BudgetMeter) -> None:
    suite = add(meter, "first", ["a"])
    charge = spend(meter, suite, "m", "fail")
    assert meter.settle(charge, "pass") == "fail"
    assert meter.pool(suite.pools[0]).passes == 0


def test_answers_are_due_one_slot_apart_and_in_order_after_a_restart(meter: BudgetMeter) -> None:
    suite = add(meter, "first", ["a"], given=terms(submissions=9, passes=9))
    due = [meter.charge(suite, f"m{i}", "lab", START)[0].due for i in range(3)]
    assert due == [START + SLOT, START + 2 * SLOT, START + 3 * SLOT]
    meter.reschedule(START + 100)
    assert [c.due for c in meter.unanswered()] == [START + 100 + i * SLOT for i in (1, 2, 3)]
    assert meter.awaits_audit("m2") and not meter.awaits_audit("m9")


# --- inconsistencies ------------------------------------------------------------------------------


def test_nothing_is_charged_after_the_clock_was_set_back(meter: BudgetMeter) -> None:
    suite = add(meter, "first", ["a"])
    meter.charge(suite, "m", "lab", START)
    with pytest.raises(ClosedError, match="clock was set back"):
        meter.charge(suite, "n", "lab", START - 100)
    with pytest.raises(ClosedError, match="clock was set back"):
        meter.advance_clock(START - 100)
    assert meter.pool(suite.pools[0]).pending == 1


def test_a_closed_meter_stays_closed_and_retains_its_first_reason(meter: BudgetMeter) -> None:
    suite = add(meter, "first", ["a"])
    meter.close_permanently("one")
    meter.close_permanently("two")
    reopened = BudgetMeter(meter.path)
    assert reopened.closed_reason == "one"
    with pytest.raises(ClosedError, match="one"):
        reopened.charge(suite, "m", "lab", START)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE pools SET pending = 0", "UPDATE pools SET replies = 0", "UPDATE pools SET passes = 0", "UPDATE pools SET left_passes = 0",
        "UPDATE pools SET left_replies = 0", "UPDATE suites SET charged = 0", "UPDATE suites SET left_passes = 0",
        "UPDATE submissions SET left = 0", "UPDATE submissions SET word = NULL", "DELETE FROM suite_pools",
    ],
)  # fmt: skip
def test_counts_and_rows_must_agree(meter: BudgetMeter, change: str) -> None:
    suite = add(meter, "first", ["a"])
    spend(meter, suite, "m", "pass")
    meter.advance_clock(START + 900)
    meter.charge(suite, "n", "lab", START + 901)
    assert BudgetMeter(meter.path).closed_reason is None
    db = sqlite3.connect(meter.path)
    db.execute(change)
    db.commit()
    db.close()
    assert BudgetMeter(meter.path).closed_reason is not None


def test_a_file_that_is_no_budget_database_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "meter.sqlite").write_bytes(b"not a database, and longer than its header would be" * 100)
    with pytest.raises(ClosedError, match="cannot be used"):
        BudgetMeter(tmp_path / "meter.sqlite")


def test_the_items_digest_changes_only_with_new_items(meter: BudgetMeter) -> None:
    add(meter, "first", ["a"], ["b"])
    before = meter.items_digest()
    add(meter, "copy", ["b"], ["a"])
    assert meter.items_digest() == before
    add(meter, "other", ["c"])
    assert meter.items_digest() != before


# --- any order of events --------------------------------------------------------------------------


class BudgetModel(RuleBasedStateMachine):
    """Charges, verdicts, restarts and time in any order over overlapping suites.

    The visible counts must equal a plain count of the events.
    """

    SUITES = (("left", (["a"], ["b"])), ("right", (["c"],)), ("over", (["b"], ["c"], ["d"])))

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.now = START
        self.charges: dict[tuple[str, str], Charge] = {}
        self.verdicts: dict[int, str] = {}
        self.meter = BudgetMeter(Path(self.folder.name) / "meter.sqlite")
        suite_terms = terms(submissions=5, passes=2)
        self.suites = {name: add(self.meter, name, *clusters, given=suite_terms) for name, clusters in self.SUITES}

    def teardown(self) -> None:
        self.meter.close()
        self.folder.cleanup()

    @rule(name=st.sampled_from(["left", "right", "over"]), model=st.sampled_from("uvwxyz"))
    def charge(self, name: str, model: str) -> None:
        charged_before = (name, model) in self.charges
        allowed = all(self._pool(p)[0] < 5 and self._pool(p)[2] + self._pool(p)[3] < 2 for p in self.suites[name].pools)
        try:
            charge, new = self.meter.charge(self.suites[name], model, "lab", self.now)
        except (BudgetSpentError, WaitError):
            assert not charged_before and not allowed
            return
        assert new != charged_before and (charged_before or allowed)
        assert charge.number == self.charges.setdefault((name, model), charge).number

    @precondition(lambda self: len(self.verdicts) < len(self.charges))
    @rule(verdict=st.sampled_from(["pass", "fail", "fail"]))
    def answer(self, verdict: str) -> None:
        charge = self.meter.unanswered()[0]
        self.verdicts[charge.number] = self.meter.settle(charge, verdict)  # type: ignore[arg-type]

    @rule(by=st.sampled_from([0.5, SLOT, 7 * SLOT]))
    def wait(self, by: float) -> None:
        self.now = self.meter.advance_clock(self.now + by)

    @rule()
    def restart(self) -> None:
        self.meter.close()
        self.meter = BudgetMeter(self.meter.path)
        self.meter.reschedule(self.now)
        due = {c.number: c for c in self.meter.charges()}
        self.charges = {key: due[charge.number] for key, charge in self.charges.items()}

    def _pool(self, pool: int) -> tuple[int, int, int, int]:
        """Return the counts of charges, due answers, passes among these, and pending answers."""
        charges = [c for (name, _), c in self.charges.items() if pool in self.suites[name].pools]
        released = [self.verdicts[c.number] for c in charges if c.number in self.verdicts and c.due <= self.now]
        return len(charges), len(released), released.count("pass"), len(charges) - len(released)

    @invariant()
    def counts_equal_the_events(self) -> None:
        assert self.meter.closed_reason is None
        for pool in {p for suite in self.suites.values() for p in suite.pools}:
            charged, replies, passes, pending = self._pool(pool)
            visible = self.meter.visible_pool(pool, self.now)
            assert (visible.replies, visible.passes, visible.pending) == (replies, passes, pending)
            assert charged <= 5 and self.meter.pool(pool).passes <= 2
        for name in self.suites:
            assert self.meter.visible_counts(name, self.now)[0] == sum(key[0] == name for key in self.charges)


BudgetModel.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestBudgetModel = BudgetModel.TestCase
