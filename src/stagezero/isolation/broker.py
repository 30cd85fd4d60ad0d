"""Makes sandboxes for a lab that is itself in a box, where no further one can be made.

The process that started the lab (``lab/isolated_run.py``) listens on this machine's loopback; the lab has port and token in its
environment, its workers inherit them, and programs in a sandbox have neither. A request brings its files along as bytes and names two
folders of checkpoints; those must lie under the lab's own store or beside its base, and are opened step by step without following a link
and copied (or linked) to where the lab cannot reach, so that they cannot be exchanged while they are used. The lab can request a sandbox
and nothing else: it learns of the world outside its box what a program in a sandbox could tell.
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
from stagezero.files import Closing, copy_plain_file, open_folder
from stagezero.isolation import bubblewrap
from stagezero.isolation.confinement import BROKER_VARIABLE, Limits, Ran, Task
from stagezero.isolation.supervisor import supervise
from stagezero.models.checkpoint import CONTENT

MAX_MESSAGE_BYTES = 1 << 26
"""Of a request; of an answer beside the weights."""
MAX_CONCURRENT_REQUESTS = 16
TOKEN_BYTES = 32
TOKEN_SECONDS = 10
RECEIVE_SECONDS = 30
ANSWER_SECONDS = 60
"""How long a lab waits for an answer beyond the time that its task may take."""


def _send(connection: socket.socket, header: dict[str, Any], *parts: bytes) -> None:
    head = json.dumps({**header, "parts": [len(part) for part in parts]}).encode()
    connection.sendall(struct.pack("<I", len(head)) + head)
    for part in parts:
        connection.sendall(part)


def _receive_bytes(connection: socket.socket, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        data = connection.recv(min(1 << 20, size - len(found)))
        if not data:
            raise EOFError
        found += data
    return bytes(found)


def _receive(connection: socket.socket, max_bytes: int) -> tuple[dict[str, Any], list[bytes]]:
    size = struct.unpack("<I", _receive_bytes(connection, 4))[0]
    if size > max_bytes:
        raise ValueError("too long")
    head: dict[str, Any] = json.loads(_receive_bytes(connection, size))
    sizes = head.pop("parts")
    if not all(isinstance(n, int) and n >= 0 for n in sizes) or sum(sizes) > max_bytes:
        raise ValueError("too long")
    return head, [_receive_bytes(connection, n) for n in sizes]


def request(task: Task, limits: Limits, out: Path) -> Ran:
    """Have the broker that the environment names run a task.

    Raises:
        SandboxError: the broker does not answer, or could not make a sandbox.
        BuildError: the program could not be started.
    """
    port, _, token = os.environ[BROKER_VARIABLE].partition(":")
    names = sorted(task.files)
    header = {
        "run": task.run, "model": str(task.model), "base": str(task.base), "files": names, "data": task.data is not None,
        "seed": task.seed, "seconds": task.seconds, "output": task.output, "limits": [limits.memory, limits.disk, limits.processes],
    }  # fmt: skip
    try:
        with socket.create_connection(("127.0.0.1", int(port)), timeout=task.seconds + ANSWER_SECONDS) as connection:
            connection.sendall(token.encode())
            _send(connection, header, *(task.files[name] for name in names), task.data or b"")
            head, parts = _receive(connection, task.output + MAX_MESSAGE_BYTES)
    except (OSError, ValueError, EOFError, struct.error) as error:
        raise SandboxError(
            f"whoever started this run makes no sandbox for it ({type(error).__name__}); run the same command again."
        ) from None
    if "error" in head:
        raise SandboxError(str(head["error"]))
    if "refused" in head:
        raise BuildError(str(head["refused"]))
    out.mkdir(parents=True, exist_ok=True)
    for name, content in zip(head["names"], parts, strict=True):
        (out / Path(name).name).write_bytes(content)
    return Ran(head["code"], head["said"], head["stopped"], head["not_started"])


class Broker(Closing):
    """Listens until it is closed. Use as a context manager; ``environment`` holds the variables that the lab needs to reach it."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """
        Args:
            roots: folders under which checkpoints may be named.
        """
        self.roots = [root.resolve() for root in roots]
        self._token = secrets.token_hex(TOKEN_BYTES // 2)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=MAX_CONCURRENT_REQUESTS)
        self._slots = threading.BoundedSemaphore(MAX_CONCURRENT_REQUESTS)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        return {BROKER_VARIABLE: f"{self._listener.getsockname()[1]}:{self._token}"}

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve_one, args=(connection,), daemon=True).start()

    def _serve_one(self, connection: socket.socket) -> None:
        """Serve one request. A client that does not begin with the token takes no slot, and its request is not read."""
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
                except ValueError as error:  # the command has a zero byte in it, or is not text
                    _send(connection, {"refused": f"could not be started ({error})"})

    def _run(self, connection: socket.socket, head: dict[str, Any], parts: list[bytes]) -> None:
        # The lab's box has a /tmp of its own, so that it reaches nothing here.
        with tempfile.TemporaryDirectory(prefix="stagezero-sandbox-") as made:
            scratch = Path(made)
            scratch.chmod(0o755)
            folders = {}
            for name in ("model", "base"):
                folders[name] = scratch / name
                self._bring(Path(str(head[name])), folders[name])
            files = {str(name): part for name, part in zip(head["files"], parts, strict=False)}
            if any(Path(name).name != name or name in (".", "..") for name in files):
                raise SandboxError("a file of a request has no plain name.")
            data = parts[len(files)] if head["data"] else None
            task = Task(
                tuple(str(word) for word in head["run"]), folders["model"], folders["base"], files, data, int(head["seed"]),
                float(head["seconds"]), int(head["output"]),
            )  # fmt: skip
            memory, disk, processes = (int(n) for n in head["limits"])
            out = scratch / "out"
            ran = supervise(bubblewrap.start, task, Limits(memory, disk, processes), out, scratch / "run")
            weights = sorted(out.iterdir())
            header = {
                "names": [path.name for path in weights], "code": ran.code, "said": ran.said, "stopped": ran.stopped,
                "not_started": ran.not_started,
            }  # fmt: skip
            _send(connection, header, *(path.read_bytes() for path in weights))

    def _bring(self, folder: Path, to: Path) -> None:
        """A checkpoint's files, linked or copied to where the lab cannot reach.

        Raises:
            SandboxError: it lies elsewhere than it may, or is reached through a link.
        """
        root = next((r for r in self.roots if folder.is_relative_to(r) and ".." not in folder.parts), None)
        if root is None:
            raise SandboxError(f"{folder}: a sandbox is given checkpoints of this run's own store alone.")
        to.mkdir(mode=0o755)
        try:
            # The root's own name is a step too: it may have become a link since.
            with open_folder(root.parent, *folder.relative_to(root.parent).parts) as source:
                for name in os.listdir(source):  # noqa: PTH208  (of a folder that is held open)
                    if name in CONTENT or name.endswith((".safetensors", ".safetensors.index.json")):
                        copy_plain_file(source, name, to / name)
                        (to / name).chmod(0o644)
        except OSError as error:
            raise SandboxError(f"{folder}: cannot be shown to a sandbox ({error.strerror}).") from None

    def close(self) -> None:
        """Take no further requests."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
