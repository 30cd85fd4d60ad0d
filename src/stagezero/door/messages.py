"""Every message that may cross the door. Frozen and closed: a field that is not here cannot cross."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Separation = Literal["colocated", "boxed", "separate user", "separate host"]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Terms(_Message):
    """What an auditor is set up to answer, agreed before anything is submitted."""

    suite: str
    sealed: str | None
    items: int
    bars: dict[str, float]
    submissions: int
    passes: int
    delta: float


class Submission(_Message):
    """A checkpoint, by location and digest."""

    folder: str
    digest: str


class Reply(_Message):
    """The whole of what an audit says: one of two words."""

    verdict: Literal["pass", "fail"]


class Status(_Message):
    """What the auditor says of itself; nothing here depends on the sealed items."""

    generator: str
    claims: tuple[str, ...]
    clusters: dict[str, int]
    bits_allowed: float
    submissions_used: int
    submissions_left: int
    passes_left: int
    separation: Separation


class Refusal(_Message):
    """Why nothing was answered; nothing was charged."""

    reason: str
