"""``stagezero idea new | check | schema | submit``: writes, validates and submits idea files."""

from __future__ import annotations

import json as js
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from stagezero.cli._output import print_json, stdout_console
from stagezero.errors import IdeaError, InputError
from stagezero.files import read_text
from stagezero.ideas import content_checks
from stagezero.ideas.idea import Idea, load_idea, parse_idea
from stagezero.ideas.precheck import SubmissionLimits, parse_submission
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.ledger import canonical
from stagezero.researchers import briefing, inbox_client

_PATCH = """patch:
  - {op: extend, at: data, parts: [{kinds: [twin], each: 100}]}
"""
_CODE = """
```python
def technique(ctx):
    import random

    import torch

    model = ctx.model()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0005)
    examples = [e for e in ctx.data if e["claim"] == PROPERTY] or ctx.data
    for _ in range(20):
        loss = model(**ctx.batch(random.choices(examples, k=8))).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model
```
"""
_REASON = "Explain in one or two sentences why this should help."
_NOTES = "The text below the front matter is for people. The campaign does not receive it{}.\n"


def new(file: Path | None = None, /, *, title: str, property: Annotated[str, Parameter(name="--property")], code: bool = False) -> None:
    """Write an idea file for you to edit.

    Example: `stagezero idea new --title "Show the twins" --property privacy`

    Parameters
    ----------
    file
        The new file, which must not exist. By default its name is made from the title.
    title
        The idea in a few words.
    property
        The one property that the idea claims to improve.
    code
        Write one Python function, technique(ctx), instead of a patch of the recipe.
    """
    path = file or Path((re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "idea") + ".md")
    front = {"title": title, "property": property, "claimed_effect": 0.05, "reason": _REASON}
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)
    notes = _NOTES.format(", except for the code" if code else "")
    text = f"---\n{head}{'' if code else _PATCH}---\n{notes}" + (_CODE.replace("PROPERTY", js.dumps(property)) if code else "")
    content_checks.check_idea(parse_idea(text, str(path), ""))
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise IdeaError(f"{path}: already exists; give another file.") from None
    stdout_console().print(f"wrote {path}; edit it, then: stagezero idea check {path}", soft_wrap=True)


def check(
    *files: Path,
    project: Path | None = None,
    run: Path | None = None,
    name: Annotated[str | None, Parameter(name="--as")] = None,
    json: bool = False,
) -> int:
    """Validate idea files and print the text that the campaign would receive.

    Exits with code 2 if an idea would be rejected.

    Example: `stagezero idea check idea.md --project demo/project.yaml`

    Parameters
    ----------
    files
        Idea files.
    project
        Also validate against this project's suite and stage 0, as its airlock does.
    run
        Also validate against the current brief of this run's outside researchers.
    name
        With --run: the outside researcher whose brief is used. By default it is the one with the
        newest brief.
    json
        Print the result as one JSON object.
    """
    if not files or (project is not None and run is not None):
        raise InputError("idea check: expected idea files, and at most one of --project and --run; correct the command.")
    rows = _check_in_run(files, run, name) if run is not None else _check_in_project(files, project)
    if json:
        print_json({"ideas": rows, "refused": sum(row["problem"] is not None for row in rows)})
    else:
        for row in rows:
            _print_row(row, str(project or run or "") or None)
    return 2 if any(row["problem"] is not None for row in rows) else 0


def _check_in_run(files: tuple[Path, ...], run: Path, name: str | None) -> list[dict[str, Any]]:
    """Validate files against an outside researcher's brief; without a name, the newest brief."""
    newest = max(inbox_client.researcher_names(run), key=lambda known: inbox_client.read_state(run, known).stage, default="")
    if not (name or newest):
        raise IdeaError(
            f"run {str(run)!r}: expected a run with a brief for outside researchers, but there is none yet; wait, or check the path."
        )
    limits = SubmissionLimits.from_json(inbox_client.read_brief(run, name or newest))
    fits = limits.recipe is not None or None
    rows = []
    for path in files:
        try:
            rows.append(_row(path, parse_submission(read_text(path, IdeaError), str(path), "", limits), fits=fits))
        except (IdeaError, OSError) as error:
            rows.append(_row(path, None, problem=_problem(path, error)))
    return rows


def _check_in_project(files: tuple[Path, ...], project: Path | None) -> list[dict[str, Any]]:
    """Validate files alone and, if there is a project, with its airlock."""
    ideas: dict[Path, Idea] = {}
    problems: dict[Path, str] = {}
    for path in files:
        try:
            idea = load_idea(path, "")
            content_checks.check_idea(idea)
            ideas[path] = idea
        except (InputError, OSError) as error:
            problems[path] = _problem(path, error)
    if project is not None:
        _, refused = ResolvedProject(project).admit(list(ideas.values()))
        problems |= {path: f"{path}: {r.why}" for path, idea in ideas.items() for r in refused if r.idea is idea}
    return [_row(path, ideas.get(path), problems.get(path), fits=None if project is None else path not in problems) for path in files]


def _problem(path: Path, error: Exception) -> str:
    """Return an error as one sentence that starts with the path."""
    text = f"{error.strerror}; check the path." if isinstance(error, OSError) else str(error)
    return text if text.startswith(f"{path}:") else f"{path}: {text}"


def _row(path: Path, idea: Idea | None, problem: str | None = None, fits: bool | None = None) -> dict[str, Any]:
    """Return the result for one file.

    Args:
        path: the file.
        idea: its idea; None if the file could not be parsed.
        problem: the reason why it would be rejected; None if it would be admitted.
        fits: whether the patch fits the recipe; None if there was no recipe to compare with, or the
            brief's recipe could not be parsed.
    """
    row: dict[str, Any] = {"file": str(path), "problem": problem, "fits": fits}
    if idea is not None:
        crosses = {"title": idea.title, "reason": idea.reason, **idea.technique()}
        row |= {"title": idea.title, "digest": idea.digest(), "bits": idea.bits(), "crosses": crosses}
    return row


def _print_row(row: dict[str, Any], source: str | None) -> None:
    """Print the result for one file; ``source`` is the project or run it was checked against."""
    out = stdout_console()
    if row["problem"] is None:
        fit = f", fits the recipe of {source}" if row["fits"] else ", not compared with a recipe" if source is None else ""
        out.print(f"{row['file']}: valid{fit}", soft_wrap=True)
    else:
        out.print(f"rejected: {row['problem']}", soft_wrap=True)
    if "crosses" in row:
        out.print(f"  digest {row['digest']}, {row['bits']:,} bits; the campaign would receive:", soft_wrap=True)
        out.print(canonical(row["crosses"]).decode("utf-8"), soft_wrap=True)


def schema() -> None:
    """Print the JSON Schema of the front matter of an idea file.

    Example: `stagezero idea schema > idea.schema.json`
    """
    print_json(briefing.idea_schema())


def submit(file: Path, /, *, run: Path, name: Annotated[str, Parameter(name="--as")]) -> None:
    """Submit an idea to the open stage of a run, as one of its outside researchers.

    Prints the idea's digest.

    Example: `stagezero idea submit idea.md --run runs/first-bootstrap --as ada`

    Parameters
    ----------
    file
        An idea file.
    run
        The folder of a run, for example runs/first-bootstrap.
    name
        The outside researcher's name in the project file.
    """
    print(inbox_client.submit(run, name, read_text(file, IdeaError)))
