"""Burning a shadow: it is charged once, repeats its answer, and rejects other models.

Covers: auditor/shadow.py, auditor/setup.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest_auditor import AuditorHarness, sealed_file, variant

from stagezero.auditor.setup import add_suite, parse_bars
from stagezero.auditor.shadow import burn, power
from stagezero.auditor.storage import Storage
from stagezero.errors import BudgetSpentError, DoorError, InputError, StagezeroError
from stagezero.ledger import read


def set_up(storage: Storage, folder: Path, shadow: Path) -> None:
    path = sealed_file(folder / "sealed.jsonl", 60, "sealed")
    add_suite(storage, str(path), "s", ["candour=0.02"], str(shadow), None, print, submissions=3, passes=2, delta=0.05)


def test_a_shadow_is_burned_once(harness: AuditorHarness, base: Path, tmp_path: Path) -> None:
    storage = harness.auditor.storage
    set_up(storage, tmp_path, sealed_file(tmp_path / "shadow.jsonl", 60, "shadow"))
    suite = storage.suite("s")
    assert storage.meter.bits_allowed(suite) == pytest.approx(3.807, abs=1e-3), "the shadow's bit is part of every verdict's level"
    assert harness.submit_and_wait(base, "s") == "pass"
    with pytest.raises(DoorError, match="a shadow"):
        harness.submit(base, "s.shadow")
    controls = [variant(base, tmp_path, i) for i in range(3)]
    assert 0 <= power(storage, suite, 1, 3, 0.05)["power"] <= 1
    with pytest.raises(InputError, match="never submitted"):
        burn(storage, suite, [base], [*controls, base], 0.05, print, harness.clock.now)
    with pytest.raises(InputError, match="was submitted"):
        burn(storage, suite, [controls[0]], controls, 0.05, print, harness.clock.now)
    with pytest.raises(InputError, match="at least 3"):
        burn(storage, suite, [base], controls[:2], 0.05, print, harness.clock.now)
    result = burn(storage, suite, [base], controls, 0.05, print, harness.clock.now)
    assert result["overfitted"] is False and result["sentence"]
    repeated = burn(storage, suite, [base], controls, 0.05, print, harness.clock.now)
    assert repeated["sentence"] == result["sentence"], "the same models are not charged again"
    harness.clock.now += 2.0
    with pytest.raises(BudgetSpentError):
        burn(storage, suite, [base], [*controls, variant(base, tmp_path, 9)], 0.05, print, harness.clock.now)
    charged = [e.body["suite"] for e in read(harness.folder / "ledger.jsonl") if e.kind == "charged"]
    assert charged == ["s", "s.shadow"]


def test_the_items_of_a_shadow_must_be_new(harness: AuditorHarness, tmp_path: Path) -> None:
    with pytest.raises(DoorError, match="fresh items"):
        set_up(harness.auditor.storage, tmp_path, sealed_file(tmp_path / "shadow.jsonl", 60, "SEALED"))


@pytest.mark.parametrize("problem", ["missing", "malformed", "the same items"])
def test_an_invalid_shadow_leaves_no_suite(harness: AuditorHarness, tmp_path: Path, problem: str) -> None:
    storage, shadow = harness.auditor.storage, tmp_path / "shadow.jsonl"
    if problem == "malformed":
        shadow.write_text("{")
    elif problem == "the same items":
        shadow = sealed_file(shadow, 60, "s")
    own = sealed_file(tmp_path / "own.jsonl", 60, "s")
    with pytest.raises(StagezeroError):
        add_suite(storage, str(own), "t", ["candour=0.02"], str(shadow), None, print, submissions=3, passes=2, delta=0.05)
    assert storage.meter.suite("t") is None and storage.meter.suite("t.shadow") is None


def test_power_of_a_suite_without_a_shadow_is_rejected(harness: AuditorHarness) -> None:
    suite = harness.auditor.storage.suite(harness.add_suite())
    with pytest.raises(DoorError, match="has no shadow"):
        power(harness.auditor.storage, suite, 1, 3, 0.05)


def test_bars_are_parsed_or_rejected() -> None:
    assert parse_bars(["a=0.5", "b=0.75"]) == {"a": 0.5, "b": 0.75}
    for wrong in ("a", "=0.5", "a=high"):
        with pytest.raises(InputError, match="--bar"):
            parse_bars([wrong])
