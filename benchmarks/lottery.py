"""Measure what repeated submission gains: 50 forms of one null idea, against one submission.

Stage 1 tries ten null ideas. The researcher then takes the idea with the best first difference and
submits it again in stage 2, under 50 names and formattings. The campaign's airlock determines which
submissions are distinct hypotheses, the campaign's rule decides the trials, and the noise is that
of real pocket builds.

Two comparisons: 50 near-copies whose numbers differ a little are distinct hypotheses, are reported
as near-duplicates, and share the error of one stage; a leaderboard tries every resubmission anew.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from _common import arguments, publish
from _noise import ITEMS, collect, grid
from _simulate import Floats, binomial_interval, run_trials
from numpy.typing import NDArray

from stagezero.evidence import StoppingRule
from stagezero.ideas.airlock import Admitted, admit
from stagezero.ideas.idea import Idea, parse_idea
from stagezero.project import Trial
from stagezero.tasks import load_suite
from stagezero.training import parse_recipe

CAMPAIGNS, RESUBMISSIONS, IDEAS, ALPHA = 4000, 50, 10, 0.05
SUITE = load_suite("atlas")
CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 100}]}, {"step": "sft", "steps": 60, "learning_rate": 1e-3}], "control"
)


def idea(title: str, patch: str) -> Idea:
    """Return an idea with a patch, given as YAML."""
    text = f"---\ntitle: {title}\nproperty: privacy\nclaimed_effect: 0.1\nreason: because\npatch:\n{patch}\n---\n"
    return parse_idea(text, title, "player")


def disguises() -> list[Idea]:
    """Return one idea (a warm-up of 5 steps) in 50 forms.

    They differ in names, number formats, key order, flow and block style, and in renamed or unused
    datasets.
    """
    values = ["5", "5.0", "0x5", "+5", "05"]
    ideas = []
    for i in range(RESUBMISSIONS):
        v = values[i % len(values)]
        forms = (
            f"  - {{op: set, at: sft, values: {{warmup: {v}}}}}",
            f"  - op: set\n    values:\n      warmup: {v}\n    at: sft",
            f"  - {{at: sft/1, values: {{warmup: {v}, schedule: linear}}, op: set}}",
            f"  - {{op: append, step: {{step: mix, name: idle{i}, parts: [{{}}]}}}}\n  - {{op: set, at: sft, values: {{warmup: {v}}}}}",
            f"  - {{op: set, at: sft, values: {{warmup: {v}, name: tuned{i}}}}}",
            f"  - {{op: set, at: sft, values: {{warmup: 9}}}}\n  - {{op: set, at: sft, values: {{warmup: {v}}}}}",
        )
        ideas.append(idea(f"A wholly new approach, number {i}", forms[i % len(forms)]))
    return ideas


def near_copies() -> list[Idea]:
    """Return 50 ideas whose learning rates differ by steps of 0.1 %."""
    return [
        idea(f"Variation {i}", f"  - {{op: set, at: sft, values: {{learning_rate: {0.001 * (1 + 0.001 * (i + 1)):.7f}}}}}")
        for i in range(RESUBMISSIONS)
    ]


def admitted(ideas: Sequence[Idea], decided: Sequence[Admitted] = ()) -> list[Admitted]:
    """Return the ideas that the airlock admits after the decided ones."""
    return admit(ideas, CONTROL, SUITE, 0.0, [(a.idea.title, a.hypothesis) for a in decided])[0]


def main() -> int:
    """Run the benchmark; return 1 if resubmission gains anything."""
    options = arguments(__doc__ or "").parse_args()
    first = admitted(disguises()[:1])
    readmitted = admitted(disguises(), first)
    distinct, copies = admitted(disguises()), admitted(near_copies())
    noise = collect()["privacy"]
    rng = np.random.default_rng(7)
    trial = Trial(alpha=ALPHA)
    level_1, level_2 = trial.level(1, 2, IDEAS), trial.level(2, 2, max(1, len(copies)))
    counts = dict.fromkeys(("lottery_promotions", "single_idea_promotions", "near_copies_promotions", "leaderboard_promotions"), 0)

    def draw_scores(n: int) -> tuple[Floats, Floats]:
        control = np.repeat(grid(0.5 + noise.draw(rng, (1, trial.max_pairs))), n, axis=0)
        return control, grid(0.5 + noise.draw(rng, (n, trial.max_pairs)))

    def promoted(control: Floats, candidates: Floats, level: float) -> NDArray[np.bool_]:
        rule = StoppingRule(level, trial.max_pairs, ITEMS, worth=trial.worth, patience=trial.patience, calibration=trial.calibration)
        return run_trials(control, candidates, rule).better

    for _ in range(CAMPAIGNS):
        control, candidates = draw_scores(IDEAS)
        crossed = promoted(control, candidates, level_1)
        best = int((candidates - control)[:, 0].argmax())
        counts["single_idea_promotions"] += bool(crossed[best])
        # Stage 2: the resubmissions that the airlock admits have a new trial.
        won = bool(crossed[best])
        if readmitted and not won:
            won = bool(promoted(*draw_scores(len(readmitted)), trial.level(2, 2, len(readmitted))).any())
        counts["lottery_promotions"] += won
        counts["near_copies_promotions"] += bool(promoted(*draw_scores(len(copies)), level_2).any())
        five = grid(0.5 + noise.draw(rng, (RESUBMISSIONS, 5))) - grid(0.5 + noise.draw(rng, (RESUBMISSIONS, 5)))
        counts["leaderboard_promotions"] += bool((five.mean(1) > 2 * noise.sd * np.sqrt(2 / 5)).any())
    figures: dict[str, float] = {
        "hypotheses_among_50_disguises": float(len(distinct)),
        "admitted_when_sent_again": float(len(readmitted)),
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
            "single_idea_promotions": f"the same idea, submitted once; at most {ALPHA / 2} for its stage",
            "near_copies_promotions_high": f"at most {ALPHA / 2} for the stage",
            "leaderboard_promotions": "comparison: the best of 50 repetitions exceeds two standard errors",
        },
        options.json,
    )
    passed = len(distinct) == 1 and not readmitted and figures["near_copies_shown_as_such"] == 1.0
    passed = passed and counts["lottery_promotions"] <= counts["single_idea_promotions"]
    passed = passed and all(figures[f"{name}_high"] <= ALPHA / 2 for name in ("lottery_promotions", "near_copies_promotions"))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
