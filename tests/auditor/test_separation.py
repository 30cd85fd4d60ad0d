"""How far a peer is, seen from a real connection: this process, another user, another network namespace.

Covers: auditor/systemd.py, auditor/forkserver_preload.py,
door/auditor_process.py.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stagezero.auditor.auditor import Auditor
from stagezero.auditor.separation import connection_owner, observed_separation
from stagezero.door.messages import SEPARATIONS, Separation

NOBODY = 61003
CLIENT = "import socket,sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20); s.recv(1)"
PYTHON = next((p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if shutil.which(p)), None)


@contextmanager
def called(before: list[str], host: str, family: socket.AddressFamily = socket.AF_INET) -> Iterator[tuple[str, int]]:
    """Where a process that calls this one is seen to be."""
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(20)
        assert PYTHON is not None
        caller = subprocess.Popen([*before, PYTHON, "-c", CLIENT, host, str(listener.getsockname()[1])], stderr=subprocess.DEVNULL)
        try:
            line, peer = listener.accept()
            with line:
                yield peer[0], peer[1]
        finally:
            caller.kill()
            caller.wait()


def as_nobody() -> list[str]:
    if os.geteuid() != 0 or shutil.which("setpriv") is None or PYTHON is None:
        pytest.skip("needs root, setpriv and a Python that all users may run")
    line = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--"]
    if subprocess.run([*line, PYTHON, "-c", "pass"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no process of another user can be started")
    return line


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_caller_of_this_user_is_colocated_whatever_was_claimed(host: str, family: socket.AddressFamily) -> None:
    if PYTHON is None:
        pytest.skip("no Python outside the environment")
    try:
        with called([], host, family) as peer:
            assert connection_owner(*peer) == os.getuid()
            assert observed_separation(*peer, "separate user") == observed_separation(*peer, "separate host") == "colocated"
            assert observed_separation(*peer, "boxed") == "boxed", "that is for whoever made the box to know"
    except OSError:
        pytest.skip(f"{host} cannot be listened on")


def test_another_user_is_another_user_and_not_another_host() -> None:
    line = as_nobody()
    with called(line, "127.0.0.1") as peer:
        assert connection_owner(*peer) == NOBODY
        assert observed_separation(*peer, "separate user") == observed_separation(*peer, "separate host") == "separate user"
        assert observed_separation(f"::ffff:{peer[0]}", peer[1], "separate host") == "separate user", "heard on a socket for both versions"
        assert observed_separation(*peer, "colocated") == "colocated"


def test_root_here_is_no_separate_user(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0 or PYTHON is None:
        pytest.skip("needs root")
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)  # an auditor of another user, and root calls
    with called([], "127.0.0.1") as peer:
        assert observed_separation(*peer, "separate user") == "colocated"


def test_a_connection_that_nobody_owns_is_no_evidence_of_distance() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    assert connection_owner("127.0.0.1", free) is None
    assert observed_separation("127.0.0.1", free, "separate host") == "colocated"
    assert observed_separation("not an address", 1, "separate host") == "colocated"


def test_another_network_is_as_far_as_was_claimed() -> None:
    if os.geteuid() != 0 or shutil.which("ip") is None or PYTHON is None:
        pytest.skip("needs root and ip")
    name = f"szt{secrets.token_hex(3)}"
    steps = [f"netns add {name}", f"link add v{name} type veth peer name eth0 netns {name}", f"address add 10.213.9.1/30 dev v{name}",
             f"link set v{name} up", f"-n {name} address add 10.213.9.2/30 dev eth0", f"-n {name} link set eth0 up"]  # fmt: skip
    try:
        for step in steps:
            done = subprocess.run(["ip", *step.split()], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                pytest.skip(f"no network namespaces: {done.stderr.strip()}")
        with called(["ip", "netns", "exec", name], "10.213.9.1") as peer:
            assert peer[0] == "10.213.9.2"
            assert observed_separation(*peer, "separate host") == "separate host"
            assert observed_separation(*peer, "separate user") == "separate user"
        with called([], "10.213.9.1") as peer:
            assert observed_separation(*peer, "separate host") == "colocated", "its own address by another name"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.parametrize("claimed", SEPARATIONS[2:])
def test_a_claim_that_a_connection_contradicts_is_taken_back_for_good(desk: object, claimed: Separation) -> None:
    from conftest_auditor import Desk

    if PYTHON is None:
        pytest.skip("no Python outside the environment")
    assert isinstance(desk, Desk)
    desk.auditor.close()
    # The fixture's own lab was colocated, so this auditor has another folder.
    other = Desk(desk.folder.parent / claimed.replace(" ", "-"), desk.clock, separation=claimed)
    other.add()
    assert other.auditor.status("suite").separation == claimed
    with called([], "127.0.0.1") as peer:
        other.auditor.observe_peer(*peer)
    assert other.auditor.status("suite").separation == "colocated"
    again = other.again(separation=claimed)
    assert again.auditor.status("suite").separation == "colocated", "what was read once is read"
    assert isinstance(again.auditor, Auditor)
    again.auditor.close()
