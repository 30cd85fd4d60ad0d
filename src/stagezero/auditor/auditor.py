"""The auditor at work: one submission from the door to its answer.

The order never changes: copy, hash the copy, charge, write the charge down, and only then touch sealed data; settle, write the
answer down, and only then let it leave, when it is due. Whatever goes wrong after the charge is a "fail".
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stagezero.auditor import verdict
from stagezero.auditor.budget_tables import SHADOW, Charge, Suite
from stagezero.auditor.certificate import attestation
from stagezero.auditor.examiner import Examiner
from stagezero.auditor.intake import Intake
from stagezero.auditor.sealed import sealed_suite
from stagezero.auditor.separation import level_of
from stagezero.auditor.setup import measure_worst
from stagezero.auditor.storage import Storage, name_of_suite
from stagezero.door.messages import Receipt, Reply, Separation, Setup, Shown, Sighting, Status, Submission, Word
from stagezero.errors import DoorError, WitnessError
from stagezero.files import Closing
from stagezero.ledger import Checkpoint, VerifyKey, Witness, cosign, read_checkpoint, verify_consistency
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import weight_files

log = logging.getLogger("stagezero.auditor")
SHARE_OF_SLOT = 0.75  # of a slot, that an examination may take before it is killed


class Auditor(Closing):
    """An auditor's folder, open for submissions. Use as a context manager; many threads may ask it things."""

    def __init__(
        self,
        storage: Storage,
        separation: Separation = "colocated",
        takes_folders: bool = True,
        clock: Callable[[], float] = time.time,
        may_name: Sequence[str | None] | None = None,
    ) -> None:
        """
        Args:
            separation: how far the lab is from here, as whoever started both of them knows.
            takes_folders: copy models from folders that the lab names; otherwise they are uploaded.
            clock: seconds since 1970.
            may_name: sealed files that a set-up may name, which are read as the auditor, and whose checkers are run as it; None for any.
        """
        self.may_name = may_name
        self.storage, self.meter, self.ledger = storage, storage.meter, storage.ledger
        self._claimed: Separation = separation
        storage.note_separation(separation)
        self.takes_folders = takes_folders
        self.clock = clock
        self.intake = Intake(storage.folder, int(storage.settings.largest * 2**30))
        self.intake.clear({charge.model for charge in self.meter.unanswered()})
        self.examiner = Examiner(storage.settings.memory)
        self._turn = threading.RLock()
        self._work = threading.Condition()
        self._ending = False
        self.meter.reschedule(clock())
        self.examiner.warm()
        self._thread = threading.Thread(target=self._answer_all, name="auditor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; what was charged and not answered is audited when the auditor is next opened."""
        with self._work:
            self._ending = True
            self._work.notify_all()
        self.examiner.stop()
        self._thread.join()
        self.storage.close()

    def met(self, host: str, port: int) -> None:
        """Somebody called from there: take back what it contradicts of the distance that was claimed."""
        level = level_of(host, port, self._claimed)
        if level != self._claimed:
            with self._turn:
                self.storage.note_separation(level)

    # --- what may be asked ----------------------------------------------------------------------------------------

    def set_up(self, setup: Setup) -> str:
        """The suite of the project that started this auditor, which is set up on first use; its name.

        The slot is measured: twice as long as the slowest model of the base's size takes, and a little.

        Raises:
            SuiteError, DoorError: the terms cannot be served.
            ModelError: the base is no checkpoint.
        """
        if self.may_name is not None and setup.terms.sealed not in (None, *self.may_name):
            raise DoorError("audit.sealed: expected the file that this auditor was started with; run the project that names the file.")
        name = name_of_suite(setup.project, setup.terms)
        with self._turn:
            if self.meter.suite(name) is None:
                worst = measure_worst(self.examiner, sealed_suite(name, setup.terms, self.storage.secret), Path(setup.base))
                self.storage.add(name, setup.terms, 2 * worst + 2)
            else:
                self.storage.add(name, setup.terms)
        return name

    def status(self, name: str) -> Status:
        """Of one suite: its terms, and how often it has answered. Follows from the published terms and the answers given.

        Raises:
            DoorError: no such suite.
        """
        suite, now = self.storage.suite(name), self.clock()
        pools = self.meter.pools_of(suite, now)
        submissions, passes = self.meter.counts(name, now)
        return Status(
            auditor=self.storage.public_key.text(), suite=name, generator=str(suite.facts["generator"]), commitment=suite.commitment,
            claims=tuple(suite.terms.bars), bars=suite.terms.bars, clusters=suite.facts["clusters"], delta=suite.terms.delta,
            meter=suite.terms.meter, bits_allowed=self.meter.bits_allowed(suite),
            bits_used=sum(p.allowance.spent(p.replies, p.passes) for p in pools), submissions_used=submissions,
            submissions_left=min(p.allowance.submissions - p.replies - p.pending for p in pools), passes_given=passes,
            passes_left=min((p.allowance.passes if p.allowance.kind == "counted" else p.allowance.submissions) - p.passes for p in pools),
            pending=max(p.pending for p in pools), slot=suite.slot, takes="folder" if self.takes_folders else "upload",
            separation=self.storage.separation(),
        )  # fmt: skip

    def submit(self, submission: Submission, account: str) -> Receipt:
        """Take in a model and charge it; the answer is there when the receipt says.

        Raises:
            ModelError: it is not the checkpoint it claims to be, or none.
            BudgetSpentError, WaitError, ClosedError, DoorError: refused. Nothing was charged in any of these cases.
        """
        suite = self.storage.suite(submission.suite)
        if suite.name.endswith(SHADOW):
            raise DoorError(f"suite {suite.name!r}: expected one that answers, and this is a shadow; correct the name.")
        self.meter.refuse_if_closed()
        known = self.meter.find(suite.name, submission.digest)
        if known is not None and self.meter.heard_by(known.number, account) is not None:
            return Receipt(submission=known.number, due=known.due)
        if (submission.folder is not None) != self.takes_folders:
            raise DoorError(f"submission: this auditor takes {'a folder' if self.takes_folders else 'uploads'}; submit it that way.")
        # Also a model that is known must be shown: a digest alone is no proof of having it.
        self.intake.take(submission.digest, Path(submission.folder) if submission.folder is not None else None, account)
        try:
            with self._turn:
                now = self.clock()
                charge, new = self.meter.charge(suite, submission.digest, account, now, (self.ledger.size, self.ledger.head))
                if new:
                    self.storage.owe(charge)
                self.storage.write_down(now)
        finally:
            self._drop_unless_wanted(submission.digest)
            with self._work:  # also where the ledger could not be written to: what is charged is audited
                self._work.notify_all()
        return Receipt(submission=charge.number, due=charge.due)

    def _drop_unless_wanted(self, digest: str) -> None:
        with self._turn:
            if not self.meter.wanted(digest):
                self.intake.drop(digest)

    def receipt(self, suite: str, digest: str, account: str) -> Receipt:
        """The receipt of a model that the account has submitted before.

        Raises:
            DoorError: it has not.
        """
        charge = self.meter.find(self.storage.suite(suite).name, digest)
        if charge is None or self.meter.heard_by(charge.number, account) is None:
            raise DoorError("model: expected one that this account has submitted; submit it.")
        return Receipt(submission=charge.number, due=charge.due)

    def reply(self, number: int, account: str) -> Reply | Receipt:
        """The answer to a submission of the account's own; the receipt until it is due.

        Raises:
            DoorError: the account has made no such submission.
            ClosedError: the auditor is in doubt, or its clock went back.
        """
        charge = self.meter.heard_by(number, account)
        if charge is None:
            raise DoorError(f"submission {number}: expected one that this account has made; check the number.")
        self.meter.refuse_if_closed()
        now = self.meter.now(self.clock())  # always: how long this takes must not tell whether the audit is over
        if charge.word is None or now < charge.due:
            return Receipt(submission=charge.number, due=charge.due)
        with self._turn:
            self.storage.write_down(now)
        return Reply(verdict=charge.word)

    def attestation(self, number: int, account: str) -> dict[str, Any]:
        """The signed statement of what a submission of the account's own passed.

        Raises:
            DoorError: it has not passed, is not due, or the meter randomises its verdicts.
        """
        answer = self.reply(number, account)
        if not isinstance(answer, Reply) or answer.verdict != "pass":
            raise DoorError(f"submission {number}: no attestation; only what has passed is attested, once its answer is due.")
        charge = self.meter.heard_by(number, account)
        assert charge is not None
        return attestation(self.storage, charge, self.clock())

    # --- answering ------------------------------------------------------------------------------------------------

    def _answer_all(self) -> None:
        while True:
            with self._work:
                # A shadow's burn is its operator's to finish.
                waiting = [c for c in self.meter.unanswered() if not c.suite.endswith(SHADOW)]
                if not waiting and not self._ending:
                    self._work.wait()
                    continue
                if self._ending:
                    return
            try:
                self._answer(waiting[0])
            except Exception:
                # Not the examination, which cannot raise: the disk, say. The charge stands; try again.
                log.exception("an answer could not be settled")
                with self._work:
                    self._work.wait(1.0)

    def _answer(self, charge: Charge) -> None:
        suite = self.storage.suite(charge.suite)
        word, reached = self._examine(suite, charge)
        if self._ending:
            return  # killed half-way by ``close``: it is audited again when the auditor is next opened
        with self._turn:
            word = self.meter.settle(charge, word, reached)
            self.storage.owe_answer(charge, word)
        self._drop_unless_wanted(charge.model)

    def _examine(self, suite: Suite, charge: Charge) -> tuple[Word, float | None]:
        word: Word = "fail"
        reached: float | None = None
        try:
            copy = self.intake.copy_of(charge.model)
            if checkpoint_digest(copy) == charge.model and weight_files(copy):
                sealed = self.storage.sealed(suite)
                answers = self.examiner.answers(copy, sealed.questions, sealed.instruction, suite.slot * SHARE_OF_SLOT)
                right = verdict.tally(sealed.chosen, answers)
                bits = self.meter.bits_allowed(suite)
                word, reached = verdict.decide(right, suite.terms, bits, self.meter.reached(suite.name))
        except Exception as error:
            # What went wrong may depend on sealed data; it is the auditor's to know, and to the lab it is a failure.
            log.warning("submission %d: %s", charge.number, type(error).__name__)
        if suite.terms.meter == "randomised":
            word = verdict.turned(word, suite.terms.flip, self.storage.secret, suite.name, charge.model)
        return word, reached

    # --- each wing keeps the other's checkpoints ------------------------------------------------------------------

    def see(self, sighting: Sighting) -> str:
        """Keep a lab's checkpoint and countersign it.

        Raises:
            WitnessError: it does not continue what was seen before; both are kept as evidence.
        """
        key = VerifyKey.parse(sighting.key)
        # A folder for each key: two labs may give their ledgers the same name.
        with self._turn:
            Witness(self.storage.folder / "witness" / key.keyid[:32]).see(sighting.checkpoint, key, sighting.proof)
        return cosign(sighting.checkpoint, self.storage.key)

    def show(self, seen: str | None) -> Shown:
        """The auditor's own checkpoint, continuing the one that the lab holds.

        A checkpoint of the auditor's own making that its ledger does not continue means that the ledger was rolled back: the
        auditor closes.

        Raises:
            WitnessError: ``seen`` is not a checkpoint of this auditor.
        """
        with self._turn:
            self.storage.write_down(self.clock())
            proof: list[str] = []
            if seen is not None:
                before = read_checkpoint(seen, self.storage.public_key)
                if not self._continues(before):
                    self.meter.close_for_good("a lab holds a checkpoint that the ledger does not continue: the ledger was rolled back")
                    raise WitnessError("checkpoint: this auditor signed it and its ledger does not continue it; the auditor is closed.")
                proof = self.ledger.consistency(before.size)
            return Shown(key=self.storage.public_key.text(), checkpoint=self.ledger.checkpoint(self.storage.key), proof=tuple(proof))

    def _continues(self, before: Checkpoint) -> bool:
        """Whether the ledger, as it is now, extends what a checkpoint says of it."""
        if before.size > self.ledger.size:
            return False
        proof = [bytes.fromhex(hash_) for hash_ in self.ledger.consistency(before.size)]
        return verify_consistency(before.size, self.ledger.size, before.root, self.ledger.root, proof)
