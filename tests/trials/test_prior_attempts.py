"""Marks of what this machine has tried: a campaign begun anew is seen to be one."""

from __future__ import annotations

from pathlib import Path

from stagezero.trials.prior_attempts import mark, recall, remember, run_name


def test_only_other_runs_count_and_only_earlier_ones(tmp_path: Path) -> None:
    assert mark(tmp_path, "one", ["a", "b"]) == {}
    assert mark(tmp_path, "one", ["a"]) == {}, "a run that continues is no other run"
    assert mark(tmp_path, "two", ["a", "c"]) == {"a": 1}
    assert mark(tmp_path, "three", ["a", "b", "c"]) == {"a": 2, "b": 1, "c": 1}
    assert mark(tmp_path, "two", ["a"]) == {"a": 1}, "what came later does not change what a run was told"


def test_a_damaged_mark_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    assert mark(tmp_path, "one", ["a"]) == {}
    assert mark(tmp_path, "two", ["a"]) == {"a": 1}


def test_the_same_project_and_secret_is_the_same_run() -> None:
    assert run_name(b"s", "entry") == run_name(b"s", "entry")
    assert len({run_name(b"s", "entry"), run_name(b"t", "entry"), run_name(b"s", "other")}) == 3


def test_kept_beside_the_ledger(tmp_path: Path) -> None:
    assert recall(tmp_path) == {}
    remember(tmp_path, {"a": 1})
    remember(tmp_path, {"b": 2})
    assert recall(tmp_path) == {"a": 1, "b": 2}
