"""``stagezero export``: copies the model that a run adopted."""

from __future__ import annotations

from pathlib import Path

from stagezero.cli._output import print_json, stdout_console
from stagezero.lab.export import export_model


def export(run: Path, /, *, model: Path, stage: int | None = None, json: bool = False) -> None:
    """Copy the model of a stage to a folder, and verify it against the ledger.

    The folder is a Transformers checkpoint.

    Example: `stagezero export runs/first-bootstrap --model adopted`

    Parameters
    ----------
    run
        The folder of a run, or its ledger.
    model
        The folder to create.
    stage
        The stage's number; by default the last adopted stage.
    json
        Print the result as one JSON object.
    """
    number, digest = export_model(run, model, stage)
    if json:
        print_json({"stage": number, "model": digest, "folder": str(model)})
    else:
        stdout_console().print(f"model of stage {number}: {model} ({digest[:16]})", soft_wrap=True)
