"""Every message that may cross the door. Frozen and closed: a field that is not here cannot cross.

What an answer can be is fixed before anything is asked: a submission is refused (a function of what the lab can see
for itself, and of the answers it already has), or it is charged and answered "pass" or "fail" at a time fixed when it was charged.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Separation = Literal["colocated", "boxed", "separate user", "separate host"]
SEPARATIONS: tuple[Separation, ...] = ("colocated", "boxed", "separate user", "separate host")
WHAT_IT_STOPS: dict[Separation, str] = {
    "colocated": "the lab and the auditor are processes of one user: this stops accidents, not an attacker",
    "boxed": "the lab ran in a box where the auditor's folder and processes do not exist; it stops a lab that is not root outside it",
    "separate user": "the auditor's user is another than the lab's: it stops a lab that is not root on this machine",
    "separate host": "the auditor is on another machine: it stops also a lab that is root on its own",
}
Word = Literal["pass", "fail"]
MeterKind = Literal["counted", "flat", "kraft", "randomised"]

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Share = Annotated[float, Field(gt=0, lt=1)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Terms(_Message):
    """What an auditor is set up to answer about one suite, fixed before anything is submitted.

    ``submissions`` and ``passes`` bound every meter; ``bits`` is the budget of the flat, Kraft and randomised ones. ``step`` makes
    it a ladder: one claim, whose bar rises by so much whenever a model has shown that it is above it.
    """

    suite: str
    sealed: str | None = None
    items: int = Field(default=1000, ge=1, le=1_000_000)
    bars: dict[str, Share] = Field(min_length=1)
    submissions: int = Field(ge=1, le=100_000)
    passes: int = Field(ge=1, le=100_000)
    delta: Share = 0.05
    meter: MeterKind = "counted"
    bits: float | None = Field(default=None, gt=0, le=10_000)
    flip: float = Field(default=0.0, ge=0, lt=0.5)
    step: float | None = Field(default=None, gt=0, lt=1)
    shadow: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Terms:
        if (self.meter == "counted") != (self.bits is None):
            raise ValueError(
                "'bits' is the budget of the meters flat, kraft and randomised, and of those alone; "
                + ("leave it out" if self.bits is not None else "add it")
            )
        if (self.meter == "randomised") != (self.flip > 0):
            raise ValueError("'flip' belongs to the randomised meter, and it needs one above 0; correct it")
        if self.step is not None and len(self.bars) != 1:
            raise ValueError("'step' makes a ladder, which has one claim; name one bar")
        return self


class Setup(_Message):
    """An embedded auditor is set up by the project that started it; any other has its suites from its own operator."""

    project: Name
    terms: Terms
    base: str = Field(max_length=4096, description="folder of the base model, on which the worst audit is measured")


class Submission(_Message):
    """A checkpoint: its digest, and the folder to copy it from; without a folder, the files were uploaded."""

    suite: Name
    digest: Digest
    folder: str | None = Field(default=None, max_length=4096)


class Receipt(_Message):
    """Charged. ``due`` is when the answer leaves (seconds since 1970); it depends on when things were asked and nothing else."""

    submission: int
    due: float


class Reply(_Message):
    """The whole of what an audit says: one of two words."""

    verdict: Word


class Status(_Message):
    """What the auditor says of itself and of one suite: its terms, and how often it has answered.

    All of it follows from what the auditor published and what it has answered; nothing else depends on the sealed items.
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
    """Why nothing was answered; nothing was charged. Programs go by ``code``. ``wait`` is when to ask again, where that helps."""

    reason: str
    code: Literal["refused", "wait", "budget spent", "witness", "closed"] = "refused"
    wait: float | None = None


class Sighting(_Message):
    """One wing shows the other its signed checkpoint, and that it continues the one shown before."""

    key: str = Field(max_length=300)
    checkpoint: str = Field(max_length=4096)
    proof: tuple[Digest, ...] = Field(default=(), max_length=64)


class Cosigned(_Message):
    """The checkpoint with the witness's own signature under it."""

    checkpoint: str


class Seen(_Message):
    """The newest checkpoint of the auditor's that the asker holds; None for none."""

    checkpoint: str | None = Field(default=None, max_length=8192)


class Shown(_Message):
    """The auditor's own checkpoint, with a proof that it continues the one the asker holds."""

    key: str
    checkpoint: str
    proof: tuple[Digest, ...]
