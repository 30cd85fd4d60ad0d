"""The researcher's side of the inbox: reads what the campaign wrote, and submits ideas.

See ``inbox.py`` for the folder. This module never writes the campaign's record.
"""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path
from typing import Any

from stagezero import files
from stagezero.errors import IdeaError
from stagezero.ideas.precheck import SubmissionLimits, parse_submission
from stagezero.researchers.inbox import is_done, read_inbox
from stagezero.researchers.inbox_record import NAME_PATTERN, StageState, open_researcher_folder

MAX_CAMPAIGN_FILE_BYTES = 16 << 20
"""Bytes of a file from the campaign that the researcher's side reads."""


def read_state(run: Path, name: str) -> StageState:
    """Return what the campaign currently wants from a researcher.

    Raises:
        IdeaError: the run does not exist, or has no outside researcher of this name.
    """
    if not run.is_dir():
        raise IdeaError(f"run {str(run)!r}: expected the folder of a run, found none; check the path, or start the campaign first.")
    known = researcher_names(run)
    if known and name not in known:
        raise IdeaError(f"researcher {name!r:.80}: expected one of this run's outside researchers ({', '.join(known)}); correct the name.")
    state = _read_json(run, name, "state.json")
    try:
        closes = float(state.get("closes", 0))
        return StageState(
            int(state.get("stage", 0)), state.get("open") is True, closes, int(state.get("wanted", 0)), state.get("ended") is True
        )
    except (TypeError, ValueError, OverflowError):
        raise IdeaError("state.json: the campaign did not write this content; it rewrites the file when the next stage opens.") from None


def researcher_names(run: Path) -> list[str]:
    """Return the names of the outside researchers that a run has a folder for."""
    place = run / "outside"
    return sorted(p.name for p in place.iterdir() if NAME_PATTERN.fullmatch(p.name)) if place.is_dir() else []


def read_brief(run: Path, name: str) -> dict[str, Any]:
    """Return the brief of the current stage.

    Raises:
        IdeaError: no stage has opened yet.
    """
    read_state(run, name)
    brief = _read_json(run, name, "brief.json")
    if not brief:
        raise IdeaError("the run has not asked for ideas yet; wait for its first stage to open.")
    return brief


def read_results(run: Path, name: str) -> dict[str, Any]:
    """Return the results of all earlier ideas (``results``) and the own submissions (``own``)."""
    read_state(run, name)
    return {"results": [], "own": [], **_read_json(run, name, "results.json")}


def submit(run: Path, name: str, text: str) -> str:
    """Submit an idea to the open stage. A second submission of the same idea changes nothing.

    Args:
        run: the run's folder.
        name: the researcher's name.
        text: the idea file.

    Returns:
        The idea's digest.

    Raises:
        IdeaError: the idea is invalid, or the stage accepts no more ideas. The message has the fix.
    """
    state = _require_open_stage(run, name)
    limits = SubmissionLimits.from_json(read_brief(run, name))
    idea = parse_submission(text, "idea", name, limits)
    digest = idea.digest()
    try:
        with open_researcher_folder(run, name, "inbox", f"stage-{state.stage}", create=True) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            submitted = [other.digest() for _, other in read_inbox(run, name, state.stage, limits).ideas]
            if digest in submitted:
                return digest
            if len(submitted) >= state.wanted:
                raise IdeaError(f"stage {state.stage} has the {state.wanted} ideas that it wants; submit to the next one, when it opens.")
            files.write_in_folder(folder, f"{digest}.md", text)
    except OSError as error:
        raise IdeaError(f"inbox of stage {state.stage}: cannot be written ({error.strerror}); correct the folder's permissions.") from None
    after = read_state(run, name)
    if after.stage != state.stage or not after.open:
        raise IdeaError(
            f"stage {state.stage} closed during the submission; read the results, and if the idea was not accepted, submit it again."
        )
    return digest


def mark_done(run: Path, name: str) -> int:
    """Report that the open stage gets no more ideas, and return its number.

    Raises:
        IdeaError: no stage is open.
    """
    state = _require_open_stage(run, name)
    with open_researcher_folder(run, name) as folder:
        files.write_in_folder(folder, f"done-stage-{state.stage}", "")
    return state.stage


def _require_open_stage(run: Path, name: str) -> StageState:
    state = read_state(run, name)
    if state.ended:
        raise IdeaError("the run has ended and accepts no more ideas; read the results.")
    if not state.stage:
        raise IdeaError("the run has not asked for ideas yet; wait for its first stage to open.")
    if not state.open or time.time() > state.closes:
        raise IdeaError(f"stage {state.stage} is closed; wait for the next one to open, and read its brief first.")
    if is_done(run, name, state.stage):
        raise IdeaError(f"stage {state.stage}: you have reported that you send no more ideas; wait for the next one to open.")
    return state


def _read_json(run: Path, name: str, file: str) -> dict[str, Any]:
    """Return a JSON object that the campaign wrote; empty if the file does not exist yet."""
    try:
        with open_researcher_folder(run, name) as folder:
            value = json.loads(files.read_regular_file(folder, file, MAX_CAMPAIGN_FILE_BYTES))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise IdeaError(f"{file}: cannot be read ({error}); the campaign rewrites it when the next stage opens.") from None
    if not isinstance(value, dict):
        raise IdeaError(f"{file}: expected a JSON object; the campaign rewrites it when the next stage opens.")
    return value
