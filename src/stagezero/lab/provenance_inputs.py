"""What a campaign writes down so that its stages can be traced and rebuilt from the ledger alone: sizes, channels, programs' text."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from stagezero.ledger import canonical
from stagezero.models import MAX_NEW_TOKENS, checkpoint_digest, materialise
from stagezero.models.checkpoint import tensors, weight_files
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.recipes import SELF, Command, Distil, Merge

LONGEST_FILE = 1 << 16
"""Bytes of a program that the ledger takes; of a longer one it has the digest, and whoever rebuilds brings the file."""
MOST_TOKEN_BITS = 18.0


def weights_bits(folder: Path) -> int:
    """The size of a checkpoint's weights."""
    return 8 * sum(path.stat().st_size for path in weight_files(folder))


def training_bits(suite: Suite) -> int:
    """The size of all human data that a recipe could draw on, as canonical text."""
    return 8 * sum(len(canonical([i.input, i.demonstration, i.rejected or ""])) for i in suite.train_items())


def texts_of(recipe: Recipe) -> dict[str, str]:
    """Digest → text of the files that a recipe's commands name, where they are text and not too long."""
    found = {}
    for name in sorted({name for step in recipe.steps if isinstance(step, Command) for name in step.inputs}):
        content = Path(name).read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(content) <= LONGEST_FILE:
            found[hashlib.sha256(content).hexdigest()] = text
    return found


def channel_entry(step: Distil | Merge, base: Path, suite: Suite) -> dict[str, Any]:
    """What a declared channel let through: from which model, and at most how many bits."""
    if step.source == SELF:
        digest, bits = "", 0  # nothing from elsewhere: the build's own model labelled its data
    else:
        folder = base if step.source == "base" else materialise(step.source)
        digest = checkpoint_digest(folder)
        bits = (
            weights_bits(folder) if isinstance(step, Merge) else math.ceil(len(suite.train_items()) * MAX_NEW_TOKENS * _token_bits(folder))
        )
    name = Path(step.source).name if Path(step.source).is_absolute() else step.source
    return {
        "step": step.step, "source": step.source if step.source in (SELF, "base") else "model", "name": name, "digest": digest,
        "bits": bits,
    }  # fmt: skip


def _token_bits(folder: Path) -> float:
    """Bits of one token of a model's: the rows of its embedding say how many there are."""
    rows = [shape[0] for name, (shape, _) in tensors(folder).items() if "embed" in name and len(shape) == 2]
    return math.log2(max(rows)) if rows else MOST_TOKEN_BITS
