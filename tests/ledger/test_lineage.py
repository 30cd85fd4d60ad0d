"""The lineage of a model: ideas, data and weights are distinguished, and determine its roots.

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


def campaign_entry(name: str, base: str) -> dict[str, Any]:
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


def loop(**changes: Any) -> CampaignRecord:
    """Return a campaign in which model A makes B by an external agent's idea, and C by B's idea."""
    r = CampaignRecord(Path("ledger"), campaign_entry("loop", BASE))
    r.stages = {0: stage(0, A), 1: stage(1, B, ("1" * 64,)), 2: stage(2, C, ("2" * 64,), **changes)}
    r.ideas = {(1, "1" * 64): idea("twins", "agent-1"), (2, "2" * 64): idea("gentler", "self", f"stage 1 ({B})")}
    return r


def test_if_only_ideas_crossed_the_roots_are_the_people_and_agents_behind_them() -> None:
    lineage = trace_lineage([loop()])
    assert lineage.stage == 2 and lineage.only_ideas()
    own = next(i for i in lineage.influences if "gentler" in i.description)
    assert own.by == "the model of stage 1 of loop" and own.maker_lineage is not None and own.maker_lineage.stage == 1 and own.bits == 1000
    assert set(lineage.roots()) == {"the makers of pocket/loop", "people who wrote the suite", "people", "agent-1"}
    assert (
        "No labels or weights of other models were used" in lineage.summary()
        and "the model of stage 1 of loop (“gentler”, 1,000 bits" in lineage.summary()
    )


def test_a_reviewer_who_admits_an_idea_is_a_root() -> None:
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
    assert any("9" * 64 in name for name in trace_lineage([r]).roots()), "a model that is in no ledger must be a root"


def test_labels_or_weights_make_their_author_a_root() -> None:
    channel = {"step": "distil", "source": "model", "name": "teacher", "digest": B, "bits": 5000}
    lineage = trace_lineage([loop(channels=(channel,))])
    assert (
        not lineage.only_ideas()
        and "stage 1 of loop" in lineage.roots()
        and "Labels or weights of other models were used: data of stage 1 of loop" in lineage.summary()
    )
    merged = {**channel, "step": "merge", "digest": "f" * 64, "name": "hf/strange"}
    assert trace_lineage([loop(channels=(merged,))]).roots()["hf/strange"] == "weights: merge from hf/strange"
    own = {**channel, "source": "self", "digest": ""}
    assert any("itself, half made" in name for name in trace_lineage([loop(channels=(own,))]).roots())


def test_a_base_from_another_run_brings_its_lineage() -> None:
    second = CampaignRecord(Path("second"), campaign_entry("second", C))
    second.stages = {0: stage(0, "d" * 64)}
    lineage = trace_lineage([second, loop()])
    assert lineage.influences[0].by == "stage 2 of loop" and "agent-1" in lineage.roots()
    assert "agent-1" not in trace_lineage([second]).roots() and "the makers of pocket/second" in trace_lineage([second]).roots()


def test_a_circular_lineage_terminates() -> None:
    r = loop()
    r.ideas[1, "1" * 64] = idea("odd", "self", f"stage 2 ({C})")
    assert trace_lineage([r]).roots()


def test_the_lineage_of_a_stage_excludes_other_stages_that_were_not_adopted() -> None:
    r = loop()
    r.stages[1]["adopted"] = False
    assert not any("twins" in i.description for i in trace_lineage([r], 2).influences)
    assert any("twins" in i.description for i in trace_lineage([r], 1).influences), "its ideas are part of its own lineage"
    with pytest.raises(LedgerError, match=r"expected one of the stages 0, 1, 2, got 7"):
        trace_lineage([r], 7)


def test_the_attestation_of_a_real_run_is_verified_by_other_libraries(copied: Path, tmp_path: Path) -> None:
    out = tmp_path / "provenance.json"
    done = stagezero("lineage", copied, "--stage", "0", "--attest", out)
    assert done.returncode == 0 and "people alone made the recipe" in done.stdout, done.stderr
    text = out.read_text()
    key = VerifyKey.parse(done.stdout.strip().splitlines()[-1].split("signed by ")[1].strip())
    statement = verify_envelope(text, [key])
    r = read_record(copied / "ledger.jsonl")
    assert statement["subject"][0]["digest"]["sha256"] == r.stages[0]["model"]
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    definition = statement["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["recipe"] == r.stages[0]["recipe"]
    assert {d["name"] for d in definition["resolvedDependencies"]} >= {"base", "training data"} and statement["predicate"]["lineage"][
        "onlyIdeas"
    ]
    other = SSlibKey(key.keyid, "ed25519", "ed25519", {"public": key.raw.hex()})
    envelope = Envelope.from_dict(json.loads(text))
    envelope.verify([other], 1)
    parsed = Statement.copy_from_pb(json_format.Parse(envelope.payload, statement_pb2.Statement()))
    parsed.validate()
    changed = json.loads(text)
    changed["payload"] = changed["payload"][:200] + ("A" if changed["payload"][200] != "A" else "B") + changed["payload"][201:]
    with pytest.raises(VerificationError):
        Envelope.from_dict(json.loads(json.dumps(changed))).verify([other], 1)
    assert stagezero("verify", out, "--key", key.text()).returncode == 0
    bad = tmp_path / "bad.json"
    bad.write_text(json.dumps(changed))
    verified = stagezero("verify", bad, "--key", key.text())
    assert verified.returncode == 2 and "was changed after it was signed" in verified.stderr


def test_the_lineage_as_json_can_be_hashed(copied: Path) -> None:
    output = json.loads(stagezero("lineage", copied, "--json").stdout)
    assert output["model"] and digest(output) and output["roots"]
