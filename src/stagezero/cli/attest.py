"""``stagezero attest``."""

from __future__ import annotations

import json
from pathlib import Path

from stagezero.cli._output import output
from stagezero.door import Door
from stagezero.errors import InputError
from stagezero.files import read_text, write_whole
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import check


def attest(
    model: Path, /, *, address: str, suite: str, token_file: Path, ca_file: Path | None = None, out: Path = Path("attestation.json")
) -> None:
    """Fetch the auditor's signed statement of what a model passed, and of all that was ever disclosed about the items it passed on.

    Parameters
    ----------
    model
        Folder of a checkpoint that has passed.
    address
        The auditor's address.
    suite
        The suite that it passed.
    token_file
        File with this lab's token.
    ca_file
        Certificate that signed the auditor's, where it is not one of the system's.
    out
        Where to write the statement: in-toto in DSSE, as JSON.
    """
    check(model)
    if not token_file.is_file():
        raise InputError(f"--token-file: expected the file with this lab's token, found none at {str(token_file)!r}; check the path.")
    door = Door(address, read_text(token_file, InputError).strip(), suite, ca_file)
    try:
        envelope = door.attestation(door.receipt(checkpoint_digest(model)))
    finally:
        door.close()
    write_whole(out, json.dumps(envelope, indent=1) + "\n")
    output().print(f"wrote {out}; anybody can check it with: stagezero verify {out} --key KEY", soft_wrap=True)
