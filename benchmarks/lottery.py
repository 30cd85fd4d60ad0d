"""Resubmitting until the noise is kind: 50 names and formattings of the best null idea, against one honest idea.

Stage 1 tries ten null ideas; the player takes the one that looked best and sends it again in stage 2 under 50 names and
formattings. The airlock that campaigns use decides what is a hypothesis of its own, the rule that campaigns use decides
trials, the noise is that of real pocket builds. Beside it: 50 near-copies whose numbers differ a little, which are hypotheses of
their own, are shown as near-duplicates, and share one stage's error; and a leaderboard that tries every resubmission anew.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from _common import arguments, publish
from _noise import ITEMS, collect
from _simulate import Floats, binomial_interval, pooled_from_five
from null_tournament import PAIRS, WORTH, grid
from numpy.typing import NDArray

from stagezero.evidence import StoppingRule, interim_results
from stagezero.ideas.airlock import Admitted, admit
from stagezero.ideas.idea import Idea, parse_idea
from stagezero.project import Trial
from stagezero.tasks import load_suite
from stagezero.training import parse_recipe

CAMPAIGNS, NAMES, RIVALS, ALPHA = 4000, 50, 10, 0.05
SUITE = load_suite("atlas")
CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 100}]}, {"step": "sft", "steps": 60, "learning_rate": 1e-3}], "control"
)


def idea(title: str, patch: str) -> Idea:
    text = f"---\ntitle: {title}\nproperty: privacy\nclaimed_effect: 0.1\nreason: because\npatch:\n{patch}\n---\n"
    return parse_idea(text, title, "player")


def disguises() -> list[Idea]:
    """One idea (a warm-up of 5 steps), 50 ways: names, number formats, key order, flow and block style, renamed or idle datasets."""
    values = ["5", "5.0", "0x5", "+5", "05"]
    ways = []
    for i in range(NAMES):
        v = values[i % len(values)]
        forms = (
            f"  - {{op: set, at: sft, values: {{warmup: {v}}}}}",
            f"  - op: set\n    values:\n      warmup: {v}\n    at: sft",
            f"  - {{at: sft/1, values: {{warmup: {v}, schedule: linear}}, op: set}}",
            f"  - {{op: append, step: {{step: mix, name: idle{i}, parts: [{{}}]}}}}\n  - {{op: set, at: sft, values: {{warmup: {v}}}}}",
            f"  - {{op: set, at: sft, values: {{warmup: {v}, name: tuned{i}}}}}",
            f"  - {{op: set, at: sft, values: {{warmup: 9}}}}\n  - {{op: set, at: sft, values: {{warmup: {v}}}}}",
        )
        ways.append(idea(f"A wholly new approach, number {i}", forms[i % len(forms)]))
    return ways


def near_copies() -> list[Idea]:
    return [
        idea(f"Variation {i}", f"  - {{op: set, at: sft, values: {{learning_rate: {0.001 * (1 + 0.001 * (i + 1)):.7f}}}}}")
        for i in range(NAMES)
    ]


def admitted(ideas: Sequence[Idea], decided: Sequence[Admitted] = ()) -> list[Admitted]:
    return admit(ideas, CONTROL, SUITE, 0.0, [(a.idea.title, a.hypothesis) for a in decided])[0]


def main() -> int:
    options = arguments(__doc__ or "").parse_args()
    first = admitted(disguises()[:1])
    again = admitted(disguises(), first)
    together, copies = admitted(disguises()), admitted(near_copies())
    noise = collect()["privacy"]
    rng = np.random.default_rng(7)
    trial = Trial(alpha=ALPHA)
    alone, crowd = trial.level(1, 2, RIVALS), trial.level(2, 2, max(1, len(copies)))
    counts = dict.fromkeys(("lottery_promotions", "single_idea_promotions", "near_copies_promotions", "leaderboard_promotions"), 0)

    def differences(n: int) -> tuple[Floats, Floats]:
        control = grid(0.5 + noise.draw(rng, (PAIRS,)))
        ring = np.stack([control[:5], grid(0.5 + noise.draw(rng, (5,)))], axis=1)[None]
        return grid(0.5 + noise.draw(rng, (n, PAIRS))) - control, np.repeat(pooled_from_five(rng, ring), n)

    def promoted(d: Floats, sd: Floats, level: float) -> NDArray[np.bool_]:
        return interim_results(d, sd, StoppingRule(level, 0.0, ITEMS, WORTH)).outcome()[0]

    for _ in range(CAMPAIGNS):
        d, sd = differences(RIVALS)
        crossed = promoted(d, sd, alone)
        best = int(d[:, 0].argmax())
        counts["single_idea_promotions"] += bool(crossed[best])
        # Stage 2: the resubmissions. What the airlock lets through is tried anew; it lets through ``again``.
        won = bool(crossed[best])
        if again and not won:
            more, sd2 = differences(len(again))
            won = bool(promoted(more, sd2, trial.level(2, 2, len(again))).any())
        counts["lottery_promotions"] += won
        more, sd2 = differences(len(copies))
        counts["near_copies_promotions"] += bool(promoted(more, sd2, crowd).any())
        five = grid(0.5 + noise.draw(rng, (NAMES, 5))) - grid(0.5 + noise.draw(rng, (NAMES, 5)))
        counts["leaderboard_promotions"] += bool((five.mean(1) > 2 * noise.sd * np.sqrt(2 / 5)).any())
    figures: dict[str, float] = {
        "hypotheses_among_50_disguises": float(len(together)),
        "admitted_when_sent_again": float(len(again)),
        "hypotheses_among_50_near_copies": float(len(copies)),
        "near_copies_shown_as_such": sum(bool(c.near_duplicates) for c in copies) / len(copies),
    }
    for name, count in counts.items():
        figures[name] = count / CAMPAIGNS
        figures[f"{name}_high"] = binomial_interval(count, CAMPAIGNS)[1]
    publish(
        figures,
        {
            "hypotheses_among_50_disguises": "1",
            "admitted_when_sent_again": "0",
            "near_copies_shown_as_such": "1",
            "lottery_promotions": "no more than single_idea_promotions",
            "single_idea_promotions": f"the same idea, sent once; at most {ALPHA / 2} for its stage",
            "near_copies_promotions_high": f"at most {ALPHA / 2} for the stage",
            "leaderboard_promotions": "the lottery: best of 50 re-runs beyond two standard errors",
        },
        options.json,
    )
    sound = len(together) == 1 and not again and figures["near_copies_shown_as_such"] == 1.0
    sound = sound and counts["lottery_promotions"] <= counts["single_idea_promotions"]
    sound = sound and all(figures[f"{name}_high"] <= ALPHA / 2 for name in ("lottery_promotions", "near_copies_promotions"))
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
