"""The lab's HTTP client of an auditor."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from stagezero.door.messages import (
    AuditorCheckpoint,
    CheckpointRequest,
    CosignedCheckpoint,
    LabCheckpoint,
    Receipt,
    Refusal,
    Reply,
    Setup,
    Status,
    Submission,
)
from stagezero.errors import BudgetSpentError, ClosedError, DoorError, InputError, UnreachableError, WaitError, WitnessError
from stagezero.models.checkpoint import content_files

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "::1")
UNREACHABLE_TIMEOUT_SECONDS = 60.0
"""How long an auditor may be unreachable while the lab waits for an answer."""
MAX_SLEEP_SECONDS = 30.0

WaitCallback = Callable[[float], None]
"""Called repeatedly while the lab waits for an answer, with the remaining seconds."""


def ignore_wait(_: float) -> None:
    """Do not report the wait."""


class Door:
    """A client of an auditor that is reachable over HTTP.

    It has no state of its own: two submissions of one model receive the same answer.
    """

    def __init__(self, address: str, token: str, suite: str = "", ca_file: Path | None = None, timeout: float = 3600.0) -> None:
        """Prepare the client; nothing is sent yet.

        Args:
            address: https://HOST:PORT, or http:// on this machine.
            token: the account's token, issued by the auditor's operator.
            suite: the name of one of the auditor's suites.
            ca_file: the certificate that signed the auditor's, unless it is one of the system's.
            timeout: seconds after which one HTTP request fails.

        Raises:
            InputError: a token would be sent unencrypted, or the certificate cannot be read.
        """
        url = urlsplit(address)
        if url.scheme != "https" and not (url.scheme == "http" and url.hostname in LOOPBACK_HOSTS):
            raise InputError(f"audit.address: expected https://HOST:PORT (http:// on this machine alone), got {address!r}; correct it.")
        try:
            verify = ssl.create_default_context(cafile=str(ca_file)) if ca_file is not None else True
        except (OSError, ssl.SSLError):
            raise InputError(f"audit.ca_file: expected a PEM certificate, found none at {str(ca_file)!r}; check the path.") from None
        self.address, self.suite, self._token = address, suite, token
        self._http = httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=timeout, trust_env=False, verify=verify
        )

    def _request(self, method: str, path: str, message: BaseModel | None = None, content: object = None) -> httpx.Response:
        """Send one request; return a successful response, and raise the error for any other one."""
        headers = {"Content-Type": "application/json"} if message is not None else {}
        body = message.model_dump_json(exclude_none=True).encode() if message is not None else content
        try:
            response = self._http.request(method, path, content=body, headers=headers)  # type: ignore[arg-type]
        except httpx.HTTPError as error:
            raise UnreachableError(
                f"the auditor could not be reached ({type(error).__name__}); start it again and run the same command."
            ) from None
        if response.status_code < 300:
            return response
        if response.status_code == 401:
            raise DoorError("the auditor does not know this token (401); ask its operator for one.")
        try:
            refusal = Refusal.model_validate_json(response.content)
        except ValidationError:
            raise DoorError(f"the auditor answered {response.status_code}; check the address.") from None
        if response.status_code == 503:
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
        """Set up a project's suite at an embedded auditor, and use that suite from now on.

        Raises:
            DoorError: the terms cannot be served; the message is the auditor's own.
        """
        status = Status.model_validate_json(self._request("POST", "/v1/setup", setup).content)
        self.suite = status.suite
        return status

    def status(self) -> Status:
        """Return the suite's terms and what is left of its budget.

        Raises:
            DoorError: the auditor could not be reached, or has no such suite.
        """
        return Status.model_validate_json(self._request("GET", f"/v1/suites/{self.suite}").content)

    def certificate(self) -> dict[str, object]:
        """Return the suite's certificate: the exact meaning of a pass."""
        certificate: dict[str, object] = self._request("GET", f"/v1/suites/{self.suite}/certificate").json()
        return certificate

    def submit(self, folder: Path, digest: str) -> Receipt:
        """Submit a checkpoint, which charges it; a repeated submission of it is free.

        Raises:
            BudgetSpentError: the budget of the sealed items is spent.
            WaitError: earlier answers are still pending.
            DoorError: the submission was refused without a charge, or the auditor was not reached.
        """
        takes = self.status().takes
        if takes == "upload":
            try:
                return self.receipt(digest)  # The auditor has the model already: no upload is needed.
            except ClosedError:
                raise
            except DoorError:
                for path in content_files(folder):
                    with path.open("rb") as handle:
                        self._request("PUT", f"/v1/models/{digest}/{path.name}", content=handle)
        source = str(folder.resolve()) if takes == "folder" else None
        submission = Submission(suite=self.suite, digest=digest, folder=source)
        return Receipt.model_validate_json(self._request("POST", "/v1/submissions", submission).content)

    def receipt(self, digest: str) -> Receipt:
        """Return the receipt of a model that this account has submitted before; charge nothing.

        Raises:
            DoorError: this account has not submitted the model.
        """
        response = self._request("GET", f"/v1/suites/{self.suite}/models/{digest}")
        return Receipt.model_validate_json(response.content)

    def reply(self, receipt: Receipt) -> Reply | Receipt:
        """Return the reply to a submission, or its receipt while it is not due."""
        response = self._request("GET", f"/v1/submissions/{receipt.submission}")
        return (Receipt if response.status_code == 202 else Reply).model_validate_json(response.content)

    def attestation(self, receipt: Receipt) -> dict[str, object]:
        """Return the signed statement of the claims that a submission passed.

        Raises:
            DoorError: the submission has not passed.
        """
        statement: dict[str, object] = self._request("GET", f"/v1/submissions/{receipt.submission}/attestation").json()
        return statement

    def submit_and_wait(self, folder: Path, digest: str, waiting: WaitCallback = ignore_wait) -> Reply:
        """Submit a checkpoint and return its verdict; block until it is due, without a time limit.

        Raises:
            BudgetSpentError: the budget of the sealed items is spent.
            ClosedError: the auditor is closed.
            DoorError: the submission was refused without a charge, or the auditor was not reached.
        """
        return self.wait_for_reply(self.submit_when_free(folder, digest, waiting), waiting)

    def submit_when_free(self, folder: Path, digest: str, waiting: WaitCallback = ignore_wait) -> Receipt:
        """Submit a checkpoint; first wait for pending answers if the budget requires it.

        Raises:
            BudgetSpentError, ClosedError, DoorError: as in ``submit_and_wait``.
        """
        while True:
            try:
                return self.submit(folder, digest)
            except WaitError as error:
                _wait_until(error.until, waiting)

    def wait_for_reply(self, receipt: Receipt, waiting: WaitCallback = ignore_wait) -> Reply:
        """Return the reply to a submission; block until it is due.

        Raises:
            ClosedError, DoorError: as in ``submit_and_wait``.
        """
        unreachable_since: float | None = None
        while True:
            _wait_until(receipt.due, waiting)
            try:
                reply = self.reply(receipt)
                unreachable_since = None
            except UnreachableError:
                unreachable_since = time.monotonic() if unreachable_since is None else unreachable_since
                if time.monotonic() - unreachable_since > UNREACHABLE_TIMEOUT_SECONDS:
                    raise
                time.sleep(1.0)
                continue
            if isinstance(reply, Reply):
                return reply
            time.sleep(0.2 if reply.due == receipt.due else 0.0)
            receipt = reply

    def send_checkpoint(self, message: LabCheckpoint) -> str:
        """Send the lab's checkpoint; return it with the auditor's signature under it.

        Raises:
            WitnessError: the auditor has stored a conflicting checkpoint of this ledger.
        """
        return CosignedCheckpoint.model_validate_json(self._request("POST", "/v1/witness", message).content).checkpoint

    def fetch_checkpoint(self, newest: str | None) -> AuditorCheckpoint:
        """Return the auditor's checkpoint, with a proof that it extends the one the lab has stored.

        Args:
            newest: the auditor's newest checkpoint that the lab has stored; None if it has none.

        Raises:
            WitnessError: the auditor's ledger does not extend ``newest``.
        """
        response = self._request("POST", "/v1/checkpoint", CheckpointRequest(checkpoint=newest))
        return AuditorCheckpoint.model_validate_json(response.content)

    def close(self) -> None:
        """Close the HTTP connections."""
        self._http.close()


def _wait_until(when: float, waiting: WaitCallback) -> None:
    while (remaining := when - time.time()) > 0:
        waiting(remaining)
        time.sleep(min(remaining + 0.01, MAX_SLEEP_SECONDS))
