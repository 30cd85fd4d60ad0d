"""``stagezero attest``: fetches an auditor's signed statement."""

from __future__ import annotations

import json
from pathlib import Path

from stagezero.cli._output import stdout_console
from stagezero.door import Door
from stagezero.errors import InputError
from stagezero.files import read_text, write_atomic
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import check


def attest(
    model: Path, /, *, address: str, suite: str, token_file: Path, ca_file: Path | None = None, out: Path = Path("attestation.json")
) -> None:
    """Fetch an auditor's signed statement of what a model passed.

    The statement also lists all that was ever disclosed about the items on which the model passed.

    Example: `stagezero attest ./model --address https://auditor.example:8443 --suite candour
    --token-file token`

    Parameters
    ----------
    model
        Folder of a checkpoint that has passed.
    address
        The auditor's address.
    suite
        The suite that the model passed.
    token_file
        File that contains this lab's token.
    ca_file
        Certificate of the authority that signed the auditor's certificate, if the system does not
        know that authority.
    out
        Output file for the statement: in-toto in DSSE, as JSON.
    """
    check(model)
    if not token_file.is_file():
        raise InputError(f"--token-file: expected the file with this lab's token, but {str(token_file)!r} is not a file; check the path.")
    door = Door(address, read_text(token_file, InputError).strip(), suite, ca_file)
    try:
        envelope = door.attestation(door.receipt(checkpoint_digest(model)))
    finally:
        door.close()
    write_atomic(out, json.dumps(envelope, indent=1) + "\n")
    stdout_console().print(f"wrote {out}; anyone can verify it with: stagezero verify {out} --key KEY", soft_wrap=True)
