"""``stagezero rebuild``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape

from stagezero.cli._output import Teller, output, print_json, table
from stagezero.lab.rebuild import Brought
from stagezero.lab.rebuild import rebuild as make


def rebuild(
    run: Path,
    /,
    *,
    stage: int | None = None,
    second_trainer: bool = False,
    model: Path | None = None,
    base: str | None = None,
    suite: str | None = None,
    files: Path | None = None,
    source: Annotated[tuple[Path, ...], Parameter(name="--source")] = (),
    out: Path = Path("rebuilds"),
    workers: int = 2,
    json: bool = False,
) -> int:
    """Make a stage again from a ledger alone, and compare it with what the ledger says: bit for bit, or by a test of equivalence.

    Exit code 0 when everything is as the ledger says, 1 when something is not.

    Parameters
    ----------
    run
        The folder of a run, or its ledger; nothing else of it is read.
    stage
        Which stage; the last one that was adopted when left out.
    second_trainer
        Also make it through an independent trainer, and compare the two: a trainer that was tampered with shows, what an idea itself
        does wrong does not.
    model
        A checkpoint that is said to be the stage's model.
    base
        The base, where it has another name here; its digest must be the ledger's.
    suite
        The suite's file; its digest must be the ledger's.
    files
        Folder with programs of command steps that were too long for the ledger.
    source
        Models whose labels or weights crossed, where the ledger names a folder.
    out
        Folder for what is built; the same command continues there.
    workers
        Worker processes, one thread each.
    json
        Print one JSON object instead.
    """
    with Teller(quiet=json) as tell:
        found = make(
            run, stage, out, brought=Brought(base, suite, files, source), model=model, second=second_trainer, workers=workers, tell=tell
        )
        tell.close()
    if json:
        print_json(found.as_json())
    else:
        rows = table("", "", "")
        for f in found.findings:
            rows.add_row("ok" if f.same else "--", f.what, escape(f.said))
        output().print(rows)
        verdict = "is as the ledger says" if found.sound else "is NOT as the ledger says"
        output().print(f"\nstage {found.stage} of {found.run} {verdict}")
    return 0 if found.sound else 1
