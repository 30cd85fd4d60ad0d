"""A witness: a folder with the newest checkpoint of each ledger, which accepts only extensions.

The witness should be another party than the ledger's owner. Then an owner who removes entries,
returns to an older copy, or presents different ledgers to different people has either signed two
contradictory checkpoints or cannot have the next one accepted. The witness stores both checkpoints
as evidence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from stagezero.errors import WitnessError
from stagezero.files import locked, write_atomic
from stagezero.ledger.checkpoints import Checkpoint, read_checkpoint
from stagezero.ledger.keys import VerifyKey
from stagezero.ledger.merkle import verify_consistency

MAX_CONFLICTS = 100
MAX_PROOF_HASHES = 128


def _parse_hashes(proof: Sequence[str]) -> list[bytes] | None:
    """Decode a proof; None if it is not a list of 32-byte hashes in hex, or is too long."""
    if len(proof) > MAX_PROOF_HASHES or not all(isinstance(p, str) and len(p) == 64 for p in proof):
        return None
    try:
        return [bytes.fromhex(p) for p in proof]
    except ValueError:
        return None


class Witness:
    """A folder of accepted checkpoints.

    ``<name>.checkpoint`` contains the newest checkpoint of an origin. ``<name>.conflict-….json``
    contains two checkpoints that contradict each other. ``<name>`` is a hash of the origin.
    """

    def __init__(self, folder: Path) -> None:
        """Open the folder, and create it if necessary."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, origin: str) -> Path:
        return self.folder / f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.checkpoint"

    def newest(self, origin: str) -> str | None:
        """Return the newest accepted checkpoint of a ledger, unchanged; None if there is none."""
        try:
            return self._file(origin).read_bytes().decode()
        except FileNotFoundError:
            return None

    def conflicts(self, origin: str) -> list[Path]:
        """List the files with contradictory checkpoints of a ledger.

        Each file is a JSON object: ``kept`` is the accepted checkpoint, ``shown`` the rejected one,
        ``why`` the reason, and ``proof`` the hashes that came with it.
        """
        return sorted(self.folder.glob(f"{self._file(origin).stem}.conflict-*.json"))

    def accept(self, text: str, key: VerifyKey, proof: Sequence[str] = ()) -> Checkpoint:
        """Accept a checkpoint that extends the newest accepted one of its ledger.

        Accepting the newest one again changes nothing.

        Args:
            text: the signed checkpoint.
            key: the public key of the ledger's owner; its name is the ledger's origin.
            proof: the consistency proof from ``newest(key.name)``, as hex; empty for the first
                checkpoint and for an unchanged size.

        Raises:
            WitnessError: the key did not sign the checkpoint, its origin is another one, or it does
                not extend the newest accepted one.
        """
        checkpoint = read_checkpoint(text, key)
        if checkpoint.origin != key.name:
            raise WitnessError(
                f"checkpoint of {checkpoint.origin!r:.80}: expected the origin {key.name!r}, the name of the key that signed it; "
                "the name of a ledger must not change, because a new name would separate it from its history."
            )
        with locked(self.folder / ".lock"):
            newest_text = self.newest(key.name)
            if newest_text is None:
                if proof:
                    raise WitnessError(
                        f"checkpoint of {key.name!r}: expected no proof with the first checkpoint, got one; prove from `newest`."
                    )
                write_atomic(self._file(key.name), text, durable=True)
                return checkpoint
            try:
                newest = read_checkpoint(newest_text, key)
            except WitnessError:
                self._conflict(
                    newest_text, text, proof, "the key changed", f"earlier checkpoints of {key.name!r} have the signature of another key"
                )
            if checkpoint.size < newest.size:
                self._conflict(newest_text, text, proof, "rollback", f"expected at least {newest.size} entries, got {checkpoint.size}")
            if checkpoint.size == newest.size and checkpoint.root != newest.root:
                self._conflict(newest_text, text, proof, "split view", f"two different roots are signed for {newest.size} entries")
            hashes = _parse_hashes(proof)
            if hashes is None or not verify_consistency(newest.size, checkpoint.size, newest.root, checkpoint.root, hashes):
                reason = f"the proof does not show that the {checkpoint.size} entries extend the {newest.size} accepted before"
                self._conflict(newest_text, text, proof, "split view", reason)
            if checkpoint.size > newest.size:
                write_atomic(self._file(key.name), text, durable=True)
            return checkpoint

    def _conflict(self, accepted: str, rejected: str, proof: Sequence[str], name: str, reason: str) -> NoReturn:
        """Store both checkpoints and raise the error."""
        origin = rejected.split("\n", 1)[0]
        path = self.folder / f"{self._file(origin).stem}.conflict-{hashlib.sha256((accepted + rejected).encode()).hexdigest()[:16]}.json"
        full = len(self.conflicts(origin)) >= MAX_CONFLICTS
        if not path.exists() and not full:
            hashes = [str(p)[:64] for p in proof[:MAX_PROOF_HASHES]]
            evidence = {"why": f"{name}: {reason}", "kept": accepted, "shown": rejected, "proof": hashes}
            write_atomic(path, json.dumps(evidence, indent=1) + "\n", durable=True)
        raise WitnessError(
            f"checkpoint: {name}: {reason}; both checkpoints are stored in {path if path.exists() else self.folder}, "
            "show them to the ledger's owner."
        )
