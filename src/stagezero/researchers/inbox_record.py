"""The campaign's record of one outside researcher: state, submissions and results.

The record is the file ``RUN/outside/.kept/NAME.json``. The researcher's folder contains copies of
it, which the campaign never reads back. See ``inbox.py``.
"""

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
from stagezero.researchers.briefing import outcome_json

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
MAX_REPORTED_REFUSALS = 50
"""Refusals of each sort that a record holds for one stage."""
SUBMITTED, ACCEPTED, REFUSED = "submitted", "accepted", "refused"


@dataclass(frozen=True, slots=True)
class StageState:
    """What the campaign currently wants from one outside researcher.

    ``stage`` is 0 before the first stage. ``closes`` is a Unix time in seconds, ``wanted`` is the
    largest number of ideas, and ``ended`` is true after the end of the run.
    """

    stage: int = 0
    open: bool = False
    closes: float = 0.0
    wanted: int = 0
    ended: bool = False


def _record_path(run: Path, name: str) -> Path:
    if not NAME_PATTERN.fullmatch(name):
        raise IdeaError(f"researcher {name!r:.80}: expected letters, digits, dots, dashes and underscores; correct the name.")
    return run / "outside" / ".kept" / f"{name}.json"


def open_researcher_folder(run: Path, name: str, *below: str, create: bool = False) -> AbstractContextManager[int]:
    """Open a researcher's folder, or a folder below it, one path component at a time.

    No symlink is followed.
    """
    return files.open_folder(_record_path(run, name).parents[1], name, *below, create=create)


def load_record(run: Path, name: str) -> dict[str, Any]:
    """Return a researcher's record; before the first stage, an empty one.

    Raises:
        RunChangedError: the record is damaged.
    """
    path = _record_path(run, name)
    if not path.is_file():
        return {"state": asdict(StageState()), "own": [], "results": []}
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        StageState(**record["state"]), list(record["own"]), list(record["results"])
    except (OSError, ValueError, TypeError, KeyError):
        raise RunChangedError(f"{path}: the record of an outside researcher is damaged; remove the file to open the stage again.") from None
    return record


def save_record(run: Path, name: str, record: Mapping[str, Any]) -> None:
    """Write the record, and leave the researcher's folder as it is."""
    files.write_atomic(_record_path(run, name), json.dumps(record, indent=1))


def add_results(record: dict[str, Any], history: Sequence[Outcome]) -> None:
    """Put the results of all researchers' decided ideas into a record."""
    rows = [outcome_json(o) for o in history]
    # A continued run repeats its first stages with a shorter history, which must not delete
    # results.
    if rows != record["results"][: len(rows)]:
        record["results"] = rows


def submission_entry(stage: int, file: str, fate: str, why: str, idea: Idea | None = None) -> dict[str, Any]:
    """Return one submission as an entry of the record."""
    identity = {"digest": idea.digest() if idea else None, "title": idea.title if idea else None}
    return {"stage": stage, "file": file[:100], **identity, "fate": fate, "why": why[:500]}


def refuse_late_files(run: Path, name: str, record: dict[str, Any]) -> None:
    """Refuse the files that arrived in the last stage's inbox after it had closed."""
    stage = record["state"]["stage"]
    if not stage or record["state"]["open"]:
        return
    known_files = {entry["file"] for entry in record["own"] if entry["stage"] == stage}
    with files.ignore_folder_errors(), open_researcher_folder(run, name, "inbox", f"stage-{stage}") as folder:
        late = [file for file in files.list_names(folder) if file[:100] not in known_files]
        why = f"arrived after stage {stage} had closed; submit it to the next one"
        record["own"] += [submission_entry(stage, file, REFUSED, why) for file in late[: max(0, MAX_REPORTED_REFUSALS - len(known_files))]]


def publish_record(run: Path, name: str, record: Mapping[str, Any]) -> None:
    """Write the record's state and results into the researcher's folder."""
    with files.ignore_folder_errors(), open_researcher_folder(run, name, create=True) as folder:
        files.write_in_folder(folder, "results.json", json.dumps({"results": record["results"], "own": record["own"]}, indent=1))
        files.write_in_folder(folder, "state.json", json.dumps(record["state"], indent=1))


def save_and_publish(run: Path, name: str, record: Mapping[str, Any]) -> None:
    """Write the record, and then the copies in the researcher's folder."""
    save_record(run, name, record)
    publish_record(run, name, record)
