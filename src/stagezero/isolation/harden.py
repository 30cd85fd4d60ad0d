"""Restricts its own process for good, then becomes an untrusted program.

The kernel closes here what mounts and namespaces leave open. This file imports nothing of the
package, so that it also runs in a sandbox where nothing else of the package is visible:

    python -I -S harden.py profile=NAME [LIMIT=number …] [user=number] [read=PATH …] [write=PATH …]
                           [list=PATH …] -- command …

Every profile sets ``no_new_privs`` (no set-user-id program restores rights), the given resource
limits, and a seccomp filter that refuses new user namespaces and input typed into the terminal. If
Landlock supports it (Linux 6.12), abstract sockets and signals to processes outside are refused
too. The profiles differ in the rest of the filter:

``lab``       A lab in its box (``lab_box.py``), which uses the network.
``sandbox``   A build in its mount namespace (``bubblewrap.py``). The filter refuses sockets other
              than local and internet ones (a virtual machine's VSOCK reaches its host from any
              namespace), calls that reach other processes or the kernel's rarer parts, and all ways
              for two programs with the same read-only files to leave each other a message.
``landlock``  A build without a mount namespace (``landlock.py``). The filter also refuses resource
              limits of other processes, and all sockets except connected pairs (a service would
              obey a socket that reaches it at a path). Changes of mode, owner, times and attributes
              do nothing. Landlock refuses all files except those under ``read=`` and ``write=``,
              and all names except those and the ones under ``list=``. The process exits with an
              error unless Landlock and the filter are in force.
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
from typing import NamedTuple

Numbers = tuple[int | None, int | None]
"""A system call's number on x86_64 and on aarch64; None if the machine does not have the call."""

EXAMINED_CALLS: dict[str, Numbers] = {
    "ioctl": (16, 29), "clone": (56, 220), "clone3": (435, 435), "unshare": (272, 97), "socket": (41, 198), "fcntl": (72, 25),
    "flock": (73, 32), "prlimit64": (302, 261), "socketpair": (53, 199),
}  # fmt: skip
"""Calls whose arguments the filter examines, or that have a rule of their own."""
MOUNT_CALLS: dict[str, Numbers] = {
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "setns": (308, 268), "unshare": (272, 97), "open_tree": (428, 428),
    "move_mount": (429, 429), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "mount_setattr": (442, 442),
}  # fmt: skip
PROCESS_CALLS: dict[str, Numbers] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "migrate_pages": (256, 238), "move_pages": (279, 239),
}  # fmt: skip
"""Calls that read or change another process."""
SOCKET_NAME_CALLS: dict[str, Numbers] = {"bind": (49, 200), "connect": (42, 203), "listen": (50, 201)}
"""Calls that give a socket a name, or find one by its name."""
KERNEL_CALLS: dict[str, Numbers] = {
    "init_module": (175, 105), "delete_module": (176, 106), "finit_module": (313, 273), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "add_key": (248, 217),
    "request_key": (249, 218), "keyctl": (250, 219), "io_setup": (206, 0), "io_destroy": (207, 1), "io_submit": (209, 2),
    "io_cancel": (210, 3), "io_getevents": (208, 4), "io_pgetevents": (333, 292),
}  # fmt: skip
"""Calls into parts of the kernel that no build needs, and in which vulnerabilities are found."""
UNCOUNTED_CALLS: dict[str, Numbers] = {
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "semget": (64, 190), "semop": (65, 193), "semctl": (66, 191),
    "semtimedop": (220, 192), "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "memfd_create": (319, 279), "memfd_secret": (447, 447),
}  # fmt: skip
"""Calls that make objects that outlive their process, or memory that counts to no process."""
FILE_OBSERVING_CALLS: dict[str, Numbers] = {
    "inotify_init": (253, None), "inotify_init1": (294, 26), "inotify_add_watch": (254, 27), "fanotify_init": (300, 262),
    "mincore": (27, 232), "preadv2": (327, 286), "cachestat": (451, 451),
}  # fmt: skip
"""Calls that show one reader of a file what another reader does with it."""
METADATA_CALLS: dict[str, Numbers] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None), "fchown": (93, 55),
    "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None), "futimesat": (261, None),
    "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}  # fmt: skip
SCHEDULING_CALLS: dict[str, Numbers] = {
    "setpriority": (141, 140), "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "sched_setaffinity": (203, 122),
    "sched_setattr": (314, 274), "ioprio_set": (251, 30),
}  # fmt: skip
SYSTEM_CALLS: dict[str, Numbers] = {
    **EXAMINED_CALLS, **MOUNT_CALLS, **PROCESS_CALLS, **SOCKET_NAME_CALLS, **KERNEL_CALLS, **UNCOUNTED_CALLS, **FILE_OBSERVING_CALLS,
    **METADATA_CALLS, **SCHEDULING_CALLS,
}  # fmt: skip
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Machine → its column of ``SYSTEM_CALLS``, and its AUDIT_ARCH, which identifies it in seccomp."""


class Examined(NamedTuple):
    """A rule on one argument of a call: ``on_match`` if it is in ``values``, else ``otherwise``."""

    argument: int
    values: tuple[int, ...]
    on_match: str
    otherwise: str


_AF_UNIX, _AF_INET, _AF_INET6 = 1, 2, 10
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCK_NONBLOCK, _SOCK_CLOEXEC = 1, 5, 0o4000, 0o2000000
_TYPED_INPUT = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX: the shell reads their input as if it had been typed."""
_SET_ATTRIBUTES = (0x40086602, 0x40046602, 0x40087602, 0x40047602, 0x401C5820)
"""FS_IOC_SETFLAGS and FS_IOC_SETVERSION, for words of 8 and of 4 bytes, and FS_IOC_FSSETXATTR. They
need no file that is open for writing."""
_LOCAL_AND_INTERNET = {"socket": Examined(0, (_AF_UNIX, _AF_INET, _AF_INET6), "allow", "refuse")}
_NO_FILE_LOCKS = {"fcntl": Examined(1, (5, 6, 7, 36, 37, 38, 1024, 1026, 1036, 1038), "ignore", "allow")}
"""F_GETLK, F_SETLK, F_SETLKW, the same for open file descriptions, F_SETLEASE, F_NOTIFY,
F_SET_RW_HINT and F_SET_FILE_RW_HINT do nothing and return success. Libraries insist on locks, but a
program's own processes rarely need them. A hint persists on a file that was opened for reading,
even below a read-only mount, and others can read it."""
_NO_ATTRIBUTES = {"ioctl": Examined(1, (*_TYPED_INPUT, *_SET_ATTRIBUTES), "refuse", "allow")}
_FLAGS = (0, _SOCK_NONBLOCK, _SOCK_CLOEXEC, _SOCK_NONBLOCK | _SOCK_CLOEXEC)
_CONNECTED_PAIRS = tuple(kind | flags for kind in (_SOCK_STREAM, _SOCK_SEQPACKET) for flags in _FLAGS)
_PAIRS_ONLY = {"socket": Examined(0, (), "allow", "refuse"), "socketpair": Examined(1, _CONNECTED_PAIRS, "allow", "refuse")}
"""Datagram pairs are refused too: one end can send to any other datagram socket with a path."""
_OWN_LIMITS_ONLY = {"prlimit64": Examined(0, (0,), "allow", "refuse")}


class Profile(NamedTuple):
    """The rules of a seccomp filter, in addition to the refusal of new user namespaces."""

    examined: dict[str, Examined]
    refused: frozenset[str] = frozenset()
    """Calls that fail with EPERM."""
    ignored: frozenset[str] = frozenset()
    """Calls that do nothing and return success."""


_SANDBOX = Profile(
    _LOCAL_AND_INTERNET | _NO_FILE_LOCKS | _NO_ATTRIBUTES,
    frozenset({*MOUNT_CALLS, *PROCESS_CALLS, *KERNEL_CALLS, *UNCOUNTED_CALLS, *FILE_OBSERVING_CALLS}), frozenset({"flock"}),
)  # fmt: skip
_LANDLOCK = Profile(
    _SANDBOX.examined | _PAIRS_ONLY | _OWN_LIMITS_ONLY, _SANDBOX.refused | SOCKET_NAME_CALLS.keys(),
    _SANDBOX.ignored | METADATA_CALLS.keys() | SCHEDULING_CALLS.keys(),
)  # fmt: skip
PROFILES = {"lab": Profile({"ioctl": Examined(1, _TYPED_INPUT, "refuse", "allow")}), "sandbox": _SANDBOX, "landlock": _LANDLOCK}

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 1, 22, 38, 2
_CLONE_NEWUSER = 0x10000000
_X32_CALLS = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_RETURNED_VALUES = {"refuse": 0x00050000 | errno.EPERM, "unknown": 0x00050000 | errno.ENOSYS, "ignore": 0x00050000, "allow": 0x7FFF0000}
_CALL_OFFSET, _MACHINE_OFFSET, _ARGUMENT_OFFSETS = 0, 4, (16, 24)
"""Offsets in seccomp's data. Only the low half of an argument is examined, as in the kernel."""


def seccomp_program(profile: Profile, machine: str) -> bytes | None:
    """Return a profile's filter as a BPF program; None for a machine that is not in ``MACHINES``.

    In ``lines``, a string is a label. An instruction loads a word, or compares the loaded word and
    jumps to a label if the comparison is true, or returns.
    """
    if machine not in MACHINES:
        return None
    column, architecture = MACHINES[machine]

    def on_call(names: Sequence[str] | frozenset[str], label: str) -> list[tuple[int, int, str]]:
        numbers = (SYSTEM_CALLS[name][column] for name in sorted(names))
        return [(_EQUAL, number, label) for number in numbers if number is not None]

    lines: list[tuple[int, int, str] | str] = [
        (_LOAD, _MACHINE_OFFSET, ""),
        (_EQUAL, architecture, "native"),
        (_RETURN, 0, "unknown"),  # a call in another machine's numbering
        "native",
        (_LOAD, _CALL_OFFSET, ""),
        (_AT_LEAST, _X32_CALLS, "unknown"),
        *on_call(["clone3"], "unknown"),  # a filter cannot read its flags; libraries fall back to clone
        *on_call(["clone"], "namespaces"),
        *on_call(profile.refused, "refuse"),
        *on_call(profile.ignored, "ignore"),
        *(line for name in profile.examined for line in on_call([name], name)),
        *on_call(["unshare"], "namespaces"),
        (_RETURN, 0, "allow"),
        "namespaces",
        (_LOAD, _ARGUMENT_OFFSETS[0], ""),
        (_ANY_BIT, _CLONE_NEWUSER, "refuse"),
        (_RETURN, 0, "allow"),
    ]
    for name, call in profile.examined.items():
        lines += [name, (_LOAD, _ARGUMENT_OFFSETS[call.argument], ""), *((_EQUAL, value, call.on_match) for value in call.values)]
        lines.append((_RETURN, 0, call.otherwise))
    for label in _RETURNED_VALUES:
        lines += [label, (_RETURN, 0, label)]
    addresses: dict[str, int] = {}
    instructions: list[tuple[int, int, str]] = []
    for line in lines:
        if isinstance(line, str):
            addresses[line] = len(instructions)
        else:
            instructions.append(line)
    code = b""
    for address, (operation, value, label) in enumerate(instructions):
        jump = addresses[label] - address - 1 if label and operation != _RETURN else 0
        code += struct.pack("=HBBI", operation, jump, 0, _RETURNED_VALUES[label] if operation == _RETURN else value)
    return code


def install_seccomp(libc: ctypes.CDLL, profile: Profile) -> bool:
    """Install a profile's filter; return False if that fails. Needs ``no_new_privs``."""
    code = seccomp_program(profile, platform.machine())
    if code is None:
        return False
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    result: int = libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.cast(program, ctypes.c_void_p), 0, 0)
    return result == 0


_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_QUERY_VERSION, _LANDLOCK_RULE_PATH = 1, 1
FILES_VERSION, _SCOPES_VERSION = 3, 6
"""First versions to restrict truncation (Linux 6.2), and abstract sockets and signals (6.12)."""
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2
_READ_RIGHTS, _DEVICE_RIGHTS, _ALL_RIGHTS, _RIGHTS_OF_FILES = 0x1 | 0x4 | 0x8, 0x2 | 0x4, 0x7FFF, 0x4007
"""Execute, read a file, list a folder; write and read a file; all rights of version 3; those of
them that apply to a file."""
_LIST_RIGHT = 0x8


def landlock_version(libc: ctypes.CDLL) -> int:
    """Return the kernel's version of Landlock; below 1 it has none."""
    return int(libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_QUERY_VERSION))


def _enforce_ruleset(libc: ctypes.CDLL, ruleset: int) -> bool:
    result: int = libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)
    return result == 0


def restrict_ipc(libc: ctypes.CDLL) -> bool:
    """Refuse abstract sockets of and signals to processes outside; return False if unsupported."""
    if landlock_version(libc) < _SCOPES_VERSION:
        return False
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", 0, 0, _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS), 24)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(24), 0)
    return ruleset >= 0 and _enforce_ruleset(libc, ruleset)


def restrict_files(
    libc: ctypes.CDLL, readable: Sequence[str], writable: Sequence[str], devices: Sequence[str] = (), listed: Sequence[str] = ()
) -> bool:
    """Refuse to open files other than these and those below these folders.

    ``writable`` folders grant every right. ``devices`` can be read and written, but no file can be
    made there. The names below ``listed`` can be listed. Returns False if unsupported.
    """
    if landlock_version(libc) < FILES_VERSION:
        return False
    attributes = ctypes.c_uint64(_ALL_RIGHTS)
    ruleset = libc.syscall(_LANDLOCK_CREATE_RULESET, ctypes.byref(attributes), ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    grants = ((readable, _READ_RIGHTS), (writable, _ALL_RIGHTS), (devices, _DEVICE_RIGHTS), (listed, _LIST_RIGHT))
    for path, rights in ((path, rights) for paths, rights in grants for path in paths):
        with contextlib.suppress(OSError):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            granted = rights if os.path.isdir(path) else rights & _RIGHTS_OF_FILES  # noqa: PTH112  (pathlib is slow to import)
            rule = granted.to_bytes(8, sys.byteorder) + handle.to_bytes(4, sys.byteorder)
            libc.syscall(_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH, rule, 0)
            os.close(handle)
    return _enforce_ruleset(libc, ruleset)


RESOURCE_LIMITS = {
    "address_space": resource.RLIMIT_AS, "data": resource.RLIMIT_DATA, "cpu_seconds": resource.RLIMIT_CPU,
    "file_bytes": resource.RLIMIT_FSIZE, "open_files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC,
    "core_bytes": resource.RLIMIT_CORE,
}  # fmt: skip


def set_resource_limits(limits: dict[str, int]) -> None:
    """Set limits that this process and its children cannot raise again."""
    for name, number in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(RESOURCE_LIMITS[name], (number, number))


def die_with_parent(libc: ctypes.CDLL) -> None:
    """Make the kernel kill this process when its parent ends."""
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def map_user_id(libc: ctypes.CDLL, number: int) -> bool:
    """Show this process the uid and gid ``number``, not the real ones; return False on failure.

    The real number would identify the process that chose it. Two user namespaces are needed: in the
    inner one even the map between them hides the real number. The capabilities that a namespace
    gives are lost when the next program starts, and the filter refuses further namespaces.
    """
    for _ in range(2):
        user, group = os.getuid(), os.getgid()
        if libc.unshare(_CLONE_NEWUSER) != 0:
            return False
        for name, text in (("setgroups", "deny"), ("uid_map", f"{number} {user} 1"), ("gid_map", f"{number} {group} 1")):
            try:
                with open(f"/proc/self/{name}", "w") as handle:  # noqa: PTH123  (pathlib is slow to import)
                    handle.write(text)
            except OSError:
                return False
    return True


def harden(
    profile: str, limits: dict[str, int], user: int | None, readable: Sequence[str], writable: Sequence[str], listed: Sequence[str]
) -> None:
    """Put a profile in force on this process; exit if that fails for the profile ``landlock``."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if user is not None:
        map_user_id(libc, user)
    restricted = profile != "landlock" or restrict_files(libc, readable, writable, (), listed)
    restrict_ipc(libc)
    set_resource_limits(limits)
    filtered = install_seccomp(libc, PROFILES[profile])
    if profile == "landlock" and not (restricted and filtered):
        sys.exit("Landlock or the seccomp filter could not be installed")
    if not filtered:
        with contextlib.suppress(OSError):
            os.setsid()  # leave the terminal: Ctrl-C then ends the box and does not reach into it


def main() -> None:
    """Restrict this process as its command line specifies, then become the command."""
    end = sys.argv.index("--")
    arguments: dict[str, list[str]] = {}
    for name, _, value in (word.partition("=") for word in sys.argv[1:end]):
        arguments.setdefault(name, []).append(value)
    os.environ.pop("STAGEZERO_USER", None)
    (profile,), readable, writable, listed = arguments.pop("profile"), *(arguments.pop(name, []) for name in ("read", "write", "list"))
    user = int(arguments.pop("user")[0]) if "user" in arguments else None
    harden(profile, {name: int(values[0]) for name, values in arguments.items()}, user, readable, writable, listed)
    os.execvp(sys.argv[end + 1], sys.argv[end + 1 :])


if __name__ == "__main__":
    main()
