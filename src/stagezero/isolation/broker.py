"""Makes sandboxes for a lab that is itself in a box, where no further sandbox can be made.

The process that started the lab (``lab/isolated_run.py``) listens on this machine's loopback. The
lab has the port and the token in its environment, and its workers inherit them. Programs in a
sandbox have neither.

A request contains its files as bytes and names two checkpoint folders. Both must be under the lab's
own store or beside its base. The broker opens them step by step, follows no link, and copies (or
links) their files to a folder that the lab cannot reach, so that the lab cannot exchange them while
they are in use.

The lab can request a sandbox and nothing else. It learns no more about the world outside its box
than a program in a sandbox can send.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import secrets
import socket
import struct
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stagezero.errors import BuildError, SandboxError
from stagezero.files import Closeable, copy_regular_file, open_folder
from stagezero.isolation import bubblewrap
from stagezero.isolation.confinement import BROKER_VARIABLE, Limits, RunResult, Task
from stagezero.isolation.supervisor import supervise
from stagezero.models.checkpoint import CONTENT_FILES

MAX_MESSAGE_BYTES = 1 << 26
"""Limit on a request, and on a response without its weights."""
MAX_CONCURRENT_REQUESTS = 16
TOKEN_BYTES = 32
TOKEN_SECONDS = 10
RECEIVE_SECONDS = 30
RESPONSE_SECONDS = 60
"""How long a lab waits for a response, beyond the time limit of its task."""


def _send(connection: socket.socket, header: dict[str, Any], *parts: bytes) -> None:
    head = json.dumps({**header, "parts": [len(part) for part in parts]}).encode()
    connection.sendall(struct.pack("<I", len(head)) + head)
    for part in parts:
        connection.sendall(part)


def _receive_bytes(connection: socket.socket, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = connection.recv(min(1 << 20, size - len(received)))
        if not data:
            raise EOFError
        received += data
    return bytes(received)


def _receive(connection: socket.socket, max_bytes: int) -> tuple[dict[str, Any], list[bytes]]:
    size = struct.unpack("<I", _receive_bytes(connection, 4))[0]
    if size > max_bytes:
        raise ValueError("message too long")
    head: dict[str, Any] = json.loads(_receive_bytes(connection, size))
    sizes = head.pop("parts")
    if not all(isinstance(n, int) and n >= 0 for n in sizes) or sum(sizes) > max_bytes:
        raise ValueError("message too long")
    return head, [_receive_bytes(connection, n) for n in sizes]


def request_run(task: Task, limits: Limits, out: Path) -> RunResult:
    """Have the broker in the environment run a task, and write its weights to ``out``.

    Raises:
        SandboxError: the broker does not respond, or could not make a sandbox.
        BuildError: the program could not be started.
    """
    port, _, token = os.environ[BROKER_VARIABLE].partition(":")
    names = sorted(task.files)
    header = {
        "run": task.run, "model": str(task.model), "base": str(task.base), "files": names, "data": task.data is not None,
        "seed": task.seed, "seconds": task.seconds, "output": task.max_weight_bytes,
        "limits": [limits.memory, limits.disk, limits.processes],
    }  # fmt: skip
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=task.seconds + RESPONSE_SECONDS) as connection:
            connection.sendall(token.encode())
            _send(connection, header, *(task.files[name] for name in names), task.data or b"")
            head, parts = _receive(connection, task.max_weight_bytes + MAX_MESSAGE_BYTES)
    except (OSError, ValueError, EOFError, struct.error) as error:
        raise SandboxError(
            f"the process that started this run does not make a sandbox for it ({type(error).__name__}); run the same command again."
        ) from None
    if "error" in head:
        raise SandboxError(str(head["error"]))
    if "refused" in head:
        raise BuildError(str(head["refused"]))
    out.mkdir(parents=True, exist_ok=True)
    for name, content in zip(head["names"], parts, strict=True):
        (out / Path(name).name).write_bytes(content)
    return RunResult(head["code"], head["said"], head["stopped"], head["not_started"])


class Broker(Closeable):
    """Listens for requests until it is closed. Use as a context manager.

    The lab needs the variables in ``environment`` to reach it.
    """

    def __init__(self, roots: Sequence[Path]) -> None:
        """Start to listen on a free port of the loopback.

        Args:
            roots: folders under which requests may name checkpoints.
        """
        self.roots = [root.resolve() for root in roots]
        self._token = secrets.token_hex(TOKEN_BYTES // 2)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=MAX_CONCURRENT_REQUESTS)
        self._slots = threading.BoundedSemaphore(MAX_CONCURRENT_REQUESTS)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """The environment variable with the broker's port and token."""
        return {BROKER_VARIABLE: f"{self._listener.getsockname()[1]}:{self._token}"}

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        """Serve one request.

        A client that does not send the token first takes no slot, and its request is not read.
        """
        with contextlib.suppress(OSError, ValueError, EOFError, struct.error, KeyError, TypeError, RecursionError), connection:
            connection.settimeout(TOKEN_SECONDS)
            if not hmac.compare_digest(_receive_bytes(connection, TOKEN_BYTES), self._token.encode()):
                return
            with self._slots:
                connection.settimeout(RECEIVE_SECONDS)
                head, parts = _receive(connection, MAX_MESSAGE_BYTES)
                connection.settimeout(None)
                try:
                    self._run(connection, head, parts)
                except SandboxError as error:
                    _send(connection, {"error": str(error)})
                except ValueError as error:  # the command contains a zero byte, or is not text
                    _send(connection, {"refused": f"could not be started ({error})"})

    def _run(self, connection: socket.socket, head: dict[str, Any], parts: list[bytes]) -> None:
        # The lab's box has a /tmp of its own, so the lab cannot reach this folder.
        with tempfile.TemporaryDirectory(prefix="stagezero-sandbox-") as temporary:
            scratch = Path(temporary)
            scratch.chmod(0o755)
            folders = {}
            for name in ("model", "base"):
                folders[name] = scratch / name
                self._copy_checkpoint(Path(str(head[name])), folders[name])
            files = {str(name): part for name, part in zip(head["files"], parts, strict=False)}
            if any(Path(name).name != name or name in (".", "..") for name in files):
                raise SandboxError("a request contains a file whose name is not plain; use names without folders.")
            data = parts[len(files)] if head["data"] else None
            task = Task(
                tuple(str(word) for word in head["run"]), folders["model"], folders["base"], files, data, int(head["seed"]),
                float(head["seconds"]), int(head["output"]),
            )  # fmt: skip
            memory, disk, processes = (int(n) for n in head["limits"])
            out = scratch / "out"
            result = supervise(bubblewrap.start, task, Limits(memory, disk, processes), out, scratch / "run")
            weights = sorted(out.iterdir())
            header = {
                "names": [path.name for path in weights], "code": result.code, "said": result.output, "stopped": result.stopped,
                "not_started": result.not_started,
            }  # fmt: skip
            _send(connection, header, *(path.read_bytes() for path in weights))

    def _copy_checkpoint(self, folder: Path, to: Path) -> None:
        """Link or copy a checkpoint's files to a new folder that the lab cannot reach.

        Raises:
            SandboxError: the checkpoint is outside ``roots``, or its path contains a link.
        """
        root = next((r for r in self.roots if folder.is_relative_to(r) and ".." not in folder.parts), None)
        if root is None:
            raise SandboxError(f"{folder}: expected a checkpoint in this run's own store or beside its base; a sandbox gets no other.")
        to.mkdir(mode=0o755)
        try:
            # The root itself is opened as a step too: it may have been replaced by a link since.
            with open_folder(root.parent, *folder.relative_to(root.parent).parts) as source:
                for name in os.listdir(source):  # noqa: PTH208  (of an open folder)
                    if name in CONTENT_FILES or name.endswith((".safetensors", ".safetensors.index.json")):
                        copy_regular_file(source, name, to / name)
                        (to / name).chmod(0o644)
        except OSError as error:
            raise SandboxError(f"{folder}: the checkpoint cannot be copied for a sandbox ({error.strerror}).") from None

    def close(self) -> None:
        """Accept no further requests."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
