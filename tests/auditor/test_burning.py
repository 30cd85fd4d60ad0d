"""Burning a shadow: power first, charged once, answered the same, and never with other models.

Covers: auditor/shadow.py, auditor/setup.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest_auditor import Desk, sealed_file, variant

from stagezero.auditor.setup import add_suite, parse_bars
from stagezero.auditor.shadow import burn, power
from stagezero.auditor.storage import Storage
from stagezero.errors import BudgetSpentError, DoorError, InputError
from stagezero.ledger import read


def set_up(storage: Storage, folder: Path, shadow: Path) -> None:
    path = sealed_file(folder / "sealed.jsonl", 60, "sealed")
    add_suite(storage, str(path), "s", ["candour=0.02"], str(shadow), None, print, submissions=3, passes=2, delta=0.05)


def test_a_shadow_is_burned_once(desk: Desk, base: Path, tmp_path: Path) -> None:
    storage = desk.auditor.storage
    set_up(storage, tmp_path, sealed_file(tmp_path / "shadow.jsonl", 60, "shadow"))
    suite = storage.suite("s")
    assert storage.meter.bits_allowed(suite) == pytest.approx(3.807, abs=1e-3), "the burn's bit is part of every verdict's level"
    assert desk.ask(base, "s") == "pass"
    with pytest.raises(DoorError, match="a shadow"):
        desk.hand_in(base, "s.shadow")
    controls = [variant(base, tmp_path, i) for i in range(3)]
    assert 0 <= power(storage, suite, 1, 3, 0.05)["power"] <= 1
    with pytest.raises(InputError, match="never submitted"):
        burn(storage, suite, [base], [*controls, base], 0.05, print, desk.clock.now)
    with pytest.raises(InputError, match="was submitted"):
        burn(storage, suite, [controls[0]], controls, 0.05, print, desk.clock.now)
    with pytest.raises(InputError, match="at least 3"):
        burn(storage, suite, [base], controls[:2], 0.05, print, desk.clock.now)
    found = burn(storage, suite, [base], controls, 0.05, print, desk.clock.now)
    assert found["overfitted"] is False and found["sentence"]
    assert burn(storage, suite, [base], controls, 0.05, print, desk.clock.now)["sentence"] == found["sentence"], "the same models are free"
    desk.clock.now += 2.0
    with pytest.raises(BudgetSpentError):
        burn(storage, suite, [base], [*controls, variant(base, tmp_path, 9)], 0.05, print, desk.clock.now)
    charged = [e.body["suite"] for e in read(desk.folder / "ledger.jsonl") if e.kind == "charged"]
    assert charged == ["s", "s.shadow"]


def test_a_shadow_must_be_fresh(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(DoorError, match="fresh items"):
        set_up(desk.auditor.storage, tmp_path, sealed_file(tmp_path / "shadow.jsonl", 60, "SEALED"))


def test_a_suite_without_a_shadow_says_so(desk: Desk) -> None:
    suite = desk.auditor.storage.suite(desk.add())
    with pytest.raises(DoorError, match="has no shadow"):
        power(desk.auditor.storage, suite, 1, 3, 0.05)


def test_bars_are_read_or_refused() -> None:
    assert parse_bars(["a=0.5", "b=0.75"]) == {"a": 0.5, "b": 0.75}
    for wrong in ("a", "=0.5", "a=high"):
        with pytest.raises(InputError, match="--bar"):
            parse_bars([wrong])
