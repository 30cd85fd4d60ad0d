"""Where a campaign lives, and the check that a half-finished run still belongs to its project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stagezero.door.messages import SEPARATIONS, Status
from stagezero.errors import RunChangedError
from stagezero.files import write_whole
from stagezero.ledger import Ledger

DOOR = "door.json"


def remember_door(folder: Path, status: Status, certificate: Mapping[str, object]) -> None:
    """Keep what the auditor said of itself last, with the weakest separation that any part of the run had.

    It lies beside the ledger: a run that is continued elsewhere may be further from its auditor or nearer, and is the same run.
    """
    before = recall_door(folder)
    levels = [status.separation, *([before["separation"]] if before is not None else [])]
    weakest = min(levels, key=SEPARATIONS.index)
    write_whole(
        folder / DOOR,
        json.dumps({"separation": weakest, "status": status.model_dump(mode="json"), "certificate": dict(certificate)}, indent=1),
    )


def recall_door(folder: Path) -> dict[str, Any] | None:
    """What ``remember_door`` kept; None where no auditor has answered."""
    try:
        found: dict[str, Any] = json.loads((folder / DOOR).read_text())
    except (OSError, ValueError):
        return None
    return found


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: value}


def check_unchanged(ledger: Ledger, described: dict[str, Any]) -> None:
    """Refuse to mix two projects in one run.

    Raises:
        RunChangedError: saying what changed since the run began.
    """
    if not ledger.entries:
        return
    # Only what is described is compared: some of it is known before there is a base or a worker, the rest after.
    before, now = _flat({key: ledger.entries[0].body.get(key) for key in described}), _flat(described)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        told = "; ".join(f"{key}: was {_short(before.get(key))}, now {_short(now.get(key))}" for key in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise RunChangedError(
            f"{ledger.path.parent}: the project changed since this run began ({told}{more}); undo the change, or start anew with --fresh."
        )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
