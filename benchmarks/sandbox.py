"""Measure the seconds that a sandbox adds to a build.

The same program runs in a fresh process in a box, under Landlock, through the broker of a boxed
lab, and without confinement. It loads a model with torch, changes it and saves it, as a team's
trainer would. All variants run in turn within a round, so that other load on the machine affects
all of them alike.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from _common import arguments, publish
from escape import base_model

from stagezero.isolation import Confinement, Kind, Task, confine
from stagezero.isolation.broker import Broker
from stagezero.isolation.confinement import BROKER_VARIABLE
from stagezero.models import home, materialise
from stagezero.models.loader import configure_libraries
from stagezero.training.steps.run_program import max_weight_bytes

PROGRAM = b"""
import os
from safetensors.torch import load_file, save_file
weights = load_file(os.environ["STAGEZERO_MODEL"] + "/model.safetensors")
weights = {name: value * 1.001 for name, value in weights.items()}
save_file(weights, os.environ["STAGEZERO_OUT"] + "/model.safetensors", metadata={"format": "pt"})
"""
VARIANTS: dict[str, tuple[Kind, bool]] = {
    "none": ("none", False),
    "box": ("box", False),
    "landlock": ("landlock", False),
    "broker": ("box", True),
}


def run_seconds(base: Path, kind: Kind) -> float:
    """Run the program once, and return the seconds until its weights are received."""
    task = Task(("python", "train.py"), base, base, {"train.py": PROGRAM}, b"{}\n", 1, 120, max_weight_bytes(base))
    with tempfile.TemporaryDirectory(dir=home()) as scratch:
        start = time.perf_counter()
        result = confine(task, Confinement(kind), Path(scratch) / "out", Path(scratch) / "run")
        seconds = time.perf_counter() - start
        assert result.code == 0 and (Path(scratch) / "out" / "model.safetensors").is_file(), result
    return seconds


def main() -> int:
    """Run the benchmark; return 1 if a sandbox adds more than half a second."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=12, help="number of repetitions")
    parser.add_argument("--base", help="a base by name or folder; by default, a tiny one is trained")
    options = parser.parse_args()
    configure_libraries()
    with tempfile.TemporaryDirectory(dir=home()) as scratch:
        if options.base is None:
            base_model(base := Path(scratch) / "base")
        else:
            base = materialise(options.base)
        figures = measure(base, options.rounds)
    publish(figures, {"sandbox_seconds_added": "at most .5", "broker_seconds_added": "at most .5"}, options.json)
    return 0 if max(figures["sandbox_seconds_added"], figures["broker_seconds_added"]) <= 0.5 else 1


def measure(base: Path, rounds: int) -> dict[str, float]:
    """Return the medians over the rounds for all variants."""
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with Broker([base.parent]) as broker:
        for number in range(rounds + 1):
            for variant, (kind, by_broker) in VARIANTS.items():
                os.environ.pop(BROKER_VARIABLE, None)
                os.environ.update(broker.environment if by_broker else {})
                duration = run_seconds(base, kind)
                if number:  # the first round warms the caches
                    seconds[variant].append(duration)
    figures = {"unboxed_seconds": statistics.median(seconds["none"])}
    for variant, name in (("box", "sandbox"), ("landlock", "landlock"), ("broker", "broker")):
        added = [a - b for a, b in zip(seconds[variant], seconds["none"], strict=True)]
        figures[f"{name}_seconds_added"] = statistics.median(added)
        figures[f"{name}_ratio"] = statistics.median(seconds[variant]) / figures["unboxed_seconds"]
    return figures


if __name__ == "__main__":
    sys.exit(main())
