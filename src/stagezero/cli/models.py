"""``stagezero models``: lists the models with a short name."""

from __future__ import annotations

from dataclasses import asdict

from stagezero.cli._output import make_table, print_json, stdout_console
from stagezero.models import known_models


def models(*, json: bool = False) -> None:
    """List the models that have a short name.

    Every option that takes a model also accepts a checkpoint folder, or hf/ORG/NAME.

    Example: `stagezero models`

    Parameters
    ----------
    json
        Print the result as one JSON object.
    """
    known = known_models()
    if json:
        print_json({k.name: asdict(k) for k in known})
        return
    rows = make_table("name", "parameters", "source", "on this machine")
    for k in known:
        rows.add_row(k.name, k.parameters, k.source, "yes" if k.ready else "created on first use")
    rows.add_row("hf/ORG/NAME", "any", "the Hugging Face Hub, safetensors only", "")
    rows.add_row("./folder", "any", "a Transformers checkpoint", "")
    stdout_console().print(rows)
