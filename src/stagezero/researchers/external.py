"""A person or agent elsewhere as the researcher: a stage is opened in its folder of the run, and what it leaves there in time is proposed.

What the folder looks like, and why nothing in it is trusted, is ``inbox.py``'s to say. Time does not stop for a run that is cut off:
it finds the stage open as it was, until the same time, with whatever came meanwhile.
"""

from __future__ import annotations

import time
from pathlib import Path

from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea
from stagezero.ideas.precheck import Asked
from stagezero.project import Outside
from stagezero.researchers import inbox
from stagezero.researchers.base import Researcher
from stagezero.researchers.inbox_record import State

POLL = 0.2
"""Seconds between two looks at the folder."""


class OutsideResearcher(Researcher):
    """Waits for up to ``settings.ideas`` ideas a stage, for at most ``settings.seconds``."""

    def __init__(self, settings: Outside, run: Path) -> None:
        """Nothing is made yet: the run's folder may not be there."""
        self.settings = settings
        self.name = settings.name
        self.run = run

    def open(self, brief: Brief) -> State:
        """Ask for ideas without waiting for them, so that several researchers can think at once; ``propose`` goes on from there."""
        return inbox.open_stage(self.run, self.name, brief, self.settings.ideas, self.settings.seconds)

    def propose(self, brief: Brief) -> list[Idea]:
        """Wait until there are enough, or the researcher says that there will be no more, or the time is over."""
        state, asked = self.open(brief), Asked.by(brief)
        looked: inbox.Looked = {}
        told: inbox.Found | None = None
        while True:
            over = time.time() >= state.closes or inbox.is_done(self.run, self.name, brief.stage)
            found = inbox.submissions(self.run, self.name, brief.stage, asked, looked)
            if found != told:
                inbox.report(self.run, self.name, brief.stage, found)
                told = found
            if over or len(found.ideas) >= state.wanted:
                return inbox.close_stage(self.run, self.name, brief.stage, asked, looked)
            time.sleep(POLL)
