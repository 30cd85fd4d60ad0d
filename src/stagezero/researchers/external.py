"""A person or agent outside the run as the researcher.

The campaign opens a stage in the researcher's folder of the run. It proposes the ideas that arrive
there before the stage closes. ``inbox.py`` describes the folder and why it is untrusted.

The closing time does not move if the run is interrupted. A continued run finds the stage as it was,
with the ideas that arrived in the meantime.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea
from stagezero.ideas.precheck import SubmissionLimits
from stagezero.project import Outside
from stagezero.researchers import inbox
from stagezero.researchers.base import Researcher
from stagezero.researchers.inbox_record import StageState

POLL_SECONDS = 0.2
"""Time between two reads of the folder."""


def ignore(_: str) -> None:
    """Display no message."""


class OutsideResearcher(Researcher):
    """Waits for at most ``settings.ideas`` ideas a stage, and at most ``settings.seconds``."""

    def __init__(self, settings: Outside, run: Path, notify: Callable[[str], None] = ignore) -> None:
        """Store the settings. The run's folder does not have to exist yet.

        Args:
            settings: the researcher's entry in the project file.
            run: the run's folder.
            notify: displays a message: what the run waits for, and how to submit it.
        """
        self.settings, self._notify = settings, notify
        self._announced: tuple[int, int] | None = None
        self.name = settings.name
        self.run = run

    def open(self, brief: Brief) -> StageState:
        """Open a stage without waiting for ideas, so that several researchers can work at once.

        ``propose`` continues from the opened stage.
        """
        state = inbox.open_stage(self.run, self.name, brief, self.settings.ideas, self.settings.seconds)
        if time.time() < state.closes:
            self._announce(brief.stage, state.wanted, state.closes)
        return state

    def propose(self, brief: Brief) -> list[Idea]:
        """Wait for ideas and return them.

        The wait ends when enough ideas have arrived, when the researcher reports that it sends no
        more, or at the closing time.
        """
        state, limits = self.open(brief), SubmissionLimits.from_brief(brief)
        cache: inbox.ScanCache = {}
        reported: inbox.InboxContents | None = None
        while True:
            over = time.time() >= state.closes or inbox.is_done(self.run, self.name, brief.stage)
            contents = inbox.read_inbox(self.run, self.name, brief.stage, limits, cache)
            if contents != reported:
                inbox.report_submissions(self.run, self.name, brief.stage, contents)
                reported = contents
            if not over and len(contents.ideas) < state.wanted:
                self._announce(brief.stage, state.wanted - len(contents.ideas), state.closes)
            if over or len(contents.ideas) >= state.wanted:
                return inbox.close_stage(self.run, self.name, brief.stage, limits, cache)
            time.sleep(POLL_SECONDS)

    def _announce(self, stage: int, missing: int, closes: float) -> None:
        """Display what the run waits for, until when, and the command that submits it.

        The same request is displayed once.
        """
        if self._announced == (stage, missing):
            return
        self._announced = (stage, missing)
        end = datetime.fromtimestamp(closes)
        until = f"{end:%H:%M}" if closes - time.time() < 72_000 else f"{end:%Y-%m-%d %H:%M}"
        self._notify(
            f"waiting for {missing} idea{'s' if missing > 1 else ''} from {self.name!r} until {until}; "
            f"submit with: stagezero idea submit FILE --run {shlex.quote(str(self.run))} --as {self.name}"
        )
