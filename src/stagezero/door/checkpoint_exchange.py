"""Exchanges signed ledger checkpoints between the lab and the auditor.

Each side stores the other's checkpoints. A side that later truncates its ledger, rolls it back or
presents a different one contradicts its own signature.
"""

from __future__ import annotations

from pathlib import Path

from stagezero.door.client import Door
from stagezero.door.messages import LabCheckpoint
from stagezero.errors import WitnessError
from stagezero.files import write_atomic
from stagezero.ledger import Ledger, SigningKey, VerifyKey, Witness, read_checkpoint


def load_or_create_run_key(run: Path) -> SigningKey:
    """Return the key of a run; create it on first use.

    The key signs the checkpoints of the run's ledger and the attestations about its stages.
    """
    seed = run / "key"
    # The name includes part of the key, so that two runs with one name have two ledger origins.
    return SigningKey.load_or_create(seed, f"lab-{SigningKey.load_or_create(seed, 'lab').verify_key.keyid[:16]}")


class CheckpointExchange:
    """A lab's ledger, and the auditor that witnesses it."""

    def __init__(self, door: Door, ledger: Ledger, folder: Path) -> None:
        """Open the run's witness folder.

        Args:
            door: the client of the auditor.
            ledger: the lab's ledger.
            folder: the run's folder; it stores the lab's key and the auditor's checkpoints.
        """
        self.door, self.ledger = door, ledger
        self.key = load_or_create_run_key(folder)
        self.folder = folder / "witness"
        self._auditors = Witness(self.folder)

    @property
    def _cosigned_path(self) -> Path:
        return self.folder / "own.checkpoint"

    def run(self) -> str:
        """Fetch the auditor's checkpoint, send the lab's, and store the countersigned one.

        The fetch comes first: it sends the auditor's own earlier signature, and an auditor that was
        rolled back closes on it before it receives any other request.

        Returns:
            The lab's checkpoint with the auditor's signature under it.

        Raises:
            WitnessError: one of the two ledgers was truncated, rolled back or split. The evidence
                is stored.
            DoorError: the auditor could not be reached.
        """
        auditor = self._fetch_auditor_checkpoint()
        previous = self._cosigned_path.read_text(encoding="utf-8") if self._cosigned_path.is_file() else None
        proof: tuple[str, ...] = ()
        if previous is not None:
            size = read_checkpoint(previous, self.key.verify_key).size
            if size > self.ledger.size:
                raise WitnessError(
                    f"{self.ledger.path}: the auditor has countersigned {size} entries and {self.ledger.size} are there; restore the "
                    "ledger from a copy."
                )
            proof = tuple(self.ledger.consistency(size)) if size < self.ledger.size else ()
        message = LabCheckpoint(key=self.key.verify_key.text(), checkpoint=self.ledger.checkpoint(self.key), proof=proof)
        cosigned = self.door.send_checkpoint(message)
        read_checkpoint(cosigned, auditor)
        write_atomic(self._cosigned_path, cosigned, mode=0o666)
        return cosigned

    def _fetch_auditor_checkpoint(self) -> VerifyKey:
        """Store the auditor's newest checkpoint; return the auditor's key.

        The key must be the one that the auditor presented in the first exchange of this run.
        """
        key_file = self.folder / "auditor.key"
        key = VerifyKey.parse(key_file.read_text()) if key_file.is_file() else None
        newest = self._auditors.newest(key.name) if key is not None else None
        message = self.door.fetch_checkpoint(newest)
        if key is None:
            key = VerifyKey.parse(message.key)
            key_file.write_text(key.text() + "\n")
        if message.key != key.text():
            raise WitnessError(
                f"checkpoint: the auditor's key is not the one from the start of this run ({key.name}); ask its operator, or start "
                "a new run with --fresh."
            )
        self._auditors.accept(message.checkpoint, key, message.proof if newest is not None else ())
        return key
