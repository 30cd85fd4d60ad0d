"""How the campaign's error is spent, before anything is built.

``split``: over declared stages, then equally over the ideas registered before the batch's first build. A union bound, so the
familywise error holds under any dependence between ideas, shared control builds included.

``e-LOND`` (Xu & Ramdas 2024, "Online multiple testing with e-values"): the t-th hypothesis gets α·γ_t·(promotions so far + 1),
γ_t = 1/(t(t+1)), and is promoted when its e-process crosses the inverse. Under any dependence it holds the false discovery
*rate*, the expected share of the promoted that are no better than their control, and not the chance that any is. It needs no
declared number of stages; it gives most to the first hypotheses, and back what promotions earn.
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


def e_lond_level(alpha: float, before: int, batch: int, promoted: int) -> float:
    """Level of each of ``batch`` hypotheses registered together, after ``before`` others of which ``promoted`` were promoted.

    The batch's part of Σγ is divided equally, before anything in it is built; ideas of one batch are decided together, so all
    of them count the promotions before the batch, fewer than they might, which keeps the statement.

    Raises:
        ValueError: a count is impossible.
    """
    if batch < 1 or not 0 <= promoted <= before:
        raise ValueError(f"batch, promoted: expected a batch of 1 or more and 0 ≤ promoted ≤ before, got {batch}, {promoted}, {before}")
    return alpha * (promoted + 1) / ((before + 1) * (before + batch + 1))
