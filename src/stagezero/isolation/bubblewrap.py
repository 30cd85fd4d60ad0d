"""The sandbox: bubblewrap shows one program a file system of the paths named here, and no network.

Started by root, the mounts are made without a user namespace, and the program becomes a user of its own that owns nothing, without
capabilities: a mere uid mapping would leave /proc/sys writable and the mounts removable. Started by a user, a user namespace is needed, and
further ones are switched off inside.

What a program sees of its surroundings is the same for every build: it has one user number, the box's command line does not depend on the
run, the kernel's counters are covered, and of a checkpoint's folder only the model is shown (beside it lies what it was made from, seeds
included). When the machine runs out of memory, its programs are killed first.
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
from stagezero.isolation.commands import DROP_CAPABILITIES, HARDEN, RUNNER, hardened, missing_tool, resource_limits, run_task
from stagezero.isolation.confinement import Limits, Task
from stagezero.isolation.supervisor import supervise
from stagezero.isolation.visible import SYSTEM_PATHS, accelerators, environment, python_paths
from stagezero.models.checkpoint import content_files

HIDDEN_COUNTERS = (
    "stat", "loadavg", "uptime", "vmstat", "diskstats", "interrupts", "softirqs", "schedstat", "buddyinfo", "zoneinfo", "pagetypeinfo",
    "slabinfo", "vmallocinfo", "allocinfo", "swaps", "locks", "timer_list", "keys", "key-users", "partitions", "latency_stats",
    "sched_debug", "pressure", "sys/fs", "sys/kernel/random", "sys/kernel/pty",
)  # fmt: skip
"""Files of /proc that tell how busy the machine is and what others do on it."""
USER_NUMBER = 1000
"""The user that every program is shown as."""
SHARED_MEMORY_BYTES = 2**28
PROBE_SECONDS = 30
_SET_OOM_SCORE = 'echo 1000 > /proc/self/oom_score_adj 2> /dev/null; exec "$@"'
_BECOME_USER = 'exec setpriv --reuid="$STAGEZERO_USER" --regid="$STAGEZERO_USER" "$@"'
_COPY_INPUTS = 'mkdir work && cp -r /in/work/. work/ && chmod -R u+w work && cd work && exec "$@"'
_COUNTER = itertools.count()


def _mount_points(paths: Iterable[Path]) -> list[str]:
    """Options that make the folders above some paths, readable to every user."""
    above = {folder for path in paths for folder in path.parents} - {Path("/")}
    return [word for folder in sorted(above, key=lambda p: (len(p.parts), p)) for word in ("--perms", "0755", "--dir", str(folder))]


def _system_paths() -> Iterator[str]:
    for path in SYSTEM_PATHS:
        if path.is_symlink() and path.is_dir():
            yield from ("--symlink", str(path.readlink()), str(path))
        elif path.exists():
            yield from ("--ro-bind", str(path), str(path))


def _unused_user() -> int:
    """A user number that no other running sandbox has and that owns nothing: the kernel counts processes by user."""
    first, size = 0, 2**31
    with contextlib.suppress(OSError, ValueError):
        first, _, size = (int(n) for n in Path("/proc/self/uid_map").read_text().splitlines()[-1].split())
    wanted = 1_500_000_000 + (os.getpid() % 4_000_000) * 64 + next(_COUNTER) % 64
    return wanted if first + size > 2**31 - 1 else first + size - 1 - wanted % 10_000


def _options(task: Task, limits: Limits, inputs: Path) -> list[str]:
    """Bubblewrap's options."""
    shown, hidden = python_paths()
    options = ["--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    options += ["--unshare-cgroup-try", "--hostname", "build"]
    if os.geteuid() == 0:  # what it takes to become another user, who then has none of it
        options += ["--cap-drop", "ALL", *(word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}"))]
    else:
        options += ["--unshare-user", "--disable-userns", "--uid", str(USER_NUMBER), "--gid", str(USER_NUMBER)]
    options += [*_mount_points([*shown, *(path for path in SYSTEM_PATHS if path.exists())]), *_system_paths()]
    for path in shown:
        options += ["--ro-bind", str(path), str(path)]
    for path in hidden:
        options += ["--tmpfs", str(path), "--remount-ro", str(path)]
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
    options += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", "/tmp", "--ro-bind", str(inputs), "/in"]
    for name, folder in (("model", task.model), ("base", task.base)):
        for path in content_files(folder):
            (inputs / name / path.name).touch()  # a mount point
            options += ["--ro-bind", str(_readable_file(path, inputs.parent / name)), f"/in/{name}/{path.name}"]
    for script in (HARDEN, RUNNER):
        options += ["--ro-bind", str(script), f"/in/{script.name}"]
    return [*options, "--remount-ro", "/", "--chdir", "/tmp"]


def _readable_file(path: Path, copies: Path) -> Path:
    """A file that any user can read: itself, or a copy in ``copies`` where only its owner can."""
    if os.geteuid() != 0 or path.stat().st_mode & 0o004:
        return path
    copies.mkdir(mode=0o755, exist_ok=True)
    shutil.copyfile(path, copies / path.name)
    (copies / path.name).chmod(0o644)
    return copies / path.name


def _command(task: Task, limits: Limits, pipe: int) -> list[str]:
    """The command that runs in the box."""
    command = []
    words = [f"{name}={number}" for name, number in resource_limits(limits, task.seconds).items()]
    if os.geteuid() == 0:
        # The number is in the environment, since every user can read the command line of a process.
        command += ["sh", "-c", _BECOME_USER, "sh", "--clear-groups", *DROP_CAPABILITIES[1:]]
        words += [f"user={USER_NUMBER}"]
    command += hardened("sandbox", words, "/in/harden.py")
    # Inputs are copied by the program's own user, so that it can change its copies.
    return [*command, "sh", "-c", _COPY_INPUTS, "sh", *run_task(task, pipe, "/in/runner.py")]


def start(task: Task, limits: Limits, inputs: Path, pipe: int, output: int) -> subprocess.Popen[bytes]:
    """Start a program in a box.

    Raises:
        OSError: bubblewrap or setpriv is not installed.
    """
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "bwrap")
    options = inputs.parent / "options"  # not on the command line, which the program can read
    options.write_bytes(b"".join(os.fsencode(word) + b"\0" for word in _options(task, limits, inputs)))
    variables = environment(task, Path("/in"), Path("/tmp/out"))
    if os.geteuid() == 0:
        variables["STAGEZERO_USER"] = str(_unused_user())
    with options.open("rb") as handle:
        line = ["sh", "-c", _SET_OOM_SCORE, "sh", bwrap, "--args", str(handle.fileno()), "--", *_command(task, limits, pipe)]
        return subprocess.Popen(
            line, env=variables, cwd="/", stdin=subprocess.DEVNULL, stdout=output, stderr=output, pass_fds=[pipe, handle.fileno()],
            process_group=0,
        )  # fmt: skip


def why_not() -> str | None:
    """Why no box can be made here, found by making one and trying to get out of it; None when it held."""
    if (missing := missing_tool()) is not None:
        return missing
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        secret = folder / "secret"
        secret.write_text("exposed")
        names = f"{secret} /proc/{os.getpid()}/root{secret} /proc/1/root{secret}"
        script = f"cat {names}; umount /in; echo x > /in/x; echo x > /usr/x; cat {names}; echo tried"
        (folder / "model").mkdir()
        task = Task(("sh", "-c", f"({script}) 2> /dev/null"), folder / "model", folder / "model", {}, None, 0, PROBE_SECONDS, 0)
        try:
            ran = supervise(start, task, Limits(), folder / "out", folder / "run")
        except SandboxError as error:
            return f"{str(error).partition('; see:')[0]}; {_remedy()}"
    if ran.said.strip() == "tried":
        return None
    if "exposed" in ran.said:
        return "a sandbox was made, but what lies outside it could be read"
    reason = ([ran.stopped or ""] if ran.stopped else ran.said.strip().splitlines() or ["no reason given"])[0]
    return f"a sandbox could not be made ({reason}); {_remedy()}"


def _remedy() -> str:
    """How to allow boxes on this kind of machine."""
    restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")
    if os.environ.get("RAY_JOB_ID") or "ray" in os.environ.get("RAY_ADDRESS", ""):
        return "this is a Ray worker: start its node on the host itself, or in a container with --security-opt seccomp=unconfined"
    with contextlib.suppress(OSError):
        if restricted.read_text().strip() == "1":
            return (
                "this system (Ubuntu 24.04 and later) keeps user namespaces from programs without an AppArmor profile: "
                "give bwrap one (apt install apparmor-profiles, and enable bwrap-userns-restrict)"
            )
    if Path("/.dockerenv").exists() or Path("/run/.containerenv").exists():
        return "in a container start it with --security-opt seccomp=unconfined, or as root with --cap-add SYS_ADMIN"
    return "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces above 0), or run as root"
