"""Runs a sandboxed program: prepares its inputs, enforces its limits, and receives its weights.

The bytes that come through the pipe are of a bounded number, their file names of one form, and they are parsed elsewhere. Of what the
program prints, the end is recorded.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from stagezero.errors import SandboxError
from stagezero.isolation import runner
from stagezero.isolation.confinement import Limits, Ran, Task

Starter = Callable[[Task, Limits, Path, int, int], "subprocess.Popen[bytes]"]
"""Starts a task's program, given the folder with its inputs, and the write ends of the pipes for weights and for printed output."""

POLL_SECONDS = 0.1
FREE_SOCKETS, SOCKET_BYTES = 128, 2**19
"""Sockets that are not counted as memory, and what each further one is taken to hold: the kernel does not tell."""
MAX_OUTPUT_BYTES = 8192
MAX_WEIGHT_FILES = 1000
MAX_NAME_BYTES = 200
EXIT_SECONDS = 5.0
"""Wall-clock time in which a program ends after it has closed its pipes."""
BOX_PROCESSES = 8
"""Processes of the sandbox itself, which a program's limit does not count."""
_FILE_NAME = re.compile(rb"[A-Za-z0-9._-]{1,100}\.safetensors")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CHUNK_BYTES = 1 << 20
_INVALID_STREAM = "sent something that is no list of weight files."


def prepare_inputs(task: Task, scratch: Path) -> Path:
    """Make the folder that is shown as /in, readable to every user."""
    inputs = scratch / "in"
    (inputs / "work").mkdir(parents=True)
    for folder in (scratch, inputs, inputs / "work"):
        folder.chmod(0o755)
    for name in ("model", "base"):
        (inputs / name).mkdir(mode=0o755)
    for name in ("harden.py", "runner.py"):
        (inputs / name).touch()  # mount points
    for name, content in task.files.items():
        (inputs / "work" / name).write_bytes(content)
        (inputs / "work" / name).chmod(0o755)
    if task.data is not None:
        (inputs / "data.jsonl").write_bytes(task.data)
        (inputs / "data.jsonl").chmod(0o644)
    return inputs


def _process_tree(pid: int) -> Iterator[int]:
    """A process and its descendants; in a process namespace none escapes from below its first process."""
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        yield one
        with contextlib.suppress(OSError):
            for thread in os.scandir(f"/proc/{one}/task"):
                with contextlib.suppress(OSError, ValueError):
                    waiting += [int(child) for child in Path(thread.path, "children").read_text().split()]


def _open_sockets(pids: Sequence[int]) -> int:
    """The number of open sockets in the network namespace of a sandbox; 0 where the processes share this one."""
    own = Path("/proc/self/ns/net").readlink()
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if Path(f"/proc/{pid}/ns/net").readlink() != own:
                return int(Path(f"/proc/{pid}/net/sockstat").read_text().split()[2])
    return 0


def resource_usage(pid: int) -> tuple[int, int]:
    """(bytes of memory, processes and threads) of a process and its descendants."""
    pids = list(_process_tree(pid))
    # What lies in a socket is counted to no process.
    memory, count = max(0, _open_sockets(pids) - FREE_SOCKETS) * SOCKET_BYTES, 0
    for one in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            memory += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE_BYTES
            count += sum(1 for _ in os.scandir(f"/proc/{one}/task"))
    return memory, count


class _WeightReceiver:
    """Writes the weight files of ``runner.send_weights`` to a folder as their bytes arrive."""

    def __init__(self, out: Path, max_bytes: int) -> None:
        self.out, self.bytes_left = out, max_bytes
        self.buffer = bytearray()
        self.file: BinaryIO | None = None
        self.file_bytes_left = 0
        self.names: set[bytes] = set()
        self.expected_marks = runner.SANDBOX_HOLDS + runner.PROGRAM_STARTED

    def feed(self, data: bytes) -> str | None:
        """Take some bytes; a sentence about what is wrong with them, or None."""
        while self.expected_marks and data:
            if data[:1] != self.expected_marks[:1]:
                return _INVALID_STREAM
            self.expected_marks, data = self.expected_marks[1:], data[1:]
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            return "sent more than the model's own weights; send the tensors it was given and nothing else."
        self.buffer += data
        while self.buffer:
            if self.file_bytes_left:
                assert self.file is not None
                part = bytes(self.buffer[: self.file_bytes_left])
                self.file.write(part)
                self.file_bytes_left -= len(part)
                del self.buffer[: len(part)]
                if not self.file_bytes_left:
                    self.file.close()
                continue
            if len(self.buffer) < 4:
                return None
            length = struct.unpack_from("<I", self.buffer)[0]
            if length > MAX_NAME_BYTES:
                return _INVALID_STREAM
            if len(self.buffer) < 12 + length:
                return None
            name = bytes(self.buffer[4 : 4 + length])
            self.file_bytes_left = struct.unpack_from("<Q", self.buffer, 4 + length)[0]
            if _FILE_NAME.fullmatch(name) is None or name in self.names or len(self.names) >= MAX_WEIGHT_FILES:
                return _INVALID_STREAM
            self.names.add(name)
            del self.buffer[: 12 + length]
            self.file = (self.out / name.decode()).open("xb")
            if not self.file_bytes_left:
                self.file.close()
        return None

    def finish(self) -> bool:
        """Close the last file; whether all files are complete."""
        if self.file_bytes_left and self.file is not None:
            self.file.close()
        return not self.file_bytes_left and not self.buffer


def supervise(start: Starter, task: Task, limits: Limits, out: Path, scratch: Path) -> Ran:
    """Run a task to its end, or to a limit.

    Raises:
        SandboxError: the sandbox could not be made.
    """
    inputs = prepare_inputs(task, scratch)
    out.mkdir(parents=True, exist_ok=True)
    pipe, pipe_end = os.pipe()
    output, output_end = os.pipe()
    try:
        process = start(task, limits, inputs, pipe_end, output_end)
    except OSError as error:
        os.close(pipe)
        os.close(output)
        raise SandboxError(f"a sandbox could not be started ({error.strerror}: {error.filename}); see: stagezero doctor") from None
    finally:
        os.close(pipe_end)
        os.close(output_end)
    receiver = _WeightReceiver(out, task.output)
    try:
        printed, stopped = _attend(process, receiver, pipe, output, task, limits)
    finally:
        _kill(process)
        os.close(pipe)
        os.close(output)
    code = process.returncode
    text = printed.decode("utf-8", errors="replace")
    if stopped is None and not receiver.finish() and code == 0:
        stopped = "sent only a part of its weights."
    if receiver.expected_marks.startswith(runner.SANDBOX_HOLDS) and stopped is None and 0 <= code <= 128:
        first = ([line for line in text.splitlines() if line.strip()] or ["no reason given"])[0]
        raise SandboxError(f"a sandbox could not be made ({first:.200}); see: stagezero doctor")
    return Ran(code, text, stopped, code == runner.EXIT_NOT_STARTED and receiver.expected_marks == runner.PROGRAM_STARTED)


def _attend(
    process: subprocess.Popen[bytes], receiver: _WeightReceiver, pipe: int, output: int, task: Task, limits: Limits
) -> tuple[bytes, str | None]:
    """Receive what a program sends until it has ended; the end of what it printed, and why it is to be stopped."""
    deadline = time.monotonic() + task.seconds
    late = f"still running after {task.seconds:g} s; raise 'timeout' or make it faster."
    printed = bytearray()
    measured_at = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        while selector.get_map():
            now = time.monotonic()
            if now > deadline:
                return bytes(printed), late
            for key, _ in selector.select(min(POLL_SECONDS, deadline - now)):
                data = os.read(key.fd, _CHUNK_BYTES)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == output:
                    printed = (printed + data)[-MAX_OUTPUT_BYTES:]
                elif (wrong := receiver.feed(data)) is not None:
                    return bytes(printed), wrong
            if now - measured_at > POLL_SECONDS:
                measured_at = now
                memory, processes = resource_usage(process.pid)
                if memory > limits.memory:
                    return bytes(printed), f"used more than {limits.memory / 2**30:g} GiB of memory; use less, or raise sandbox.memory."
                if processes > limits.processes + BOX_PROCESSES:
                    return bytes(printed), f"had more than {limits.processes} processes and threads; use fewer, or raise sandbox.processes."
            if process.poll() is not None and not selector.select(0):
                break  # it has ended; a descendant that still holds its pipes ends with the box
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.1, min(EXIT_SECONDS, deadline - time.monotonic())))
    return bytes(printed), None if process.poll() is not None else late


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of its process group; a box ends with the process that made it."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
