"""Ideas from outside: a folder of the run where a person or agent elsewhere is told what all researchers are told, and leaves idea files.

    RUN/outside/NAME/   brief.md, brief.json   the brief of the stage
                        state.json             the stage, whether it is open, until when, and how many ideas are wanted
                        inbox/stage-N/*.md     ideas, each written whole under a name with a dot in front, and then renamed
                        done-stage-N           there will be no more
                        results.json           what became of all earlier ideas, and of the researcher's own submissions

Whoever writes there is not trusted. The campaign opens the folder step by step and follows no link, reads plain files of a bounded size
and number, and believes nothing that it wrote there itself: what it must remember lies beside, in ``RUN/outside/.kept``. What cannot be
read is refused with a reason, and a spoilt folder costs its own researcher alone; only the machine's own trouble, such as a full disk,
stops a run. An idea from outside names no file and no path, so that nothing of this machine is opened on its word.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagezero import files
from stagezero.errors import IdeaError, RunChangedError
from stagezero.files import write_whole
from stagezero.ideas.brief import Brief, Outcome
from stagezero.ideas.idea import Idea
from stagezero.ideas.precheck import LONGEST, Asked, check
from stagezero.researchers.briefing import as_json, briefing, result

if TYPE_CHECKING:
    from stagezero.ideas.airlock import Refused

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
MOST_FILES, MOST_TOLD = 256, 50
"""Files of an inbox that are looked at, and refusals that are told."""
LONGEST_ANSWER = 16 << 20
"""Bytes of a file of the campaign's that the other side reads."""
SUBMITTED, ACCEPTED, REFUSED = "submitted", "accepted", "refused"
HOW = """# How to take part

Read brief.md, write an idea in the form that it shows, and save it as a Markdown file in inbox/stage-N, N being the stage in state.json
(write it under a name that begins with a dot, then rename it), or: stagezero idea submit FILE --run RUN --as NAME. At most the wanted
number is taken, until the stage closes; an empty file done-stage-N says that there will be no more. results.json says what was refused and
why, and what became of all ideas.
"""

Looked = dict[str, tuple[tuple[int, ...], Idea | str]]


@dataclass(frozen=True, slots=True)
class State:
    """What the campaign wants of one outside researcher; stage 0 is before the first."""

    stage: int = 0
    open: bool = False
    closes: float = 0.0
    wanted: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a stage's inbox: file and idea in the order of the ideas' digests, and file and reason of what cannot be used."""

    ideas: tuple[tuple[str, Idea], ...]
    refused: tuple[tuple[str, str], ...]


# --- the campaign's side -------------------------------------------------------------------------------------------------


def open_stage(run: Path, name: str, brief: Brief, wanted: int, seconds: float) -> State:
    """Ask for ideas for a stage; where it was asked for before the run was cut off, under the terms and until the time of then."""
    kept = _recall(run, name)
    if kept["state"]["stage"] != brief.stage:
        _note_late(run, name, kept)
        kept["state"] = asdict(State(brief.stage, True, time.time() + seconds, wanted))
    kept["state"] |= {"open": True, "ended": False}
    _add_results(kept, brief.history)
    _remember(run, name, kept)
    with files.ignore_their_errors(), files.open_folder(_record(run, name).parents[1], name, make=True) as folder:
        files.write_in_folder(folder, "README.md", HOW)
        files.write_in_folder(folder, "brief.json", json.dumps(as_json(brief), indent=1))
        files.write_in_folder(folder, "brief.md", briefing(brief))
    with files.ignore_their_errors(), files.open_folder(_record(run, name).parents[1], name, "inbox", f"stage-{brief.stage}", make=True):
        pass
    _tell(run, name, kept)
    return State(**kept["state"])


def submissions(run: Path, name: str, stage: int, asked: Asked, looked: Looked | None = None) -> Found:
    """What lies in a stage's inbox now.

    Args:
        looked: what earlier calls found, so that a file which did not change is not read again.
    """
    looked = {} if looked is None else looked
    ideas: dict[str, tuple[str, Idea]] = {}
    refused: list[tuple[str, str]] = []
    try:
        with files.open_folder(_record(run, name).parents[1], name, "inbox", f"stage-{stage}") as folder:
            names = files.list_names(folder)
            for gone in looked.keys() - set(names[:MOST_FILES]):
                del looked[gone]
            for file in names[:MOST_FILES]:
                verdict = _look(folder, file, name, asked, looked)
                if isinstance(verdict, str):
                    refused.append((file, verdict))
                elif verdict is not None and (first := ideas.setdefault(verdict.digest(), (file, verdict)))[0] != file:
                    refused.append((file, f"the same idea as {first[0]}; one is enough"))
            if len(names) > MOST_FILES:
                refused.insert(0, ("…", f"more than {MOST_FILES} files in the inbox; those behind were not looked at, so remove some"))
    except OSError as error:
        if error.errno in files.MACHINE_ERRORS:
            raise
        refused.append(("inbox", f"cannot be read ({error.strerror}); put a folder there"))
    return Found(tuple(ideas[digest] for digest in sorted(ideas)), tuple(refused))


def is_done(run: Path, name: str, stage: int) -> bool:
    """Has the researcher said that there will be no more?"""
    with files.ignore_their_errors(), files.open_folder(_record(run, name).parents[1], name) as folder:
        return stat.S_ISREG(os.stat(f"done-stage-{stage}", dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def report(run: Path, name: str, stage: int, found: Found, fate: str = SUBMITTED) -> None:
    """Tell a researcher what was found in the inbox."""
    kept = _recall(run, name)
    wanted = kept["state"]["wanted"]
    own = [_entry(stage, file, fate, "", idea) for file, idea in found.ideas[:wanted]]
    own += [_entry(stage, file, REFUSED, f"more than the {wanted} wanted", idea) for file, idea in found.ideas[wanted:][:MOST_TOLD]]
    own += [_entry(stage, file, REFUSED, why) for file, why in found.refused[:MOST_TOLD]]
    kept["own"] = [entry for entry in kept["own"] if entry["stage"] != stage] + own
    _remember(run, name, kept)
    _tell(run, name, kept)


def close_stage(run: Path, name: str, stage: int, asked: Asked, looked: Looked | None = None) -> list[Idea]:
    """Take no more, and return what there is, at most as many ideas as were wanted, in the order of their digests."""
    kept = _recall(run, name)
    kept["state"]["open"] = False
    _remember(run, name, kept)
    _tell(run, name, kept)  # before the last look: who saw the stage open after writing can rely on having been seen
    found = submissions(run, name, stage, asked, looked)
    report(run, name, stage, found, ACCEPTED)
    return [idea for _, idea in found.ideas[: kept["state"]["wanted"]]]


def publish(run: Path, names: Iterable[str], history: Sequence[Outcome], refused: Sequence[Refused] = (), *, ended: bool = False) -> None:
    """Tell outside researchers what became of ideas: of everybody's, means and fates; of their own also why the airlock refused them.

    Args:
        history: all outcomes so far. A run that continues tells again what was told before; nothing is taken back by that.
        refused: what the airlock refused in the stage at hand.
        ended: the run is over.
    """
    for name in names:
        kept = _recall(run, name)
        _note_late(run, name, kept)
        _add_results(kept, history)
        fates = {(o.stage, o.idea.digest()): (o.fate, "") for o in history if o.idea.researcher == name}
        no = {r.idea.digest(): (REFUSED, r.why) for r in refused if r.idea.researcher == name}
        for entry in kept["own"]:
            known = fates.get((entry["stage"], entry["digest"]))
            if known is None and entry["stage"] == kept["state"]["stage"] and entry["fate"] == ACCEPTED:
                known = no.get(entry["digest"])
            if known is not None:
                entry["fate"], entry["why"] = known
        kept["state"]["ended"] = kept["state"]["ended"] or ended
        _remember(run, name, kept)
        _tell(run, name, kept)


# --- the researcher's side -----------------------------------------------------------------------------------------------


def waiting(run: Path, name: str) -> State:
    """What the campaign wants of a researcher now.

    Raises:
        IdeaError: no such run, or no such outside researcher in it.
    """
    if not run.is_dir():
        raise IdeaError(f"run {str(run)!r}: expected the folder of a run, found none; check the path, or start the campaign first.")
    known = researchers(run)
    if known and name not in known:
        raise IdeaError(f"researcher {name!r:.80}: expected one of this run's outside researchers ({', '.join(known)}); correct the name.")
    told = _told(run, name, "state.json")
    try:
        closes = float(told.get("closes", 0))
        return State(int(told.get("stage", 0)), told.get("open") is True, closes, int(told.get("wanted", 0)), told.get("ended") is True)
    except (TypeError, ValueError, OverflowError):
        raise IdeaError("state.json: not what the campaign writes; it is written anew when the next stage opens.") from None


def researchers(run: Path) -> list[str]:
    """Names of the outside researchers that a run has spoken to."""
    place = run / "outside"
    return sorted(p.name for p in place.iterdir() if NAME.fullmatch(p.name)) if place.is_dir() else []


def brief_of(run: Path, name: str) -> dict[str, Any]:
    """The brief of the stage at hand.

    Raises:
        IdeaError: there is none yet.
    """
    waiting(run, name)
    told = _told(run, name, "brief.json")
    if not told:
        raise IdeaError("the run has not asked for ideas yet; wait for its first stage to open.")
    return told


def results(run: Path, name: str) -> dict[str, Any]:
    """What became of all earlier ideas (``results``) and of the researcher's own submissions (``own``)."""
    waiting(run, name)
    return {"results": [], "own": [], **_told(run, name, "results.json")}


def submit(run: Path, name: str, text: str) -> str:
    """Leave an idea for the stage that is open; the same idea again changes nothing.

    Returns:
        The idea's digest.

    Raises:
        IdeaError: the idea cannot be used, or the stage takes no more; says what to do.
    """
    state = _open(run, name)
    asked = Asked.read(brief_of(run, name))
    idea = check(text, "idea", name, asked)
    digest = idea.digest()
    try:
        with files.open_folder(_record(run, name).parents[1], name, "inbox", f"stage-{state.stage}", make=True) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            there = [one.digest() for _, one in submissions(run, name, state.stage, asked).ideas]
            if digest in there:
                return digest
            if len(there) >= state.wanted:
                raise IdeaError(f"stage {state.stage} has the {state.wanted} ideas that it wants; submit to the next one, when it opens.")
            files.write_in_folder(folder, f"{digest}.md", text)
    except OSError as error:
        raise IdeaError(f"inbox of stage {state.stage}: cannot be written ({error.strerror}); mend the folder's rights.") from None
    after = waiting(run, name)
    if after.stage != state.stage or not after.open:
        raise IdeaError(f"stage {state.stage} closed just now; the results say whether the idea was taken, and if not, submit it again.")
    return digest


def say_done(run: Path, name: str) -> int:
    """Say that there will be no more ideas for the stage that is open; returns its number.

    Raises:
        IdeaError: no stage is open.
    """
    state = _open(run, name)
    with files.open_folder(_record(run, name).parents[1], name) as folder:
        files.write_in_folder(folder, f"done-stage-{state.stage}", "")
    return state.stage


def _open(run: Path, name: str) -> State:
    state = waiting(run, name)
    if state.ended:
        raise IdeaError("the run has ended and takes no more ideas; read the results.")
    if not state.stage:
        raise IdeaError("the run has not asked for ideas yet; wait for its first stage to open.")
    if not state.open or time.time() > state.closes:
        raise IdeaError(f"stage {state.stage} is closed; wait for the next one to open, and read its brief first.")
    if is_done(run, name, state.stage):
        raise IdeaError(f"stage {state.stage}: you have said that there will be no more; wait for the next one to open.")
    return state


# --- what is remembered --------------------------------------------------------------------------------------------------


def _record(run: Path, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise IdeaError(f"researcher {name!r:.80}: expected letters, digits, dots, dashes and underscores; correct the name.")
    return run / "outside" / ".kept" / f"{name}.json"


def _recall(run: Path, name: str) -> dict[str, Any]:
    path = _record(run, name)
    if not path.is_file():
        return {"state": asdict(State()), "own": [], "results": []}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        State(**found["state"]), list(found["own"]), list(found["results"])
    except (OSError, ValueError, TypeError, KeyError):
        raise RunChangedError(f"{path}: what is kept of an outside researcher is damaged; remove the file to ask anew.") from None
    return found


def _remember(run: Path, name: str, kept: Mapping[str, Any]) -> None:
    write_whole(_record(run, name), json.dumps(kept, indent=1))


def _add_results(kept: dict[str, Any], history: Sequence[Outcome]) -> None:
    rows = [result(o) for o in history]
    if rows != kept["results"][: len(rows)]:  # else a continued run is on its way to where it was
        kept["results"] = rows


def _entry(stage: int, file: str, fate: str, why: str, idea: Idea | None = None) -> dict[str, Any]:
    named = {"digest": idea.digest() if idea else None, "title": idea.title if idea else None}
    return {"stage": stage, "file": file[:100], **named, "fate": fate, "why": why[:500]}


def _note_late(run: Path, name: str, kept: dict[str, Any]) -> None:
    """Refuse what came into the inbox of the last stage after it had closed."""
    stage = kept["state"]["stage"]
    if not stage or kept["state"]["open"]:
        return
    seen = {entry["file"] for entry in kept["own"] if entry["stage"] == stage}
    with files.ignore_their_errors(), files.open_folder(_record(run, name).parents[1], name, "inbox", f"stage-{stage}") as folder:
        late = [file for file in files.list_names(folder) if file[:100] not in seen]
        why = f"came after stage {stage} had closed; submit it to the next one"
        kept["own"] += [_entry(stage, file, REFUSED, why) for file in late[: max(0, MOST_TOLD - len(seen))]]


def _tell(run: Path, name: str, kept: Mapping[str, Any]) -> None:
    with files.ignore_their_errors(), files.open_folder(_record(run, name).parents[1], name, make=True) as folder:
        files.write_in_folder(folder, "results.json", json.dumps({"results": kept["results"], "own": kept["own"]}, indent=1))
        files.write_in_folder(folder, "state.json", json.dumps(kept["state"], indent=1))


# --- a folder that is not trusted ----------------------------------------------------------------------------------------


def _look(folder: int, file: str, researcher: str, asked: Asked, looked: Looked) -> Idea | str | None:
    """An idea, or why a file is none; None where it has gone."""
    try:
        found = os.stat(file, dir_fd=folder, follow_symlinks=False)
        seen = (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_mode, found.st_nlink)
        if file not in looked or looked[file][0] != seen:
            looked[file] = seen, _verdict(folder, file, researcher, asked)
    except FileNotFoundError:
        return None
    return looked[file][1]


def _verdict(folder: int, file: str, researcher: str, asked: Asked) -> Idea | str:
    if not file.endswith(".md"):
        return "expected a Markdown file; give it a name that ends in .md"
    try:
        return check(files.read_plain_file(folder, file, LONGEST), "idea", researcher, asked)
    except IdeaError as error:
        return str(error)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in files.MACHINE_ERRORS:
            raise
        return f"cannot be read ({error.strerror}); write it anew"


def _told(run: Path, name: str, file: str) -> dict[str, Any]:
    """A JSON object that the campaign wrote; empty where there is none yet."""
    try:
        with files.open_folder(_record(run, name).parents[1], name) as folder:
            found = json.loads(files.read_plain_file(folder, file, LONGEST_ANSWER))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise IdeaError(f"{file}: cannot be read ({error}); it is written anew when the next stage opens.") from None
    if not isinstance(found, dict):
        raise IdeaError(f"{file}: expected a JSON object; it is written anew when the next stage opens.")
    return found
