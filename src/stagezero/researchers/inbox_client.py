"""The researcher's side of ``inbox.py``: reads what the campaign wrote into the folder, and leaves ideas there."""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path
from typing import Any

from stagezero import files
from stagezero.errors import IdeaError
from stagezero.ideas.precheck import Asked, check
from stagezero.researchers.inbox import is_done, submissions
from stagezero.researchers.inbox_record import NAME, State, folder_of

LONGEST_ANSWER = 16 << 20
"""Bytes of a file of the campaign's that the researcher's side reads."""


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
        with folder_of(run, name, "inbox", f"stage-{state.stage}", make=True) as folder:
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
    with folder_of(run, name) as folder:
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


def _told(run: Path, name: str, file: str) -> dict[str, Any]:
    """A JSON object that the campaign wrote; empty where there is none yet."""
    try:
        with folder_of(run, name) as folder:
            found = json.loads(files.read_plain_file(folder, file, LONGEST_ANSWER))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise IdeaError(f"{file}: cannot be read ({error}); it is written anew when the next stage opens.") from None
    if not isinstance(found, dict):
        raise IdeaError(f"{file}: expected a JSON object; it is written anew when the next stage opens.")
    return found
