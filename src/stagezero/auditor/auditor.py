"""Runs an auditor: takes each submission from the door to its answer.

The order never changes: copy the model, hash the copy, charge, record the charge, and only then
read sealed data; then store the verdict, record it, and release it only when it is due. Any failure
of the model after the charge is a "fail"; after a fault of this machine it is examined again.
``http_api`` and the tests call this module.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stagezero.auditor.budget_tables import SHADOW_SUFFIX, Charge, Suite
from stagezero.auditor.certificate import attestation
from stagezero.auditor.examiner import Examiner, NoAnswersError
from stagezero.auditor.intake import DamagedCopyError, Intake
from stagezero.auditor.sealed import load_sealed_items
from stagezero.auditor.separation import observed_separation
from stagezero.auditor.setup import measure_worst_audit
from stagezero.auditor.storage import Storage, embedded_suite_name
from stagezero.auditor.verdict import count_right, decide, randomise
from stagezero.door.messages import AuditorCheckpoint, LabCheckpoint, Receipt, Reply, Separation, Setup, Status, Submission, Verdict
from stagezero.errors import DoorError, ModelError, WitnessError
from stagezero.files import Closeable
from stagezero.ledger import Checkpoint, VerifyKey, Witness, cosign, read_checkpoint, verify_consistency
from stagezero.machine_faults import machine_fault

log = logging.getLogger("stagezero.auditor")
EXAMINATION_SLOT_FRACTION = 0.75
"""The fraction of a slot after which a running examination is killed."""
_RETRY_SECONDS = 1.0


class Auditor(Closeable):
    """An auditor folder, open for submissions.

    Use it as a context manager. Its methods may be called from many threads.
    """

    def __init__(
        self,
        storage: Storage,
        separation: Separation = "colocated",
        takes_folders: bool = True,
        clock: Callable[[], float] = time.time,
        allowed_sealed_files: Sequence[str | None] | None = None,
    ) -> None:
        """Open the auditor and start the thread that runs its audits.

        Args:
            storage: the auditor's folder.
            separation: the separation from the lab, as stated by the program that started both.
            takes_folders: copy models from folders that the lab names; otherwise labs upload them.
            clock: returns seconds since 1970.
            allowed_sealed_files: the sealed files that a setup may name; None allows any. The
                auditor's process reads them and runs their checkers.
        """
        self.allowed_sealed_files = allowed_sealed_files
        self.storage, self.meter, self.ledger = storage, storage.meter, storage.ledger
        self._claimed_separation: Separation = separation
        storage.record_separation(separation)
        self.takes_folders = takes_folders
        self.clock = clock
        self.intake = Intake(storage.folder, int(storage.settings.largest * 2**30))
        self.intake.remove_all_except({charge.model for charge in self.meter.unanswered()})
        self.examiner = Examiner(storage.settings.memory)
        self._lock = threading.RLock()
        self._queue_changed = threading.Condition()
        self._stopping = False
        self.meter.reschedule(clock())
        self.examiner.preload()
        self._thread = threading.Thread(target=self._run_audits, name="auditor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop. Charges without an answer are audited when the auditor is next opened."""
        with self._queue_changed:
            self._stopping = True
            self._queue_changed.notify_all()
        self.examiner.stop()
        self._thread.join()
        self.storage.close()

    def observe_peer(self, host: str, port: int) -> None:
        """Lower the recorded separation if a connection from this address contradicts the claim."""
        level = observed_separation(host, port, self._claimed_separation)
        if level != self._claimed_separation:
            with self._lock:
                self.storage.record_separation(level)

    # --- requests ---

    def set_up(self, setup: Setup) -> str:
        """Set up the suite of the project that started this auditor, on first use; return its name.

        The slot is measured: twice the time that the slowest model of the base's size takes, plus
        two seconds.

        Raises:
            SuiteError, DoorError: the terms cannot be served.
            ModelError: the base is not a checkpoint.
        """
        if self.allowed_sealed_files is not None and setup.terms.sealed not in (None, *self.allowed_sealed_files):
            raise DoorError("audit.sealed: expected the file that this auditor was started with; run the project that names the file.")
        name = embedded_suite_name(setup.project, setup.terms)
        with self._lock:
            if self.meter.suite(name) is None:
                items = load_sealed_items(name, setup.terms, self.storage.secret)
                worst = measure_worst_audit(self.examiner, items, Path(setup.base))
                self.storage.add(name, setup.terms, 2 * worst + 2)
            else:
                self.storage.add(name, setup.terms)
        return name

    def status(self, name: str) -> Status:
        """Return a suite's terms and the number of its answers.

        The status is a function of the published terms and of the answers that were released.

        Raises:
            DoorError: there is no such suite.
        """
        suite, now = self.storage.suite(name), self.clock()
        pools = self.meter.visible_pools(suite, now)
        submissions, passes = self.meter.visible_counts(name, now)
        return Status(
            auditor=self.storage.public_key.text(), suite=name, generator=str(suite.facts["generator"]), commitment=suite.commitment,
            claims=tuple(suite.terms.bars), bars=suite.terms.bars, clusters=suite.facts["clusters"], delta=suite.terms.delta,
            meter=suite.terms.meter, bits_allowed=self.meter.bits_allowed(suite),
            bits_used=sum(p.allowance.bits_spent(p.replies, p.passes) for p in pools), submissions_used=submissions,
            submissions_left=min(p.allowance.submissions - p.replies - p.pending for p in pools), passes_given=passes,
            passes_left=min((p.allowance.passes if p.allowance.kind == "counted" else p.allowance.submissions) - p.passes for p in pools),
            pending=max(p.pending for p in pools), slot=suite.slot, takes="folder" if self.takes_folders else "upload",
            separation=self.storage.separation(),
        )  # fmt: skip

    def submit(self, submission: Submission, account: str) -> Receipt:
        """Copy a model, charge it, and return the receipt with the time of the answer.

        Raises:
            ModelError: the model is not a checkpoint, or not the one that the digest names.
            BudgetSpentError, WaitError, ClosedError, DoorError: the submission was refused.
                No charge was made in any of these cases.
        """
        suite = self.storage.suite(submission.suite)
        if suite.name.endswith(SHADOW_SUFFIX):
            raise DoorError(f"suite {suite.name!r}: expected a suite that takes submissions, got a shadow; correct the name.")
        self.meter.require_open()
        earlier = self.meter.find_charge(suite.name, submission.digest)
        if earlier is not None and self.meter.charge_for_account(earlier.number, account) is not None:
            if submission.folder is not None and self.meter.awaits_audit(submission.digest):
                try:
                    self.intake.mend(submission.digest, Path(submission.folder), account)
                finally:
                    self._remove_copy_unless_needed(submission.digest)  # it may have been answered meanwhile
            return Receipt(submission=earlier.number, due=earlier.due)
        if (submission.folder is not None) != self.takes_folders:
            raise DoorError(f"submission: this auditor takes {'a folder' if self.takes_folders else 'uploads'}; submit it that way.")
        # An account must submit the files of a model that another account has submitted, too:
        # a digest alone does not prove that the account has the model.
        self.intake.admit(submission.digest, Path(submission.folder) if submission.folder is not None else None, account)
        try:
            with self._lock:
                now = self.clock()
                charge, new = self.meter.charge(suite, submission.digest, account, now, (self.ledger.size, self.ledger.head))
                if new:
                    self.storage.queue_charge(charge)
                self.storage.flush_queue(now)
        finally:
            self._remove_copy_unless_needed(submission.digest)
            # A committed charge is audited even if the ledger could not be written.
            with self._queue_changed:
                self._queue_changed.notify_all()
        return Receipt(submission=charge.number, due=charge.due)

    def _remove_copy_unless_needed(self, digest: str) -> None:
        with self._lock:
            if not self.meter.awaits_audit(digest):
                self.intake.remove(digest)

    def receipt(self, suite: str, digest: str, account: str) -> Receipt:
        """Return the receipt of a model that the account has submitted before.

        Raises:
            DoorError: the account has not submitted the model.
        """
        charge = self.meter.find_charge(self.storage.suite(suite).name, digest)
        if charge is None or self.meter.charge_for_account(charge.number, account) is None:
            raise DoorError("model: expected one that this account has submitted; submit it.")
        return Receipt(submission=charge.number, due=charge.due)

    def reply(self, number: int, account: str) -> Reply | Receipt:
        """Return the reply to one of the account's own submissions, or its receipt until it is due.

        Raises:
            DoorError: the account has made no such submission.
            ClosedError: the auditor is closed, or its clock was set back.
        """
        charge = self.meter.charge_for_account(number, account)
        if charge is None:
            raise DoorError(f"submission {number}: expected one that this account has made; check the number.")
        self.meter.require_open()
        # The clock is stored on every call, so that the time a call takes does not reveal whether
        # the audit has finished.
        now = self.meter.advance_clock(self.clock())
        if charge.verdict is None or now < charge.due:
            return Receipt(submission=charge.number, due=charge.due)
        with self._lock:
            self.storage.flush_queue(now)
        return Reply(verdict=charge.verdict)

    def attestation(self, number: int, account: str) -> dict[str, Any]:
        """Return the signed statement of what one of the account's own submissions passed.

        Raises:
            DoorError: the submission has not passed, is not due, or its meter randomises verdicts.
        """
        answer = self.reply(number, account)
        if not isinstance(answer, Reply) or answer.verdict != "pass":
            raise DoorError(f"submission {number}: no attestation; only a submission that has passed is attested, once its answer is due.")
        charge = self.meter.charge_for_account(number, account)
        assert charge is not None
        return attestation(self.storage, charge, self.clock())

    # --- audits ---

    def _run_audits(self) -> None:
        """Audit the charged submissions one after another, until the auditor stops."""
        while True:
            with self._queue_changed:
                # The operator's own command finishes the burn of a shadow.
                queue = [c for c in self.meter.unanswered() if not c.suite.endswith(SHADOW_SUFFIX)]
                if not queue and not self._stopping:
                    self._queue_changed.wait()
                    continue
                if self._stopping:
                    return
            try:
                self._audit(queue[0])
            except Exception:
                # The examination itself cannot raise; this is, for example, a disk error. The
                # charge is stored, so the audit is retried.
                log.exception("an answer could not be settled")
                with self._queue_changed:
                    self._queue_changed.wait(_RETRY_SECONDS)

    def _audit(self, charge: Charge) -> None:
        suite = self.storage.suite(charge.suite)
        verdict, rung = self._examine(suite, charge)
        if self._stopping:
            return  # ``close`` killed the examination; it is repeated when the auditor is next opened
        with self._lock:
            verdict = self.meter.settle(charge, verdict, rung)
            self.storage.queue_answer(charge, verdict)
        self._remove_copy_unless_needed(charge.model)

    def _examine(self, suite: Suite, charge: Charge) -> tuple[Verdict, float | None]:
        """Return the verdict on a charged model, and its rung on a ladder.

        Raises:
            Exception: a disk or mount of this machine failed; the examination is to be repeated.
        """
        verdict: Verdict = "fail"
        rung: float | None = None
        try:
            if not self.intake.has_copy(charge.model):
                raise DamagedCopyError
            sealed = self.storage.sealed_items(suite)
            answers = self.examiner.answers_of_two_attempts(
                self.intake.copy_path(charge.model), sealed.questions, sealed.instruction, suite.slot * EXAMINATION_SLOT_FRACTION,
                sealed.answer_tokens, f"submission {charge.number}",
            )  # fmt: skip
            right = count_right(sealed.items_by_claim, answers)
            bits = self.meter.bits_allowed(suite)
            verdict, rung = decide(right, suite.terms, bits, self.meter.best_rung(suite.name))
        except DamagedCopyError:
            log.warning("submission %d waits: this auditor's copy of the model is damaged; the lab's run sends it again", charge.number)
            raise
        except Exception as error:
            if (fault := machine_fault(error)) is not None:
                log.warning("submission %d is examined again: %s", charge.number, fault)
                raise
            # The details may depend on sealed data, so they stay here; the lab receives a "fail".
            # The texts of the examiner's own errors do not depend on it.
            log.warning("submission %d: %s", charge.number, error if type(error) in (ModelError, NoAnswersError) else type(error).__name__)
        if suite.terms.meter == "randomised":
            verdict = randomise(verdict, suite.terms.flip, self.storage.secret, suite.name, charge.model)
        return verdict, rung

    # --- each side stores the other's ledger checkpoints ---

    def countersign(self, message: LabCheckpoint) -> str:
        """Store a lab's checkpoint and return it with this auditor's signature under it.

        Raises:
            WitnessError: it does not extend the stored one; both are stored as evidence.
        """
        key = VerifyKey.parse(message.key)
        # Each key has its own folder, because two labs may give their ledgers the same name.
        with self._lock:
            Witness(self.storage.folder / "witness" / key.keyid[:32]).accept(message.checkpoint, key, message.proof)
        return cosign(message.checkpoint, self.storage.key)

    def checkpoint(self, newest: str | None) -> AuditorCheckpoint:
        """Return the auditor's checkpoint, with a proof that it extends the one the lab has stored.

        If the auditor signed ``newest`` and its ledger does not extend it, the ledger was rolled
        back, and the auditor closes.

        Args:
            newest: the newest checkpoint of this auditor that the lab has stored; None if none.

        Raises:
            WitnessError: ``newest`` is not a checkpoint of this auditor, or the ledger was rolled
                back.
        """
        with self._lock:
            self.storage.flush_queue(self.clock())
            proof: list[str] = []
            if newest is not None:
                earlier = read_checkpoint(newest, self.storage.public_key)
                if not self._ledger_extends(earlier):
                    self.meter.close_permanently("a lab has a checkpoint that the ledger does not continue: the ledger was rolled back")
                    raise WitnessError("checkpoint: this auditor signed it and its ledger does not continue it; the auditor is closed.")
                proof = self.ledger.consistency(earlier.size)
            return AuditorCheckpoint(
                key=self.storage.public_key.text(), checkpoint=self.ledger.checkpoint(self.storage.key), proof=tuple(proof)
            )

    def _ledger_extends(self, checkpoint: Checkpoint) -> bool:
        if checkpoint.size > self.ledger.size:
            return False
        proof = [bytes.fromhex(hash_) for hash_ in self.ledger.consistency(checkpoint.size)]
        return verify_consistency(checkpoint.size, self.ledger.size, checkpoint.root, self.ledger.root, proof)
