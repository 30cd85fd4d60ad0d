"""``stagezero ledger verify | prove | show``: verifies and reads a ledger; never changes one."""

from __future__ import annotations

import base64
import json as js
from pathlib import Path

from stagezero.cli._output import ledger_path, stdout_console
from stagezero.errors import InputError, WitnessError
from stagezero.ledger import VerifyKey, read
from stagezero.ledger import prove as make_proof
from stagezero.ledger import verify as verify_ledger

MAX_BODY_CHARS = 149
"""Characters of an entry's body that ``show`` prints without ``--json``."""


def _checkpoint_text(path: Path) -> str:
    """Read a checkpoint with its original line ends, which are part of what was signed."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        raise WitnessError(f"{path}: expected the UTF-8 text of a signed checkpoint; give the file as it was received.") from None
    except OSError as error:
        raise WitnessError(f"{path}: expected a signed checkpoint, got {error.strerror}; check the path.") from None


def _public_key(text: str) -> VerifyKey:
    """Parse a public key, given as text or as the path of a file."""
    return VerifyKey.parse(text if "+" in text and not Path(text).is_file() else _checkpoint_text(Path(text)))


def _empty(path: Path) -> InputError:
    return InputError(f"{ledger_path(path)}: expected a ledger, found an empty file; check the path.")


def verify(path: Path, /, *, deep: bool = False, checkpoint: Path | None = None, key: str | None = None) -> None:
    """Verify every entry of a ledger: its bytes, order and times.

    Reports the first invalid entry. Only a signed checkpoint can reveal that entries are missing at
    the end.

    Example: `stagezero ledger verify runs/first-bootstrap`

    Parameters
    ----------
    path
        A ledger, or the folder of a run.
    deep
        Also parse every entry, and reject one that is not stored as canonical JSON.
    checkpoint
        A signed checkpoint. The ledger must contain everything that it signs.
    key
        The public key of the checkpoint's signature: name+hash+base64, or a file that contains it.
    """
    signed = _checkpoint_text(checkpoint) if checkpoint is not None else None
    entries = verify_ledger(ledger_path(path), signed, _public_key(key) if key is not None else None, deep=deep)
    if not entries:
        raise _empty(path)
    agreement = " and in agreement with the checkpoint" if signed is not None else ""
    stdout_console().print(f"{entries} entries, all valid{agreement}: {ledger_path(path)}", soft_wrap=True)


def prove(path: Path, seq: int, /, *, json: bool = False) -> None:
    """Prove that a ledger contains an entry.

    Prints the entry's line, the ledger's size and Merkle root, and the path between them
    (RFC 6962). Anyone who has a signed checkpoint of that size and root can verify the proof
    without the ledger.

    Example: `stagezero ledger prove runs/first-bootstrap 5`

    Parameters
    ----------
    path
        A ledger, or the folder of a run.
    seq
        The entry's number.
    json
        Print the result as one JSON object.
    """
    proof = make_proof(ledger_path(path), seq)
    line = proof.line.decode("utf-8", errors="backslashreplace")
    if json:
        print(js.dumps({"seq": seq, "line": line, "size": proof.size, "root": proof.root.hex(), "proof": [p.hex() for p in proof.path]}))
        return
    print(f"entry  {seq}\nline   {line}\nsize   {proof.size}\nroot   {proof.root.hex()}  {base64.b64encode(proof.root).decode()}")
    for position, node in enumerate(proof.path):
        print(f"{'' if position else 'proof':<6} {node.hex()}")


def show(path: Path, /, *, kind: str | None = None, json: bool = False) -> None:
    """Print the entries of a ledger.

    Example: `stagezero ledger show runs/first-bootstrap --kind decision`

    Parameters
    ----------
    path
        A ledger, or the folder of a run.
    kind
        Print only entries of this kind: campaign, registration, pair, decision, stage, …
    json
        Print one JSON object for each entry, one per line.
    """
    out, empty = stdout_console(), True
    for entry in read(ledger_path(path)):
        empty = False
        if kind is not None and entry.kind != kind:
            continue
        if json:
            print(js.dumps({"seq": entry.seq, "kind": entry.kind, "time": entry.time, "hash": entry.hash, "body": entry.body}))
        else:
            body = js.dumps(entry.body)
            shortened = body if len(body) <= MAX_BODY_CHARS else body[:MAX_BODY_CHARS] + "…"
            out.print(f"{entry.seq:>4}  {entry.time[:19]}  {entry.kind:<12} {shortened}", soft_wrap=True)
    if empty:
        raise _empty(path)
