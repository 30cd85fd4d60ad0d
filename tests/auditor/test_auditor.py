"""The auditor at work: it charges before it reads, answers one word when it is due, and stops when its sealed items have said enough."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from conftest_auditor import ALWAYS, NEVER, Clock, Desk, sealed_file, terms, variant

from stagezero.door import Receipt, Submission
from stagezero.errors import BudgetSpentError, ClosedError, DoorError, ModelError, WaitError, WitnessError
from stagezero.ledger import read, verify
from stagezero.models import checkpoint_digest


def test_the_same_model_is_charged_once_and_answered_the_same(desk: Desk, base: Path) -> None:
    desk.add()
    first = desk.hand_in(base)
    again = desk.hand_in(base)
    assert again == first
    assert desk.hear(first) == desk.ask(base) == "pass"
    assert desk.ask(base, account="other") == "pass", "whoever has the same model hears the same"
    status = desk.auditor.status("suite")
    assert (status.submissions_used, status.passes_given) == (1, 1)
    assert [e.kind for e in read(desk.folder / "ledger.jsonl")] == ["auditor", "opened", "suite", "charged", "answered"]


def test_an_answer_leaves_when_it_is_due_and_not_before(desk: Desk, base: Path) -> None:
    desk.add()
    receipt = desk.hand_in(base)
    assert receipt.due == desk.clock.now + 8.0
    desk.settled()
    assert desk.auditor.reply(receipt.submission, "lab") == receipt, "known here, and not told yet"
    before = desk.auditor.status("suite")
    assert (before.pending, before.passes_given, before.bits_used) == (1, 0, 0.0)
    desk.clock.now = receipt.due - 0.001
    assert isinstance(desk.auditor.reply(receipt.submission, "lab"), Receipt)
    assert desk.hear(receipt) == "pass"


def test_what_is_known_and_not_told_does_not_show_in_a_refusal(desk: Desk, base: Path, tmp_path: Path) -> None:
    """One pass is allowed. Whether the model that is being audited passed must not show in what is said to the next one."""
    desk.add("easy", bars=ALWAYS, passes=1)
    desk.add("hard", bars=NEVER, passes=1)
    told: list[tuple[str, float]] = []
    for suite in ("easy", "hard"):
        desk.hand_in(base, suite)
        for waited in (False, True):
            if waited:
                desk.settled()
            with pytest.raises(WaitError) as refused:
                desk.hand_in(variant(base, tmp_path, len(told)), suite)
            told.append((str(refused.value), refused.value.until - desk.clock.now))
    assert told[0] == told[1] and told[2] == told[3] and told[0][0] == told[2][0]


def test_a_digest_alone_hears_nothing(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add()
    receipt = desk.hand_in(base)
    with pytest.raises(DoorError, match="this account has made"):
        desk.auditor.reply(receipt.submission, "other")
    with pytest.raises(ModelError):
        desk.auditor.submit(Submission(suite="suite", digest=checkpoint_digest(base), folder=str(tmp_path)), "other")


def test_out_of_budget_it_refuses_and_says_nothing_more(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add(bars=NEVER)
    models = [variant(base, tmp_path, i) for i in range(4)]
    assert [desk.ask(m) for m in models[:3]] == ["fail"] * 3
    with pytest.raises(BudgetSpentError, match="3 of 3 submissions"):
        desk.hand_in(models[3])
    assert desk.ask(models[0]) == "fail", "an old answer may be heard again"


def test_the_passes_are_limited_too(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add(passes=1)
    assert desk.ask(base) == "pass"
    with pytest.raises(BudgetSpentError, match="1 of 1 passes"):
        desk.hand_in(variant(base, tmp_path, 0))


def test_a_wrong_digest_is_refused_without_charge(desk: Desk, base: Path) -> None:
    desk.add()
    with pytest.raises(ModelError, match="not the one its digest names"):
        desk.auditor.submit(Submission(suite="suite", digest="0" * 64, folder=str(base)), "lab")
    assert desk.auditor.status("suite").submissions_used == 0
    assert list((desk.folder / "intake").iterdir()) == []


def test_an_audit_that_breaks_is_a_charged_failure(desk: Desk, base: Path, tmp_path: Path) -> None:
    broken = variant(base, tmp_path, 0)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 10}))
    desk.add()
    assert desk.ask(broken) == "fail"
    assert desk.auditor.status("suite").submissions_used == 1


def test_a_stop_between_charge_and_answer_keeps_the_charge_and_finishes_later(desk: Desk, base: Path) -> None:
    suite = desk.auditor.storage.suite(desk.add())
    desk.auditor.intake.admit(checkpoint_digest(base), base, "lab")
    desk.auditor.meter.charge(suite, checkpoint_digest(base), "lab", desk.clock.now)  # the ledger has not heard of it
    again = desk.again()
    assert [e.kind for e in read(again.folder / "ledger.jsonl")][:4] == ["auditor", "opened", "suite", "charged"]
    again.clock.now += 100.0
    receipt = again.hand_in(base)
    assert again.hear(receipt) == "pass"
    assert again.auditor.status("suite").submissions_used == 1
    again.auditor.close()


def test_after_a_stop_unanswered_submissions_get_a_new_time(desk: Desk, base: Path) -> None:
    suite = desk.auditor.storage.suite(desk.add())
    desk.auditor.intake.admit(checkpoint_digest(base), base, "lab")
    first, _ = desk.auditor.meter.charge(suite, checkpoint_digest(base), "lab", desk.clock.now)  # and nobody is told to audit it
    desk.clock.now += 1000.0
    again = desk.again()
    later = again.hand_in(base)
    assert first.due < desk.clock.now and later.due == desk.clock.now + 8.0
    assert again.hear(later) == "pass"
    again.auditor.close()


def test_a_clock_that_went_back_closes_it(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add()
    receipt = desk.hand_in(base)
    desk.hear(receipt)
    desk.clock.now -= 100.0
    with pytest.raises(ClosedError, match="clock was set back"):
        desk.hand_in(variant(base, tmp_path, 0))
    with pytest.raises(ClosedError, match="clock was set back"):
        desk.auditor.reply(receipt.submission, "lab")
    desk.clock.now += 100.0
    assert desk.ask(base) == "pass"


def test_a_restored_database_closes_it_for_good(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add()
    earlier = tmp_path / "earlier.sqlite"
    db = sqlite3.connect(desk.folder / "meter.sqlite")
    db.execute(f"VACUUM INTO '{earlier}'")
    db.close()
    desk.ask(base)
    desk.auditor.close()
    for name in ("meter.sqlite-wal", "meter.sqlite-shm"):
        (desk.folder / name).unlink(missing_ok=True)
    shutil.copyfile(earlier, desk.folder / "meter.sqlite")
    again = Desk(desk.folder, desk.clock)
    with pytest.raises(ClosedError, match="restored from an earlier time"):
        again.hand_in(variant(base, tmp_path, 0))
    third = again.again()
    with pytest.raises(ClosedError, match="restored from an earlier time"):
        third.hand_in(variant(base, tmp_path, 1))
    third.auditor.close()


def test_a_restored_ledger_closes_it_too(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add()
    desk.ask(base)
    lines = (desk.folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    desk.ask(variant(base, tmp_path, 0))
    desk.auditor.close()
    (desk.folder / "ledger.jsonl").write_bytes(b"".join(lines[:-1]))
    again = Desk(desk.folder, desk.clock)
    with pytest.raises(ClosedError, match="ledger was restored"):
        again.hand_in(variant(base, tmp_path, 1))
    again.auditor.close()


@pytest.mark.parametrize(
    "change",
    ["UPDATE pools SET replies = 0", "UPDATE pools SET passes = 0", "DELETE FROM submissions", "UPDATE submissions SET word = 'fail'"],
)
def test_a_changed_database_closes_it(desk: Desk, base: Path, tmp_path: Path, change: str) -> None:
    desk.add()
    desk.ask(base)
    desk.auditor.close()
    db = sqlite3.connect(desk.folder / "meter.sqlite")
    db.execute(change)
    db.commit()
    db.close()
    again = Desk(desk.folder, desk.clock)
    with pytest.raises(ClosedError):
        again.hand_in(variant(base, tmp_path, 0))
    again.auditor.close()


def test_rolled_back_with_its_ledger_a_lab_that_holds_a_checkpoint_shows_it(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add()
    desk.auditor.close()
    shutil.copytree(desk.folder, tmp_path / "earlier")
    later = Desk(desk.folder, desk.clock)
    later.ask(base)
    held = later.auditor.checkpoint(None).checkpoint
    later.auditor.close()
    back = Desk(tmp_path / "earlier", desk.clock)
    with pytest.raises(WitnessError, match="does not continue it"):
        back.auditor.checkpoint(held)
    with pytest.raises(ClosedError, match="rolled back"):
        back.hand_in(base)
    back.auditor.close()


def test_the_ledger_of_an_auditor_verifies(desk: Desk, base: Path) -> None:
    desk.add()
    desk.ask(base)
    assert verify(desk.folder / "ledger.jsonl", deep=True) == 5


def test_a_ladder_says_yes_once_a_step(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add("ladder", step=0.3, passes=3, submissions=6)
    assert desk.ask(base, "ladder") == "pass"
    assert desk.ask(variant(base, tmp_path, 0), "ladder") == "fail", "as good as the best so far is not better by a step"


def test_a_randomised_verdict_is_turned_the_same_way_each_time(desk: Desk, base: Path, tmp_path: Path) -> None:
    desk.add("flips", meter="randomised", bits=30.0, flip=0.49, submissions=30)
    models = [variant(base, tmp_path, i) for i in range(10)]
    first = [desk.ask(m, "flips") for m in models]
    assert set(first) == {"pass", "fail"}, "all would pass unturned"
    assert [desk.ask(m, "flips") for m in models] == first


def test_sealed_items_that_changed_close_it(desk: Desk, base: Path, tmp_path: Path) -> None:
    path = sealed_file(tmp_path / "sealed.jsonl")
    desk.add("file", suite="mine.jsonl", sealed=str(path))
    kept = desk.folder / "sealed" / "file" / "sealed.jsonl"
    kept.write_text(kept.read_text().replace("trap 7?", "another?"))
    with pytest.raises(ClosedError, match="not those that were set up"):
        desk.ask(base, "file")
    with pytest.raises(ClosedError, match="not those that were set up"):
        desk.hand_in(base, "file", "other")


def test_terms_that_do_not_hold_together_are_refused() -> None:
    for changes, told in (
        ({"meter": "flat"}, "bits"),
        ({"bits": 3.0}, "bits"),
        ({"meter": "randomised", "bits": 3.0}, "flip"),
        ({"step": 0.1, "bars": {"privacy": 0.5, "facts": 0.5}}, "ladder"),
    ):
        with pytest.raises(ValueError, match=told):
            terms(**changes)
    assert Clock()() > 0
