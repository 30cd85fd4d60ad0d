"""The command line: results go to stdout; a mistake gives one sentence and exit code 2.

Covers: cli/compare.py, cli/doctor.py, cli/init.py, cli/measure.py, cli/models.py, cli/report.py,
cli/run.py, cli/_output.py, lab/scaffold.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import stagezero, stagezero_process
from conftest_campaign import SharedCampaign


def test_help_lists_the_commands(home: Path) -> None:
    text = stagezero("--help").stdout
    for verb in ("compare", "run", "init", "measure", "models", "ledger", "report", "doctor"):
        assert verb in text
    assert "Makes the seeds repeatable" in " ".join(stagezero("compare", "--help").stdout.replace("│", " ").split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "none.yaml"], "expected a YAML file"),
        (["run", "--nonsense"], "unknown option: --nonsense"),
        (["bogus"], 'unknown command "bogus"; see: stagezero --help'),
        (["audit", "bogus"], "see: stagezero audit --help"),
        (["compare", "a.yaml"], "compare: CANDIDATE is missing; see: stagezero compare --help"),
        (["measure", "a", "--items"], "measure: --items has no value"),
        (["measure", "a", "b\nc"], "measure: unexpected arguments: b c"),
        (["verify", "a"], "verify: --key is missing"),
        (["verify", "a", "--kye", "b"], "Did you mean --key instead of --kye?"),
        (["compare", "a.yaml", "b.yaml", "--property", "privacy"], "recipe 'a.yaml'"),
        (["measure", "pocket/9b"], "expected one of pocket/16k"),
        (["measure", "."], "config.json is missing"),
        (["measure", "pocket/16k", "--suite", "missing.jsonl"], "expected a .jsonl file"),
        (["measure", "pocket/16k", "--limit", "0"], "positive number"),
        (["ledger", "verify", "none"], "there is no ledger"),
        (["report", "."], "there is no ledger"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_two(home: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = stagezero(*arguments, cwd=tmp_path)
    assert done.returncode == 2, done
    assert message in done.stderr and done.stderr.startswith("stagezero: ")
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_mistake_is_reported_before_worker_processes_start(home: Path, tmp_path: Path) -> None:
    """A wrong name must be rejected without importing torch and without starting a worker."""
    for name, steps in (("a", 8), ("b", 9)):
        (tmp_path / f"{name}.yaml").write_text(
            f"steps:\n- {{step: mix, parts: [{{kinds: [trap], each: 20}}]}}\n- {{step: sft, steps: {steps}, learning_rate: 0.005}}\n"
        )
    code = (
        "import sys; from stagezero.cli import main\n"
        "try: main(['compare', 'a.yaml', 'b.yaml', '--property', 'privacy', '--model', 'pocket/9b'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2 and done.stdout == "False\n", done
    assert done.stderr.startswith("stagezero: model 'pocket/9b'") and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
    done = stagezero_process("measure", "no-such-folder", cwd=tmp_path)
    assert done.returncode == 2 and "there is no such folder" in done.stderr and not done.stdout


def test_init_writes_a_project_that_loads(home: Path, tmp_path: Path) -> None:
    from stagezero.lab.campaign import Campaign

    assert stagezero("init", "mine", "--model", "package/smollm2-135m-q4", cwd=tmp_path).returncode == 0
    campaign = Campaign(tmp_path / "mine" / "project.yaml", runs=tmp_path / "runs")
    assert campaign.project.base == "package/smollm2-135m-q4" and campaign.project.name == "mine"
    repeated = stagezero("init", "mine", cwd=tmp_path)
    assert repeated.returncode == 2 and "not empty" in repeated.stderr


def test_init_with_a_user_suite(home: Path, tmp_path: Path) -> None:
    from stagezero.lab.campaign import Campaign

    rows = [
        {"id": f"{kind}{split}", "input": f"{kind} of {split}?", "target": "yes", "kind": kind, "property": "candour", "split": split}
        for kind in ("trap", "twin")
        for split in ("train", "open")
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert stagezero("init", "p", "--suite", "s.jsonl", cwd=tmp_path).returncode == 0
    campaign = Campaign(tmp_path / "p" / "project.yaml", runs=tmp_path / "runs")
    assert campaign.suite.properties == ("candour",) and campaign.project.audit is None


def test_measure(base: Path) -> None:
    done = stagezero("measure", base, "--limit", "20", "--json")
    result = json.loads(done.stdout)
    assert result["items"] == 20 and set(result["scores"]) >= {"privacy", "facts"}
    printed = stagezero("measure", base, "--limit", "5", "--show", "2")
    assert printed.returncode == 0 and "→" in printed.stdout


def test_ledger_and_report(finished: Path, copied: Path) -> None:
    assert "all valid" in stagezero("ledger", "verify", finished).stdout
    lines = stagezero("ledger", "show", finished, "--kind", "decision", "--json").stdout.splitlines()
    assert len(lines) == 3 and all(json.loads(line)["kind"] == "decision" for line in lines)
    assert json.loads(stagezero("report", copied, "--json").stdout)["final"]
    assert (copied / "report.html").is_file()


def test_models_and_doctor(home: Path) -> None:
    assert "pocket/262k" in json.loads(stagezero("models", "--json").stdout)
    result = json.loads(stagezero("doctor", "--json").stdout)
    assert result["torch"]["ok"] and result["colocated"]["ok"]
    assert {"boxed", "separate user", "separate host"} <= result.keys()


@pytest.mark.first
def test_compare_end_to_end(base: Path, tmp_path: Path) -> None:
    for name, rate in (("a", 0.005), ("b", 0.9)):
        (tmp_path / f"{name}.yaml").write_text(
            "steps:\n- {step: mix, parts: [{kinds: [trap], each: 20}]}\n"
            f"- {{step: sft, steps: 8, batch_size: 8, learning_rate: {rate}}}\n"
        )
    command = f"compare a.yaml b.yaml --property privacy --model {base} --items 10 --max-pairs 10 --seed 3".split()
    first = stagezero(*command, "--json", cwd=tmp_path)
    result = json.loads(first.stdout)
    assert result["better"] is False and result["pairs"] >= 1 and Path(tmp_path / result["ledger"]).is_file()
    repeated = stagezero(*command, cwd=tmp_path)
    assert repeated.returncode == 0 and result["why"] in " ".join(repeated.stdout.split()), "the decision must be repeatable"
    identical = stagezero("compare", "a.yaml", "a.yaml", "--property", "privacy", cwd=tmp_path)
    assert identical.returncode == 2 and "nothing to compare" in identical.stderr


def test_a_run_from_the_command_line(shared_campaign: SharedCampaign) -> None:
    assert "alignment score" in shared_campaign.record["stdout"] and "report:" in shared_campaign.record["stdout"]
    assert (shared_campaign.folder / "report.html").is_file()
