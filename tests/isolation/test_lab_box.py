"""The lab's box hides the auditor's files, for this user and for a user without privileges.

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
import uuid
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest
from conftest import open_to_all_users

from stagezero.files import PACKAGE_FOLDER
from stagezero.isolation import lab_box

OTHER_UID = 61003
PROJECT = Path(__file__).parents[2]
SITE = next(p for p in sys.path if p.endswith("-packages") and (Path(p) / "safetensors").is_dir())
PATHS = f"sys.path[:0] = [{str(PACKAGE_FOLDER.parent)!r}, {SITE!r}]"
RunInBox = Callable[..., "subprocess.CompletedProcess[str]"]


@lru_cache
def unavailable_reason() -> str | None:
    return lab_box.unavailable_reason()


@lru_cache
def python_for_other_user() -> str | None:
    """Return a Python that another user may run; None if there is none."""
    python = f"/usr/bin/python3.{sys.version_info.minor}"
    if shutil.which("setpriv") is None or not Path(python).is_file():
        return None
    code = f"import sys; {PATHS}; import stagezero.isolation.lab_box"
    done = subprocess.run([*_other_user_prefix(), python, "-c", code], capture_output=True, check=False)
    return python if done.returncode == 0 else None


def _other_user_prefix() -> list[str]:
    return [*open_to_all_users(PROJECT), "setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups", "--"]


@pytest.fixture
def place() -> Iterator[Path]:
    """Yield a folder that all users may enter. It is not under /tmp, which the box replaces."""
    parent = next((p for p in (Path("/srv"), Path("/var/lib"), Path.home()) if os.access(p, os.W_OK)), None)
    if parent is None:
        pytest.skip("no folder outside /tmp can be written")
    folder = parent / f"box-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir()
    folder.chmod(0o755)
    for name in ("auditor", "lab"):
        (folder / name).mkdir()
    (folder / "auditor" / "secret").write_text("secret text")
    (folder / "sealed.jsonl").write_text("secret text")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def _box_command(place: Path, script: str, python: str = sys.executable) -> list[str]:
    """Return a command that runs a shell script in a box.

    The box hides the auditor's folder and the sealed file; the lab's folder is writable.
    """
    code = (
        f"import os, pathlib, sys; {PATHS}\n"
        "from stagezero.isolation import lab_box\n"
        "p = pathlib.Path(sys.argv[1])\n"
        "l = lab_box.Box([p / 'lab'], [p / 'auditor', p / 'sealed.jsonl']).command(['sh', '-c', sys.argv[2]], p / 'lab')\n"
        "os.execvp(l[0], l)"
    )
    return [python, "-c", code, str(place), script]


@pytest.fixture(params=["this user", "an unprivileged user"])
def boxed(request: pytest.FixtureRequest, place: Path) -> RunInBox:
    """Return a function that runs a shell script in a box."""
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    python, prefix = sys.executable, list[str]()
    if request.param != "this user":
        python_for_other = python_for_other_user() if os.geteuid() == 0 else None
        if python_for_other is None:
            pytest.skip("not root, or no Python that another user may run")
        for path in [place, *place.rglob("*")]:
            os.chown(path, OTHER_UID, OTHER_UID)
        python, prefix = python_for_other, _other_user_prefix()
        probe = subprocess.run([*prefix, *_box_command(place, "true", python)], capture_output=True, text=True, check=False)
        if probe.returncode != 0:
            pytest.skip(f"no box as another user: {probe.stderr.strip()[:200]}")

    def run(script: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [*prefix, *_box_command(place, script, python)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **options)  # type: ignore[call-overload, no-any-return]

    return run


def test_hidden_files_are_empty_in_the_box_and_cannot_be_uncovered(boxed: RunInBox, place: Path) -> None:
    done = boxed(
        f"ls -A {place}/auditor; cat {place}/sealed.jsonl {place}/auditor/secret /proc/{os.getpid()}/root{place}/auditor/secret;"
        f"touch {place}/auditor/x; umount {place}/auditor; umount -l {place}/auditor {place}/sealed.jsonl;"
        f"unshare -Urm sh -c 'umount {place}/auditor; umount -l {place}/sealed.jsonl; cat {place}/auditor/* {place}/sealed.jsonl';"
        f"mkdir m; mount --bind {place} m; unshare -Urm sh -c 'mount --bind {place} m; cat m/auditor/secret m/sealed.jsonl';"
        f"mv {place}/auditor {place}/other; test -f {place}/sealed.jsonl && echo there"
    )
    assert done.stdout == "there\n", done
    assert (place / "auditor" / "secret").read_text() == "secret text"
    assert [p.name for p in (place / "auditor").iterdir()] == ["secret"]


def test_a_box_that_hides_no_path_does_not_hide_it(place: Path) -> None:
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    command = lab_box.Box([], []).command(["cat", str(place / "auditor" / "secret")], place)
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == "secret text"


def test_no_outside_process_is_visible(boxed: RunInBox) -> None:
    done = boxed("for p in /proc/[0-9]*; do cat $p/cmdline | tr '\\0' ' '; echo; done")
    assert "pytest" not in done.stdout
    assert len(done.stdout.splitlines()) < 8, done.stdout


def test_only_the_given_folder_is_writable(boxed: RunInBox, place: Path) -> None:
    name = f"own-{uuid.uuid4().hex}"
    own = f"echo x > /tmp/{name} && echo x > /run/{name} && cat /tmp/{name}"
    done = boxed(f"echo stored > mine; touch {place}/yours /usr/yours /etc/yours; {own}")
    assert done.stdout == "x\n"
    assert (place / "lab" / "mine").read_text() == "stored\n"
    assert not (place / "yours").exists()
    assert not Path("/tmp", name).exists()


def test_privileged_kernel_interfaces_are_unavailable(boxed: RunInBox, place: Path) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    done = boxed(
        "cat /proc/sys/kernel/core_pattern > /proc/sys/kernel/core_pattern && echo changed;"
        "mknod disk b 254 0 && echo created; ls /dev/vd* /dev/sd* /dev/nvme* /dev/kvm /dev/mem;"
        "find /proc -path '/proc/[0-9]*' -prune -o -type f -writable -print 2>/dev/null | head -3; unshare -Ur echo user namespace;"
        "grep CapEff /proc/self/status; grep NoNewPrivs /proc/self/status"
    )
    assert done.stdout.split() == ["CapEff:", "0" * 16, "NoNewPrivs:", "1"], done
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_sockets_outside_cannot_be_reached(boxed: RunInBox, place: Path) -> None:
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


def test_a_program_cannot_type_into_the_terminal(place: Path) -> None:
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    code = (
        "import fcntl\n"
        "try: fcntl.ioctl(0, 0x5412, b'x'); print('typed')\n"
        "except OSError as e: print('refused', e.errno)\n"
    )  # fmt: skip
    command = lab_box.Box([], []).command([sys.executable, "-c", code], place)

    def run_in_terminal(command_line: list[str]) -> str:
        pid, terminal = pty.fork()
        if pid == 0:
            os.execvp(command_line[0], command_line)
        output = b""
        with contextlib.suppress(OSError):
            while chunk := os.read(terminal, 1000):
                output += chunk
        os.close(terminal)
        os.waitpid(pid, 0)
        return output.decode()

    assert "refused 1" in run_in_terminal(command)


@pytest.mark.parametrize("code", [0, 3, 130])
def test_the_exit_code_is_that_of_the_lab(boxed: RunInBox, code: int) -> None:
    assert boxed(f"exit {code}").returncode == code


def test_an_interrupt_reaches_the_lab(place: Path) -> None:
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    script = "trap 'echo stopped > out; exit 130' INT; echo ready; while :; do sleep 0.05; done"
    command = lab_box.Box([place / "lab"], []).command(["sh", "-c", script], place / "lab")
    running = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True, text=True)
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


def test_the_python_environment_stays_read_only_inside_a_writable_folder(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setattr(sys, "prefix", str(place / "lab"))
    command = lab_box.Box([place], []).command(["true"], place)
    position = command.index(str(place / "lab"))
    assert command[position - 1] == "--ro-bind"
    assert command.index(str(place)) < position, "the mount of the inner folder must come last"


def test_a_second_mount_of_a_hidden_folder_is_detected(place: Path) -> None:
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs root and mount namespaces")
    if unavailable_reason() is not None:
        pytest.skip(f"no box: {unavailable_reason()}")
    (place / "again").mkdir()
    command = _box_command(place, f"cat {place}/again/auditor/secret {place}/again/sealed.jsonl; echo done")
    script = f'mount --bind {place} {place}/again; cat {place}/again/auditor/secret; exec "$@"'
    done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False)
    assert done.stdout == "secret textdone\n", done
