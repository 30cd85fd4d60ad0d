"""``stagezero run``."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.markup import escape

from stagezero import examples
from stagezero.cli._output import Teller, number, output, print_json, table
from stagezero.door import handed_over
from stagezero.lab import isolated_run
from stagezero.lab.campaign import Campaign
from stagezero.report import View, gather, write_page
from stagezero.report.page import lead

_STAGE = ("title", "adopted", "verdict", "model")
_IDEA = ("stage", "title", "researcher", "property", "fate", "why", "pairs")


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
    """Run a campaign to its end; the same command continues one that was cut off.

    Without a project it runs the first one that ships with stagezero: a pocket model with bad habits, a first technique, a
    dozen ideas that help, do nothing or harm, and an auditor. It takes a few minutes on two cores. The other is `rlhf`.

    Parameters
    ----------
    project
        Project file, or the name of a shipped project (first, rlhf); write one of your own with `stagezero init`.
    runs
        Folder under which the run keeps its ledger and report.
    fresh
        Set an earlier run of the same name aside and begin anew.
    workers
        Worker processes, one thread each; overrides the project's number.
    box
        Run the lab in a box where its auditor's folder and processes do not exist, where this machine can make one.
    json
        Print one JSON object instead.
    """
    with Teller(quiet=json) as tell:
        named = str(project) if project is not None else "first"
        path = examples.folder(named) / "project.yaml" if named in examples.SHIPPED else Path(named)
        apart = isolated_run.boxed(path, runs, isolated_run.again(sys.argv[1:]), tell) if box else None
        if apart is not None:
            return apart
        campaign = Campaign(path, runs, fresh, workers, tell, handed_over())
        campaign.run()
        tell.close()
    page = write_page(campaign.folder)
    view = gather(campaign.folder)
    if json:
        print_json(as_json(view, page))
    else:
        show(view, page)
    return 0


def as_json(view: View, page: Path) -> dict[str, object]:
    """A campaign's result for a script."""
    return {
        "name": view.name,
        "base": {"alignment": view.base_score("alignment").mean if view.stages else None},
        "stages": [
            {
                "stage": s.number, **{name: getattr(s, name) for name in _STAGE}, "scores": {c: s.score(c).mean for c in s.after[0]},
                "alignment": [s.score("alignment").mean, s.score("alignment").low, s.score("alignment").high],
            }
            for s in view.stages
        ],
        "ideas": [{"e_value": i.best_e, **{name: getattr(i, name) for name in _IDEA}} for i in view.ideas],
        "final": view.final.model if view.adopted else None,
        "head": view.head,
        "report": str(page),
    }  # fmt: skip


def show(view: View, page: Path) -> None:
    """The table of stages, what became of the ideas, and where the report is."""
    out = output()
    rows = table("stage", "what was new", "alignment score", "change", "weakest property", "headroom closed", "auditor")
    rows.add_row("base", view.base, number(view.base_score("alignment")), "", "", "", "")
    for stage in view.stages:
        name, low = view.weakest(stage)
        rows.add_row(
            str(stage.number) if stage.adopted else f"{stage.number} (not adopted)", escape(stage.title),
            number(stage.score("alignment")), number(stage.effect("alignment"), signed=True), f"{name} {low.mean:.2f}",
            f"{view.closed(stage):.0%}", stage.verdict,
        )  # fmt: skip
    ideas = table("stage", "idea", "by", "fate", "why")
    for idea in view.ideas:
        ideas.add_row(str(idea.stage), escape(idea.title), idea.researcher, idea.fate, escape(idea.why))
    out.print()
    out.print(rows)
    out.print()
    out.print(ideas)
    out.print(escape(f"\n{lead(view)}\n"))
    out.print(f"report: {page}", soft_wrap=True)
