"""An auditor's folder on disk: folders of format 1 open, and new ones have the same layout."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from stagezero.auditor.budget import BudgetMeter
from stagezero.auditor.storage import SETTINGS_FILE, Records, Storage
from stagezero.errors import DoorError
from stagezero.ledger import read

FORMAT_1 = Path(__file__).parents[1] / "fixtures" / "ledgers" / "1"
ANSWERS_BY_RUN = {"finished": 2, "half": 1}
"""Answers that each run's auditor gave; every one is a pass."""


@pytest.fixture(params=sorted(ANSWERS_BY_RUN))
def run(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def folder(run: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(FORMAT_1 / f"{run}-auditor", tmp_path / "auditor"))


@pytest.mark.parametrize("kind", [Records, Storage])
def test_a_folder_of_format_1_opens_with_the_counts_it_had(kind: type[Records], run: str, folder: Path) -> None:
    with kind(folder) as opened:
        (name,) = opened.served_suites()
        suite, answers, late = opened.suite(name), ANSWERS_BY_RUN[run], 2e9
        assert opened.meter.closed_reason is None and name.startswith(f"{run}-")
        assert [charge.verdict for charge in opened.meter.charges(name)] == ["pass"] * answers
        assert opened.meter.visible_counts(name, late) == (answers, answers)
        (pool,) = opened.meter.visible_pools(suite, late)
        assert (pool.replies, pool.passes, pool.pending, pool.allowance.submissions) == (answers, answers, 0, 4)
        assert suite.slot > 1 and opened.separation() == "colocated"
        assert opened.meter.ledger_at_last_charge[0] == 2 * answers + 1


def test_opening_a_folder_writes_no_ledger_entry(folder: Path) -> None:
    before = (folder / "ledger.jsonl").read_bytes()
    Storage(folder).close()
    assert (folder / "ledger.jsonl").read_bytes() == before


def test_a_lost_database_closes_the_auditor(folder: Path) -> None:
    for path in folder.glob("meter.sqlite*"):
        path.unlink()
    with Storage(folder) as opened:
        assert "restored from an earlier time" in str(opened.meter.closed_reason)


def test_a_new_database_has_the_layout_of_format_1(folder: Path, tmp_path: Path) -> None:
    BudgetMeter(tmp_path / "new.sqlite").close()

    def layout(path: Path) -> list[tuple[object, ...]]:
        db = sqlite3.connect(path)
        rows = [*db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name"), *db.execute("PRAGMA user_version")]
        db.close()
        return rows

    assert layout(tmp_path / "new.sqlite") == layout(folder / "meter.sqlite")


def test_a_new_folder_is_private_to_its_owner_and_cannot_be_created_twice(tmp_path: Path) -> None:
    with Storage.create(tmp_path / "auditor", "first", 8.0) as storage:
        assert storage.folder.stat().st_mode & 0o077 == 0
        assert [(storage.folder / name).stat().st_mode & 0o777 for name in ("key", "secret")] == [0o600, 0o600]
        key = storage.public_key
    with pytest.raises(DoorError, match="expected an empty folder"):
        Storage.create(tmp_path / "auditor")
    with Storage(tmp_path / "auditor") as reopened:
        assert reopened.public_key == key and reopened.settings.name == "first"
    assert [entry.kind for entry in read(tmp_path / "auditor" / "ledger.jsonl")] == ["auditor"]


@pytest.mark.parametrize("text", [None, "{", '{"name": "x"}'])
def test_a_folder_without_valid_settings_is_rejected(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(DoorError):
        Records(tmp_path)
