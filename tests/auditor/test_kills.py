"""kill -9 at random moments, with a real auditor, a real lab and real models.

These are short runs of ``benchmarks/kills.py``, which kills a hundred times.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest_auditor import AuditorHarness

from stagezero.auditor.storage import Storage
from stagezero.ledger import read
from stagezero.ledger.chain import Ledger

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kills.py"


def run_kill_benchmark(kills: int, base: Path, folder: Path) -> None:
    path = folder / "kills.json"
    options = ["--kills", str(kills), "--created", "0", "--seed", "1", "--base", str(base), "--json", str(path)]
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads(path.read_text())
    assert results["kills"] == kills and results["kills_of_auditor"] and results["kills_of_lab"]


@pytest.mark.slow
def test_eight_kills_lose_no_charge_and_duplicate_none(base: Path, tmp_path: Path) -> None:
    run_kill_benchmark(8, base, tmp_path)


def test_an_auditor_can_be_created_in_a_folder_whose_creation_was_interrupted(tmp_path: Path) -> None:
    (tmp_path / "auditor.writing").write_text("{")
    (tmp_path / ".writing-0f0f").write_text("{")
    (tmp_path / "auditor.log").write_text("")
    with Storage.create(tmp_path, "second", 8.0) as storage:
        assert [e.kind for e in storage.ledger.entries] == ["auditor"]


def test_killed_before_its_first_entry_an_auditor_records_the_same_key(tmp_path: Path) -> None:
    Storage.create(tmp_path, "first", 8.0).close()
    for name in ("ledger.jsonl", "ledger.jsonl.tree", "meter.sqlite"):
        (tmp_path / name).unlink()
    with Storage(tmp_path) as storage:
        assert [e.body["key"] for e in storage.ledger.entries] == [storage.public_key.text()]


def test_no_answer_is_released_before_the_ledger_entry_is_written(
    harness: AuditorHarness, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database has the charge and the disk is full: no answer until the entry exists."""
    harness.add_suite()

    def raise_disk_full(_: Ledger, line: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "_append", raise_disk_full)
        with pytest.raises(OSError, match="No space"):
            harness.submit(base)
        receipt = harness.submit(base)  # already charged, so the charge is found
        with pytest.raises(OSError, match="No space"):
            harness.wait_for_verdict(receipt)
    assert harness.wait_for_verdict(receipt) == "pass"
    assert [e.kind for e in read(harness.folder / "ledger.jsonl")][-2:] == ["charged", "answered"]
