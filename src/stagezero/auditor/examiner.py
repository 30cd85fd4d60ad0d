"""Asks a submitted model its questions, in a process of its own with limits on memory, time, files and the network.

The model is a stranger's. Its process gets the questions and never an answer key; what comes back is text, read as JSON and bounded
in size. Every examination starts from a fork server that has imported the libraries and has seen no model and no item, so
nothing of one audit is left for the next. Whatever goes wrong in it is the model's failure.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import resource
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

from stagezero.errors import ModelError
from stagezero.files import PACKAGE
from stagezero.isolation import harden

MOST_ANSWER = 4096  # bytes an answer may have; scorers read no further
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
_LIBRARIES = ("/usr", "/lib", "/lib64", "/opt", "/etc/ld.so.cache", "/etc/localtime", "/sys")
_MACHINE = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/driver", "/proc/devices", "/proc/modules")


class Examiner:
    """Starts examinations, one at a time."""

    def __init__(self, memory: float) -> None:
        """
        Args:
            memory: GiB that an examination may take beyond what the libraries have mapped.
        """
        self.memory = memory
        os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["stagezero.auditor.forkserver_preload"])
        self._process: BaseProcess | None = None

    def warm(self) -> None:
        """Have the libraries imported, so that the first examination takes no longer than any other."""
        process = self._context.Process(target=_nothing, daemon=True)
        process.start()
        process.join()

    def answers(self, folder: Path, questions: Sequence[str], instruction: str | None, seconds: float, whole: bool = False) -> list[str]:
        """A model's answers, one a question.

        Args:
            seconds: wall-clock time it may take; it is killed then.
            whole: go on to the most tokens of every answer, as the slowest model would; how long the worst audit takes.

        Raises:
            ModelError: it could not be loaded, took too long or too much memory, or did not answer.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=examine, args=(theirs, self.memory, seconds), daemon=True)
        process.start()
        self._process = process
        theirs.close()
        # Also where half an answer has come and the rest never does.
        end = threading.Timer(seconds, process.kill)
        end.start()
        try:
            return self._ask(
                ours, seconds, {"folder": str(folder), "questions": list(questions), "instruction": instruction, "whole": whole}
            )
        except (EOFError, OSError, ValueError, RecursionError) as error:
            raise ModelError(f"the examination ended without answers ({type(error).__name__})") from None
        finally:
            end.cancel()
            ours.close()
            process.kill()
            process.join()
            self._process = None

    def _ask(self, pipe: Connection, seconds: float, task: dict[str, object]) -> list[str]:
        end = time.monotonic() + seconds
        pipe.send_bytes(json.dumps(task).encode())
        if not pipe.poll(max(0.0, end - time.monotonic())):
            raise ModelError("the examination took too long")
        questions = task["questions"]
        assert isinstance(questions, list)
        found = json.loads(pipe.recv_bytes(len(questions) * (MOST_ANSWER * 6 + 8) + 1024))
        if not (isinstance(found, list) and len(found) == len(questions) and all(isinstance(a, str) for a in found)):
            raise ModelError("the examination gave no answers")
        return [answer[:MOST_ANSWER] for answer in found]

    def stop(self) -> None:
        """Kill the examination in hand."""
        if self._process is not None:
            with contextlib.suppress(ValueError):
                self._process.kill()


def _nothing() -> None:
    """What a first process does, that only waits for the libraries."""


def _limit(memory: float, seconds: float) -> None:
    """Bounds that this process cannot lift again."""
    # The drivers of accelerators reserve more addresses than there is memory; there the data is bounded instead.
    space = resource.RLIMIT_DATA if Path("/dev/nvidiactl").exists() else resource.RLIMIT_AS
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for what, most in (
        (space, mapped + int(memory * 2**30)),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, 2**20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most))


def _cut_off() -> None:
    """Leave the network behind, where the system allows it."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NET) != 0:
        libc.unshare(_NEW_USER | _NEW_NET)
    libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS


def _shut_in(folder: Path) -> bool:
    """Let this process open nothing but the model, the libraries and the devices, where the system allows it (Landlock).

    What a checkpoint may name and what loaders may follow is checked before; this holds for what nobody thought of.
    """
    import ctypes

    packages = [path for path in sys.path if path.endswith("-packages")]
    own = PACKAGE.resolve().parent
    readable = [sys.prefix, sys.base_prefix, *packages, *_LIBRARIES, *_MACHINE, str(own), str(folder.resolve())]
    return harden.restrict_files(ctypes.CDLL(None, use_errno=True), readable, (), ("/dev",))


def _fall_silent() -> int:
    """Send what libraries print nowhere: it may tell of the questions, and standard output may be the lab's to read. A way to the log."""
    log = os.dup(2)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)
    return log


def examine(pipe: Connection, memory: float, seconds: float) -> None:
    """The whole life of one examination; runs in a process of its own."""
    from stagezero.models.loader import settle_libraries

    task = json.loads(pipe.recv_bytes())
    told = _fall_silent()
    _cut_off()
    _shut_in(Path(task["folder"]))
    _limit(memory, seconds)
    settle_libraries()
    try:
        answers = ask(Path(task["folder"]), task["questions"], task["instruction"], task["whole"])
        pipe.send_bytes(json.dumps([answer[:MOST_ANSWER] for answer in answers]).encode())
    except BaseException as error:
        # Its kind alone: the rest may be the model's own words, and as many as it likes.
        os.write(told, f"an examination ended: {type(error).__name__:.80}\n".encode())
        os._exit(1)
    os._exit(0)


def ask(folder: Path, questions: Sequence[str], instruction: str | None, whole: bool) -> list[str]:
    """Greedy answers of a checkpoint."""
    from stagezero.models import MAX_NEW_TOKENS, Model
    from stagezero.models.generation import greedy

    model = Model(folder)
    return greedy(model.network, model.tokenizer, model.prompts(questions, instruction), MAX_NEW_TOKENS, stops=() if whole else None)
