"""How the campaign's error is spent: split over stages, then over the ideas registered before the batch's first build.

A union bound, so it holds under any dependence between ideas, shared control builds included.
"""

from __future__ import annotations


def stage_level(alpha: float, stage: int, stages: int | None) -> float:
    """Error that stage ``stage`` (from 1) may spend: α/S of S declared stages, α/(n(n+1)) when open-ended.

    Raises:
        ValueError: the stage lies outside what was declared.
    """
    if stage < 1 or (stages is not None and stage > stages):
        raise ValueError(f"stage: expected 1 to {stages if stages is not None else 'any'}, got {stage}")
    return alpha / stages if stages is not None else alpha / (stage * (stage + 1))


def idea_level(level_of_stage: float, batch: int) -> float:
    """Error of one idea of a batch: an equal share.

    Raises:
        ValueError: the batch is empty.
    """
    if batch < 1:
        raise ValueError(f"batch: expected at least one idea, got {batch}")
    return level_of_stage / batch
