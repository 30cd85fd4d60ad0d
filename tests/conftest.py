"""Shared fixtures and helpers: a small trained base, and a small campaign that has ended.

Under pytest-xdist the first worker that needs a shared folder creates it; all workers use it.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import shared_forkserver
from filelock import FileLock

pytest_plugins = ["conftest_auditor", "conftest_campaign"]
SHARED_FIXTURES = {"finished", "shared_campaign"}
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
gc.disable()  # until the tests are collected: imports create many objects and no garbage


def pytest_configure(config: pytest.Config) -> None:
    """Let all processes of the session use one fork server."""
    shared_forkserver.configure()
    is_controller = getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput")
    if is_controller and not config.option.collectonly:
        os.environ[shared_forkserver.ADDRESS_VARIABLE] = shared_forkserver.start() or ""


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # modules live as long as the process; a training run collects everything else at its end
    gc.set_threshold(50_000)
    gc.enable()


@pytest.hookimpl(trylast=True)  # after the slow tests are deselected
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Order the tests so that all workers finish at about the same time.

    Every worker begins with one contiguous part of the list. Each part begins with some of the
    longest tests, which are marked ``first``. Tests that only read what one of these creates come
    last, so that no worker waits for it.
    """
    first = [item for item in items if item.get_closest_marker("first")]
    readers = [item for item in items if item not in first and SHARED_FIXTURES & set(getattr(item, "fixturenames", ()))]
    workers = int(getattr(config, "workerinput", {"workercount": 1})["workercount"])
    # They need no base, and take about as long as its training.
    without_base = [item for item in items if item.path.name == "test_eprocess.py"] if workers > 1 else []
    others = [item for item in items if item not in first and item not in readers and item not in without_base]
    left = len(items)
    items.clear()
    for worker in range(workers):
        size = left // (workers - worker)  # as xdist divides the list (worksteal)
        begin = first[worker::workers]
        if worker:  # the first worker trains the shared base
            begin = without_base[worker - 1 :: workers - 1] + begin
        end = readers[worker * len(readers) // workers : (worker + 1) * len(readers) // workers]
        middle = others[: max(size - len(begin) - len(end), 0)]
        others, left = others[len(middle) :], left - size
        items += begin + middle + end


def stagezero(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command in this process and return its exit code, stdout and stderr.

    A child process would spend most of its time on imports; ``stagezero_process`` starts one.
    """
    from stagezero.cli import main

    command = [str(word) for word in arguments]
    previous, code, saved = Path.cwd(), 0, (sys.stdout, sys.stderr, sys.argv)
    with _captured(1) as stdout, _captured(2) as stderr:
        sys.stdout, sys.stderr, sys.argv = stdout.text, stderr.text, ["stagezero", *command]
        try:
            os.chdir(cwd or previous)
            main(command)
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except Exception:
            traceback.print_exc()
            code = 1
        finally:
            os.chdir(previous)
            sys.stdout, sys.stderr, sys.argv = saved
        return subprocess.CompletedProcess(command, code, stdout.read(), stderr.read())


_OPEN_TO_ALL = """
set -e
blocked=$1 folder=$2 hold=$(mktemp -d)
shift 2
mount --bind "$folder" "$hold"
mount -t tmpfs -o mode=755 tmpfs "$blocked"
mkdir -p "$folder"
mount --bind "$hold" "$folder"
umount "$hold"
rmdir "$hold"
exec "$@"
"""


def open_to_all_users(folder: Path) -> list[str]:
    """Return a command prefix under which every user can enter a folder.

    A clone below a private folder (``/root``) cannot be entered by another user, whom some tests
    need. In a mount namespace of its own, the command finds the folder alone at its path. The
    prefix needs root; it is empty if it is not needed.
    """
    blocked = next((parent for parent in reversed(folder.resolve().parents) if not parent.stat().st_mode & 0o001), None)
    if blocked is None:
        return []
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _OPEN_TO_ALL, "sh", str(blocked), str(folder.resolve())]


class _Captured:
    """A file descriptor redirected to a temporary file, which captures child processes too."""

    def __init__(self, descriptor: int) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the capture
        os.dup2(self._file.fileno(), descriptor)
        self.text = open(descriptor, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False)  # noqa: SIM115

    def read(self) -> str:
        self.text.flush()
        self._file.seek(0)
        return self._file.read().decode("utf-8", errors="replace")

    def close(self) -> None:
        self.text.close()
        self._file.close()


@contextmanager
def _captured(descriptor: int) -> Iterator[_Captured]:
    original = os.dup(descriptor)
    captured = _Captured(descriptor)
    try:
        yield captured
    finally:
        os.dup2(original, descriptor)
        os.close(original)
        captured.close()


def stagezero_process(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command in a child process, as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "stagezero.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=dict(os.environ),
        check=False,
    )


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that every pytest-xdist worker of this test session can access."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


def make_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """Return the folder, created by ``make`` in the first process that needs it.

    Other processes wait for it.
    """
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def home(shared_folder: Path) -> Iterator[Path]:
    """The session's ``STAGEZERO_HOME``, shared by every process that the tests start."""
    folder = shared_folder / "home"
    folder.mkdir(exist_ok=True)
    previous = os.environ.get("STAGEZERO_HOME")
    os.environ["STAGEZERO_HOME"] = str(folder)
    yield folder
    if previous is None:
        del os.environ["STAGEZERO_HOME"]
    else:
        os.environ["STAGEZERO_HOME"] = previous


def _train_base(folder: Path) -> None:
    import torch

    from stagezero.models import pocket

    torch.set_num_threads(1)
    size = pocket.SIZES["16k"]
    pocket.SIZES["16k"] = replace(size, steps=300)
    try:
        pocket.save(pocket.pretrain("16k", seed=0), folder, {"kind": "test"})
    finally:
        pocket.SIZES["16k"] = size


@pytest.fixture(scope="session")
def base(home: Path) -> Path:
    """A real pocket model of 16k parameters, trained for a few seconds; further training works."""
    return make_once(home / "tiny-base", _train_base)


IDEAS = {
    "twins": "- {op: extend, at: data, parts: [{kinds: [twin], each: 16}]}",
    "decay": "- {op: set, at: sft, values: {weight_decay: 0.001}}",
    "faster": "- {op: set, at: sft, values: {learning_rate: 0.9}}",
}


def write_project(folder: Path, base: Path, name: str = "small", **changes: str) -> Path:
    """Write a small real project: a tiny base, three ideas, one stage, an auditor with low bars."""
    (folder / "ideas").mkdir(parents=True, exist_ok=True)
    for title, patch in IDEAS.items():
        text = f"---\ntitle: {title} idea\nproperty: privacy\nclaimed_effect: 0.1\nreason: because\npatch:\n  {patch}\n---\n"
        (folder / "ideas" / f"{title}.md").write_text(text)
    (folder / "stage0.yaml").write_text(
        "steps:\n  - {step: mix, parts: [{kinds: [trap], each: 16}]}\n  - {step: sft, steps: 8, batch_size: 8, learning_rate: 0.005}\n"
    )
    fields = {
        "name": name,
        "base": str(base),
        "stage0": "stage0.yaml",
        "stages": "1",
        "seed": "5",
        "researchers": "[{kind: people, ideas: ideas}]",
        "trial": "{items: 10, max_pairs: 10, calibration: 3, confirm: 3, worth: 0.5}",
        "audit": "{items: 60, submissions: 3, passes: 2, bars: {privacy: 0.05}, folder: auditor}",
        "workers": "1",
        **changes,
    }
    path = folder / "project.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in fields.items() if value))
    return path


@pytest.fixture(scope="session")
def finished(home: Path, base: Path, shared_folder: Path) -> Path:
    """The run folder of a small campaign that has ended."""

    def run(folder: Path) -> None:
        from stagezero.lab.campaign import Campaign

        Campaign(write_project(folder, base), runs=folder / "runs").run()

    return make_once(shared_folder / "finished", run) / "runs" / "small"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
