"""Run three stages in which the model of stage N proposes the ideas of stage N + 1.

Every stage is built from the same base. Then every stage is rebuilt from the ledger alone. In a
second campaign, the researchers ``self``, ``optuna`` and a uniform sampler propose ideas in the
same recipe language, with the same brief, the same controls and the same error. The benchmark does
not claim that a pocket model is a good researcher; the confidence intervals show how good it is.
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
    """Write a project with a fixed seed, and return its file.

    Args:
        folder: folder to write to.
        name: name of the campaign.
        researchers: the project's ``researchers``, as YAML.
        stages: number of stages after stage 0.
        seed: seed of the campaign.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage0.yaml").write_text(STAGE0)
    path = folder / "project.yaml"
    path.write_text(
        f"name: {name}\nbase: {BASE}\nsuite: atlas\nstage0: stage0.yaml\nstages: {stages}\nseed: {seed}\n"
        f"researchers: {researchers}\ntrial: {TRIAL}\naudit: {AUDIT}\nworkers: 2\n"
    )
    return path


def run(*command: str | Path) -> int:
    """Run the command line as a user does, with output to the terminal; return its exit code."""
    return subprocess.run([sys.executable, "-m", "stagezero.cli", *map(str, command)], check=False, env=dict(os.environ)).returncode


def loop(folder: Path, ideas: int, seed: int) -> dict[str, float]:
    """Run three stages with the model's own ideas, and rebuild each stage from the ledger alone.

    Args:
        folder: folder for the project and the run.
        ideas: ideas per stage.
        seed: seed of the campaign and of the researcher.
    """
    path = project(folder / "loop", "closed-loop", f"[{{kind: self, ideas: {ideas}, seed: {seed}, temperature: 1.5}}]", 3, seed)
    assert run("run", path, "--runs", folder / "runs") == 0, "the campaign must end with exit code 0"
    run_folder = folder / "runs" / "closed-loop"
    record = read_record(run_folder / "ledger.jsonl")
    latest, authors_right = record.stages[0]["model"], True
    for entry in read(run_folder / "ledger.jsonl"):
        if entry.kind == "registration":
            authors_right &= all(latest in idea["author"] for idea in entry.body["ideas"])
        if entry.kind == "stage" and entry.body["adopted"]:
            latest = entry.body["model"]
    lineage = trace_lineage([record])
    print(f"\n{lineage.summary()}\n")
    rebuilt = 0
    for number in sorted(record.stages):
        rebuilt += run("rebuild", run_folder, "--stage", str(number), "--out", folder / "rebuilds") == 0
    view = gather(run_folder)
    (own,) = view.researchers()
    first, last = view.stages[0].score("alignment"), view.final.score("alignment")
    return {
        "loop_stages_tried": len([e for e in read(run_folder / "ledger.jsonl") if e.kind == "registration"]),
        "loop_stages_adopted": len(view.adopted) - 1,
        "loop_ideas": own.registered,
        "loop_promoted": own.promoted,
        "loop_authors_right": float(authors_right),
        "loop_only_ideas": float(lineage.only_ideas()),
        "loop_alignment_stage_0": first.mean,
        "loop_alignment_final": last.mean,
        "loop_alignment_final_low": last.low,
        "loop_alignment_final_high": last.high,
        "rebuilt_identical": rebuilt,
        "rebuilt_of": len(record.stages),
    }


def side_by_side(folder: Path, ideas: int, stages: int, seed: int) -> dict[str, float]:
    """Run a campaign with three researchers, and return the figures of each.

    Args:
        folder: folder for the project and the run.
        ideas: ideas of each researcher per stage.
        stages: number of stages.
        seed: seed of the researchers; the campaign's is one more.
    """
    baselines = ", ".join(f"{{kind: {kind}, ideas: {ideas}, seed: {seed}}}" for kind in ("optuna", "uniform"))
    own = f"{{kind: self, ideas: {ideas}, seed: {seed}, temperature: 1.5}}"
    path = project(folder / "side", "side-by-side", f"[{own}, {baselines}]", stages, seed + 1)
    assert run("run", path, "--runs", folder / "runs") == 0, "the campaign must end with exit code 0"
    figures: dict[str, float] = {}
    for researcher in gather(folder / "runs" / "side-by-side").researchers():
        rate, effect = researcher.rate, researcher.mean_effect
        values: dict[str, Any] = {
            "ideas": researcher.registered, "promoted": researcher.promoted, "share": rate.mean, "share_low": rate.low,
            "share_high": rate.high, "pairs": researcher.pairs,
        }  # fmt: skip
        if effect is not None:
            values |= {"effect": effect.mean, "effect_low": effect.low, "effect_high": effect.high}
        figures |= {f"{researcher.name}_{key}": float(value) for key, value in values.items()}
    return figures


def main() -> int:
    """Run the benchmark; return 1 if the loop does not close."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--ideas", type=int, default=10, help="ideas of each researcher at each stage")
    parser.add_argument("--stages", type=int, default=2, help="stages of the comparison")
    parser.add_argument("--seed", type=int, default=7, help="seed of the campaigns and researchers")
    parser.add_argument("--keep", type=Path, help="retain the runs in this folder; by default, a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.keep or Path(scratch)).resolve()
        figures = loop(folder, options.ideas, options.seed)
        figures |= side_by_side(folder, options.ideas, options.stages, options.seed)
    publish(
        figures,
        {
            "loop_stages_tried": "3", "loop_authors_right": "1: the author of every idea is the model adopted last", "loop_only_ideas": "1",
            "rebuilt_identical": "as many as rebuilt_of", "self_share": "compare with uniform_share and optuna_share, with intervals",
        },
        options.json,
    )  # fmt: skip
    closed = (
        figures["loop_stages_tried"] == 3
        and figures["loop_authors_right"] == figures["loop_only_ideas"] == 1
        and figures["rebuilt_identical"] == figures["rebuilt_of"]
    )
    return 0 if closed else 1


if __name__ == "__main__":
    sys.exit(main())
