"""Atomic writes, and safe reads in folders that others may write to.

Others may create links and pipes there, swap folders, and let files grow.

Covers: errors.py.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stagezero import files
from stagezero.errors import IdeaError, InputError, StagezeroError


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    previous = os.umask(0o022)
    yield
    os.umask(previous)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def count_open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def run_in_child(work: Callable[[], object]) -> int:
    """Run a function in a child process, and return its exit code."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# --- writing --------------------------------------------------------------------------------------


def write_atomic_file(path: Path) -> None:
    files.write_atomic(path, "new")


def write_file_in_folder(path: Path) -> None:
    with files.open_folder(path.parent) as folder:
        files.write_in_folder(folder, path.name, "new")


def write_staged_file(path: Path) -> None:
    with files.open_folder(path.parent) as folder, files.staged_file(folder, path.name, sync=False) as out:
        out.write(b"new")


WRITERS = pytest.mark.parametrize("write", [write_atomic_file, write_file_in_folder, write_staged_file])


@WRITERS
def test_a_file_is_replaced(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "f").write_text("old and longer")
    write(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "new" and names(tmp_path) == ["f"]


@WRITERS
def test_after_a_kill_before_the_rename_the_old_content_remains(
    tmp_path: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("old")
    monkeypatch.setattr(os, "rename", lambda *_, **__: os._exit(9))
    assert run_in_child(lambda: write(tmp_path / "f")) == 9
    assert (tmp_path / "f").read_text() == "old"
    (staged,) = set(names(tmp_path)) - {"f"}
    assert staged.startswith(files.STAGED_PREFIX) and (tmp_path / staged).read_text() == "new"


@pytest.mark.parametrize(
    ("write", "broken"),
    [(write_atomic_file, "rename"), (write_atomic_file, "fsync"), (write_file_in_folder, "rename"), (write_file_in_folder, "fsync"),
     (write_staged_file, "rename")],
)  # fmt: skip
def test_after_an_error_the_old_content_remains_and_no_other_file(
    tmp_path: Path, write: Callable[[Path], None], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("old")

    def raise_disk_full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, raise_disk_full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "old" and names(tmp_path) == ["f"]


def test_an_exception_during_a_write_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.open_folder(tmp_path) as folder, files.staged_file(folder, "f") as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "f").read_text() == "old" and names(tmp_path) == ["f"]


@pytest.mark.parametrize("durable", [False, True])
def test_the_content_is_synced_before_the_rename_and_a_durable_rename_is_synced(
    tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, os.rename

    def record_sync(handle: int) -> None:
        calls.append("folder" if os.path.samestat(os.fstat(handle), tmp_path.stat()) else "file")
        sync(handle)

    def record_rename(*paths: str, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append("name")
        rename(*paths, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "rename", record_rename)
    files.write_atomic(tmp_path / "f", "new", durable=durable)
    assert calls == (["file", "name", "folder"] if durable else ["file", "name"])


def test_the_permissions_of_written_files(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    for write, mode in ((write_atomic_file, 0o600), (write_staged_file, 0o600), (write_file_in_folder, 0o644)):
        write(tmp_path / "f")
        assert mode_of(tmp_path / "f") == mode
    files.write_atomic(tmp_path / "f", b"new", mode=0o666)
    assert mode_of(tmp_path / "f") == 0o644


def test_missing_parent_folders_are_created(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a" / "b" / "f", "früh")
    assert (tmp_path / "a" / "b" / "f").read_bytes() == "früh".encode()


def test_a_secret_persists_and_is_private_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", lambda *_, **__: os._exit(9))
        assert run_in_child(lambda: files.load_or_create_secret(tmp_path / "s")) == 9
    assert not (tmp_path / "s").exists()
    os.umask(0)
    secret = files.load_or_create_secret(tmp_path / "s")
    assert files.load_or_create_secret(tmp_path / "s") == secret and len(secret) == 32
    assert {mode_of(path) for path in tmp_path.iterdir()} == {0o600}
    assert files.load_or_create_secret(tmp_path / "other") != secret
    (tmp_path / "s").write_bytes(secret[:-1])
    with pytest.raises(StagezeroError, match="damaged"):
        files.load_or_create_secret(tmp_path / "s")


def test_processes_that_create_one_secret_at_once_read_the_same(tmp_path: Path) -> None:
    barrier, found = threading.Barrier(8), list[bytes]()

    def create() -> None:
        barrier.wait()
        found.append(files.load_or_create_secret(tmp_path / "secret"))

    for _ in range(20):
        threads = [threading.Thread(target=create) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(found)) == 1 and len(found) == 8
        assert [path.name for path in tmp_path.iterdir()] == ["secret"]
        (tmp_path / "secret").unlink()
        found.clear()


@pytest.mark.parametrize("part", ["..", ".", "", "a/b", "a\0"])
def test_a_folder_is_opened_by_names_alone(tmp_path: Path, part: str) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    with pytest.raises(OSError, match="not the name of a folder"), files.open_folder(tmp_path / "a", part):
        pass


def test_an_existing_entry_in_a_shared_folder_is_replaced_or_set_aside(tmp_path: Path) -> None:
    shared, away = tmp_path / "there", tmp_path / "away"
    (shared / "f").mkdir(parents=True)
    (shared / "f" / "theirs").write_text("x")
    away.write_text("away")
    (shared / "link").symlink_to(away)
    for name in ("f", "link"):
        write_file_in_folder(shared / name)
    assert (shared / "f").read_text() == (shared / "link").read_text() == "new"
    assert away.read_text() == "away" and not (shared / "link").is_symlink()
    (aside,) = shared.glob(".aside-*")
    assert (aside / "theirs").read_text() == "x"


def test_a_lock_is_exclusive(tmp_path: Path) -> None:
    with files.locked(tmp_path / "a" / "lock"), (tmp_path / "a" / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "a" / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- folders that others may write to -------------------------------------------------------------


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A folder that no path below ``root`` may lead to."""
    (tmp_path / "away" / "b" / "c").mkdir(parents=True)
    return tmp_path / "away"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "a" / "b" / "c").mkdir(parents=True)
    return tmp_path / "root"


def test_a_folder_is_opened_component_by_component(root: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(root)
    for trusted in (root, tmp_path / "way"):  # links above the trusted folder belong to its owner
        with files.open_folder(trusted, "a", "b") as folder:
            assert os.path.samestat(os.fstat(folder), (root / "a" / "b").stat()) and files.list_names(folder) == ["c"]
    with files.open_folder(root) as folder:
        assert files.list_names(folder) == ["a"]


@pytest.mark.parametrize("at", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_in_any_component_is_rejected(root: Path, away: Path, at: str, absolute: bool) -> None:
    (root / at).rename(root / "moved")
    (root / at).symlink_to(away if absolute else os.path.relpath(root / "moved", (root / at).parent), target_is_directory=True)
    before = count_open_files()
    with pytest.raises(OSError) as refusal, files.open_folder(root, "a", "b", "c"):
        pass
    assert refusal.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert count_open_files() == before


@pytest.mark.parametrize("swapped", ["a", "b"])
def test_a_folder_that_is_swapped_for_a_link_while_it_is_opened(
    root: Path, away: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swap after the folder was opened has no effect; a swap before that is rejected."""
    real = os.open

    def swap_after_open(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        handle = real(path, flags, mode, dir_fd=dir_fd)
        if path == "a":
            place = root / "a" if swapped == "a" else root / "a" / "b"
            place.rename(root / "moved")
            place.symlink_to(away)
        return handle

    monkeypatch.setattr(os, "open", swap_after_open)
    if swapped == "a":
        with files.open_folder(root, "a", "b") as folder:
            assert os.path.samestat(os.fstat(folder), (root / "moved" / "b").stat())
    else:
        with pytest.raises(OSError), files.open_folder(root, "a", "b"):
            pass


@pytest.mark.parametrize("existing", ["link", "file", "none"])
def test_missing_folders_are_created_and_other_entries_are_set_aside(root: Path, away: Path, existing: str) -> None:
    if existing == "link":
        (root / "new").symlink_to(away)
    elif existing == "file":
        (root / "new").write_text("x")
    with files.open_folder(root, "new", "inner", create=True) as folder:
        files.write_in_folder(folder, "f", "text")
    assert (root / "new" / "inner" / "f").read_text() == "text" and not (root / "new").is_symlink()
    assert len(list(root.glob(".aside-*"))) == (existing != "none") and names(away) == ["b"]


def test_the_location_of_an_open_folder_is_its_current_one(root: Path, away: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root / "a" / "b")
    for path, inside in ((root, True), (root / "a" / "b" / "c", True), (tmp_path / "link", True), (tmp_path, False), (away / "b", False)):
        with files.open_folder(path) as folder:
            assert files.is_within(folder, root) is inside, path
    with files.open_folder(root / "a" / "b") as folder:
        (root / "a").rename(away / "taken")
        assert files.is_within(folder, away) and not files.is_within(folder, root)


def test_errors_in_a_shared_folder_are_ignored_and_errors_of_the_machine_are_not() -> None:
    with files.ignore_folder_errors():
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(OSError, match="full"), files.ignore_folder_errors():
        raise OSError(errno.ENOSPC, "full")


# --- files in shared folders ----------------------------------------------------------------------


def make_link(path: Path) -> None:
    path.with_name("target").write_text("text")
    path.symlink_to("target")


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


def make_hard_link(path: Path) -> None:
    path.with_name("target").write_text("text")
    path.hardlink_to(path.with_name("target"))


IRREGULAR_FILES = [make_link, os.mkfifo, make_socket, Path.mkdir]


@pytest.mark.parametrize("make", IRREGULAR_FILES, ids=["link", "fifo", "socket", "folder"])
def test_a_file_that_is_not_regular_is_rejected_without_blocking(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "f")
    before = count_open_files()
    with files.open_folder(tmp_path) as folder:
        with pytest.raises(OSError) as refusal:
            files.open_regular_file(folder, "f")
        assert refusal.value.errno == errno.EINVAL
        with pytest.raises(IdeaError, match="expected a regular file"):
            files.read_regular_file(folder, "f", 100)
        with pytest.raises(files.SourceError):
            files.copy_regular_file(folder, "f", tmp_path / "copy", 100)
    assert not (tmp_path / "copy").exists() and count_open_files() == before


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    with files.open_folder(Path("/dev")) as folder, pytest.raises(files.SourceError):
        files.copy_regular_file(folder, "zero", tmp_path / "copy")


def test_a_file_with_two_hard_links_is_copied_but_is_no_valid_idea(tmp_path: Path) -> None:
    make_hard_link(tmp_path / "f")
    with files.open_folder(tmp_path) as folder:
        assert files.copy_regular_file(folder, "f", tmp_path / "copy") == 4
        with pytest.raises(IdeaError, match="expected a regular file"):
            files.read_regular_file(folder, "f", 100)


def exchange_after_stat(monkeypatch: pytest.MonkeyPatch, place: Path, make: Callable[[Path], object], times: int = 1) -> None:
    """Replace a file between the call that examines its name and the call that opens it."""
    real, remaining = os.stat, [*range(times)]

    def stat_and_exchange(path: str, **options: object) -> os.stat_result:
        result = real(path, **options)  # type: ignore[arg-type]
        if path == place.name and remaining:
            place.rename(place.with_name(f"moved {remaining.pop()}"))
            make(place)
        return result

    monkeypatch.setattr(os, "stat", stat_and_exchange)


def make_another(path: Path) -> None:
    path.write_text("another")


@pytest.mark.parametrize("make", [make_link, os.mkfifo, make_hard_link], ids=["link", "fifo", "hard link"])
def test_a_file_that_is_exchanged_for_another_kind_while_it_is_opened_is_rejected(
    tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_another(tmp_path / "f")
    before = count_open_files()
    with files.open_folder(tmp_path) as folder, monkeypatch.context() as patch:
        exchange_after_stat(patch, tmp_path / "f", make)
        with pytest.raises(IdeaError, match="expected a regular file"):
            files.read_regular_file(folder, "f", 100)
    assert count_open_files() == before


@pytest.mark.parametrize("calls", [["stat"], ["stat", "fstat"]])
def test_a_file_whose_second_name_comes_and_goes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: list[str]) -> None:
    """A name for another user's file comes and goes so fast that each count of its names is 1."""
    (tmp_path / "f").write_text("secret")

    def hide_the_second_name(count: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def count_one(*arguments: Any, **options: Any) -> os.stat_result:
            (tmp_path / "secret").unlink(missing_ok=True)
            try:
                return count(*arguments, **options)
            finally:
                (tmp_path / "secret").hardlink_to(tmp_path / "f")

        return count_one

    with files.open_folder(tmp_path) as folder, monkeypatch.context() as patch:
        for call in calls:
            patch.setattr(os, call, hide_the_second_name(getattr(os, call)))
        with pytest.raises(IdeaError, match="replaced again and again"):
            files.read_regular_file(folder, "f", 100)


@pytest.mark.parametrize("name", ["../f", "a/b", "f\0"])
def test_a_path_is_no_name(tmp_path: Path, name: str) -> None:
    make_another(tmp_path / "f")
    with files.open_folder(tmp_path) as folder, pytest.raises(IdeaError, match="expected a regular file"):
        files.read_regular_file(folder, name, 100)


@pytest.mark.parametrize("times", [1, 1000])
def test_a_file_that_its_writer_replaces_while_it_is_opened_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """The campaign replaces its state file while an agent reads it.

    If the file is replaced again and again, reading it fails.
    """
    (tmp_path / "f").write_text("text")
    before = count_open_files()
    with files.open_folder(tmp_path) as folder, monkeypatch.context() as patch:
        exchange_after_stat(patch, tmp_path / "f", make_another, times)
        if times == 1:
            assert files.read_regular_file(folder, "f", 100) == "another"
        else:
            with pytest.raises(IdeaError, match="replaced again and again"):
                files.read_regular_file(folder, "f", 100)
    assert count_open_files() == before


def test_a_text_file_is_limited_in_size_and_must_be_utf8(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("früh")
    (tmp_path / "latin").write_bytes("früh".encode("latin-1"))
    with files.open_folder(tmp_path) as folder:
        assert files.read_regular_file(folder, "f", 5) == "früh"
        with pytest.raises(IdeaError, match="expected at most 4 bytes, got 5"):
            files.read_regular_file(folder, "f", 4)
        with pytest.raises(IdeaError, match="UTF-8"):
            files.read_regular_file(folder, "latin", 10)
        with pytest.raises(FileNotFoundError):
            files.read_regular_file(folder, "none", 10)
    with pytest.raises(InputError, match="UTF-8"):
        files.read_text(tmp_path / "latin", InputError)


def test_the_size_of_a_copy_is_limited(tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20 + 1)
    (tmp_path / "f").write_bytes(content)
    with files.open_folder(tmp_path) as folder:
        for number, limit in enumerate((None, len(content), 2 * len(content))):
            assert files.copy_regular_file(folder, "f", tmp_path / str(number), limit) == len(content)
            assert (tmp_path / str(number)).read_bytes() == content
        with pytest.raises(files.SourceError) as large:
            files.copy_regular_file(folder, "f", tmp_path / "large", len(content) - 1)
        assert large.value.errno == errno.EFBIG and (tmp_path / "large").stat().st_size == 0, "no byte may be copied"


def test_the_limit_also_holds_for_a_file_that_grows(tmp_path: Path) -> None:
    """The limit is on the bytes read, not on the size: a file of /proc has size 0 and content."""
    with files.open_folder(Path("/proc/self")) as folder:
        for limit in (None, 10):
            with pytest.raises(files.SourceError) as large:
                files.copy_regular_file(folder, "status", tmp_path / f"copy{limit}", limit)
            assert large.value.errno == errno.EFBIG
        assert files.copy_regular_file(folder, "status", tmp_path / "copy", 2**20) > 10


def test_a_failed_write_is_not_reported_as_an_error_of_the_source(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text")
    (tmp_path / "taken").write_text("mine")
    with files.open_folder(tmp_path) as folder, pytest.raises(FileExistsError):
        files.copy_regular_file(folder, "f", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_hidden_names_are_not_listed_and_submissions_come_first(tmp_path: Path) -> None:
    submitted = f"{'0f' * 32}.md"
    for name in ("b.md", "a.md", submitted, ".writing-x", ".aside-x"):
        (tmp_path / name).write_text("")
    with files.open_folder(tmp_path) as folder:
        assert files.list_names(folder) == [submitted, "a.md", "b.md"]
