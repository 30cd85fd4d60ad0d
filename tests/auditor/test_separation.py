"""How separate a peer is, observed on real connections.

The peers are this process's user, another user and another network namespace.

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
from stagezero.auditor.separation import _owner, connection_owner, observed_separation
from stagezero.door.messages import SEPARATIONS, Separation

OTHER_UID = 61003
CLIENT = "import socket,sys; s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20); s.recv(1)"
PYTHON = next((p for p in ("/usr/bin/python3", "/usr/local/bin/python3") if shutil.which(p)), None)


@contextmanager
def connected_peer(prefix: list[str], host: str, family: socket.AddressFamily = socket.AF_INET) -> Iterator[tuple[str, int]]:
    """Yield the address that a process, started with ``prefix``, connects from."""
    with socket.create_server((host, 0), family=family) as listener:
        listener.settimeout(20)
        assert PYTHON is not None
        caller = subprocess.Popen([*prefix, PYTHON, "-c", CLIENT, host, str(listener.getsockname()[1])], stderr=subprocess.DEVNULL)
        try:
            connection, peer = listener.accept()
            with connection:
                yield peer[0], peer[1]
        finally:
            caller.kill()
            caller.wait()


def command_as_other_user() -> list[str]:
    """Return the command prefix that runs a program as another user; skip if there is none."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None or PYTHON is None:
        pytest.skip("needs root, setpriv and a Python that all users may run")
    prefix = ["setpriv", f"--reuid={OTHER_UID}", f"--regid={OTHER_UID}", "--clear-groups", "--"]
    if subprocess.run([*prefix, PYTHON, "-c", "pass"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no process of another user can be started")
    return prefix


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_a_peer_of_the_same_user_is_colocated_whatever_it_claims(host: str, family: socket.AddressFamily) -> None:
    if PYTHON is None:
        pytest.skip("no Python outside the environment")
    try:
        with connected_peer([], host, family) as peer:
            assert connection_owner(*peer) == os.getuid()
            assert observed_separation(*peer, "separate user") == observed_separation(*peer, "separate host") == "colocated"
            assert observed_separation(*peer, "boxed") == "boxed", "a connection is no evidence about a sandbox"
    except OSError:
        pytest.skip(f"{host} cannot be listened on")


def test_another_user_on_this_host_is_a_separate_user_and_not_a_separate_host() -> None:
    prefix = command_as_other_user()
    with connected_peer(prefix, "127.0.0.1") as peer:
        assert connection_owner(*peer) == OTHER_UID
        assert observed_separation(*peer, "separate user") == observed_separation(*peer, "separate host") == "separate user"
        mapped = f"::ffff:{peer[0]}"
        assert observed_separation(mapped, peer[1], "separate host") == "separate user", "the IPv4-mapped form of the address"
        assert observed_separation(*peer, "colocated") == "colocated"


def test_root_on_this_host_is_no_separate_user(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0 or PYTHON is None:
        pytest.skip("needs root")
    monkeypatch.setattr(os, "getuid", lambda: OTHER_UID)  # the auditor has another user, and root connects
    with connected_peer([], "127.0.0.1") as peer:
        assert observed_separation(*peer, "separate user") == "colocated"


def test_a_connection_without_a_known_owner_is_no_evidence_of_separation() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    assert connection_owner("127.0.0.1", free) is None
    assert observed_separation("127.0.0.1", free, "separate host") == "colocated"
    assert observed_separation("not an address", 1, "separate host") == "colocated"


def test_a_closed_connection_from_the_same_port_is_not_the_peer() -> None:
    local, row = "0100007F:8FE4", "{n}: 0100007F:8FE4 0100007F:1F90 {state} 00000000:00000000 00:00000000 00000000 {uid} 0 {inode} 1 0"
    closed = row.format(n=0, state="06", uid=0, inode=0)
    peer = row.format(n=1, state="01", uid=61003, inode=1234)
    other = row.format(n=2, state="01", uid=61004, inode=1235)
    assert _owner([closed, peer], local) == _owner([peer, closed], local) == 61003
    closed_early = row.format(n=3, state="05", uid=0, inode=0)
    assert _owner([closed], local) is None and _owner([peer, other], local) is None and _owner([peer, closed_early], local) is None
    assert _owner([peer.replace("0100007F:8FE4", f"0000000000000000FFFF0000{local}")], local) == 61003


def test_a_peer_in_another_network_namespace_is_as_separate_as_it_claims() -> None:
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
        with connected_peer(["ip", "netns", "exec", name], "10.213.9.1") as peer:
            assert peer[0] == "10.213.9.2"
            assert observed_separation(*peer, "separate host") == "separate host"
            assert observed_separation(*peer, "separate user") == "separate user"
        with connected_peer([], "10.213.9.1") as peer:
            assert observed_separation(*peer, "separate host") == "colocated", "another address of the same host"
    finally:
        subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.parametrize("claimed", SEPARATIONS[2:])
def test_a_claim_that_a_connection_contradicts_is_withdrawn_permanently(harness: object, claimed: Separation) -> None:
    from conftest_auditor import AuditorHarness

    if PYTHON is None:
        pytest.skip("no Python outside the environment")
    assert isinstance(harness, AuditorHarness)
    harness.auditor.close()
    # The fixture's own lab is colocated, so this auditor needs another folder.
    other = AuditorHarness(harness.folder.parent / claimed.replace(" ", "-"), harness.clock, separation=claimed)
    other.add_suite()
    assert other.auditor.status("suite").separation == claimed
    with connected_peer([], "127.0.0.1") as peer:
        other.auditor.observe_peer(*peer)
    assert other.auditor.status("suite").separation == "colocated"
    reopened = other.reopen(separation=claimed)
    assert reopened.auditor.status("suite").separation == "colocated", "one contradicting connection is enough"
    assert isinstance(reopened.auditor, Auditor)
    reopened.auditor.close()
