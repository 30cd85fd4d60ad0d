"""``stagezero ledger verify | show``."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from stagezero.cli._show import output

app = App(name="ledger", help="Check a ledger, or read it.")


def _file(path: Path) -> Path:
    return path / "ledger.jsonl" if path.is_dir() else path


@app.command
def verify(path: Path, /) -> int:
    """Check every entry of a ledger: bytes, order and times. Names the first bad entry.

    Parameters
    ----------
    path
        A ledger, or the folder of a run.
    """
    from stagezero.ledger import verify as check

    entries = check(_file(path))
    output().print(f"{entries} entries, all sound: {_file(path)}", soft_wrap=True)
    return 0


@app.command
def show(path: Path, /, *, kind: str | None = None, json: bool = False) -> int:
    """Print a ledger's entries.

    Parameters
    ----------
    path
        A ledger, or the folder of a run.
    kind
        Only entries of this kind: campaign, registration, pair, decision, stage, …
    json
        One JSON object a line.
    """
    import json as js

    from stagezero.ledger import read

    out = output()
    for entry in read(_file(path)):
        if kind is not None and entry.kind != kind:
            continue
        if json:
            print(js.dumps({"seq": entry.seq, "kind": entry.kind, "time": entry.time, "hash": entry.hash, "body": entry.body}))
        else:
            body = js.dumps(entry.body)
            out.print(
                f"{entry.seq:>4}  {entry.time[:19]}  {entry.kind:<12} {body if len(body) < 150 else body[:149] + '…'}",
                markup=False,
                soft_wrap=True,
            )
    return 0
