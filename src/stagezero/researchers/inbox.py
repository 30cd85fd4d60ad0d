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

This module is the campaign's side. ``inbox_client.py`` is the researcher's side; ``inbox_record.py`` is what the campaign must remember.
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
from stagezero.ideas.precheck import LONGEST, Asked, check
from stagezero.researchers import inbox_record as record
from stagezero.researchers.briefing import as_json, briefing
from stagezero.researchers.inbox_record import ACCEPTED, MOST_TOLD, REFUSED, SUBMITTED, State, entry_of, folder_of

MOST_FILES = 256
"""Files of an inbox that are read."""
HOW = """# How to take part

Read brief.md, write an idea in the form that it shows, and save it as a Markdown file in inbox/stage-N, N being the stage in state.json
(write it under a name that begins with a dot, then rename it), or: stagezero idea submit FILE --run RUN --as NAME. At most the wanted
number is taken, until the stage closes; an empty file done-stage-N says that there will be no more. results.json says what was refused and
why, and what became of all ideas.
"""

Looked = dict[str, tuple[tuple[int, ...], Idea | str]]


@dataclass(frozen=True, slots=True)
class Found:
    """What lies in a stage's inbox: file and idea in the order of the ideas' digests, and file and reason of what cannot be used."""

    ideas: tuple[tuple[str, Idea], ...]
    refused: tuple[tuple[str, str], ...]


def open_stage(run: Path, name: str, brief: Brief, wanted: int, seconds: float) -> State:
    """Ask for ideas for a stage; where it was asked for before the run was cut off, under the terms and until the time of then."""
    kept = record.recall(run, name)
    if kept["state"]["stage"] != brief.stage:
        record.note_late(run, name, kept)
        kept["state"] = asdict(State(brief.stage, True, time.time() + seconds, wanted))
    kept["state"] |= {"open": True, "ended": False}
    record.add_results(kept, brief.history)
    record.remember(run, name, kept)
    with files.ignore_their_errors(), folder_of(run, name, make=True) as folder:
        files.write_in_folder(folder, "README.md", HOW)
        files.write_in_folder(folder, "brief.json", json.dumps(as_json(brief), indent=1))
        files.write_in_folder(folder, "brief.md", briefing(brief))
    with files.ignore_their_errors(), folder_of(run, name, "inbox", f"stage-{brief.stage}", make=True):
        pass
    record.write_out(run, name, kept)
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
        with folder_of(run, name, "inbox", f"stage-{stage}") as folder:
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
    with files.ignore_their_errors(), folder_of(run, name) as folder:
        return stat.S_ISREG(os.stat(f"done-stage-{stage}", dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def report(run: Path, name: str, stage: int, found: Found, fate: str = SUBMITTED) -> None:
    """Tell a researcher what was found in the inbox."""
    kept = record.recall(run, name)
    wanted = kept["state"]["wanted"]
    own = [entry_of(stage, file, fate, "", idea) for file, idea in found.ideas[:wanted]]
    own += [entry_of(stage, file, REFUSED, f"more than the {wanted} wanted", idea) for file, idea in found.ideas[wanted:][:MOST_TOLD]]
    own += [entry_of(stage, file, REFUSED, why) for file, why in found.refused[:MOST_TOLD]]
    kept["own"] = [entry for entry in kept["own"] if entry["stage"] != stage] + own
    record.save(run, name, kept)


def close_stage(run: Path, name: str, stage: int, asked: Asked, looked: Looked | None = None) -> list[Idea]:
    """Take no more, and return what there is, at most as many ideas as were wanted, in the order of their digests."""
    kept = record.recall(run, name)
    kept["state"]["open"] = False
    record.save(run, name, kept)  # before the last look: who saw the stage open after writing can rely on having been seen
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
        kept = record.recall(run, name)
        record.note_late(run, name, kept)
        record.add_results(kept, history)
        fates = {(o.stage, o.idea.digest()): (o.fate, "") for o in history if o.idea.researcher == name}
        no = {r.idea.digest(): (REFUSED, r.why) for r in refused if r.idea.researcher == name}
        for entry in kept["own"]:
            known = fates.get((entry["stage"], entry["digest"]))
            if known is None and entry["stage"] == kept["state"]["stage"] and entry["fate"] == ACCEPTED:
                known = no.get(entry["digest"])
            if known is not None:
                entry["fate"], entry["why"] = known
        kept["state"]["ended"] = kept["state"]["ended"] or ended
        record.save(run, name, kept)


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
