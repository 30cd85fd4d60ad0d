"""Seeds of replicates: fixed by what was registered and a secret, so that nobody can choose or foresee them."""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from stagezero.files import lasting_secret
from stagezero.training.data import derive_seed
from stagezero.training.executors import Draw


def secret_of(folder: Path, seed: int | None) -> bytes:
    """The campaign's secret: from the project's seed where it has one, else drawn once and kept, owner-readable."""
    if seed is not None:
        return hashlib.sha256(f"stagezero/campaign/{seed}".encode()).digest()
    return lasting_secret(folder / "secret")


def replicate_seed(secret: bytes, head: str, label: str, number: int) -> int:
    """HMAC(secret, ledger head, label, number) as a 48-bit seed: fixed by the registration, foreseen by nobody."""
    return int.from_bytes(hmac.digest(secret, f"{head}/{label}/{number}".encode(), "sha256")[:6], "big")


def draw_of(seed: int) -> Draw:
    """The draw of fresh items that belongs to a replicate's seed."""
    return Draw(derive_seed(seed, "items"))
