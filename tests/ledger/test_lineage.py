"""Whom a model owes what it is: ideas, data and weights are told apart, and roots of trust follow from that.

Covers: cli/lineage.py, ledger/provenance.py.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import stagezero
from google.protobuf import json_format  # type: ignore[import-untyped]
from in_toto_attestation.v1 import statement_pb2  # type: ignore[import-untyped]
from in_toto_attestation.v1.statement import Statement  # type: ignore[import-untyped]
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from stagezero.errors import LedgerError
from stagezero.ledger import VerifyKey, digest, verify_envelope
from stagezero.ledger.lineage import RULES, CampaignRecord, read_record, trace_lineage


def described(name: str, base: str) -> dict[str, Any]:
    return {
        "project": {"name": name, "base": f"pocket/{name}", "suite": "atlas", "sandbox": {"kind": "box"}},
        "base": base, "base_bits": 800, "training_bits": 1600, "suite": "5" * 64, "stagezero": "0",
        "environment": {"versions": {"torch": "2"}, "threads": 1, "cpu": "AVX2", "device": "cpu"},
    }  # fmt: skip


def stage(
    number: int, model: str, ideas: tuple[str, ...] = (), channels: tuple[dict[str, Any], ...] = (), adopted: bool = True
) -> dict[str, Any]:
    return {
        "stage": number, "model": model, "ideas": list(ideas), "channels": list(channels), "adopted": adopted, "verdict": "pass",
        "recipe": {"steps": [{"step": "sft"}]}, "seeds": [1],
    }  # fmt: skip


def idea(title: str, researcher: str, author: str = "", let_in: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"title": title, "researcher": researcher, "author": author or researcher, "bits": 1000, "let_in": let_in}


A, B, C, BASE = ("a" * 64, "b" * 64, "c" * 64, "0" * 64)


def loop(**more: Any) -> CampaignRecord:
    """A made B by an outside agent's idea, and B proposed what C was made with."""
    r = CampaignRecord(Path("ledger"), described("loop", BASE))
    r.stages = {0: stage(0, A), 1: stage(1, B, ("1" * 64,)), 2: stage(2, C, ("2" * 64,), **more)}
    r.ideas = {(1, "1" * 64): idea("twins", "agent-1"), (2, "2" * 64): idea("gentler", "self", f"stage 1 ({B})")}
    return r


def test_only_the_idea_of_a_model_crossed_so_the_roots_are_those_who_aligned_it() -> None:
    found = trace_lineage([loop()])
    assert found.stage == 2 and found.only_ideas()
    own = next(i for i in found.influences if "gentler" in i.description)
    assert own.by == "the model of stage 1 of loop" and own.maker_lineage is not None and own.maker_lineage.stage == 1 and own.bits == 1000
    assert set(found.roots()) == {"the makers of pocket/loop", "people who wrote the suite", "people", "agent-1"}
    assert "of models, only ideas crossed" in found.summary() and "the model of stage 1 of loop (“gentler”, 1,000 bits" in found.summary()


def test_whoever_lets_an_idea_in_is_a_root() -> None:
    r = loop()
    r.ideas[2, "2" * 64]["let_in"] = {"reviewer": "anna", "word": "approve"}
    assert trace_lineage([r]).roots()["reviewer anna"] == "admitted the idea “gentler”"
    assert trace_lineage([r], 1).roots().keys() == trace_lineage([loop()], 1).roots().keys() and RULES in trace_lineage([r], 1).summary()


def test_a_sampler_is_no_root_and_an_unknown_model_is_one() -> None:
    r = loop()
    r.ideas[1, "1" * 64] = idea("scaled", "optuna")
    assert "optuna" not in trace_lineage([r]).roots()
    r.ideas[1, "1" * 64] = idea("clever", "llm", "openai/gpt-9")
    assert trace_lineage([r]).roots()["llm: openai/gpt-9"] == "idea: “clever”"
    r.ideas[2, "2" * 64]["author"] = f"stage 9 ({'9' * 64})"
    assert any("9" * 64 in name for name in trace_lineage([r]).roots()), "a model that no ledger knows"


def test_labels_or_weights_make_their_author_a_root() -> None:
    channel = {"step": "distil", "source": "model", "name": "teacher", "digest": B, "bits": 5000}
    found = trace_lineage([loop(channels=(channel,))])
    assert (
        not found.only_ideas()
        and "stage 1 of loop" in found.roots()
        and "labels or weights crossed: data of stage 1 of loop" in found.summary()
    )
    merged = {**channel, "step": "merge", "digest": "f" * 64, "name": "hf/strange"}
    assert trace_lineage([loop(channels=(merged,))]).roots()["hf/strange"] == "weights: merge from hf/strange"
    own = {**channel, "source": "self", "digest": ""}
    assert any("itself, half made" in name for name in trace_lineage([loop(channels=(own,))]).roots())


def test_a_base_that_another_run_made_brings_its_lineage() -> None:
    second = CampaignRecord(Path("second"), described("second", C))
    second.stages = {0: stage(0, "d" * 64)}
    found = trace_lineage([second, loop()])
    assert found.influences[0].by == "stage 2 of loop" and "agent-1" in found.roots()
    assert "agent-1" not in trace_lineage([second]).roots() and "the makers of pocket/second" in trace_lineage([second]).roots()


def test_a_lineage_that_goes_in_a_circle_ends() -> None:
    r = loop()
    r.ideas[1, "1" * 64] = idea("odd", "self", f"stage 2 ({C})")
    assert trace_lineage([r]).roots()


def test_stages_that_were_not_adopted_are_in_nobodys_lineage() -> None:
    r = loop()
    r.stages[1]["adopted"] = False
    assert not any("twins" in i.description for i in trace_lineage([r], 2).influences)
    assert any("twins" in i.description for i in trace_lineage([r], 1).influences), "but what was tried in them is in their own"
    with pytest.raises(LedgerError, match=r"expected one of the stages 0, 1, 2, got 7"):
        trace_lineage([r], 7)


def test_a_real_run_is_attested_and_verified_by_others(copied: Path, tmp_path: Path) -> None:
    out = tmp_path / "provenance.json"
    done = stagezero("lineage", copied, "--stage", "0", "--attest", out)
    assert done.returncode == 0 and "aligned by people alone (stage 0)" in done.stdout, done.stderr
    text = out.read_text()
    key = VerifyKey.parse(done.stdout.strip().splitlines()[-1].split("signed by ")[1].strip())
    said = verify_envelope(text, [key])
    r = read_record(copied / "ledger.jsonl")
    assert said["subject"][0]["digest"]["sha256"] == r.stages[0]["model"]
    assert said["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = said["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["recipe"] == r.stages[0]["recipe"]
    assert {d["name"] for d in definition["resolvedDependencies"]} >= {"base", "training data"} and said["predicate"]["lineage"][
        "onlyIdeas"
    ]
    other = SSlibKey(key.keyid, "ed25519", "ed25519", {"public": key.raw.hex()})
    envelope = Envelope.from_dict(json.loads(text))
    envelope.verify([other], 1)
    theirs = Statement.copy_from_pb(json_format.Parse(envelope.payload, statement_pb2.Statement()))
    theirs.validate()
    changed = json.loads(text)
    changed["payload"] = changed["payload"][:200] + ("A" if changed["payload"][200] != "A" else "B") + changed["payload"][201:]
    with pytest.raises(VerificationError):
        Envelope.from_dict(json.loads(json.dumps(changed))).verify([other], 1)
    assert stagezero("verify", out, "--key", key.text()).returncode == 0
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(changed))
    told = stagezero("verify", bad, "--key", key.text())
    assert told.returncode == 2 and "was changed after it was signed" in told.stderr


def test_ideas_digests_are_text(copied: Path) -> None:
    found = json.loads(stagezero("lineage", copied, "--json").stdout)
    assert found["model"] and digest(found) and found["roots"]
