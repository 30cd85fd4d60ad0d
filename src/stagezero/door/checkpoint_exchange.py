"""Each wing keeps the other's signed checkpoints: what one has shown, it cannot later take back, cut short or show otherwise."""

from __future__ import annotations

from pathlib import Path

from stagezero.door.client import Door
from stagezero.door.messages import Sighting
from stagezero.errors import WitnessError
from stagezero.files import write_whole
from stagezero.ledger import Ledger, SigningKey, VerifyKey, Witness, read_checkpoint


def key_of(run: Path) -> SigningKey:
    """The key of a run: it signs the ledger's checkpoints, and what is said of its stages. Made on first use."""
    seed = run / "key"
    # The name holds part of the key, so that two runs of one name are two ledgers.
    return SigningKey.lasting(seed, f"lab-{SigningKey.lasting(seed, 'lab').verify_key.keyid[:16]}")


class Exchange:
    """A lab's ledger, and the auditor that witnesses it."""

    def __init__(self, door: Door, ledger: Ledger, folder: Path) -> None:
        """
        Args:
            folder: the run's; the lab's key and what it has seen of the auditor are kept there.
        """
        self.door, self.ledger = door, ledger
        self.key = key_of(folder)
        self.folder = folder / "witness"
        self._auditors = Witness(self.folder)

    @property
    def _cosigned(self) -> Path:
        return self.folder / "own.checkpoint"

    def run(self) -> str:
        """Look at the auditor's checkpoint and show the lab's; the lab's own with the auditor's signature under it.

        Looking comes first: an auditor that went back is shown what it signed, and closes, before it is asked for anything.

        Raises:
            WitnessError: one of the two was cut short, rolled back or split; what shows it is kept.
            DoorError: the auditor could not be reached.
        """
        auditor = self._look()
        before = self._cosigned.read_text(encoding="utf-8") if self._cosigned.is_file() else None
        proof: tuple[str, ...] = ()
        if before is not None:
            size = read_checkpoint(before, self.key.verify_key).size
            if size > self.ledger.size:
                raise WitnessError(
                    f"{self.ledger.path}: the auditor has countersigned {size} entries and {self.ledger.size} are there; restore the "
                    "ledger from a copy."
                )
            proof = tuple(self.ledger.consistency(size)) if size < self.ledger.size else ()
        shown = Sighting(key=self.key.verify_key.text(), checkpoint=self.ledger.checkpoint(self.key), proof=proof)
        cosigned = self.door.show(shown)
        read_checkpoint(cosigned, auditor)
        write_whole(self._cosigned, cosigned, mode=0o666)
        return cosigned

    def _look(self) -> VerifyKey:
        """Take the auditor's checkpoint; its key is the one it showed the first time."""
        known = self.folder / "auditor.key"
        key = VerifyKey.parse(known.read_text()) if known.is_file() else None
        seen = self._auditors.newest(key.name) if key is not None else None
        shown = self.door.look(seen)
        if key is None:
            key = VerifyKey.parse(shown.key)
            known.write_text(key.text() + "\n")
        if shown.key != key.text():
            raise WitnessError(
                f"checkpoint: the auditor shows another key than when this run began ({key.name}); ask its operator, or start "
                "anew with --fresh."
            )
        self._auditors.see(shown.checkpoint, key, shown.proof if seen is not None else ())
        return key
