"""A witness: a folder that remembers the newest checkpoint of each ledger it was shown, and takes only what extends it.

Where the witness is another party than the ledger's owner, an owner who cuts entries off, goes back to an older copy,
or shows different ledgers to different people, has signed two notes that cannot both be true, or cannot get the
next one seen. Both notes are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from stagezero.errors import WitnessError
from stagezero.files import locked, write_whole
from stagezero.ledger.checkpoints import Checkpoint, read_checkpoint
from stagezero.ledger.keys import VerifyKey
from stagezero.ledger.merkle import verify_consistency

MOST_CONFLICTS = 100
LONGEST_PROOF = 128


def _hashes(proof: Sequence[str]) -> list[bytes] | None:
    if len(proof) > LONGEST_PROOF or not all(isinstance(p, str) and len(p) == 64 for p in proof):
        return None
    try:
        return [bytes.fromhex(p) for p in proof]
    except ValueError:
        return None


class Witness:
    """Checkpoints seen, in a folder: ``<name>.checkpoint`` the newest of each origin, ``<name>.conflict-….json`` two that disagree."""

    def __init__(self, folder: Path) -> None:
        """Open, or create."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, origin: str) -> Path:
        return self.folder / f"{hashlib.sha256(origin.encode()).hexdigest()[:32]}.checkpoint"

    def newest(self, origin: str) -> str | None:
        """The newest signed checkpoint seen of a ledger, word for word."""
        try:
            return self._file(origin).read_bytes().decode()
        except FileNotFoundError:
            return None

    def conflicts(self, origin: str) -> list[Path]:
        """Files that each hold two signed checkpoints which disagree, and how: ``kept``, ``shown``, ``why``, ``proof``."""
        return sorted(self.folder.glob(f"{self._file(origin).stem}.conflict-*.json"))

    def see(self, text: str, key: VerifyKey, proof: Sequence[str] = ()) -> Checkpoint:
        """Take a checkpoint that extends the newest one seen of its ledger; seeing the newest again changes nothing.

        Args:
            text: the signed checkpoint.
            key: the key of the ledger's owner; its name is the ledger's origin.
            proof: the consistency proof from ``newest(key.name)``, as hex; empty for the first, and for the same size.

        Raises:
            WitnessError: it is not signed by the key, it is of another origin, or it does not extend what was seen.
        """
        checkpoint = read_checkpoint(text, key)
        if checkpoint.origin != key.name:
            raise WitnessError(
                f"checkpoint of {checkpoint.origin!r:.80}: expected the origin {key.name!r}, the name of the key that signed it; "
                "a ledger keeps its name, and a new name would leave its past behind."
            )
        with locked(self.folder / ".lock"):
            kept_text = self.newest(key.name)
            if kept_text is None:
                if proof:
                    raise WitnessError(
                        f"checkpoint of {key.name!r}: it came with a proof and none was seen before; ask `newest` what to prove."
                    )
                write_whole(self._file(key.name), text, lasting=True)
                return checkpoint
            try:
                kept = read_checkpoint(kept_text, key)
            except WitnessError:
                self._conflict(kept_text, text, proof, "the key changed", f"{key.name!r} was seen before with the signature of another key")
            if checkpoint.size < kept.size:
                self._conflict(kept_text, text, proof, "rollback", f"{kept.size} entries were seen, and {checkpoint.size} are shown now")
            if checkpoint.size == kept.size and checkpoint.root != kept.root:
                self._conflict(kept_text, text, proof, "split view", f"two roots are signed for the same {kept.size} entries")
            hashes = _hashes(proof)
            if hashes is None or not verify_consistency(kept.size, checkpoint.size, kept.root, checkpoint.root, hashes):
                why = f"the proof does not show that {checkpoint.size} entries extend the {kept.size} seen before"
                self._conflict(kept_text, text, proof, "split view", why)
            if checkpoint.size > kept.size:
                write_whole(self._file(key.name), text, lasting=True)
            return checkpoint

    def _conflict(self, kept: str, shown: str, proof: Sequence[str], name: str, why: str) -> NoReturn:
        """Keep both notes, and say so."""
        stem = self._file(shown.split("\n", 1)[0]).stem
        path = self.folder / f"{stem}.conflict-{hashlib.sha256((kept + shown).encode()).hexdigest()[:16]}.json"
        full = len(self.conflicts(shown.split("\n", 1)[0])) >= MOST_CONFLICTS
        if not path.exists() and not full:
            short = [str(p)[:64] for p in proof[:LONGEST_PROOF]]
            found = {"why": f"{name}: {why}", "kept": kept, "shown": shown, "proof": short}
            write_whole(path, json.dumps(found, indent=1) + "\n", lasting=True)
        raise WitnessError(
            f"checkpoint: {name}: {why}; both signed notes are kept in {path if path.exists() else self.folder}, show them to its owner."
        )
