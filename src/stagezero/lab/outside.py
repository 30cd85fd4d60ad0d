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

import errno
import fcntl
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rfc8785 import CanonicalizationError

from stagezero.errors import IdeaError, RecipeError, RunChangedError
from stagezero.lab import crossing
from stagezero.lab.ideas import MAX_BYTES, Idea, parse_idea
from stagezero.lab.researchers.base import Brief, Outcome
from stagezero.lab.researchers.briefing import as_json, briefing, result
from stagezero.measure import write_whole
from stagezero.training import Recipe, apply_patch, parse_recipe

if TYPE_CHECKING:
    from stagezero.lab.airlock import Refused

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
LONGEST = 64 * 1024
"""Bytes of a submitted file; an idea has at most an eighth of that."""
FRONT = 2 * MAX_BYTES
"""Characters of front matter that are read as YAML, which is slow."""
MOST_NAMES, MOST_FILES, MOST_TOLD = 10_000, 256, 50
"""Names of an inbox that are listed, files that are looked at, and refusals that are told."""
LONGEST_ANSWER = 16 << 20
"""Bytes of a file of the campaign's that the other side reads."""
SUBMITTED, ACCEPTED, REFUSED = "submitted", "accepted", "refused"
_OURS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ENFILE, errno.EMFILE, errno.ENOMEM}
"""Errors that are the machine's trouble, whoever owns the folder."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
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


@dataclass(frozen=True, slots=True)
class Asked:
    """What of a brief an idea is held against. No recipe: it cannot be made out from here, and the campaign will look."""

    properties: tuple[str, ...]
    channels: tuple[str, ...]
    recipe: Recipe | None

    @classmethod
    def by(cls, brief: Brief) -> Asked:
        return cls(brief.properties, brief.channels, brief.control)

    @classmethod
    def read(cls, told: Mapping[str, Any]) -> Asked:
        """From ``brief.json``, where files that a recipe names stand by their digests."""
        try:
            recipe = parse_recipe(told["recipe"], "brief.json")
        except (RecipeError, KeyError):
            recipe = None
        return cls(tuple(map(str, told.get("properties", ()))), tuple(map(str, told.get("channels", ()))), recipe)


# --- an idea from outside ------------------------------------------------------------------------------------------------


def check(text: str, where: str, researcher: str, asked: Asked | None = None) -> Idea:
    """Read an idea that somebody outside wrote; nothing that it names is opened.

    Raises:
        IdeaError: why it would not get in, in one sentence. That it gets in here does not promise that it passes the airlock.
    """
    try:
        size = len(text.encode("utf-8"))
        if size > LONGEST:
            raise IdeaError(f"{where}: {size:,} bytes; at most {LONGEST:,} are read, and {MAX_BYTES:,} may cross, so write less.")
        text = text.replace("\r\n", "\n")
        if len(front := text.partition("---\n")[2].partition("\n---")[0]) > FRONT:
            raise IdeaError(f"{where}: {len(front):,} characters of front matter; at most {MAX_BYTES:,} bytes may cross, so write less.")
        idea = parse_idea(text, where, researcher, researcher)
        if path := next(_paths(idea.patch), None):
            raise IdeaError(f"{where}: {path[:40]!r} is a path of some machine, and an idea names none; leave it out.")
        if idea.size() > MAX_BYTES:
            raise IdeaError(f"{where}: {idea.size():,} bytes would cross; at most {MAX_BYTES:,} may, so write less.")
        crossing.check(idea)
        if asked is not None:
            _hold_against(idea, asked, where)
    except (RecipeError, CanonicalizationError, OSError, TypeError, ValueError, RecursionError) as error:
        raise IdeaError(f"{where}: {' '.join(str(error).split()) or 'nested too deep'}") from None
    return idea


def _paths(value: Any) -> Iterator[str]:
    """Texts of a patch that are absolute paths: a channel's source that is one would be read, all of it, for the idea's digest."""
    if isinstance(value, str) and value.startswith("/"):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _paths(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _paths(inner)


def _hold_against(idea: Idea, asked: Asked, where: str) -> None:
    if idea.property not in asked.properties:
        known = ", ".join(asked.properties)
        raise IdeaError(f"{where}: 'property': expected one of {known}, got {idea.property!r:.60}; name one of them.")
    if asked.recipe is None:
        return
    candidate = apply_patch(asked.recipe, idea.operations(), where)
    candidate = crossing.check_channels(candidate, asked.recipe, {name: name for name in asked.channels})
    if candidate.digest() == asked.recipe.digest():
        raise IdeaError(f"{where}: 'patch' changes nothing in the recipe as it stands; propose a change.")


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
    with _theirs(), _opened(run, name, make=True) as folder:
        _write(folder, "README.md", HOW)
        _write(folder, "brief.json", json.dumps(as_json(brief), indent=1))
        _write(folder, "brief.md", briefing(brief))
    with _theirs(), _opened(run, name, "inbox", f"stage-{brief.stage}", make=True):
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
        with _opened(run, name, "inbox", f"stage-{stage}") as folder:
            names = _listed(folder)
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
        if error.errno in _OURS:
            raise
        refused.append(("inbox", f"cannot be read ({error.strerror}); put a folder there"))
    return Found(tuple(ideas[digest] for digest in sorted(ideas)), tuple(refused))


def is_done(run: Path, name: str, stage: int) -> bool:
    """Has the researcher said that there will be no more?"""
    with _theirs(), _opened(run, name) as folder:
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
        with _opened(run, name, "inbox", f"stage-{state.stage}", make=True) as folder:
            fcntl.flock(folder, fcntl.LOCK_EX)
            there = [one.digest() for _, one in submissions(run, name, state.stage, asked).ideas]
            if digest in there:
                return digest
            if len(there) >= state.wanted:
                raise IdeaError(f"stage {state.stage} has the {state.wanted} ideas that it wants; submit to the next one, when it opens.")
            _write(folder, f"{digest}.md", text)
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
    with _opened(run, name) as folder:
        _write(folder, f"done-stage-{state.stage}", "")
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
    with _theirs(), _opened(run, name, "inbox", f"stage-{stage}") as folder:
        late = [file for file in _listed(folder) if file[:100] not in seen]
        why = f"came after stage {stage} had closed; submit it to the next one"
        kept["own"] += [_entry(stage, file, REFUSED, why) for file in late[: max(0, MOST_TOLD - len(seen))]]


def _tell(run: Path, name: str, kept: Mapping[str, Any]) -> None:
    with _theirs(), _opened(run, name, make=True) as folder:
        _write(folder, "results.json", json.dumps({"results": kept["results"], "own": kept["own"]}, indent=1))
        _write(folder, "state.json", json.dumps(kept["state"], indent=1))


# --- a folder that is not trusted ----------------------------------------------------------------------------------------


@contextmanager
def _theirs() -> Iterator[None]:
    """What goes wrong in their folder is their loss, and no reason to stop."""
    try:
        yield
    except OSError as error:
        if error.errno in _OURS:
            raise


@contextmanager
def _opened(run: Path, name: str, *below: str, make: bool = False) -> Iterator[int]:
    """A researcher's folder, or one below it, opened step by step without following a link."""
    place = _record(run, name).parents[1]
    if make:
        place.mkdir(parents=True, exist_ok=True)
    folder = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in (name, *below):
            inner = _step(folder, part, make)
            os.close(folder)
            folder = inner
        yield folder
    finally:
        os.close(folder)


def _step(folder: int, part: str, make: bool) -> int:
    if make:
        with suppress(FileExistsError):
            os.mkdir(part, dir_fd=folder)
    try:
        return os.open(part, _FOLDER, dir_fd=folder)
    except OSError as error:
        if not make or error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        _set_aside(folder, part)
        os.mkdir(part, dir_fd=folder)
        return os.open(part, _FOLDER, dir_fd=folder)


def _set_aside(folder: int, name: str) -> None:
    os.rename(name, f".aside-{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=folder)


def _write(folder: int, name: str, text: str) -> None:
    """Write a file whole, by rename; what else stands under its name is set aside."""
    new = f".writing-{secrets.token_hex(8)}"
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=folder)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        try:
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError:
            _set_aside(folder, name)
            os.rename(new, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(new, dir_fd=folder)
        raise


def _listed(folder: int) -> list[str]:
    """Names in an inbox that are no half-written file's; those that ``submit`` gives come first."""
    with os.scandir(folder) as rows:
        names = [row.name for row in islice(rows, MOST_NAMES) if not row.name.startswith(".")]
    return sorted(names, key=lambda n: (re.fullmatch(r"[0-9a-f]{64}\.md", n) is None, n))


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
        return check(_read(folder, file, LONGEST), "idea", researcher, asked)
    except IdeaError as error:
        return str(error)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno in _OURS:
            raise
        return f"cannot be read ({error.strerror}); write it anew"


def _read(folder: int, name: str, most: int) -> str:
    """A plain file's text.

    Raises:
        IdeaError: it is anything else, or longer than ``most`` bytes, or no UTF-8.
    """
    before = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISREG(before.st_mode) or before.st_nlink != 1:
        raise IdeaError("expected a plain file, got a link, a folder or something else; write the text itself")
    handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(handle, "rb") as source:
        now = os.fstat(handle)
        if (now.st_ino, now.st_dev) != (before.st_ino, before.st_dev):
            raise IdeaError("changed while it was read; write it under another name and rename it")
        data = source.read(most + 1)
    if len(data) > most:
        raise IdeaError(f"{now.st_size:,} bytes; at most {most:,} are read, so write less")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise IdeaError("expected UTF-8 text; save it as UTF-8") from None


def _told(run: Path, name: str, file: str) -> dict[str, Any]:
    """A JSON object that the campaign wrote; empty where there is none yet."""
    try:
        with _opened(run, name) as folder:
            found = json.loads(_read(folder, file, LONGEST_ANSWER))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise IdeaError(f"{file}: cannot be read ({error}); it is written anew when the next stage opens.") from None
    if not isinstance(found, dict):
        raise IdeaError(f"{file}: expected a JSON object; it is written anew when the next stage opens.")
    return found
