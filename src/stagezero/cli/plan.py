"""``stagezero plan``: what a campaign can find and what it costs, before it runs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stagezero import examples
from stagezero.cli._limits import check_number
from stagezero.cli._output import ConsoleProgress, make_table, print_json, stdout_console
from stagezero.errors import InputError
from stagezero.lab.plan import Plan, format_minutes, ideas_in_a_stage, measured_seconds, plan_campaign
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.researchers import make_researcher
from stagezero.trials.noise import ClaimNoise, ItemsAdvice, items_advice, noise_of_runs

MAX_IDEAS = 10_000


def plan(
    project: Path | None = None,
    /,
    *,
    ideas: int | None = None,
    from_: Annotated[tuple[Path, ...], Parameter(name="--from", negative="")] = (),
    time: bool = False,
    json: bool = False,
) -> None:
    """Predict what a campaign can find and how many models it builds, before it runs.

    Prints the smallest effect that promotes an idea with probability .8, the expected number of
    models if there is something to find and if there is nothing, and what twice the budget would
    buy. Effects are in standard deviations of a paired difference. With `--from`, earlier runs give
    the noise of each score, and with it the smallest effect in score. With `--time`, this machine
    trains and answers for a few seconds, and the plan states hours, too.

    Example: `stagezero plan first`

    Example: `stagezero plan demo/project.yaml --from runs/first-bootstrap`

    Parameters
    ----------
    project
        A project file, or the name of a shipped project: first, rlhf or smollm2.
    ideas
        The number of ideas in a stage. By default it follows from the project's researchers.
    from_
        Folders of earlier runs (campaigns or comparisons); may be given more than once.
    time
        Measure how fast this machine is. A pocket base is trained first, if it is not stored yet.
    json
        Print the plan as one JSON object.
    """
    check_number("--ideas", ideas, 1, MAX_IDEAS)
    if project is None and not from_:
        raise InputError("plan: expected a project, or earlier runs with --from; see: stagezero plan --help")
    predicted, seconds = None, None
    if project is not None:
        resolved, predicted = _plan_of(project, ideas)
        if time:
            with ConsoleProgress(quiet=json) as progress:
                seconds = measured_seconds(predicted, resolved, progress)
    noise = noise_of_runs(from_) if from_ else []
    if json:
        print_json(_as_json(predicted, seconds, noise, items_advice(from_, noise)))
        return
    out = stdout_console()
    if predicted is not None:
        number = f"{predicted.ideas} idea{'' if predicted.ideas == 1 else 's'}"
        stages = "one stage" if predicted.stages == 1 else f"each of {predicted.stages} stages"
        out.print(f"{number} in {stages}: {predicted.sentence()}")
        out.print(f"at most about {predicted.most.builds} models are built")
        if seconds is not None:
            low, high, most = map(format_minutes, seconds)
            out.print(f"on this machine: about {low} if no idea has an effect, {high} if one of each stage has, and at most about {most}")
    if noise:
        rows = make_table("score", "mean", "sd of a paired difference", "of it: builds, items", "builds", "smallest effect")
        for n in noise:
            smallest = "–" if predicted is None or predicted.effect is None else f"{predicted.effect * n.paired_sd.mean:.3f}"
            parts = "–" if n.parts is None else f"{math.sqrt(2) * n.parts.builds:.3f}, {math.sqrt(2) * n.parts.both:.3f}"
            rows.add_row(
                n.claim, f"{n.mean:.3f}", f"{n.paired_sd.mean:.3f} [{n.paired_sd.low:.3f}, {n.paired_sd.high:.3f}]", parts, str(n.builds),
                smallest,
            )  # fmt: skip
        out.print(rows)
        if (advice := items_advice(from_, noise)) is not None:
            out.print(advice.sentence())


def _plan_of(project: Path, ideas: int | None) -> tuple[ResolvedProject, Plan]:
    """Return a project and its plan."""
    path = examples.project_folder(str(project)) / "project.yaml" if str(project) in examples.SHIPPED else project
    resolved = ResolvedProject(path)
    researchers = [make_researcher(r, resolved.path.parent, Path()) for r in resolved.project.researchers]
    resolved.validate()
    number = ideas if ideas is not None else max(1, ideas_in_a_stage(resolved, researchers))
    return resolved, plan_campaign(resolved.project.trial, resolved.project.stages, number, resolved.suite)


def _as_json(
    predicted: Plan | None, seconds: tuple[float, float, float] | None, noise: list[ClaimNoise], advice: ItemsAdvice | None
) -> dict[str, object]:  # fmt: skip
    """Return plan and noise as JSON values."""
    result: dict[str, object] = {}
    if predicted is not None:
        result |= {
            "ideas": predicted.ideas, "stages": predicted.stages, "effect_sd": predicted.effect,
            "effect_sd_with_twice_the_budget": predicted.effect_with_twice,
            "models": {"nothing": predicted.nothing.builds, "something": predicted.something.builds, "most": predicted.most.builds},
        }  # fmt: skip
    if seconds is not None:
        result["seconds"] = dict(zip(("nothing", "something", "most"), seconds, strict=True))
    if noise:
        effect = None if predicted is None else predicted.effect
        result["noise"] = {
            n.claim: {
                "parts": None if n.parts is None else {"builds": n.parts.builds, "items": n.parts.items, "both": n.parts.both},
                "mean": n.mean, "paired_sd": [n.paired_sd.mean, n.paired_sd.low, n.paired_sd.high], "score_sd": n.score_sd,
                "builds": n.builds, "smallest_effect": None if effect is None else effect * n.paired_sd.mean,
            }
            for n in noise
        }  # fmt: skip
    if advice is not None:
        result["items"] = {"now": advice.now, "best": advice.best, "time_saved": advice.saved}
    return result
