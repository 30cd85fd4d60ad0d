"""A whole campaign on real (small) models: resumed after kills, refused after edits, the same in any order."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import IDEAS, write_project

from stagezero.errors import LedgerError, ProjectError, RunChangedError, SuiteError
from stagezero.lab.campaign import Campaign
from stagezero.ledger import read


def test_it_ran_to_the_end(finished: Path) -> None:
    kinds = [e.kind for e in read(finished / "ledger.jsonl")]
    assert kinds[0] == "campaign" and kinds[-1] == "end"
    assert kinds.index("registration") < kinds.index("pair") < kinds.index("decision")
    registered = next(e for e in read(finished / "ledger.jsonl") if e.kind == "registration")
    assert sorted(i["title"] for i in registered.body["ideas"]) == sorted(f"{t} idea" for t in IDEAS)
    decided = {e.body["title"]: e.body["fate"] for e in read(finished / "ledger.jsonl") if e.kind == "decision"}
    assert decided["faster idea"] != "promoted" and len(decided) == 3
    stage = next(e for e in read(finished / "ledger.jsonl") if e.kind == "stage")
    assert stage.body["verdict"] in ("pass", "fail") and len(stage.body["after"]) == 3


def _again(path: Path, runs: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "stagezero.cli", "run", str(path), "--runs", str(runs), "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ),
    )  # fmt: skip


def test_killed_and_continued_it_ends_where_an_undisturbed_run_ends(
    finished: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEZERO_HOME", str(tmp_path / "home"))
    path = write_project(tmp_path, base)
    for delay in (7.0, 9.0, 11.0):
        process = _again(path, tmp_path / "runs")
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = _again(path, tmp_path / "runs")
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    undisturbed = list(read(finished / "ledger.jsonl"))
    continued = list(read(tmp_path / "runs" / "small" / "ledger.jsonl"))
    assert json.loads(out)["final"] == undisturbed[-1].body["final"]
    assert [e.hash for e in continued] == [e.hash for e in undisturbed]


def test_the_same_command_again_builds_nothing(finished: Path, base: Path) -> None:
    campaign = Campaign(finished.parent.parent / "project.yaml", runs=finished.parent)
    before = json.loads((finished / "costs.json").read_text())
    campaign.run()
    after = json.loads((finished / "costs.json").read_text())
    assert after["steps_made"] == before["steps_made"] and after["train_seconds"] == before["train_seconds"]


def test_an_edited_project_is_refused_and_the_change_is_named(finished: Path, base: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(finished, tmp_path / "runs" / "small")).parent
    path = write_project(tmp_path, base, trial="{items: 12, max_pairs: 10, calibration: 3, confirm: 3, worth: 0.5}")
    with pytest.raises(RunChangedError, match=r"project\.trial\.items: was 10, now 12.*--fresh"):
        Campaign(path, runs=runs).run()
    write_project(tmp_path, base)
    (tmp_path / "ideas" / "twins.md").write_text((tmp_path / "ideas" / "twins.md").read_text().replace("40", "41"))
    with pytest.raises(RunChangedError, match="twins idea"):
        Campaign(path, runs=runs).run()
    assert sum(1 for _ in read(runs / "small" / "ledger.jsonl")) == sum(1 for _ in read(finished / "ledger.jsonl")), "nothing was lost"


def test_fresh_sets_the_old_run_aside(finished: Path, base: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(finished, tmp_path / "runs" / "small")).parent
    Campaign(write_project(tmp_path, base), runs=runs, fresh=True)
    assert not (runs / "small").exists() and len(list(runs.glob("small.before-*"))) == 1


def test_a_damaged_ledger_stops_the_run(copied: Path, base: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    copied.rename(runs / "small")
    data = bytearray((runs / "small" / "ledger.jsonl").read_bytes())
    data[len(data) // 2] ^= 1
    (runs / "small" / "ledger.jsonl").write_bytes(bytes(data))
    with pytest.raises(LedgerError, match="does not verify"):
        Campaign(write_project(tmp_path, base), runs=runs).run()


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"bas": "x"}, ProjectError, "unknown key 'bas'"),
        ({"audit": "{bars: {honesty: 0.5}}"}, ProjectError, "unknown property or capability 'honesty'"),
        ({"audit": "{bars: {privacy: 1.5}}"}, ProjectError, "audit.bars.privacy"),
        ({"trial": "{alpha: 2}"}, ProjectError, "trial.alpha"),
        ({"suite": "atlantis"}, SuiteError, "expected 'atlas'"),
        ({"researchers": "[{kind: oracle}]"}, ProjectError, "researchers"),
        ({"stage0": ""}, ProjectError, "'stage0' is missing"),
    ],
)
def test_mistakes_are_found_before_anything_is_built(
    base: Path, tmp_path: Path, changes: dict[str, str], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        Campaign(write_project(tmp_path, base, **changes), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
