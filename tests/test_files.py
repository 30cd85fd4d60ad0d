"""Files are written whole or not at all, and what others may exchange leads nowhere: links, pipes, swapped folders, files that grow.

Covers: errors.py.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stagezero import files
from stagezero.errors import IdeaError, InputError, StagezeroError


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o777


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def in_a_child(work: Callable[[], object]) -> int:
    """Run in a process of its own; the code it ended with."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


# --- writing ---


def a_whole_file(path: Path) -> None:
    files.write_atomic(path, "new")


def a_file_in_a_folder(path: Path) -> None:
    with files.open_folder(path.parent) as folder:
        files.write_in_folder(folder, path.name, "new")


def a_staged_file(path: Path) -> None:
    with files.open_folder(path.parent) as folder, files.staged_file(folder, path.name, sync=False) as out:
        out.write(b"new")


WRITERS = pytest.mark.parametrize("write", [a_whole_file, a_file_in_a_folder, a_staged_file])


@WRITERS
def test_a_file_is_replaced(tmp_path: Path, write: Callable[[Path], None]) -> None:
    (tmp_path / "f").write_text("old and longer")
    write(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "new" and names(tmp_path) == ["f"]


@WRITERS
def test_killed_before_the_rename_the_old_content_is_there(
    tmp_path: Path, write: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("old")
    monkeypatch.setattr(os, "rename", lambda *_, **__: os._exit(9))
    assert in_a_child(lambda: write(tmp_path / "f")) == 9
    assert (tmp_path / "f").read_text() == "old"
    (left,) = set(names(tmp_path)) - {"f"}
    assert left.startswith(files.STAGED_PREFIX) and (tmp_path / left).read_text() == "new"


@pytest.mark.parametrize(
    ("write", "broken"),
    [(a_whole_file, "rename"), (a_whole_file, "fsync"), (a_file_in_a_folder, "rename"), (a_file_in_a_folder, "fsync"),
     (a_staged_file, "rename")],
)  # fmt: skip
def test_after_an_error_the_old_content_is_there_and_nothing_else(
    tmp_path: Path, write: Callable[[Path], None], broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, broken, full)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "f")
    assert (tmp_path / "f").read_text() == "old" and names(tmp_path) == ["f"]


def test_an_exception_while_it_is_written_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(KeyboardInterrupt), files.open_folder(tmp_path) as folder, files.staged_file(folder, "f") as out:
        out.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "f").read_text() == "old" and names(tmp_path) == ["f"]


@pytest.mark.parametrize("durable", [False, True])
def test_content_is_on_disk_before_the_name_and_the_name_where_it_must_last(
    tmp_path: Path, durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, rename = os.fsync, os.rename

    def synced(handle: int) -> None:
        done.append("folder" if os.path.samestat(os.fstat(handle), tmp_path.stat()) else "file")
        sync(handle)

    def renamed(*given: str, src_dir_fd: int, dst_dir_fd: int) -> None:
        done.append("name")
        rename(*given, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    files.write_atomic(tmp_path / "f", "new", durable=durable)
    assert done == (["file", "name", "folder"] if durable else ["file", "name"])


def test_who_may_read_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    for write, mode in ((a_whole_file, 0o600), (a_staged_file, 0o600), (a_file_in_a_folder, 0o644)):
        write(tmp_path / "f")
        assert mode_of(tmp_path / "f") == mode
    files.write_atomic(tmp_path / "f", b"new", mode=0o666)
    assert mode_of(tmp_path / "f") == 0o644


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    files.write_atomic(tmp_path / "a" / "b" / "f", "früh")
    assert (tmp_path / "a" / "b" / "f").read_bytes() == "früh".encode()


def test_a_secret_lasts_and_is_its_owners_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as killed:
        killed.setattr(os, "rename", lambda *_, **__: os._exit(9))
        assert in_a_child(lambda: files.load_or_create_secret(tmp_path / "s")) == 9
    assert not (tmp_path / "s").exists()
    os.umask(0)
    made = files.load_or_create_secret(tmp_path / "s")
    assert files.load_or_create_secret(tmp_path / "s") == made and len(made) == 32
    assert {mode_of(path) for path in tmp_path.iterdir()} == {0o600}
    assert files.load_or_create_secret(tmp_path / "other") != made
    (tmp_path / "s").write_bytes(made[:-1])
    with pytest.raises(StagezeroError, match="damaged"):
        files.load_or_create_secret(tmp_path / "s")


def test_what_stands_under_the_name_in_a_folder_of_others_is_replaced_or_set_aside(tmp_path: Path) -> None:
    there, away = tmp_path / "there", tmp_path / "away"
    (there / "f").mkdir(parents=True)
    (there / "f" / "theirs").write_text("x")
    away.write_text("away")
    (there / "link").symlink_to(away)
    for name in ("f", "link"):
        a_file_in_a_folder(there / name)
    assert (there / "f").read_text() == (there / "link").read_text() == "new"
    assert away.read_text() == "away" and not (there / "link").is_symlink()
    (aside,) = there.glob(".aside-*")
    assert (aside / "theirs").read_text() == "x"


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    with files.locked(tmp_path / "a" / "lock"), (tmp_path / "a" / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "a" / "lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- folders that others may write to ---


@pytest.fixture
def away(tmp_path: Path) -> Path:
    """A folder that no path below ``root`` may lead to."""
    (tmp_path / "away" / "b" / "c").mkdir(parents=True)
    return tmp_path / "away"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "a" / "b" / "c").mkdir(parents=True)
    return tmp_path / "root"


def test_a_folder_is_opened_step_by_step(root: Path, tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(root)
    for place in (root, tmp_path / "way"):  # links on the way to the trusted folder are its owner's
        with files.open_folder(place, "a", "b") as folder:
            assert os.path.samestat(os.fstat(folder), (root / "a" / "b").stat()) and files.list_names(folder) == ["c"]
    with files.open_folder(root) as folder:
        assert files.list_names(folder) == ["a"]


@pytest.mark.parametrize("at", ["a", "a/b", "a/b/c"])
@pytest.mark.parametrize("absolute", [True, False])
def test_a_link_at_any_step_is_refused(root: Path, away: Path, at: str, absolute: bool) -> None:
    (root / at).rename(root / "moved")
    (root / at).symlink_to(away if absolute else os.path.relpath(root / "moved", (root / at).parent), target_is_directory=True)
    before = handles()
    with pytest.raises(OSError) as refused, files.open_folder(root, "a", "b", "c"):
        pass
    assert refused.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert handles() == before


@pytest.mark.parametrize("swapped", ["a", "b"])
def test_a_folder_that_becomes_a_link_between_two_steps(root: Path, away: Path, swapped: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swapped after it was opened it does not matter; swapped before that it is refused."""
    real = os.open

    def opened(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        found = real(path, flags, mode, dir_fd=dir_fd)
        if path == "a":
            place = root / "a" if swapped == "a" else root / "a" / "b"
            place.rename(root / "moved")
            place.symlink_to(away)
        return found

    monkeypatch.setattr(os, "open", opened)
    if swapped == "a":
        with files.open_folder(root, "a", "b") as folder:
            assert os.path.samestat(os.fstat(folder), (root / "moved" / "b").stat())
    else:
        with pytest.raises(OSError), files.open_folder(root, "a", "b"):
            pass


@pytest.mark.parametrize("what", ["link", "file", "none"])
def test_made_where_need_be_what_is_no_folder_is_set_aside(root: Path, away: Path, what: str) -> None:
    if what == "link":
        (root / "new").symlink_to(away)
    elif what == "file":
        (root / "new").write_text("x")
    with files.open_folder(root, "new", "inner", create=True) as folder:
        files.write_in_folder(folder, "f", "text")
    assert (root / "new" / "inner" / "f").read_text() == "text" and not (root / "new").is_symlink()
    assert len(list(root.glob(".aside-*"))) == (what != "none") and names(away) == ["b"]


def test_where_a_folder_lies_is_asked_of_the_kernel(root: Path, away: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root / "a" / "b")
    for path, inside in ((root, True), (root / "a" / "b" / "c", True), (tmp_path / "link", True), (tmp_path, False), (away / "b", False)):
        with files.open_folder(path) as folder:
            assert files.is_within(folder, root) is inside, path
    with files.open_folder(root / "a" / "b") as folder:
        (root / "a").rename(away / "taken")
        assert files.is_within(folder, away) and not files.is_within(folder, root)


def test_their_errors_are_ignored_and_the_machines_are_not() -> None:
    with files.ignore_folder_errors():
        raise FileNotFoundError(errno.ENOENT, "gone")
    with pytest.raises(OSError, match="full"), files.ignore_folder_errors():
        raise OSError(errno.ENOSPC, "full")


# --- files in them ---


def linked(path: Path) -> None:
    path.with_name("target").write_text("text")
    path.symlink_to("target")


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def second_name(path: Path) -> None:
    path.with_name("target").write_text("text")
    path.hardlink_to(path.with_name("target"))


UNPLAIN = [linked, os.mkfifo, a_socket, Path.mkdir]


@pytest.mark.parametrize("make", UNPLAIN, ids=["link", "fifo", "socket", "folder"])
def test_what_is_no_plain_file_is_refused_at_once(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "f")
    before = handles()
    with files.open_folder(tmp_path) as folder:
        with pytest.raises(OSError) as refused:
            files.open_regular_file(folder, "f")
        assert refused.value.errno == errno.EINVAL
        with pytest.raises(IdeaError, match="expected a regular file"):
            files.read_regular_file(folder, "f", 100)
        with pytest.raises(files.SourceError):
            files.copy_regular_file(folder, "f", tmp_path / "copy", 100)
    assert not (tmp_path / "copy").exists() and handles() == before


def test_a_device_is_not_opened(tmp_path: Path) -> None:
    with files.open_folder(Path("/dev")) as folder, pytest.raises(files.SourceError):
        files.copy_regular_file(folder, "zero", tmp_path / "copy")


def test_a_file_with_two_names_is_copied_and_is_no_idea(tmp_path: Path) -> None:
    second_name(tmp_path / "f")
    with files.open_folder(tmp_path) as folder:
        assert files.copy_regular_file(folder, "f", tmp_path / "copy") == 4
        with pytest.raises(IdeaError, match="expected a regular file"):
            files.read_regular_file(folder, "f", 100)


@pytest.mark.parametrize("make", [linked, os.mkfifo, lambda path: path.write_text("another")], ids=["link", "fifo", "file"])
def test_a_file_that_is_exchanged_while_it_is_opened(tmp_path: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch) -> None:
    real, place = os.stat, tmp_path / "f"

    def looked(path: str, **how: object) -> os.stat_result:
        found = real(path, **how)  # type: ignore[arg-type]
        if path == "f":
            place.rename(tmp_path / "moved")
            make(place)
        return found

    place.write_text("text")
    with files.open_folder(tmp_path) as folder, monkeypatch.context() as exchanging:
        exchanging.setattr(os, "stat", looked)
        with pytest.raises(OSError) as refused:
            files.open_regular_file(folder, "f")
    assert refused.value.errno in (errno.ELOOP, errno.ESTALE)


def test_a_text_is_bounded_and_utf8(tmp_path: Path) -> None:
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


def test_a_copy_is_bounded(tmp_path: Path) -> None:
    content = os.urandom(3 * 2**20 + 1)
    (tmp_path / "f").write_bytes(content)
    with files.open_folder(tmp_path) as folder:
        for number, most in enumerate((None, len(content), 2 * len(content))):
            assert files.copy_regular_file(folder, "f", tmp_path / str(number), most) == len(content)
            assert (tmp_path / str(number)).read_bytes() == content
        with pytest.raises(files.SourceError) as large:
            files.copy_regular_file(folder, "f", tmp_path / "large", len(content) - 1)
        assert large.value.errno == errno.EFBIG and (tmp_path / "large").stat().st_size == 0, "none of it is copied"


def test_a_file_that_grows_is_bounded_too(tmp_path: Path) -> None:
    """As long as one likes, whatever its size was: a file of /proc has the size 0 and content."""
    with files.open_folder(Path("/proc/self")) as folder:
        for most in (None, 10):
            with pytest.raises(files.SourceError) as large:
                files.copy_regular_file(folder, "status", tmp_path / f"copy{most}", most)
            assert large.value.errno == errno.EFBIG
        assert files.copy_regular_file(folder, "status", tmp_path / "copy", 2**20) > 10


def test_a_copy_that_cannot_be_written_is_not_the_sources_fault(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text")
    (tmp_path / "taken").write_text("mine")
    with files.open_folder(tmp_path) as folder, pytest.raises(FileExistsError):
        files.copy_regular_file(folder, "f", tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"


def test_names_in_an_inbox(tmp_path: Path) -> None:
    submitted = f"{'0f' * 32}.md"
    for name in ("b.md", "a.md", submitted, ".writing-x", ".aside-x"):
        (tmp_path / name).write_text("")
    with files.open_folder(tmp_path) as folder:
        assert files.list_names(folder) == [submitted, "a.md", "b.md"]
