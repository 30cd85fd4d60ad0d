"""``stagezero idea``: create, check and submit idea files from the command line.

Covers: cli/idea.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import stagezero

from stagezero import examples
from stagezero.ideas.airlock import Refusal
from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import parse_idea
from stagezero.isolation import unavailable_reason
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.researchers import inbox
from stagezero.training import load_recipe

STAGE0 = examples.project_folder() / "stage0.yaml"
PROPERTIES = ("abstention", "injection", "privacy", "sycophancy")


def open_run(run: Path, name: str = "ada", ideas: int = 1) -> Path:
    """Open stage 1 of a run, which then waits for ideas."""
    brief = Brief(1, load_recipe(STAGE0), PROPERTIES, ("facts",), PROPERTIES, {"privacy": 0.5}, ())
    inbox.open_stage(run, name, brief, ideas, 600)
    return run


@pytest.mark.parametrize("options", [[], ["--code"]])
def test_a_new_idea_passes_the_check_of_the_shipped_project(tmp_path: Path, options: list[str]) -> None:
    created = stagezero("idea", "new", "--title", "Show: the twins, too!", "--property", "privacy", *options, cwd=tmp_path)
    path = tmp_path / "show-the-twins-too.md"
    assert created.returncode == 0 and "wrote show-the-twins-too.md" in created.stdout
    idea = parse_idea(path.read_text(), "here", "")
    assert idea.title == "Show: the twins, too!" and (idea.code is not None) == bool(options)
    checked = stagezero("idea", "check", path.name, "--project", examples.project_folder() / "project.yaml", "--json", cwd=tmp_path)
    (row,) = json.loads(checked.stdout)["ideas"]
    if options and unavailable_reason() is not None:  # a campaign on this machine would reject code, too
        assert checked.returncode == 2 and "there is no sandbox to run it in" in row["problem"]
        return
    assert checked.returncode == 0, checked
    assert row["fits"] is True and row["problem"] is None and row["digest"] == idea.digest()
    assert row["bits"] == idea.bits() and row["crosses"]["patch"] == idea.technique()["patch"]


def test_check_rejects_ideas_that_the_projects_campaign_would_reject(tmp_path: Path) -> None:
    """Check and campaign resolve the project alike: its sandbox and channels, suite and recipe."""
    for name, text in examples.project_files("first").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + ("sandbox: {kind: none}\n" if name == "project.yaml" else ""))
    stagezero("idea", "new", "code.md", "--title", "some code", "--property", "privacy", "--code", cwd=tmp_path)
    checked = stagezero("idea", "check", "code.md", "--project", "project.yaml", cwd=tmp_path)
    why = "contains a program, and there is no sandbox to run it in: the project's sandbox.kind is none"
    assert checked.returncode == 2 and why in checked.stdout
    resolved = ResolvedProject(tmp_path / "project.yaml")
    _, (refusal,) = resolved.admit([parse_idea((tmp_path / "code.md").read_text(), "code.md", "")])
    assert (refusal.code, refusal.why) == (Refusal.NO_SANDBOX, why)


def test_new_overwrites_no_file_and_writes_no_invalid_idea(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("precious")
    repeated = stagezero("idea", "new", "mine.md", "--title", "an idea", "--property", "privacy", cwd=tmp_path)
    assert repeated.returncode == 2 and "mine.md: already exists" in repeated.stderr
    assert (tmp_path / "mine.md").read_text() == "precious"
    short = stagezero("idea", "new", "short.md", "--title", "x", "--property", "privacy", cwd=tmp_path)
    assert short.returncode == 2 and "'title'" in short.stderr and not (tmp_path / "short.md").exists()


def test_check_reports_each_problem_in_one_sentence(tmp_path: Path) -> None:
    ideas = examples.project_folder() / "ideas"
    good = (ideas / "deduplicate.md").read_text()
    (tmp_path / "good.md").write_text(good)
    (tmp_path / "bad.md").write_text(good.replace("title: ", "tilte: "))
    (tmp_path / "unfit.md").write_text(good.split("patch:")[0] + "patch:\n  - {op: set, at: dpo, values: {steps: 3}}\n---\n")
    files = ["good.md", "bad.md", "missing.md", "unfit.md"]
    without_project = stagezero("idea", "check", *files, cwd=tmp_path)
    assert without_project.returncode == 2 and "Traceback" not in without_project.stderr
    lines = without_project.stdout.splitlines()
    assert (
        lines[0] == "good.md: valid, not compared with a recipe"
        and "bits; the campaign would receive:" in lines[1]
        and '"patch":[' in lines[2]
    )
    assert [line for line in lines if line.startswith("rejected: ")] == [
        "rejected: bad.md: unknown key 'tilte' (did you mean 'title'?); remove it or correct its spelling; the known keys are: title, "
        "property, claimed_effect, reason, patch (1 more error).",
        "rejected: missing.md: No such file or directory; check the path.",
    ]
    with_project = stagezero("idea", "check", *files, "--project", examples.project_folder() / "project.yaml", "--json", cwd=tmp_path)
    answer = json.loads(with_project.stdout)
    assert with_project.returncode == 2 and answer["refused"] == 3
    assert [row["fits"] for row in answer["ideas"]] == [True, False, False, False]
    assert "names step 'dpo'" in answer["ideas"][3]["problem"]
    none = stagezero("idea", "check", cwd=tmp_path)
    assert none.returncode == 2 and "expected idea files" in none.stderr


def test_check_and_submit_against_a_run(tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "idea.md"
    file.write_text((examples.project_folder() / "ideas" / "show-the-twins.md").read_text())
    before = stagezero("idea", "check", file, "--run", run)
    assert before.returncode == 2 and "expected a run with a brief for outside researchers" in before.stderr
    open_run(run)
    checked = stagezero("idea", "check", file, "--run", run)
    assert checked.returncode == 0 and f"valid, fits the recipe of {run}" in checked.stdout
    done = stagezero("idea", "submit", file, "--run", run, "--as", "ada")
    digest = parse_idea(file.read_text(), "here", "").digest()
    assert done.returncode == 0 and done.stdout == digest + "\n"
    assert (run / "outside" / "ada" / "inbox" / "stage-1" / f"{digest}.md").is_file()
    file.write_text(file.read_text().replace("each: ", "each: 9"))
    full = stagezero("idea", "submit", file, "--run", run, "--as", "ada")
    assert full.returncode == 2 and "has the 1 ideas that it wants" in full.stderr
    other = stagezero("idea", "submit", file, "--run", run, "--as", "eve")
    assert other.returncode == 2 and "expected one of this run's outside researchers (ada)" in other.stderr


def test_the_printed_schema_describes_ideas(tmp_path: Path) -> None:
    done = stagezero("idea", "schema")
    schema = json.loads(done.stdout)
    assert done.returncode == 0 and set(schema["required"]) >= {"title", "property", "reason", "claimed_effect"}
    assert "code" not in schema["properties"] and {"SetOp", "SFT"} <= set(schema["$defs"])
