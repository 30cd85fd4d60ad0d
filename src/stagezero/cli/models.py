"""``stagezero models``."""

from __future__ import annotations

from dataclasses import asdict

from stagezero.cli._output import output, print_json, table
from stagezero.models import known_models


def models(*, json: bool = False) -> None:
    """List the models that have a name here; any checkpoint folder and hf/ORG/NAME work too.

    Parameters
    ----------
    json
        Print one JSON object instead.
    """
    known = known_models()
    if json:
        print_json({k.name: asdict(k) for k in known})
        return
    rows = table("name", "parameters", "comes from", "on this machine")
    for k in known:
        rows.add_row(k.name, k.parameters, k.source, "yes" if k.ready else "made on first use")
    rows.add_row("hf/ORG/NAME", "any", "the Hugging Face hub, safetensors only", "")
    rows.add_row("./folder", "any", "a Transformers checkpoint", "")
    output().print(rows)
