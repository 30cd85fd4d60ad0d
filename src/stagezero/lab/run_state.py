"""Describes a run in the ledger's entry 0, and checks that a continued run still matches it.

This module also stores the auditor's last status beside the ledger, for the report.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stagezero.door.messages import SEPARATIONS, Status
from stagezero.errors import RunChangedError
from stagezero.files import write_atomic
from stagezero.lab.provenance_inputs import training_bits, weights_bits
from stagezero.lab.resolved_project import ResolvedProject
from stagezero.ledger import Ledger
from stagezero.models import checkpoint_digest
from stagezero.researchers import Researcher
from stagezero.training.data import portable_form
from stagezero.trials.versions import check_versions, current_versions

AUDITOR_STATUS_FILE = "door.json"
MAX_LISTED_CHANGES = 4
"""Changed fields that an error message lists."""
MAX_VALUE_CHARACTERS = 60
"""Characters of a changed value in an error message."""


def save_auditor_status(folder: Path, status: Status, certificate: Mapping[str, object]) -> None:
    """Store the auditor's status and certificate, and the weakest separation in the whole run.

    The file is not part of the ledger. A run that continues on another machine may have a weaker or
    stronger separation from its auditor, and it is still the same run.
    """
    earlier = load_auditor_status(folder)
    levels = [status.separation, *([earlier["separation"]] if earlier is not None else [])]
    weakest = min(levels, key=SEPARATIONS.index)
    write_atomic(
        folder / AUDITOR_STATUS_FILE,
        json.dumps({"separation": weakest, "status": status.model_dump(mode="json"), "certificate": dict(certificate)}, indent=1),
    )


def load_auditor_status(folder: Path) -> dict[str, Any] | None:
    """Return the stored status, certificate and separation; None if no auditor has replied."""
    try:
        stored: dict[str, Any] = json.loads((folder / AUDITOR_STATUS_FILE).read_text())
    except (OSError, ValueError):
        return None
    return stored


def _described_project(resolved: ResolvedProject) -> dict[str, Any]:
    """Return the project as entry 0 contains it. Fields of later releases appear only if set."""
    hidden: dict[str, Any] = {"workers": True, "audit": {"folder", "token_file", "ca_file"}}
    later = {name: True for name in ("answer_tokens", "chat_template") if getattr(resolved.project, name) is None}
    return resolved.project.model_dump(mode="json", exclude={**hidden, **later})


def describe_project(resolved: ResolvedProject, researchers: Sequence[Researcher]) -> dict[str, Any]:
    """Return the part of entry 0 that is known before anything is built.

    It contains the project, the digests of the files that the project names, and the versions of
    the decision rule and the scorer.
    """
    suite = resolved.suite
    return {
        **current_versions(),
        # The number of workers and the places of the auditor and its files do not affect any
        # result.
        "project": _described_project(resolved),
        "suite": suite.digest(),
        "properties": list(suite.properties),
        "capabilities": list(suite.capabilities),
        "finite_suite": suite.finite,
        "stage0": portable_form(resolved.stage0.canonical()),
        "ideas": _digests_on_file(researchers),
        "training_bits": training_bits(suite),
        "stagezero": importlib.metadata.version("stagezero"),
        **({} if resolved.chat_template is None else {"chat_template": resolved.chat_template}),
    }


def describe_build(base: Path, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rest of entry 0, which needs the base and a worker process."""
    return {"base": checkpoint_digest(base), "base_bits": weights_bits(base), "environment": dict(environment)}


def _digests_on_file(researchers: Sequence[Researcher]) -> dict[str, str]:
    """Return researcher and title → digests of the idea files with that title."""
    by_title: dict[str, list[str]] = {}
    for researcher in researchers:
        for idea in researcher.ideas_on_file:
            by_title.setdefault(f"{researcher.name}: {idea.title}", []).append(idea.digest())
    return {title: " ".join(sorted(digests)) for title, digests in by_title.items()}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested dictionaries as one dictionary with dotted keys."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in _flatten(inner, f"{prefix}.{key}" if prefix else str(key)).items()}
    return {prefix: value}


def check_unchanged(ledger: Ledger, described: dict[str, Any]) -> None:
    """Refuse to continue a run with another project, or with another ledger format.

    Args:
        ledger: the run's ledger; an empty one matches every project.
        described: fields of entry 0. Only these are compared, so that a part of entry 0 can be
            checked before the rest is known.

    Raises:
        RunChangedError: something has changed since the run began; names the changes.
    """
    if not ledger.entries:
        return
    check_versions(ledger)
    before, now = _flatten({key: ledger.entries[0].body.get(key) for key in described}), _flatten(described)
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        listed = "; ".join(f"{key}: was {_shorten(before.get(key))}, now {_shorten(now.get(key))}" for key in changed[:MAX_LISTED_CHANGES])
        more = f" and {len(changed) - MAX_LISTED_CHANGES} more" if len(changed) > MAX_LISTED_CHANGES else ""
        raise RunChangedError(
            f"{ledger.path.parent}: the project changed since this run began ({listed}{more}); undo the change, or start anew with --fresh."
        )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 3] + "…"
