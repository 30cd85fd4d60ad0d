"""Connects one campaign to its auditor.

Everything that a campaign sends through the door is sent here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stagezero.door import AuditorEndpoint, CheckpointExchange, Door, EmbeddedAuditor, Receipt, Setup, Status
from stagezero.errors import BudgetSpentError, ProjectError
from stagezero.files import Closeable, read_text
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.lab.run_state import save_auditor_status
from stagezero.ledger import Ledger
from stagezero.project import Audit, AuditElsewhere
from stagezero.trials.jobs import Progress

NOT_AUDITED = "not audited"
BUDGET_SPENT = "refused: budget spent"


class AuditSession(Closeable):
    """The connection of one campaign to its auditor. Use it as a context manager.

    The auditor is one of four: a process that this class starts, a process that the caller started
    for the run, a service of another party, or none.
    """

    def __init__(self, resolved: ResolvedProject, folder: Path, endpoint: AuditorEndpoint | None, progress: Progress) -> None:
        """Start the auditor's process if the run needs its own; it loads in parallel with the lab.

        Args:
            resolved: the project.
            folder: the run's folder.
            endpoint: an auditor that the caller started for this run; None if there is none.
            progress: the display for progress and messages.
        """
        self.resolved, self.project, self.folder, self.progress = resolved, resolved.project, folder, progress
        self._given_endpoint = endpoint
        self._process: EmbeddedAuditor | None = None
        self.door: Door | None = None
        if isinstance(self.project.audit, Audit) and endpoint is None:
            self._process = EmbeddedAuditor(resolved.auditor_folder)

    def open(self, base: Path) -> Status | None:
        """Connect to the auditor and return its status; None if the project has no audit.

        Args:
            base: the folder of the base model, on which the auditor measures its slowest audit.

        Raises:
            DoorError, ProjectError: the auditor cannot be reached, or does not serve these terms.
        """
        audit = self.project.audit
        if audit is None:
            return None
        if isinstance(audit, AuditElsewhere):
            token = read_text(self.resolved.resolve(audit.token_file), ProjectError).strip()
            ca_file = self.resolved.resolve(audit.ca_file) if audit.ca_file is not None else None
            self.door = Door(audit.address, token, audit.suite, ca_file)
            return self.door.status()
        endpoint = self._given_endpoint or (self._process.endpoint() if self._process is not None else None)
        assert endpoint is not None
        self.door = endpoint.door()
        self.progress.status("the auditor measures its slowest audit", 0, 1, None)
        return self.door.set_up(Setup(project=self.project.name, terms=self.resolved.terms(), base=str(base)))

    def exchange_checkpoints(self, ledger: Ledger) -> str | None:
        """Exchange ledger checkpoints with the auditor.

        After that, neither side can change its ledger without the other noticing.

        Returns:
            The lab's checkpoint with the auditor's signature; None if the project has no audit.

        Raises:
            WitnessError: one of the two ledgers was truncated, rolled back or split.
        """
        return CheckpointExchange(self.door, ledger, self.folder).run() if self.door is not None else None

    def witness_registration(self, ledger: Ledger) -> None:
        """Have the auditor sign the registered ideas before any seed is computed.

        Seeds follow from the hash of the ledger's last entry. The auditor's signature becomes that
        entry, so no one can foresee the seeds, not even a party that knows the campaign's secret. A
        project with its own ``seed`` must be repeatable. Its checkpoint is exchanged too, but the
        signature is not recorded.
        """
        # A continued run finds the entry that the interrupted one recorded, and confirms it.
        recorded = ledger.upcoming
        if self.project.seed is None and recorded is not None and recorded.kind == "witnessed":
            ledger.record("witnessed", recorded.body)
            return
        signed = self.exchange_checkpoints(ledger)
        if self.project.seed is None and signed is not None:
            ledger.record("witnessed", {"checkpoint": signed})

    def submit(self, number: int, model: str, folder: Path, ledger: Ledger) -> Receipt | str:
        """Submit a stage's model to the auditor, without waiting for the verdict.

        Args:
            number: the stage's number.
            model: the model's digest.
            folder: the model's folder.
            ledger: the lab's ledger; its checkpoint is exchanged first.

        Returns:
            The receipt. If nothing was submitted, the verdict that the ledger records instead.

        Raises:
            DoorError: the submission failed.
        """
        if self.door is None:
            return NOT_AUDITED
        self.exchange_checkpoints(ledger)
        try:
            return self.door.submit_when_free(folder, model, lambda left: self._show_wait(number, left))
        except BudgetSpentError as error:
            draws_items = isinstance(self.project.audit, Audit) and self.project.audit.sealed is None
            self.progress.message(str(error) + (" A project of another name draws its own sealed items." if draws_items else ""))
            return BUDGET_SPENT

    def wait_for_verdict(self, number: int, submitted: Receipt | str) -> str:
        """Return the verdict on a submitted model; block until the auditor sends it.

        Args:
            number: the stage's number.
            submitted: the result of ``submit``.

        Raises:
            DoorError: the auditor cannot be reached.
        """
        if isinstance(submitted, str):
            return submitted
        assert self.door is not None
        reply = self.door.wait_for_reply(submitted, lambda left: self._show_wait(number, left))
        save_auditor_status(self.folder, self.door.status(), self.door.certificate())
        return reply.verdict

    def _show_wait(self, number: int, seconds_left: float) -> None:
        self.progress.status(f"waiting for the audit of stage {number}; the time of the reply is fixed in advance", 0, 1, seconds_left)

    def close(self) -> None:
        """Close the connection, and end the auditor's process if this class started it."""
        if self.door is not None:
            self.door.close()
        if self._process is not None:
            self._process.close()


def door_entry(status: Status) -> dict[str, Any]:
    """Return the ledger entry that describes the auditor.

    It does not contain the separation, because a run may continue on another machine.
    """
    terms = status.model_dump(mode="json", include={"generator", "claims", "bars", "delta", "clusters", "meter"})
    return {"bits_allowed": float(f"{status.bits_allowed:.6g}"), **terms}
