"""The box, as this user and, for root, as one without rights: what it hides stays hidden whatever is tried inside.

Covers: lab/isolated_run.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from stagezero.files import PACKAGE_FOLDER
from stagezero.isolation import lab_box

NOBODY = 61003
SITE = next(p for p in sys.path if p.endswith("-packages") and (Path(p) / "safetensors").is_dir())
PATHS = f"sys.path[:0] = [{str(PACKAGE_FOLDER.parent)!r}, {SITE!r}]"
Boxed = Callable[..., "subprocess.CompletedProcess[str]"]


@lru_cache
def unavailable_reason() -> str | None:
    return lab_box.unavailable_reason()


@lru_cache
def python_of_nobody() -> str | None:
    """A Python that a user without rights may run; None where there is none."""
    python = f"/usr/bin/python3.{sys.version_info.minor}"
    if shutil.which("setpriv") is None or not Path(python).is_file():
        return None
    code = f"import sys; {PATHS}; import stagezero.isolation.lab_box"
    done = subprocess.run([*_become(), python, "-c", code], capture_output=True, check=False)
    return python if done.returncode == 0 else None


def _become() -> list[str]:
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that is not under /tmp, which is the box's own, and that all users may enter."""
    above = next((p for p in (Path("/srv"), Path("/var/lib"), Path.home()) if os.access(p, os.W_OK)), None)
    if above is None:
        pytest.skip("no folder outside /tmp can be written")
    found = above / f"box-{os.getpid()}-{time.monotonic_ns()}"
    found.mkdir()
    found.chmod(0o755)
    for name in ("keep", "lab"):
        (found / name).mkdir()
    (found / "keep" / "secret").write_text("told")
    (found / "sealed.jsonl").write_text("told")
    yield found
    shutil.rmtree(found, ignore_errors=True)


def _line(place: Path, script: str, python: str = sys.executable) -> list[str]:
    """A shell in a box that hides the keep and the sealed file and lets the lab's folder be written."""
    code = (
        f"import os, pathlib, sys; {PATHS}\n"
        "from stagezero.isolation import lab_box\n"
        "p = pathlib.Path(sys.argv[1])\n"
        "l = lab_box.Box([p / 'lab'], [p / 'keep', p / 'sealed.jsonl']).command(['sh', '-c', sys.argv[2]], p / 'lab')\n"
        "os.execvp(l[0], l)"
    )
    return [python, "-c", code, str(place), script]


@pytest.fixture(params=["this user", "a user without rights"])
def boxed(request: pytest.FixtureRequest, place: Path) -> Boxed:
    """Runs a shell script in a box."""
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    python, before = sys.executable, list[str]()
    if request.param != "this user":
        found = python_of_nobody() if os.geteuid() == 0 else None
        if found is None:
            pytest.skip("not root, or no Python that another user may run")
        for path in [place, *place.rglob("*")]:
            os.chown(path, NOBODY, NOBODY)
        python, before = found, _become()
        probe = subprocess.run([*before, *_line(place, "true", python)], capture_output=True, text=True, check=False)
        if probe.returncode != 0:
            pytest.skip(f"no box as another user: {probe.stderr.strip()[:200]}")

    def run(script: str, **more: object) -> subprocess.CompletedProcess[str]:
        line = [*before, *_line(place, script, python)]
        return subprocess.run(line, capture_output=True, text=True, timeout=60, check=False, **more)  # type: ignore[call-overload, no-any-return]

    return run


def test_what_is_hidden_is_empty_and_stays_so(boxed: Boxed, place: Path) -> None:
    done = boxed(
        f"ls -A {place}/keep; cat {place}/sealed.jsonl {place}/keep/secret /proc/{os.getpid()}/root{place}/keep/secret;"
        f"touch {place}/keep/x; umount {place}/keep; umount -l {place}/keep {place}/sealed.jsonl;"
        f"unshare -Urm sh -c 'umount {place}/keep; umount -l {place}/sealed.jsonl; cat {place}/keep/* {place}/sealed.jsonl';"
        f"mkdir m; mount --bind {place} m; unshare -Urm sh -c 'mount --bind {place} m; cat m/keep/secret m/sealed.jsonl';"
        f"mv {place}/keep {place}/other; test -f {place}/sealed.jsonl && echo there"
    )
    assert done.stdout == "there\n", done
    assert (place / "keep" / "secret").read_text() == "told"
    assert [p.name for p in (place / "keep").iterdir()] == ["secret"]


def test_a_box_without_covers_shows_it(place: Path) -> None:
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    line = lab_box.Box([], []).command(["cat", str(place / "keep" / "secret")], place)
    assert subprocess.run(line, capture_output=True, text=True, check=False).stdout == "told"


def test_no_process_of_the_outside_is_seen(boxed: Boxed) -> None:
    done = boxed("for p in /proc/[0-9]*; do cat $p/cmdline | tr '\\0' ' '; echo; done")
    assert "pytest" not in done.stdout
    assert len(done.stdout.splitlines()) < 8, done.stdout


def test_only_what_is_given_can_be_written(boxed: Boxed, place: Path) -> None:
    done = boxed(f"echo kept > mine; touch {place}/yours /usr/yours /etc/yours; echo x > /tmp/own && echo x > /run/own && cat /tmp/own")
    assert done.stdout == "x\n"
    assert (place / "lab" / "mine").read_text() == "kept\n"
    assert not (place / "yours").exists()
    assert not Path("/tmp/own").exists()


def test_the_kernel_does_nothing_for_it(boxed: Boxed, place: Path) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    done = boxed(
        "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern && echo wrote;"
        "mknod disk b 254 0 && echo made; ls /dev/vd* /dev/sd* /dev/nvme* /dev/kvm /dev/mem;"
        "find /proc -path '/proc/[0-9]*' -prune -o -type f -writable -print 2>/dev/null | head -3; unshare -Ur echo user namespace;"
        "grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status"
    )
    assert done.stdout.split() == ["CapEff:", "0" * 16, "NoNewPrivs:", "1"], done
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_who_listens_outside_is_not_reached(boxed: Boxed, place: Path) -> None:
    other = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    connect = str(other) if other.is_file() else sys.executable
    with socket.socket(socket.AF_UNIX) as path, socket.socket(socket.AF_UNIX) as abstract:
        path.bind(str(place / "socket"))
        (place / "socket").chmod(0o777)
        abstract.bind(f"\0stagezero-test-{os.getpid()}")
        path.listen()
        abstract.listen()
        code = "import socket,sys; s=socket.socket(1); s.connect(sys.argv[1].replace(chr(64),chr(0))); print(chr(111))"
        first = boxed(f"{connect} -c '{code}' {place}/socket")
        assert "Error" in first.stderr and not first.stdout, first
        if ctypes.CDLL(None).syscall(444, None, ctypes.c_size_t(0), 1) >= 6:
            second = boxed(f"{connect} -c '{code}' @stagezero-test-{os.getpid()}")
            assert "PermissionError" in second.stderr, second


def test_nothing_is_typed_into_the_terminal(place: Path) -> None:
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    code = (
        "import fcntl\n"
        "try: fcntl.ioctl(0, 0x5412, b'x'); print('typed')\n"
        "except OSError as e: print('refused', e.errno)\n"
    )  # fmt: skip
    line = lab_box.Box([], []).command([sys.executable, "-c", code], place)

    def inside(run: list[str]) -> str:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvp(run[0], run)
        said = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(terminal, 1000):
                said += chunk
        os.close(terminal)
        os.waitpid(pid, 0)
        return said.decode()

    assert "refused 1" in inside(line)


@pytest.mark.parametrize("code", [0, 3, 130])
def test_the_exit_code_is_the_labs(boxed: Boxed, code: int) -> None:
    assert boxed(f"exit {code}").returncode == code


def test_an_interrupt_reaches_the_lab(place: Path) -> None:
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    script = "trap 'echo stopped > out; exit 130' INT; echo ready; while :; do sleep 0.05; done"
    line = lab_box.Box([place / "lab"], []).command(["sh", "-c", script], place / "lab")
    running = subprocess.Popen(line, stdout=subprocess.PIPE, start_new_session=True, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    signal_group = os.getpgid(running.pid)
    os.killpg(signal_group, signal.SIGINT)
    running.wait(20)
    running.stdout.close()
    end = time.monotonic() + 5
    while not (place / "lab" / "out").exists() and time.monotonic() < end:
        time.sleep(0.02)
    assert (place / "lab" / "out").read_text() == "stopped\n"


def test_the_program_stays_read_only_in_a_folder_that_may_be_written(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(place / "lab"))
    line = lab_box.Box([place], []).command(["true"], place)
    at = line.index(str(place / "lab"))
    assert line[at - 1] == "--ro-bind"
    assert line.index(str(place)) < at, "the nearer one comes last, and holds"


def test_another_name_of_what_is_hidden_is_found(place: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and mount namespaces")
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    (place / "again").mkdir()
    code = _line(place, f"cat {place}/again/keep/secret {place}/again/sealed.jsonl; echo tried")
    script = f'mount --bind {place} {place}/again; cat {place}/again/keep/secret; exec "$@"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *code], capture_output=True, text=True, check=False)
    assert done.stdout == "toldtried\n", done
