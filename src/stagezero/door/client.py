"""The lab's side of the door."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from stagezero.door.messages import Cosigned, Receipt, Refusal, Reply, Seen, Setup, Shown, Sighting, Status, Submission
from stagezero.errors import BudgetSpentError, ClosedError, DoorError, InputError, UnreachableError, WaitError, WitnessError
from stagezero.models.checkpoint import content_files

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PATIENCE = 60.0  # seconds that an auditor may be out of reach while an answer is awaited
LONGEST_NAP = 30.0

Waiting = Callable[[float], None]
"""Told while an answer is awaited: seconds that are left."""


def quiet(_: float) -> None:
    """Tell nobody."""


class Door:
    """An auditor reachable over HTTP. Holds no state: asking twice about the same model gives the same answer."""

    def __init__(self, address: str, token: str, suite: str = "", ca_file: Path | None = None, timeout: float = 3600.0) -> None:
        """
        Args:
            address: https://HOST:PORT, or http:// on this machine.
            token: the account's, as the auditor's operator gave it out.
            suite: which of the auditor's suites.
            ca_file: certificate that signed the auditor's, where it is not one of the system's.

        Raises:
            InputError: a token would travel in the clear, or the certificate cannot be read.
        """
        where = urlsplit(address)
        if where.scheme != "https" and not (where.scheme == "http" and where.hostname in LOOPBACK):
            raise InputError(f"audit.address: expected https://HOST:PORT (http:// on this machine alone), got {address!r}; correct it.")
        try:
            verify = ssl.create_default_context(cafile=str(ca_file)) if ca_file is not None else True
        except (OSError, ssl.SSLError):
            raise InputError(f"audit.ca_file: expected a PEM certificate, found none at {str(ca_file)!r}; check the path.") from None
        self.address, self.suite, self._token = address, suite, token
        self._http = httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=timeout, trust_env=False, verify=verify
        )

    def _call(self, method: str, path: str, message: BaseModel | None = None, content: object = None) -> httpx.Response:
        headers = {"Content-Type": "application/json"} if message is not None else {}
        body = message.model_dump_json(exclude_none=True).encode() if message is not None else content
        try:
            reply = self._http.request(method, path, content=body, headers=headers)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the auditor could not be reached ({type(error).__name__}); start it again and run the same command."
            ) from None
        if reply.status_code < 300:
            return reply
        if reply.status_code == 401:
            raise DoorError("the auditor does not know this token (401); ask its operator for one.")
        try:
            refusal = Refusal.model_validate_json(reply.content)
        except ValidationError:
            raise DoorError(f"the auditor answered {reply.status_code}; check the address.") from None
        if reply.status_code == 503:
            raise ClosedError(refusal.reason)
        match refusal.code:
            case "wait":
                raise WaitError(refusal.reason, refusal.wait or 0.0)
            case "budget spent":
                raise BudgetSpentError(refusal.reason)
            case "witness":
                raise WitnessError(refusal.reason)
            case _:
                raise DoorError(refusal.reason)

    def set_up(self, setup: Setup) -> Status:
        """Have an embedded auditor serve a project, and use that suite from now on.

        Raises:
            DoorError: the terms cannot be served, in the auditor's own words.
        """
        status = Status.model_validate_json(self._call("POST", "/v1/setup", setup).content)
        self.suite = status.suite
        return status

    def status(self) -> Status:
        """What the auditor offers and what is left of it.

        Raises:
            DoorError: it could not be reached, or has no such suite.
        """
        return Status.model_validate_json(self._call("GET", f"/v1/suites/{self.suite}").content)

    def certificate(self) -> dict[str, object]:
        """What a pass means, exactly."""
        found: dict[str, object] = self._call("GET", f"/v1/suites/{self.suite}/certificate").json()
        return found

    def hand_in(self, folder: Path, digest: str) -> Receipt:
        """Submit a checkpoint, which charges it; the same one again is free.

        Raises:
            BudgetSpentError: the sealed items have no disclosures left.
            WaitError: answers are still out.
            DoorError: refused without charge, or not reached.
        """
        takes = self.status().takes
        if takes == "upload":
            try:
                return self.receipt(digest)  # known already: nothing need travel
            except ClosedError:
                raise
            except DoorError:
                for path in content_files(folder):
                    with path.open("rb") as handle:
                        self._call("PUT", f"/v1/models/{digest}/{path.name}", content=handle)
        return Receipt.model_validate_json(self._submit(digest, str(folder.resolve()) if takes == "folder" else None).content)

    def _submit(self, digest: str, folder: str | None) -> httpx.Response:
        return self._call("POST", "/v1/submissions", Submission(suite=self.suite, digest=digest, folder=folder))

    def receipt(self, digest: str) -> Receipt:
        """The receipt of a model that this account has submitted before; charges nothing.

        Raises:
            DoorError: it has not.
        """
        found = self._call("GET", f"/v1/suites/{self.suite}/models/{digest}")
        return Receipt.model_validate_json(found.content)

    def answer(self, receipt: Receipt) -> Reply | Receipt:
        """The answer, or the receipt until it is due."""
        reply = self._call("GET", f"/v1/submissions/{receipt.submission}")
        return (Receipt if reply.status_code == 202 else Reply).model_validate_json(reply.content)

    def attestation(self, receipt: Receipt) -> dict[str, object]:
        """The signed statement of what a submission passed.

        Raises:
            DoorError: it has not passed.
        """
        found: dict[str, object] = self._call("GET", f"/v1/submissions/{receipt.submission}/attestation").json()
        return found

    def submit(self, folder: Path, digest: str, waiting: Waiting = quiet) -> Reply:
        """Have a checkpoint audited; blocks until the verdict is due, however long that is.

        Raises:
            BudgetSpentError: the sealed items have no disclosures left.
            ClosedError: the auditor is in doubt.
            DoorError: refused without charge, or not reached.
        """
        return self.hear(self.hand_in_when_free(folder, digest, waiting), waiting)

    def hand_in_when_free(self, folder: Path, digest: str, waiting: Waiting = quiet) -> Receipt:
        """Submit a checkpoint, after waiting for answers that are still out where there is no room beside them.

        Raises:
            BudgetSpentError, ClosedError, DoorError: as ``submit``.
        """
        while True:
            try:
                return self.hand_in(folder, digest)
            except WaitError as error:
                _wait_until(error.until, waiting)

    def hear(self, receipt: Receipt, waiting: Waiting = quiet) -> Reply:
        """The answer to a submission; blocks until it is due.

        Raises:
            ClosedError, DoorError: as ``submit``.
        """
        lost: float | None = None
        while True:
            _wait_until(receipt.due, waiting)
            try:
                found = self.answer(receipt)
                lost = None
            except UnreachableError:
                lost = time.monotonic() if lost is None else lost
                if time.monotonic() - lost > PATIENCE:
                    raise
                time.sleep(1.0)
                continue
            if isinstance(found, Reply):
                return found
            time.sleep(0.2 if found.due == receipt.due else 0.0)
            receipt = found

    def show(self, sighting: Sighting) -> str:
        """Show the lab's own checkpoint; it comes back with the auditor's signature under it.

        Raises:
            WitnessError: the auditor has seen another ledger of this name.
        """
        return Cosigned.model_validate_json(self._call("POST", "/v1/witness", sighting).content).checkpoint

    def look(self, seen: str | None) -> Shown:
        """The auditor's checkpoint, continuing the one that the lab holds.

        Raises:
            WitnessError: its ledger does not continue it.
        """
        return Shown.model_validate_json(self._call("POST", "/v1/checkpoint", Seen(checkpoint=seen)).content)

    def close(self) -> None:
        self._http.close()


def _wait_until(when: float, waiting: Waiting) -> None:
    while (left := when - time.time()) > 0:
        waiting(left)
        time.sleep(min(left + 0.01, LONGEST_NAP))
