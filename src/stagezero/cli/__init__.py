"""The command line: one file for each verb, and no logic of its own.

A user's mistake prints one sentence and exits with code 2, never a traceback. This module imports
nothing that takes time, so that Ctrl-C ends the command properly from its first moment on.
"""

from __future__ import annotations

import codecs
import os
import signal
import sys

_PLAIN = {
    "\u2264": "<=", "\u2265": ">=", "\u2026": "...", "\u2192": "->", "\u2212": "-", "\u2013": "-", "\u00b1": "+/-", "\u00d7": "x",
    "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00b7": "*",
}  # fmt: skip
"""Characters that stagezero prints, and how a terminal without them displays them."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit.

    Exit codes: 0 done, 1 a comparison with the ledger failed (``rebuild``), 2 an error that the
    user can fix, 130 interrupted by the user, 129 and 143 ended by SIGHUP and SIGTERM, 141 the
    reader of the output ended.
    """
    try:
        _prepare_streams()
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores SIGHUP
                signal.signal(number, _stop)
        from stagezero.errors import StagezeroError

        try:
            from stagezero.cli.app import run

            code = run(arguments)
            sys.stdout.flush()
        except StagezeroError as error:
            _fail(str(error))
        except BrokenPipeError:
            # Nobody reads the output any more, as with: stagezero ledger show RUN | head
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(141)
        except OSError as error:
            _fail(_explain_os_error(error))
        except MemoryError:
            _fail("this machine has too little memory; free some, then run the same command again.")
        except RecursionError:
            _fail("an input is nested too deep; use fewer levels.")
        except Exception as error:
            from stagezero.machine_faults import worker_error

            if (fault := worker_error(error, "this machine")) is None:
                raise
            _fail(str(fault))
    except _StoppedError as stopped:
        _print_line(f"ended by {stopped.number.name}; finished work is saved, and the same command continues.")
        sys.exit(128 + stopped.number)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C changes nothing any more
        _print_line("interrupted; finished work is saved, and the same command continues.")
        sys.exit(130)
    sys.exit(code)


class _StoppedError(KeyboardInterrupt):
    """Raised in the main thread when a signal asks the command to end, as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        self.number = signal.Signals(number)


def _stop(number: int, _: object) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise _StoppedError(number)


def _prepare_streams() -> None:
    """Make every text printable, and open the standard streams that the caller has closed.

    Otherwise a file of the run would get the number of a closed stream, and receive what libraries
    print.
    """
    codecs.register_error("stagezero", _replace)
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="stagezero")
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115, PTH123
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115, PTH123


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that a terminal cannot display."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in text), error.end


def _print_line(text: str) -> None:
    """Print one line on stderr. Line breaks and control characters are displayed as escapes."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    try:
        print(f"stagezero: {line}", file=sys.stderr, flush=True)
    except OSError:  # nobody reads stderr, or its disk is full
        discard_stderr()


def discard_stderr() -> None:
    """Let everything that is written to stderr from now on vanish."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def _fail(text: str) -> None:
    _print_line(text)
    sys.exit(2)


def _explain_os_error(error: OSError) -> str:
    """Return what failed, what the user can do, and that nothing is lost."""
    import errno

    place = error.filename if error.filename is not None else "a file of the run, or the output"
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        fix = "free some space, then run the same command again"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        fix = "correct its permissions, or choose another folder (bases and builds are in STAGEZERO_HOME, runs in --runs)"
    elif error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EEXIST):
        fix = "check the path, and choose a folder that exists or can be created"
    elif error.errno == errno.ENAMETOOLONG:
        return f"{str(place)[:80]}…: {reason}; use a shorter name."
    else:
        fix = "mend it, then run the same command again"
    return f"{place}: {reason}; {fix}. Finished work is not lost."
