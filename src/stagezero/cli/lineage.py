"""``stagezero lineage``."""

from __future__ import annotations

import json as js
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from stagezero.cli._output import ledger_file, output, print_json, table
from stagezero.door.checkpoint_exchange import key_of
from stagezero.errors import InputError
from stagezero.files import write_whole
from stagezero.ledger import read, seal
from stagezero.ledger.lineage import Lineage, Record, record
from stagezero.ledger.lineage import lineage as trace
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
    """Aligned by whom? Every influence on a stage's model, by kind and in bits, to the roots of trust.

    Parameters
    ----------
    run
        The folder of a run, or its ledger.
    stage
        Which stage; the last one that was adopted when left out.
    others
        Ledgers of other runs, where models that this one used were made.
    attest
        Also write the stage's provenance here: SLSA v1 in an in-toto statement, signed in DSSE with the run's key.
    json
        Print one JSON object instead.
    """
    records = [record(ledger_file(path)) for path in (run, *others)]
    found = trace(records, stage)
    if attest is not None:
        _attest(run, records[0], found, attest)
    if json:
        print_json(found.as_json())
        return
    out = output()
    out.print(escape(found.line()), soft_wrap=True)
    out.print()
    rows = table("stage", "kind", "what", "by", "bits", "let in by")
    _rows(rows, found, 0)
    out.print(rows)
    out.print()
    roots = table("root of trust", "because of")
    for name, why in found.roots().items():
        roots.add_row(escape(name), escape(why))
    out.print(roots)
    out.print(escape(f"\nmodel {found.model}; auditor: {found.audited}; {found.confined}"), soft_wrap=True)
    if attest is not None:
        out.print(f"wrote {attest}, signed by {key_of(run).verify_key.text()}", soft_wrap=True)


def _rows(rows: Table, found: Lineage, depth: int) -> None:
    for i in found.influences:
        bits = f"{i.bits:,}" if i.bits is not None else ""
        rows.add_row(f"{'  ' * depth}{i.stage}", i.kind, escape(i.what), escape(i.by), bits, escape(i.let_in))
        if i.behind is not None and i.behind.run != found.run:
            _rows(rows, i.behind, depth + 1)


def _attest(run: Path, record: Record, found: Lineage, path: Path) -> None:
    if not run.is_dir():
        raise InputError("--attest: expected the folder of a run, which holds its key; give the folder and not the ledger.")
    last = list(read(ledger_file(run)))[-1]
    envelope = seal(provenance(record, found, last.hash, last.seq + 1), key_of(run))
    write_whole(path, js.dumps(envelope, indent=1) + "\n")
