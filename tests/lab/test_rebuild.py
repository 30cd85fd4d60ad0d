"""A stage is rebuilt from its ledger: bit for bit, or the differences are reported.

Covers: cli/rebuild.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import stagezero, write_project

from stagezero.errors import InputError
from stagezero.lab.rebuild import RebuildInputs, rebuild
from stagezero.ledger import Ledger, read
from stagezero.models.network import bfloat16_unit
from stagezero.training.executors import LocalPool


def write_changed_ledger(ledger: Path, folder: Path, change: Any) -> Path:
    """Copy a ledger with some entries changed; the hash chain of the copy is valid."""
    folder.mkdir(parents=True)
    copy = Ledger(folder / "ledger.jsonl")
    for entry in read(ledger):
        body = json.loads(json.dumps(entry.body))
        change(entry.kind, body)
        copy.record(entry.kind, body)
    copy.close()
    return folder


@pytest.fixture(scope="module")
def pool(home: Path) -> Iterator[LocalPool]:
    with LocalPool(2) as pool:
        yield pool


@pytest.fixture(scope="module")
def output_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rebuilds")


def test_a_rebuild_is_identical_and_the_second_trainer_agrees(
    finished: Path, output_folder: Path, pool: LocalPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stagezero.lab.rebuild.TRAINER_SEEDS", 4)
    report = rebuild(finished, 0, output_folder, second=True, pool=pool)
    assert report.sound and [finding.detail for finding in report.findings][:3] == [
        "as in the ledger",
        "as in the ledger",
        "identical, bit for bit",
    ]
    assert len(report.distances) == 4 and max(report.distances) < 1e-3 and "rounding" in report.findings[-1].detail


def test_every_changed_input_is_reported(finished: Path, output_folder: Path, pool: LocalPool, base: Path, tmp_path: Path) -> None:
    ledger = finished / "ledger.jsonl"

    def faster(kind: str, body: dict[str, Any]) -> None:
        if kind == "stage" and body["stage"] == 0:
            body["recipe"]["steps"][1]["learning_rate"] *= 1.01

    assert (
        "the ledger records"
        in rebuild(write_changed_ledger(ledger, tmp_path / "recipe", faster), 0, output_folder, pool=pool).findings[-1].detail
    )

    def other_data(kind: str, body: dict[str, Any]) -> None:
        if kind == "campaign":
            body["suite"] = "0" * 64

    report = rebuild(write_changed_ledger(ledger, tmp_path / "data", other_data), 0, output_folder, pool=pool)
    assert not report.sound and report.findings[0].subject == "training data"

    def other_base(kind: str, body: dict[str, Any]) -> None:
        if kind == "campaign":
            body["base"] = "0" * 64

    report = rebuild(write_changed_ledger(ledger, tmp_path / "base", other_base), 0, output_folder, pool=pool)
    assert not report.sound and report.findings[1].subject == "base"
    report = rebuild(finished, 0, output_folder, model=base, pool=pool)
    assert not report.sound and "values of" in report.findings[-1].detail


def test_inputs_that_cannot_be_used_are_reported_before_anything_is_built(finished: Path, tmp_path: Path) -> None:
    nowhere, out = tmp_path / "nowhere", tmp_path / "out"
    for message, wrong in (
        ("--model: .*config.json is missing", {"model": tmp_path}),
        ("--model: .*expected a checkpoint folder", {"model": nowhere}),
        ("--source: .*expected a checkpoint folder", {"inputs": RebuildInputs(models=[nowhere])}),
        ("--files: expected a folder with programs", {"inputs": RebuildInputs(files=nowhere)}),
        ("--base: .*there is no such folder", {"inputs": RebuildInputs(base=str(nowhere))}),
        ("workers: expected at least 1", {"workers": 0}),
    ):
        with pytest.raises(InputError, match=message):
            rebuild(finished, 0, out, **wrong)
    assert not out.exists()


def test_in_another_environment_the_scores_decide(finished: Path, output_folder: Path, pool: LocalPool, tmp_path: Path) -> None:
    def elsewhere(kind: str, body: dict[str, Any]) -> None:
        if kind == "campaign":
            body["environment"]["cpu"] = "another"
        if kind == "stage":
            body["model"] = "0" * 64

    report = rebuild(write_changed_ledger(finished / "ledger.jsonl", tmp_path / "same", elsewhere), 0, output_folder, pool=pool)
    assert report.sound and "other bits in another environment (cpu)" in report.findings[-1].detail

    def better(kind: str, body: dict[str, Any]) -> None:
        elsewhere(kind, body)
        if kind == "stage":
            body["after"] = [{**scores, "privacy": scores["privacy"] + 0.3} for scores in body["after"]]

    report = rebuild(write_changed_ledger(finished / "ledger.jsonl", tmp_path / "other", better), 0, output_folder, pool=pool)
    assert not report.sound and "privacy differs by -0.300" in report.findings[-1].detail


def test_the_ledger_alone_is_enough_and_missing_inputs_are_named(
    finished: Path, output_folder: Path, pool: LocalPool, tmp_path: Path
) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(finished / "ledger.jsonl", tmp_path / "alone")
    assert rebuild(tmp_path / "alone" / "ledger.jsonl", 0, output_folder, pool=pool).sound
    with pytest.raises(InputError, match="stage 7: the ledger has 0"):
        rebuild(finished, 7, output_folder, pool=pool)

    def with_program(kind: str, body: dict[str, Any]) -> None:
        if kind == "stage":
            body["recipe"]["steps"] += [{"step": "command", "run": ["python", "x.py"], "inputs": {"x.py": "1" * 64}}]

    changed = write_changed_ledger(finished / "ledger.jsonl", tmp_path / "program", with_program)
    with pytest.raises(InputError, match=r"program 'x\.py'.*--files"):
        rebuild(changed, 0, output_folder, pool=pool)
    (tmp_path / "x.py").write_text("print()")
    with pytest.raises(InputError, match=r"program 'x\.py'"):
        rebuild(changed, 0, output_folder, inputs=RebuildInputs(files=tmp_path), pool=pool)


def test_rebuild_on_the_command_line(finished: Path, output_folder: Path, base: Path) -> None:
    done = stagezero("rebuild", finished, "--stage", "0", "--out", output_folder, "--model", base, "--json")
    report = json.loads(done.stdout)
    assert done.returncode == 1 and not report["sound"] and report["findings"][-1]["what"] == "checkpoint"
    done = stagezero("rebuild", finished / "nothing")
    assert done.returncode == 2 and "there is no ledger" in done.stderr


@pytest.mark.slow
def test_a_run_with_its_own_chat_template_in_bfloat16_is_rebuilt(base: Path, home: Path, tmp_path: Path) -> None:
    path = write_project(tmp_path, base, audit="", chat_template="turns.jinja", stages="1", trial="{items: 4, max_pairs: 10, confirm: 3}")
    (tmp_path / "turns.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
    )
    recipe = tmp_path / "stage0.yaml"
    recipe.write_text(recipe.read_text().replace("steps: 8", "steps: 8, dtype: bfloat16"))
    done = stagezero("run", path, "--runs", tmp_path / "runs", "--no-box")
    assert done.returncode == 0, done.stderr
    first, stage = (next(e.body for e in read(tmp_path / "runs/small/ledger.jsonl") if e.kind == kind) for kind in ("campaign", "stage"))
    assert first["chat_template"].startswith("{% for m in messages %}")
    assert stage.get("bfloat16") == bfloat16_unit()
    report = rebuild(tmp_path / "runs" / "small", 0, tmp_path / "rebuilds")
    assert report.sound and "identical, bit for bit" in [finding.detail for finding in report.findings]
    # The other unit's bits need not be the same, so the scores are compared.
    other = write_changed_ledger(
        tmp_path / "runs/small/ledger.jsonl", tmp_path / "other",
        lambda kind, body: body.update(bfloat16="another", model="0" * 64) if kind == "stage" else None,
    )  # fmt: skip
    report = rebuild(other, 0, tmp_path / "rebuilds")
    assert "other bits in another environment (bfloat16)" in str(report.findings)
