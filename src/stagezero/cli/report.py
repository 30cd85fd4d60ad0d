"""``stagezero report``: writes the report of a run again."""

from __future__ import annotations

from pathlib import Path

from stagezero.cli._output import print_json, stdout_console
from stagezero.cli.run import as_json
from stagezero.errors import InputError
from stagezero.report import gather, write_page


def report(folder: Path, /, *, json: bool = False) -> None:
    """Write the report of a run from its ledger, as one self-contained HTML file.

    Example: `stagezero report runs/first-bootstrap`

    Parameters
    ----------
    folder
        The folder of a run, for example runs/first-bootstrap.
    json
        Also print the result as one JSON object.
    """
    if folder.is_file():
        if folder.name != "ledger.jsonl":
            raise InputError(f"{folder}: expected the folder of a run, or its ledger.jsonl; correct the path.")
        folder = folder.resolve().parent
    page = write_page(folder)
    if json:
        print_json(as_json(gather(folder), page))
    else:
        stdout_console().print(f"report: {page}", soft_wrap=True)
