"""kill -9 at random moments: a short run of the benchmark that does it a hundred times, with a real auditor, a real lab and real models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest_auditor import Desk

from stagezero.auditor.storage import Storage
from stagezero.ledger import read
from stagezero.ledger.chain import Ledger

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


def _kill(kills: int, base: Path, folder: Path) -> None:
    results = folder / "kills.json"
    options = ["--kills", str(kills), "--created", "0", "--seed", "1", "--base", str(base), "--json", str(results)]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(results.read_text())
    assert found["kills"] == kills and found["kills_of_auditor"] and found["kills_of_lab"]


def test_two_kills_leave_nothing_uncharged_charged_twice_or_lost(base: Path, tmp_path: Path) -> None:
    _kill(2, base, tmp_path)


@pytest.mark.slow
def test_eight_kills_leave_nothing_uncharged_charged_twice_or_lost(base: Path, tmp_path: Path) -> None:
    _kill(8, base, tmp_path)


def test_a_folder_that_was_hardly_begun_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "auditor.writing").write_text("{")
    (tmp_path / ".writing-0f0f").write_text("{")
    (tmp_path / "auditor.log").write_text("")
    with Storage.create(tmp_path, "second", 8.0) as storage:
        assert [e.kind for e in storage.ledger.entries] == ["auditor"]


def test_killed_before_its_first_entry_it_still_says_who_it_is(tmp_path: Path) -> None:
    Storage.create(tmp_path, "first", 8.0).close()
    for name in ("ledger.jsonl", "ledger.jsonl.tree", "meter.sqlite"):
        (tmp_path / name).unlink()
    with Storage(tmp_path) as storage:
        assert [e.body["key"] for e in storage.ledger.entries] == [storage.public_key.text()]


def test_what_the_disk_refuses_is_written_down_before_any_answer_leaves(desk: Desk, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meter has the charge, and the ledger cannot be written to: no answer until it can."""
    desk.add()

    def full(_: Ledger, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Ledger, "_append", full)
        with pytest.raises(OSError, match="No space"):
            desk.hand_in(base)
        receipt = desk.hand_in(base)  # it is charged, and known
        with pytest.raises(OSError, match="No space"):
            desk.hear(receipt)
    assert desk.hear(receipt) == "pass"
    assert [e.kind for e in read(desk.folder / "ledger.jsonl")][-2:] == ["charged", "answered"]
