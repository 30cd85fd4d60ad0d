"""One idea's whole way through a real campaign, from a coding agent's side: brief, check, submit, wait, result, over MCP."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import write_project

from stagezero.ledger import read
from stagezero.ledger.lineage import read_record, trace_lineage

pytest.importorskip("mcp")
IDEA = """---
title: A quicker pace
property: privacy
claimed_effect: 0.05
reason: Eight steps are few; larger ones would make more of them.
patch:
  - {op: set, at: sft, values: {learning_rate: 0.006}}
---
"""


async def _does(client: Any, tool: str, **arguments: Any) -> Any:
    done = await client.call_tool(tool, arguments)
    assert not done.is_error, done.content
    return done.structured_content


async def _told(client: Any, sentence: str) -> None:
    for _ in range(40):
        if any(sentence in line for line in (await _does(client, "wait", seconds=5))["changed"]):
            return
    raise AssertionError(sentence)


async def take_part(run: Path) -> Any:
    from mcp import Client, StdioServerParameters

    words = ["-m", "stagezero.cli", "mcp", "--run", str(run), "--as", "agent"]
    async with Client(StdioServerParameters(command=sys.executable, args=words, env=dict(os.environ)), read_timeout_seconds=60) as client:
        await _told(client, "stage 1 is open")
        text = (await client.call_tool("read_brief", {})).content[0].text
        assert "# Stage 1" in text and "- privacy:" in text and "learning_rate: 0.005" in text
        for item in ("PIN", "capital of"):
            assert item not in text, "no item is in the brief"
        bad = await client.call_tool("submit_idea", {"text": IDEA.replace("at: sft", "at: dpo")})
        assert bad.is_error and "names step 'dpo'" in bad.content[0].text
        digest = (await _does(client, "submit_idea", text=IDEA))["digest"]
        await _does(client, "finish")
        await _told(client, "A quicker pace")
        await _told(client, "run has ended")
        results = await _does(client, "list_results")
        return digest, results


def test_a_coding_agent_brings_one_idea_through_a_campaign(base: Path, tmp_path: Path) -> None:
    path = write_project(tmp_path, base, name="agents", audit="", researchers="[{kind: outside, name: agent, ideas: 2, seconds: 120}]")
    log = (tmp_path / "log").open("w")
    running = subprocess.Popen(
        [sys.executable, "-m", "stagezero.cli", "run", str(path), "--runs", str(tmp_path / "runs")], stdout=log, stderr=log
    )
    run, end = tmp_path / "runs" / "agents", time.monotonic() + 90
    try:
        while not (run / "outside" / "agent").is_dir() and time.monotonic() < end:
            time.sleep(0.1)
        digest, results = asyncio.run(take_part(run))
        assert running.wait(120) == 0, (tmp_path / "log").read_text()
    finally:
        running.kill()
        running.wait()
        log.close()
    entries = list(read(run / "ledger.jsonl"))
    registered = next(e for e in entries if e.kind == "registration").body["ideas"]
    assert [(i["idea"], i["researcher"], i["author"]) for i in registered] == [(digest, "agent", "agent")]
    decided = next(e for e in entries if e.kind == "decision").body
    (own,) = [r for r in results["results"] if r["title"] == "A quicker pace"]
    assert own["fate"] == decided["fate"] and own["pairs"] == decided["pairs"] and set(own) <= {
        "stage", "title", "researcher", "property", "fate", "pairs", "effect", "alignment_gain",
    }  # fmt: skip
    assert trace_lineage([read_record(run / "ledger.jsonl")]).only_ideas()
