"""Takes in a submitted checkpoint: copies it, hashes the copy, and refuses what is no plain safetensors checkpoint.

Everything here happens before the charge, so it may depend on the submission and on nothing sealed. What is copied is a fixed set of
file names, regular files only, no links followed, sizes bounded; pickles and code are never copied, so they cannot be loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from stagezero.errors import ModelError
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import CONTENT, check

_WEIGHTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors(?:\.index\.json)?")
MOST_FILES = 512
MOST_TEXT = 64 * 2**20  # bytes of any file but the weights
MOST_UPLOADS = 4
_CHUNK = 2**20


def permitted(name: str) -> bool:
    """Whether a file of this name is part of a checkpoint."""
    return name in CONTENT or _WEIGHTS.fullmatch(name) is not None


def most_bytes(name: str, largest: int) -> int:
    """How large a file of this name may be."""
    return largest if name.endswith(".safetensors") else min(MOST_TEXT, largest)


class Intake:
    """The copies under audit, in the auditor's own folder."""

    def __init__(self, keep: Path, largest: int) -> None:
        """
        Args:
            keep: the auditor's folder; nothing in it can be submitted.
            largest: bytes that a model may have in all.
        """
        self.keep = keep.resolve()
        self.folder = keep / "intake"
        self.folder.mkdir(exist_ok=True, mode=0o700)
        self.largest = largest

    def clear(self, wanted: set[str]) -> None:
        """Remove everything but the copies that are still to be audited."""
        for path in self.folder.iterdir():
            if path.name not in wanted:
                shutil.rmtree(path, ignore_errors=True)

    def copy_of(self, digest: str) -> Path:
        """Where the checked copy of a model lies."""
        return self.folder / digest

    def drop(self, digest: str) -> None:
        """Remove a copy that has been audited."""
        shutil.rmtree(self.copy_of(digest), ignore_errors=True)

    def take(self, digest: str, source: Path | None, account: str) -> None:
        """Copy a checkpoint from a folder, or take what was uploaded, and check it.

        Raises:
            ModelError: it is not the checkpoint that its digest names, or no plain checkpoint. Nothing is kept of it.
        """
        staging = Path(tempfile.mkdtemp(prefix="taking-", dir=self.folder))
        try:
            files = self._uploaded(digest, account) if source is None else self._in_folder(source)
            left = self.largest
            for name, path in files:
                left -= self._copy(path, staging / name, min(left, most_bytes(name, self.largest)))
            self._check(staging, digest)
            try:
                staging.rename(self.copy_of(digest))
            except OSError:  # the same model is under audit already, and that copy is as good
                if not self.copy_of(digest).is_dir():
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if source is None:
                shutil.rmtree(self._upload_folder(digest, account), ignore_errors=True)

    def _in_folder(self, source: Path) -> Iterator[tuple[str, Path]]:
        try:
            inside = source.is_absolute() and source.resolve().is_relative_to(self.keep)
            if inside or not source.is_absolute():
                raise ModelError("submission: folder: expected the full path of a checkpoint folder of the lab's; correct it.")
            names = sorted(path.name for path in source.iterdir() if permitted(path.name))
        except (OSError, ValueError):
            raise ModelError(
                "submission: folder: expected a checkpoint folder that the auditor can read; check the path and its rights."
            ) from None
        if len(names) > MOST_FILES:
            raise ModelError(f"submission: expected at most {MOST_FILES} files, got {len(names)}; join the shards.")
        for name in names:
            yield name, source / name

    def _copy(self, source: Path, target: Path, most: int) -> int:
        """Copy one regular file; the number of its bytes."""
        refused = ModelError(f"submission: {target.name}: expected a regular file that the auditor can read, not a link; copy it in.")
        try:
            handle = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError):
            raise refused from None
        with os.fdopen(handle, "rb") as given, target.open("xb") as out:
            if not stat.S_ISREG(os.fstat(given.fileno()).st_mode):
                raise refused
            size = 0
            while chunk := given.read(_CHUNK):
                size += len(chunk)
                if size > most:
                    raise ModelError(
                        f"submission: {target.name}: larger than this auditor takes ({most:,} bytes left); submit a smaller model."
                    )
                out.write(chunk)
        return size

    def _check(self, folder: Path, digest: str) -> None:
        try:
            check(folder)
            found = checkpoint_digest(folder)
        except ModelError as error:
            # The reason names the auditor's own folder; the submitter's file is what is meant.
            raise ModelError("submission: " + str(error).replace(f"{folder}/", "").replace(str(folder), "the checkpoint")) from None
        except (OSError, ValueError, RecursionError):
            raise ModelError("submission: the checkpoint cannot be read; copy it again.") from None
        if found != digest:
            raise ModelError("submission: the checkpoint is not the one its digest names; submit the digest of what is in the folder.")

    # --- uploads --------------------------------------------------------------------------------------------------

    def _upload_folder(self, digest: str, account: str) -> Path:
        # One for each account: nobody can spoil what somebody else is uploading.
        return self.folder / f"upload-{hashlib.sha256(account.encode()).hexdigest()[:16]}-{digest}"

    def _uploaded(self, digest: str, account: str) -> Iterator[tuple[str, Path]]:
        folder = self._upload_folder(digest, account)
        if not folder.is_dir():
            raise ModelError("submission: no files of this digest were uploaded; upload them first, or name a folder.")
        for path in sorted(folder.iterdir()):
            if permitted(path.name):
                yield path.name, path

    def _make_room(self, wanted: Path) -> None:
        """An account has so many unfinished uploads at most; the oldest goes when another begins."""
        mine = sorted(self.folder.glob(wanted.name.rsplit("-", 1)[0] + "-*"), key=lambda path: path.stat().st_mtime)
        for old in mine[: max(0, len(mine) - MOST_UPLOADS + 1)]:
            shutil.rmtree(old, ignore_errors=True)

    async def upload(self, digest: str, name: str, account: str, body: AsyncIterator[bytes]) -> int:
        """Receive one file of a model; the number of its bytes.

        Raises:
            ModelError: the name is not part of a checkpoint, or it is too large. Nothing is kept of it.
        """
        if not permitted(name):
            raise ModelError(f"upload: {name!r:.80}: expected a file of a safetensors checkpoint; leave it out.")
        folder = self._upload_folder(digest, account)
        if not folder.is_dir():
            self._make_room(folder)
            folder.mkdir(exist_ok=True, mode=0o700)
        others = sum(path.stat().st_size for path in folder.iterdir() if path.name != name)
        most = min(most_bytes(name, self.largest), self.largest - others)
        handle, staging = tempfile.mkstemp(dir=folder, prefix=".receiving-")
        try:
            size = 0
            with os.fdopen(handle, "wb") as out:
                async for chunk in body:
                    size += len(chunk)
                    if size > most:
                        raise ModelError(f"upload: {name}: larger than this auditor takes ({most:,} bytes left); submit a smaller model.")
                    out.write(chunk)
            Path(staging).rename(folder / name)
        finally:
            Path(staging).unlink(missing_ok=True)
        return size


def beside_the_weights(folder: Path) -> dict[str, str]:
    """Name → SHA-256 of all that is not weights: configuration, tokenizer, chat template. A template can be the alignment."""
    from stagezero.ledger import file_digest

    return {name: file_digest(folder / name) for name in CONTENT if (folder / name).is_file()}
