"""What a process gives up for good before it becomes a program that is not trusted: the kernel's doors that no mount closes.

Run as a program it narrows itself and becomes the command it is given; it imports nothing of the package, so that it can be shown to a box
that has nothing else. Two kinds of program are started through it: a lab in its box (``lab_box.py``), which keeps the network, and
a build in its sandbox (``bubblewrap.py``), which keeps next to nothing.

    python -I -S harden.py [limit=number …] [sealed=1] [user=number] -- command …

- ``no_new_privs``: no set-user-id program gives anything back.
- seccomp: nothing is typed into the terminal (TIOCSTI, TIOCLINUX), no user namespace is made; with ``sealed`` also no socket but of the
  local and internet families (a virtual machine's VSOCK reaches its host from any namespace), no keyring, tracing, eBPF, io_uring or
  module; none of what outlives a process or is counted to none (System V's shared memory, files in memory), and nothing by which two
  programs that see the same read-only files could talk through them (locks, watches, what of a file is in memory). With ``sealed=2``,
  where neither mounts nor namespaces stand between a program and the user's files, also no socket at all (a service that listens at a
  path would do what it is told), no limits of other processes; and no mode, owner, time or attribute of a file is changed.
- Landlock: no abstract socket and no signal to anybody outside (Linux 6.12 and later).
- resource limits, which cannot be raised again.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Sequence

_NO_NEW_PRIVS, _SET_SECCOMP, _FILTER, _SET_DEATH_SIGNAL = 38, 22, 2, 1
_CLONE3, _NEW_USER = 435, 0x10000000
_TYPING = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: what they are given is read by the shell as if it had been typed."""
_LOCAL, _INTERNET = (1,), (2, 10)

_CALLS = {
    "x86_64": {
        "machine": 0xC000003E, "ioctl": 16, "clone": 56, "unshare": 272, "socket": 41, "fcntl": 72, "flock": 73, "prlimit": 302,
        "sealed": (
            101, 155, 165, 166, 175, 176, 246, 248, 249, 250, 272, 298, 308, 310, 311, 313, 320, 321, 323,
            29, 30, 31, 64, 65, 66, 220, 68, 69, 70, 71, 240, 241, 253, 254, 294, 300, 319, 27, 327, 256, 279, 312,
        ),
        "kept": (90, 91, 92, 93, 94, 260, 268, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199, 141, 142, 144, 203, 251, 314),
    },
    "aarch64": {
        "machine": 0xC00000B7, "ioctl": 29, "clone": 220, "unshare": 97, "socket": 198, "fcntl": 25, "flock": 32, "prlimit": 261,
        "sealed": (
            39, 40, 41, 97, 104, 105, 106, 117, 217, 218, 219, 241, 268, 270, 271, 273, 280, 282, 294,
            194, 195, 196, 190, 191, 192, 193, 186, 187, 188, 189, 180, 181, 26, 27, 262, 279, 232, 286, 238, 239, 272,
        ),
        "kept": (52, 53, 54, 55, 88, 5, 6, 7, 14, 15, 16, 140, 118, 119, 122, 30, 274),
    },
}  # fmt: skip
"""How seccomp calls a machine, and its numbers of the calls that are looked at. ``sealed``: ptrace, pivot_root, mount, umount,
init_module, delete_module, kexec_load, the three of keyrings, unshare, perf_event_open, setns, process_vm_readv and _writev, finit_module,
kexec_file_load, bpf, userfaultfd; then System V's shared memory, semaphores and messages, mq_open and mq_unlink, inotify, fanotify_init,
memfd_create, mincore, preadv2, migrate_pages, move_pages, kcmp. ``kept``: chmod, chown, utime and setxattr in all their forms, and what
sets the priority and processors of a process."""
_SEALED_EVERYWHERE = (425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 440, 442, 447, 448, 451)
"""io_uring's three, the new mount calls, pidfd_getfd, process_madvise, mount_setattr, memfd_secret, process_mrelease and cachestat: one
number on every machine."""
_KEPT_EVERYWHERE = (452, 463, 466)
"""fchmodat2, setxattrat and removexattrat."""
_LOCKING = (5, 6, 7, 36, 37, 38, 1024, 1026)
"""What asks fcntl for a lock, a lease or a notice."""

LIMITS = {
    "space": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA, "cpu": resource.RLIMIT_CPU, "file": resource.RLIMIT_FSIZE,
    "files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC, "core": resource.RLIMIT_CORE,
}  # fmt: skip


def _program(sealed: int) -> bytes | None:
    """The filter, as the kernel takes it; None on a machine whose numbers are not known here.

    A line loads a word, or compares it and jumps: a jump is written as what to do when it is so (``refuse``, ``allow``, ``unknown``,
    ``pretend`` that it was done, or the name of a part), and the lines below are reached when it is not.
    """
    known = _CALLS.get(platform.machine())
    if known is None:
        return None
    load, equal, at_least, any_of, leave = 0x20, 0x15, 0x35, 0x45, 0x06
    lines: list[tuple[int, int, str | None] | str] = [
        (load, 4, None),
        (equal, int(str(known["machine"])), "numbers"),
        (leave, 0, "unknown"),  # a call made for another machine
        "numbers",
        (load, 0, None),
        (at_least, 0x40000000, "unknown"),  # x86-64 with 32-bit pointers numbers them otherwise
        (equal, _CLONE3, "unknown"),  # its flags cannot be seen from here; without it libraries use clone
        (equal, int(str(known["clone"])), "flags"),
    ]
    if sealed:
        calls = known["sealed"]
        assert isinstance(calls, tuple)
        lines += [(equal, call, "refuse") for call in (*calls, *_SEALED_EVERYWHERE)]
        # Locks are pretended: among a program's own processes they are rarely needed, and libraries insist on them.
        lines += [(equal, int(str(known["socket"])), "family"), (equal, int(str(known["fcntl"])), "lock")]
        lines += [(equal, int(str(known["flock"])), "pretend")]
    if sealed == 2:
        kept = known["kept"]
        assert isinstance(kept, tuple)
        lines += [(equal, call, "pretend") for call in (*kept, *_KEPT_EVERYWHERE)]
        lines += [(equal, int(str(known["prlimit"])), "whose")]
    lines += [
        (equal, int(str(known["unshare"])), "flags"),
        (equal, int(str(known["ioctl"])), "device"),
        (leave, 0, "allow"),
        "family",
        (load, 16, None),
        *((equal, family, "allow") for family in (_LOCAL + _INTERNET if sealed == 1 else ())),
        (leave, 0, "refuse"),
        "lock",
        (load, 24, None),
        *((equal, what, "pretend") for what in _LOCKING),
        (leave, 0, "allow"),
        "whose",
        (load, 16, None),
        (equal, 0, "allow"),
        (leave, 0, "refuse"),
        "device",
        (load, 24, None),  # the second argument: what is asked of it. Only the low half is looked at, as by the kernel.
        (equal, _TYPING[0], "refuse"),
        (equal, _TYPING[1], "refuse"),
        (leave, 0, "allow"),
        "flags",
        (load, 16, None),
        (any_of, _NEW_USER, "refuse"),
        (leave, 0, "allow"),
    ]
    ends = {"refuse": 0x00050000 | errno.EPERM, "unknown": 0x00050000 | errno.ENOSYS, "pretend": 0x00050000, "allow": 0x7FFF0000}
    places: dict[str, int] = {}
    code: list[tuple[int, int, str | None]] = []
    for line in lines:
        if isinstance(line, str):
            places[line] = len(code)
        else:
            code.append(line)
    for name, action in ends.items():
        places[name] = len(code)
        code.append((leave, action, None))
    made = []
    for at, (operation, value, where) in enumerate(code):
        if operation == leave:
            made.append((leave, 0, 0, ends[where] if where is not None else value))
        elif where is None:
            made.append((operation, 0, 0, value))
        else:
            made.append((operation, places[where] - at - 1, 0, value))
    return b"".join(struct.pack("=HBBI", *line) for line in made)


def filter_calls(libc: ctypes.CDLL, sealed: int = 0) -> bool:
    """Put the filter in force; False where that cannot be done. Needs ``no_new_privs``."""
    code = _program(sealed)
    if code is None:
        return False
    held = ctypes.create_string_buffer(code, len(code))
    told = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(held)))
    done: int = libc.prctl(_SET_SECCOMP, _FILTER, ctypes.cast(told, ctypes.c_void_p), 0, 0)
    return done == 0


LANDLOCK_CREATE, LANDLOCK_ADD, LANDLOCK_RESTRICT, _VERSION = 444, 445, 446, 1
_SCOPED_SINCE, _ABSTRACT_SOCKETS, _SIGNALS = 6, 1, 2
READ, WRITE_DEVICE, EVERYTHING = 0x1 | 0x4 | 0x8, 0x2 | 0x4, 0x7FFF
"""Rights of Landlock's third version: execute, read a file, read a folder; write and read a file; and all there are."""


def landlock_version(libc: ctypes.CDLL) -> int:
    """The version of Landlock that the kernel has; below 1 it has none."""
    return int(libc.syscall(LANDLOCK_CREATE, None, ctypes.c_size_t(0), _VERSION))


def no_abstract_sockets(libc: ctypes.CDLL) -> bool:
    """Forbid abstract sockets and signals from inside out; False where the kernel cannot."""
    if landlock_version(libc) < _SCOPED_SINCE:
        return False
    wanted = ctypes.create_string_buffer(struct.pack("=QQQ", 0, 0, _ABSTRACT_SOCKETS | _SIGNALS), 24)
    rules = libc.syscall(LANDLOCK_CREATE, wanted, ctypes.c_size_t(24), 0)
    if rules < 0:
        return False
    done: int = libc.syscall(LANDLOCK_RESTRICT, rules, 0)
    os.close(rules)
    return done == 0


def only_these(libc: ctypes.CDLL, readable: Sequence[str], writable: Sequence[str], devices: Sequence[str] = ()) -> bool:
    """Let this process open nothing but these files and folders, for good; False where the kernel cannot (Linux 6.2 and later can).

    In ``writable`` folders anything may be done, in ``devices`` what is there may be written and nothing made.
    """
    if landlock_version(libc) < 3:
        return False
    handled = ctypes.c_uint64(EVERYTHING)
    rules = libc.syscall(LANDLOCK_CREATE, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if rules < 0:
        return False
    given_to = ((readable, READ), (writable, EVERYTHING), (devices, WRITE_DEVICE))
    for path, rights in ((name, rights) for names, rights in given_to for name in names):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            given = rights if os.path.isdir(path) else rights & 0x4007  # noqa: PTH112  (a file has no entries; no package, no pathlib)
            libc.syscall(LANDLOCK_ADD, rules, 1, given.to_bytes(8, sys.byteorder) + handle.to_bytes(4, sys.byteorder), 0)
            os.close(handle)
    held: bool = libc.syscall(LANDLOCK_RESTRICT, rules, 0) == 0
    os.close(rules)
    return held


def limit(most: dict[str, int]) -> None:
    """Bounds that this process and all that it starts cannot lift again."""
    for name, number in most.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(LIMITS[name], (number, number))


def end_with_parent(libc: ctypes.CDLL) -> None:
    """Be killed when whoever started this process ends."""
    libc.prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)


def be_called(libc: ctypes.CDLL, number: int) -> bool:
    """Go by one number of a user whatever the real one is, which would tell of the process that chose it; False where this cannot be done.

    It takes two user namespaces: in the inner one even the map between them says nothing of the real number. What a namespace gives is
    lost again when the next program is started, and a filter forbids further ones.
    """
    for _ in range(2):
        user, group = os.getuid(), os.getgid()
        if libc.unshare(_NEW_USER) != 0:
            return False
        for name, text in (("setgroups", "deny"), ("uid_map", f"{number} {user} 1"), ("gid_map", f"{number} {group} 1")):
            try:
                with open(f"/proc/self/{name}", "w") as handle:  # noqa: PTH123  (no package, no pathlib)
                    handle.write(text)
            except OSError:
                return False
    return True


def narrow(sealed: int = 0, limits: dict[str, int] | None = None, number: int | None = None) -> None:
    """Give up what mounts and namespaces do not take away."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    if number is not None:
        be_called(libc, number)
    no_abstract_sockets(libc)
    limit(limits or {})
    if not filter_calls(libc, sealed):
        with contextlib.suppress(OSError):
            os.setsid()  # leaves the terminal; Ctrl-C then ends the box instead of reaching into it


if __name__ == "__main__":
    cut = sys.argv.index("--")
    given = {name: int(value) for name, _, value in (word.partition("=") for word in sys.argv[1:cut])}
    os.environ.pop("STAGEZERO_USER", None)
    narrow(given.pop("sealed", 0), number=given.pop("user", None), limits=given)
    os.execvp(sys.argv[cut + 1], sys.argv[cut + 1 :])
