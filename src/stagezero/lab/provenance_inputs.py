"""Computes the ledger fields from which a stage can be traced and rebuilt without other files.

These are the sizes of weights and training data, the declared channels, and the text of programs.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

from stagezero.ledger import canonical
from stagezero.models import checkpoint_digest, materialise
from stagezero.models.checkpoint import tensors, weight_files
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.recipes import SELF, Command, Distil, Merge

MAX_PROGRAM_BYTES = 1 << 16
"""Bytes of a program whose text the ledger contains. Of a longer program the ledger has the digest
only, and a rebuild needs the file (``stagezero rebuild --files``)."""
DEFAULT_TOKEN_BITS = 18.0
"""Bits of one token of a model whose vocabulary size is unknown."""


def weights_bits(folder: Path) -> int:
    """Return the size of a checkpoint's weight files in bits."""
    return 8 * sum(path.stat().st_size for path in weight_files(folder))


def training_bits(suite: Suite) -> int:
    """Return the size in bits of all human data that a recipe can use, as canonical text."""
    return 8 * sum(len(canonical([i.input, i.demonstration, i.rejected or ""])) for i in suite.train_items())


def program_texts(recipe: Recipe) -> dict[str, str]:
    """Return the files that a recipe's commands name, as digest → text.

    Files that are not UTF-8 text or exceed ``MAX_PROGRAM_BYTES`` are left out.
    """
    texts = {}
    for name in sorted({name for step in recipe.steps if isinstance(step, Command) for name in step.inputs}):
        content = Path(name).read_bytes()
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if len(content) <= MAX_PROGRAM_BYTES:
            texts[hashlib.sha256(content).hexdigest()] = text
    return texts


def channel_entry(step: Distil | Merge, base: Path, suite: Suite, max_tokens: int) -> dict[str, Any]:
    """Return the ledger entry of a declared channel: its source model, and an upper bound in bits.

    A merge step counts the size of the source's weights. A distil step counts the longest possible
    label for every training item.
    """
    if step.source == SELF:
        digest, bits = "", 0  # the build's own model labelled its data, so nothing came from outside
    else:
        folder = base if step.source == "base" else materialise(step.source)
        digest = checkpoint_digest(folder)
        labels = len(suite.train_items()) * max_tokens
        bits = weights_bits(folder) if isinstance(step, Merge) else math.ceil(labels * _token_bits(folder))
    name = Path(step.source).name if Path(step.source).is_absolute() else step.source
    return {
        "step": step.step, "source": step.source if step.source in (SELF, "base") else "model", "name": name, "digest": digest,
        "bits": bits,
    }  # fmt: skip


def _token_bits(folder: Path) -> float:
    """Return the bits of one token: log2 of the vocabulary size, read from the embedding."""
    rows = [shape[0] for name, (shape, _) in tensors(folder).items() if "embed" in name and len(shape) == 2]
    return math.log2(max(rows)) if rows else DEFAULT_TOKEN_BITS
