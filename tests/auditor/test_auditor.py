"""An auditor charges before it reads, answers when the answer is due, and enforces its budget."""

from __future__ import annotations

import json
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest_auditor import EASY_BARS, UNREACHABLE_BARS, AuditorHarness, Clock, sealed_file, terms, variant
from safetensors.torch import load_file, save_file

from stagezero.door import Receipt, Submission
from stagezero.errors import BudgetSpentError, ClosedError, DoorError, ModelError, WaitError, WitnessError
from stagezero.ledger import read, verify
from stagezero.models import checkpoint_digest


def test_the_same_model_is_charged_once_and_answered_the_same(harness: AuditorHarness, base: Path) -> None:
    harness.add_suite()
    first = harness.submit(base)
    second = harness.submit(base)
    assert second == first
    assert harness.wait_for_verdict(first) == harness.submit_and_wait(base) == "pass"
    assert harness.submit_and_wait(base, account="other") == "pass", "every account with the same model receives the same verdict"
    status = harness.auditor.status("suite")
    assert (status.submissions_used, status.passes_given) == (1, 1)
    assert [e.kind for e in read(harness.folder / "ledger.jsonl")] == ["auditor", "opened", "suite", "charged", "answered"]


def test_a_verdict_is_released_when_it_is_due_and_not_before(harness: AuditorHarness, base: Path) -> None:
    harness.add_suite()
    receipt = harness.submit(base)
    assert receipt.due == harness.clock.now + 8.0
    harness.wait_for_audits()
    assert harness.auditor.reply(receipt.submission, "lab") == receipt, "the verdict exists but is not due"
    before = harness.auditor.status("suite")
    assert (before.pending, before.passes_given, before.bits_used) == (1, 0, 0.0)
    harness.clock.now = receipt.due - 0.001
    assert isinstance(harness.auditor.reply(receipt.submission, "lab"), Receipt)
    assert harness.wait_for_verdict(receipt) == "pass"


def test_a_refusal_does_not_depend_on_a_verdict_that_is_not_due(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    """One pass is allowed. The refusal of the next model must not show whether the first passed."""
    harness.add_suite("easy", bars=EASY_BARS, passes=1)
    harness.add_suite("hard", bars=UNREACHABLE_BARS, passes=1)
    refusals: list[tuple[str, float]] = []
    for suite in ("easy", "hard"):
        harness.submit(base, suite)
        for audited in (False, True):
            if audited:
                harness.wait_for_audits()
            with pytest.raises(WaitError) as refusal:
                harness.submit(variant(base, tmp_path, len(refusals)), suite)
            refusals.append((str(refusal.value), refusal.value.until - harness.clock.now))
    assert refusals[0] == refusals[1] and refusals[2] == refusals[3] and refusals[0][0] == refusals[2][0]


def test_a_digest_without_the_model_gets_no_verdict(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite()
    receipt = harness.submit(base)
    with pytest.raises(DoorError, match="this account has made"):
        harness.auditor.reply(receipt.submission, "other")
    with pytest.raises(ModelError):
        harness.auditor.submit(Submission(suite="suite", digest=checkpoint_digest(base), folder=str(tmp_path)), "other")


def test_a_spent_budget_refuses_new_models_but_repeats_old_verdicts(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite(bars=UNREACHABLE_BARS)
    models = [variant(base, tmp_path, i) for i in range(4)]
    assert [harness.submit_and_wait(m) for m in models[:3]] == ["fail"] * 3
    with pytest.raises(BudgetSpentError, match="3 of 3 submissions"):
        harness.submit(models[3])
    assert harness.submit_and_wait(models[0]) == "fail", "a verdict already given may be requested again"


def test_the_number_of_passes_is_limited_too(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite(passes=1)
    assert harness.submit_and_wait(base) == "pass"
    with pytest.raises(BudgetSpentError, match="1 of 1 passes"):
        harness.submit(variant(base, tmp_path, 0))


def test_a_wrong_digest_is_refused_without_charge(harness: AuditorHarness, base: Path) -> None:
    harness.add_suite()
    with pytest.raises(ModelError, match="not the one its digest names"):
        harness.auditor.submit(Submission(suite="suite", digest="0" * 64, folder=str(base)), "lab")
    assert harness.auditor.status("suite").submissions_used == 0
    assert list((harness.folder / "intake").iterdir()) == []


def test_an_audit_that_crashes_is_charged_and_fails(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    broken = variant(base, tmp_path, 0)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 10}))
    harness.add_suite()
    assert harness.submit_and_wait(broken) == "fail"
    assert harness.auditor.status("suite").submissions_used == 1


def test_a_charge_without_an_answer_survives_a_restart_and_is_answered(harness: AuditorHarness, base: Path) -> None:
    suite = harness.auditor.storage.suite(harness.add_suite())
    harness.auditor.intake.admit(checkpoint_digest(base), base, "lab")
    # The charge exists in the database only; the ledger has no entry for it.
    harness.auditor.meter.charge(suite, checkpoint_digest(base), "lab", harness.clock.now)
    reopened = harness.reopen()
    assert [e.kind for e in read(reopened.folder / "ledger.jsonl")][:4] == ["auditor", "opened", "suite", "charged"]
    reopened.clock.now += 100.0
    receipt = reopened.submit(base)
    assert reopened.wait_for_verdict(receipt) == "pass"
    assert reopened.auditor.status("suite").submissions_used == 1
    reopened.auditor.close()


def test_after_a_restart_unanswered_submissions_get_a_new_due_time(harness: AuditorHarness, base: Path) -> None:
    suite = harness.auditor.storage.suite(harness.add_suite())
    harness.auditor.intake.admit(checkpoint_digest(base), base, "lab")
    # A charge for which no audit is started.
    first, _ = harness.auditor.meter.charge(suite, checkpoint_digest(base), "lab", harness.clock.now)
    harness.clock.now += 1000.0
    reopened = harness.reopen()
    later = reopened.submit(base)
    assert first.due < harness.clock.now and later.due == harness.clock.now + 8.0
    assert reopened.wait_for_verdict(later) == "pass"
    reopened.auditor.close()


def test_a_clock_that_was_set_back_closes_the_auditor(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite()
    receipt = harness.submit(base)
    harness.wait_for_verdict(receipt)
    harness.clock.now -= 100.0
    with pytest.raises(ClosedError, match="clock was set back"):
        harness.submit(variant(base, tmp_path, 0))
    with pytest.raises(ClosedError, match="clock was set back"):
        harness.auditor.reply(receipt.submission, "lab")
    harness.clock.now += 100.0
    assert harness.submit_and_wait(base) == "pass"


def test_a_restored_database_closes_the_auditor_permanently(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite()
    earlier = tmp_path / "earlier.sqlite"
    db = sqlite3.connect(harness.folder / "meter.sqlite")
    db.execute(f"VACUUM INTO '{earlier}'")
    db.close()
    harness.submit_and_wait(base)
    harness.auditor.close()
    for name in ("meter.sqlite-wal", "meter.sqlite-shm"):
        (harness.folder / name).unlink(missing_ok=True)
    shutil.copyfile(earlier, harness.folder / "meter.sqlite")
    reopened = AuditorHarness(harness.folder, harness.clock)
    with pytest.raises(ClosedError, match="restored from an earlier time"):
        reopened.submit(variant(base, tmp_path, 0))
    third = reopened.reopen()
    with pytest.raises(ClosedError, match="restored from an earlier time"):
        third.submit(variant(base, tmp_path, 1))
    third.auditor.close()


def test_a_restored_ledger_closes_the_auditor(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite()
    harness.submit_and_wait(base)
    lines = (harness.folder / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    harness.submit_and_wait(variant(base, tmp_path, 0))
    harness.auditor.close()
    (harness.folder / "ledger.jsonl").write_bytes(b"".join(lines[:-1]))
    reopened = AuditorHarness(harness.folder, harness.clock)
    with pytest.raises(ClosedError, match="ledger was restored"):
        reopened.submit(variant(base, tmp_path, 1))
    reopened.auditor.close()


@pytest.mark.parametrize(
    "change",
    ["UPDATE pools SET replies = 0", "UPDATE pools SET passes = 0", "DELETE FROM submissions", "UPDATE submissions SET word = 'fail'"],
)
def test_a_changed_database_closes_the_auditor(harness: AuditorHarness, base: Path, tmp_path: Path, change: str) -> None:
    harness.add_suite()
    harness.submit_and_wait(base)
    harness.auditor.close()
    db = sqlite3.connect(harness.folder / "meter.sqlite")
    db.execute(change)
    db.commit()
    db.close()
    reopened = AuditorHarness(harness.folder, harness.clock)
    with pytest.raises(ClosedError):
        reopened.submit(variant(base, tmp_path, 0))
    reopened.auditor.close()


def test_a_newer_checkpoint_reveals_that_database_and_ledger_were_rolled_back(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite()
    harness.auditor.close()
    shutil.copytree(harness.folder, tmp_path / "earlier")
    reopened = AuditorHarness(harness.folder, harness.clock)
    reopened.submit_and_wait(base)
    checkpoint = reopened.auditor.checkpoint(None).checkpoint
    reopened.auditor.close()
    rolled_back = AuditorHarness(tmp_path / "earlier", harness.clock)
    with pytest.raises(WitnessError, match="does not continue it"):
        rolled_back.auditor.checkpoint(checkpoint)
    with pytest.raises(ClosedError, match="rolled back"):
        rolled_back.submit(base)
    rolled_back.auditor.close()


def test_the_ledger_of_an_auditor_verifies(harness: AuditorHarness, base: Path) -> None:
    harness.add_suite()
    harness.submit_and_wait(base)
    assert verify(harness.folder / "ledger.jsonl", deep=True) == 5


def test_a_ladder_passes_a_model_once_per_step(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite("ladder", step=0.3, passes=3, submissions=6)
    assert harness.submit_and_wait(base, "ladder") == "pass"
    assert harness.submit_and_wait(variant(base, tmp_path, 0), "ladder") == "fail", "equal to the best model is not one step better"


def test_a_randomised_verdict_is_flipped_the_same_way_each_time(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    harness.add_suite("flips", meter="randomised", bits=30.0, flip=0.49, submissions=30)
    models = [variant(base, tmp_path, i) for i in range(10)]
    first = [harness.submit_and_wait(m, "flips") for m in models]
    assert set(first) == {"pass", "fail"}, "without flips every verdict would be pass"
    assert [harness.submit_and_wait(m, "flips") for m in models] == first


def test_changed_sealed_items_close_the_auditor(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    path = sealed_file(tmp_path / "sealed.jsonl")
    harness.add_suite("file", suite="mine.jsonl", sealed=str(path))
    sealed_copy = harness.folder / "sealed" / "file" / "sealed.jsonl"
    sealed_copy.write_text(sealed_copy.read_text().replace("trap 7?", "another?"))
    with pytest.raises(ClosedError, match="not those that were set up"):
        harness.submit_and_wait(base, "file")
    with pytest.raises(ClosedError, match="not those that were set up"):
        harness.submit(base, "file", "other")


def test_inconsistent_terms_are_rejected() -> None:
    for changes, message in (
        ({"meter": "flat"}, "bits"),
        ({"bits": 3.0}, "bits"),
        ({"meter": "randomised", "bits": 3.0}, "flip"),
        ({"step": 0.1, "bars": {"privacy": 0.5, "facts": 0.5}}, "ladder"),
    ):
        with pytest.raises(ValueError, match=message):
            terms(**changes)
    assert Clock()() > 0


@pytest.mark.parametrize("ends", [1, 2])
def test_an_examination_that_is_killed_once_is_repeated(
    ends: int, harness: AuditorHarness, base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The machine may have killed it. After the second time, the model counts as the cause."""
    real, attempts = harness.auditor.examiner._exchange, []

    def killed(*arguments: Any) -> list[str]:
        attempts.append(1)
        if len(attempts) <= ends:
            process = harness.auditor.examiner._process
            assert process is not None
            process.kill()
        return real(*arguments)

    monkeypatch.setattr(harness.auditor.examiner, "_exchange", killed)
    harness.add_suite()
    assert harness.submit_and_wait(base) == ("pass" if ends == 1 else "fail")
    assert len(attempts) == 2 and "submission 1 is examined again" in caplog.text
    assert harness.auditor.status("suite").submissions_used == 1


def test_a_model_that_cannot_be_loaded_is_examined_once(
    harness: AuditorHarness, base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A second examination would end in the same way, and could miss the end of the slot."""
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "lora_A": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    harness.add_suite()
    assert harness.submit_and_wait(folder) == "fail"
    assert "submission 1: the model cannot be loaded or run" in caplog.text and "examined again" not in caplog.text


def test_a_damaged_copy_is_no_verdict(harness: AuditorHarness, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The auditor's own disk is at fault. The lab's run submits again, and the copy is mended."""
    monkeypatch.setattr("stagezero.auditor.auditor._RETRY_SECONDS", 0.05)
    harness.add_suite()
    examining = threading.Event()
    real = harness.auditor._examine

    def wait(*arguments: Any) -> Any:
        examining.wait(60)
        return real(*arguments)

    monkeypatch.setattr(harness.auditor, "_examine", wait)
    receipt = harness.submit(base)
    weights = harness.auditor.intake.copy_path(checkpoint_digest(base)) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1
    weights.write_bytes(bytes(data))
    examining.set()
    time.sleep(0.5)
    assert harness.auditor.meter.unanswered(), "no verdict yet"
    assert harness.submit(base) == receipt
    assert harness.wait_for_verdict(receipt) == "pass"


def test_a_copy_that_is_removed_while_it_is_hashed_is_no_error(
    harness: AuditorHarness, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many clients may ask for one model while its examination ends and removes the copy."""
    harness.add_suite()
    receipt = harness.submit(base)

    def vanished(folder: Path) -> str:
        raise FileNotFoundError(2, "No such file or directory", str(folder / "config.json"))

    with monkeypatch.context() as context:
        context.setattr("stagezero.auditor.intake.checkpoint_digest", vanished)
        assert not harness.auditor.intake.has_copy(checkpoint_digest(base)), "missing, and no error"
    assert harness.submit(base) == receipt
    assert harness.wait_for_verdict(receipt) == "pass"
    assert harness.submit(base) == receipt and not list(harness.auditor.intake.folder.iterdir()), "nothing is left of it"


@pytest.mark.parametrize("paused", [False, True])
def test_a_slow_model_fails_at_once_and_a_paused_examination_is_repeated(
    paused: bool, harness: AuditorHarness, base: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("stagezero.auditor.auditor.EXAMINATION_SLOT_FRACTION", 1e-9)  # no time at all
    monkeypatch.setattr("stagezero.auditor.examiner._cpu_seconds", lambda _: 0.0 if paused else 1.0)
    harness.add_suite()
    assert harness.submit_and_wait(base) == "fail"
    assert ("examined again: the examination took too long" in caplog.text) == paused
