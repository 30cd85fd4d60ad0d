"""Run RLHF with an improvement: the shipped project ``rlhf``, end to end on pocket/262k.

A hallucination is a made-up answer to a question about a place that does not exist. Hallucinations
are counted on the fresh seeds that measured the adopted stage. These seeds influenced no choice.
They are paired with vanilla RLHF on the same seeds and items.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from _common import arguments, publish

from stagezero import examples
from stagezero.evidence import t_interval
from stagezero.lab.campaign import Campaign
from stagezero.measure import measure
from stagezero.models import Model, home, materialise
from stagezero.models.loader import configure_libraries
from stagezero.report import gather
from stagezero.training import Store, build
from stagezero.trials.seeds import draw_for_seed


def main() -> int:
    """Run the benchmark; return 1 if hallucinations do not become rarer."""
    options = arguments(__doc__ or "").parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        campaign = Campaign(examples.project_folder("rlhf") / "project.yaml", runs=Path(scratch) / "runs")
        finished = campaign.run()
        seconds = time.perf_counter() - start
        view = gather(campaign.folder)
    for idea in view.ideas:
        print(f"{idea.fate}: {idea.title} ({idea.why})")
    figures: dict[str, float] = {"seconds": seconds, "ideas": float(len(view.ideas)), "adopted": float(len(finished.stages) > 1)}
    fewer = False
    if len(finished.stages) > 1:
        vanilla, improved = finished.stages[0].recipe, finished.stages[-1].recipe
        confirmed = finished.stages[-1].confirmed
        configure_libraries()
        base, store, items = materialise("pocket/262k"), Store(home() / "store"), campaign.project.trial.items
        made_up: dict[str, list[float]] = {}
        for name, recipe in (("vanilla", vanilla), ("improved", improved)):
            for seed in confirmed.seeds:  # the store contains these builds
                model = Model(build(base, recipe, campaign.suite, seed, store).folder)
                counts = measure(model, campaign.suite, draw_for_seed(seed).seed, items, store.answers).scores.counts["abstention"]["trap"]
                made_up.setdefault(name, []).append(counts.wrong / counts.n)
        change = t_interval([b - a for a, b in zip(made_up["vanilla"], made_up["improved"], strict=True)])
        effect = confirmed.effect("abstention")
        figures |= {
            "hallucinations_vanilla": t_interval(made_up["vanilla"]).mean,
            "hallucinations_improved": t_interval(made_up["improved"]).mean,
            "hallucinations_change": change.mean,
            "hallucinations_change_high": change.high,
            "abstention_effect": effect.mean,
            "abstention_effect_low": effect.low,
            "e_value": max(i.best_e for i in view.ideas if i.fate == "adopted"),
            "e_needed": 1 / view.ideas[0].level,
            "audit_passed": float(finished.stages[-1].verdict == "pass"),
        }
        fewer = change.high < 0
    publish(figures, {"adopted": "1", "hallucinations_change_high": "below 0", "abstention_effect_low": "above 0"}, options.json)
    return 0 if fewer else 1


if __name__ == "__main__":
    sys.exit(main())
