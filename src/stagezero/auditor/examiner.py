"""Examines a submitted model in a separate process with limits on memory, time, files and network.

The model is not trusted. Its process receives the questions and never an answer key. Its output is
text, parsed as JSON and bounded in size. Every examination starts from a fork server that has
imported the libraries and has loaded no model and no item, so no state passes from one audit to the
next. Any failure in the process counts as the model's failure.
"""

from __future__ import annotations

import contextlib
import json
import logging
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
from stagezero.files import PACKAGE_FOLDER
from stagezero.isolation import harden
from stagezero.processes import start_fork_server, without_main_module

log = logging.getLogger("stagezero.auditor")
MAX_ANSWER_CHARS = 4096
"""Characters of one answer that are scored; the rest is discarded."""
KILL_DELAY_SECONDS = 1.0
"""Time between the limit of an examination and the kill of its process."""
PAUSED_SHARE = 0.1
"""An examination whose share of CPU time is below this was paused, not slow."""
_MAX_JSON_BYTES_PER_CHAR = 6
_MAX_FILE_BYTES = 2**20
_MAX_OPEN_FILES = 256
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_NO_NEW_PRIVS = 38
_LIBRARY_PATHS = ("/usr", "/lib", "/lib64", "/opt", "/etc/ld.so.cache", "/etc/localtime", "/sys")
_PROC_PATHS = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/driver", "/proc/devices", "/proc/modules")


_REJECTED_EXIT_CODE = 3
"""Exit code of an examination that found the model unusable, whatever the machine does."""
_END_SECONDS = 1.0
"""Longest time between the end of a process's stream and the end of the process."""


class NoAnswersError(ModelError):
    """Raised when an examination ended without answers; the machine may be the cause."""


class Examiner:
    """Runs examinations, one at a time."""

    def __init__(self, memory: float) -> None:
        """Configure the fork server; it starts with the first examination.

        Args:
            memory: GiB that an examination may use in addition to what the libraries have mapped.
        """
        self.memory = memory
        os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")
        self._context = start_fork_server(["stagezero.auditor.forkserver_preload"])
        self._process: BaseProcess | None = None
        self._stopped = False

    def preload(self) -> None:
        """Import the libraries now, so that the first examination is as fast as the others."""
        process = self._context.Process(target=_do_nothing, daemon=True)
        with without_main_module():
            process.start()
        process.join()

    def answers(
        self, folder: Path, questions: Sequence[str], instruction: str | None, seconds: float, answer_tokens: int, full_length: bool = False
    ) -> list[str]:
        """Return a model's answers, one per question.

        Args:
            folder: the checkpoint.
            questions: the questions.
            instruction: the instruction before each question; None for none.
            seconds: wall-clock time after which the process is killed.
            answer_tokens: most tokens of an answer.
            full_length: generate the maximum number of tokens for every answer, to measure the
                slowest audit.

        Raises:
            NoAnswersError: the model exceeded its memory, or its process was killed or paused.
            ModelError: the model cannot be loaded or run, took too long, or its process did not
                answer as it should.
        """
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=examine, args=(theirs, self.memory, seconds), daemon=True)
        with without_main_module():
            process.start()
        self._process = process
        theirs.close()
        # The timer covers a process that sends half a message and then stops. It comes after the
        # time limit, which would otherwise look like a kill by the machine.
        timer = threading.Timer(seconds + KILL_DELAY_SECONDS, process.kill)
        timer.start()
        try:
            task: dict[str, object] = {
                "folder": str(folder),
                "questions": list(questions),
                "instruction": instruction,
                "tokens": answer_tokens,
                "whole": full_length,
            }
            return self._exchange(ours, seconds, task)
        except (EOFError, OSError, ValueError, RecursionError) as error:
            process.join(_END_SECONDS)
            if process.exitcode == _REJECTED_EXIT_CODE:
                raise ModelError("the model cannot be loaded or run") from None
            raise NoAnswersError(f"the examination ended without answers ({type(error).__name__})") from None
        finally:
            timer.cancel()
            ours.close()
            process.kill()
            process.join()
            self._process = None

    def answers_of_two_attempts(
        self, folder: Path, questions: Sequence[str], instruction: str | None, seconds: float, answer_tokens: int, name: str
    ) -> list[str]:
        """Return a model's answers. An examination that ends without answers is tried once more.

        The machine may be the cause of the first end: a killed or paused process, or too little
        memory. After the second one, the model counts as the cause. ``name`` is for the log.

        Raises:
            ModelError: as in ``answers``.
        """
        try:
            return self.answers(folder, questions, instruction, seconds, answer_tokens)
        except NoAnswersError as error:
            if self._stopped:
                raise
            log.warning("%s is examined again: %s", name, error)
        return self.answers(folder, questions, instruction, seconds, answer_tokens)

    def _exchange(self, pipe: Connection, seconds: float, task: dict[str, object]) -> list[str]:
        """Send the task to the process, and return its validated answers."""
        deadline = time.monotonic() + seconds
        pipe.send_bytes(json.dumps(task).encode())
        if not pipe.poll(max(0.0, deadline - time.monotonic())):
            busy = _cpu_seconds(self._process.pid if self._process is not None else None)
            # A process that has hardly computed was paused. Otherwise the model is slow.
            raise (NoAnswersError if busy < PAUSED_SHARE * seconds else ModelError)("the examination took too long")
        questions = task["questions"]
        assert isinstance(questions, list)
        answers = json.loads(pipe.recv_bytes(len(questions) * (MAX_ANSWER_CHARS * _MAX_JSON_BYTES_PER_CHAR + 8) + 1024))
        if not (isinstance(answers, list) and len(answers) == len(questions) and all(isinstance(a, str) for a in answers)):
            raise ModelError("the examination gave no answers")
        return [answer[:MAX_ANSWER_CHARS] for answer in answers]

    def stop(self) -> None:
        """Kill the running examination, if there is one; no other one follows."""
        self._stopped = True
        if self._process is not None:
            with contextlib.suppress(ValueError):
                self._process.kill()


def _cpu_seconds(pid: int | None) -> float:
    """Return the CPU time that a process has used, in seconds; 0 if it is not known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def _do_nothing() -> None:
    """Return at once. The process that runs this only waits for the fork server's imports."""


def _limit_resources(memory: float, seconds: float) -> None:
    """Set resource limits that this process cannot raise again."""
    # Drivers of accelerators reserve more address space than there is memory, so with them the data
    # segment is limited instead.
    memory_limit = resource.RLIMIT_DATA if Path("/dev/nvidiactl").exists() else resource.RLIMIT_AS
    mapped_bytes = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for kind, limit in (
        (memory_limit, mapped_bytes + int(memory * 2**30)),
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_FSIZE, _MAX_FILE_BYTES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _MAX_OPEN_FILES),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, limit))


def _leave_network() -> None:
    """Enter an empty network namespace, if the system allows it, and set ``no_new_privs``."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _restrict_files(folder: Path) -> bool:
    """Restrict this process to the model, the libraries and the devices, with Landlock.

    The names that a checkpoint may contain and the links that loaders may follow are checked
    before; this covers the cases that those checks miss.

    Returns:
        Whether the restriction is in force; False if the system has no Landlock.
    """
    import ctypes

    packages = [path for path in sys.path if path.endswith("-packages")]
    source_folder = PACKAGE_FOLDER.resolve().parent
    readable = [sys.prefix, sys.base_prefix, *packages, *_LIBRARY_PATHS, *_PROC_PATHS, str(source_folder), str(folder.resolve())]
    return harden.restrict_files(ctypes.CDLL(None, use_errno=True), readable, (), ("/dev",))


def _discard_output() -> int:
    """Redirect stdin, stdout and stderr to /dev/null; return a descriptor of the former stderr.

    Libraries may print the questions, and the lab may be able to read the auditor's stdout.
    """
    log = os.dup(2)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.close(null)
    return log


def examine(pipe: Connection, memory: float, seconds: float) -> None:
    """Run one examination, from the task to the answers. Only the examination's process calls it.

    Args:
        pipe: receives the task, and sends the answers back.
        memory: GiB in addition to what the libraries have mapped.
        seconds: CPU time limit.
    """
    from stagezero.models.loader import configure_libraries, flush_denormals

    task = json.loads(pipe.recv_bytes())
    log = _discard_output()
    _leave_network()
    _restrict_files(Path(task["folder"]))
    _limit_resources(memory, seconds)
    configure_libraries()
    flush_denormals()
    try:
        answers = generate_answers(Path(task["folder"]), task["questions"], task["instruction"], task["tokens"], task["whole"])
        pipe.send_bytes(json.dumps([answer[:MAX_ANSWER_CHARS] for answer in answers]).encode())
    except BaseException as error:
        # Only the error's type is logged: its message may be text of any length from the model.
        os.write(log, f"an examination ended: {type(error).__name__:.80}\n".encode())
        # Another examination of a model that was rejected would end in the same way.
        os._exit(_REJECTED_EXIT_CODE if isinstance(error, ModelError) else 1)
    os._exit(0)


def generate_answers(folder: Path, questions: Sequence[str], instruction: str | None, answer_tokens: int, full_length: bool) -> list[str]:
    """Return a checkpoint's greedy answers. Arguments as in ``Examiner.answers``."""
    from stagezero.models import Model
    from stagezero.models.generation import greedy

    model = Model(folder)
    stops = () if full_length else None
    return greedy(model.network, model.tokenizer, model.prompts(questions, instruction), answer_tokens, stops=stops)
