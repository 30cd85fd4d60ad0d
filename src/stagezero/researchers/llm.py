"""A language model that proposes: any that Inspect reaches, hosted or here.

It is told what every researcher is told and answers with one idea file at a time; a file that cannot be used goes back to it with the
reason. Its replies are untrusted text: they are cut to size, read as an idea and held against the stage's recipe, and no part of them is
run or opened here; a file that an idea names is never read, for a model brings none along. It may spend no more than the settings allow,
over the whole run; what was asked and said is kept beside the run, for people.
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

from stagezero.errors import IdeaError, InputError, ProjectError, RunChangedError, need
from stagezero.files import write_whole
from stagezero.ideas import content_checks
from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import MAX_BYTES, Idea, parse_idea
from stagezero.project import LLM
from stagezero.researchers.base import Researcher
from stagezero.researchers.briefing import briefing, schema
from stagezero.researchers.inspect_client import RESERVED, Answer, Unanswered, ask, count, plain, reach, scrubbed, window
from stagezero.researchers.replies import LOOKED_AT, extract
from stagezero.training import apply_patch

RETURNED, KEPT, REASON = 8_000, 16_000, 2_000
"""Characters of a reply that are shown to the model again, of one that are kept in the transcript, and of a reason."""
RECENT = 8
"""Results of earlier ideas that are told where all of them do not fit."""
SYSTEM = """You are a researcher. You improve the alignment of a small language model by proposing changes to how it is trained. Each
proposal is one idea file in the form that you are shown. Reply with exactly one idea file and nothing else: it begins with a line of
three dashes, then come the front matter, another line of three dashes and, only where there is no patch, one block of Python."""

Turns = list[tuple[str, str]]


class LLMResearcher(Researcher):
    """Proposes up to ``settings.ideas`` ideas a stage."""

    def __init__(self, settings: LLM, folder: Path, said: Path, *, model: Any = None) -> None:
        """Check now what can be checked without loading anything.

        Args:
            folder: the project's; a checkpoint folder is seen from it.
            said: where transcripts and what was spent are kept.
            model: an Inspect ``Model`` to use in place of the one that the settings name; whoever hands it in closes it.

        Raises:
            MissingPackageError: Inspect is not installed.
            ProjectError: an argument that may not be given.
        """
        if importlib.util.find_spec("inspect_ai") is None:
            need("inspect_ai", "pip install 'stagezero[inspect]'", "the llm researcher")
        if taken := sorted(RESERVED & settings.arguments.keys()):
            raise ProjectError(
                f"researchers: arguments: expected what the model's provider takes, got {taken[0]!r}; remove it (a key is set in the "
                "environment, never in a file)."
            )
        self.name, self.settings, self.folder, self.said, self.model = settings.name, settings, folder, said, model

    def propose(self, brief: Brief) -> list[Idea]:
        """Ask for ideas until there are enough, or a limit ends the turn; the transcript says which.

        Raises:
            ProjectError: the model cannot be reached, and the user must mend that.
            RunChangedError: the record of what was spent is damaged.
        """
        spent = Spent(self.said / f"{self.name}-spent.json", self.settings)
        transcript = Transcript(self.said / f"stage-{brief.stage}-{self.name}.jsonl")

        async def turn() -> list[Idea]:
            if self.model is not None:
                return await _Turn(self.settings, brief, self.model, spent, transcript).take()
            model = reach(self.settings, self.folder)
            try:
                return await _Turn(self.settings, brief, model, spent, transcript).take()
            finally:
                with suppress(Exception):  # it has answered: how it goes away is no fate of its ideas
                    await model.api.aclose()

        return _run(turn)


def _run(turn: Callable[[], Coroutine[Any, Any, list[Idea]]]) -> list[Idea]:
    """Run a coroutine to its end, from any thread; where this one runs a loop already, in another."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(turn())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(turn())).result()


class Spent:
    """What a model has used over the whole run. A request is counted at its worst before it is sent, and set right when its reply is
    there: a run that is killed in between has not forgotten it."""

    def __init__(self, path: Path, settings: LLM) -> None:
        self.path, self.settings = path, settings
        self.tokens_in = self.tokens_out = 0
        if path.is_file():
            try:
                kept = json.loads(path.read_text(encoding="utf-8"))
                self.tokens_in, self.tokens_out = int(kept["tokens_in"]), int(kept["tokens_out"])
            except (ValueError, TypeError, KeyError, OSError):
                raise RunChangedError(f"{path}: what was spent is damaged; restore the file, or start anew with --fresh.") from None

    def dollars(self, more_in: int = 0, more_out: int = 0) -> float:
        each_in, each_out = self.settings.prices or (0.0, 0.0)
        return ((self.tokens_in + more_in) * each_in + (self.tokens_out + more_out) * each_out) / 1e6

    def over(self, more_in: int, more_out: int) -> str | None:
        """Which limit so many more tokens would break."""
        limit, cap, now = self.settings.tokens, self.settings.dollars, self.tokens_in + self.tokens_out
        if now + more_in + more_out > limit:
            return f"tokens: {now:,} of {limit:,} are spent, and the next request may take {more_in + more_out:,}"
        if cap is not None and self.dollars(more_in, more_out) > cap:
            worst = self.dollars(more_in, more_out)
            return f"dollars: {self.dollars():.4f} of {cap:g} are spent, and with the next request it may be {worst:.4f}"
        return None

    def add(self, tokens_in: int, tokens_out: int) -> None:
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        write_whole(self.path, json.dumps(self.record()) + "\n")

    def record(self) -> dict[str, Any]:
        return {"tokens_in": self.tokens_in, "tokens_out": self.tokens_out, "dollars": round(self.dollars(), 6)}


class Transcript:
    """What was asked and said in one stage: a JSON object a line, written as it happens, without secrets."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **more: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(_clean({"event": event, **more}), ensure_ascii=False) + "\n")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return scrubbed(plain(value))
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list | tuple) else value


class _Over(Exception):
    """The turn is over; says why."""


class _Turn:
    """One stage's conversation."""

    def __init__(self, settings: LLM, brief: Brief, model: Any, spent: Spent, transcript: Transcript) -> None:
        self.settings, self.brief, self.model = settings, brief, model
        self.spent, self.transcript = spent, transcript
        self.until = monotonic() + settings.seconds
        self.window = window(model)
        self.tellings = _tellings(brief)
        self.shown: Turns = []
        self.ideas: dict[tuple[str, str], Idea] = {}

    async def take(self) -> list[Idea]:
        s = self.settings
        self.transcript.write(
            "turn", stage=self.brief.stage, settings=s.model_dump(mode="json"), window=self.window, spent=self.spent.record()
        )
        why = "an error, or the run was stopped"
        try:
            for number in range(1, s.ideas + 1):
                await self._one(number)
            why = f"all {s.ideas} were asked for"
        except _Over as over:
            why = str(over)
        except ProjectError as error:
            why = str(error)
            raise
        finally:
            self.transcript.write("end", why=why, titles=[idea.title for idea in self.ideas.values()], spent=self.spent.record())
        return list(self.ideas.values())

    async def _one(self, number: int) -> None:
        """Ask for one idea, as often as the settings allow."""
        exchanges: list[tuple[str, str]] = []
        for attempt in range(1, self.settings.attempts + 1):
            answer = await self._ask(number, attempt, exchanges)
            reply = plain(answer.text[:LOOKED_AT])
            said = {
                "idea": number,
                "attempt": attempt,
                "text": scrubbed(reply)[:KEPT],
                "characters": len(answer.text),
                "stopped": answer.stopped,
                "usage": {"tokens_in": answer.tokens_in, "tokens_out": answer.tokens_out},
                "counted": "as the provider reports"
                if answer.reported
                else "estimated, four characters a token: the provider reports nothing",
            }
            try:
                key, idea = self._judge(reply)
            except (InputError, CanonicalizationError, OSError, TypeError, ValueError, RecursionError) as error:
                why = scrubbed(str(error))[:REASON]
                if answer.stopped == "max_tokens" or answer.tokens_out >= self.settings.answer_tokens:
                    why += f" The reply was cut off at {self.settings.answer_tokens:,} tokens; write less."
                self.transcript.write("reply", **said, verdict="refused", why=why)
                exchanges.append((reply[:RETURNED].strip() or "(nothing)", why))
                continue
            self.ideas[key] = idea
            self.transcript.write("reply", **said, verdict="accepted", title=idea.title)
            return

    async def _ask(self, number: int, attempt: int, exchanges: list[tuple[str, str]]) -> Answer:
        """One reply, to a request that fits the model's context and the limits; a shorter one where the model finds it too long."""
        while True:
            label, turns, size = self._fitting(number, exchanges)
            left = self.until - monotonic()
            if left <= 0:
                raise _Over(f"seconds: the {self.settings.seconds:g} of this stage are over")
            if limit := self.spent.over(size, self.settings.answer_tokens):
                raise _Over(limit)
            new = [{"role": role, "text": text} for role, text in turns if (role, text) not in self.shown and role != "assistant"]
            self.shown = turns
            self.transcript.write("request", idea=number, attempt=attempt, told=label, messages=len(turns), tokens_at_most=size, new=new)
            self.spent.add(size, self.settings.answer_tokens)
            try:
                answer = await ask(self.model, turns, self.settings, left)
            except TimeoutError:
                raise _Over(
                    f"seconds: the {self.settings.seconds:g} of this stage are over; no reply had come, counted at its worst"
                ) from None
            except Unanswered as error:
                if error.free:
                    self.spent.add(-size, -self.settings.answer_tokens)
                self.transcript.write("no reply", idea=number, attempt=attempt, why=str(error))
                if error.shorter and self._shorten(label):
                    continue
                if error.mend and not self.ideas:
                    raise ProjectError(
                        f"researchers: model: {self.settings.model!r} turned the request away ({error}); correct the model's name or "
                        "settings, or set a key for it in the environment."
                    ) from None
                raise _Over(f"the model does not answer: {error}") from None
            self.spent.add(answer.tokens_in - size, answer.tokens_out - self.settings.answer_tokens)
            if answer.too_long() and self._shorten(label):
                self.transcript.write("no reply", idea=number, attempt=attempt, why="the request is too long for the model's context")
                continue
            return answer

    def _shorten(self, label: str) -> bool:
        """From now on tell less than this; False where there is no less."""
        labels = [known for known, _ in self.tellings]
        self.tellings = self.tellings[labels.index(label) + 1 :] or self.tellings[-1:]
        return label != labels[-1]

    def _fitting(self, number: int, exchanges: list[tuple[str, str]]) -> tuple[str, Turns, int]:
        """The fullest request that fits: first the schema is left out (the briefing has the form), then old results, then old attempts.

        Where nothing fits, the shortest is tried: what a model makes of it costs no one else.
        """
        for kept in (exchanges, exchanges[-1:]):
            for label, telling in self.tellings:
                turns = self._turns(telling, number, kept)
                size = count(self.model, turns)
                if self.window is None or size + self.settings.answer_tokens <= self.window:
                    return label, turns, size
        return label, turns, size

    def _turns(self, telling: str, number: int, exchanges: list[tuple[str, str]]) -> Turns:
        proposed = "".join(f"- {idea.title}\n" for idea in self.ideas.values())
        before = f"You have proposed in this stage already:\n{proposed}Propose something else.\n" if proposed else ""
        task = f"{telling}\n## Now\n{before}Write idea {number} of {self.settings.ideas}: one idea file, and nothing else.\n"
        turns = [("system", SYSTEM), ("user", task)]
        for reply, why in exchanges:
            turns += [
                ("assistant", reply),
                ("user", f"This cannot be used: {why}\nReply with the whole corrected idea file and nothing else."),
            ]
        return turns

    def _judge(self, reply: str) -> tuple[tuple[str, str], Idea]:
        """A reply as an idea that fits the stage, with what it is known by.

        Raises:
            InputError, OSError, TypeError, ValueError: why not, for the model to read.
        """
        where, control = "the reply", self.brief.control
        idea = parse_idea(extract(reply), where, self.settings.name, self.settings.model)
        if idea.property not in self.brief.properties:
            known = ", ".join(self.brief.properties)
            raise IdeaError(f"{where}: 'property': expected one of {known}, got {idea.property!r:.60}; name one of them.")
        content_checks.check(idea)
        if idea.size() > MAX_BYTES:
            raise IdeaError(f"{where}: {idea.size():,} bytes; at most {MAX_BYTES:,} may cross, so write less.")
        candidate = apply_patch(control, idea.operations(), where)
        content_checks.check_channels(candidate, control, {source: source for source in self.brief.channels})
        if candidate.digest() == control.digest():
            raise IdeaError(f"{where}: 'patch' changes nothing in the recipe as it stands; propose a change.")
        key = (idea.property, candidate.digest())
        if key in self.ideas:
            raise IdeaError(
                f"{where}: this is the same as “{self.ideas[key].title}”, which you have proposed already; propose something else."
            )
        return key, idea


def _tellings(brief: Brief) -> list[tuple[str, str]]:
    """What a model is told, the fullest first."""
    whole = briefing(brief)
    form = json.dumps(schema(), separators=(",", ":"))
    found = [("briefing and schema", f"{whole}\n## JSON Schema of the front matter\n{form}\n"), ("briefing", whole)]
    if len(brief.history) > RECENT:
        found.append((f"briefing with the last {RECENT} results", briefing(replace(brief, history=brief.history[-RECENT:]))))
    if brief.history:
        found.append(("briefing without results", briefing(replace(brief, history=()))))
    return found
