"""Review of ideas by people, who sign their decisions.

A project can require review for every idea; the ideas of a model that has not passed audit always
need it.

Each pending idea is a file in the run's folder (``review/waiting``) that contains only what would
cross. A reviewer signs an in-toto statement about the idea's digest with a key of their own. The
project lists the keys that count. The ledger records the signed envelope, so that the lineage can
name the person who approved an idea.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from stagezero.errors import AttestationError, InputError, ProjectError
from stagezero.files import write_atomic
from stagezero.ideas.airlock import Admitted, Refusal, Refused
from stagezero.ledger import SigningKey, VerifyKey, make_statement, sign_statement, verify_envelope
from stagezero.project import Review

PREDICATE_TYPE = "https://stagezero.dev/idea-review/v1"
ReviewDecision = Literal["approve", "reject"]
POLL_SECONDS = 0.5
MAX_ENVELOPE_BYTES = 1 << 16
MAX_NOTE_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class PendingIdea:
    """One idea that waits for review, with all that a reviewer sees of it.

    The field names are the keys of its file.
    """

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
    """Why the idea needs review."""
    run: str
    """The hash of the run's first entry: a decision is valid in this run only."""


def _folder(run: Path) -> Path:
    return run / "review"


def pending_ideas(run: Path) -> list[PendingIdea]:
    """Return the ideas of a run that wait for review, oldest stage first.

    Raises:
        InputError: the run does not exist, or a file is damaged.
    """
    if not run.is_dir():
        raise InputError(f"run {str(run)!r}: expected the folder of a run, found none; check the path.")
    pending = []
    for path in sorted((_folder(run) / "waiting").glob("*.json")):
        try:
            pending.append(PendingIdea(**json.loads(path.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError):
            raise InputError(f"{path}: the file is damaged; remove it and run the campaign again, which writes it anew.") from None
    return sorted(pending, key=lambda idea: (idea.stage, idea.digest))


def sign_decision(run: Path, idea: PendingIdea, decision: ReviewDecision, key: SigningKey, note: str = "") -> Path:
    """Sign a decision on an idea, and store it where the campaign polls for it.

    Args:
        note: the reviewer's reason; characters beyond ``MAX_NOTE_CHARACTERS`` are cut off.

    Returns:
        The file of the signed statement.
    """
    predicate = {
        "word": decision, "note": note[:MAX_NOTE_CHARACTERS], "title": idea.title, "stage": idea.stage, "run": idea.run,
        "reviewer": key.verify_key.name,
    }  # fmt: skip
    envelope = sign_statement(make_statement({"idea": idea.digest}, PREDICATE_TYPE, predicate), key)
    path = _folder(run) / "signed" / f"{idea.digest}.json"
    write_atomic(path, json.dumps(envelope, indent=1) + "\n")
    return path


def reviewer_keys(review: Review) -> tuple[VerifyKey, ...]:
    """Return the reviewers' public keys.

    Raises:
        ProjectError: one of them is not a public key.
    """
    keys = []
    for text in review.keys:
        try:
            keys.append(VerifyKey.parse(text))
        except Exception as error:
            raise ProjectError(f"review.keys: {error}") from None
    return tuple(keys)


def verify_decision(digest: str, envelope: dict[str, Any], keys: Sequence[VerifyKey], run: str) -> dict[str, Any] | None:
    """Return the predicate of a reviewer's signed decision on this idea in this run, or None.

    Args:
        digest: the idea's digest.
        envelope: the DSSE envelope around the statement.
        keys: the reviewers' public keys.
        run: the hash of the run's first entry.
    """
    try:
        statement = verify_envelope(envelope, keys)
    except AttestationError:
        return None
    predicate = statement["predicate"]
    is_about_idea = any(s["digest"].get("sha256") == digest for s in statement["subject"])
    if statement["predicateType"] != PREDICATE_TYPE or not is_about_idea:
        return None
    if predicate.get("run") != run or predicate.get("word") not in ("approve", "reject"):
        return None
    return dict(predicate)


class ReviewGate:
    """Delays ideas that need review until a reviewer has decided on them."""

    def __init__(self, settings: Review | None, run: Path, status: Callable[[str, int, int, float | None], None]) -> None:
        """Make the gate of one run.

        Args:
            settings: the reviewers of the project; None if it has none.
            run: the run's folder.
            status: displays a message while ideas wait (``trials.jobs.Progress.status``).
        """
        self.settings, self.run, self.status = settings, run, status
        self.keys = reviewer_keys(settings) if settings is not None else ()

    def await_decisions(
        self, admitted: Sequence[Admitted], unaudited_reason: str | None, stage: int, first_entry: str
    ) -> tuple[list[Admitted], list[Refused]]:
        """Wait for the reviews that ideas need, and sort out the ideas that may not be tried.

        Args:
            unaudited_reason: why the ideas of the stage's own model need review; None if they do
                not.
            stage: the stage that the ideas are for.
            first_entry: the hash of the run's first entry.

        Returns:
            Ideas that may be tried, with the decisions that approved them, and refused ideas.
        """
        reasons = {a.idea.digest(): why for a in admitted if (why := self._review_reason(a, unaudited_reason)) is not None}
        delayed = [a for a in admitted if a.idea.digest() in reasons]
        refused: list[Refused] = []
        if reasons and self.settings is None:
            fix = "; the project names no reviewer: add review.keys"
            refused = [Refused(a.idea, Refusal.NOT_REVIEWED, reasons[a.idea.digest()] + fix) for a in delayed]
            return [a for a in admitted if a.idea.digest() not in reasons], refused
        decisions = self._collect(delayed, reasons, stage, first_entry)
        passed = []
        for a in admitted:
            digest = a.idea.digest()
            if digest not in reasons:
                passed.append(a)
            elif digest not in decisions:
                refused.append(Refused(a.idea, Refusal.NOT_REVIEWED, "no reviewer decided in time"))
            elif decisions[digest]["word"] == "reject":
                note = f": {decisions[digest]['note']}" if decisions[digest]["note"] else ""
                refused.append(Refused(a.idea, Refusal.REJECTED, f"rejected by {decisions[digest]['reviewer']}{note}"))
            else:
                passed.append(replace(a, review=decisions[digest]))
        return passed, refused

    def _review_reason(self, a: Admitted, unaudited_reason: str | None) -> str | None:
        """Return why an idea needs review; None if it does not."""
        if a.idea.researcher == "self" and unaudited_reason is not None:
            return unaudited_reason
        return "every idea of this project is reviewed" if self.settings is not None and self.settings.every else None

    def _collect(self, ideas: Sequence[Admitted], reasons: dict[str, str], stage: int, first_entry: str) -> dict[str, dict[str, Any]]:
        """Wait for a decision on every idea, or for the deadline.

        Returns:
            The decisions by the ideas' digests.
        """
        if not ideas or self.settings is None:
            return {}
        folder = _folder(self.run)
        for a in ideas:
            self._write_pending(a, reasons[a.idea.digest()], stage, first_entry)
        # The result is stored, so that an idea whose deadline has passed stays refused when the run
        # continues.
        result = folder / f"stage-{stage}.json"
        deadline = self._deadline(folder / f"stage-{stage}-closes", self.settings.seconds)
        decisions: dict[str, dict[str, Any]] = json.loads(result.read_text()) if result.is_file() else {}
        while not result.is_file():
            for a in ideas:
                digest = a.idea.digest()
                if digest not in decisions and (decision := self._read_decision(digest, first_entry)) is not None:
                    decisions[digest] = decision
            pending = len(ideas) - len(decisions)
            if pending == 0 or time.time() > deadline:
                write_atomic(result, json.dumps(decisions))
                break
            self.status(f"stage {stage}: {pending} ideas wait for review: stagezero review {self.run}", 0, 1, None)
            time.sleep(POLL_SECONDS)
        for a in ideas:
            (folder / "waiting" / f"{a.idea.digest()}.json").unlink(missing_ok=True)
        return decisions

    def _write_pending(self, a: Admitted, why: str, stage: int, first_entry: str) -> None:
        idea = a.idea
        pending = PendingIdea(
            idea.digest(), stage, idea.title, idea.researcher, idea.author or idea.researcher, idea.property, idea.bits(), idea.reason,
            idea.technique(), why, first_entry,
        )  # fmt: skip
        content = {name: getattr(pending, name) for name in PendingIdea.__slots__}
        write_atomic(_folder(self.run) / "waiting" / f"{pending.digest}.json", json.dumps(content, indent=1))

    @staticmethod
    def _deadline(path: Path, seconds: float) -> float:
        """Return the deadline in Unix time. The first call stores it: ``seconds`` from now."""
        if not path.is_file():
            write_atomic(path, str(time.time() + seconds))
        return float(path.read_text())

    def _read_decision(self, digest: str, first_entry: str) -> dict[str, Any] | None:
        """Return a reviewer's valid decision on an idea, with its envelope; None without one."""
        path = _folder(self.run) / "signed" / f"{digest}.json"
        try:
            if path.is_symlink() or path.stat().st_size > MAX_ENVELOPE_BYTES:
                return None
            envelope = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        decision = verify_decision(digest, envelope, self.keys, first_entry)
        return {**decision, "envelope": envelope} if decision is not None else None
