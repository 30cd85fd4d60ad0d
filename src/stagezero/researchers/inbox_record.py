"""The campaign's record of one outside researcher, in ``RUN/outside/.kept``: state, submissions, results. See ``inbox.py``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stagezero import files
from stagezero.errors import IdeaError, RunChangedError
from stagezero.ideas.brief import Outcome
from stagezero.ideas.idea import Idea
from stagezero.researchers.briefing import result

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
MOST_TOLD = 50
"""Refusals of one stage that a record has."""
SUBMITTED, ACCEPTED, REFUSED = "submitted", "accepted", "refused"


@dataclass(frozen=True, slots=True)
class State:
    """What the campaign wants of one outside researcher; stage 0 is before the first."""

    stage: int = 0
    open: bool = False
    closes: float = 0.0
    wanted: int = 0
    ended: bool = False


def _record(run: Path, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise IdeaError(f"researcher {name!r:.80}: expected letters, digits, dots, dashes and underscores; correct the name.")
    return run / "outside" / ".kept" / f"{name}.json"


def folder_of(run: Path, name: str, *below: str, make: bool = False) -> AbstractContextManager[int]:
    """A researcher's folder, or a folder below it, opened step by step without following a link."""
    return files.open_folder(_record(run, name).parents[1], name, *below, make=make)


def recall(run: Path, name: str) -> dict[str, Any]:
    """What is remembered of a researcher; the empty record before the first stage.

    Raises:
        RunChangedError: the record is damaged.
    """
    path = _record(run, name)
    if not path.is_file():
        return {"state": asdict(State()), "own": [], "results": []}
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        State(**found["state"]), list(found["own"]), list(found["results"])
    except (OSError, ValueError, TypeError, KeyError):
        raise RunChangedError(f"{path}: what is kept of an outside researcher is damaged; remove the file to ask anew.") from None
    return found


def remember(run: Path, name: str, kept: Mapping[str, Any]) -> None:
    """Write the record."""
    files.write_whole(_record(run, name), json.dumps(kept, indent=1))


def add_results(kept: dict[str, Any], history: Sequence[Outcome]) -> None:
    """Put the decided ideas of all researchers into a record."""
    rows = [result(o) for o in history]
    if rows != kept["results"][: len(rows)]:  # else a continued run is on its way to where it was
        kept["results"] = rows


def entry_of(stage: int, file: str, fate: str, why: str, idea: Idea | None = None) -> dict[str, Any]:
    """One submission, as the record has it."""
    named = {"digest": idea.digest() if idea else None, "title": idea.title if idea else None}
    return {"stage": stage, "file": file[:100], **named, "fate": fate, "why": why[:500]}


def note_late(run: Path, name: str, kept: dict[str, Any]) -> None:
    """Refuse what came into the inbox of the last stage after it had closed."""
    stage = kept["state"]["stage"]
    if not stage or kept["state"]["open"]:
        return
    seen = {entry["file"] for entry in kept["own"] if entry["stage"] == stage}
    with files.ignore_their_errors(), folder_of(run, name, "inbox", f"stage-{stage}") as folder:
        late = [file for file in files.list_names(folder) if file[:100] not in seen]
        why = f"came after stage {stage} had closed; submit it to the next one"
        kept["own"] += [entry_of(stage, file, REFUSED, why) for file in late[: max(0, MOST_TOLD - len(seen))]]


def write_out(run: Path, name: str, kept: Mapping[str, Any]) -> None:
    """Write the state and the results into the researcher's folder."""
    with files.ignore_their_errors(), folder_of(run, name, make=True) as folder:
        files.write_in_folder(folder, "results.json", json.dumps({"results": kept["results"], "own": kept["own"]}, indent=1))
        files.write_in_folder(folder, "state.json", json.dumps(kept["state"], indent=1))


def save(run: Path, name: str, kept: Mapping[str, Any]) -> None:
    """Write the record, and then what the researcher reads of it."""
    remember(run, name, kept)
    write_out(run, name, kept)
