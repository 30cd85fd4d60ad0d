"""Exports the model of a stage: a copy of its checkpoint, verified against the ledger."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path

from stagezero.errors import InputError
from stagezero.ledger.lineage import read_record
from stagezero.models import checkpoint_digest, home
from stagezero.models.checkpoint import content_files
from stagezero.training import Store


def export_model(run: Path, out: Path, stage: int | None = None) -> tuple[int, str]:
    """Copy the checkpoint of a stage's model to a new folder.

    Args:
        run: the folder of a run, or its ledger.
        out: the folder to create.
        stage: the stage's number; None for the last adopted stage.

    Returns:
        The stage's number, and the digest of its model.

    Raises:
        LedgerError: there is no valid ledger of a campaign.
        InputError: the stage or its model does not exist here, or ``out`` exists.
        OSError: the copy cannot be written; nothing of it remains.
    """
    record = read_record(run / "ledger.jsonl" if run.is_dir() else run)
    adopted = [n for n, body in record.stages.items() if body["adopted"]]
    if not record.stages:
        raise InputError(f"{run}: this run has no stage yet; let it continue with the same command.")
    number = max(adopted, default=0) if stage is None else stage
    if number not in record.stages:
        raise InputError(f"--stage {number}: the ledger has {', '.join(map(str, sorted(record.stages)))}; choose one of them.")
    digest = str(record.stages[number]["model"])
    if out.exists():
        raise InputError(f"--model: {out} exists already; name a new folder.")
    stores = (home() / "store", Path("rebuilds") / record.name / "first")  # the second one is that of stagezero rebuild
    folder = next((found for store in stores if (found := Store(store).find_digest(digest)) is not None), None)
    if folder is None:
        raise InputError(
            f"the model of stage {number} ({digest[:16]}) is not in the store {home() / 'store'}; "
            f"make it again with: stagezero rebuild {shlex.quote(str(run))} --stage {number}"
        )
    staging: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".making-", dir=out.parent))
        for path in content_files(folder):
            shutil.copyfile(path, staging / path.name)
        if checkpoint_digest(staging) != digest:
            raise InputError(f"{folder}: the stored model changed while it was copied; run the command again.")
        staging.chmod(0o777 & ~_umask())
        staging.rename(out)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(out)) from None
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
    return number, digest


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
