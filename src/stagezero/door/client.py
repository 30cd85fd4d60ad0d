"""The lab's side of the door."""

from __future__ import annotations

from pathlib import Path

import httpx

from stagezero.door.messages import Refusal, Reply, Status, Submission
from stagezero.errors import BudgetSpentError, DoorError


class Door:
    """An auditor reachable over HTTP. Holds no state: asking twice about the same model gives the same answer."""

    def __init__(self, address: str, token: str, timeout: float = 3600.0) -> None:
        self._http = httpx.Client(
            base_url=address,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            timeout=timeout,
            trust_env=False,
        )

    def _call(self, method: str, path: str, content: str | None = None) -> bytes:
        try:
            reply = self._http.request(method, path, content=content)
        except httpx.HTTPError as error:
            raise DoorError(
                f"the auditor could not be reached ({type(error).__name__}); start it again and run the same command."
            ) from None
        if reply.status_code == 409:
            raise BudgetSpentError(Refusal.model_validate_json(reply.content).reason)
        if reply.status_code == 400:
            raise DoorError(Refusal.model_validate_json(reply.content).reason)
        if reply.status_code != 200:
            raise DoorError(f"the auditor answered {reply.status_code}; check the address and the token.")
        return reply.content

    def status(self) -> Status:
        """What the auditor offers and what is left of it.

        Raises:
            DoorError: it could not be reached.
        """
        return Status.model_validate_json(self._call("GET", "/status"))

    def submit(self, folder: Path, digest: str) -> Reply:
        """Have a checkpoint audited; blocks until the verdict.

        Raises:
            BudgetSpentError: the sealed items have no disclosures left.
            DoorError: refused without charge, or not reached.
        """
        message = Submission(folder=str(folder.resolve()), digest=digest)
        return Reply.model_validate_json(self._call("POST", "/submissions", message.model_dump_json()))

    def close(self) -> None:
        self._http.close()
