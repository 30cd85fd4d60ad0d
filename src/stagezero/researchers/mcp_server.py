"""The folder of one outside researcher, spoken over the Model Context Protocol: for coding agents and whatever else speaks it.

The server runs as whoever started it and stands for one researcher of one run, both fixed when it starts: no tool takes a path or a name,
so that an agent reaches its own folder of the run (``inbox.py``) and nothing else. The campaign trusts what comes through it no more
than a file that was left there by hand. On standard output it says nothing but the protocol.
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

from stagezero.errors import IdeaError, StagezeroError, need
from stagezero.ideas.precheck import LONGEST, Asked, check
from stagezero.researchers import inbox_client
from stagezero.researchers.briefing import schema
from stagezero.researchers.inbox_record import SUBMITTED, State

INSTALL = "pip install 'stagezero[mcp]'"
LONGEST_WAIT = 300.0
POLL = 0.2
ABOUT = """You are an outside researcher of a stagezero campaign: you propose changes to how a language model is trained, and each is tried
in paired replicates until it is decided. Go round like this: wait until a stage is open, read_brief, write ideas and check_idea them,
submit_idea as many as are wanted, finish if you have fewer, wait for what becomes of them, list_results, and use them for the next stage,
until the run has ended."""

IdeaText = Annotated[
    str,
    Field(
        description="One whole idea file: Markdown with YAML front matter, and below it, where there is no patch, one ```python block.",
        json_schema_extra={"maxLength": LONGEST},
    ),
]
Seconds = Annotated[float, Field(description=f"How long to wait at most; {LONGEST_WAIT:g} is the most. Stay below your own time limit.")]


@dataclass
class _Seen:
    """What the agent has been told so far, so that it is not told twice and nothing between two calls is lost."""

    stage: int = 0
    open: bool = False
    ended: bool = False
    fates: dict[tuple[int, str], str] = field(default_factory=dict)


class Tools:
    """What an agent can do; each method is a tool, and its docstring the tool's description."""

    def __init__(self, run: Path, name: str) -> None:
        self.run, self.name = run, name
        self.seen = _Seen()

    def read_brief(self) -> list[str]:
        """What every researcher of the open stage is told: the model's scores, the recipe as it stands, what became of earlier ideas, and
        how to write an idea. Returns the text, and after it the same as JSON with the stage's state. Read it anew in every stage: the
        recipe that your patches apply to may have changed."""
        state = inbox_client.waiting(self.run, self.name)
        brief = inbox_client.brief_of(self.run, self.name)
        self.seen.stage, self.seen.open = state.stage, state.open
        text = str(brief.pop("text", ""))
        return [text, json.dumps({"state": self._state(state), **brief})]

    def idea_schema(self) -> dict[str, Any]:
        """JSON Schema of an idea file's front matter, with all operations of a patch and all steps of a recipe; read_brief has an example
        of a file."""
        return schema()

    def check_idea(self, text: IdeaText) -> dict[str, Any]:
        """Check an idea without submitting it: its form, what may not cross, and whether it fits the recipe as it stands. Returns what
        would cross and its bits, or the reason why it would be refused as an error."""
        idea = check(text, "idea", self.name, self._asked())
        return {"digest": idea.digest(), "title": idea.title, "bits": idea.bits(), "crosses": idea.technique()}

    def submit_idea(self, text: IdeaText) -> dict[str, Any]:
        """Submit an idea for the open stage. It is checked like check_idea; the same technique again counts once. When as many as are
        wanted have been submitted the stage closes, and what is submitted cannot be taken back. Returns the idea's digest."""
        digest = inbox_client.submit(self.run, self.name, text)
        return {"digest": digest, "state": self._state(inbox_client.waiting(self.run, self.name))}

    def finish(self) -> dict[str, Any]:
        """Say that there will be no more ideas for the open stage, so that the campaign goes on at once with those that were submitted."""
        return {"finished_stage": inbox_client.say_done(self.run, self.name)}

    def list_results(self) -> dict[str, Any]:
        """What became of ideas so far. 'results': everybody's decided ideas, with the mean effect on their property and on the alignment
        score. 'own': your submissions, each submitted, accepted into its stage, refused (with why), or decided."""
        found = inbox_client.results(self.run, self.name)
        self.seen.fates = _fates(found)
        return {"state": self._state(inbox_client.waiting(self.run, self.name)), **found}

    async def wait(self, seconds: Seconds = 60.0) -> dict[str, Any]:
        """Wait until something happens that you have not been told yet: a stage opens or closes, one of your ideas is accepted, refused or
        decided, or the run ends. Returns what changed, as sentences, and the state; an empty list means that the time was over. Stages take
        minutes to hours, so call it again."""
        if not seconds >= 0:
            raise IdeaError(f"seconds: expected 0 to {LONGEST_WAIT:g}, got {seconds}; correct it.")
        end = time.monotonic() + min(seconds, LONGEST_WAIT)
        while True:
            state = inbox_client.waiting(self.run, self.name)
            changed = self._changed(state, inbox_client.results(self.run, self.name))
            left = end - time.monotonic()
            if changed or left <= 0:
                return {"changed": changed, "state": self._state(state)}
            await anyio.sleep(min(POLL, left))

    def _changed(self, state: State, results: dict[str, Any]) -> list[str]:
        """What the agent does not know yet; from now on it does."""
        seen, fates = self.seen, _fates(results)
        told = []
        for entry in results["own"]:
            key = (entry["stage"], entry["file"])
            if fates.get(key, seen.fates.get(key)) != seen.fates.get(key):
                named = repr(entry["title"] or entry["file"])
                told.append(f"stage {entry['stage']}: your idea {named}: {entry['fate']}" + (f" ({entry['why']})" if entry["why"] else ""))
        if (state.stage, state.open) != (seen.stage, seen.open) and state.stage:
            told.append(
                f"stage {state.stage} is open and wants {state.wanted} ideas within {max(0.0, state.closes - time.time()):.0f} seconds"
                if state.open
                else f"stage {state.stage} is closed"
            )
        if state.ended and not seen.ended:
            told.append("the run has ended")
        self.seen = _Seen(state.stage, state.open, state.ended, fates)
        return told

    def _asked(self) -> Asked | None:
        """What an idea is held against; nothing before the first stage."""
        return Asked.read(inbox_client.brief_of(self.run, self.name)) if inbox_client.waiting(self.run, self.name).stage else None

    def _state(self, state: State) -> dict[str, Any]:
        left = round(max(0.0, state.closes - time.time()), 1) if state.open else 0.0
        return {"stage": state.stage, "open": state.open, "seconds_left": left, "wanted": state.wanted, "ended": state.ended}


def _fates(results: dict[str, Any]) -> dict[tuple[int, str], str]:
    """Fates of one's own ideas that are news: that one has submitted them is none."""
    return {(e["stage"], e["file"]): e["fate"] for e in results["own"] if e["fate"] != SUBMITTED}


def _spoken(tool: Callable[..., Any], error_type: type[Exception]) -> Callable[..., Any]:
    """A tool whose user's mistakes come back as the tool's own error, one sentence long."""

    @contextmanager
    def mistakes() -> Iterator[None]:
        try:
            yield
        except StagezeroError as error:
            raise error_type(str(error)) from None
        except OSError as error:
            raise error_type(f"the run's folder cannot be used ({error})") from None

    if inspect.iscoroutinefunction(tool):

        @functools.wraps(tool)
        async def waited(*args: Any, **named: Any) -> Any:
            with mistakes():
                return await tool(*args, **named)

        return waited

    @functools.wraps(tool)
    def called(*args: Any, **named: Any) -> Any:
        with mistakes():
            return tool(*args, **named)

    return called


def serve(run: Path, name: str) -> None:
    """Serve one outside researcher on standard input and output until the input ends.

    Raises:
        MissingPackageError: the package ``mcp`` is not installed.
        IdeaError: there is no such run, or no such researcher in it.
    """
    need("mcp", INSTALL, "the MCP server")
    room = need("mcp.server.mcpserver", INSTALL, "the MCP server")
    error_type = need("mcp.server.mcpserver.exceptions", INSTALL, "the MCP server").ToolError
    inbox_client.waiting(run, name)
    server = room.MCPServer("stagezero", title=f"stagezero: outside researcher {name}", instructions=ABOUT, log_level="ERROR")
    tools = Tools(run, name)
    for tool in (tools.read_brief, tools.idea_schema, tools.check_idea, tools.submit_idea, tools.finish, tools.list_results, tools.wait):
        # Of the brief the text is what matters: as structured output it would be sent twice.
        server.add_tool(
            _spoken(tool, error_type), description=inspect.getdoc(tool), structured_output=False if tool.__name__ == "read_brief" else None
        )
    server.run("stdio")
