"""A person's word on an idea, signed: what a project may ask for before an idea is tried, and what the ideas of a model that has not
passed audit always need.

Ideas that wait lie in the run's folder (``review/waiting``) as what would cross and nothing else. A reviewer signs an in-toto statement
about the idea's digest with a key of their own; the project names the keys that count, and the ledger keeps the envelope, so that the
lineage can say who let an idea in.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stagezero.errors import AttestationError, InputError, ProjectError
from stagezero.files import write_whole
from stagezero.ideas.airlock import Admitted, Refusal, Refused
from stagezero.ledger import SigningKey, VerifyKey, seal, statement, unseal
from stagezero.project import Review

PREDICATE = "https://stagezero.dev/idea-review/v1"
Word = Literal["approve", "reject"]
POLL = 0.5
LONGEST = 1 << 16


@dataclass(frozen=True, slots=True)
class Waiting:
    """One idea that waits for a word, as a reviewer is shown it."""

    digest: str
    stage: int
    title: str
    researcher: str
    author: str
    property: str
    bits: int
    reason: str
    crosses: Any
    """The canonical technique: what would reach a build."""
    why: str
    run: str
    """The run's first entry: a word on an idea is for one run alone."""


def _folder(run: Path) -> Path:
    return run / "review"


def waiting(run: Path) -> list[Waiting]:
    """Ideas of a run that wait, oldest stage first.

    Raises:
        InputError: there is no such run, or a file is damaged.
    """
    if not run.is_dir():
        raise InputError(f"run {str(run)!r}: expected the folder of a run, found none; check the path.")
    found = []
    for path in sorted((_folder(run) / "waiting").glob("*.json")):
        try:
            found.append(Waiting(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            raise InputError(f"{path}: is damaged; remove it, and run the campaign again to have it written.") from None
    return sorted(found, key=lambda w: (w.stage, w.digest))


def sign(run: Path, idea: Waiting, word: Word, key: SigningKey, note: str = "") -> Path:
    """Sign a word on an idea and leave it where the campaign looks.

    Returns:
        The file of the signed statement.
    """
    said = {"word": word, "note": note[:1000], "title": idea.title, "stage": idea.stage, "run": idea.run, "reviewer": key.verify_key.name}
    envelope = seal(statement({"idea": idea.digest}, PREDICATE, said), key)
    path = _folder(run) / "signed" / f"{idea.digest}.json"
    write_whole(path, json.dumps(envelope, indent=1) + "\n")
    return path


def keys_of(review: Review) -> tuple[VerifyKey, ...]:
    """The reviewers' public keys.

    Raises:
        ProjectError: one of them is none.
    """
    found = []
    for text in review.keys:
        try:
            found.append(VerifyKey.parse(text))
        except Exception as error:
            raise ProjectError(f"review.keys: {error}") from None
    return tuple(found)


def word_on(digest: str, envelope: dict[str, Any], keys: Sequence[VerifyKey], run: str) -> dict[str, Any] | None:
    """What a signed statement says of an idea of a run; None where it is no word of a reviewer on that idea in that run."""
    try:
        said = unseal(envelope, keys)
    except AttestationError:
        return None
    p = said["predicate"]
    about = any(s["digest"].get("sha256") == digest for s in said["subject"])
    if said["predicateType"] != PREDICATE or not about or p.get("run") != run or p.get("word") not in ("approve", "reject"):
        return None
    return dict(p)


class Gate:
    """Holds ideas until a reviewer has spoken."""

    def __init__(self, review: Review | None, run: Path, doing: Callable[[str, int, int, float | None], None]) -> None:
        """
        Args:
            review: who may let ideas in; None where the project names nobody.
            run: the run's folder.
            doing: is told that ideas wait.
        """
        self.review, self.run, self.doing = review, run, doing
        self.keys = keys_of(review) if review is not None else ()

    def pass_through(
        self, admitted: Sequence[Admitted], unaudited: str | None, stage: int, first: str
    ) -> tuple[list[Admitted], list[Refused]]:
        """Those that may be tried, with who let them in, and those that may not.

        Args:
            unaudited: why the stage's own model must not propose unreviewed, where it must not.
            stage: which stage they are for.
            first: the hash of the run's first entry.
        """
        held = {a.idea.digest(): why for a in admitted if (why := self._why(a, unaudited)) is not None}
        refused: list[Refused] = []
        if held and self.review is None:
            told = "; the project names no reviewer: add review.keys"
            refused = [Refused(a.idea, Refusal.NOT_REVIEWED, held[a.idea.digest()] + told) for a in admitted if a.idea.digest() in held]
            return [a for a in admitted if a.idea.digest() not in held], refused
        words = self._words([a for a in admitted if a.idea.digest() in held], held, stage, first)
        passed = []
        for a in admitted:
            digest = a.idea.digest()
            if digest not in held:
                passed.append(a)
            elif digest not in words:
                refused.append(Refused(a.idea, Refusal.NOT_REVIEWED, "nobody reviewed it in time"))
            elif words[digest]["word"] == "reject":
                note = f": {words[digest]['note']}" if words[digest]["note"] else ""
                refused.append(Refused(a.idea, Refusal.REJECTED, f"rejected by {words[digest]['reviewer']}{note}"))
            else:
                passed.append(replace(a, let_in=words[digest]))
        return passed, refused

    def _why(self, a: Admitted, unaudited: str | None) -> str | None:
        if a.idea.researcher == "self" and unaudited is not None:
            return unaudited
        return "every idea of this project is reviewed" if self.review is not None and self.review.every else None

    def _words(self, held: Sequence[Admitted], why: dict[str, str], stage: int, first: str) -> dict[str, dict[str, Any]]:
        """Wait until each has been spoken on, or the time is over."""
        if not held or self.review is None:
            return {}
        places = _folder(self.run)
        for a in held:
            idea = a.idea
            shown = Waiting(
                idea.digest(), stage, idea.title, idea.researcher, idea.author or idea.researcher, idea.property, idea.bits(), idea.reason,
                idea.technique(), why[idea.digest()], first,
            )  # fmt: skip
            write_whole(
                places / "waiting" / f"{shown.digest}.json", json.dumps({n: getattr(shown, n) for n in Waiting.__slots__}, indent=1)
            )
        kept = places / f"stage-{stage}.json"  # whose time is over stays so when the run continues
        end = self._deadline(places / f"stage-{stage}-closes", self.review.seconds)
        found: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.is_file() else {}
        while not kept.is_file():
            for a in held:
                digest = a.idea.digest()
                if digest not in found and (said := self._signed(digest, first)) is not None:
                    found[digest] = said
            left = len(held) - len(found)
            if left == 0 or time.time() > end:
                write_whole(kept, json.dumps(found))
                break
            self.doing(f"stage {stage}: {left} ideas wait for review: stagezero review {self.run}", 0, 1, None)
            time.sleep(POLL)
        for a in held:
            (places / "waiting" / f"{a.idea.digest()}.json").unlink(missing_ok=True)
        return found

    @staticmethod
    def _deadline(path: Path, seconds: float) -> float:
        if not path.is_file():
            write_whole(path, str(time.time() + seconds))
        return float(path.read_text())

    def _signed(self, digest: str, first: str) -> dict[str, Any] | None:
        path = _folder(self.run) / "signed" / f"{digest}.json"
        try:
            if path.is_symlink() or path.stat().st_size > LONGEST:
                return None
            envelope = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        said = word_on(digest, envelope, self.keys, first)
        return {**said, "envelope": envelope} if said is not None else None
