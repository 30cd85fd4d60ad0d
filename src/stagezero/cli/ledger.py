"""``stagezero ledger verify | prove | show``."""

from __future__ import annotations

import base64
import json as js
from pathlib import Path

from stagezero.cli._output import ledger_file, output
from stagezero.errors import WitnessError
from stagezero.ledger import VerifyKey, read
from stagezero.ledger import prove as find
from stagezero.ledger import verify as check


def _text(path: Path) -> str:
    """A checkpoint's text, with the line ends that it was signed with."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise WitnessError(f"{path}: expected the UTF-8 text of a signed checkpoint; give the file as it was received.") from None
    except OSError as error:
        raise WitnessError(f"{path}: expected a signed checkpoint, got {error.strerror}; check the path.") from None


def _key(text: str) -> VerifyKey:
    """A public key, written out or in a file."""
    return VerifyKey.parse(text if "+" in text and not Path(text).is_file() else _text(Path(text)))


def verify(path: Path, /, *, deep: bool = False, checkpoint: Path | None = None, key: str | None = None) -> None:
    """Check every entry of a ledger: bytes, order and times. Names the first bad entry.

    Parameters
    ----------
    path
        A ledger, or the folder of a run.
    deep
        Also parse every entry, and refuse one that was not stored as canonical JSON.
    checkpoint
        A signed checkpoint: the ledger must hold what it signed. This is what shows that entries are missing at the end.
    key
        The public key that the checkpoint must be signed with, written out (name+hash+base64) or in a file.
    """
    signed = _text(checkpoint) if checkpoint is not None else None
    entries = check(ledger_file(path), signed, _key(key) if key is not None else None, deep=deep)
    against = " and as the checkpoint says" if signed is not None else ""
    output().print(f"{entries} entries, all sound{against}: {ledger_file(path)}", soft_wrap=True)


def prove(path: Path, seq: int, /, *, json: bool = False) -> None:
    """Prove that an entry is in a ledger: its line, the size and root of the ledger, and the path between them (RFC 6962).

    Whoever has a signed checkpoint of that size and root can check the proof without the ledger.

    Parameters
    ----------
    path
        A ledger, or the folder of a run.
    seq
        The entry's number.
    json
        One JSON object.
    """
    proof = find(ledger_file(path), seq)
    line = proof.line.decode("utf-8", errors="backslashreplace")
    if json:
        print(js.dumps({"seq": seq, "line": line, "size": proof.size, "root": proof.root.hex(), "proof": [p.hex() for p in proof.path]}))
        return
    print(f"entry  {seq}\nline   {line}\nsize   {proof.size}\nroot   {proof.root.hex()}  {base64.b64encode(proof.root).decode()}")
    for at, hash_ in enumerate(proof.path):
        print(f"{'' if at else 'proof':<6} {hash_.hex()}")


def show(path: Path, /, *, kind: str | None = None, json: bool = False) -> None:
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
    out = output()
    for entry in read(ledger_file(path)):
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
