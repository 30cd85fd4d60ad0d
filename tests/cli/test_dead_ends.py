"""Each mistake, and each odd terminal, gets one sentence: no traceback and no dead end.

Covers: cli/__init__.py, cli/app.py, cli/_output.py, cli/export.py.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import stagezero_process, write_project

from stagezero.isolation import lab_box
from stagezero.lab import isolated_run

COMMAND = [sys.executable, "-m", "stagezero.cli"]
FIXTURES = Path(__file__).parents[1] / "fixtures" / "ledgers"


def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, **options)


def environment(**changes: str | None) -> dict[str, str]:
    return {k: v for k, v in {**os.environ, **changes}.items() if v is not None}


def one_sentence(done: subprocess.CompletedProcess[str], *words: str, code: int = 2) -> None:
    assert done.returncode == code, done
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("stagezero: "), done.stderr
    assert all(word in lines[0] for word in words), lines[0]


def test_odd_paths_give_one_line() -> None:
    one_sentence(stagezero_process("ledger", "verify", "no\nsuch\x1b[31m"), r"no\nsuch\x1b[31m")
    one_sentence(stagezero_process("--hlep"), 'unknown option "--hlep"', "see: stagezero --help")
    one_sentence(stagezero_process("ledger", "verify", "x Available commands: y"), "x Available commands: y")


@pytest.mark.parametrize("name", ["exp [v2]", "[bold]exp[/bold]", ":smile: exp", "[/]"])
def test_a_path_is_printed_as_it_is(name: str, tmp_path: Path) -> None:
    done = stagezero_process("init", name, cwd=tmp_path)
    assert (done.returncode == 0 and f"stagezero run '{name}/project.yaml'" in done.stdout.replace("\n", " ")) or name in done.stdout
    assert name in done.stdout


def test_an_ascii_terminal_displays_every_text(tmp_path: Path) -> None:
    (tmp_path / "caf\u00e9").mkdir()
    done = run("init", tmp_path / "caf\u00e9" / "p", env=environment(PYTHONIOENCODING="ascii"))
    assert done.returncode == 0 and "caf\\xe9" in done.stdout
    done = run("report", FIXTURES / "1" / "comparison", env=environment(PYTHONIOENCODING="ascii"))
    one_sentence(done, "reports are for campaigns")
    script = "from stagezero.cli import _prepare_streams; _prepare_streams(); print('a \u2264 b \u2212 1\u2026 \u2192 \u00e9')"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment(PYTHONIOENCODING="ascii"), check=True
    )
    assert done.stdout == "a <= b - 1... -> \\xe9\n"


def test_closed_and_full_outputs() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "idea", "schema"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    one_sentence(done, "the output: No space left on device; free some space")
    done = subprocess.run(f"{' '.join(COMMAND)} idea schema >&-", shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run(f"{' '.join(COMMAND)} idea schema | true", shell=True, capture_output=True, text=True, check=False)
    assert done.stderr == ""


def test_a_user_without_a_home_folder() -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become a user that the system does not know")

    def home(**changes: str | None) -> subprocess.CompletedProcess[str]:
        # It starts as root, since an unknown user may not enter the folder of the interpreter.
        code = "import os; from stagezero.models import home; os.setgid(54321); os.setuid(54321); print(home())"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(**changes), check=False)

    assert "set STAGEZERO_HOME" in home(HOME=None, STAGEZERO_HOME=None, XDG_CACHE_HOME=None).stderr
    assert home(HOME=None, STAGEZERO_HOME=None, XDG_CACHE_HOME="/tmp/cache").stdout == "/tmp/cache/stagezero\n"
    assert home(HOME=None, STAGEZERO_HOME="/tmp/there", XDG_CACHE_HOME=None).stdout == "/tmp/there\n"


def test_a_folder_without_permission_names_the_fix(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("measure", "pocket/16k", "--items", "1", env=environment(STAGEZERO_HOME=str(tmp_path / "file" / "home")))
    one_sentence(done, "file")
    from stagezero.cli import _explain_os_error

    assert "STAGEZERO_HOME" in _explain_os_error(PermissionError(13, "Permission denied", "/home/x"))
    assert "free some space" in _explain_os_error(OSError(28, "No space left on device", "/home/x"))


def test_a_full_disk_that_a_library_reports_is_one_sentence() -> None:
    script = """
import sys
from safetensors import SafetensorError
from stagezero.cli import app, main

def run(arguments):
    raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

app.run, sys.argv = run, ["stagezero", "models"]
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    one_sentence(done, "this machine: No space left on device; free space")


@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.3, 0.6, 1.2])
def test_ctrl_c_in_the_first_seconds_is_one_line(seconds: float, base: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "measure", str(base), "--items", "2000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    # Before Python runs any of our code, the interpreter itself ends; later it is our line.
    assert "Traceback" not in err or "stagezero/cli" not in err, err
    if process.returncode == 130:
        assert "interrupted; finished work is saved, and the same command continues" in err


@pytest.mark.parametrize(
    ("verb", "folder", "words"),
    [
        ("report", "comparison", "is that of a comparison"),
        ("report", "finished-auditor", "is that of an auditor"),
        ("lineage", "comparison", "expected the ledger of a campaign"),
        ("rebuild", "comparison", "expected the ledger of a campaign"),
        ("report", "nowhere", "there is no ledger"),
        ("rebuild", "nowhere", "there is no ledger"),
    ],
)
def test_the_folder_of_something_else(verb: str, folder: str, words: str) -> None:
    one_sentence(stagezero_process(verb, FIXTURES / "1" / folder), words)


WORKERS = """
from pathlib import Path
from stagezero.training.executors import LocalPool, wait_for_result
pool = LocalPool(1)
print(len(str(wait_for_result(pool.materialise({base!r}, Path("progress"))))))
pool.close()
"""
EXAMINATION = """
from pathlib import Path
from stagezero.auditor.examiner import Examiner
print(len(Examiner(memory=2.0).answers(Path({base!r}), ["Why?"] * len({base!r}), None, 100.0, 2)))
"""


@pytest.mark.parametrize("name", ["selectors", "multiprocessing", "secrets"])
def test_nothing_of_the_current_folder_is_imported(name: str, base: Path, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("import os\nos.write(1, b'imported')\nraise SystemExit(0)\n")
    command = [sys.executable, "-P", "-c", EXAMINATION.format(base=str(base))]  # as an installed command: not from the folder
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stdout.strip(), done.returncode) == (str(len(str(base))), 0), done.stderr
    command = isolated_run.command_line(["ledger", "verify", "nowhere"])
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    one_sentence(done, "there is no ledger")


@pytest.mark.parametrize(("program", "source"), [(WORKERS, "standard input"), (EXAMINATION, "file")], ids=["workers", "examination"])
def test_a_program_needs_no_guard(program: str, source: str, base: Path, tmp_path: Path) -> None:
    """The processes that it starts do not run it again, which is impossible from standard input."""
    text = program.format(base=str(base))
    (tmp_path / "program.py").write_text(text)
    command = [sys.executable, "-" if source == "standard input" else str(tmp_path / "program.py")]
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.stdout.strip(), done.returncode) == (str(len(str(base))), 0), done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_the_command_is_answered_in_one_line(number: signal.Signals, base: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "measure", str(base), "--items", "10000"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # the tests may run under nohup, which the command respects
    )  # fmt: skip
    assert process.stderr is not None
    process.stderr.readline()  # the first status line
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == f"stagezero: ended by {number.name}; finished work is saved, and the same command continues."
    assert "Traceback" not in err


def test_where_nobody_reads_errors_the_exit_code_is_the_same(base: Path, tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run([*COMMAND, "ledger", "verify", "nowhere"], stderr=full, check=False)
        assert done.returncode == 2
        done = subprocess.run([*COMMAND, "measure", str(base), "--items", "2", "--json"], stderr=full, stdout=subprocess.PIPE, check=False)
        assert done.returncode == 0 and b"scores" in done.stdout


def test_an_interrupt_to_the_boxed_runs_own_process_reaches_the_lab(base: Path, tmp_path: Path) -> None:
    if lab_box.unavailable_reason() is not None:
        pytest.skip("needs a box")
    path = write_project(tmp_path, base, trial="{items: 200, max_pairs: 200, calibration: 50, confirm: 50}")
    process = subprocess.Popen(
        [*COMMAND, "run", str(path), "--runs", str(tmp_path / "runs")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    while "rebuilding stage 0" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted; finished work is saved" in err and "Traceback" not in err
