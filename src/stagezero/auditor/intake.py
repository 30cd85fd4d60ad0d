"""Admits a submitted checkpoint: copies it, hashes the copy, and rejects all but plain safetensors.

All of this happens before the charge, so it may depend on the submission and never on sealed data.
It copies a fixed set of file names, regular files only, without following links, and with bounded
sizes. Pickles and code are never copied, so they cannot be loaded. The folder is open while it is
copied, and the kernel reports its location: exchanging the path in the meantime has no effect.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from stagezero.errors import ClosedError, ModelError
from stagezero.files import SourceError, copy_regular_file, is_within, open_folder, staged_file
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import CONTENT_FILES, check, weight_files

_WEIGHT_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors(?:\.index\.json)?")
MAX_FILES = 512
MAX_TEXT_BYTES = 64 * 2**20
"""The limit of any file other than weights."""
MAX_PARSED_BYTES = 16 * 2**20
"""The limit of a file that is parsed before the charge."""
MAX_CONFIG_BYTES = 2**20
MAX_UNFINISHED_UPLOADS = 4
"""The limit of one account."""


class DamagedCopyError(Exception):
    """Raised when the copy of a model that waits for its audit is missing or damaged.

    The auditor's own disk is at fault.
    """


def is_checkpoint_file(name: str) -> bool:
    """Return whether a file of this name is part of a checkpoint."""
    return name in CONTENT_FILES or _WEIGHT_FILE.fullmatch(name) is not None


def max_file_bytes(name: str, max_model_bytes: int) -> int:
    """Return the size limit of a checkpoint file of this name, in bytes."""
    if name.endswith(".safetensors"):
        return max_model_bytes
    if name == "config.json":
        return min(MAX_CONFIG_BYTES, max_model_bytes)
    is_parsed = name == "tokenizer_config.json" or name.endswith(".index.json")
    return min(MAX_PARSED_BYTES if is_parsed else MAX_TEXT_BYTES, max_model_bytes)


class Intake:
    """The copies of models under audit, in the auditor folder."""

    def __init__(self, auditor_folder: Path, max_model_bytes: int) -> None:
        """Open the intake folder; create it if necessary.

        Args:
            auditor_folder: the auditor folder; no folder inside it can be submitted.
            max_model_bytes: the size limit of a model, over all its files.
        """
        self.auditor_folder = auditor_folder.resolve()
        self.folder = auditor_folder / "intake"
        self.folder.mkdir(exist_ok=True, mode=0o700)
        self.max_model_bytes = max_model_bytes
        self._check_lock = threading.Lock()
        self._receiving = set[Path]()

    def remove_all_except(self, digests: set[str]) -> None:
        """Remove everything but the copies of these models."""
        for path in self.folder.iterdir():
            if path.name not in digests:
                shutil.rmtree(path, ignore_errors=True)

    def copy_path(self, digest: str) -> Path:
        """Return the path of the validated copy of a model."""
        return self.folder / digest

    def has_copy(self, digest: str) -> bool:
        """Return whether the copy of a model is here and undamaged."""
        copy = self.copy_path(digest)
        try:
            return bool(weight_files(copy)) and checkpoint_digest(copy) == digest
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):  # it was removed meanwhile: its model is answered
                return False
            raise

    def mend(self, digest: str, source: Path, account: str) -> None:
        """Copy a model again if its copy is missing or damaged.

        Raises:
            ModelError: as in ``admit``.
        """
        if not self.has_copy(digest):
            self.remove(digest)
            self.admit(digest, source, account)

    def remove(self, digest: str) -> None:
        """Remove the copy of a model."""
        shutil.rmtree(self.copy_path(digest), ignore_errors=True)

    def admit(self, digest: str, source: Path | None, account: str) -> None:
        """Copy a checkpoint from a folder, or from the account's upload, and validate the copy.

        Args:
            digest: the checkpoint's digest, as the submission states it.
            source: the folder to copy from; None takes the upload.
            account: the account that submits it.

        Raises:
            ModelError: it is not the checkpoint that its digest names, or not a plain checkpoint.
                Nothing of it is retained.
        """
        staging = Path(tempfile.mkdtemp(prefix="taking-", dir=self.folder))
        try:
            remaining = self.max_model_bytes
            with self._open_source(source) if source is not None else self._open_upload(digest, account) as folder:
                for name in self._checkpoint_files(folder):
                    remaining -= self._copy(folder, staging / name, min(remaining, max_file_bytes(name, self.max_model_bytes)))
            self._validate(staging, digest)
            try:
                staging.rename(self.copy_path(digest))
            except OSError:  # a copy of the same model is under audit already; it is equivalent
                if not self.copy_path(digest).is_dir():
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if source is None and self._upload_folder(digest, account) not in self._receiving:
                shutil.rmtree(self._upload_folder(digest, account), ignore_errors=True)

    @contextmanager
    def _open_source(self, source: Path) -> Iterator[int]:
        """Open a folder that the lab names.

        Links on the way to it are followed; what is checked is the location of the open folder.
        """
        refusal = ModelError("submission: folder: expected the full path of a checkpoint folder that the auditor can read; correct it.")
        if not source.is_absolute():
            raise refusal
        with _open_or_refuse(source, refusal) as folder:
            if self._is_own_folder(folder):
                raise refusal
            yield folder

    def _is_own_folder(self, folder: int) -> bool:
        """Return whether an open folder is in the auditor folder; True if that is undecidable."""
        try:
            return is_within(folder, self.auditor_folder)
        except OSError:
            return True

    @staticmethod
    def _checkpoint_files(folder: int) -> list[str]:
        names = sorted(name for name in os.listdir(folder) if is_checkpoint_file(name))
        if len(names) > MAX_FILES:
            raise ModelError(f"submission: expected at most {MAX_FILES} files, got {len(names)}; join the shards.")
        return names

    def _copy(self, folder: int, target: Path, max_bytes: int) -> int:
        """Copy one regular file out of an open folder; return its size in bytes."""
        name = target.name
        irregular = ModelError(f"submission: {name}: expected a regular file that the auditor can read, not a link; copy it in.")
        too_large = ModelError(f"submission: {name}: larger than this auditor takes ({max_bytes:,} bytes left); submit a smaller model.")
        try:
            return copy_regular_file(folder, name, target, max_bytes)
        except SourceError as error:
            raise (too_large if error.errno == errno.EFBIG else irregular) from None
        except OSError:
            raise ClosedError("the auditor has no room for the model; try again later, and inform its operator.") from None

    def _validate(self, folder: Path, digest: str) -> None:
        try:
            # One at a time: the parsed files are not trusted, and may have their maximum size.
            with self._check_lock:
                check(folder)
            actual = checkpoint_digest(folder)
        except ModelError as error:
            # The message names the path of the auditor's copy, which must not be sent.
            raise ModelError("submission: " + str(error).replace(f"{folder}/", "").replace(str(folder), "the checkpoint")) from None
        except (OSError, ValueError, RecursionError, MemoryError):
            raise ModelError("submission: the checkpoint cannot be read; copy it again.") from None
        if actual != digest:
            raise ModelError("submission: the checkpoint is not the one its digest names; submit the digest of what is in the folder.")

    # --- uploads ---

    def _upload_folder(self, digest: str, account: str) -> Path:
        # Each account has its own folder, so that it cannot damage another account's upload.
        return self.folder / f"upload-{hashlib.sha256(account.encode()).hexdigest()[:16]}-{digest}"

    def _open_upload(self, digest: str, account: str) -> AbstractContextManager[int]:
        """Open the folder with the account's uploaded files of a model."""
        missing = ModelError("submission: no files of this digest were uploaded; upload them first, or name a folder.")
        return _open_or_refuse(self._upload_folder(digest, account), missing)

    def _make_room(self, new_upload: Path) -> None:
        """Remove an account's oldest unfinished uploads, so that a new one is within the limit.

        Raises:
            ModelError: all of them are being received now.
        """
        prefix = new_upload.name.rsplit("-", 1)[0]
        uploads = [path for path in self.folder.glob(prefix + "-*") if path not in self._receiving]
        receiving = sum(path.name.rsplit("-", 1)[0] == prefix for path in self._receiving)
        if receiving >= MAX_UNFINISHED_UPLOADS:
            raise ModelError(f"upload: expected at most {MAX_UNFINISHED_UPLOADS} models at a time; wait until one of them is complete.")
        oldest_first = sorted(uploads, key=_modification_time)
        for upload in oldest_first[: max(0, len(oldest_first) + receiving - MAX_UNFINISHED_UPLOADS + 1)]:
            shutil.rmtree(upload, ignore_errors=True)

    async def upload(self, digest: str, name: str, account: str, body: AsyncIterator[bytes]) -> int:
        """Receive one file of a model; return its size in bytes.

        Args:
            digest: the checkpoint's digest.
            name: the file's name.
            account: the account that uploads it.
            body: the file's content.

        Raises:
            ModelError: the file is not part of a checkpoint or too large, or others are being
                received. Nothing of it is retained.
            ClosedError: the disk is full.
        """
        if not is_checkpoint_file(name):
            raise ModelError(f"upload: {name!r:.80}: expected a file of a safetensors checkpoint; leave it out.")
        folder = self._upload_folder(digest, account)
        # One file at a time: the sizes of the existing files are summed once, when it begins.
        if folder in self._receiving:
            raise ModelError("upload: another file of this model is being received; send them one after another.")
        if not folder.is_dir():
            self._make_room(folder)
        self._receiving.add(folder)
        try:
            return await self._receive(folder, name, body)
        except OSError:
            raise ClosedError("the auditor has no room for the model; try again later, and inform its operator.") from None
        finally:
            self._receiving.discard(folder)

    async def _receive(self, folder: Path, name: str, body: AsyncIterator[bytes]) -> int:
        folder.mkdir(exist_ok=True, mode=0o700)
        other_sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != name}
        if len(other_sizes) >= MAX_FILES:
            raise ModelError(f"upload: expected at most {MAX_FILES} files; join the shards.")
        max_bytes = min(max_file_bytes(name, self.max_model_bytes), self.max_model_bytes - sum(other_sizes.values()))
        size = 0
        with open_folder(folder) as descriptor, staged_file(descriptor, name, sync=False) as out:
            async for chunk in body:
                size += len(chunk)
                if size > max_bytes:
                    raise ModelError(f"upload: {name}: larger than this auditor takes ({max_bytes:,} bytes left); submit a smaller model.")
                out.write(chunk)
        return size


@contextmanager
def _open_or_refuse(path: Path, refusal: ModelError) -> Iterator[int]:
    """Open a folder; raise ``refusal`` if that fails."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(open_folder(path))
        except (OSError, ValueError):
            raise refusal from None
        yield folder


def _modification_time(path: Path) -> float:
    """Return when a folder was last modified; 0 if it no longer exists."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
