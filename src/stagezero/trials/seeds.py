"""Seeds of replicates.

A seed is determined by the registration and a secret. No one can choose it, and no one without the
secret can predict it.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path

from stagezero.files import load_or_create_secret
from stagezero.training.data import derive_seed
from stagezero.training.executors import Draw


def campaign_secret(folder: Path, seed: int | None) -> bytes:
    """Return the campaign's secret.

    Args:
        folder: folder of the run. A random secret is stored there, readable by its owner only.
        seed: the project's seed, from which the secret is derived. If None, the secret is drawn at
            random once.
    """
    if seed is not None:
        return hashlib.sha256(f"stagezero/campaign/{seed}".encode()).digest()
    return load_or_create_secret(folder / "secret")


def replicate_seed(secret: bytes, head: str, label: str, number: int) -> int:
    """Return HMAC(secret, ledger head, label, number) as a 48-bit seed.

    The registration determines the seed. It cannot be predicted without the secret.

    Args:
        secret: the campaign's secret.
        head: hash of the ledger's last entry, which contains or follows the registration.
        label: purpose of the seed.
        number: number of the replicate, from 1.
    """
    return int.from_bytes(hmac.digest(secret, f"{head}/{label}/{number}".encode(), "sha256")[:6], "big")


def draw_for_seed(seed: int) -> Draw:
    """Return the draw of fresh items that belongs to a replicate's seed."""
    return Draw(derive_seed(seed, "items"))
