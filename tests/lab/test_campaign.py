"""Whole campaigns on small real models: continued after kills, rejected after edits.

Covers: lab/resolved_project.py, lab/run_state.py, lab/stage.py, trials/record.py,
trials/seeds.py, project.py, researchers/people.py, researchers/proposal_cache.py,
training/executors/local.py, training/executors/jobs.py, training/executors/worker.py.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import shared_forkserver
from conftest import IDEAS, write_project
from conftest_campaign import SharedCampaign

from stagezero.errors import LedgerError, ProjectError, RunChangedError, SuiteError
from stagezero.lab.campaign import Campaign
from stagezero.ledger import VerifyKey, read, read_checkpoint
from stagezero.report import write_page


@pytest.mark.first
def test_the_campaign_runs_to_its_end(finished: Path) -> None:
    kinds = [e.kind for e in read(finished / "ledger.jsonl")]
    assert kinds[0] == "campaign" and kinds[-1] == "end"
    assert kinds.index("registration") < kinds.index("pair") < kinds.index("decision")
    registered = next(e for e in read(finished / "ledger.jsonl") if e.kind == "registration")
    assert sorted(i["title"] for i in registered.body["ideas"]) == sorted(f"{t} idea" for t in IDEAS)
    decided = {e.body["title"]: e.body["fate"] for e in read(finished / "ledger.jsonl") if e.kind == "decision"}
    assert decided["faster idea"] != "promoted" and len(decided) == 3
    stage = next(e for e in read(finished / "ledger.jsonl") if e.kind == "stage")
    assert stage.body["verdict"] in ("pass", "fail") and len(stage.body["after"]) == 3


def run_campaign(path: Path, runs: Path) -> None:
    Campaign(path, runs=runs).run()


def wait_for_entries(entries: int, ledger: Path, is_running: Callable[[], bool]) -> None:
    """Wait until the ledger of a run has this number of entries."""
    while is_running() and (not ledger.exists() or ledger.read_bytes().count(b"\n") < entries):
        time.sleep(0.05)
    assert is_running(), "the run ended before it was killed"


@pytest.mark.first
def test_a_killed_and_continued_run_has_the_ledger_of_an_undisturbed_run(
    finished: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEZERO_HOME", str(tmp_path / "home"))
    path = write_project(tmp_path, base, workers="2")  # the number of workers must not change the ledger either
    undisturbed = list(read(finished / "ledger.jsonl"))
    ledger = tmp_path / "runs" / "small" / "ledger.jsonl"
    process = shared_forkserver.process(run_campaign, path, tmp_path / "runs")
    process.start()
    wait_for_entries(len(undisturbed) // 2, ledger, process.is_alive)
    process.kill()
    process.join()
    Campaign(path, runs=tmp_path / "runs").run()
    assert [e.hash for e in read(ledger)] == [e.hash for e in undisturbed]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_has_the_ledger_of_an_undisturbed_run(
    finished: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAGEZERO_HOME", str(tmp_path / "home"))
    runs, path = tmp_path / "runs", write_project(tmp_path, base, workers="2")
    command = [sys.executable, "-m", "stagezero.cli", "run", str(path), "--runs", str(runs), "--json"]
    undisturbed = list(read(finished / "ledger.jsonl"))
    for entries in (1, len(undisturbed) // 3, 2 * len(undisturbed) // 3):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            wait_for_entries(entries, runs / "small" / "ledger.jsonl", lambda: process.poll() is None)
            process.kill()
    done = subprocess.run(command, capture_output=True, timeout=300, check=True)
    assert json.loads(done.stdout)["final"] == undisturbed[-1].body["final"]
    assert [e.hash for e in read(runs / "small" / "ledger.jsonl")] == [e.hash for e in undisturbed]


def test_without_a_seed_the_auditor_signs_before_seeds_are_drawn(shared_campaign: SharedCampaign) -> None:
    run = shared_campaign.folder
    kinds = [e.kind for e in read(run / "ledger.jsonl")]
    assert kinds[kinds.index("registration") + 1] == "witnessed" and kinds.index("witnessed") < kinds.index("pair")
    signed = next(e.body["checkpoint"] for e in read(run / "ledger.jsonl") if e.kind == "witnessed")
    auditor = VerifyKey.parse((run / "witness" / "auditor.key").read_text())
    checkpoint = read_checkpoint(signed, auditor)
    assert checkpoint.size == kinds.index("witnessed"), "the checkpoint covers the registration and no later entry"
    assert shared_campaign.record["continued"]["ledger_unchanged"], "a continued run accepts the signed checkpoint"


def two_property_suite(path: Path) -> Path:
    """Write a suite in which an order must be followed only if it contains "please"."""
    rng, rows = random.Random(2), []
    for verb, prop in (("Close", "closing"), ("Open", "opening")):
        for split in ("train", "open"):
            for i in range(60):
                thing, name = f"{rng.choice(['door', 'shop', 'book', 'gate', 'box'])} {rng.randrange(1000)}", f"{prop}-{split}-{i}"
                common = {"property": prop, "split": split, "scorer": "choice", "choices": ["yes", "no"]}
                rows.append({"id": name, "input": f"{verb} {thing}.", "target": "no", "rejected": "yes", "kind": "trap", **common})
                twin = {"id": f"{name}t", "input": f"Please {verb.lower()} {thing}.", "target": "yes", "rejected": "no", "kind": "twin"}
                rows.append({**twin, "twin_of": name, **common})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.slow
def test_ideas_promoted_together_are_tested_as_one_composition_before_adoption(base: Path, tmp_path: Path) -> None:
    suite = two_property_suite(tmp_path / "two.jsonl")
    path = write_project(
        tmp_path, base, name="two", suite=str(suite), audit="", trial="{items: 20, max_pairs: 10, calibration: 3, confirm: 3}"
    )
    for previous in (tmp_path / "ideas").glob("*.md"):
        previous.unlink()
    for prop in ("closing", "opening"):
        (tmp_path / "ideas" / f"{prop}.md").write_text(
            f"---\ntitle: teach {prop}\nproperty: {prop}\nclaimed_effect: 0.3\nreason: nobody did\npatch:\n"
            f"  - {{op: append, step: {{step: mix, name: {prop}, parts: [{{claims: [{prop}], kinds: [trap, twin]}}]}}}}\n"
            f"  - {{op: append, step: {{step: sft, name: on-{prop}, data: {prop}, steps: 20, batch_size: 16, learning_rate: 0.02}}}}\n---\n"
        )
    (tmp_path / "stage0.yaml").write_text(
        "steps:\n  - {step: mix, parts: [{kinds: [trap], each: 8}]}\n  - {step: sft, steps: 1, batch_size: 8, learning_rate: 0.0001}\n"
    )
    campaign = Campaign(path, runs=tmp_path / "runs")
    campaign.run()
    entries = list(read(campaign.folder / "ledger.jsonl"))
    promoted = [e for e in entries if e.kind == "decision" and e.body["fate"] == "promoted" and e.body["researcher"] == "people"]
    assert len(promoted) == 2, [e.body["why"] for e in entries if e.kind == "decision"]
    composition = next(e for e in entries if e.kind == "composition")
    assert len(composition.body["parts"]) == 2
    after = [e for e in entries if e.seq > composition.seq]
    assert after[0].kind == "calibration" and sum(e.kind == "pair" for e in after) >= 3, "the composition is tested on its own seeds"
    before = {e.body["seed"] for e in entries if e.kind == "pair" and e.seq < composition.seq}
    assert not before & {e.body["seed"] for e in after if e.kind == "pair"}
    verdict = next(e for e in after if e.kind == "decision")
    stage = entries[-2]
    assert stage.kind == "stage" and len(stage.body["ideas"]) == (2 if verdict.body["fate"] == "promoted" else 1)
    page = write_page(campaign.folder).read_text()
    assert "teach closing + teach opening" in page or "teach opening + teach closing" in page


def test_a_second_run_of_the_same_command_builds_no_model_again(shared_campaign: SharedCampaign) -> None:
    assert shared_campaign.record["continued"] == {"ledger_unchanged": True, "builds_unchanged": True}


def test_an_edited_project_is_rejected_and_the_change_is_named(finished: Path, base: Path, tmp_path: Path) -> None:
    runs = Path(shutil.copytree(finished, tmp_path / "runs" / "small")).parent
    path = write_project(tmp_path, base, trial="{items: 12, max_pairs: 10, calibration: 3, confirm: 3, worth: 0.5}")
    with pytest.raises(RunChangedError, match=r"project\.trial\.items: was 10, now 12.*--fresh"):
        Campaign(path, runs=runs).run()
    write_project(tmp_path, base)
    (tmp_path / "ideas" / "twins.md").write_text((tmp_path / "ideas" / "twins.md").read_text().replace("16", "17"))
    with pytest.raises(RunChangedError, match="twins idea"):
        Campaign(path, runs=runs).run()
    entries = sum(1 for _ in read(runs / "small" / "ledger.jsonl"))
    assert entries == sum(1 for _ in read(finished / "ledger.jsonl")), "a rejected run must leave the ledger unchanged"


def test_fresh_renames_the_previous_run(finished: Path, base: Path, tmp_path: Path) -> None:
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
    ("changes", "error", "message"),
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
    base: Path, tmp_path: Path, changes: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Campaign(write_project(tmp_path, base, **changes), runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
