"""Takes in a submitted checkpoint: copies it, hashes the copy, and refuses what is no plain safetensors checkpoint.

Everything here happens before the charge, so it may depend on the submission and on nothing sealed. What is copied is a fixed set of
file names, regular files only, no links followed, sizes bounded; pickles and code are never copied, so they cannot be loaded. The
folder is held open while it is copied, and where it lies is asked of the kernel: a path that is changed meanwhile leads nowhere else.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from stagezero.errors import ClosedError, ModelError
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import CONTENT, check

_WEIGHTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors(?:\.index\.json)?")
MOST_FILES = 512
MOST_TEXT = 64 * 2**20  # bytes of any file but the weights
MOST_READ = 16 * 2**20  # bytes of those that are parsed before the charge
MOST_CONFIG = 2**20
MOST_UPLOADS = 4
_CHUNK = 2**20
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC
_SEARCH = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC  # the right to pass through is enough


def permitted(name: str) -> bool:
    """Whether a file of this name is part of a checkpoint."""
    return name in CONTENT or _WEIGHTS.fullmatch(name) is not None


def most_bytes(name: str, largest: int) -> int:
    """How large a file of this name may be."""
    if name.endswith(".safetensors"):
        return largest
    if name == "config.json":
        return min(MOST_CONFIG, largest)
    parsed = name == "tokenizer_config.json" or name.endswith(".index.json")
    return min(MOST_READ if parsed else MOST_TEXT, largest)


def _lies_in(folder: int, home: Path) -> bool:
    """Whether an open folder is another one or lies in it, whatever its path said when it was opened."""
    kept, handle = home.stat(), os.dup(folder)
    try:
        while True:
            here = os.fstat(handle)
            if os.path.samestat(here, kept):
                return True
            above = os.open("..", _SEARCH, dir_fd=handle)
            os.close(handle)
            handle = above
            if os.path.samestat(here, os.fstat(handle)):
                return False
    finally:
        os.close(handle)


class Intake:
    """The copies under audit, in the auditor's own folder."""

    def __init__(self, home: Path, largest: int) -> None:
        """
        Args:
            home: the auditor's folder; nothing in it can be submitted.
            largest: bytes that a model may have in all.
        """
        self.home = home.resolve()
        self.folder = home / "intake"
        self.folder.mkdir(exist_ok=True, mode=0o700)
        self.largest = largest
        self._checking = threading.Lock()
        self._receiving = set[Path]()

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
            left = self.largest
            with self._uploaded(digest, account) if source is None else self._in_folder(source) as folder:
                for name in self._names(folder):
                    left -= self._copy(folder, staging / name, min(left, most_bytes(name, self.largest)))
            self._check(staging, digest)
            try:
                staging.rename(self.copy_of(digest))
            except OSError:  # the same model is under audit already, and that copy is as good
                if not self.copy_of(digest).is_dir():
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if source is None and self._upload_folder(digest, account) not in self._receiving:
                shutil.rmtree(self._upload_folder(digest, account), ignore_errors=True)

    @contextmanager
    def _in_folder(self, source: Path) -> Iterator[int]:
        """A folder of the lab's, held open."""
        refused = ModelError("submission: folder: expected the full path of a checkpoint folder that the auditor can read; correct it.")
        try:
            if not source.is_absolute():
                raise refused
            folder = os.open(source, _FOLDER)
        except (OSError, ValueError):
            raise refused from None
        try:
            if self._ours(folder):
                raise refused
            yield folder
        finally:
            os.close(folder)

    def _ours(self, folder: int) -> bool:
        """Whether a folder lies in the auditor's own, or where that cannot be told."""
        try:
            return _lies_in(folder, self.home)
        except OSError:
            return True

    @staticmethod
    def _names(folder: int) -> list[str]:
        names = sorted(name for name in os.listdir(folder) if permitted(name))
        if len(names) > MOST_FILES:
            raise ModelError(f"submission: expected at most {MOST_FILES} files, got {len(names)}; join the shards.")
        return names

    def _copy(self, folder: int, target: Path, most: int) -> int:
        """Copy one regular file out of an open folder; the number of its bytes."""
        name = target.name
        refused = ModelError(f"submission: {name}: expected a regular file that the auditor can read, not a link; copy it in.")
        large = ModelError(f"submission: {name}: larger than this auditor takes ({most:,} bytes left); submit a smaller model.")
        try:
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except OSError:
            raise refused from None
        there = os.fstat(handle)
        if not stat.S_ISREG(there.st_mode) or there.st_size > most:
            os.close(handle)
            raise large if stat.S_ISREG(there.st_mode) else refused
        with os.fdopen(handle, "rb", buffering=0) as given, target.open("xb") as out:
            size = 0
            while chunk := _read(given, refused):
                size += len(chunk)
                if size > most:
                    raise large
                try:
                    out.write(chunk)
                    out.flush()
                except OSError:
                    raise ClosedError("the auditor has no room for the model; try again later, and tell its operator.") from None
        return size

    def _check(self, folder: Path, digest: str) -> None:
        try:
            with self._checking:  # one at a time: what is parsed is a stranger's, and may be as large as it may be
                check(folder)
            found = checkpoint_digest(folder)
        except ModelError as error:
            # The reason names the auditor's own folder; the submitter's file is what is meant.
            raise ModelError("submission: " + str(error).replace(f"{folder}/", "").replace(str(folder), "the checkpoint")) from None
        except (OSError, ValueError, RecursionError, MemoryError):
            raise ModelError("submission: the checkpoint cannot be read; copy it again.") from None
        if found != digest:
            raise ModelError("submission: the checkpoint is not the one its digest names; submit the digest of what is in the folder.")

    # --- uploads --------------------------------------------------------------------------------------------------

    def _upload_folder(self, digest: str, account: str) -> Path:
        # One for each account: nobody can spoil what somebody else is uploading.
        return self.folder / f"upload-{hashlib.sha256(account.encode()).hexdigest()[:16]}-{digest}"

    @contextmanager
    def _uploaded(self, digest: str, account: str) -> Iterator[int]:
        """What was uploaded, held open."""
        try:
            folder = os.open(self._upload_folder(digest, account), _FOLDER)
        except OSError:
            raise ModelError("submission: no files of this digest were uploaded; upload them first, or name a folder.") from None
        try:
            yield folder
        finally:
            os.close(folder)

    def _make_room(self, wanted: Path) -> None:
        """An account has so many unfinished uploads at most; the oldest goes when another begins.

        Raises:
            ModelError: all of them are being received just now.
        """
        mine = [path for path in self.folder.glob(wanted.name.rsplit("-", 1)[0] + "-*") if path not in self._receiving]
        busy = sum(path.name.rsplit("-", 1)[0] == wanted.name.rsplit("-", 1)[0] for path in self._receiving)
        if busy >= MOST_UPLOADS:
            raise ModelError(f"upload: expected at most {MOST_UPLOADS} models at a time; wait until one of them is there.")
        idle = sorted(mine, key=_changed)
        for old in idle[: max(0, len(idle) + busy - MOST_UPLOADS + 1)]:
            shutil.rmtree(old, ignore_errors=True)

    async def upload(self, digest: str, name: str, account: str, body: AsyncIterator[bytes]) -> int:
        """Receive one file of a model; the number of its bytes.

        Raises:
            ModelError: the name is not part of a checkpoint, it is too large, or others are being received. Nothing is kept of it.
            ClosedError: there is no room for it.
        """
        if not permitted(name):
            raise ModelError(f"upload: {name!r:.80}: expected a file of a safetensors checkpoint; leave it out.")
        folder = self._upload_folder(digest, account)
        # One at a time: the bytes that are there are counted once, when it begins.
        if folder in self._receiving:
            raise ModelError("upload: another file of this model is being received; send them one after another.")
        if not folder.is_dir():
            self._make_room(folder)
        self._receiving.add(folder)
        try:
            return await self._receive(folder, name, body)
        except OSError:
            raise ClosedError("the auditor has no room for the model; try again later, and tell its operator.") from None
        finally:
            self._receiving.discard(folder)

    async def _receive(self, folder: Path, name: str, body: AsyncIterator[bytes]) -> int:
        folder.mkdir(exist_ok=True, mode=0o700)
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.name != name}
        if len(sizes) >= MOST_FILES:
            raise ModelError(f"upload: expected at most {MOST_FILES} files; join the shards.")
        most = min(most_bytes(name, self.largest), self.largest - sum(sizes.values()))
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


def _read(given: FileIO, refused: ModelError) -> bytes:
    try:
        return given.read(_CHUNK) or b""
    except OSError:
        raise refused from None


def _changed(path: Path) -> float:
    """When a folder was last changed; 0 where it has just gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
