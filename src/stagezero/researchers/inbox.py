"""The campaign's side of the inbox, the folder through which an outside person or agent proposes.

    RUN/outside/NAME/   brief.md, brief.json   the brief of the stage, as for all researchers
                        state.json             the stage: open or not, closing time, number of ideas
                        inbox/stage-N/*.md     ideas, each written under a hidden name, then renamed
                        done-stage-N           the researcher sends no more ideas to stage N
                        results.json           results of all earlier ideas, and the own submissions

The writer of the folder is untrusted. The campaign opens the folder one path component at a time
and follows no link. It reads regular files only, and limits their size and number. It trusts no
file in the folder, not even one that it wrote itself: its own record is in ``RUN/outside/.kept``.

A file that cannot be read is refused with a reason. A damaged folder costs only its own researcher.
Only errors of the machine, such as a full disk, stop a run. An idea from outside may name no file
and no path, so the campaign opens nothing on this machine because of an idea.

``inbox_client.py`` is the researcher's side. ``inbox_record.py`` stores the campaign's record.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from stagezero import files
from stagezero.errors import IdeaError
from stagezero.ideas.airlock import Refused
from stagezero.ideas.brief import Brief, Outcome
from stagezero.ideas.idea import Idea
from stagezero.ideas.precheck import MAX_SUBMISSION_BYTES, SubmissionLimits, parse_submission
from stagezero.researchers import inbox_record
from stagezero.researchers.briefing import briefing_json, briefing_text
from stagezero.researchers.inbox_record import (
    ACCEPTED,
    MAX_REPORTED_REFUSALS,
    REFUSED,
    SUBMITTED,
    StageState,
    open_researcher_folder,
    submission_entry,
)

MAX_INBOX_FILES = 256
"""Files of an inbox that are read."""
README_TEXT = """# How to take part

1. Read brief.md. It describes the stage and shows the form of an idea.
2. Write your idea as a Markdown file.
3. Save it in inbox/stage-N, where N is the stage in state.json. First write it under a name that begins with a dot, then rename it.
   Instead of this step you can run: stagezero idea submit FILE --run RUN --as NAME

The stage closes at the time in state.json, or when the wanted number of ideas has arrived. Ideas above that number are refused. If you
have no more ideas, create an empty file named done-stage-N.

results.json contains the results of all ideas, and the reason for each of your ideas that was refused.
"""

ScanCache = dict[str, tuple[tuple[int, ...], Idea | str]]
"""File name → (file metadata, the idea in it or the reason for its refusal)."""


@dataclass(frozen=True, slots=True)
class InboxContents:
    """The contents of a stage's inbox.

    ``ideas`` are pairs of file and idea, in the order of the ideas' digests. ``refused`` are pairs
    of file and reason.
    """

    ideas: tuple[tuple[str, Idea], ...]
    refused: tuple[tuple[str, str], ...]


def open_stage(run: Path, name: str, brief: Brief, wanted: int, seconds: float) -> StageState:
    """Ask a researcher for ideas for a stage.

    If a run that was interrupted had opened the stage already, its closing time and number of ideas
    stay as they were.

    Args:
        run: the run's folder.
        name: the researcher's name.
        brief: the stage's brief.
        wanted: the largest number of ideas.
        seconds: the time until the stage closes.
    """
    record = inbox_record.load_record(run, name)
    if record["state"]["stage"] != brief.stage:
        inbox_record.refuse_late_files(run, name, record)
        record["state"] = asdict(StageState(brief.stage, True, time.time() + seconds, wanted))
    record["state"] |= {"open": True, "ended": False}
    inbox_record.add_results(record, brief.history)
    inbox_record.save_record(run, name, record)
    with files.ignore_folder_errors(), open_researcher_folder(run, name, create=True) as folder:
        files.write_in_folder(folder, "README.md", README_TEXT)
        files.write_in_folder(folder, "brief.json", json.dumps(briefing_json(brief), indent=1))
        files.write_in_folder(folder, "brief.md", briefing_text(brief))
    with files.ignore_folder_errors(), open_researcher_folder(run, name, "inbox", f"stage-{brief.stage}", create=True):
        pass
    inbox_record.publish_record(run, name, record)
    return StageState(**record["state"])


def read_inbox(run: Path, name: str, stage: int, limits: SubmissionLimits, cache: ScanCache | None = None) -> InboxContents:
    """Read and validate the files that are now in a stage's inbox.

    Args:
        run: the run's folder.
        name: the researcher's name.
        stage: the stage's number.
        limits: the limits in the stage's brief.
        cache: results of earlier calls; a file that has not changed is not read again.
    """
    cache = {} if cache is None else cache
    ideas: dict[str, tuple[str, Idea]] = {}
    refused: list[tuple[str, str]] = []
    try:
        with open_researcher_folder(run, name, "inbox", f"stage-{stage}") as folder:
            names = files.list_names(folder)
            for removed in cache.keys() - set(names[:MAX_INBOX_FILES]):
                del cache[removed]
            for file in names[:MAX_INBOX_FILES]:
                submission = _read_cached(folder, file, name, limits, cache)
                if isinstance(submission, str):
                    refused.append((file, submission))
                elif submission is not None and (first := ideas.setdefault(submission.digest(), (file, submission)))[0] != file:
                    refused.append((file, f"the same idea as {first[0]}; one is enough"))
            if len(names) > MAX_INBOX_FILES:
                refused.insert(0, ("…", f"more than {MAX_INBOX_FILES} files in the inbox; the others were not read, so remove some"))
    except OSError as error:
        if error.errno in files.MACHINE_ERRORS:
            raise
        refused.append(("inbox", f"cannot be read ({error.strerror}); put a folder there"))
    return InboxContents(tuple(ideas[digest] for digest in sorted(ideas)), tuple(refused))


def is_done(run: Path, name: str, stage: int) -> bool:
    """Return whether the researcher has reported that it sends no more ideas to a stage."""
    with files.ignore_folder_errors(), open_researcher_folder(run, name) as folder:
        return stat.S_ISREG(os.stat(f"done-stage-{stage}", dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def report_submissions(run: Path, name: str, stage: int, contents: InboxContents, fate: str = SUBMITTED) -> None:
    """Record the contents of an inbox and report them to the researcher."""
    record = inbox_record.load_record(run, name)
    wanted = record["state"]["wanted"]
    surplus = contents.ideas[wanted:][:MAX_REPORTED_REFUSALS]
    own = [submission_entry(stage, file, fate, "", idea) for file, idea in contents.ideas[:wanted]]
    own += [submission_entry(stage, file, REFUSED, f"more than the {wanted} wanted", idea) for file, idea in surplus]
    own += [submission_entry(stage, file, REFUSED, why) for file, why in contents.refused[:MAX_REPORTED_REFUSALS]]
    record["own"] = [entry for entry in record["own"] if entry["stage"] != stage] + own
    inbox_record.save_and_publish(run, name, record)


def close_stage(run: Path, name: str, stage: int, limits: SubmissionLimits, cache: ScanCache | None = None) -> list[Idea]:
    """Close a stage and return at most the wanted number of ideas, in order of their digests."""
    record = inbox_record.load_record(run, name)
    record["state"]["open"] = False
    # The stage closes before the inbox is read for the last time. A researcher that saw the stage
    # open after it had written a file can therefore be sure that the file is read.
    inbox_record.save_and_publish(run, name, record)
    contents = read_inbox(run, name, stage, limits, cache)
    report_submissions(run, name, stage, contents, ACCEPTED)
    return [idea for _, idea in contents.ideas[: record["state"]["wanted"]]]


def publish_outcomes(
    run: Path, names: Iterable[str], history: Sequence[Outcome], refused: Sequence[Refused] = (), *, ended: bool = False
) -> None:
    """Report outcomes to outside researchers.

    Each receives the mean effects and fates of all ideas, and the refusals of its own ideas.

    Args:
        run: the run's folder.
        names: the outside researchers.
        history: all outcomes so far. A continued run repeats reports; this deletes no earlier
            result.
        refused: ideas that the airlock refused in the current stage.
        ended: whether the run is over.
    """
    for name in names:
        record = inbox_record.load_record(run, name)
        inbox_record.refuse_late_files(run, name, record)
        inbox_record.add_results(record, history)
        fates = {(o.stage, o.idea.digest()): (o.fate, "") for o in history if o.idea.researcher == name}
        refusals = {r.idea.digest(): (REFUSED, r.why) for r in refused if r.idea.researcher == name}
        for entry in record["own"]:
            outcome = fates.get((entry["stage"], entry["digest"]))
            if outcome is None and entry["stage"] == record["state"]["stage"] and entry["fate"] == ACCEPTED:
                outcome = refusals.get(entry["digest"])
            if outcome is not None:
                entry["fate"], entry["why"] = outcome
        record["state"]["ended"] = record["state"]["ended"] or ended
        inbox_record.save_and_publish(run, name, record)


def _read_cached(folder: int, file: str, researcher: str, limits: SubmissionLimits, cache: ScanCache) -> Idea | str | None:
    """Return the idea in a file, or the reason for its refusal; None if the file is gone."""
    try:
        info = os.stat(file, dir_fd=folder, follow_symlinks=False)
        metadata = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_mode, info.st_nlink)
        if file not in cache or cache[file][0] != metadata:
            cache[file] = metadata, _read_submission(folder, file, researcher, limits)
    except FileNotFoundError:
        return None
    return cache[file][1]


def _read_submission(folder: int, file: str, researcher: str, limits: SubmissionLimits) -> Idea | str:
    if not file.endswith(".md"):
        return "expected a Markdown file; give it a name that ends in .md"
    try:
        return parse_submission(files.read_regular_file(folder, file, MAX_SUBMISSION_BYTES), "idea", researcher, limits)
    except IdeaError as error:
        return str(error)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in files.MACHINE_ERRORS:
            raise
        return f"cannot be read ({error.strerror}); write it again"
