"""Each wing holds the other to what it has shown: a lab with a real ledger, a real auditor, and a door between them.

Covers: door/messages.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import pytest
from conftest_auditor import Desk

from stagezero.door import CheckpointExchange, Door
from stagezero.door.messages import AuditorCheckpoint, LabCheckpoint
from stagezero.errors import ClosedError, WitnessError
from stagezero.ledger import Ledger, read_checkpoint


class Straight:
    """A door without the wire: the auditor's own answers."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

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

    def write(self, *texts: str) -> None:
        for text in texts:
            self.ledger.record("note", {"text": text})

    def exchange(self, desk: Desk) -> str:
        return CheckpointExchange(cast(Door, Straight(desk)), self.ledger, self.folder).run()

    def conflicts(self, desk: Desk) -> list[str]:
        """What the auditor keeps of two notes that cannot both be true."""
        return [path.read_text() for path in sorted(desk.folder.glob("witness/*/*conflict*"))]

    def with_ledger_of(self, other: Path) -> Lab:
        """The same run with another ledger in it, as somebody would do who wants to take back what was shown."""
        self.ledger.close()
        for path in self.folder.glob("ledger*"):
            path.unlink()
        for path in other.glob("ledger*"):
            shutil.copyfile(path, self.folder / path.name)
        return Lab(self.folder)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path / "run")
    made.write("one", "two")
    return made


def test_the_first_time_each_takes_what_the_other_shows(desk: Desk, lab: Lab) -> None:
    signed = lab.exchange(desk)
    key = CheckpointExchange(cast(Door, Straight(desk)), lab.ledger, lab.folder).key.verify_key
    assert read_checkpoint(signed, key).size == 2
    assert read_checkpoint(signed, desk.auditor.storage.public_key).root == lab.ledger.root
    assert (lab.folder / "witness" / "auditor.key").read_text().strip() == desk.auditor.storage.public_key.text()


def test_it_goes_on_from_what_was_shown(desk: Desk, lab: Lab, base: Path) -> None:
    lab.exchange(desk)
    assert lab.exchange(desk), "the same again"
    lab.write("three")
    desk.add()
    desk.ask(base)
    lab.exchange(desk)
    lab.ledger.close()
    again = Lab(lab.folder)
    again.write("four")
    signed = again.exchange(desk.again())
    assert read_checkpoint(signed, CheckpointExchange(cast(Door, Straight(desk)), again.ledger, again.folder).key.verify_key).size == 4
    assert lab.conflicts(desk) == []


def test_a_lab_that_cuts_its_ledger_short_notices_itself(desk: Desk, lab: Lab, tmp_path: Path) -> None:
    earlier = Lab(tmp_path / "earlier")
    shutil.copyfile(lab.folder / "ledger.jsonl", earlier.folder / "copy")
    lab.write("three")
    lab.exchange(desk)
    (earlier.folder / "copy").rename(earlier.folder / "ledger.jsonl")
    short = lab.with_ledger_of(earlier.folder)
    with pytest.raises(WitnessError, match="countersigned 3 entries and 2 are there"):
        short.exchange(desk)


def test_a_lab_that_forgets_what_it_has_shown_is_found_out(desk: Desk, lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.folder, tmp_path / "earlier")
    lab.write("three")
    lab.exchange(desk)
    back = lab.with_ledger_of(tmp_path / "earlier")
    (lab.folder / "witness" / "own.checkpoint").unlink()
    with pytest.raises(WitnessError, match="rollback: expected at least 3 entries, got 2"):
        back.exchange(desk)
    assert ["rollback" in text for text in lab.conflicts(desk)] == [True], "both notes are kept"


@pytest.mark.parametrize("more", [(), ("another four",)])
def test_a_lab_that_shows_another_past_is_found_out(desk: Desk, lab: Lab, tmp_path: Path, more: tuple[str, ...]) -> None:
    lab.write("three")
    lab.exchange(desk)
    other = Lab(tmp_path / "other")
    other.write("one", "two", "another three", *more)
    other.ledger.close()
    forked = lab.with_ledger_of(other.folder)
    with pytest.raises(WitnessError, match="split view"):
        forked.exchange(desk)
    assert len(lab.conflicts(desk)) == 1


def test_an_auditor_that_goes_back_closes_when_the_lab_shows_what_it_holds(desk: Desk, lab: Lab, base: Path, tmp_path: Path) -> None:
    desk.add()
    desk.auditor.close()
    shutil.copytree(desk.folder, tmp_path / "backup")
    later = Desk(desk.folder, desk.clock)
    later.ask(base)
    lab.exchange(later)
    later.auditor.close()
    back = Desk(tmp_path / "backup", desk.clock)
    lab.write("three")
    with pytest.raises(WitnessError, match="its ledger does not continue it"):
        lab.exchange(back)
    with pytest.raises(ClosedError):
        back.hand_in(base)
    back.auditor.close()


def test_an_auditor_that_hides_it_is_found_out_by_the_lab(desk: Desk, lab: Lab, base: Path) -> None:
    """A dishonest auditor answers with an older checkpoint of its own, or with one that does not follow."""
    before = desk.auditor.checkpoint(None)
    desk.add()
    desk.ask(base)
    lab.exchange(desk)

    class Hiding(Straight):
        def fetch_checkpoint(self, newest: str | None) -> AuditorCheckpoint:
            return before

    lab.write("three")
    with pytest.raises(WitnessError, match="rollback"):
        CheckpointExchange(cast(Door, Hiding(desk)), lab.ledger, lab.folder).run()
    assert len(list((lab.folder / "witness").glob("*conflict*"))) == 1


def test_an_auditor_with_another_key_is_another_auditor(desk: Desk, lab: Lab, tmp_path: Path) -> None:
    lab.exchange(desk)
    other = Desk(tmp_path / "other", desk.clock)
    lab.write("three")
    with pytest.raises(WitnessError, match="signature of"):
        lab.exchange(other)
    for path in lab.folder.glob("witness/*checkpoint*"):
        path.unlink()
    with pytest.raises(WitnessError, match="not the one from the start"):
        lab.exchange(other)
    other.auditor.close()


def test_a_countersignature_of_somebody_else_is_none(desk: Desk, lab: Lab, tmp_path: Path) -> None:
    other = Desk(tmp_path / "other", desk.clock)

    class Elsewhere(Straight):
        def send_checkpoint(self, message: LabCheckpoint) -> str:
            return other.auditor.countersign(message)

    with pytest.raises(WitnessError, match="expected a signature of"):
        CheckpointExchange(cast(Door, Elsewhere(desk)), lab.ledger, lab.folder).run()
    other.auditor.close()


def test_two_runs_of_one_name_are_two_ledgers(desk: Desk, tmp_path: Path) -> None:
    first, second = Lab(tmp_path / "first"), Lab(tmp_path / "second")
    first.write("one", "two")
    second.write("other one")
    first.exchange(desk)
    second.exchange(desk)
    assert first.conflicts(desk) == []
