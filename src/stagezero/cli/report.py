"""``stagezero report``."""

from __future__ import annotations

from pathlib import Path

from stagezero.cli._output import output, print_json
from stagezero.cli.run import as_json
from stagezero.report import gather, write_page


def report(folder: Path, /, *, json: bool = False) -> None:
    """Write a run's report anew from its ledger: one self-contained HTML file.

    Parameters
    ----------
    folder
        The folder of a run, for example runs/first-bootstrap.
    json
        Print the result as one JSON object too.
    """
    page = write_page(folder)
    if json:
        print_json(as_json(gather(folder), page))
    else:
        output().print(f"report: {page}", soft_wrap=True)
