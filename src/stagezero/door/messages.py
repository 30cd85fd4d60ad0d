"""Every message that may pass through the door.

Messages are frozen and closed: a field that is not declared here is rejected. The possible replies
are fixed in advance. A submission is refused, or it is charged and answered with "pass" or "fail"
at a time that is fixed when it is charged. A refusal depends only on what the lab can observe
itself and on the answers that it already has.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Separation = Literal["colocated", "boxed", "separate user", "separate host"]
SEPARATIONS: tuple[Separation, ...] = ("colocated", "boxed", "separate user", "separate host")
"""The separation levels, from the weakest to the strongest."""
SEPARATION_GUARANTEES: dict[Separation, str] = {
    "colocated": "the lab and the auditor are processes of one user; this prevents accidents, but no attack",
    "boxed": "the lab ran in a sandbox without the auditor's folder and processes; this stops a lab inside it, but not root outside",
    "separate user": "the auditor runs as another user than the lab; only a lab with root rights on this machine could read its files",
    "separate host": "the auditor is on another machine; even a lab with root rights on its own machine cannot read its files",
}
Verdict = Literal["pass", "fail"]
MeterKind = Literal["counted", "flat", "kraft", "randomised"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""A name that is safe as a part of a path."""
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
Fraction = Annotated[float, Field(gt=0, lt=1)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Terms(_Message):
    """The terms on which an auditor answers for one suite, fixed before the first submission.

    ``submissions`` and ``passes`` are limits of every meter kind. ``bits`` is the budget of the
    flat, Kraft and randomised meters. ``step`` makes the suite a ladder with one claim: whenever a
    model is certified above the bar, the bar rises by ``step``.
    """

    suite: str
    sealed: str | None = None
    items: int = Field(default=1000, ge=1, le=1_000_000)
    bars: dict[str, Fraction] = Field(min_length=1)
    submissions: int = Field(ge=1, le=100_000)
    passes: int = Field(ge=1, le=100_000)
    delta: Fraction = 0.05
    meter: MeterKind = "counted"
    bits: float | None = Field(default=None, gt=0, le=10_000)
    flip: float = Field(default=0.0, ge=0, lt=0.5)
    step: float | None = Field(default=None, gt=0, lt=1)
    shadow: bool = False

    @model_validator(mode="after")
    def _check_consistency(self) -> Terms:
        if (self.meter == "counted") != (self.bits is None):
            raise ValueError(
                "'bits' is the budget of the meters flat, kraft and randomised, and of those alone; "
                + ("leave it out" if self.bits is not None else "add it")
            )
        if (self.meter == "randomised") != (self.flip > 0):
            raise ValueError("'flip' must be above 0 for the randomised meter and 0 for every other meter; correct it")
        if self.step is not None and len(self.bars) != 1:
            raise ValueError("'step' makes a ladder, which has one claim; name one bar")
        return self


class Setup(_Message):
    """A request to set up the suite of the project that started an embedded auditor.

    The suites of any other auditor are added by its operator.
    """

    project: Name
    terms: Terms
    base: str = Field(max_length=4096, description="folder of the base model, on which the slowest audit is measured")


class Submission(_Message):
    """A checkpoint to audit: its digest, and the folder to copy it from.

    Without a folder, the files must have been uploaded before.
    """

    suite: Name
    digest: Digest
    folder: str | None = Field(default=None, max_length=4096)


class Receipt(_Message):
    """Confirmation that a submission was charged.

    ``due`` is the time at which the answer can be fetched (seconds since 1970). It depends only on
    the times of the submissions.
    """

    submission: int
    due: float


class Reply(_Message):
    """The complete answer of an audit."""

    verdict: Verdict


class Status(_Message):
    """An auditor's description of itself and of one suite: the terms and the counts of answers.

    All fields follow from what the auditor has published and answered. None depends on the sealed
    items in any other way.
    """

    auditor: str
    suite: str
    generator: str
    commitment: str
    claims: tuple[str, ...]
    bars: dict[str, float]
    clusters: dict[str, int]
    delta: float
    meter: MeterKind
    bits_allowed: float
    bits_used: float
    submissions_used: int
    submissions_left: int
    passes_given: int
    passes_left: int
    pending: int
    slot: float
    takes: Literal["folder", "upload"]
    separation: Separation


class Refusal(_Message):
    """The reason for a refusal. A refused request is not charged.

    Programs branch on ``code``. ``wait`` is the time at which a retry can succeed (seconds since
    1970), if there is one.
    """

    reason: str
    code: Literal["refused", "wait", "budget spent", "witness", "closed"] = "refused"
    wait: float | None = None


class LabCheckpoint(_Message):
    """The lab's signed ledger checkpoint, with a proof that it extends the one it sent before."""

    key: str = Field(max_length=300)
    checkpoint: str = Field(max_length=4096)
    proof: tuple[Digest, ...] = Field(default=(), max_length=64)


class CosignedCheckpoint(_Message):
    """The lab's checkpoint with the auditor's signature under it."""

    checkpoint: str


class CheckpointRequest(_Message):
    """A request for the auditor's checkpoint.

    ``checkpoint`` is the auditor's newest checkpoint that the lab has stored; None if it has none.
    """

    checkpoint: str | None = Field(default=None, max_length=8192)


class AuditorCheckpoint(_Message):
    """The auditor's signed ledger checkpoint, with a proof that it extends the requester's one."""

    key: str
    checkpoint: str
    proof: tuple[Digest, ...]
