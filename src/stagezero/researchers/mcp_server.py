"""Serves the folder of one outside researcher over the Model Context Protocol, for coding agents.

The server runs with the rights of the user who started it. It acts for one researcher of one run,
and both are fixed when it starts. No tool takes a path or a name, so an agent reaches only its own
folder of the run (``inbox.py``). The campaign trusts a submission through this server no more than
a file that was put there by hand. The server writes nothing but the protocol to stdout.
"""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import anyio
from pydantic import Field

from stagezero.errors import IdeaError, StagezeroError, require_package
from stagezero.ideas.precheck import MAX_SUBMISSION_BYTES, SubmissionLimits, parse_submission
from stagezero.researchers import inbox_client
from stagezero.researchers.briefing import idea_schema
from stagezero.researchers.inbox_record import SUBMITTED, StageState

INSTALL_COMMAND = "pip install 'stagezero[mcp]'"
MAX_WAIT_SECONDS = 300.0
POLL_SECONDS = 0.2
SERVER_INSTRUCTIONS = """You are an outside researcher of a stagezero campaign. You propose changes to how a language model is trained.
Each change is tested in paired replicates until the evidence is enough to decide.

Repeat these steps until the run has ended:
1. Call wait until a stage is open.
2. Call read_brief.
3. Write ideas, and call check_idea for each.
4. Call submit_idea for as many ideas as the stage wants. If you have fewer, call finish.
5. Call wait until your ideas are decided.
6. Call list_results, and use the results in the next stage."""

IdeaText = Annotated[
    str,
    Field(
        description="One whole idea file: Markdown with YAML front matter. If there is no patch, one ```python block follows it.",
        json_schema_extra={"maxLength": MAX_SUBMISSION_BYTES},
    ),
]
Seconds = Annotated[
    float, Field(description=f"Longest time to wait, in seconds; at most {MAX_WAIT_SECONDS:g}. Choose less than your own time limit.")
]


@dataclass
class _Reported:
    """The state that has been reported to the agent.

    Each change is reported once, even if it happens between two calls."""

    stage: int = 0
    open: bool = False
    ended: bool = False
    fates: dict[tuple[int, str], str] = field(default_factory=dict)


class Tools:
    """The tools of an agent: one per public method. The docstring is the tool's description."""

    def __init__(self, run: Path, name: str) -> None:
        """Serve the researcher ``name`` of the run in the folder ``run``."""
        self.run, self.name = run, name
        self.reported = _Reported()

    def read_brief(self) -> list[str]:
        """Return the brief of the open stage, which is the same for every researcher.

        It contains the model's scores, the current recipe, the results of earlier ideas, and how to
        write an idea. The first item is the brief as text; the second is the same as JSON, with the
        stage's state. Read it again in every stage: the recipe that your patches change may differ.
        """
        state = inbox_client.read_state(self.run, self.name)
        brief = inbox_client.read_brief(self.run, self.name)
        self.reported.stage, self.reported.open = state.stage, state.open
        text = str(brief.pop("text", ""))
        return [text, json.dumps({"state": self._state_json(state), **brief})]

    def idea_schema(self) -> dict[str, Any]:
        """Return the JSON Schema of an idea file's front matter.

        It contains all operations of a patch and all steps of a recipe. For an example of an idea
        file, call read_brief.
        """
        return idea_schema()

    def check_idea(self, text: IdeaText) -> dict[str, Any]:
        """Validate an idea without submitting it.

        This checks the idea's form, whether its content is allowed, and whether it fits the current
        recipe. Returns the part of the idea that the campaign would use, and its size in bits. If
        the idea is invalid, the error has the reason.
        """
        idea = parse_submission(text, "idea", self.name, self._limits())
        return {"digest": idea.digest(), "title": idea.title, "bits": idea.bits(), "crosses": idea.technique()}

    def submit_idea(self, text: IdeaText) -> dict[str, Any]:
        """Submit an idea to the open stage, after the same checks as check_idea.

        The same technique counts only once. The stage closes when the wanted number of ideas has
        been submitted. You cannot withdraw an idea. Returns the idea's digest.
        """
        digest = inbox_client.submit(self.run, self.name, text)
        return {"digest": digest, "state": self._state_json(inbox_client.read_state(self.run, self.name))}

    def finish(self) -> dict[str, Any]:
        """Report that you send no more ideas to the open stage.

        The campaign then continues at once with the ideas that you have submitted.
        """
        return {"finished_stage": inbox_client.mark_done(self.run, self.name)}

    def list_results(self) -> dict[str, Any]:
        """Return the results of all ideas so far.

        'results' contains the decided ideas of all researchers, with the mean effect on the idea's
        property and on the alignment score. 'own' contains your submissions. Each is submitted,
        accepted into its stage, refused (with 'why'), or decided.
        """
        results = inbox_client.read_results(self.run, self.name)
        self.reported.fates = _reportable_fates(results)
        return {"state": self._state_json(inbox_client.read_state(self.run, self.name)), **results}

    async def wait(self, seconds: Seconds = 60.0) -> dict[str, Any]:
        """Wait for a change that has not been reported to you.

        A change is: a stage opens or closes, one of your ideas is accepted, refused or decided, or
        the run ends. Returns the changes as sentences, and the state. An empty list of changes
        means that the time is over. A stage takes minutes to hours, so call this tool again.
        """
        if not seconds >= 0:
            raise IdeaError(f"seconds: expected 0 to {MAX_WAIT_SECONDS:g}, got {seconds}; correct it.")
        end = time.monotonic() + min(seconds, MAX_WAIT_SECONDS)
        while True:
            state = inbox_client.read_state(self.run, self.name)
            changes = self._new_changes(state, inbox_client.read_results(self.run, self.name))
            left = end - time.monotonic()
            if changes or left <= 0:
                return {"changed": changes, "state": self._state_json(state)}
            await anyio.sleep(min(POLL_SECONDS, left))

    def _new_changes(self, state: StageState, results: dict[str, Any]) -> list[str]:
        """Return the changes that have not been reported, and mark them as reported."""
        reported, fates = self.reported, _reportable_fates(results)
        changes = []
        for entry in results["own"]:
            key = (entry["stage"], entry["file"])
            if fates.get(key, reported.fates.get(key)) != reported.fates.get(key):
                title = repr(entry["title"] or entry["file"])
                reason = f" ({entry['why']})" if entry["why"] else ""
                changes.append(f"stage {entry['stage']}: your idea {title}: {entry['fate']}{reason}")
        if (state.stage, state.open) != (reported.stage, reported.open) and state.stage:
            changes.append(
                f"stage {state.stage} is open and wants {state.wanted} ideas within {max(0.0, state.closes - time.time()):.0f} seconds"
                if state.open
                else f"stage {state.stage} is closed"
            )
        if state.ended and not reported.ended:
            changes.append("the run has ended")
        self.reported = _Reported(state.stage, state.open, state.ended, fates)
        return changes

    def _limits(self) -> SubmissionLimits | None:
        """Return the limits in the current brief; None before the first stage."""
        if not inbox_client.read_state(self.run, self.name).stage:
            return None
        return SubmissionLimits.from_json(inbox_client.read_brief(self.run, self.name))

    def _state_json(self, state: StageState) -> dict[str, Any]:
        left = round(max(0.0, state.closes - time.time()), 1) if state.open else 0.0
        return {"stage": state.stage, "open": state.open, "seconds_left": left, "wanted": state.wanted, "ended": state.ended}


def _reportable_fates(results: dict[str, Any]) -> dict[tuple[int, str], str]:
    """Return the fates of the researcher's own ideas, by stage and file.

    The fate *submitted* is left out: the agent made that change itself.
    """
    return {(entry["stage"], entry["file"]): entry["fate"] for entry in results["own"] if entry["fate"] != SUBMITTED}


def _with_tool_errors(tool: Callable[..., Any], error_type: type[Exception]) -> Callable[..., Any]:
    """Wrap a tool so that a user's mistake becomes the tool's own error, one sentence long."""

    @contextmanager
    def convert_errors() -> Iterator[None]:
        try:
            yield
        except StagezeroError as error:
            raise error_type(str(error)) from None
        except OSError as error:
            raise error_type(f"the run's folder cannot be used ({error})") from None

    if inspect.iscoroutinefunction(tool):

        @functools.wraps(tool)
        async def call_async(*args: Any, **named: Any) -> Any:
            with convert_errors():
                return await tool(*args, **named)

        return call_async

    @functools.wraps(tool)
    def call(*args: Any, **named: Any) -> Any:
        with convert_errors():
            return tool(*args, **named)

    return call


def serve(run: Path, name: str) -> None:
    """Serve one outside researcher on stdin and stdout until the input ends.

    Raises:
        MissingPackageError: the package ``mcp`` is not installed.
        IdeaError: the run does not exist, or has no such researcher.
    """
    require_package("mcp", INSTALL_COMMAND, "the MCP server")
    sdk = require_package("mcp.server.mcpserver", INSTALL_COMMAND, "the MCP server")
    error_type = require_package("mcp.server.mcpserver.exceptions", INSTALL_COMMAND, "the MCP server").ToolError
    inbox_client.read_state(run, name)
    server = sdk.MCPServer("stagezero", title=f"stagezero: outside researcher {name}", instructions=SERVER_INSTRUCTIONS, log_level="ERROR")
    tools = Tools(run, name)
    for tool in (tools.read_brief, tools.idea_schema, tools.check_idea, tools.submit_idea, tools.finish, tools.list_results, tools.wait):
        # Structured output would send the brief twice.
        structured = False if tool.__name__ == "read_brief" else None
        server.add_tool(_with_tool_errors(tool, error_type), description=inspect.getdoc(tool), structured_output=structured)
    server.run("stdio")
