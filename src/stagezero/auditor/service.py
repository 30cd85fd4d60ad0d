"""The auditor as a small HTTP service: status, and submissions answered with one word.

Colocated for now: a process, a folder, a secret and a database of its own, which stops accidents and no attacker.
The order inside a submission is what matters and does not change: copy, hash the copy, charge, touch sealed
data, settle, answer. Anything that goes wrong after the charge is a "fail".
"""

from __future__ import annotations

import logging
import secrets
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse

from stagezero.auditor import sealed as sealed_items
from stagezero.auditor import verdict as rule
from stagezero.auditor.meter import Meter, Verdict
from stagezero.door.messages import Refusal, Reply, Status, Submission, Terms
from stagezero.errors import BudgetSpentError, ModelError
from stagezero.ledger import Ledger, file_digest
from stagezero.models import Model, checkpoint_digest, home
from stagezero.models.checkpoint import check, content_files
from stagezero.private import lasting_secret
from stagezero.tasks import load_suite

log = logging.getLogger("stagezero.auditor")


class Auditor:
    """One set of sealed items and everything that was ever asked about it."""

    def __init__(self, folder: Path, terms: Terms) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.folder = folder
        self.terms = terms
        # The budget belongs to the sealed items. Generated ones live and die with this folder's secret; a file's items are
        # the same items in whatever folder they are served from, so their meter is found by the file's own digest.
        keep = folder if terms.sealed is None else home() / "auditors" / file_digest(Path(terms.sealed))
        keep.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.meter = Meter(keep / "meter.sqlite", terms)
        self.items = sealed_items.draw(terms, lasting_secret(keep / "secret"))
        self.ledger = Ledger(folder / "ledger.jsonl")
        for left_over in folder.glob("copy-*"):  # of an audit that was killed; the ledger's lock says that none is running
            shutil.rmtree(left_over, ignore_errors=True)
        self.ledger.catch_up()
        if not self.ledger.entries:
            self.ledger.record("terms", terms.model_dump(mode="json"))
        self._turn = threading.Lock()

    def status(self) -> Status:
        submissions, passes = self.meter.used()
        return Status(
            generator=sealed_items.generator_of(self.terms),
            claims=tuple(self.terms.bars),
            clusters={claim: len(chosen) for claim, chosen in self.items.items()},
            bits_allowed=self.meter.bits_allowed,
            submissions_used=submissions,
            submissions_left=self.terms.submissions - submissions,
            passes_left=self.terms.passes - passes,
            separation="colocated",
        )

    def audit(self, submission: Submission) -> Verdict:
        """One submission, start to end; one at a time.

        Raises:
            ModelError: it is not the checkpoint it claims to be. Nothing was charged.
            BudgetSpentError: nothing is left. Nothing was charged.
        """
        with self._turn:
            known = self.meter.verdict_of(submission.digest)
            if known is not None:
                return known
            copy = Path(tempfile.mkdtemp(prefix="copy-", dir=self.folder))
            try:
                source = Path(submission.folder)
                check(source)
                for path in content_files(source):
                    shutil.copyfile(path, copy / path.name)
                if checkpoint_digest(copy) != submission.digest:
                    raise ModelError(
                        "submission: the checkpoint is not the one its digest names; submit the digest of what is in the folder."
                    )
                self.meter.charge(submission.digest)
                self.ledger.record("charged", {"model": submission.digest})
                found = self._examine(copy)
                self.meter.settle(submission.digest, found)
                self.ledger.record("verdict", {"model": submission.digest, "verdict": found})
                return found
            finally:
                shutil.rmtree(copy, ignore_errors=True)

    def _examine(self, copy: Path) -> Verdict:
        try:
            instruction = load_suite(self.terms.suite).instruction
            right = rule.examine(Model(copy), self.items, instruction)
            return "pass" if rule.passes(right, self.terms, self.meter.bits_allowed) else "fail"
        except Exception:
            # What went wrong depends on sealed data; it is the auditor's to know, and to the lab it is a failure.
            log.exception("audit failed")
            return "fail"


def application(auditor: Auditor, token: str) -> FastAPI:
    """The HTTP surface."""
    app = FastAPI(title="stagezero auditor", version="1")

    def known(authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401)

    @app.get("/status", dependencies=[Depends(known)])
    def status() -> Status:
        return auditor.status()

    @app.post("/submissions", dependencies=[Depends(known)], response_model=Reply)
    def submit(submission: Submission) -> Reply | JSONResponse:
        try:
            return Reply(verdict=auditor.audit(submission))
        except BudgetSpentError as error:
            return JSONResponse(Refusal(reason=str(error)).model_dump(), 409)
        except ModelError as error:
            return JSONResponse(Refusal(reason=str(error)).model_dump(), 400)

    return app
