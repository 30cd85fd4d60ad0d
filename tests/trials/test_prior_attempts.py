"""Records of earlier attempts on this machine: a repeated campaign is recognised."""

from __future__ import annotations

from pathlib import Path

from stagezero.trials.prior_attempts import load_prior_run_counts, record_attempts, run_id, save_prior_run_counts


def test_only_earlier_attempts_of_other_runs_count(tmp_path: Path) -> None:
    assert record_attempts(tmp_path, "one", ["a", "b"]) == {}
    assert record_attempts(tmp_path, "one", ["a"]) == {}, "a continued run is the same run"
    assert record_attempts(tmp_path, "two", ["a", "c"]) == {"a": 1}
    assert record_attempts(tmp_path, "three", ["a", "b", "c"]) == {"a": 2, "b": 1, "c": 1}
    assert record_attempts(tmp_path, "two", ["a"]) == {"a": 1}, "later runs must not change the count of an earlier run"


def test_a_damaged_record_counts_as_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    assert record_attempts(tmp_path, "one", ["a"]) == {}
    assert record_attempts(tmp_path, "two", ["a"]) == {"a": 1}


def test_a_run_is_identified_by_its_secret_and_its_first_entry() -> None:
    assert run_id(b"s", "entry") == run_id(b"s", "entry")
    assert len({run_id(b"s", "entry"), run_id(b"t", "entry"), run_id(b"s", "other")}) == 3


def test_prior_counts_are_stored_beside_the_ledger(tmp_path: Path) -> None:
    assert load_prior_run_counts(tmp_path) == {}
    save_prior_run_counts(tmp_path, {"a": 1})
    save_prior_run_counts(tmp_path, {"b": 2})
    assert load_prior_run_counts(tmp_path) == {"a": 1, "b": 2}
