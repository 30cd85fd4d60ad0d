"""Lab and auditor check each other's ledgers by exchanging checkpoints.

The lab has a real ledger and the auditor is real; only the HTTP connection is left out.

Covers: door/messages.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import pytest
from conftest_auditor import AuditorHarness

from stagezero.door import CheckpointExchange, Door
from stagezero.door.messages import AuditorCheckpoint, LabCheckpoint
from stagezero.errors import ClosedError, WitnessError
from stagezero.ledger import Ledger, read_checkpoint


class DirectDoor:
    """A door without HTTP, which calls the auditor directly."""

    def __init__(self, harness: AuditorHarness) -> None:
        self.desk = harness

    def send_checkpoint(self, message: LabCheckpoint) -> str:
        return self.desk.auditor.countersign(message)

    def fetch_checkpoint(self, newest: str | None) -> AuditorCheckpoint:
        return self.desk.auditor.checkpoint(newest)


class Lab:
    """A run folder with a ledger."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.ledger = Ledger(folder / "ledger.jsonl")
        self.ledger.catch_up()

    def record(self, *texts: str) -> None:
        for text in texts:
            self.ledger.record("note", {"text": text})

    def exchange(self, harness: AuditorHarness) -> str:
        return CheckpointExchange(cast(Door, DirectDoor(harness)), self.ledger, self.folder).run()

    def conflicts(self, harness: AuditorHarness) -> list[str]:
        """Return the pairs of contradictory checkpoints that the auditor stored."""
        return [path.read_text() for path in sorted(harness.folder.glob("witness/*/*conflict*"))]

    def with_ledger_of(self, other: Path) -> Lab:
        """Replace the run's ledger with another, as an attacker would to retract entries."""
        self.ledger.close()
        for path in self.folder.glob("ledger*"):
            path.unlink()
        for path in other.glob("ledger*"):
            shutil.copyfile(path, self.folder / path.name)
        return Lab(self.folder)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "run")
    lab.record("one", "two")
    return lab


def test_the_first_exchange_accepts_the_other_sides_checkpoint(harness: AuditorHarness, lab: Lab) -> None:
    signed = lab.exchange(harness)
    key = CheckpointExchange(cast(Door, DirectDoor(harness)), lab.ledger, lab.folder).key.verify_key
    assert read_checkpoint(signed, key).size == 2
    assert read_checkpoint(signed, harness.auditor.storage.public_key).root == lab.ledger.root
    assert (lab.folder / "witness" / "auditor.key").read_text().strip() == harness.auditor.storage.public_key.text()


def test_later_exchanges_continue_from_the_last_checkpoint(harness: AuditorHarness, lab: Lab, base: Path) -> None:
    lab.exchange(harness)
    assert lab.exchange(harness), "an exchange without new entries"
    lab.record("three")
    harness.add_suite()
    harness.submit_and_wait(base)
    lab.exchange(harness)
    lab.ledger.close()
    reopened = Lab(lab.folder)
    reopened.record("four")
    signed = reopened.exchange(harness.reopen())
    assert (
        read_checkpoint(signed, CheckpointExchange(cast(Door, DirectDoor(harness)), reopened.ledger, reopened.folder).key.verify_key).size
        == 4
    )
    assert lab.conflicts(harness) == []


def test_a_lab_with_a_truncated_ledger_detects_it_itself(harness: AuditorHarness, lab: Lab, tmp_path: Path) -> None:
    earlier = Lab(tmp_path / "earlier")
    shutil.copyfile(lab.folder / "ledger.jsonl", earlier.folder / "copy")
    lab.record("three")
    lab.exchange(harness)
    (earlier.folder / "copy").rename(earlier.folder / "ledger.jsonl")
    short = lab.with_ledger_of(earlier.folder)
    with pytest.raises(WitnessError, match="countersigned 3 entries and 2 are there"):
        short.exchange(harness)


def test_the_auditor_detects_a_lab_that_rolled_back_its_ledger(harness: AuditorHarness, lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.folder, tmp_path / "earlier")
    lab.record("three")
    lab.exchange(harness)
    rolled_back = lab.with_ledger_of(tmp_path / "earlier")
    (lab.folder / "witness" / "own.checkpoint").unlink()
    with pytest.raises(WitnessError, match="rollback: expected at least 3 entries, got 2"):
        rolled_back.exchange(harness)
    assert ["rollback" in text for text in lab.conflicts(harness)] == [True], "the auditor must store both checkpoints"


@pytest.mark.parametrize("extra", [(), ("another four",)])
def test_the_auditor_detects_a_lab_that_forked_its_ledger(
    harness: AuditorHarness, lab: Lab, tmp_path: Path, extra: tuple[str, ...]
) -> None:
    lab.record("three")
    lab.exchange(harness)
    other = Lab(tmp_path / "other")
    other.record("one", "two", "another three", *extra)
    other.ledger.close()
    forked = lab.with_ledger_of(other.folder)
    with pytest.raises(WitnessError, match="split view"):
        forked.exchange(harness)
    assert len(lab.conflicts(harness)) == 1


def test_an_auditor_that_was_rolled_back_closes_when_the_lab_sends_a_newer_checkpoint(
    harness: AuditorHarness, lab: Lab, base: Path, tmp_path: Path
) -> None:
    harness.add_suite()
    harness.auditor.close()
    shutil.copytree(harness.folder, tmp_path / "backup")
    reopened = AuditorHarness(harness.folder, harness.clock)
    reopened.submit_and_wait(base)
    lab.exchange(reopened)
    reopened.auditor.close()
    rolled_back = AuditorHarness(tmp_path / "backup", harness.clock)
    lab.record("three")
    with pytest.raises(WitnessError, match="its ledger does not continue it"):
        lab.exchange(rolled_back)
    with pytest.raises(ClosedError):
        rolled_back.submit(base)
    rolled_back.auditor.close()


def test_the_lab_detects_an_auditor_that_answers_with_an_older_checkpoint(harness: AuditorHarness, lab: Lab, base: Path) -> None:
    """A dishonest auditor may hide entries; its checkpoint then does not extend the last one."""
    before = harness.auditor.checkpoint(None)
    harness.add_suite()
    harness.submit_and_wait(base)
    lab.exchange(harness)

    class StaleDoor(DirectDoor):
        def fetch_checkpoint(self, newest: str | None) -> AuditorCheckpoint:
            return before

    lab.record("three")
    with pytest.raises(WitnessError, match="rollback"):
        CheckpointExchange(cast(Door, StaleDoor(harness)), lab.ledger, lab.folder).run()
    assert len(list((lab.folder / "witness").glob("*conflict*"))) == 1


def test_the_lab_rejects_an_auditor_with_another_key(harness: AuditorHarness, lab: Lab, tmp_path: Path) -> None:
    lab.exchange(harness)
    other = AuditorHarness(tmp_path / "other", harness.clock)
    lab.record("three")
    with pytest.raises(WitnessError, match="signature of"):
        lab.exchange(other)
    for path in lab.folder.glob("witness/*checkpoint*"):
        path.unlink()
    with pytest.raises(WitnessError, match="not the one from the start"):
        lab.exchange(other)
    other.auditor.close()


def test_the_lab_rejects_a_countersignature_with_another_key(harness: AuditorHarness, lab: Lab, tmp_path: Path) -> None:
    other = AuditorHarness(tmp_path / "other", harness.clock)

    class MisdirectedDoor(DirectDoor):
        def send_checkpoint(self, message: LabCheckpoint) -> str:
            return other.auditor.countersign(message)

    with pytest.raises(WitnessError, match="expected a signature of"):
        CheckpointExchange(cast(Door, MisdirectedDoor(harness)), lab.ledger, lab.folder).run()
    other.auditor.close()


def test_two_runs_of_one_name_are_two_ledgers(harness: AuditorHarness, tmp_path: Path) -> None:
    first, second = Lab(tmp_path / "first"), Lab(tmp_path / "second")
    first.record("one", "two")
    second.record("other one")
    first.exchange(harness)
    second.exchange(harness)
    assert first.conflicts(harness) == []
