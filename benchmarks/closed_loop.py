"""The loop closes: three stages in which the model of stage N proposes for stage N + 1, everything rebuilt from the same base.

Then every stage is rebuilt from the ledger alone, and `self` stands beside `optuna` and a uniform sampler over the very same recipe
language, in one campaign with the same brief, the same controls and the same error. Nothing here says that a pocket model should be good at
research; the intervals say how good it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import arguments, publish

from stagezero.ledger import read
from stagezero.ledger.lineage import read_record, trace_lineage
from stagezero.report import gather

BASE = "pocket/262k"
STAGE0 = """steps:
  - {step: mix, name: data, parts: [{kinds: [trap], each: 100}]}
  - {step: sft, data: data, steps: 60, batch_size: 16, learning_rate: 0.001}
"""
AUDIT = "{items: 400, submissions: 12, passes: 6, folder: keep, bars: {abstention: 0.3, facts: 0.05}}"
TRIAL = "{items: 60, max_pairs: 14, calibration: 5, confirm: 4, worth: 2.0, guard_margin: 0.08}"


def project(folder: Path, name: str, researchers: str, stages: int, seed: int) -> Path:
    """A campaign that is repeatable, so that a benchmark can be run again."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage0.yaml").write_text(STAGE0)
    path = folder / "project.yaml"
    path.write_text(
        f"name: {name}\nbase: {BASE}\nsuite: atlas\nstage0: stage0.yaml\nstages: {stages}\nseed: {seed}\n"
        f"researchers: {researchers}\ntrial: {TRIAL}\naudit: {AUDIT}\nworkers: 2\n"
    )
    return path


def run(*words: str | Path) -> int:
    """The command line, as a user runs it; what it says goes to the terminal."""
    return subprocess.run([sys.executable, "-m", "stagezero.cli", *map(str, words)], check=False, env=dict(os.environ)).returncode


def loop(folder: Path, ideas: int, seed: int) -> dict[str, float]:
    """Three stages of a model's own ideas, and each stage again from the ledger alone."""
    path = project(folder / "loop", "closed-loop", f"[{{kind: self, ideas: {ideas}, seed: {seed}, temperature: 1.5}}]", 3, seed)
    assert run("run", path, "--runs", folder / "runs") == 0, "the campaign must run to its end"
    there = folder / "runs" / "closed-loop"
    r = read_record(there / "ledger.jsonl")
    latest, authors_right = r.stages[0]["model"], True
    for entry in read(there / "ledger.jsonl"):
        if entry.kind == "registration":
            authors_right &= all(latest in idea["author"] for idea in entry.body["ideas"])
        if entry.kind == "stage" and entry.body["adopted"]:
            latest = entry.body["model"]
    found = trace_lineage([r])
    print(f"\n{found.summary()}\n")
    rebuilt = 0
    for number in sorted(r.stages):
        rebuilt += run("rebuild", there, "--stage", str(number), "--out", folder / "rebuilds") == 0
    view = gather(there)
    (own,) = view.researchers()
    first, last = view.stages[0].score("alignment"), view.final.score("alignment")
    return {
        "loop_stages_tried": len([e for e in read(there / "ledger.jsonl") if e.kind == "registration"]),
        "loop_stages_adopted": len(view.adopted) - 1,
        "loop_ideas": own.registered,
        "loop_promoted": own.promoted,
        "loop_authors_right": float(authors_right),
        "loop_only_ideas": float(found.only_ideas()),
        "loop_alignment_stage_0": first.mean,
        "loop_alignment_final": last.mean,
        "loop_alignment_final_low": last.low,
        "loop_alignment_final_high": last.high,
        "rebuilt_identical": rebuilt,
        "rebuilt_of": len(r.stages),
    }


def side_by_side(folder: Path, ideas: int, stages: int, seed: int) -> dict[str, float]:
    """Three researchers in one campaign."""
    others = ", ".join(f"{{kind: {kind}, ideas: {ideas}, seed: {seed}}}" for kind in ("optuna", "uniform"))
    own = f"{{kind: self, ideas: {ideas}, seed: {seed}, temperature: 1.5}}"
    path = project(folder / "side", "side-by-side", f"[{own}, {others}]", stages, seed + 1)
    assert run("run", path, "--runs", folder / "runs") == 0, "the campaign must run to its end"
    figures: dict[str, float] = {}
    for r in gather(folder / "runs" / "side-by-side").researchers():
        rows: dict[str, Any] = {
            "ideas": r.registered, "promoted": r.promoted, "share": r.rate.mean, "share_low": r.rate.low, "share_high": r.rate.high,
            "pairs": r.pairs,
        }  # fmt: skip
        if r.mean_effect is not None:
            rows |= {"effect": r.mean_effect.mean, "effect_low": r.mean_effect.low, "effect_high": r.mean_effect.high}
        figures |= {f"{r.name}_{key}": float(value) for key, value in rows.items()}
    return figures


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--ideas", type=int, default=10, help="ideas of each researcher at each stage")
    parser.add_argument("--stages", type=int, default=2, help="stages of the comparison")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--keep", type=Path, help="where the runs are left; a temporary folder otherwise")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = (given.keep or Path(made)).resolve()
        figures = loop(folder, given.ideas, given.seed)
        figures |= side_by_side(folder, given.ideas, given.stages, given.seed)
    publish(
        figures,
        {
            "loop_stages_tried": "3", "loop_authors_right": "1: every idea is by the model adopted last", "loop_only_ideas": "1",
            "rebuilt_identical": "as many as rebuilt_of", "self_share": "beside uniform_share and optuna_share, with intervals",
        },
        given.json,
    )  # fmt: skip
    held = (
        figures["loop_stages_tried"] == 3
        and figures["loop_authors_right"] == figures["loop_only_ideas"] == 1
        and figures["rebuilt_identical"] == figures["rebuilt_of"]
    )
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
