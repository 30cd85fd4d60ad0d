"""What a sandbox costs a build: the same fresh process in a box, by Landlock, through the broker of a boxed lab, and with no confinement.

The program loads a model with torch, changes it and saves it, as a team's trainer would. Ways take turns within a round, so that whatever
else the machine does falls on all of them alike.
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
WAYS: dict[str, tuple[Kind, bool]] = {
    "none": ("none", False),
    "box": ("box", False),
    "landlock": ("landlock", False),
    "broker": ("box", True),
}


def once(base: Path, kind: Kind) -> float:
    """Seconds of one program, weights received."""
    task = Task(("python", "train.py"), base, base, {"train.py": PROGRAM}, b"{}\n", 1, 120, max_weight_bytes(base))
    with tempfile.TemporaryDirectory(dir=home()) as made:
        start = time.perf_counter()
        ran = confine(task, Confinement(kind), Path(made) / "out", Path(made) / "run")
        seconds = time.perf_counter() - start
        assert ran.code == 0 and (Path(made) / "out" / "model.safetensors").is_file(), ran
    return seconds


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--base", help="a base by name or folder; left out, a tiny one is made")
    given = parser.parse_args()
    configure_libraries()
    with tempfile.TemporaryDirectory(dir=home()) as made:
        if given.base is None:
            base_model(base := Path(made) / "base")
        else:
            base = materialise(given.base)
        figures = compared(base, given.rounds)
    publish(figures, {"sandbox_seconds_added": "at most .5", "broker_seconds_added": "at most .5"}, given.json)
    return 0 if max(figures["sandbox_seconds_added"], figures["broker_seconds_added"]) <= 0.5 else 1


def compared(base: Path, rounds: int) -> dict[str, float]:
    """Medians over rounds of all ways."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    with Broker([base.parent]) as broker:
        for number in range(rounds + 1):
            for way, (kind, asked) in WAYS.items():
                os.environ.pop(BROKER_VARIABLE, None)
                os.environ.update(broker.environment if asked else {})
                seconds = once(base, kind)
                if number:  # the first round warms the caches
                    found[way].append(seconds)
    figures = {"unboxed_seconds": statistics.median(found["none"])}
    for way, name in (("box", "sandbox"), ("landlock", "landlock"), ("broker", "broker")):
        added = [a - b for a, b in zip(found[way], found["none"], strict=True)]
        figures[f"{name}_seconds_added"] = statistics.median(added)
        figures[f"{name}_ratio"] = statistics.median(found[way]) / figures["unboxed_seconds"]
    return figures


if __name__ == "__main__":
    sys.exit(main())
