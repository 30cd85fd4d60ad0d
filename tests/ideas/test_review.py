"""A reviewer's decision: signed, about one idea in one run, by a key that the project names.

Covers: cli/review.py.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest_campaign import SharedCampaign

from stagezero.errors import InputError, ProjectError
from stagezero.ideas.airlock import Admitted, admit
from stagezero.ideas.idea import Idea
from stagezero.ideas.review import ReviewGate, pending_ideas, reviewer_keys, sign_decision, verify_decision
from stagezero.ledger import SigningKey, read
from stagezero.ledger.lineage import read_record, trace_lineage
from stagezero.project import Review
from stagezero.tasks import load_suite
from stagezero.training import parse_recipe

RUN = "a" * 64
CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 20}]}, {"step": "sft", "steps": 3, "batch_size": 4, "learning_rate": 0.001}], "t"
)
KEY = SigningKey.from_seed(b"k" * 32, "anna")
OTHER = SigningKey.from_seed(b"o" * 32, "mallory")


def ideas(*researchers: str) -> list[Admitted]:
    submitted = [
        Idea(
            title=f"idea {n}", property="privacy", claimed_effect=0.1, reason="because", researcher=researcher,
            patch=({"op": "set", "at": "sft", "values": {"steps": 4 + 3 * n}},),
        )
        for n, researcher in enumerate(researchers)
    ]  # fmt: skip
    return admit(submitted, CONTROL, load_suite("atlas"), 0.0)[0]


def gate(run: Path, seconds: float = 20, every: bool = True) -> ReviewGate:
    run.mkdir(exist_ok=True)
    return ReviewGate(Review(keys=(KEY.verify_key.text(),), every=every, seconds=seconds), run, lambda *_: None)


def sign_when_pending(run: Path, decisions: dict[str, Any]) -> threading.Thread:
    """Start a thread that signs decisions when ideas wait: title → (decision, key, note)."""

    def sign() -> None:
        end = time.monotonic() + 20
        remaining = dict(decisions)
        while remaining and time.monotonic() < end:
            for idea in pending_ideas(run):
                if idea.title in remaining:
                    decision, key, note = remaining.pop(idea.title)
                    sign_decision(run, idea, decision, key, note)
            time.sleep(0.05)

    thread = threading.Thread(target=sign)
    thread.start()
    return thread


def test_approved_ideas_pass_and_record_their_reviewer(tmp_path: Path) -> None:
    admitted = ideas("people", "people")
    thread = sign_when_pending(tmp_path, {"idea 0": ("approve", KEY, ""), "idea 1": ("reject", KEY, "reaches too far")})
    passed, rejected = gate(tmp_path).await_decisions(admitted, None, 1, RUN)
    thread.join()
    assert [a.idea.title for a in passed] == ["idea 0"] and passed[0].review is not None
    assert passed[0].review["reviewer"] == "anna" and passed[0].entry()["let_in"]["envelope"]["signatures"]
    assert [(r.idea.title, r.why) for r in rejected] == [("idea 1", "rejected by anna: reaches too far")]
    assert not pending_ideas(tmp_path)
    repeated, _ = gate(tmp_path).await_decisions(admitted, None, 1, RUN)
    assert repeated == passed, "a continued run must find the same decisions"


def test_only_a_decision_of_a_named_reviewer_on_this_idea_in_this_run_counts(tmp_path: Path) -> None:
    admitted = ideas("people")
    digest = admitted[0].idea.digest()
    thread = sign_when_pending(tmp_path, {"idea 0": ("approve", OTHER, "")})
    passed, rejected = gate(tmp_path, seconds=1).await_decisions(admitted, None, 1, RUN)
    thread.join()
    assert not passed and rejected[0].why == "no reviewer decided in time"
    envelope = json.loads((tmp_path / "review" / "signed" / f"{digest}.json").read_text())
    assert verify_decision(digest, envelope, [KEY.verify_key], RUN) is None
    assert verify_decision(digest, envelope, [OTHER.verify_key], RUN) is not None
    assert (
        verify_decision(digest, envelope, [OTHER.verify_key], "b" * 64) is None
        and verify_decision("c" * 64, envelope, [OTHER.verify_key], RUN) is None
    )
    envelope["payload"] = envelope["payload"][:-4] + "AAAA"
    assert verify_decision(digest, envelope, [OTHER.verify_key], RUN) is None


def test_ideas_of_a_model_that_has_not_passed_audit_always_wait(tmp_path: Path) -> None:
    admitted = ideas("people", "self")
    (own,) = [a for a in admitted if a.idea.researcher == "self"]
    unreviewed = ReviewGate(None, tmp_path, lambda *_: None)
    passed, rejected = unreviewed.await_decisions(admitted, "not audited", 1, RUN)
    assert own not in passed and len(passed) == 1 and "names no reviewer" in rejected[0].why
    assert unreviewed.await_decisions(admitted, None, 1, RUN) == (admitted, [])
    thread = sign_when_pending(tmp_path, {own.idea.title: ("approve", KEY, "")})
    passed, rejected = gate(tmp_path, every=False).await_decisions(admitted, "not audited", 1, RUN)
    thread.join()
    assert len(passed) == 2 and not rejected
    assert {a.idea.researcher: a.review is not None for a in passed} == {"people": False, "self": True}


def test_invalid_keys_and_missing_runs_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ProjectError, match=r"review\.keys: key: expected"):
        reviewer_keys(Review(keys=("no key",)))
    with pytest.raises(InputError, match="expected the folder of a run"):
        pending_ideas(tmp_path / "nowhere")


def test_hostile_files_are_no_decisions(tmp_path: Path) -> None:
    admitted = ideas("people")
    signed = tmp_path / "review" / "signed" / f"{admitted[0].idea.digest()}.json"
    signed.parent.mkdir(parents=True)
    for content in (b"", b"{}", b"\xff", b"[" * 100_000, b'{"payload": 1, "payloadType": "x", "signatures": []}'):
        signed.write_bytes(content)
        assert gate(tmp_path)._read_decision(admitted[0].idea.digest(), RUN) is None
    signed.unlink()
    signed.symlink_to("/etc/passwd")
    assert gate(tmp_path)._read_decision(admitted[0].idea.digest(), RUN) is None


@pytest.mark.first
def test_a_campaign_waits_for_its_reviewer_and_records_the_decision(shared_campaign: SharedCampaign) -> None:
    record, run = shared_campaign.record, shared_campaign.folder
    assert record["pending"]["researcher"] == "self" and "has not passed the audit" in record["pending"]["why"]
    assert record["pending"]["title"] in record["screen"] and "op:" in record["screen"], "the text that would cross must be displayed"
    assert record["without_key"] == 2, "a decision without a key must be rejected"
    assert record["with_key"] == 0
    registration = next(e for e in read(run / "ledger.jsonl") if e.kind == "registration")
    (own,) = [i for i in registration.body["ideas"] if i["researcher"] == "self"]
    assert own["let_in"]["reviewer"] == "anna" and own["author"].startswith("stage 0 (")
    assert all(i["let_in"] is None for i in registration.body["ideas"] if i["researcher"] != "self")
    assert trace_lineage([read_record(run / "ledger.jsonl")], 0).only_ideas()
    assert record["continued"]["ledger_unchanged"], "a continued run must require no second review"
