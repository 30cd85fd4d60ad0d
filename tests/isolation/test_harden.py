"""The filters of ``harden.py``: for each profile, the calls that it refuses and ignores.

A small interpreter runs the filters as the kernel does, on call numbers of two machines.

Covers: isolation/commands.py.
"""

from __future__ import annotations

import errno
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from stagezero.isolation import harden
from stagezero.isolation.commands import harden_prefix

ALLOWED, IGNORED, REFUSED, UNKNOWN = 0x7FFF0000, 0x00050000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
NEW_USER = 0x10000000
REFUSED_NUMBERS = {
    "x86_64": {
        27, 29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 101, 155, 165, 166, 175, 176, 220, 240, 241, 246, 248, 249, 250, 253, 254, 256, 272,
        279, 294, 298, 300, 308, 310, 311, 312, 313, 319, 320, 321, 323, 327, 206, 207, 208, 209, 210, 333,
    },
    "aarch64": {
        26, 27, 39, 40, 41, 97, 104, 105, 106, 117, 180, 181, 186, 187, 188, 189, 190, 191, 192, 193, 194, 195, 196, 217, 218, 219, 232,
        238, 239, 241, 262, 268, 270, 271, 272, 273, 279, 280, 282, 286, 294, 0, 1, 2, 3, 4, 292,
    },
}  # fmt: skip
"""Numbers of the calls that sandboxes refuse, listed independently of their names."""
REFUSED_ON_BOTH = {425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442, 447, 448, 451}
IGNORED_NUMBERS = {
    "x86_64": {90, 91, 92, 93, 94, 132, 141, 142, 144, 188, 189, 190, 197, 198, 199, 203, 235, 251, 260, 261, 268, 280, 314},
    "aarch64": {5, 6, 7, 14, 15, 16, 30, 52, 53, 54, 55, 88, 118, 119, 122, 140, 274},
}
IGNORED_ON_BOTH = {452, 463, 466, 469}
SOCKET, FCNTL, FLOCK, PRLIMIT = ({"x86_64": x, "aarch64": a} for x, a in ((41, 198), (72, 25), (73, 32), (302, 261)))
IOCTL, CLONE, UNSHARE = ({"x86_64": x, "aarch64": a} for x, a in ((16, 29), (56, 220), (272, 97)))
CLONE3 = 435
SOCKETPAIR = {"x86_64": 53, "aarch64": 199}
SOCKET_NAMES = {"x86_64": {42, 49, 50}, "aarch64": {200, 201, 203}}


def outcome(profile: str, machine: str, call: int, first: int = 0, second: int = 0, architecture: int | None = None) -> int:
    """Run the filter as the kernel does, and return what it does with a call."""
    code = harden.seccomp_program(harden.PROFILES[profile], machine)
    assert code is not None
    data = struct.pack("=IIQ6Q", call, architecture or ARCHITECTURES[machine], 0, first, second, 0, 0, 0, 0)
    loaded = position = 0
    while True:
        operation, if_true, if_false, value = struct.unpack_from("=HBBI", code, position * 8)
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            loaded, offset = struct.unpack_from("=I", data, value)[0], 0
        else:
            offset = if_true if {0x15: loaded == value, 0x35: loaded >= value, 0x45: loaded & value != 0}[operation] else if_false
        position += 1 + offset


def calls(profile: str, machine: str, expected: int) -> set[int]:
    return {call for call in range(600) if outcome(profile, machine, call) == expected}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_profiles_refuse_and_ignore_these_calls(machine: str) -> None:
    refused = REFUSED_NUMBERS[machine] | REFUSED_ON_BOTH
    assert calls("lab", machine, REFUSED) == calls("lab", machine, IGNORED) == set()
    assert calls("sandbox", machine, REFUSED) == refused | {SOCKET[machine]}, "family 0 must be refused"
    assert calls("landlock", machine, REFUSED) == refused | {SOCKET[machine], SOCKETPAIR[machine]} | SOCKET_NAMES[machine]
    assert calls("sandbox", machine, IGNORED) == {FLOCK[machine]}
    assert calls("landlock", machine, IGNORED) == IGNORED_NUMBERS[machine] | IGNORED_ON_BOTH | {FLOCK[machine]}
    for profile in harden.PROFILES:
        assert calls(profile, machine, UNKNOWN) == {CLONE3}


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_profiles_examine_arguments(machine: str) -> None:
    for profile in harden.PROFILES:
        assert outcome(profile, machine, CLONE[machine], NEW_USER | 0x11) == REFUSED
        assert outcome(profile, machine, CLONE[machine], 0x11) == ALLOWED
        assert outcome(profile, machine, UNSHARE[machine], NEW_USER) == REFUSED
        assert outcome(profile, machine, UNSHARE[machine], 0x400) == (ALLOWED if profile == "lab" else REFUSED)
        for request in (0x5412, 0x541C, 0x5412 | 1 << 32):
            assert outcome(profile, machine, IOCTL[machine], 0, request) == REFUSED
        assert outcome(profile, machine, IOCTL[machine], 0, 0x5413) == ALLOWED
        families = {"lab": set(range(50)), "sandbox": {1, 2, 10}, "landlock": set[int]()}[profile]
        assert {f for f in range(50) if outcome(profile, machine, SOCKET[machine], f) == ALLOWED} == families
        locks = set() if profile == "lab" else {5, 6, 7, 36, 37, 38, 1024, 1026, 1036, 1038}
        assert {c for c in range(1050) if outcome(profile, machine, FCNTL[machine], 0, c) == IGNORED} == locks
        pairs = {1, 5} if profile == "landlock" else set(range(16))  # a datagram socket can reach any socket with a path
        flags = 0o2004000
        assert {k for k in range(16) if outcome(profile, machine, SOCKETPAIR[machine], 1, k | flags) == ALLOWED} == pairs
        for request in (0x40086602, 0x40046602, 0x40087602, 0x40047602, 0x401C5820):
            assert outcome(profile, machine, IOCTL[machine], 0, request) == (ALLOWED if profile == "lab" else REFUSED)
        assert outcome(profile, machine, PRLIMIT[machine]) == ALLOWED
        assert outcome(profile, machine, PRLIMIT[machine], 7) == (REFUSED if profile == "landlock" else ALLOWED)
        assert outcome(profile, machine, 0x40000000 | IOCTL[machine]) == UNKNOWN, "an x32 call"
        assert outcome(profile, machine, IOCTL[machine], architecture=0x40000003) == UNKNOWN, "a call of another architecture"


def test_the_table_agrees_with_the_kernels_headers() -> None:
    headers = (Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm-generic/unistd.h"))  # aarch64 is generic
    compared = 0
    for column, header in enumerate(headers):
        if header.is_file():
            lines = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\s*$", header.read_text(), re.MULTILINE)
            numbers = {name: int(number) for name, number in lines}
            for name, both in harden.SYSTEM_CALLS.items():
                if name in numbers or (both[column] or 0) < 450:  # newer than the headers, perhaps
                    assert numbers.get(name) == both[column], (name, header)
                    compared += 1
    if not compared:
        pytest.skip("the kernel's headers are not installed")


def test_other_machines_have_no_filter() -> None:
    assert harden.seccomp_program(harden.PROFILES["lab"], "riscv64") is None


def test_landlock_is_in_force_or_the_command_does_not_run(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("needs Linux")
    (tmp_path / "read").write_text("seen")
    (tmp_path / "secret").write_text("secret")
    rules = [*(f"read={p}" for p in ("/usr", "/lib", "/lib64", "/bin", f"{tmp_path}/read")), f"write={tmp_path}/made", "open_files=99"]
    (tmp_path / "made").mkdir()
    script = f"cat {tmp_path}/read {tmp_path}/secret; ulimit -n; echo x > {tmp_path}/read; echo $* > {tmp_path}/made/file; env"
    command = [*harden_prefix("landlock", rules), "sh", "-c", script, "sh", "given"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=False)
    if done.returncode == 1 and done.stderr.strip() == "Landlock or the seccomp filter could not be installed":
        assert not done.stdout and not (tmp_path / "made" / "file").exists()
        pytest.skip("this kernel has no Landlock")
    assert done.stdout.startswith("seen99\n") and "secret" not in done.stdout and str(tmp_path) not in done.stdout, done
    assert (tmp_path / "read").read_text() == "seen" and (tmp_path / "made" / "file").read_text() == "given\n"
    unknown = ["import platform, runpy, sys", "platform.machine = lambda: 'riscv64'", "sys.argv = sys.argv[1:]"]
    code = "; ".join([*unknown, "runpy.run_path(sys.argv[0], run_name='__main__')"])
    done = subprocess.run([sys.executable, "-I", "-c", code, *command[3:]], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "Landlock or the seccomp filter could not be installed\n"), (
        "a machine without a filter must not run the command"
    )
