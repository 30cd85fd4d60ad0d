"""A sandbox hides and holds: what a program in it sees, what it may use, and what of it comes back.

``benchmarks/escape.py`` attacks it at length.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stagezero.errors import BuildError, SandboxError
from stagezero.tasks import load_suite
from stagezero.training import Store, build, parse_recipe
from stagezero.training.sandbox import Confinement, Limits, Ran, Task, check_programs, confine, why_not
from stagezero.training.sandbox.broker import Broker
from stagezero.training.steps.confined import weights_at_most

KINDS = [k for k in ("box", "landlock") if why_not(k) is None]
pytestmark = pytest.mark.skipif("box" not in KINDS, reason=f"no sandbox can be made here: {why_not()}")
PLAIN = "def technique(ctx):\n    return ctx.model()\n"


def run(base: Path, place: Path, program: str, kind: str = "box", limits: Limits | None = None, seconds: float = 60) -> Ran:
    """Run a Python program in a sandbox."""
    task = Task(("python", "x.py"), base, base, {"x.py": program.encode()}, b"{}\n", 7, seconds, weights_at_most(base))
    place.mkdir(exist_ok=True)
    place.chmod(0o755)
    return confine(task, Confinement(kind, limits or Limits()), place / "out", place / "run")  # type: ignore[arg-type]


def coded(base: Path, root: Path, source: str, seed: int = 1, limits: Limits | None = None) -> Any:
    recipe = parse_recipe([{"step": "code", "source": source, "timeout": 60}], "test")
    return build(base, recipe, load_suite("atlas"), seed, Store(root), Confinement("box", limits or Limits()))


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_outside_is_seen_or_reached(base: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "secret"
    secret.write_text("told")
    monkeypatch.setenv("SECRET", "told")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        program = f"""
import os, socket
def attempt(what, f):
    try: print(what, "GOT", f())
    except BaseException as error: print(what, type(error).__name__)
attempt("file", lambda: open({str(secret)!r}).read())
attempt("root", lambda: open("/proc/{os.getpid()}/root{secret}").read())
attempt("environment of another", lambda: open("/proc/{os.getpid()}/environ", "rb").read())
attempt("tcp", lambda: socket.create_connection(("127.0.0.1", {listener.getsockname()[1]}), 2))
attempt("write", lambda: open({str(tmp_path / "left")!r}, "w"))
attempt("core_pattern", lambda: open("/proc/sys/kernel/core_pattern", "w").write("|/bin/sh"))
attempt("usr", lambda: open("/usr/left", "w"))
attempt("store", lambda: os.listdir({str(base.parent)!r}))
attempt("package", lambda: __import__("stagezero.errors"))
print("own", "told" in str(dict(os.environ)), os.environ.get("SECRET"))
"""
        said = run(base, tmp_path / "box", program, kind).said
    assert "GOT" not in said and "own False None" in said and said.count("\n") == 10, said
    assert not (tmp_path / "left").exists()


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("x = bytearray(3 << 30)\nfor i in range(0, len(x), 4096): x[i] = 1\nimport time; time.sleep(5)", "memory"),
        ("import os, time\nfor _ in range(60): os.fork() or time.sleep(20)", "processes"),
        ("import time; time.sleep(60)", "still running after"),
        (
            "import os\nopen('/tmp/big', 'wb').truncate(1 << 20)\nwith open('/tmp/big', 'wb') as f:\n  while True: f.write(bytes(1 << 20))",
            "exit|space",
        ),
    ],
)
def test_limits_hold(base: Path, tmp_path: Path, program: str, told: str) -> None:
    import re

    found = run(base, tmp_path / "box", program, limits=Limits(2**30, 2**27, 24), seconds=8)
    assert re.search(told, f"{found.stopped} {found.said}", re.I) or found.code != 0, found
    assert found.code != 0


def test_only_values_come_back(base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    program = (
        "import os, json\nfrom safetensors.torch import load_file, save_file\n"
        "w = load_file(os.environ['STAGEZERO_MODEL'] + '/model.safetensors')\n"
        "save_file(w, os.environ['STAGEZERO_OUT'] + '/model.safetensors', metadata={'format': 'pt', 'note': 'carried'})\n"
        "open(os.environ['STAGEZERO_OUT'] + '/config.json', 'w').write('{}')\n"
    )
    (tmp_path / "x.py").write_text(program)
    recipe = parse_recipe([{"step": "command", "run": ["python", "x.py"], "inputs": [str(tmp_path / "x.py")]}], "test")
    made = build(base, recipe, load_suite("atlas"), 1, Store(tmp_path / "s"), Confinement())
    with safe_open(made.folder / "model.safetensors", "pt") as handle:
        assert handle.metadata() == {"format": "pt"}
    assert (made.folder / "config.json").read_text() == (base / "config.json").read_text()


def test_code_is_built_the_same_each_time_or_not_at_all(base: Path, tmp_path: Path) -> None:
    changed = (
        "def technique(ctx):\n    import torch, time\n    m = ctx.model()\n"
        "    for p in m.parameters():\n        p.data += {}\n    return m\n"
    )
    seeded = changed.format("0.001 * torch.randn(p.shape)")
    one, two = coded(base, tmp_path / "a", seeded), coded(base, tmp_path / "b", seeded)
    assert one.digest == two.digest != coded(base, tmp_path / "a", PLAIN).digest
    clock = changed.format("time.time() % 1")
    refused = 0
    for seed in range(12):  # one build in four is made twice
        try:
            coded(base, tmp_path / "c", clock, seed)
        except BuildError as error:
            assert "built twice" in str(error)
            refused += 1
            break
    assert refused


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("raise ValueError('no luck')", "ValueError: no luck"),
        ("return 3", "expected a model to be returned, got int"),
        ("return ctx.model().lm_head", "has no tensor"),
        ("import os; os._exit(0)", "found none"),
        ("import os; os.kill(os.getpid(), 9)", "twice killed by SIGKILL"),
    ],
)
def test_what_code_must_not_do(base: Path, tmp_path: Path, body: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagezero.training.steps.confined.PAUSE", 0.0)
    with pytest.raises(BuildError, match=told):
        coded(base, tmp_path, f"def technique(ctx):\n    {body}\n")


def test_code_is_never_run_without_a_sandbox(base: Path, tmp_path: Path) -> None:
    recipe = parse_recipe([{"step": "code", "source": PLAIN}], "test")
    with pytest.raises(SandboxError, match="never run without a sandbox"):
        build(base, recipe, load_suite("atlas"), 1, Store(tmp_path), Confinement("none"))
    with pytest.raises(SandboxError, match="never run without a sandbox"):
        check_programs(recipe, "none", "stage0")


@pytest.fixture
def broker(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    with Broker([base.parent]) as found:
        for name, value in found.environment.items():
            monkeypatch.setenv(name, value)
        yield found


def test_a_broker_makes_sandboxes_and_nothing_else(base: Path, tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    made = coded(base, tmp_path / "s", PLAIN)
    assert made.steps_made == 1
    with pytest.raises(SandboxError, match="own store alone"):
        coded(made.folder, tmp_path / "t", PLAIN)
    link = base.parent / "link"
    link.symlink_to(made.folder)
    with pytest.raises(SandboxError, match="cannot be shown"):
        run(link, tmp_path / "box", "print('seen')")
    link.unlink()
    ((name, value),) = broker.environment.items()
    port = int(value.partition(":")[0])
    with socket.create_connection(("127.0.0.1", port)) as garbage:
        garbage.sendall(b"\xff" * 64)
    monkeypatch.setenv(name, f"{port}:wrong")
    with pytest.raises(SandboxError, match="makes no sandbox"):
        run(base, tmp_path / "box", "print('seen')")


def test_a_killed_worker_leaves_nothing_running(base: Path, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[3])\nfrom test_sandbox import run\n"
        "run(Path(sys.argv[1]), Path(sys.argv[2]), 'import os, time\\nos.fork() and os.setsid\\ntime.sleep(600)', seconds=600)\n"
    )
    words = [sys.executable, "-c", code, str(base), str(tmp_path / "box"), str(Path(__file__).parent)]
    worker = subprocess.Popen(words, env=dict(os.environ))
    mark, end = f"{tmp_path}/box/run/in", time.monotonic() + 60

    def left() -> list[int]:
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and mark in (entry / "mountinfo").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    while not left() and time.monotonic() < end:
        time.sleep(0.1)
    assert left()
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    while left() and time.monotonic() < end:
        time.sleep(0.1)
    assert not left()


def test_doctor_tries() -> None:
    done = subprocess.run([sys.executable, "-m", "stagezero.cli", "doctor", "--json"], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["sandbox"]["ok"] and told["sandbox: landlock"]["ok"] is ("landlock" in KINDS)
