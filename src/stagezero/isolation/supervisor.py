"""Runs a sandboxed program: prepares its inputs, enforces its limits, and receives its weights.

The program is not trusted. The bytes that it sends are limited in number, their file names have one
form, and other code parses their content. Only the end of its stdout and stderr is recorded.
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
from stagezero.isolation.confinement import Limits, RunResult, Task

Starter = Callable[[Task, Limits, Path, int, int], "subprocess.Popen[bytes]"]
"""Starts a task's program.

Arguments: task, limits, the folder with the inputs, and the write ends of the pipes for weights and
for stdout and stderr.
"""

POLL_SECONDS = 0.1
FREE_SOCKETS, SOCKET_BYTES = 128, 2**19
"""Sockets that do not count as memory, and the memory that each further one counts as.

The kernel does not report how much data a socket contains.
"""
MAX_OUTPUT_BYTES = 8192
"""Bytes of stdout and stderr that are recorded, from the end."""
MAX_WEIGHT_FILES = 1000
MAX_NAME_BYTES = 200
EXIT_SECONDS = 5.0
"""Wall-clock time that a program has to exit after it has closed its pipes."""
BOX_PROCESSES = 8
"""Processes of the sandbox itself, which do not count against a program's limit."""
_FILE_NAME = re.compile(rb"[A-Za-z0-9._-]{1,100}\.safetensors")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_CHUNK_BYTES = 1 << 20
_INVALID_STREAM = "sent data that is not a list of weight files."


def prepare_inputs(task: Task, scratch: Path) -> Path:
    """Make the folder that the program sees as /in, readable to every user; return its path."""
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
    """Yield a process and its descendants.

    In a process namespace, every process is a descendant of the first one.
    """
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        yield one
        with contextlib.suppress(OSError):
            for thread in os.scandir(f"/proc/{one}/task"):
                with contextlib.suppress(OSError, ValueError):
                    waiting += [int(child) for child in Path(thread.path, "children").read_text().split()]


def _open_sockets(pids: Sequence[int]) -> int:
    """Return the number of open sockets in a sandbox's own network namespace; 0 without one."""
    own = Path("/proc/self/ns/net").readlink()
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            if Path(f"/proc/{pid}/ns/net").readlink() != own:
                return int(Path(f"/proc/{pid}/net/sockstat").read_text().split()[2])
    return 0


def resource_usage(pid: int) -> tuple[int, int]:
    """Return the bytes of memory, and the number of processes and threads, of a process tree."""
    pids = list(_process_tree(pid))
    # The kernel counts the data in a socket to no process.
    memory, count = max(0, _open_sockets(pids) - FREE_SOCKETS) * SOCKET_BYTES, 0
    for one in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            memory += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * _PAGE_BYTES
            count += sum(1 for _ in os.scandir(f"/proc/{one}/task"))
    return memory, count


class _WeightReceiver:
    """Writes the weight files of ``runner.send_weights`` to a folder as their bytes arrive.

    ``expected_marks`` are the marks of ``runner.py`` that have not arrived yet.
    """

    def __init__(self, out: Path, max_bytes: int) -> None:
        self.out, self.bytes_left = out, max_bytes
        self.buffer = bytearray()
        self.file: BinaryIO | None = None
        self.file_bytes_left = 0
        self.names: set[bytes] = set()
        self.expected_marks = runner.SANDBOX_READY + runner.PROGRAM_STARTED

    def feed(self, data: bytes) -> str | None:
        """Process the next bytes; return a sentence about what is wrong with them, or None."""
        while self.expected_marks and data:
            if data[:1] != self.expected_marks[:1]:
                return _INVALID_STREAM
            self.expected_marks, data = self.expected_marks[1:], data[1:]
        self.bytes_left -= len(data)
        if self.bytes_left < 0:
            return "sent more bytes than the model's own weights have; send only the tensors that it was given."
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
        """Close the last file; return whether all files are complete."""
        if self.file_bytes_left and self.file is not None:
            self.file.close()
        return not self.file_bytes_left and not self.buffer


def supervise(start: Starter, task: Task, limits: Limits, out: Path, scratch: Path) -> RunResult:
    """Run a task until it ends or exceeds a limit.

    Args:
        start: starts the program in a sandbox.
        out: folder for the weights.
        scratch: folder for the inputs and intermediate files.

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
    receiver = _WeightReceiver(out, task.max_weight_bytes)
    try:
        printed, stopped = _receive_until_exit(process, receiver, pipe, output, task, limits)
    finally:
        _kill(process)
        os.close(pipe)
        os.close(output)
    code = process.returncode
    text = printed.decode("utf-8", errors="replace")
    if stopped is None and not receiver.finish() and code == 0:
        stopped = "sent only a part of its weights."
    if receiver.expected_marks.startswith(runner.SANDBOX_READY) and stopped is None and 0 <= code <= 128:
        first = ([line for line in text.splitlines() if line.strip()] or ["no reason given"])[0]
        raise SandboxError(f"a sandbox could not be made ({first:.200}); see: stagezero doctor")
    return RunResult(code, text, stopped, code == runner.EXIT_NOT_STARTED and receiver.expected_marks == runner.PROGRAM_STARTED)


def _receive_until_exit(
    process: subprocess.Popen[bytes], receiver: _WeightReceiver, pipe: int, output: int, task: Task, limits: Limits
) -> tuple[bytes, str | None]:
    """Receive a program's weights and output until it ends or exceeds a limit.

    Returns:
        The end of its output, and why it must be stopped; None if it ended by itself.
    """
    deadline = time.monotonic() + task.seconds
    timeout = f"still running after {task.seconds:g} s; raise 'timeout' or make it faster."
    printed = bytearray()
    measured_at = 0.0
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        selector.register(output, selectors.EVENT_READ)
        while selector.get_map():
            now = time.monotonic()
            if now > deadline:
                return bytes(printed), timeout
            for key, _ in selector.select(min(POLL_SECONDS, deadline - now)):
                data = os.read(key.fd, _CHUNK_BYTES)
                if not data:
                    selector.unregister(key.fd)
                elif key.fd == output:
                    printed = (printed + data)[-MAX_OUTPUT_BYTES:]
                elif (problem := receiver.feed(data)) is not None:
                    return bytes(printed), problem
            if now - measured_at > POLL_SECONDS:
                measured_at = now
                memory, processes = resource_usage(process.pid)
                if memory > limits.memory:
                    return bytes(printed), f"used more than {limits.memory / 2**30:g} GiB of memory; use less, or raise sandbox.memory."
                if processes > limits.processes + BOX_PROCESSES:
                    return bytes(printed), f"had more than {limits.processes} processes and threads; use fewer, or raise sandbox.processes."
            if process.poll() is not None and not selector.select(0):
                break  # it has ended; a descendant with open pipes ends with the box
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(max(0.1, min(EXIT_SECONDS, deadline - time.monotonic())))
    return bytes(printed), None if process.poll() is not None else timeout


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the rest of a process group. A box ends with the process that made it."""
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
