"""The model that a run adopted is copied and verified."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from conftest import stagezero

from stagezero.errors import InputError
from stagezero.lab.export import export_model
from stagezero.ledger.lineage import read_record
from stagezero.models import Model, checkpoint_digest, home


def test_the_adopted_model_is_exported(finished: Path, tmp_path: Path) -> None:
    record = read_record(finished / "ledger.jsonl")
    number, digest = export_model(finished, tmp_path / "deep" / "model")
    assert digest == record.stages[number]["model"] == checkpoint_digest(tmp_path / "deep" / "model")
    assert record.stages[number]["adopted"] and number == max(n for n, body in record.stages.items() if body["adopted"])
    assert len(Model(tmp_path / "deep" / "model").answer(["Hi?"])) == 1
    printed = stagezero("export", finished, "--model", tmp_path / "again", "--stage", "0")
    assert printed.returncode == 0 and "model of stage 0: " in printed.stdout


def test_what_cannot_be_exported_is_explained(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="exists already; name a new folder"):
        export_model(finished, tmp_path)
    with pytest.raises(InputError, match="--stage 9: the ledger has 0"):
        export_model(finished, tmp_path / "new", 9)
    moved = Path(shutil.copytree(finished, tmp_path / "moved"))
    monkeypatch.setenv("STAGEZERO_HOME", str(tmp_path / "empty"))
    with pytest.raises(InputError, match=r"is not in the store .*; make it again with: stagezero rebuild"):
        export_model(moved, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_rebuilt_model_is_exported(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = read_record(finished / "ledger.jsonl")
    shutil.copytree(home() / "store", tmp_path / "rebuilds" / record.name / "first")
    monkeypatch.setenv("STAGEZERO_HOME", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    number, digest = export_model(finished, tmp_path / "model")
    assert checkpoint_digest(tmp_path / "model") == digest == record.stages[number]["model"]


def test_a_copy_that_fails_leaves_nothing(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(source))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left") as refusal:
        patch.setattr(shutil, "copyfile", full)
        export_model(finished, tmp_path / "new")
    assert refusal.value.filename == str(tmp_path / "new") and list(tmp_path.iterdir()) == []


def test_a_folder_of_the_users_own_is_not_touched(finished: Path, tmp_path: Path) -> None:
    (tmp_path / ".making-new").mkdir()
    (tmp_path / ".making-new" / "data").write_text("precious")
    export_model(finished, tmp_path / "new")
    assert (tmp_path / ".making-new" / "data").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == [".making-new", "new"]
    assert (tmp_path / "new").stat().st_mode & 0o077, "others may read it, as other folders of the user"
