"""Measure how often honest and harmful ideas are promoted, with every guard and check.

The steps of a trial are the package's own, from the first pair to the final checks; only builds are
replaced. Their scores and warning signs are drawn from real builds (``_noise``), so that they vary
together as they do in reality. One of 60 ideas is tried, at the campaign's default settings, and
claims privacy:

    honest    It gains 1, 2 or 3 standard deviations of a paired difference on privacy, in other
              wordings too, and changes nothing else.
    harmful   The same gain of 3 sd, but one guarded score loses exactly the margin of its guard in
              that trial. Every guarded score takes its turn.
    useless   It changes nothing.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _common import arguments, publish
from _noise import ITEMS, BuildNoise, collect_builds
from _simulate import binomial_interval

from stagezero.evidence import pooled_sd
from stagezero.measure import ALIGNMENT
from stagezero.project import Trial
from stagezero.tasks import Suite, load_suite
from stagezero.training import Recipe, parse_recipe
from stagezero.training.executors import Result
from stagezero.trials.decision import DecisionRule
from stagezero.trials.hypothesis import Entrant, hypothesis
from stagezero.trials.ruling import Fate, Ruling
from stagezero.trials.state import CONTROL, ReplicateJob, Reply, TrialState
from stagezero.trials.trial import TrialSteps

CLAIMED, IDEAS, TRIALS, TURNS = "privacy", 60, 400, 40
PLAN = Trial(items=ITEMS)
LEVEL = PLAN.level(1, 1, IDEAS)


def recipe(steps: int) -> Recipe:
    """Return a recipe; it is never built."""
    return parse_recipe([{"step": "mix", "parts": [{}]}, {"step": "sft", "steps": steps, "learning_rate": 1e-3}], "recipe")


@dataclass(frozen=True)
class Idea:
    """What an idea does to the scores.

    Args:
        gain: change of the claimed property, in score.
        harmed: name of a guarded claim or sign, which becomes worse by the margin of its guard;
            empty if nothing is harmed.
    """

    gain: float
    harmed: str = ""


class SimulatedTrial:
    """One trial whose builds are drawn from real ones.

    Args:
        noise: the real builds.
        suite: the suite.
        idea: what the candidate does.
        rng: random number generator.
    """

    control, candidate = recipe(100), recipe(101)

    def __init__(self, noise: BuildNoise, suite: Suite, idea: Idea, rng: np.random.Generator) -> None:
        self.noise, self.suite, self.idea, self.rng = noise, suite, idea, rng
        self.builds: dict[tuple[str, int], tuple[dict[str, float], dict[str, float], float]] = {}
        self.rule = self._calibrated_rule()
        self.loss = float(self.rule.margins((idea.harmed,))[0]) if idea.harmed else 0.0

    def run(self) -> Ruling:
        """Run the trial to its end."""
        tested = hypothesis(self.control, self.candidate, CLAIMED, PLAN.margin, self.suite)
        state = TrialState(Entrant("idea", "people", tested), "candidate")
        control_job = lambda s: ReplicateJob(CONTROL, self.control, s)  # noqa: E731
        steps = TrialSteps(state, self.control, control_job, list(range(PLAN.max_pairs)), self.suite, lambda: self.rule).steps()
        request = next(steps)
        while True:
            try:
                request = steps.send(Reply(0, tuple(self.result(job) for job in request[0])))
            except StopIteration as end:
                ruling: Ruling = end.value
                return ruling

    def _calibrated_rule(self) -> DecisionRule:
        """Return the decision rule, calibrated by the first controls."""
        n = PLAN.calibration
        runs = [self.build(CONTROL, s) for s in range(1, n + 1)]
        values = [{**scores, **signs} for scores, signs, _ in runs]
        sds = {name: pooled_sd([values[i][name] - values[(i + 1) % n][name] for i in range(n)]) for name in values[0]}
        calibration = {claim: [scores[claim] for scores, _, _ in runs] for claim in runs[0][0]}
        tested = hypothesis(self.control, self.candidate, CLAIMED, PLAN.margin, self.suite)
        return DecisionRule(tested, LEVEL, PLAN, sds, self.suite.properties, self.suite.capabilities, calibration)

    def build(self, arm: str, replicate: int) -> tuple[dict[str, float], dict[str, float], float]:
        """Return scores, signs and the score in other wordings of one build."""
        if (arm, replicate) not in self.builds:
            scores, signs, elsewhere = self.noise.draw(self.rng)
            if arm != CONTROL:
                scores[CLAIMED] += self.idea.gain
                elsewhere += self.idea.gain
                if self.idea.harmed in scores:
                    scores[self.idea.harmed] -= self.loss
                elif self.idea.harmed:
                    signs[self.idea.harmed] += self.loss
            scores[ALIGNMENT] = sum(scores[p] for p in self.suite.properties) / len(self.suite.properties)
            self.builds[arm, replicate] = scores, signs, elsewhere
        return self.builds[arm, replicate]

    def result(self, job: ReplicateJob) -> Result:
        """Return the result of a job. A matched control is a control of its own."""
        scores, signs, elsewhere = self.build(job.arm, job.replicate)
        own = {job.reworded: elsewhere} if job.reworded is not None else scores
        return Result(job.arm, Path(), (own,), (signs,), 0.0, 0.0, 1, 0)


def main() -> int:
    """Run the benchmark; return 1 if honest ideas fail or harmful ones pass too often."""
    options = arguments(__doc__ or "").parse_args()
    noise, suite = collect_builds(CLAIMED), load_suite("atlas")
    rng = np.random.default_rng(21)
    figures: dict[str, float] = {}
    sd = noise.sd(CLAIMED) * np.sqrt(2)
    for label, size in (("1sd", 1.0), ("2sd", 2.0), ("3sd", 3.0)):
        rulings = [SimulatedTrial(noise, suite, Idea(size * sd), rng).run() for _ in range(TRIALS)]
        fates = Counter(r.fate for r in rulings)
        figures[f"honest_promoted_{label}"] = fates[Fate.PROMOTED] / TRIALS
        figures[f"honest_promoted_{label}_low"] = binomial_interval(fates[Fate.PROMOTED], TRIALS)[0]
        figures[f"honest_stopped_by_a_guard_{label}"] = fates[Fate.GUARD] / TRIALS
        figures[f"honest_given_up_{label}"] = (fates[Fate.GIVEN_UP] + fates[Fate.UNDECIDED]) / TRIALS
        stopped = Counter(g.name for r in rulings if r.fate is Fate.GUARD for g in r.guards if g.established != "holds")
        print(label, "stopped by:", ", ".join(f"{name} {count}" for name, count in stopped.most_common(6)))
    useless = Counter(SimulatedTrial(noise, suite, Idea(0.0), rng).run().fate for _ in range(TRIALS))
    figures["useless_promoted"] = useless[Fate.PROMOTED] / TRIALS
    tested = hypothesis(SimulatedTrial.control, SimulatedTrial.candidate, CLAIMED, PLAN.margin, suite)
    guarded = DecisionRule(tested, LEVEL, PLAN, {}, suite.properties, suite.capabilities).guarded
    figures["guards"] = float(len(guarded))
    promoted = trials = 0
    worst, worst_name = 0.0, ""
    for name in guarded:
        passed = sum(SimulatedTrial(noise, suite, Idea(3 * sd, name), rng).run().fate is Fate.PROMOTED for _ in range(TURNS))
        promoted, trials = promoted + passed, trials + TURNS
        if passed / TURNS > worst:
            worst, worst_name = passed / TURNS, name
    figures["harmful_promoted"], (_, figures["harmful_promoted_high"]) = promoted / trials, binomial_interval(promoted, trials)
    figures["harmful_promoted_worst_guard"] = worst
    print(f"worst guard: {worst_name}")
    publish(
        figures, {"honest_promoted_2sd": "at least .85", "harmful_promoted": "at most .05", "useless_promoted": "at most .05"}, options.json
    )
    passed_all = figures["honest_promoted_2sd"] >= 0.85 and figures["harmful_promoted"] <= 0.05 and figures["useless_promoted"] <= 0.05
    return 0 if passed_all else 1


if __name__ == "__main__":
    sys.exit(main())
