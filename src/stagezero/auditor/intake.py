"""Takes in a submitted checkpoint: copies it, hashes the copy, and refuses what is no plain safetensors checkpoint.

Everything here happens before the charge, so it may depend on the submission and on nothing sealed. What is copied is a fixed set of
file names, regular files only, no links followed, sizes bounded; pickles and code are never copied, so they cannot be loaded. The
folder is held open while it is copied, and where it lies is asked of the kernel: a path that is changed meanwhile leads nowhere else.
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
from stagezero.files import SourceError, copy_plain_file, lies_in, open_folder, staged
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import CONTENT, check

_WEIGHTS = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors(?:\.index\.json)?")
MOST_FILES = 512
MOST_TEXT = 64 * 2**20  # bytes of any file but the weights
MOST_READ = 16 * 2**20  # bytes of those that are parsed before the charge
MOST_CONFIG = 2**20
MOST_UPLOADS = 4


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
            with self._in_folder(source) if source is not None else self._uploaded(digest, account) as folder:
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
        """A folder of the lab's, held open. Links on the way to it are followed; what counts is where the open folder lies."""
        refused = ModelError("submission: folder: expected the full path of a checkpoint folder that the auditor can read; correct it.")
        if not source.is_absolute():
            raise refused
        with _held(source, refused) as folder:
            if self._ours(folder):
                raise refused
            yield folder

    def _ours(self, folder: int) -> bool:
        """Whether a folder lies in the auditor's own, or where that cannot be told."""
        try:
            return lies_in(folder, self.home)
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
            return copy_plain_file(folder, name, target, most)
        except SourceError as error:
            raise (large if error.errno == errno.EFBIG else refused) from None
        except OSError:
            raise ClosedError("the auditor has no room for the model; try again later, and tell its operator.") from None

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

    def _uploaded(self, digest: str, account: str) -> AbstractContextManager[int]:
        """What was uploaded, held open."""
        missing = ModelError("submission: no files of this digest were uploaded; upload them first, or name a folder.")
        return _held(self._upload_folder(digest, account), missing)

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
        size = 0
        with open_folder(folder) as held, staged(held, name, sync=False) as out:
            async for chunk in body:
                size += len(chunk)
                if size > most:
                    raise ModelError(f"upload: {name}: larger than this auditor takes ({most:,} bytes left); submit a smaller model.")
                out.write(chunk)
        return size


@contextmanager
def _held(path: Path, refused: ModelError) -> Iterator[int]:
    """A folder, held open; refused where that cannot be."""
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(open_folder(path))
        except (OSError, ValueError):
            raise refused from None
        yield folder


def _changed(path: Path) -> float:
    """When a folder was last changed; 0 where it has just gone."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
