"""Runs a sandboxed program: lays out what it sees, counts what it uses, and takes what it sends.

What comes through the pipe is bytes of a bounded number with names of one form, and is written to files that are parsed elsewhere. What the
program says is kept to its last few lines.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from stagezero.errors import SandboxError
from stagezero.isolation import bubblewrap, harden, runner
from stagezero.isolation.confinement import Limits, Ran, Task
from stagezero.models.checkpoint import content_files

Start = Callable[[Task, Limits, Path, int, int], "subprocess.Popen[bytes]"]

EVERY = 0.1
"""Seconds between two looks at what it uses."""
FREE_SOCKETS, SOCKET_BYTES = 128, 2**19
"""Sockets that cost a program nothing, and what each further one is taken to hold: the kernel does not say."""
MOST_SAID = 8192
MOST_FILES = 1000
_NAME = re.compile(rb"[A-Za-z0-9._-]{1,100}\.safetensors")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CHUNK = 1 << 20


def lay(task: Task, scratch: Path) -> Path:
    """The folder that is shown as /in, readable to anybody."""
    place = scratch / "in"
    (place / "work").mkdir(parents=True)
    for folder in (scratch, place, place / "work"):
        folder.chmod(0o755)
    for name in ("model", "base"):
        (place / name).mkdir(mode=0o755)
    for name in ("harden.py", "runner.py"):
        (place / name).touch()  # something to mount the programs on
    for name, content in task.files.items():
        (place / "work" / name).write_bytes(content)
        (place / "work" / name).chmod(0o755)
    if task.data is not None:
        (place / "data.jsonl").write_bytes(task.data)
        (place / "data.jsonl").chmod(0o644)
    return place


def _tree(pid: int) -> Iterator[int]:
    """A process and all below it; in a process namespace nothing gets out from below."""
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        yield one
        with contextlib.suppress(OSError):
            for task in os.scandir(f"/proc/{one}/task"):
                with contextlib.suppress(OSError, ValueError):
                    waiting += [int(child) for child in Path(task.path, "children").read_text().split()]


def _sockets(pids: Sequence[int]) -> int:
    """How many sockets are open in a network of their own, which is a box's alone."""
    ours = Path("/proc/self/ns/net").readlink()
    for one in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if Path(f"/proc/{one}/ns/net").readlink() != ours:
                return int(Path(f"/proc/{one}/net/sockstat").read_text().split()[2])
    return 0


def used(pid: int) -> tuple[int, int]:
    """(bytes of memory, processes and threads) of a process and all below it."""
    pids = list(_tree(pid))
    # What lies in a socket is counted to no process; each may hold this much.
    memory, count = max(0, _sockets(pids) - FREE_SOCKETS) * SOCKET_BYTES, 0
    for one in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            memory += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE
            count += sum(1 for _ in os.scandir(f"/proc/{one}/task"))
    return memory, count


class _Taken:
    """The weights as they arrive."""

    def __init__(self, out: Path, most: int) -> None:
        self.out, self.left = out, most
        self.waiting = bytearray()
        self.handle: BinaryIO | None = None
        self.rest = 0
        self.names: set[bytes] = set()
        self.marks = runner.HOLDS + runner.BEGUN
        """What is still to come before the weights."""

    def feed(self, data: bytes) -> str | None:
        """Take some bytes; what is wrong with them, if something is."""
        while self.marks and data:
            if data[:1] != self.marks[:1]:
                return "sent something that is no list of weight files."
            self.marks, data = self.marks[1:], data[1:]
        self.left -= len(data)
        if self.left < 0:
            return "sent more than the model's own weights; send the tensors it was given and nothing else."
        self.waiting += data
        while self.waiting:
            if self.rest:
                assert self.handle is not None
                part = bytes(self.waiting[: self.rest])
                self.handle.write(part)
                self.rest -= len(part)
                del self.waiting[: len(part)]
                if not self.rest:
                    self.handle.close()
                continue
            if len(self.waiting) < 4:
                return None
            length = struct.unpack_from("<I", self.waiting)[0]
            if length > 200:
                return "sent something that is no list of weight files."
            if len(self.waiting) < 12 + length:
                return None
            name = bytes(self.waiting[4 : 4 + length])
            self.rest = struct.unpack_from("<Q", self.waiting, 4 + length)[0]
            if _NAME.fullmatch(name) is None or name in self.names or len(self.names) >= MOST_FILES:
                return "sent something that is no list of weight files."
            self.names.add(name)
            del self.waiting[: 12 + length]
            self.handle = (self.out / name.decode()).open("xb")
            if not self.rest:
                self.handle.close()
        return None

    def whole(self) -> bool:
        """Nothing is missing of what was begun."""
        if self.rest and self.handle is not None:
            self.handle.close()
        return not self.rest and not self.waiting


def follow(start: Start, task: Task, limits: Limits, out: Path, scratch: Path) -> Ran:
    """Run a task to its end, or to a limit.

    Raises:
        SandboxError: the sandbox could not be made.
    """
    place = lay(task, scratch)
    out.mkdir(parents=True, exist_ok=True)
    pipe, theirs = os.pipe()
    said, told = os.pipe()
    try:
        running = start(task, limits, place, theirs, told)
    except OSError as error:
        os.close(pipe)
        os.close(said)
        raise SandboxError(f"a sandbox could not be started ({error.strerror}: {error.filename}); see: stagezero doctor") from None
    finally:
        os.close(theirs)
        os.close(told)
    taken = _Taken(out, task.output)
    try:
        words, stopped = _attend(running, taken, pipe, said, task, limits)
    finally:
        _end(running)
        os.close(pipe)
        os.close(said)
    code = running.returncode
    text = words.decode("utf-8", errors="replace")
    if stopped is None and not taken.whole() and code == 0:
        stopped = "sent only a part of its weights."
    if taken.marks.startswith(runner.HOLDS) and stopped is None and 0 <= code <= 128:
        first = ([line for line in text.splitlines() if line.strip()] or ["no reason given"])[0]
        raise SandboxError(f"a sandbox could not be made ({first:.200}); see: stagezero doctor")
    return Ran(code, text, stopped, code == runner.NOT_STARTED and taken.marks == runner.BEGUN)


def _attend(running: subprocess.Popen[bytes], taken: _Taken, pipe: int, said: int, task: Task, limits: Limits) -> tuple[bytes, str | None]:
    """Take what comes until the program has ended; what it said last, and what stopped it."""
    end = time.monotonic() + task.seconds
    late = f"still running after {task.seconds:g} s; raise 'timeout' or make it faster."
    words = bytearray()
    looked = 0.0
    with selectors.DefaultSelector() as both:
        both.register(pipe, selectors.EVENT_READ)
        both.register(said, selectors.EVENT_READ)
        while both.get_map():
            now = time.monotonic()
            if now > end:
                return bytes(words), late
            for key, _ in both.select(min(EVERY, end - now)):
                data = os.read(key.fd, _CHUNK)
                if not data:
                    both.unregister(key.fd)
                elif key.fd == said:
                    words = (words + data)[-MOST_SAID:]
                elif (wrong := taken.feed(data)) is not None:
                    return bytes(words), wrong
            if now - looked > EVERY:
                looked = now
                memory, processes = used(running.pid)
                if memory > limits.memory:
                    return bytes(words), f"used more than {limits.memory / 2**30:g} GiB of memory; use less, or raise sandbox.memory."
                if processes > limits.processes + 8:  # the box's own among them
                    return bytes(words), f"had more than {limits.processes} processes and threads; use fewer, or raise sandbox.processes."
            if running.poll() is not None and not both.select(0):
                break  # it has ended, and whoever holds its pipes open outlived it: the box takes care of those
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.wait(max(0.1, min(5.0, end - time.monotonic())))
    return bytes(words), None if running.poll() is not None else late


def _end(running: subprocess.Popen[bytes]) -> None:
    """Kill what is left, by the group it was started in; a box ends with the process that made it."""
    with contextlib.suppress(OSError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def unconfined(task: Task, limits: Limits, place: Path, pipe: int, said: int) -> subprocess.Popen[bytes]:
    """A program with the user's own rights: for what people wrote and a project lets run so, never for an idea's code.

    Raises:
        SandboxError: it is an idea's code.
    """
    if not task.run:
        raise SandboxError("an idea's code is never run without a sandbox; set sandbox.kind to box or landlock.")
    return beside(task, limits, place, pipe, said, [])


def beside(task: Task, limits: Limits, place: Path, pipe: int, said: int, shut_in: list[str]) -> subprocess.Popen[bytes]:
    """Start a program without a box, in a folder of its own beside what it is shown. ``shut_in``: words that its command begins with."""
    for name, folder in (("model", task.model), ("base", task.base)):
        for path in content_files(folder):  # the model alone: beside it lies what it was made from
            (place / name / path.name).symlink_to(path.resolve())
    work, temporary = place.parent / "work", place.parent / "tmp"
    shutil.copytree(place / "work", work)
    (temporary / "out").mkdir(parents=True)
    run = [sys.executable if word in ("python", "python3") and at == 0 else word for at, word in enumerate(task.run)]
    told = bubblewrap.variables(task, limits, place, temporary / "out")
    told |= {"HOME": str(temporary), "TMPDIR": str(temporary), "TORCHINDUCTOR_CACHE_DIR": str(temporary / "inductor")}
    return subprocess.Popen(
        [*shut_in, sys.executable, "-I", str(Path(runner.__file__).resolve()), str(pipe), *run], env=told, cwd=work,
        stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=[pipe], process_group=0, preexec_fn=_with_parent,
    )  # fmt: skip


def _with_parent() -> None:
    """In the program's process, before it starts: when the worker dies, so does it. Elsewhere than on Linux it is left behind."""
    if sys.platform == "linux":
        import ctypes

        harden.end_with_parent(ctypes.CDLL(None))
