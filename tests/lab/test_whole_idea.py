"""One idea of a coding agent, submitted over MCP, through a whole campaign."""

from __future__ import annotations

from conftest_campaign import SharedCampaign

from stagezero.ledger import read
from stagezero.ledger.lineage import read_record, trace_lineage


def test_an_idea_of_a_coding_agent_passes_through_a_campaign(shared_campaign: SharedCampaign) -> None:
    agent, run = shared_campaign.record["agent"], shared_campaign.folder
    assert "# Stage 1" in agent["brief"] and "- privacy:" in agent["brief"] and "learning_rate: 0.005" in agent["brief"]
    for item in ("PIN", "capital of"):
        assert item not in agent["brief"], "the brief must contain no item"
    assert agent["refused"] and "names step 'dpo'" in agent["refusal"]
    entries = list(read(run / "ledger.jsonl"))
    registered = next(e for e in entries if e.kind == "registration").body["ideas"]
    (own,) = [i for i in registered if i["researcher"] == "agent"]
    assert (own["idea"], own["author"]) == (agent["digest"], "agent")
    decided = next(e for e in entries if e.kind == "decision" and e.body["title"] == "A quicker pace").body
    (result,) = [r for r in agent["results"] if r["title"] == "A quicker pace"]
    assert result["fate"] == decided["fate"] and result["pairs"] == decided["pairs"] and set(result) <= {
        "stage", "title", "researcher", "property", "fate", "pairs", "effect", "alignment_gain",
    }  # fmt: skip
    assert trace_lineage([read_record(run / "ledger.jsonl")]).only_ideas()
