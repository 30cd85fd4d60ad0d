"""``stagezero idea new | check | schema | submit``."""

from __future__ import annotations

import json as js
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from cyclopts import Parameter

from stagezero.cli._output import output, print_json
from stagezero.errors import IdeaError, InputError
from stagezero.files import read_text
from stagezero.ideas import content_checks
from stagezero.ideas.idea import Idea, load_idea, parse_idea
from stagezero.ideas.precheck import Asked
from stagezero.ideas.precheck import check as look_at
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
_REASON = "Say in a sentence or two why this should help."
_NOTES = "What follows the front matter is for people and does not cross{}.\n"


def new(file: Path | None = None, /, *, title: str, property: Annotated[str, Parameter(name="--property")], code: bool = False) -> None:
    """Write an idea for you to edit.

    Parameters
    ----------
    file
        Where to write it; must not exist. Left out, it is named after the title.
    title
        What the idea is, in a few words.
    property
        The one property that it claims to improve.
    code
        Write one Python function, technique(ctx), in place of a patch of the recipe.
    """
    path = file or Path((re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "idea") + ".md")
    front = {"title": title, "property": property, "claimed_effect": 0.05, "reason": _REASON}
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=10_000)
    notes = _NOTES.format(", but for the code" if code else "")
    text = f"---\n{head}{'' if code else _PATCH}---\n{notes}" + (_CODE.replace("PROPERTY", js.dumps(property)) if code else "")
    content_checks.check(parse_idea(text, str(path), ""))
    try:
        with path.open("x", encoding="utf-8") as out:
            out.write(text)
    except FileExistsError:
        raise IdeaError(f"{path}: is there already; give another file.") from None
    output().print(f"wrote {path}; edit it, then: stagezero idea check {path}", markup=False, soft_wrap=True)


def check(
    *files: Path,
    project: Path | None = None,
    run: Path | None = None,
    name: Annotated[str | None, Parameter(name="--as")] = None,
    json: bool = False,
) -> int:
    """Show what of ideas would cross, and whether they would get in. Exit code 2 when one of them would not.

    Parameters
    ----------
    files
        Idea files.
    project
        Hold them against this project's suite and stage 0, as its airlock does.
    run
        Hold them against the brief that this run's outside researchers have now.
    name
        Whose brief, of the run's outside researchers; left out, whoever was asked last.
    json
        Print one JSON object instead.
    """
    if not files or (project is not None and run is not None):
        raise InputError("idea check: expected idea files, and at most one of --project and --run; correct the command.")
    rows = _in_run(files, run, name) if run is not None else _in_project(files, project)
    if json:
        print_json({"ideas": rows, "refused": sum(row["problem"] is not None for row in rows)})
    else:
        for row in rows:
            _show(row, str(project or run or "") or None)
    return 2 if any(row["problem"] is not None for row in rows) else 0


def _in_run(files: tuple[Path, ...], run: Path, name: str | None) -> list[dict[str, Any]]:
    last = max(inbox_client.researchers(run), key=lambda known: inbox_client.waiting(run, known).stage, default="")
    if not (name or last):
        raise IdeaError(f"run {str(run)!r}: expected a run that asks outside researchers, found none asked yet; wait, or check the path.")
    asked = Asked.read(inbox_client.brief_of(run, name or last))
    rows = []
    for path in files:
        try:
            rows.append(_row(path, look_at(read_text(path, IdeaError), str(path), "", asked), fits=asked.recipe is not None or None))
        except (IdeaError, OSError) as error:
            rows.append(_row(path, None, problem=_sentence(path, error)))
    return rows


def _in_project(files: tuple[Path, ...], project: Path | None) -> list[dict[str, Any]]:
    ideas: dict[Path, Idea] = {}
    problems: dict[Path, str] = {}
    for path in files:
        try:
            idea = load_idea(path, "")
            content_checks.check(idea)
            ideas[path] = idea
        except (InputError, OSError) as error:
            problems[path] = _sentence(path, error)
    if project is not None:
        _, refused = ResolvedProject(project).admit(list(ideas.values()))
        problems |= {path: f"{path}: {r.why}" for path, idea in ideas.items() for r in refused if r.idea is idea}
    return [_row(path, ideas.get(path), problems.get(path), fits=None if project is None else path not in problems) for path in files]


def _sentence(path: Path, error: Exception) -> str:
    text = f"{error.strerror}; check the path." if isinstance(error, OSError) else str(error)
    return text if text.startswith(f"{path}:") else f"{path}: {text}"


def _row(path: Path, idea: Idea | None, problem: str | None = None, fits: bool | None = None) -> dict[str, Any]:
    """One file's answer. ``fits`` is null where there was nothing to hold it against, or the brief's recipe cannot be made out."""
    found: dict[str, Any] = {"file": str(path), "problem": problem, "fits": fits}
    if idea is not None:
        crosses = {"title": idea.title, "reason": idea.reason, **idea.technique()}
        found |= {"title": idea.title, "digest": idea.digest(), "bits": idea.bits(), "crosses": crosses}
    return found


def _show(row: dict[str, Any], against: str | None) -> None:
    out = output()
    if row["problem"] is None:
        fit = f", fits the recipe of {against}" if row["fits"] else ", not held against a recipe" if against is None else ""
        out.print(f"{row['file']}: would cross{fit}", markup=False, soft_wrap=True)
    else:
        out.print(f"refused: {row['problem']}", markup=False, soft_wrap=True)
    if "crosses" in row:
        out.print(f"  digest {row['digest']}, {row['bits']:,} bits:", markup=False, soft_wrap=True)
        out.print(canonical(row["crosses"]).decode("utf-8"), markup=False, soft_wrap=True)


def schema() -> None:
    """Print the JSON Schema of an idea file's front matter."""
    print_json(briefing.schema())


def submit(file: Path, /, *, run: Path, name: Annotated[str, Parameter(name="--as")]) -> None:
    """Submit an idea to the open stage of a run, as one of its outside researchers. Prints the idea's digest.

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
