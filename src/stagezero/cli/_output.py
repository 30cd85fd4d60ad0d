"""How the command line looks: a status line with time left, lines worth keeping, tables."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from stagezero.files import Closing

if TYPE_CHECKING:
    from stagezero.evidence import Estimate  # it imports scipy, which takes more than a second and most verbs do without


def span(seconds: float) -> str:
    """``1:05``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Teller(Closing):
    """Tells a person how a run goes: on a terminal one moving line, elsewhere a line now and then. Goes to stderr."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self._start = time.monotonic()
        self._status: Status | None = None
        self._last = float("-inf")

    def _clock(self) -> str:
        return span(time.monotonic() - self._start)

    def say(self, text: str) -> None:
        self.console.print(f"[dim]{self._clock()}[/dim]  {escape(text)}", soft_wrap=True)

    def doing(self, text: str, done: int, expected: int, seconds_left: float | None) -> None:
        left = f", about {span(seconds_left)} left" if seconds_left else ""
        line = f"{escape(text)}: {done} of {expected}{left}" if expected > 1 else escape(text)
        if self.console.is_terminal:
            if self._status is None:
                self._status = self.console.status(line)
                self._status.start()
            self._status.update(f"[dim]{self._clock()}[/dim]  {line}")
        elif time.monotonic() - self._last > 15:
            self._last = time.monotonic()
            self.console.print(f"{self._clock()}  … {line}", soft_wrap=True)

    def close(self) -> None:
        """Take the moving line away."""
        if self._status is not None:
            self._status.stop()
            self._status = None


def ledger_file(path: Path) -> Path:
    """The ledger of a run's folder, or the ledger itself."""
    return path / "ledger.jsonl" if path.is_dir() else path


def output() -> Console:
    """Where results go: standard output."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def table(*columns: str) -> Table:
    """A plain table."""
    found = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        found.add_column(name, overflow="fold")
    return found


def number(estimate: Estimate, signed: bool = False) -> str:
    """An estimate with its interval, for a table."""
    form = "+.3f" if signed else ".3f"
    text = f"{estimate.mean:{form}}"
    return text if abs(estimate.low) > 1e9 else f"{text} \\[{estimate.low:{form}}, {estimate.high:{form}}]"


def print_json(value: Any) -> None:
    """One JSON object on standard output."""
    print(json.dumps(value, indent=1, sort_keys=True, allow_nan=False))
