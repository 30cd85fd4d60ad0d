"""``stagezero lineage``: lists every influence on a model, from ledgers alone."""

from __future__ import annotations

import json as js
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from stagezero.cli._output import ledger_path, make_table, print_json, stdout_console
from stagezero.door.checkpoint_exchange import load_or_create_run_key
from stagezero.errors import InputError
from stagezero.files import write_atomic
from stagezero.ledger import read, sign_statement
from stagezero.ledger.lineage import CampaignRecord, Lineage, read_record, trace_lineage
from stagezero.ledger.provenance import provenance


def lineage(
    run: Path,
    /,
    *,
    stage: int | None = None,
    others: Annotated[tuple[Path, ...], Parameter(name="--with")] = (),
    attest: Path | None = None,
    json: bool = False,
) -> None:
    """Trace every influence on a stage's model to its roots of trust.

    An influence is weights, data or an idea. For each, the command prints who made it, who admitted
    it, and the largest number of bits that it can have carried.

    Example: `stagezero lineage runs/first-bootstrap`

    Parameters
    ----------
    run
        The folder of a run, or its ledger.
    stage
        The stage's number; by default the last adopted stage.
    others
        Ledgers of other runs, which made models that this run used.
    attest
        Also write the stage's provenance to this file: SLSA v1 in an in-toto statement, signed in
        DSSE with the run's key.
    json
        Print the result as one JSON object.
    """
    records = [read_record(ledger_path(path)) for path in (run, *others)]
    traced = trace_lineage(records, stage)
    if attest is not None:
        _write_provenance(run, records[0], traced, attest)
    if json:
        print_json(traced.as_json())
        return
    out = stdout_console()
    out.print(traced.summary(), soft_wrap=True)
    out.print()
    rows = make_table("stage", "kind", "input", "by", "bits at most", "admitted by")
    _add_influences(rows, traced, 0)
    out.print(rows)
    out.print()
    roots = make_table("root of trust", "because of")
    for name, why in traced.roots().items():
        roots.add_row(name, why)
    out.print(roots)
    out.print(f"\nmodel {traced.model}; auditor: {traced.audited}; {traced.confined}", soft_wrap=True)
    if attest is not None:
        out.print(f"wrote {attest}, signed by {load_or_create_run_key(run).verify_key.text()}", soft_wrap=True)


def _add_influences(rows: Table, traced: Lineage, depth: int) -> None:
    """Add the influences of a model to a table, and below each the influences on its maker."""
    for i in traced.influences:
        bits = f"{i.bits:,}" if i.bits is not None else ""
        rows.add_row(f"{'  ' * depth}{i.stage}", i.kind, i.description, i.by, bits, i.admitted_by)
        if i.maker_lineage is not None and i.maker_lineage.run != traced.run:
            _add_influences(rows, i.maker_lineage, depth + 1)


def _write_provenance(run: Path, record: CampaignRecord, traced: Lineage, path: Path) -> None:
    """Sign the provenance of a stage with the run's key and write it to a file."""
    if not run.is_dir():
        raise InputError("--attest: expected the folder of a run, which contains its key; give the folder instead of the ledger.")
    last = list(read(ledger_path(run)))[-1]
    envelope = sign_statement(provenance(record, traced, last.hash, last.seq + 1), load_or_create_run_key(run))
    write_atomic(path, js.dumps(envelope, indent=1) + "\n")
