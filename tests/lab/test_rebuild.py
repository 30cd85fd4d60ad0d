"""A stage again from its ledger: the same bits, or told what is not the same.

Covers: cli/rebuild.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import stagezero

from stagezero.errors import InputError
from stagezero.lab.rebuild import RebuildInputs, rebuild
from stagezero.ledger import Ledger, read
from stagezero.training.executors import LocalPool


def written(ledger: Path, to: Path, change: Any) -> Path:
    """A copy of a ledger whose chain is sound, with some of its entries changed."""
    to.mkdir(parents=True)
    copy = Ledger(to / "ledger.jsonl")
    for entry in read(ledger):
        body = json.loads(json.dumps(entry.body))
        change(entry.kind, body)
        copy.record(entry.kind, body)
    copy.close()
    return to


@pytest.fixture(scope="module")
def pool(home: Path) -> Iterator[LocalPool]:
    with LocalPool(2) as found:
        yield found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rebuilds")


def test_bit_for_bit_and_through_the_second_trainer(finished: Path, place: Path, pool: LocalPool) -> None:
    found = rebuild(finished, 0, place, second=True, pool=pool)
    assert found.sound and [f.detail for f in found.findings][:3] == ["as in the ledger", "as in the ledger", "identical, bit for bit"]
    assert len(found.distances) == 8 and max(found.distances) < 1e-3 and "rounding" in found.findings[-1].detail


def test_what_was_changed_is_found(finished: Path, place: Path, pool: LocalPool, base: Path, tmp_path: Path) -> None:
    ledger = finished / "ledger.jsonl"

    def faster(kind: str, body: dict[str, Any]) -> None:
        if kind == "stage" and body["stage"] == 0:
            body["recipe"]["steps"][1]["learning_rate"] *= 1.01

    assert "the ledger records" in rebuild(written(ledger, tmp_path / "recipe", faster), 0, place, pool=pool).findings[-1].detail

    def other_data(kind: str, body: dict[str, Any]) -> None:
        if kind == "campaign":
            body["suite"] = "0" * 64

    found = rebuild(written(ledger, tmp_path / "data", other_data), 0, place, pool=pool)
    assert not found.sound and found.findings[0].subject == "training data"

    def other_base(kind: str, body: dict[str, Any]) -> None:
        if kind == "campaign":
            body["base"] = "0" * 64

    found = rebuild(written(ledger, tmp_path / "base", other_base), 0, place, pool=pool)
    assert not found.sound and found.findings[1].subject == "base"
    found = rebuild(finished, 0, place, model=base, pool=pool)
    assert not found.sound and "values of" in found.findings[-1].detail
    found = rebuild(finished, 0, place, model=tmp_path, pool=pool)
    assert not found.sound and "config.json is missing" in found.findings[-1].detail


def test_in_another_environment_scores_decide(finished: Path, place: Path, pool: LocalPool, tmp_path: Path) -> None:
    def elsewhere(kind: str, body: dict[str, Any]) -> None:
        if kind == "campaign":
            body["environment"]["cpu"] = "another"
        if kind == "stage":
            body["model"] = "0" * 64

    found = rebuild(written(finished / "ledger.jsonl", tmp_path / "same", elsewhere), 0, place, pool=pool)
    assert found.sound and "other bits in another environment (cpu)" in found.findings[-1].detail

    def better(kind: str, body: dict[str, Any]) -> None:
        elsewhere(kind, body)
        if kind == "stage":
            body["after"] = [{**scores, "privacy": scores["privacy"] + 0.3} for scores in body["after"]]

    found = rebuild(written(finished / "ledger.jsonl", tmp_path / "other", better), 0, place, pool=pool)
    assert not found.sound and "privacy differs by -0.300" in found.findings[-1].detail


def test_the_ledger_alone_is_enough_and_what_it_lacks_is_named(finished: Path, place: Path, pool: LocalPool, tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    shutil.copy(finished / "ledger.jsonl", tmp_path / "alone")
    assert rebuild(tmp_path / "alone" / "ledger.jsonl", 0, place, pool=pool).sound
    with pytest.raises(InputError, match="stage 7: the ledger has 0"):
        rebuild(finished, 7, place, pool=pool)

    def with_program(kind: str, body: dict[str, Any]) -> None:
        if kind == "stage":
            body["recipe"]["steps"] += [{"step": "command", "run": ["python", "x.py"], "inputs": {"x.py": "1" * 64}}]

    changed = written(finished / "ledger.jsonl", tmp_path / "program", with_program)
    with pytest.raises(InputError, match=r"program 'x\.py'.*--files"):
        rebuild(changed, 0, place, pool=pool)
    (tmp_path / "x.py").write_text("print()")
    with pytest.raises(InputError, match=r"program 'x\.py'"):
        rebuild(changed, 0, place, inputs=RebuildInputs(files=tmp_path), pool=pool)


def test_the_command_line(finished: Path, place: Path, base: Path) -> None:
    done = stagezero("rebuild", finished, "--stage", "0", "--out", place, "--model", base, "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 1 and not told["sound"] and told["findings"][-1]["what"] == "checkpoint"
    done = stagezero("rebuild", finished / "nothing")
    assert done.returncode == 2 and "there is no ledger" in done.stderr
