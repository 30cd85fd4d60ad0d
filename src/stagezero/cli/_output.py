"""Output of the command line: a progress line, tables, numbers and JSON.

Results go to stdout, progress goes to stderr. Only the verbs of this package use it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from stagezero.cli import discard_stderr
from stagezero.files import Closeable

if TYPE_CHECKING:
    from stagezero.evidence import Estimate  # imports scipy, which takes over a second; most verbs do not need it

STATUS_INTERVAL_SECONDS = 15.0
"""Time between two status lines where stderr is not a terminal."""
PIPED_WIDTH = 140
"""Columns of the results where stdout is not a terminal."""
_UNBOUNDED = 1e9
"""An interval with a bound beyond this number is not displayed: there was one seed only."""


def format_duration(seconds: float) -> str:
    """Format a duration as minutes and seconds: ``1:05``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class ConsoleProgress(Closeable):
    """Reports the progress of a run on stderr.

    On a terminal it displays one line that it updates. Elsewhere it prints a line at most every
    ``STATUS_INTERVAL_SECONDS``.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, markup=False, emoji=False, quiet=quiet)
        self._start = time.monotonic()
        self._status: Status | None = None
        self._last_line = float("-inf")

    def _elapsed(self) -> str:
        return format_duration(time.monotonic() - self._start)

    def _timed(self, text: str) -> Text:
        return Text.assemble((self._elapsed(), "dim"), f"  {text}")

    def message(self, text: str) -> None:
        """Print a line that stays on the screen."""
        self._print(self._timed(text))

    def status(self, text: str, done: int, expected: int, seconds_left: float | None) -> None:
        """Replace the status line.

        Args:
            text: the current activity.
            done, expected: finished and expected units of work.
            seconds_left: estimated remaining time; None if unknown.
        """
        left = f", about {format_duration(seconds_left)} left" if seconds_left else ""
        line = f"{text}: {done} of {expected}{left}" if expected > 1 else text
        if self.console.is_terminal:
            if self._status is None:
                self._status = self.console.status(self._timed(line))
                self._status.start()
            self._status.update(self._timed(line))
        elif time.monotonic() - self._last_line > STATUS_INTERVAL_SECONDS:
            self._last_line = time.monotonic()
            self._print(f"{self._elapsed()}  … {line}")

    def _print(self, line: Text | str) -> None:
        """Print a line. Where nobody reads it, or its disk is full, the run goes on in silence."""
        try:
            self.console.print(line, soft_wrap=True)
        except OSError:
            discard_stderr()

    def close(self) -> None:
        """Remove the status line."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def ledger_path(path: Path) -> Path:
    """Return the path of a ledger, given the ledger or the folder of its run."""
    return path / "ledger.jsonl" if path.is_dir() else path


def stdout_console() -> Console:
    """Return a console for results on stdout. It prints every text as it is."""
    return Console(highlight=False, markup=False, emoji=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)


def make_table(*columns: str) -> Table:
    """Return an empty table without borders, with these column headings."""
    rows = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        rows.add_column(name, overflow="fold")
    return rows


def format_estimate(estimate: Estimate, signed: bool = False) -> str:
    """Format an estimate and its interval for a table."""
    form = "+.3f" if signed else ".3f"
    text = f"{estimate.mean:{form}}"
    return text if abs(estimate.low) > _UNBOUNDED else f"{text} [{estimate.low:{form}}, {estimate.high:{form}}]"


def print_json(value: Any) -> None:
    """Print a value as one JSON object on stdout."""
    print(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))
