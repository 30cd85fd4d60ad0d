"""``stagezero rebuild``: builds a stage again from its ledger and compares it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stagezero.cli._limits import MAX_WORKERS, check_number
from stagezero.cli._output import ConsoleProgress, make_table, print_json, stdout_console
from stagezero.lab.rebuild import RebuildInputs
from stagezero.lab.rebuild import rebuild as rebuild_stage


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
    """Rebuild a stage from its ledger alone, and compare the result with the ledger.

    The comparison is bit for bit or, in a different environment, a statistical test of equivalence.
    Exits with code 0 if everything agrees with the ledger, and with code 1 if something does not.

    Example: `stagezero rebuild runs/first-bootstrap --stage 1`

    Parameters
    ----------
    run
        The folder of a run, or its ledger. Nothing else in the folder is read.
    stage
        The stage's number; by default the last adopted stage.
    second_trainer
        Also build the stage with an independent trainer and compare the two models. This detects a
        trainer that was tampered with. It does not detect an idea that does harm by itself.
    model
        A checkpoint: also verify that it is the stage's model.
    base
        The base's name on this machine, if it differs. Its digest must be the one in the ledger.
    suite
        The suite's file. Its digest must be the one in the ledger.
    files
        Folder with the programs of command steps that were too long for the ledger.
    source
        Models whose labels or weights the stage used, if the ledger names a folder.
    out
        Folder for the builds. The same command continues an interrupted rebuild there.
    workers
        Worker processes, with one thread each.
    json
        Print the result as one JSON object.
    """
    check_number("--workers", workers, 1, MAX_WORKERS)
    with ConsoleProgress(quiet=json) as progress:
        rebuilt = rebuild_stage(
            run,
            stage,
            out,
            inputs=RebuildInputs(base, suite, files, source),
            model=model,
            second=second_trainer,
            workers=workers,
            progress=progress,
        )
        progress.close()
    if json:
        print_json(rebuilt.as_json())
    else:
        rows = make_table("", "", "")
        for finding in rebuilt.findings:
            rows.add_row("ok" if finding.same else "--", finding.subject, finding.detail)
        stdout_console().print(rows)
        verdict = "agrees with the ledger" if rebuilt.sound else "does NOT agree with the ledger"
        stdout_console().print(f"\nstage {rebuilt.stage} of {rebuilt.run} {verdict}")
    return 0 if rebuilt.sound else 1
