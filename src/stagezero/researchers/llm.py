"""A language model as the researcher: any model that Inspect can load, hosted or local.

The model gets the same briefing as every researcher and replies with one idea file at a time. An
invalid file goes back to it with the reason. Replies are untrusted text: their size is limited, and
they are parsed and validated against the stage's recipe. This module runs no part of a reply and
opens no file that a reply names, because a model's idea brings no files.

The model may not exceed the limits in the settings, over the whole run. Requests and replies are
stored in the run's folder, for people to read.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from rfc8785 import CanonicalizationError

from stagezero.errors import IdeaError, InputError, ProjectError, require_package
from stagezero.ideas import content_checks
from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import MAX_IDEA_BYTES, Idea, parse_idea
from stagezero.project import LLM
from stagezero.researchers.base import Researcher
from stagezero.researchers.briefing import briefing_text, idea_schema
from stagezero.researchers.inspect_client import (
    RESERVED_ARGUMENTS,
    ModelReply,
    NoReplyError,
    context_tokens,
    count_tokens,
    load_model,
    printable_text,
    remove_secrets,
    request_reply,
)
from stagezero.researchers.llm_record import Transcript, Usage
from stagezero.researchers.replies import MAX_REPLY_CHARACTERS, extract_idea_file
from stagezero.training import apply_patch

MAX_RETURNED_CHARACTERS = 8_000
"""Characters of an invalid reply that are sent back to the model."""
MAX_TRANSCRIPT_CHARACTERS = 16_000
"""Characters of a reply that the transcript contains."""
MAX_REASON_CHARACTERS = 2_000
"""Characters of the reason why a reply is invalid."""
RECENT_RESULTS = 8
"""Results of earlier ideas in a briefing that does not have room for all of them."""
SYSTEM_PROMPT = """You are a researcher. You improve the alignment of a small language model by proposing changes to its training. Each
proposal is one idea file, in the form that the next message describes. Reply with exactly one idea file and nothing else. Begin with a
line of three dashes. Then write the front matter and another line of three dashes. If there is no patch, add one block of Python."""

Turns = list[tuple[str, str]]
"""Messages of a conversation, as pairs of role and text."""


class LLMResearcher(Researcher):
    """Proposes up to ``settings.ideas`` ideas a stage."""

    def __init__(self, settings: LLM, folder: Path, transcripts: Path, *, model: Any = None) -> None:
        """Check what can be checked without loading a model.

        Args:
            settings: the researcher's entry in the project file.
            folder: the project's folder; a checkpoint folder in the settings is relative to it.
            transcripts: the folder for transcripts and the record of usage.
            model: an Inspect ``Model`` that replaces the one in the settings. The caller closes it.

        Raises:
            MissingPackageError: Inspect is not installed.
            ProjectError: the settings have an argument that is not allowed.
        """
        if importlib.util.find_spec("inspect_ai") is None:
            require_package("inspect_ai", "pip install 'stagezero[inspect]'", "the llm researcher")
        if reserved := sorted(RESERVED_ARGUMENTS & settings.arguments.keys()):
            raise ProjectError(
                f"researchers: arguments: expected arguments of the model's provider, got {reserved[0]!r}; remove it (set a key in the "
                "environment, never in a file)."
            )
        self.name, self.settings, self.folder, self.transcripts, self.model = settings.name, settings, folder, transcripts, model

    def propose(self, brief: Brief) -> list[Idea]:
        """Request ideas until there are enough or a limit is reached.

        The last line of the transcript has the reason for the end.

        Raises:
            ProjectError: the model cannot be loaded or rejects requests; the user must correct it.
            RunChangedError: the record of usage is damaged.
        """
        usage = Usage(self.transcripts / f"{self.name}-spent.json", self.settings)
        transcript = Transcript(self.transcripts / f"stage-{brief.stage}-{self.name}.jsonl")

        async def run_turn() -> list[Idea]:
            if self.model is not None:
                return await _Turn(self.settings, brief, self.model, usage, transcript).run()
            model = load_model(self.settings, self.folder)
            try:
                return await _Turn(self.settings, brief, model, usage, transcript).run()
            finally:
                with suppress(Exception):  # the ideas count, even if the connection does not close cleanly
                    await model.api.aclose()

        return _run_coroutine(run_turn)


def _run_coroutine(coroutine: Callable[[], Coroutine[Any, Any, list[Idea]]]) -> list[Idea]:
    """Run a coroutine to its end from any thread.

    If this thread already runs an event loop, another thread runs the coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(coroutine())).result()


class _TurnEnded(Exception):
    """A limit or a missing reply has ended the turn. The message is the reason."""


class _Turn:
    """The conversations with the model in one stage."""

    def __init__(self, settings: LLM, brief: Brief, model: Any, usage: Usage, transcript: Transcript) -> None:
        self.settings, self.brief, self.model = settings, brief, model
        self.usage, self.transcript = usage, transcript
        self.until = monotonic() + settings.seconds
        self.context_size = context_tokens(model)
        self.briefings = _briefings(brief)
        self.previous_turns: Turns = []
        self.ideas: dict[tuple[str, str], Idea] = {}

    async def run(self) -> list[Idea]:
        """Request all ideas, and return those that are valid."""
        s = self.settings
        self.transcript.write(
            "turn", stage=self.brief.stage, settings=s.model_dump(mode="json"), window=self.context_size, spent=self.usage.as_json()
        )
        reason = "an error, or the run was stopped"
        try:
            for number in range(1, s.ideas + 1):
                await self._propose_one(number)
            reason = f"all {s.ideas} ideas were requested"
        except _TurnEnded as ended:
            reason = str(ended)
        except ProjectError as error:
            reason = str(error)
            raise
        finally:
            self.transcript.write("end", why=reason, titles=[idea.title for idea in self.ideas.values()], spent=self.usage.as_json())
        return list(self.ideas.values())

    async def _propose_one(self, number: int) -> None:
        """Request one idea, with as many attempts as the settings allow."""
        exchanges: list[tuple[str, str]] = []
        for attempt in range(1, self.settings.attempts + 1):
            reply = await self._request(number, attempt, exchanges)
            text = printable_text(reply.text[:MAX_REPLY_CHARACTERS])
            details = {
                "idea": number,
                "attempt": attempt,
                "text": remove_secrets(text)[:MAX_TRANSCRIPT_CHARACTERS],
                "characters": len(reply.text),
                "stopped": reply.stop_reason,
                "usage": {"tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out},
                "counted": "reported by the provider"
                if reply.usage_reported
                else "estimated at four characters a token: the provider reports no usage",
            }
            try:
                key, idea = self._parse_reply(text)
            except (InputError, CanonicalizationError, OSError, TypeError, ValueError, RecursionError) as error:
                reason = remove_secrets(str(error))[:MAX_REASON_CHARACTERS]
                if reply.stop_reason == "max_tokens" or reply.tokens_out >= self.settings.answer_tokens:
                    reason += f" The reply was cut off at {self.settings.answer_tokens:,} tokens; write less."
                self.transcript.write("reply", **details, verdict="refused", why=reason)
                exchanges.append((text[:MAX_RETURNED_CHARACTERS].strip() or "(nothing)", reason))
                continue
            self.ideas[key] = idea
            self.transcript.write("reply", **details, verdict="accepted", title=idea.title)
            return

    async def _request(self, number: int, attempt: int, exchanges: list[tuple[str, str]]) -> ModelReply:
        """Return the reply to one request that fits the model's context and the limits.

        If the provider finds the request too long, a shorter one is sent.
        """
        while True:
            label, turns, size = self._fitting_request(number, exchanges)
            left = self.until - monotonic()
            if left <= 0:
                raise _TurnEnded(f"seconds: the {self.settings.seconds:g} seconds of this stage are over")
            if limit := self.usage.exceeded_limit(size, self.settings.answer_tokens):
                raise _TurnEnded(limit)
            new = [{"role": role, "text": text} for role, text in turns if (role, text) not in self.previous_turns and role != "assistant"]
            self.previous_turns = turns
            self.transcript.write("request", idea=number, attempt=attempt, told=label, messages=len(turns), tokens_at_most=size, new=new)
            self.usage.charge(size, self.settings.answer_tokens)
            try:
                reply = await request_reply(self.model, turns, self.settings, left)
            except TimeoutError:
                raise _TurnEnded(
                    f"seconds: the {self.settings.seconds:g} seconds of this stage are over without a reply; the request is charged at its "
                    "maximum"
                ) from None
            except NoReplyError as error:
                if error.uncharged:
                    self.usage.charge(-size, -self.settings.answer_tokens)
                self.transcript.write("no reply", idea=number, attempt=attempt, why=str(error))
                if error.may_be_too_long and self._use_shorter_briefing(label):
                    continue
                if error.user_error and not self.ideas:
                    raise ProjectError(
                        f"researchers: model: {self.settings.model!r} rejected the request ({error}); correct the model's name or "
                        "settings, or set a key for it in the environment."
                    ) from None
                raise _TurnEnded(f"the model does not reply: {error}") from None
            self.usage.charge(reply.tokens_in - size, reply.tokens_out - self.settings.answer_tokens)
            if reply.context_exceeded() and self._use_shorter_briefing(label):
                self.transcript.write("no reply", idea=number, attempt=attempt, why="the request is too long for the model's context")
                continue
            return reply

    def _use_shorter_briefing(self, label: str) -> bool:
        """Use shorter briefings than this one from now on; return False if there is none."""
        labels = [known for known, _ in self.briefings]
        self.briefings = self.briefings[labels.index(label) + 1 :] or self.briefings[-1:]
        return label != labels[-1]

    def _fitting_request(self, number: int, exchanges: list[tuple[str, str]]) -> tuple[str, Turns, int]:
        """Return the longest request that fits the context: its label, messages and size in tokens.

        The schema is left out first, because the briefing shows the form of an idea. Old results
        are left out next, then old attempts. If nothing fits, the shortest request is returned: its
        failure affects no other researcher.
        """
        for included in (exchanges, exchanges[-1:]):
            for label, text in self.briefings:
                turns = self._messages(text, number, included)
                size = count_tokens(self.model, turns)
                if self.context_size is None or size + self.settings.answer_tokens <= self.context_size:
                    return label, turns, size
        return label, turns, size

    def _messages(self, briefing: str, number: int, exchanges: list[tuple[str, str]]) -> Turns:
        titles = "".join(f"- {idea.title}\n" for idea in self.ideas.values())
        earlier = f"You have already proposed these ideas in this stage:\n{titles}Propose a different one.\n" if titles else ""
        task = f"{briefing}\n## Now\n{earlier}Write idea {number} of {self.settings.ideas}: one idea file, and nothing else.\n"
        turns = [("system", SYSTEM_PROMPT), ("user", task)]
        for reply, reason in exchanges:
            turns += [
                ("assistant", reply),
                ("user", f"This is not a valid idea: {reason}\nReply with the whole corrected idea file and nothing else."),
            ]
        return turns

    def _parse_reply(self, reply: str) -> tuple[tuple[str, str], Idea]:
        """Return the idea in a reply, and its key: its property and its candidate's digest.

        Raises:
            InputError, OSError, TypeError, ValueError: the reason why it is invalid, for the model.
        """
        where, control = "the reply", self.brief.control
        idea = parse_idea(extract_idea_file(reply), where, self.settings.name, self.settings.model)
        if idea.property not in self.brief.properties:
            known = ", ".join(self.brief.properties)
            raise IdeaError(f"{where}: 'property': expected one of {known}, got {idea.property!r:.60}; name one of them.")
        content_checks.check_idea(idea)
        if idea.size() > MAX_IDEA_BYTES:
            raise IdeaError(f"{where}: expected at most {MAX_IDEA_BYTES:,} bytes, got {idea.size():,}; write less.")
        candidate = apply_patch(control, idea.operations(), where)
        content_checks.check_channels(candidate, control, {source: source for source in self.brief.channels})
        if candidate.digest() == control.digest():
            raise IdeaError(f"{where}: 'patch' changes nothing in the current recipe; propose a change.")
        key = (idea.property, candidate.digest())
        if key in self.ideas:
            raise IdeaError(
                f"{where}: this idea is the same as “{self.ideas[key].title}”, which you have already proposed; propose a different one."
            )
        return key, idea


def _briefings(brief: Brief) -> list[tuple[str, str]]:
    """Return briefings of decreasing length, as pairs of label and text."""
    whole = briefing_text(brief)
    schema = json.dumps(idea_schema(), separators=(",", ":"))
    texts = [("briefing and schema", f"{whole}\n## JSON Schema of the front matter\n{schema}\n"), ("briefing", whole)]
    if len(brief.history) > RECENT_RESULTS:
        recent = briefing_text(replace(brief, history=brief.history[-RECENT_RESULTS:]))
        texts.append((f"briefing with the last {RECENT_RESULTS} results", recent))
    if brief.history:
        texts.append(("briefing without results", briefing_text(replace(brief, history=()))))
    return texts
