"""One real campaign with an external agent, a reviewer and an auditor, and without a seed.

It runs once per test session. Several test files check the ledger and the responses.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import make_once, stagezero, write_project

AGENT_IDEA = """---
title: A quicker pace
property: privacy
claimed_effect: 0.05
reason: Eight steps are few; larger ones would make more of them.
patch:
  - {op: set, at: sft, values: {learning_rate: 0.006}}
---
"""


@dataclass(frozen=True)
class SharedCampaign:
    """The folder of the run, and the responses that its agent and its reviewer received."""

    folder: Path
    record: dict[str, Any]


@pytest.fixture(scope="session")
def shared_campaign(base: Path, shared_folder: Path) -> SharedCampaign:
    """A campaign that a coding agent took part in over MCP and that waited for its reviewer."""
    pytest.importorskip("mcp")
    folder = make_once(shared_folder / "shared-campaign", lambda place: _run(place, base))
    return SharedCampaign(folder / "runs" / "shared", json.loads((folder / "record.json").read_text()))


def _run(folder: Path, base: Path) -> None:
    from stagezero.ideas.review import pending_ideas
    from stagezero.lab.campaign import Campaign

    key = folder / "keys" / "anna"
    public = stagezero("review", "--key", key, "--name", "anna").stdout.strip()
    path = write_project(
        folder, base, name="shared", seed="",
        researchers="[{kind: people, ideas: ideas}, {kind: self, ideas: 1}, {kind: outside, name: agent, ideas: 2, seconds: 120}]",
        review=f"{{keys: ['{public}'], every: false, seconds: 120}}",
        audit="{items: 60, submissions: 3, passes: 2, bars: {privacy: 0.98}, folder: auditor}",
    )  # fmt: skip
    for surplus in sorted((folder / "ideas").glob("*.md"))[1:]:
        surplus.unlink()
    run, command = folder / "runs" / "shared", [sys.executable, "-m", "stagezero.cli", "run", str(path), "--runs", str(folder / "runs")]
    with (folder / "log").open("w") as log, ThreadPoolExecutor(1) as agent:
        running = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            _wait(lambda: (run / "outside" / "agent").is_dir() or running.poll() is not None, "the run accepts no ideas")
            assert running.poll() is None, (folder / "log").read_text()
            participation = agent.submit(lambda: asyncio.run(_take_part(run)))
            _wait(lambda: participation.done() or pending_ideas(run), "no idea waits for review")
            if participation.done():
                participation.result()
            (idea,) = pending_ideas(run)
            record = {
                "pending": {"researcher": idea.researcher, "why": idea.why, "title": idea.title, "digest": idea.digest},
                "screen": stagezero("review", run).stdout,
                "without_key": stagezero("review", run, "--approve", idea.digest[:8]).returncode,
                "with_key": stagezero("review", run, "--key", key, "--name", "anna", "--approve", idea.digest[:8]).returncode,
            }
            record["agent"] = participation.result(timeout=240)
            assert running.wait(120) == 0, (folder / "log").read_text()
        finally:
            running.kill()
            running.wait()
    before, built = (run / "ledger.jsonl").read_bytes(), _builds()
    Campaign(path, runs=folder / "runs").run()  # raises if it cannot be continued
    record["stdout"] = (folder / "log").read_text()
    # Idle workers may add builds of speculative pairs; existing builds must be unchanged.
    builds_unchanged = bool(built) and built.items() <= _builds().items()
    record["continued"] = {"ledger_unchanged": (run / "ledger.jsonl").read_bytes() == before, "builds_unchanged": builds_unchanged}
    (folder / "record.json").write_text(json.dumps(record))


def _builds() -> dict[str, int]:
    """Return when each build of the store was written, in nanoseconds."""
    store = Path(os.environ["STAGEZERO_HOME"]) / "store" / "builds"
    return {path.parent.name: path.stat().st_mtime_ns for path in store.glob("*/model.safetensors")}


def _wait(condition: Any, failure: str, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, failure
        time.sleep(0.1)


async def _call(client: Any, tool: str, **arguments: Any) -> Any:
    done = await client.call_tool(tool, arguments)
    assert not done.is_error, done.content
    return done.structured_content


async def _wait_for_news(client: Any, sentence: str) -> None:
    for _ in range(60):
        if any(sentence in line for line in (await _call(client, "wait", seconds=5))["changed"]):
            return
    raise AssertionError(sentence)


async def _take_part(run: Path) -> dict[str, Any]:
    """Act as the agent: read the brief, submit ideas, wait, and list the results."""
    from mcp import Client, StdioServerParameters

    arguments = ["-m", "stagezero.cli", "mcp", "--run", str(run), "--as", "agent"]
    async with Client(
        StdioServerParameters(command=sys.executable, args=arguments, env=dict(os.environ)), read_timeout_seconds=60
    ) as client:
        await _wait_for_news(client, "stage 1 is open")
        brief = (await client.call_tool("read_brief", {})).content[0].text
        rejected = await client.call_tool("submit_idea", {"text": AGENT_IDEA.replace("at: sft", "at: dpo")})
        digest = (await _call(client, "submit_idea", text=AGENT_IDEA))["digest"]
        await _call(client, "finish")
        await _wait_for_news(client, "A quicker pace")
        await _wait_for_news(client, "run has ended")
        results = (await _call(client, "list_results"))["results"]
        return {"brief": brief, "refused": rejected.is_error, "refusal": rejected.content[0].text, "digest": digest, "results": results}
