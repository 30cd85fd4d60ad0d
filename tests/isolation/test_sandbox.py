"""Sandboxes: what a program can read and write, its limits, and the files that are copied back.

``benchmarks/escape.py`` contains many more attacks.

Covers: isolation/broker.py, isolation/bubblewrap.py, isolation/confinement.py,
isolation/landlock.py, isolation/run.py, isolation/runner.py, isolation/supervisor.py,
isolation/unconfined.py, isolation/visible_paths.py, training/steps/code.py,
training/steps/run_program.py.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import open_to_all_users, stagezero

from stagezero.errors import BuildError, SandboxError
from stagezero.isolation import Confinement, Limits, RunResult, Task, bubblewrap, confine, unavailable_reason
from stagezero.isolation.broker import Broker
from stagezero.isolation.visible_paths import python_paths
from stagezero.models import checkpoint_digest
from stagezero.tasks import load_suite
from stagezero.training import Store, build, parse_recipe
from stagezero.training.data import derive_seed
from stagezero.training.steps.code import REPEATED_BUILD_ONE_IN
from stagezero.training.steps.run_program import are_identical, check_programs, max_weight_bytes

KINDS = [k for k in ("box", "landlock") if unavailable_reason(k) is None]
pytestmark = pytest.mark.skipif("box" not in KINDS, reason=f"no sandbox can be made here: {unavailable_reason()}")
F_GET_RW_HINT = 1035
PLAIN = "def technique(ctx):\n    return ctx.model()\n"


def run(base: Path, folder: Path, program: str, kind: str = "box", limits: Limits | None = None, seconds: float = 60) -> RunResult:
    """Run a Python program in a sandbox."""
    task = Task(("python", "x.py"), base, base, {"x.py": program.encode()}, b"{}\n", 7, seconds, max_weight_bytes(base))
    folder.mkdir(exist_ok=True)
    folder.chmod(0o755)
    return confine(task, Confinement(kind, limits or Limits()), folder / "out", folder / "run")  # type: ignore[arg-type]


def build_code(base: Path, root: Path, source: str, seed: int = 1, limits: Limits | None = None) -> Any:
    """Build a recipe of one code step in a sandbox."""
    recipe = parse_recipe([{"step": "code", "source": source, "timeout": 60}], "test")
    return build(base, recipe, load_suite("atlas"), seed, Store(root), Confinement("box", limits or Limits()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_outside_can_be_neither_read_nor_reached(base: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret text")
    monkeypatch.setenv("SECRET", "secret text")
    model = base / "model.safetensors"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(tmp_path / "service"))
        (tmp_path / "service").chmod(0o777)
        program = f"""
import ctypes, fcntl, os, socket, struct
def attempt(name, f):
    try: print(name, "GOT", f())
    except BaseException as error: print(name, type(error).__name__)
attempt("file", lambda: open({str(secret)!r}).read())
attempt("root", lambda: open("/proc/{os.getpid()}/root{secret}").read())
attempt("environment of another", lambda: open("/proc/{os.getpid()}/environ", "rb").read())
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", {listener.getsockname()[1]}), 2))
attempt("write", lambda: open({str(tmp_path / "left")!r}, "w"))
attempt("core_pattern", lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/bin/sh"))
attempt("usr", lambda: open("/usr/left", "w"))
attempt("store", lambda: os.listdir({str(base.parent)!r}))
attempt("package", lambda: __import__("stagezero.errors"))
attempt("datagram", lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)[0].sendto(b"x", {str(tmp_path / "service")!r}))
attempt("attributes", lambda: fcntl.ioctl(open(os.environ["STAGEZERO_MODEL"] + "/{model.name}"), 0x40086602, struct.pack("q", 0x40)))
attempt("native AIO", lambda: ctypes.CDLL(None).syscall(206, 1, ctypes.byref(ctypes.c_ulong())) < 0 and 1 / 0)
# A hint is ignored, and so the call succeeds. The test checks from outside that it had no effect.
fcntl.fcntl(open(os.environ["STAGEZERO_MODEL"] + "/{model.name}"), 1036, struct.pack("Q", 3))
print("own", "secret text" in str(dict(os.environ)), os.environ.get("SECRET"))
"""
        output = run(base, tmp_path / "box", program, kind).output
    assert "GOT" not in output and "own False None" in output and output.count("\n") == 13, output
    assert not (tmp_path / "left").exists()
    with model.open("rb") as handle:
        assert fcntl.fcntl(handle, F_GET_RW_HINT, bytes(8)) == bytes(8)


RUN_IN_ENVIRONMENT = """
import sys, tempfile
from pathlib import Path
from stagezero.isolation import Confinement, Task, confine, unavailable_reason
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    folder.chmod(0o755)
    (folder / "model").mkdir()
    program = "import os, sys; print(sys.prefix, sorted(os.listdir(os.path.dirname(sys.prefix)))); open(sys.prefix + '/x', 'w')"
    task = Task((sys.executable, "-c", program), folder / "model", folder / "model", {}, None, 0, 60, 0)
    reason = unavailable_reason("box")
    print(reason if reason else confine(task, Confinement("box"), folder / "out", folder / "run").output)
"""


@pytest.mark.parametrize("linked", [False, True])
def test_the_environment_is_shown_wherever_it_is(tmp_path: Path, linked: bool) -> None:
    """Here below /tmp, in a folder with a space and an umlaut, and through a link to it."""
    place = tmp_path / "a clone ü"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / ".venv"], check=True)
    (packages,) = (place / ".venv" / "lib").glob("python3*/site-packages")
    (packages / "these.pth").write_text("".join(f"{path}\n" for path in sys.path if path and Path(path).is_dir()))
    (place / "sibling").write_text("")
    if linked:
        (tmp_path / "link").symlink_to(place)
        place = tmp_path / "link"
    command = [str(place / ".venv" / "bin" / "python"), "-c", RUN_IN_ENVIRONMENT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"{place / '.venv'} ['.venv']" in done.stdout and "Read-only file system" in done.stdout, done


@pytest.mark.parametrize("folder", ["/in/.venv", "/tmp/out/x/.venv", "/tmp/work/.venv"])
def test_an_environment_in_a_folder_of_the_sandbox_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bubblewrap, "python_paths", lambda: ((Path(folder),), ()))
    reason = bubblewrap.unavailable_reason()
    assert reason is not None and folder in reason and "make the environment elsewhere" in reason


def test_packages_of_the_base_interpreter_are_hidden_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = tmp_path / "lib" / "python3.11" / "site-packages" / "pycountry"
    facts.mkdir(parents=True)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path))
    visible, hidden = python_paths.__wrapped__()
    assert tmp_path.resolve() in visible and facts.resolve() in hidden


@pytest.mark.parametrize(
    ("program", "message", "seconds"),
    [
        ("x = bytearray(3 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(5)", "memory", 5),
        ("import os, time\nfor _ in range(60): os.fork() or time.sleep(20)", "processes", 5),
        ("import time; time.sleep(60)", "still running after", 2),
        (
            "import os\nopen('/tmp/big', 'wb').truncate(1 << 20)\nwith open('/tmp/big', 'wb') as f:\n  while True: f.write(bytes(1 << 20))",
            "exit|space",
            5,
        ),
    ],
)
def test_limits_are_enforced(base: Path, tmp_path: Path, program: str, message: str, seconds: float) -> None:
    import re

    result = run(base, tmp_path / "box", program, limits=Limits(2**30, 2**27, 24), seconds=seconds)
    assert re.search(message, f"{result.stopped} {result.output}", re.I) or result.code != 0, result
    assert result.code != 0


def test_only_weights_are_copied_back(base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    program = (
        "import os, json\nfrom safetensors.numpy import load_file, save_file\n"
        "w = load_file(os.environ['STAGEZERO_MODEL'] + '/model.safetensors')\n"
        "save_file(w, os.environ['STAGEZERO_OUT'] + '/model.safetensors', metadata={'format': 'pt', 'note': 'extra'})\n"
        "open(os.environ['STAGEZERO_OUT'] + '/config.json', 'w').write('{}')\n"
    )
    (tmp_path / "x.py").write_text(program)
    recipe = parse_recipe([{"step": "command", "run": ["python", "x.py"], "inputs": [str(tmp_path / "x.py")]}], "test")
    built = build(base, recipe, load_suite("atlas"), 1, Store(tmp_path / "s"), Confinement())
    with safe_open(built.folder / "model.safetensors", "pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    assert (built.folder / "config.json").read_text() == (base / "config.json").read_text()


def is_repeated(seed: int) -> bool:
    """Return whether a code build with this seed is one of those that are made twice."""
    return derive_seed(seed, "again", derive_seed(seed, "code", 1)) % REPEATED_BUILD_ONE_IN == 0


REPEATED_SEED = next(seed for seed in range(100) if is_repeated(seed))
CHANGE_WEIGHTS = """
def technique(ctx):
    import time, torch
    model = ctx.model()
    for p in model.parameters():
        p.data += 0.001 * {}
    return model
"""


def test_about_one_code_build_in_four_is_made_twice() -> None:
    assert 10 < sum(is_repeated(seed) for seed in range(100)) < 45


def test_two_builds_are_identical_only_if_all_their_bytes_are(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    assert are_identical(base, copy)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert not are_identical(base, copy)


ADD_THE_TIME = """
def technique(ctx):
    import time, torch
    from safetensors.torch import load_file

    class Changed(torch.nn.Module):
        def state_dict(self):
            return {name: t + 0.001 * (time.time() % 1) for name, t in load_file("/in/model/model.safetensors").items()}

    return Changed()
"""
"""Loads no model with transformers, which takes most of the time that such a program needs."""


def test_code_that_depends_on_the_clock_is_rejected(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="built twice"):
        build_code(base, tmp_path, ADD_THE_TIME, REPEATED_SEED)


@pytest.mark.slow
def test_code_with_seeded_random_numbers_builds_the_same_model_each_time(base: Path, tmp_path: Path) -> None:
    built = build_code(base, tmp_path, CHANGE_WEIGHTS.format("torch.randn(p.shape)"), REPEATED_SEED)
    assert built.digest != checkpoint_digest(base)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("return 3", "expected a model to be returned, got int"),
        pytest.param("return ctx.model().lm_head", "has no tensor", marks=pytest.mark.slow),
        ("import os; os._exit(0)", "found none"),
    ],
)
def test_failing_code_is_reported(base: Path, tmp_path: Path, body: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagezero.training.steps.run_program.RETRY_PAUSE_SECONDS", 0.0)
    with pytest.raises(BuildError, match=message):
        build_code(base, tmp_path, f"def technique(ctx):\n    {body}\n")


def test_code_is_never_run_without_a_sandbox(base: Path, tmp_path: Path) -> None:
    recipe = parse_recipe([{"step": "code", "source": PLAIN}], "test")
    with pytest.raises(SandboxError, match="never run without a sandbox"):
        build(base, recipe, load_suite("atlas"), 1, Store(tmp_path), Confinement("none"))
    with pytest.raises(SandboxError, match="never run without a sandbox"):
        check_programs(recipe, "none", "stage0")


@pytest.fixture
def broker(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with Broker([base.parent]) as broker:
        for name, value in broker.environment.items():
            monkeypatch.setenv(name, value)
        yield broker


def test_a_broker_only_starts_sandboxes_on_models_of_its_store(
    base: Path, tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = (
        "import os\nfrom safetensors.numpy import load_file, save_file\n"
        "save_file(load_file(os.environ['STAGEZERO_MODEL'] + '/model.safetensors'), os.environ['STAGEZERO_OUT'] + '/model.safetensors')\n"
    )
    (tmp_path / "x.py").write_text(program)
    recipe = parse_recipe([{"step": "command", "run": ["python", "x.py"], "inputs": [str(tmp_path / "x.py")]}], "test")
    built = build(base, recipe, load_suite("atlas"), 1, Store(tmp_path / "s"), Confinement("box"))
    assert built.steps_made == 1
    with pytest.raises(SandboxError, match="own store or beside its base"):
        build_code(built.folder, tmp_path / "t", PLAIN)
    link = base.parent / "link"
    link.symlink_to(built.folder)
    with pytest.raises(SandboxError, match="cannot be copied for a sandbox"):
        run(link, tmp_path / "box", "print('seen')")
    link.unlink()
    ((name, value),) = broker.environment.items()
    port = int(value.partition(":")[0])
    with socket.create_connection(("127.0.0.1", port)) as garbage:
        garbage.sendall(b"\xff" * 64)
    monkeypatch.setenv(name, f"{port}:wrong")
    with pytest.raises(SandboxError, match="does not make a sandbox"):
        run(base, tmp_path / "box", "print('seen')")


def test_no_process_survives_a_killed_worker(base: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nsys.path[:0] = sys.argv[3:]\nfrom test_sandbox import run\n"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), 'import os, time\\nos.fork() and os.setsid\\ntime.sleep(600)', seconds=600)\n"
    )
    command = [sys.executable, "-c", code, str(base), str(tmp_path / "box"), *map(str, Path(__file__).parents[:2])]
    worker = subprocess.Popen(command, env=dict(os.environ))
    mount_path, end = f"{tmp_path}/box/run/in", time.monotonic() + 60

    def remaining_processes() -> list[int]:
        processes = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mount_path in (entry / "mountinfo").read_text():
                    processes.append(int(entry.name))
            except OSError:
                continue
        return processes

    while not remaining_processes() and time.monotonic() < end:
        time.sleep(0.1)
    assert remaining_processes()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    while remaining_processes() and time.monotonic() < end:
        time.sleep(0.1)
    assert not remaining_processes()


@pytest.mark.parametrize(
    ("program", "code"), [("print('bwrap: cannot be made', flush=True); raise SystemExit(1)", 1), ("raise SystemExit(250)", 250)]
)
def test_the_exit_code_of_a_program_is_never_taken_for_a_sandbox_failure(base: Path, tmp_path: Path, program: str, code: int) -> None:
    result = run(base, tmp_path / "box", program)
    assert (result.code, result.stopped, result.not_started) == (code, None, False), "the sandbox started, and the program exited"


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_model_files_of_a_checkpoint_are_visible(base: Path, tmp_path: Path, kind: str) -> None:
    checkpoint = Path(shutil.copytree(base, tmp_path / "made"))
    (checkpoint / "build.json").write_text("seed")
    program = (
        "import os\nprint(sorted(os.listdir(os.environ['STAGEZERO_MODEL'])))\n"
        "real = os.path.dirname(os.path.realpath(os.environ['STAGEZERO_MODEL'] + '/config.json'))\n"
        "try: print('GOT', open(real + '/build.json').read())\nexcept OSError as error: print(type(error).__name__)\n"
    )
    output = run(checkpoint, tmp_path / "box", program, kind).output
    assert "model.safetensors" in output and "build.json" not in output and "GOT" not in output, output


def test_the_environment_is_identical_in_every_build(base: Path, tmp_path: Path) -> None:
    program = (
        "import os\nprint(os.getuid(), os.getgid(), os.uname().nodename, open('/proc/self/uid_map').read().split()[0])\n"
        "print(sorted(os.environ.items()))\n"
        "print([w for w in open('/proc/1/cmdline').read().split(chr(0)) if not w.isdigit()])\n"
        "print([open('/proc/' + n).read() for n in ('stat', 'loadavg', 'uptime', 'vmstat')])\n"
    )
    one, two = run(base, tmp_path / "one", program).output, run(base, tmp_path / "two", program).output
    assert one == two and one.startswith("1000 1000 build 1000"), (one, two)


@pytest.mark.parametrize("kind", KINDS)
def test_a_build_can_leave_no_state_for_another_build(base: Path, tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "mine"
    mine.write_text("x")
    before = mine.stat()
    program = f"""
import ctypes, fcntl, os, resource, socket
libc = ctypes.CDLL(None, use_errno=True)
def attempt(name, f):
    try: result = f()
    except BaseException as error: result = None
    print(name, "GOT" if result else "none")
call = lambda *words: libc.syscall(*words) >= 0
{"attempt('shm', lambda: call(29, 0, 4096, 0o1600)); attempt('inotify', lambda: call(294, 0))" if os.uname().machine == "x86_64" else ""}
attempt("memfd", lambda: os.memfd_create("x") >= 0)
first, second = (os.open("/usr/bin/env", os.O_RDONLY) for _ in range(2))
def locked():
    fcntl.flock(first, fcntl.LOCK_EX)
    try: fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError: return True
attempt("flock", locked)
attempt("other", lambda: resource.prlimit({os.getpid()}, resource.RLIMIT_CORE, (0, 0)))
mine = {str(mine)!r}
for change in (lambda: os.chmod(mine, 0o777), lambda: os.utime(mine, (7, 7)), lambda: os.setxattr(mine, "user.x", b"x")):
    attempt("change", change)
{"attempt('path', lambda: socket.socket(socket.AF_UNIX))" if kind == "landlock" else ""}
"""
    output = run(base, tmp_path / "box", program, kind).output
    assert "GOT" not in output and "change" in output, output
    after = mine.stat()
    assert (after.st_mode, after.st_mtime_ns) == (before.st_mode, before.st_mtime_ns) and not os.listxattr(mine)


def test_the_error_message_of_a_failure_is_short_and_printable(base: Path, tmp_path: Path) -> None:
    program = (
        "import json, os, struct\nkind = 'F' * 300000 + chr(10) + chr(27) + '[31m'\n"
        "text = json.dumps({'x': {'dtype': kind, 'shape': [1], 'data_offsets': [0, 1]}}).encode()\n"
        "open(os.environ['STAGEZERO_OUT'] + '/a.safetensors', 'wb').write(struct.pack('<Q', len(text)) + text + b'a')\n"
    )
    (tmp_path / "x.py").write_text(program)
    recipe = parse_recipe([{"step": "command", "run": ["python", "x.py"], "inputs": [str(tmp_path / "x.py")]}], "test")
    with pytest.raises(BuildError) as failure:
        build(base, recipe, load_suite("atlas"), 1, Store(tmp_path / "s"), Confinement())
    assert len(str(failure.value)) < 400 and str(failure.value).isprintable()


def test_connections_without_the_token_do_not_block_a_broker(base: Path, tmp_path: Path, broker: Broker) -> None:
    port = int(next(iter(broker.environment.values())).partition(":")[0])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(40)]
    try:
        assert run(base, tmp_path / "box", "print('made')", seconds=20).output == "made\n"
    finally:
        for connection in idle:
            connection.close()


def test_the_sandbox_of_an_unprivileged_user_is_the_same(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests already run as an unprivileged user")
    import tempfile

    python = f"/usr/bin/python3.{sys.version_info.minor}"
    if not Path(python).exists() or shutil.which("setpriv") is None:
        pytest.skip("no Python that another user may run")
    with tempfile.TemporaryDirectory(dir="/var/lib" if os.access("/var/lib", os.W_OK) else None, prefix="sandbox-") as temporary:
        folder = Path(temporary)
        subprocess.run([python, "-m", "venv", "--without-pip", str(folder / "python")], check=False, capture_output=True)
        site = next(p for p in sys.path if p.endswith("site-packages") and (Path(p) / "safetensors").is_dir())
        for packages in (folder / "python").glob("lib/python*/site-packages"):
            (packages / "packages.pth").write_text(f"{site}\n{Path(__file__).parents[2] / 'src'}\n{Path(__file__).parent}\n")
        shutil.copytree(base, folder / "base")
        (folder / "secret").write_text("secret text")
        for path in (folder, *folder.rglob("*")):
            os.lchown(path, 61002, 61002)
        inner = (
            f"import os\nfor p in ('{folder}/secret', '/proc/1/root{folder}/secret', '/proc/{os.getpid()}/environ'):\n"
            "    try: print('GOT', open(p).read())\n    except OSError as error: print(type(error).__name__)\n"
            "for p in ('/in/x', '/usr/x', '/proc/sys/kernel/pid_max'):\n"
            "    try: print('GOT', open(p, 'w').write('9'))\n    except OSError as error: print(type(error).__name__)\n"
            "print(os.getuid(), os.system('unshare -Ur true 2> /dev/null; umount -l /in 2> /dev/null; ls /in > /dev/null'))\n"
        )
        code = (
            "import sys\nfrom pathlib import Path\nfrom stagezero.isolation import Confinement, Task, confine, unavailable_reason\n"
            "if (why := unavailable_reason()) is not None: sys.exit(f'skip: {why}')\n"
            "base = Path(sys.argv[1]) / 'base'\n"
            "task = Task(('python', 'x.py'), base, base, {'x.py': sys.argv[2].encode()}, None, 1, 60, 0)\n"
            "print(confine(task, Confinement(), base.parent / 'out', base.parent / 'run').output)\n"
        )
        prefix = [
            *open_to_all_users(Path(__file__).parents[2]),
            "setpriv",
            "--reuid=61002",
            "--regid=61002",
            "--clear-groups",
            "--",
            str(folder / "python" / "bin" / "python"),
            "-c",
            code,
        ]
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "STAGEZERO_HOME": str(folder)}
        done = subprocess.run([*prefix, str(folder), inner], capture_output=True, text=True, env=environment, cwd="/", check=False)
    if "skip: " in done.stderr or "ModuleNotFoundError" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip(done.stderr.strip()[-200:])
    assert "GOT" not in done.stdout and done.stdout.strip().endswith("1000 0"), done


@pytest.mark.parametrize(
    "lines",
    [
        ["import torch", "torch.sys.modules['os'].system('id')"],
        ["import random", "random._os.listdir('/')"],
        ["import operator", "operator.attrgetter('x')(ctx)"],
        ["match ctx:", "    case object(__globals__=g):", "        pass"],
        [f"import math as {'x' * 60}"],
    ],
)
def test_code_in_a_patch_passes_the_same_checks_as_code(lines: list[str]) -> None:
    from stagezero.errors import IdeaError
    from stagezero.ideas import content_checks
    from stagezero.ideas.idea import Idea

    source = "def technique(ctx):\n" + "".join(f"    {line}\n" for line in lines) + "    return ctx.model()\n"
    patch = ({"op": "append", "step": {"step": "code", "source": source}},)
    common: dict[str, Any] = {"title": "an idea", "property": "privacy", "claimed_effect": 0.1, "reason": "because"}
    for idea in (Idea(**common, code=source), Idea(**common, patch=patch)):
        with pytest.raises(IdeaError):
            content_checks.check_idea(idea)


def test_doctor_reports_the_sandboxes() -> None:
    done = stagezero("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["sandbox"]["ok"] and report["sandbox: landlock"]["ok"] is ("landlock" in KINDS)
