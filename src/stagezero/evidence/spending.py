"""Alpha spending: the level of each hypothesis, fixed before any of its builds starts.

``split`` divides α over the declared stages, and each stage's share equally over the ideas that are
registered before the batch's first build. By the union bound it controls the familywise error
under any dependence between ideas, including the dependence that shared control builds cause.

``e-LOND`` gives the t-th hypothesis the level α·γ_t·(promotions so far + 1), γ_t = 1/(t(t+1)). The
hypothesis is promoted if its e-process reaches the inverse of that level. Under any dependence it
controls the false discovery rate: the expected share of promoted ideas that are no better than
their control. It does not control the familywise error, which is the probability that at least one
promoted idea is no better. It needs no declared number of stages. The first hypotheses get the
largest levels, and every promotion increases the levels of later hypotheses.

Source: e-LOND, Xu & Ramdas 2024, "Online multiple testing with e-values".
"""

from __future__ import annotations


def stage_level(alpha: float, stage: int, stages: int | None) -> float:
    """Return the share of ``alpha`` that a stage may spend.

    Args:
        alpha: familywise error of the campaign.
        stage: number of the stage, from 1.
        stages: declared number of stages S; the share is α/S. If None, the number of stages is
            open and stage n may spend α/(n(n+1)).

    Raises:
        ValueError: the stage is not one of the declared stages.
    """
    if stage < 1 or (stages is not None and stage > stages):
        raise ValueError(f"stage: expected 1 to {stages if stages is not None else 'any'}, got {stage}")
    return alpha / stages if stages is not None else alpha / (stage * (stage + 1))


def idea_level(level_of_stage: float, batch: int) -> float:
    """Return the level of each of the ``batch`` ideas of a stage: equal shares.

    Raises:
        ValueError: the batch is empty.
    """
    if batch < 1:
        raise ValueError(f"batch: expected at least one idea, got {batch}")
    return level_of_stage / batch


def e_lond_level(alpha: float, before: int, batch: int, promoted: int) -> float:
    """Return the level of each of the ``batch`` hypotheses that are registered together.

    The batch's part of Σγ is divided equally before any build of the batch starts. The ideas of
    one batch are decided together, so each counts only the promotions before the batch. This can
    only lower the levels, so the false discovery rate remains controlled.

    Args:
        alpha: false discovery rate of the campaign.
        before: number of hypotheses registered earlier.
        batch: number of hypotheses in this batch.
        promoted: number of earlier hypotheses that were promoted.

    Raises:
        ValueError: a count is impossible.
    """
    if batch < 1 or not 0 <= promoted <= before:
        raise ValueError(f"batch, promoted: expected a batch of 1 or more and 0 ≤ promoted ≤ before, got {batch}, {promoted}, {before}")
    return alpha * (promoted + 1) / ((before + 1) * (before + batch + 1))
