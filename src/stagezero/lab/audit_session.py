"""The lab's dealings with its auditor: all that a campaign says through the door is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stagezero.door import Door, EmbeddedAuditor, Exchange, Opened, Receipt, Setup, Status
from stagezero.errors import BudgetSpentError, ProjectError
from stagezero.files import Closing, read_text
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.lab.run_state import remember_door
from stagezero.ledger import Ledger
from stagezero.project import Audit, AuditElsewhere
from stagezero.trials.jobs import Tell

NOT_AUDITED = "not audited"
BUDGET_SPENT = "refused: budget spent"


class AuditSession(Closing):
    """One campaign's auditor: its own, one that was started for it, one elsewhere, or none. Use as a context manager."""

    def __init__(self, resolved: ResolvedProject, folder: Path, opened: Opened | None, tell: Tell) -> None:
        """
        Args:
            folder: the run's.
            opened: an auditor that was started for this run.
        """
        self.resolved, self.project, self.folder, self.tell = resolved, resolved.project, folder, tell
        self._given = opened
        self._own: EmbeddedAuditor | None = None
        self.door: Door | None = None
        if isinstance(self.project.audit, Audit) and opened is None:
            # It starts while the lab gets ready.
            self._own = EmbeddedAuditor(resolved.auditor_folder)

    def open(self, base: Path) -> Status | None:
        """Go to the door, and hear what the auditor says of itself; None without one.

        Raises:
            DoorError, ProjectError: there is no such auditor, or it does not serve these terms.
        """
        audit = self.project.audit
        if audit is None:
            return None
        if isinstance(audit, AuditElsewhere):
            token = read_text(self.resolved.resolve(audit.token_file), ProjectError).strip()
            ca_file = self.resolved.resolve(audit.ca_file) if audit.ca_file is not None else None
            self.door = Door(audit.address, token, audit.suite, ca_file)
            return self.door.status()
        opened = self._given or (self._own.opened() if self._own is not None else None)
        assert opened is not None
        self.door = opened.door()
        self.tell.doing("the auditor measures its slowest audit", 0, 1, None)
        return self.door.set_up(Setup(project=self.project.name, terms=self.resolved.terms(), base=str(base)))

    def exchange(self, ledger: Ledger) -> str | None:
        """Show the auditor the lab's ledger as it is, and look at its own; the lab's checkpoint with the auditor's signature under it.

        Raises:
            WitnessError: one of the two was cut short, rolled back or split.
        """
        return Exchange(self.door, ledger, self.folder).run() if self.door is not None else None

    def witnessed(self, ledger: Ledger) -> None:
        """Have the auditor sign what was registered before any seed is drawn from it: seeds follow from the ledger's head, so nobody can
        foresee them, not even whoever holds the campaign's secret. A project with a seed of its own is to be repeatable, and is only shown.
        """
        coming = ledger.upcoming
        if self.project.seed is None and coming is not None and coming.kind == "witnessed":
            ledger.record("witnessed", coming.body)
            return
        signed = self.exchange(ledger)
        if self.project.seed is None and signed is not None:
            ledger.record("witnessed", {"checkpoint": signed})

    def hand_in(self, number: int, model: str, folder: Path, ledger: Ledger) -> Receipt | str:
        """Submit a stage's model; the answer is out while the lab goes on measuring. Without one to wait for, why.

        Raises:
            DoorError: it could not be submitted.
        """
        if self.door is None:
            return NOT_AUDITED
        self.exchange(ledger)
        try:
            return self.door.hand_in_when_free(folder, model, lambda left: self._waiting(number, left))
        except BudgetSpentError as error:
            drawn = isinstance(self.project.audit, Audit) and self.project.audit.sealed is None
            self.tell.say(str(error) + (" A project of another name draws its own." if drawn else ""))
            return BUDGET_SPENT

    def verdict(self, number: int, handed_in: Receipt | str) -> str:
        """What the auditor says of a model that was handed in; waits until its answer leaves.

        Raises:
            DoorError: it could not be asked.
        """
        if isinstance(handed_in, str):
            return handed_in
        assert self.door is not None
        reply = self.door.hear(handed_in, lambda left: self._waiting(number, left))
        remember_door(self.folder, self.door.status(), self.door.certificate())
        return reply.verdict

    def _waiting(self, number: int, left: float) -> None:
        self.tell.doing(f"stage {number} is with the auditor; its answer leaves at a time fixed beforehand", 0, 1, left)

    def close(self) -> None:
        """Leave the door, and end an auditor of the run's own."""
        if self.door is not None:
            self.door.close()
        if self._own is not None:
            self._own.close()


def door_entry(status: Status) -> dict[str, Any]:
    """What a campaign's ledger says of its auditor. How far it was is not part of it: a run may be continued elsewhere."""
    kept = status.model_dump(mode="json", include={"generator", "claims", "bars", "delta", "clusters", "meter"})
    return {"bits_allowed": float(f"{status.bits_allowed:.6g}"), **kept}
