"""Numbers, names and paths on the command line that cannot be meant: one sentence, before any work.

Covers: cli/_limits.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import stagezero

from stagezero.cli import _explain_os_error
from stagezero.cli._limits import check_number
from stagezero.errors import InputError
from stagezero.files import write_atomic
from stagezero.project import load_project

FINISHED = Path(__file__).parents[1] / "fixtures" / "ledgers" / "2" / "finished" / "ledger.jsonl"
LONG = "9" * 5000


def refused(folder: Path, arguments: list[str], message: str) -> None:
    done = stagezero(*arguments, cwd=folder)
    assert done.returncode == 2 and message in done.stderr and done.stderr.startswith("stagezero: "), done
    assert len(done.stderr.strip().splitlines()) == 1 and len(done.stderr) < 500 and done.stdout == ""


def test_a_number_outside_its_limits_is_refused() -> None:
    for value, low, high in ((None, 1, 2), (1, 1, 2), (2, 1, 2), (10**9, 1, None), (0, 0, None)):
        check_number("--n", value, low, high)
    for value, low, high, expected in (
        (0, 1, 2000, "a number from 1 to 2,000, got 0"),
        (2001, 1, 2000, "a number from 1 to 2,000, got 2001"),
        (0, 1, None, "a positive number, got 0"),
        (-1, 0, None, "0 or more, got -1"),
    ):
        with pytest.raises(InputError, match=f"^--n: expected {expected}; correct it\\.$"):
            check_number("--n", value, low, high)
    with pytest.raises(InputError, match="got nan"):
        check_number("--n", float("nan"), 0, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "pocket/16k", "--items", "100000000"], "--items: expected a number from 1 to 10,000"),
        (["measure", "pocket/16k", "--items", "0"], "--items: expected a number from 1 to 10,000"),
        (["measure", "pocket/16k", "--items", LONG], "invalid value for --items"),
        (["measure", "pocket/16k", "--answer-tokens", "100001"], "--answer-tokens: expected a number from 1 to 100,000"),
        (["measure", "pocket/16k", "--limit", "-1"], "--limit: expected a positive number"),
        (["measure", "pocket/16k", "--seed", "-1"], "--seed: expected a number from 0"),
        (["measure", "pocket/16k", "--show", "-1"], "--show: expected 0 or more"),
        (["compare", "a", "b", "--property", "p", "--workers", "0"], "--workers: expected a number from 1 to 256"),
        (["compare", "a", "b", "--property", "p", "--seed", "-1"], "--seed: expected a number from 0"),
        (["compare", "a", "b", "--property", "p", "--answer-tokens", "0"], "--answer-tokens: expected a number from 1"),
        (["compare", "a", "b", "--property", "p", "--margin", "nan"], "'margin': expected a finite number"),
        (["run", "--workers", "0"], "--workers: expected a number from 1 to 256"),
        (["rebuild", str(FINISHED), "--workers", "0"], "--workers: expected a number from 1 to 256"),
        (["rebuild", str(FINISHED), "--workers", "-5"], "--workers: expected a number from 1 to 256"),
        (["rebuild", str(FINISHED), "--model", "nope"], "--model: model 'nope': expected a checkpoint folder"),
        (["rebuild", str(FINISHED), "--source", "nope"], "--source: model 'nope': expected a checkpoint folder"),
        (["rebuild", str(FINISHED), "--files", "nope"], "--files: expected a folder with programs, found none at 'nope'"),
        (["audit", "serve", "a", "--port", "99999999"], "--port: expected a number from 0 to 65,535"),
        (["audit", "serve", "a", "--port", "-1"], "--port: expected a number from 0 to 65,535"),
        (["audit", "unit", "a", "--port", "65536"], "--port: expected a number from 0 to 65,535"),
        (["audit", "init", "a", "--slot", LONG], "'slot': expected a value less than or equal to"),
        (["audit", "init", "a", "--memory", "inf"], "'memory': expected a value less than or equal to"),
        (["audit", "init", "a", "--largest", "inf"], "'largest': expected a value less than or equal to"),
        (["ledger", "show", "/dev/null"], "/dev/null: expected a ledger, found an empty file; check the path."),
        (["ledger", "show", "/dev/null", "--json"], "expected a ledger, found an empty file"),
        (["ledger", "verify", "/dev/null"], "expected a ledger, found an empty file"),
        (["ledger", "prove", "/dev/null", "0"], "expected a ledger, found an empty file"),
        (["init", "new", "--model", "nope"], "model 'nope': expected pocket/16k"),
        (["init", "new", "--model", "pocket/3b"], "model 'pocket/3b': expected one of pocket/16k"),
        (["init", "/proc/x"], "/proc/x: No such file or directory; check the path, and choose a folder that exists or can be created"),
        (["lineage", str(FINISHED.parent), "--attest", "/proc/x"], "/proc/x: No such file or directory"),
    ],
)
def test_a_bad_option_is_refused_before_any_work(home: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    refused(tmp_path, arguments, message)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../n3", "a/b", ".a", "", "a\n", "a b", "x" * 101])
def test_names_of_an_auditor_stay_in_its_folder(home: Path, tmp_path: Path, name: str) -> None:
    assert stagezero("audit", "init", "auditor", "--slot", "5s", cwd=tmp_path).returncode == 0
    before = sorted(path for path in tmp_path.rglob("*"))
    options = ["--bar", "privacy=0.5", "--items", "50", "--folder", "auditor"]
    refused(tmp_path, ["audit", "add", "atlas", "--name", name, *options], "--name: expected a letter or digit, then letters")
    refused(tmp_path, ["audit", "token", name, "--folder", "auditor"], "ACCOUNT: expected a letter or digit, then letters")
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_a_name_of_every_permitted_character_and_an_effect_that_is_none(home: Path, tmp_path: Path) -> None:
    assert stagezero("audit", "init", "auditor", "--slot", "5s", cwd=tmp_path).returncode == 0
    name = "n_3.b-" + "x" * 90
    options = ["--bar", "privacy=0.5", "--items", "50", "--folder", "auditor"]
    assert stagezero("audit", "add", "atlas", "--name", name, *options, cwd=tmp_path).returncode == 0
    burn = ["audit", "burn-shadow", name, "--door", "d", "--control", "c", "--folder", "auditor", "--effect", "nan"]
    refused(tmp_path, burn, "--effect: expected a difference in score from 0 to 1, got nan")


def test_a_model_whose_name_is_not_utf_8_is_refused(home: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "m\udcff").symlink_to(base)
    for name, steps in (("a", 1), ("b", 2)):
        recipe = f"steps: [{{step: mix, parts: [{{each: 4}}]}}, {{step: sft, steps: {steps}, learning_rate: 0.001}}]\n"
        (tmp_path / f"{name}.yaml").write_text(recipe)
    refused(
        tmp_path, ["compare", "a.yaml", "b.yaml", "--property", "privacy", "--model", "m\udcff"], "model: expected a name in UTF-8, got 'm"
    )


def test_a_path_that_cannot_be_made_names_itself_and_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "runs", Path("/proc/nowhere")):
        with pytest.raises(OSError, match=r"No such|Not a") as error:
            write_atomic(path / "x.json", "{}")
        assert error.value.filename == str(path / "x.json")
        assert "choose a folder that exists or can be created" in _explain_os_error(error.value)


def test_a_model_folder_of_a_new_project_is_found_from_the_projects_folder(home: Path, base: Path, tmp_path: Path) -> None:
    (tmp_path / "my model").symlink_to(base)
    done = stagezero("init", "new", "--model", "my model", cwd=tmp_path)
    assert done.returncode == 0, done
    assert load_project(tmp_path / "new" / "project.yaml").base == str(base.resolve())
    (tmp_path / "my folder: a").mkdir()
    shutil.copytree(base, tmp_path / "my folder: a" / "m")
    assert stagezero("init", "quoted", "--model", "my folder: a/m", cwd=tmp_path).returncode == 0
    assert load_project(tmp_path / "quoted" / "project.yaml").base == str((tmp_path / "my folder: a" / "m").resolve())
