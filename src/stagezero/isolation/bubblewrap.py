"""The sandbox: bubblewrap gives one program a file system of the paths named here, and no network.

Started by root, bubblewrap makes the mounts without a user namespace. The program then becomes a
user of its own, who owns nothing and has no capabilities: a uid mapping alone would leave /proc/sys
writable and the mounts removable. Started by another user, bubblewrap needs a user namespace, and
further ones are disabled inside.

The sandbox must look the same to every build; otherwise a program could tell builds apart:

- it runs under one fixed uid;
- the box's command line does not depend on the run;
- the kernel's counters are covered;
- of a checkpoint's folder only the model is visible, because the files beside it describe how it
  was made, seeds included.

When the machine runs out of memory, the kernel kills the programs in sandboxes first.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from stagezero.errors import SandboxError
from stagezero.isolation.commands import (
    DROP_CAPABILITIES,
    HARDEN_SCRIPT,
    RUNNER_SCRIPT,
    harden_prefix,
    missing_tool,
    resource_limits,
    runner_command,
)
from stagezero.isolation.confinement import Limits, Task
from stagezero.isolation.supervisor import supervise
from stagezero.isolation.visible_paths import SYSTEM_PATHS, accelerators, environment, environment_links, python_paths
from stagezero.models.checkpoint import content_files

HIDDEN_COUNTERS = (
    "stat", "loadavg", "uptime", "vmstat", "diskstats", "interrupts", "softirqs", "schedstat", "buddyinfo", "zoneinfo", "pagetypeinfo",
    "slabinfo", "vmallocinfo", "allocinfo", "swaps", "locks", "timer_list", "keys", "key-users", "partitions", "latency_stats",
    "sched_debug", "pressure", "sys/fs", "sys/kernel/random", "sys/kernel/pty",
)  # fmt: skip
"""Files of /proc that show the machine's load and the activity of other users."""
SANDBOX_UID = 1000
"""The uid, and gid, that every program sees as its own."""
SHARED_MEMORY_BYTES = 2**28
PROBE_SECONDS = 30
OWN_FOLDERS = ("/in", "/tmp/out", "/tmp/work")
"""Folders that a sandbox uses for inputs, weights and the program's files."""
_SET_OOM_SCORE = 'echo 1000 > /proc/self/oom_score_adj 2> /dev/null; exec "$@"'
_CHANGE_USER = 'exec setpriv --reuid="$STAGEZERO_USER" --regid="$STAGEZERO_USER" "$@"'
_COPY_INPUTS = 'mkdir work && cp -r /in/work/. work/ && chmod -R u+w work && cd work && exec "$@"'
_COUNTER = itertools.count()


def _mount_points(paths: Iterable[Path]) -> list[str]:
    """Return options that make the parent folders of some paths, readable to every user."""
    parents = {folder for path in paths for folder in path.parents} - {Path("/")}
    return [word for folder in sorted(parents, key=lambda p: (len(p.parts), p)) for word in ("--perms", "0755", "--dir", str(folder))]


def _system_paths() -> Iterator[str]:
    """Yield options that mount the system's folders read-only, and repeat its links to folders."""
    for path in SYSTEM_PATHS:
        if path.is_symlink() and path.is_dir():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.exists():
            yield from ("--ro-bind", str(path), str(path))


def _unused_uid() -> int:
    """Return a uid that owns nothing and that no other running sandbox has.

    The kernel counts processes per user, so two sandboxes with one uid would share a limit.
    """
    first, size = 0, 2**31
    with contextlib.suppress(OSError, ValueError):
        first, _, size = (int(n) for n in Path("/proc/self/uid_map").read_text().splitlines()[-1].split())
    uid = 1_500_000_000 + (os.getpid() % 4_000_000) * 64 + next(_COUNTER) % 64
    return uid if first + size > 2**31 - 1 else first + size - 1 - uid % 10_000


def _options(task: Task, limits: Limits, inputs: Path) -> list[str]:
    """Return bubblewrap's options for a task whose prepared inputs are in ``inputs``."""
    visible, hidden = python_paths()
    options = ["--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    options += ["--unshare-cgroup-try", "--hostname", "build"]
    if os.geteuid() == 0:  # the capabilities to become another user, who then has none of them
        options += ["--cap-drop", "ALL", *(word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}"))]
    else:
        options += ["--unshare-user", "--disable-userns", "--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID)]
    options += [*_mount_points(path for path in SYSTEM_PATHS if path.exists()), *_system_paths()]
    options += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    empty = inputs.parent / "empty"
    empty.touch(mode=0o644)
    for path in (Path("/proc", name) for name in HIDDEN_COUNTERS):
        if path.is_dir():
            options += ["--tmpfs", str(path), "--remount-ro", str(path)]
        elif path.exists():
            options += ["--ro-bind", str(empty), str(path)]
    for device in accelerators():
        options += ["--dev-bind", str(device), str(device)]
    if accelerators():
        options += ["--ro-bind", "/sys", "/sys"]
    options += ["--perms", "1777", "--size", str(SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    options += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", "/tmp"]
    # After /tmp and /dev/shm, since the environment may be below either.
    links = environment_links()
    options += _mount_points([*visible, *(link for link, _ in links)])
    for path in visible:
        options += ["--ro-bind", str(path), str(path)]
    for link, folder in links:
        options += ["--symlink", str(folder), str(link)]
    for path in hidden:
        options += ["--tmpfs", str(path), "--remount-ro", str(path)]
    options += ["--ro-bind", str(inputs), "/in"]
    for name, folder in (("model", task.model), ("base", task.base)):
        for path in content_files(folder):
            (inputs / name / path.name).touch()  # a mount point
            options += ["--ro-bind", str(_readable_file(path, inputs.parent / name)), f"/in/{name}/{path.name}"]
    for script in (HARDEN_SCRIPT, RUNNER_SCRIPT):
        options += ["--ro-bind", str(script), f"/in/{script.name}"]
    return [*options, "--remount-ro", "/", "--chdir", "/tmp"]


def _readable_file(path: Path, copies: Path) -> Path:
    """Return a file that every user can read: ``path`` itself, or else a copy in ``copies``."""
    if os.geteuid() != 0 or path.stat().st_mode & 0o004:
        return path
    copies.mkdir(mode=0o755, exist_ok=True)
    shutil.copyfile(path, copies / path.name)
    (copies / path.name).chmod(0o644)
    return copies / path.name


def _command(task: Task, limits: Limits, pipe: int) -> list[str]:
    """Return the command that runs in the box."""
    command = []
    words = [f"{name}={number}" for name, number in resource_limits(limits, task.seconds).items()]
    if os.geteuid() == 0:
        # The uid is in the environment, because every user can read the command line of a process.
        command += ["sh", "-c", _CHANGE_USER, "sh", "--clear-groups", *DROP_CAPABILITIES[1:]]
        words += [f"user={SANDBOX_UID}"]
    command += harden_prefix("sandbox", words, "/in/harden.py")
    # The program's own user copies the inputs, so that the program can change its copies.
    return [*command, "sh", "-c", _COPY_INPUTS, "sh", *runner_command(task, pipe, "/in/runner.py")]


def _environment_conflict() -> str | None:
    """Return why the Python environment cannot be shown where it is, or None."""
    for path in (*python_paths()[0], *(link for link, _ in environment_links())):
        for own in OWN_FOLDERS:
            if path.is_relative_to(own):
                return f"the Python environment is at {path}, and a sandbox uses {own} itself; make the environment elsewhere"
    return None


def start(task: Task, limits: Limits, inputs: Path, pipe: int, output: int) -> subprocess.Popen[bytes]:
    """Start a program in a box.

    Args:
        inputs: the folder from ``supervisor.prepare_inputs``.
        pipe: file descriptor to which ``runner.py`` writes the weights.
        output: file descriptor for stdout and stderr.

    Raises:
        OSError: bubblewrap or setpriv is not installed.
        SandboxError: the Python environment is in a folder that the sandbox uses itself.
    """
    if (conflict := _environment_conflict()) is not None:
        raise SandboxError(conflict)
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "bwrap")
    options = inputs.parent / "options"  # not on the command line, since the program can read that
    options.write_bytes(b"".join(os.fsencode(word) + b"\0" for word in _options(task, limits, inputs)))
    variables = environment(task, Path("/in"), Path("/tmp/out"))
    if os.geteuid() == 0:
        variables["STAGEZERO_USER"] = str(_unused_uid())
    with options.open("rb") as handle:
        line = ["sh", "-c", _SET_OOM_SCORE, "sh", bwrap, "--args", str(handle.fileno()), "--", *_command(task, limits, pipe)]
        return subprocess.Popen(
            line, env=variables, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[pipe, handle.fileno()],
            process_group=0,
        )  # fmt: skip


def unavailable_reason() -> str | None:
    """Return why no box can be made on this machine; None if a test program was confined.

    The test makes a box and tries to get out of it.
    """
    if (missing := missing_tool() or _environment_conflict()) is not None:
        return missing
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        secret = folder / "secret"
        secret.write_text("exposed")
        names = f"{secret} /proc/{os.getpid()}/root{secret} /proc/1/root{secret}"
        script = f"cat {names}; umount /in; echo x > /in/x; echo x > /usr/x; cat {names}; echo finished"
        (folder / "model").mkdir()
        task = Task(("sh", "-c", f"({script}) 2> /dev/null"), folder / "model", folder / "model", {}, None, 0, PROBE_SECONDS, 0)
        try:
            result = supervise(start, task, Limits(), folder / "out", folder / "run")
        except SandboxError as error:
            return f"{str(error).partition('; see:')[0]}; {_remedy()}"
    if result.output.strip() == "finished":
        return None
    if "exposed" in result.output:
        return "a sandbox was made, but a file outside it could be read"
    reason = ([result.stopped or ""] if result.stopped else result.output.strip().splitlines() or ["no reason given"])[0]
    return f"a sandbox could not be made ({reason}); {_remedy()}"


def _remedy() -> str:
    """Return how to allow boxes on this kind of machine."""
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if os.environ.get("RAY_JOB_ID") or "ray" in os.environ.get("RAY_ADDRESS", ""):
        return "this is a Ray worker: start its node on the host itself, or in a container with --security-opt seccomp=unconfined"
    with contextlib.suppress(OSError):
        if restricted.read_text().strip() == "1":
            return (
                "this system (Ubuntu 24.04 and later) denies user namespaces to programs without an AppArmor profile: "
                "give bwrap one (apt install apparmor-profiles, and enable bwrap-userns-restrict)"
            )
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "in a container start it with --security-opt seccomp=unconfined, or as root with --cap-add SYS_ADMIN"
    return "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0), or run as root"
