"""What a run was begun with, and the check that a half-finished run still belongs to its project."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stagezero.door.messages import SEPARATIONS, Status
from stagezero.errors import RunChangedError
from stagezero.files import write_whole
from stagezero.lab.provenance_inputs import training_bits, weights_bits
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.ledger import Ledger
from stagezero.models import checkpoint_digest
from stagezero.researchers import Researcher
from stagezero.training.data import portable
from stagezero.trials.versions import check_format, versions

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


def describe(resolved: ResolvedProject, researchers: Sequence[Researcher]) -> dict[str, Any]:
    """What people wrote: the resolved project, and the digests of the files it names; and the versions that decide and score."""
    suite = resolved.suite
    return {
        **versions(),
        # How many work, and where the auditor and its papers lie, is no part of what is found.
        "project": resolved.project.model_dump(mode="json", exclude={"workers": True, "audit": {"keep", "token_file", "ca_file"}}),
        "suite": suite.digest(),
        "properties": list(suite.properties),
        "capabilities": list(suite.capabilities),
        "finite_suite": suite.finite,
        "stage0": portable(resolved.stage0.canonical()),
        "ideas": _on_file(researchers),
        "training_bits": training_bits(suite),
        "stagezero": importlib.metadata.version("stagezero"),
    }


def describe_build(base: Path, environment: Mapping[str, Any]) -> dict[str, Any]:
    """The rest of entry 0: what is known once there is a base and a worker."""
    return {"base": checkpoint_digest(base), "base_bits": weights_bits(base), "environment": dict(environment)}


def _on_file(researchers: Sequence[Researcher]) -> dict[str, str]:
    """Researcher and title → digest of the idea file; of several with one title, all of them."""
    found: dict[str, list[str]] = {}
    for researcher in researchers:
        for idea in researcher.ideas_on_file:
            found.setdefault(f"{researcher.name}: {idea.title}", []).append(idea.digest())
    return {title: " ".join(sorted(digests)) for title, digests in found.items()}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: value}


def check_unchanged(ledger: Ledger, described: dict[str, Any]) -> None:
    """Refuse to mix two projects, or two formats of ledgers, in one run.

    Raises:
        RunChangedError: saying what changed since the run began.
    """
    if not ledger.entries:
        return
    check_format(ledger)
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
