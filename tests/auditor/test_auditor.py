"""The auditor: charges before it reads, answers one word, and stops when its sealed items have said enough."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from stagezero.auditor import sealed
from stagezero.auditor.meter import Meter
from stagezero.auditor.service import Auditor
from stagezero.auditor.verdict import passes
from stagezero.door import EmbeddedAuditor, Submission, Terms
from stagezero.errors import BudgetSpentError, DoorError, ModelError, SuiteError
from stagezero.ledger import verify
from stagezero.models import checkpoint_digest
from stagezero.private import lasting_secret


def terms(**changes: object) -> Terms:
    fields: dict[str, object] = {
        "suite": "atlas", "sealed": None, "items": 60, "bars": {"privacy": 0.02}, "submissions": 3, "passes": 2, "delta": 0.05,
    } | changes  # fmt: skip
    return Terms.model_validate(fields)


def other(base: Path, folder: Path, number: int) -> Path:
    """The base with another configuration, so that its digest differs."""
    copy = Path(shutil.copytree(base, folder / f"m{number}"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "note": number}))
    return copy


def submit(auditor: Auditor, folder: Path) -> str:
    return auditor.audit(Submission(folder=str(folder), digest=checkpoint_digest(folder)))


def test_the_same_model_is_charged_once_and_answered_the_same(base: Path, tmp_path: Path) -> None:
    auditor = Auditor(tmp_path, terms())
    first = submit(auditor, base)
    assert submit(auditor, base) == first
    assert auditor.status().submissions_used == 1
    assert verify(tmp_path / "ledger.jsonl") == 3


def test_out_of_budget_it_refuses_and_says_nothing_more(base: Path, tmp_path: Path) -> None:
    auditor = Auditor(tmp_path / "a", terms(bars={"privacy": 0.99}))
    assert [submit(auditor, other(base, tmp_path, i)) for i in range(3)] == ["fail"] * 3
    with pytest.raises(BudgetSpentError, match="3 of 3 submissions"):
        submit(auditor, other(base, tmp_path, 3))
    assert submit(auditor, tmp_path / "m0") == "fail", "an old answer may be heard again"


def test_the_passes_are_limited_too(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "m.sqlite", terms(passes=1))
    meter.charge("a" * 64)
    meter.settle("a" * 64, "pass")
    meter.charge("a" * 64)
    with pytest.raises(BudgetSpentError, match="1 of 1 passes"):
        meter.charge("b" * 64)
    assert meter.used() == (1, 1)


def test_a_wrong_digest_is_refused_without_charge(base: Path, tmp_path: Path) -> None:
    auditor = Auditor(tmp_path, terms())
    with pytest.raises(ModelError, match="not the one its digest names"):
        auditor.audit(Submission(folder=str(base), digest="0" * 64))
    assert auditor.status().submissions_used == 0


def test_an_audit_that_breaks_is_a_charged_failure(base: Path, tmp_path: Path) -> None:
    broken = other(base, tmp_path, 0)
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**config, "hidden_size": 10}))
    auditor = Auditor(tmp_path / "a", terms())
    assert submit(auditor, broken) == "fail"
    assert auditor.status().submissions_used == 1


def test_a_crash_between_charge_and_answer_keeps_the_charge_and_finishes_later(base: Path, tmp_path: Path) -> None:
    auditor = Auditor(tmp_path, terms())
    auditor.meter.charge(checkpoint_digest(base))
    auditor.ledger.close()
    again = Auditor(tmp_path, terms())
    assert submit(again, base) in ("pass", "fail")
    assert again.status().submissions_used == 1


def test_other_terms_are_refused(tmp_path: Path) -> None:
    Meter(tmp_path / "m.sqlite", terms())
    with pytest.raises(DoorError, match="other terms"):
        Meter(tmp_path / "m.sqlite", terms(submissions=1000))


def test_the_verdict_is_the_stated_rule() -> None:
    rule = terms(bars={"a": 0.80, "b": 0.80}, items=1000)
    assert passes({"a": (862, 1000), "b": (862, 1000)}, rule, bits=8.2)
    assert not passes({"a": (840, 1000), "b": (990, 1000)}, rule, bits=8.2)
    assert passes({"a": (840, 1000), "b": (990, 1000)}, rule, bits=0.0)


def test_a_model_below_its_bar_passes_no_more_often_than_stated() -> None:
    rule, rng = terms(bars={"a": 0.80}, items=400), np.random.default_rng(0)
    wrong = sum(passes({"a": (int(k), 400)}, rule, bits=0.0) for k in rng.binomial(400, 0.80, 4000))
    assert stats.binomtest(wrong, 4000, rule.delta, "greater").pvalue > 1e-3
    naive = sum(k / 400 >= 0.80 for k in rng.binomial(400, 0.80, 4000))
    assert stats.binomtest(naive, 4000, rule.delta, "greater").pvalue < 1e-6, "the negative control must fail"


def test_the_secret_stays_and_is_private(tmp_path: Path) -> None:
    first = lasting_secret(tmp_path / "secret")
    assert lasting_secret(tmp_path / "secret") == first and len(first) == 32
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    assert sealed.draw(terms(), first) == sealed.draw(terms(), first)
    assert sealed.draw(terms(), first) != sealed.draw(terms(), b"x" * 32)


def test_a_sealed_file_gives_one_item_a_cluster(tmp_path: Path) -> None:
    rows = [
        {
            "id": f"{kind}{i}",
            "input": f"{kind} {i}?",
            "target": "yes",
            "kind": kind,
            "property": "candour",
            "split": "open",
            "twin_of": f"trap{i}",
        }
        for i in range(40)
        for kind in ("trap", "twin")
    ]
    path = tmp_path / "sealed.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    chosen = sealed.draw(terms(suite="mine.jsonl", sealed=str(path), bars={"candour": 0.5}), b"k" * 32)["candour"]
    assert len({i.twin_of for i in chosen}) == len(chosen)
    assert sum(i.kind == "trap" for i in chosen) * 2 == len(chosen)
    with pytest.raises(SuiteError, match="not enough sealed items for claim 'other'"):
        sealed.draw(terms(sealed=str(path), bars={"other": 0.5}), b"k" * 32)
    with pytest.raises(SuiteError, match=r"audit\.sealed"):
        sealed.draw(terms(suite="mine.jsonl"), b"k" * 32)


def test_the_budget_of_a_sealed_file_follows_the_file(base: Path, tmp_path: Path) -> None:
    rows = [
        {"id": f"{kind}{i}", "input": f"{kind} {i} of {tmp_path}?", "target": "yes", "kind": kind, "property": "candour", "split": "open"}
        for i in range(20)
        for kind in ("trap", "twin")
    ]
    for name in ("one.jsonl", "two.jsonl"):
        (tmp_path / name).write_text("".join(json.dumps(r) + "\n" for r in rows))
    asked = {"suite": "mine.jsonl", "bars": {"candour": 0.99}, "submissions": 1}
    assert submit(Auditor(tmp_path / "a", terms(sealed=str(tmp_path / "one.jsonl"), **asked)), base) == "fail"
    with pytest.raises(BudgetSpentError):
        submit(Auditor(tmp_path / "b", terms(sealed=str(tmp_path / "two.jsonl"), **asked)), other(base, tmp_path, 0))


def test_through_the_door(base: Path, tmp_path: Path) -> None:
    with EmbeddedAuditor(tmp_path, terms()) as auditor:
        door = auditor.door()
        assert door.submit(base, checkpoint_digest(base)).verdict in ("pass", "fail")
        status = door.status()
        assert (status.submissions_used, status.separation, status.clusters) == (1, "colocated", {"privacy": 60})
        with pytest.raises(DoorError, match="not the one its digest names"):
            door.submit(base, "f" * 64)
        stranger = type(door)(str(door._http.base_url), "wrong")
        with pytest.raises(DoorError, match="401"):
            stranger.status()
    assert sqlite3.connect(tmp_path / "meter.sqlite").execute("SELECT COUNT(*) FROM submissions").fetchone() == (1,)


def test_an_auditor_that_cannot_start_says_why(tmp_path: Path) -> None:
    with EmbeddedAuditor(tmp_path, terms(bars={"honesty": 0.5})) as auditor, pytest.raises(DoorError, match="no claim 'honesty'"):
        auditor.door()
