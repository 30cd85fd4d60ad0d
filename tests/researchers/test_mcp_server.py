"""The MCP server, called over stdin and stdout by the client of the MCP package.

A thread acts as the campaign.

Covers: cli/mcp.py, researchers/inbox_client.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import stagezero

from stagezero.ideas.airlock import Refusal, Refused
from stagezero.ideas.brief import Brief, Outcome
from stagezero.ideas.idea import Idea
from stagezero.ideas.precheck import SubmissionLimits
from stagezero.project import Outside
from stagezero.researchers import inbox, inbox_client, mcp_server
from stagezero.researchers.briefing import briefing_text
from stagezero.researchers.external import OutsideResearcher
from stagezero.training import parse_recipe

pytestmark = pytest.mark.skipif(find_spec("mcp") is None, reason="needs the package mcp")  # its import takes 1 s
CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 9}]}, {"step": "sft", "steps": 6, "learning_rate": 1e-3}], "control"
)
NAME = "agent"


def brief_for(stage: int, history: tuple[Outcome, ...] = ()) -> Brief:
    return Brief(stage, CONTROL, ("privacy", "injection"), ("facts",), ("privacy",), {"privacy": 0.5}, history)


def text_of(each: int, title: str = "Show the twins") -> str:
    patch = f"- {{op: extend, at: data, parts: [{{kinds: [twin], each: {each}}}]}}"
    return f"---\ntitle: {title}\nproperty: privacy\nclaimed_effect: 0.1\nreason: because of this\npatch:\n  {patch}\n---\n"


class CampaignThread(threading.Thread):
    """A campaign of two stages.

    In the first stage, one idea is promoted and the airlock rejects one. In the second, no idea
    arrives.
    """

    def __init__(self, run: Path) -> None:
        super().__init__(daemon=True)
        self.run_folder = run
        self.outcomes_due = threading.Event()
        self.proposed: list[list[Idea]] = []

    def run(self) -> None:
        researcher = OutsideResearcher(Outside(kind="outside", name=NAME, ideas=2, seconds=60), self.run_folder)
        one, other = first = researcher.propose(brief_for(1))
        history = (Outcome(1, one, "promoted", 12, 0.1, 0.05),)
        assert self.outcomes_due.wait(30)
        inbox.publish_outcomes(self.run_folder, [NAME], [], [Refused(other, Refusal.DUPLICATE, "the same hypothesis as 'another'")])
        inbox.publish_outcomes(self.run_folder, [NAME], history)
        self.proposed = [first, researcher.propose(brief_for(2, history))]
        inbox.publish_outcomes(self.run_folder, [NAME], history, ended=True)


@pytest.fixture
def running_campaign(tmp_path: Path) -> Iterator[CampaignThread]:
    campaign = CampaignThread(tmp_path / "run")
    campaign.start()
    end = time.monotonic() + 20
    while not (tmp_path / "run").is_dir() or not inbox_client.read_state(tmp_path / "run", NAME).open:
        assert time.monotonic() < end
        time.sleep(0.02)
    yield campaign
    campaign.outcomes_due.set()


class Agent:
    """A client that returns the results of calls as plain values."""

    def __init__(self, client: Any) -> None:
        self.client = client

    async def call(self, tool: str, **arguments: Any) -> Any:
        done = await self.client.call_tool(tool, arguments)
        assert not done.is_error, done.content
        return done.structured_content

    async def call_and_fail(self, tool: str, **arguments: Any) -> str:
        done = await self.client.call_tool(tool, arguments)
        assert done.is_error, done
        return str(done.content[0].text)

    async def wait_for_changes(self, *expected: str) -> list[str]:
        """Wait until every expected sentence is among the reported changes."""
        changed: list[str] = []
        for _ in range(20):
            answer = await self.call("wait", seconds=10)
            changed += answer["changed"]
            if all(any(sentence in line for line in changed) for sentence in expected):
                return changed
        raise AssertionError(changed)


def command(run: Path) -> list[str]:
    return ["-m", "stagezero.cli", "mcp", "--run", str(run), "--as", NAME]


async def take_part(run: Path, campaign: CampaignThread, mode: str) -> None:
    from mcp import Client, StdioServerParameters

    parameters = StdioServerParameters(command=sys.executable, args=command(run), env=dict(os.environ))
    async with Client(parameters, mode=mode, read_timeout_seconds=30) as client:
        agent = Agent(client)
        assert client.server_info.name == "stagezero" and "read_brief" in client.instructions
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"read_brief", "idea_schema", "check_idea", "submit_idea", "finish", "list_results", "wait"}
        assert all(len(tool.description) > 60 for tool in tools.values())
        arguments = {name: set(tool.input_schema.get("properties", {})) for name, tool in tools.items()}
        assert set().union(*arguments.values()) == {"text", "seconds"}, "no argument may name a path or a researcher"
        assert tools["submit_idea"].input_schema["properties"]["text"]["maxLength"] == 65_536

        assert await agent.wait_for_changes("stage 1 is open and wants 2 ideas within")
        text, value = (block.text for block in (await client.call_tool("read_brief", {})).content)
        assert text == briefing_text(brief_for(1)) and json.loads(value)["recipe"] == CONTROL.canonical()
        assert json.loads(value)["state"]["seconds_left"] <= 60
        assert "SetOp" in (await agent.call("idea_schema"))["$defs"]

        checked = await agent.call("check_idea", text=text_of(10))
        assert checked["bits"] > 0 and checked["crosses"]["property"] == "privacy"
        for tool in ("check_idea", "submit_idea"):
            why = await agent.call_and_fail(tool, text=text_of(10).replace("at: data", "at: dpo"))
            assert "names mix 'dpo', which the recipe lacks; its steps are: data, sft" in why and "\n" not in why
        assert "at most 65,536" in await agent.call_and_fail("submit_idea", text="x" * 70_000)
        step = "{step: command, run: [x], inputs: [/etc/passwd]}"
        named = text_of(1).replace("{op: extend, at: data, parts: [{kinds: [twin], each: 1}]}", f"{{op: append, step: {step}}}")
        assert "has no files; write technique(ctx)" in await agent.call_and_fail("check_idea", text=named)
        assert "expected 0 to 300" in await agent.call_and_fail("wait", seconds=-1)
        assert "text" in await agent.call_and_fail("submit_idea")
        assert (await agent.call("wait", seconds=0))["changed"] == []

        digests = [(await agent.call("submit_idea", text=text_of(each, f"Twins {each}")))["digest"] for each in (10, 20)]
        assert digests[0] == checked["digest"]
        changed = await agent.wait_for_changes("stage 1 is closed", "'Twins 10': accepted", "'Twins 20': accepted")
        assert len(changed) == 3
        assert "closed; wait for the next one" in await agent.call_and_fail("submit_idea", text=text_of(30))

        campaign.outcomes_due.set()
        await agent.wait_for_changes(": promoted", ": refused (the same hypothesis as 'another')", "stage 2 is open")
        results = await agent.call("list_results")
        assert [row["fate"] for row in results["results"]] == ["promoted"] and results["results"][0]["pairs"] == 12
        assert sorted(row["fate"] for row in results["own"]) == ["promoted", "refused"]
        assert "promoted (12 pairs" in (await client.call_tool("read_brief", {})).content[0].text
        assert (await agent.call("finish"))["finished_stage"] == 2
        await agent.wait_for_changes("the run has ended")
        assert "the run has ended" in await agent.call_and_fail("finish")
        assert sorted(idea.digest() for idea in campaign.proposed[0]) == sorted(digests) and campaign.proposed[1] == []


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_an_agent_takes_part_in_a_campaign(tmp_path: Path, running_campaign: CampaignThread, mode: str) -> None:
    """Once with the handshake that most agents use, and once with the client's preferred one."""
    import anyio

    anyio.run(take_part, tmp_path / "run", running_campaign, mode)
    running_campaign.join(10)
    assert not running_campaign.is_alive()


def test_stdout_contains_only_protocol_messages(tmp_path: Path) -> None:
    inbox.open_stage(tmp_path, NAME, brief_for(1), 2, 60)
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    messages = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "submit_idea", "arguments": {"text": "bad"}}},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "idea_schema", "arguments": {}}},
    ]
    with subprocess.Popen(
        [sys.executable, *command(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin is not None and server.stdout is not None
        for message in messages:
            server.stdin.write(json.dumps(message) + "\n")
            server.stdin.flush()
        answers = [json.loads(server.stdout.readline()) for _ in range(3)]
        remaining, _ = server.communicate(timeout=20)
    assert {answer["id"] for answer in answers} == {1, 2, 3} and all(answer["jsonrpc"] == "2.0" for answer in answers)
    assert remaining == "" and server.returncode == 0


def test_a_wait_returns_after_its_time_and_reports_all_changes_since_the_last_one(tmp_path: Path) -> None:
    import anyio

    async def use_tools() -> None:
        tools = mcp_server.Tools(tmp_path, NAME)
        start = time.monotonic()
        assert (await tools.wait(0.3))["changed"] == [] and 0.25 < time.monotonic() - start < 5
        inbox.open_stage(tmp_path, NAME, brief_for(1), 2, 60)
        inbox_client.submit(tmp_path, NAME, text_of(10))
        inbox.close_stage(tmp_path, NAME, 1, SubmissionLimits.from_brief(brief_for(1)))
        inbox.open_stage(tmp_path, NAME, brief_for(2), 2, 60)
        changed = (await tools.wait(30))["changed"]
        assert len(changed) == 2 and changed[0].endswith("'Show the twins': accepted") and changed[1].startswith("stage 2 is open")
        assert (await tools.wait(0))["changed"] == []

    anyio.run(use_tools)


def test_a_mistake_in_the_command_is_reported_in_one_sentence(tmp_path: Path) -> None:
    for run, message in ((tmp_path / "none", "expected the folder of a run"), (tmp_path, "expected letters")):
        done = stagezero("mcp", "--run", run, "--as", "../eve")
        assert done.returncode == 2 and message in done.stderr and done.stdout == "" and "Traceback" not in done.stderr
