"""``stagezero run``: runs a campaign, or continues one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from stagezero import examples
from stagezero.cli._limits import MAX_WORKERS, check_number
from stagezero.cli._output import ConsoleProgress, format_estimate, make_table, print_json, stdout_console
from stagezero.door import inherited_endpoint
from stagezero.lab import isolated_run
from stagezero.lab.campaign import Campaign
from stagezero.report import View, gather, write_page
from stagezero.report.page import lead

_STAGE_KEYS = ("title", "adopted", "verdict", "model")
_IDEA_KEYS = ("stage", "title", "researcher", "property", "fate", "why", "pairs")
"""Attributes of the report's views that the JSON output contains under the same names."""


def run(
    project: Path | None = None,
    /,
    *,
    runs: Path = Path("runs"),
    fresh: bool = False,
    workers: int | None = None,
    box: bool = True,
    json: bool = False,
) -> int:
    """Run a campaign to its end. The same command continues an interrupted campaign.

    Without a project, it runs the first project that ships with stagezero: a pocket model with bad
    habits, a first technique, a dozen ideas that help, have no effect or do harm, and an auditor.
    That takes a few minutes on two cores. The other shipped projects are `rlhf` and `smollm2`
    (a real language model).

    Example: `stagezero run`

    Example: `stagezero run demo/project.yaml --workers 4`

    Parameters
    ----------
    project
        A project file, or the name of a shipped project: first, rlhf or smollm2. Create your own
        with `stagezero init`.
    runs
        The folder for runs. The ledger and the report of the run go into a folder in it.
    fresh
        Rename the folder of an earlier run of the same name, and start a new run.
    workers
        Worker processes, with one thread each. This overrides the project's number.
    box
        Run the lab in a box from which it cannot access its auditor's folder and processes, if this
        machine supports that.
    json
        Print the result as one JSON object.
    """
    check_number("--workers", workers, 1, MAX_WORKERS)
    with ConsoleProgress(quiet=json) as progress:
        name = str(project) if project is not None else "first"
        path = examples.project_folder(name) / "project.yaml" if name in examples.SHIPPED else Path(name)
        code = isolated_run.run_boxed(path, runs, isolated_run.command_line(sys.argv[1:]), progress) if box else None
        if code is not None:
            return code
        campaign = Campaign(path, runs, fresh, workers, progress, inherited_endpoint())
        result = campaign.run()
        progress.close()
    page = write_page(campaign.folder)
    view = gather(campaign.folder)
    if json:
        print_json(as_json(view, page))
    else:
        print_summary(view, page, result.stages[-1].confirmed.folder)
    return 0


def as_json(view: View, page: Path) -> dict[str, object]:
    """Return a campaign's result as JSON."""
    return {
        "name": view.name,
        "base": {"alignment": view.base_score("alignment").mean if view.stages else None},
        "stages": [
            {
                "stage": s.number, **{key: getattr(s, key) for key in _STAGE_KEYS}, "scores": {c: s.score(c).mean for c in s.after[0]},
                "alignment": [s.score("alignment").mean, s.score("alignment").low, s.score("alignment").high],
            }
            for s in view.stages
        ],
        "ideas": [{"e_value": i.best_e, **{key: getattr(i, key) for key in _IDEA_KEYS}} for i in view.ideas],
        "final": view.final.model if view.adopted else None,
        "head": view.head,
        "report": str(page),
    }  # fmt: skip


def print_summary(view: View, page: Path, model: Path) -> None:
    """Print stages, ideas, the lead paragraph, and the paths of the report and the model."""
    out = stdout_console()
    rows = make_table("stage", "technique", "alignment score", "change", "weakest property", "headroom closed", "auditor")
    rows.add_row("base", view.base, format_estimate(view.base_score("alignment")), "", "", "", "")
    for stage in view.stages:
        name, lowest = view.weakest(stage)
        rows.add_row(
            str(stage.number) if stage.adopted else f"{stage.number} (not adopted)", stage.title,
            format_estimate(stage.score("alignment")), format_estimate(stage.effect("alignment"), signed=True), f"{name} {lowest.mean:.2f}",
            f"{view.headroom_closed(stage):.0%}", stage.verdict,
        )  # fmt: skip
    ideas = make_table("stage", "idea", "by", "fate", "why")
    for idea in view.ideas:
        ideas.add_row(str(idea.stage), idea.title, idea.researcher, idea.fate, idea.why)
    out.print()
    out.print(rows)
    out.print()
    out.print(ideas)
    out.print(f"\n{lead(view)}\n")
    out.print(f"report: {page}", soft_wrap=True)
    out.print(f"model:  {model} (copy it with: stagezero export {shlex.quote(str(page.parent))} --model DIR)", soft_wrap=True)
