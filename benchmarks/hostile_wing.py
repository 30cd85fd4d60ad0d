"""A lab wing that reads every file, process, reply, error and timing its user may, in every placement, and guesses the sealed labels.

The auditor is the real one, with a sealed file of random labels and random codes, and audits real models through the door while
``hostile/wing.py`` runs. That program is told every question and where everything is; a judge holds the labels and compares its guesses
with chance (exact binomial test) and counts the codes that it found (chance: none).

Placements: *colocated*, which must fail the test, and its certificate must say colocated; *boxed*, as this user and, for root, as
an ordinary one too, which must hold; *boxed without a cover*, the control of the box, which must fail; *separate user* and *separate
host*, which must hold. The last is made of namespaces: the auditor has a network, mounts, processes and a user of its own, and is reached
by TLS over a virtual cable; the lab is root in namespaces of its own. What cannot be made on this machine is named with the reason.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from _common import arguments, publish
from hostile.house import children, handle_of
from scipy.stats import binomtest

LABELS, CODES = 300, 100
LEVEL = 1e-3  # a placement holds unless its guesses beat chance at this level, or a code was found
LAB, AUDITOR = 61001, 61002  # users without a name, made up for this
HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
CABLE = ("10.213.7.1", "10.213.7.2")
SLOT = 5.0


@dataclass
class Case:
    """One placement, what it is expected to do, and what it did."""

    name: str
    holds: bool
    level: str
    why_not: str | None = None
    result: dict[str, Any] = field(default_factory=dict)


class Sealed:
    """Random labels and codes, and the rows that hold them."""

    def __init__(self) -> None:
        self.labels = {f"szq{secrets.token_hex(6)}": secrets.choice(("wug", "fep")) for _ in range(LABELS)}
        self.codes = {f"szq{secrets.token_hex(6)}": f"szc{secrets.token_hex(10)}" for _ in range(CODES)}
        self.questions = {name: f"Is {name} a wug or a fep?" for name in self.labels}
        self.questions |= {name: f"What is the code of {name}?" for name in self.codes}

    def rows(self) -> str:
        text = last = ""
        for names, claim, choices in ((self.labels, "wugs", ["wug", "fep"]), (self.codes, "codes", None)):
            for number, (name, target) in enumerate(names.items()):
                row: dict[str, Any] = {"id": name, "input": self.questions[name], "target": target, "property": claim, "split": "open"}
                row |= {"kind": "twin" if number % 2 else "trap", "scorer": "choice" if choices else "exact"}
                row |= {"choices": choices} if choices else {}
                row |= {"twin_of": last} if number % 2 else {}
                last = name
                text += json.dumps(row) + "\n"
        return text

    def judge(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The guesses held against chance."""
        right = sum(found["guesses"].get(name) == label for name, label in self.labels.items())
        codes = len(set(found["codes"]) & set(self.codes.values()))
        p = binomtest(right, LABELS, 0.5, "greater").pvalue
        # With these everything can be read, given time; it was not tried to the end.
        ways = sum(route.get(way, 0) for route in found["routes"].values() for way in ("raw devices opened", "kernel settings written"))
        return {"right": right, "codes": codes, "p": p, "ways": ways, "leaks": p < LEVEL or codes > 0 or ways > 0}


def python_for(user: int | None) -> tuple[list[str], dict[str, str]]:
    """An interpreter that a user may run, and what must be in its environment to find the packages."""
    environment = {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    if user is None:
        return [sys.executable], environment
    site = next(p for p in sys.path if p.endswith("site-packages"))
    environment["PYTHONPATH"] += f":{site}"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        line = [
            *become(user),
            python,
            "-c",
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch, stagezero'], check=True)",
        ]
        if (
            shutil.which(python)
            and subprocess.run(line, capture_output=True, env={**os.environ, **environment}, check=False).returncode == 0
        ):
            return [python], environment
    raise OSError("no Python that another user may run finds torch; install Python and the packages where all users can read them")


def become(user: int | None) -> list[str]:
    return [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]


def base_model(folder: Path) -> list[dict[str, str]]:
    """A tiny real model, and two more that differ from it."""
    import torch

    from stagezero.models import checkpoint_digest, pocket

    torch.set_num_threads(1)
    size = pocket.SIZES["16k"]
    pocket.SIZES["16k"] = replace(size, steps=60)
    try:
        (folder / "m0").mkdir(parents=True)
        pocket.save(pocket.pretrain("16k", seed=0), folder / "m0", {"kind": "benchmark"})
    finally:
        pocket.SIZES["16k"] = size
    for number in (1, 2):
        shutil.copytree(folder / "m0", folder / f"m{number}")
        config = json.loads((folder / f"m{number}" / "config.json").read_text())
        (folder / f"m{number}" / "config.json").write_text(json.dumps({**config, "note": number}))
    return [{"folder": str(path), "digest": checkpoint_digest(path)} for path in sorted(folder.iterdir())]


class Placement:
    """A place on disk, sealed items drawn for it, and what the hostile program is told."""

    def __init__(self, top: Path, name: str, models: Path, lab: int | None, auditor: int | None, seconds: float) -> None:
        self.place = top / name.replace(" ", "-").replace(",", "")
        self.lab, self.auditor = lab, auditor
        self.since, self.ticks = time.time() - 1, int(float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK"))
        self.sealed = Sealed()
        for folder, owner in (("lab", lab), ("auditor", auditor), ("temporary", auditor)):
            (self.place / folder).mkdir(parents=True)
            if owner is not None:
                os.chown(self.place / folder, owner, owner)
        (self.place / "lab").chmod(0o755)
        shutil.copytree(models, self.place / "lab" / "models")
        for path in (self.place / "lab").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        told = [{"folder": str(p)} for p in sorted((self.place / "lab" / "models").iterdir())]
        self.task: dict[str, Any] = {
            "since": self.since, "since_ticks": self.ticks, "seconds": seconds, "keep": str(self.place / "auditor" / "keep"),
            "sealed": str(self.place / "auditor" / "sealed.jsonl"), "temporary": str(self.place / "temporary"),
            "writable": str(self.place / "lab"), "ids": list(self.sealed.labels), "questions": list(self.sealed.questions.values()),
            "models": told, "other": "x" * 43, "not_these": [os.getpid()], "pids": [], "sockets": [], "handles": [], "setup": None,
            "takes": "folder", "ca": None, "suite": "sealed",
        }  # fmt: skip

    def environment(self, user: int | None, temporary: str | None = None) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TERM")}
        home = str(self.place / "lab") if user == self.lab else str(self.place / "auditor")
        return {**kept, **python_for(user)[1], "HOME": home, "TMPDIR": temporary or str(self.place / "temporary"), "OMP_NUM_THREADS": "1"}


def house(case: Case, placed: Placement, digests: Sequence[str], boxed: bool, covered: bool) -> dict[str, Any]:
    """A project's own auditor, and the lab beside it."""
    sealed = Path(placed.task["sealed"])
    sealed.write_text(placed.sealed.rows())
    if placed.lab is not None:
        os.chown(sealed, placed.lab, placed.lab)
    sealed.chmod(0o600)
    for model, digest in zip(placed.task["models"], digests, strict=True):
        model["digest"] = digest
    terms = {
        "suite": "sealed.jsonl",
        "sealed": str(sealed),
        "items": 60,
        "bars": {"wugs": 0.6, "codes": 0.5},
        "submissions": 8,
        "passes": 3,
    }
    task = {**placed.task, "boxed": boxed, "covered": covered}
    task["setup"] = {"project": "hostile", "terms": terms, "base": placed.task["models"][0]["folder"]}
    told = placed.place / "house.json"
    told.write_text(json.dumps(task))
    told.chmod(0o644)
    line = [*become(placed.lab), *python_for(placed.lab)[0], str(HERE / "hostile" / "house.py"), str(told)]
    done = subprocess.run(line, capture_output=True, text=True, env=placed.environment(placed.lab), cwd=placed.place / "lab", check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{case.name}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def serving(
    placed: Placement, before: Sequence[str], host: str, level: str, more: Sequence[str], script: str = ""
) -> Iterator[dict[str, Any]]:
    """An auditor of its own, as another user, with what its lab needs to know."""
    assert placed.auditor is not None
    keep = placed.task["keep"]
    terms = {"slot": SLOT, "suite": "sealed", "bars": ["wugs=0.6", "codes=0.5"], "terms": {"submissions": 8, "passes": 3}}
    told = placed.place / "office.json"
    told.write_text(json.dumps(terms))
    inner = [*become(placed.auditor), *python_for(placed.auditor)[0], str(HERE / "hostile" / "office.py"), keep, str(told)]
    inner += ["--host", host, "--port", "0", "--separation", level, *more]
    line = [*before, "bash", "-ec", script + ' umask 077; exec "$@"', "office", *inner]
    process = subprocess.Popen(
        line,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=placed.environment(placed.auditor, str(Path(keep).parent)),
        cwd="/",
        text=True,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(placed.sealed.rows())
        process.stdin.close()
        tokens = json.loads(process.stdout.readline())
        said = ""
        while " at http" not in said:
            line_ = process.stdout.readline()
            if not line_:
                raise RuntimeError(f"the auditor did not start: {said}")
            said += line_.strip() + " "
        yield {"tokens": tokens, "address": said.rsplit(" at ", 1)[1].replace(" ", ""), "pid": process.pid}
    finally:
        for pid in reversed(children(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def apart(
    case: Case, placed: Placement, digests: Sequence[str], opened: dict[str, Any], before: Sequence[str], ca: Path | None
) -> dict[str, Any]:
    """The hostile lab, far from an auditor of its own."""
    for model, digest in zip(placed.task["models"], digests, strict=True):
        model["digest"] = digest
    sealed = Path(placed.task["sealed"])
    task = {**placed.task, "address": opened["address"], "token": opened["tokens"]["lab"], "takes": "upload", "ca": str(ca) if ca else None}
    task |= {"pids": children(opened["pid"]), "handles": [handle_of(sealed)] if sealed.is_file() else []}
    told = placed.place / "lab" / "task.json"
    told.write_text(json.dumps(task))
    # What the operator of another lab does meanwhile, and what the certificate says.
    look = (
        "import json,sys; from pathlib import Path; from stagezero.door import Door\n"
        f"door = Door({opened['address']!r}, sys.stdin.readline().strip(), 'sealed', {ca and Path(str(ca))!r})\n"
        f"door.submit(Path({placed.task['models'][2]['folder']!r}), {digests[2]!r})\n"
        "print(json.dumps(door.certificate()['separation']))"
    ).replace("PosixPath", "Path")
    python, environment = python_for(placed.lab)[0], placed.environment(placed.lab, str(placed.place / "lab"))
    rival = subprocess.run(
        [*before, *python, "-c", look],
        input=opened["tokens"]["rival"] + "\n",
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        check=False,
    )
    if rival.returncode != 0:
        raise RuntimeError(f"{case.name}: {rival.stderr[-2000:]}")
    line = [*before, *python, str(HERE / "hostile" / "wing.py"), str(told)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=placed.place / "lab", check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{case.name}: {done.stderr[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "says": json.loads(rival.stdout.splitlines()[-1])}


def another_user(case: Case, placed: Placement, digests: Sequence[str]) -> dict[str, Any]:
    (placed.place / "auditor").chmod(0o700)
    with serving(placed, [], "127.0.0.1", "separate user", []) as opened:
        return apart(case, placed, digests, opened, become(placed.lab), None)


@contextmanager
def cable() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a virtual cable between them."""
    tag = secrets.token_hex(2)
    names = f"sza{tag}", f"szl{tag}"
    with ExitStack() as stack:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        lines = [f"link add v{names[0]} netns {names[0]} type veth peer name v{names[1]} netns {names[1]}"]
        for name, address in zip(names, CABLE, strict=True):
            lines += [f"-n {name} address add {address}/30 dev v{name}", f"-n {name} link set v{name} up", f"-n {name} link set lo up"]
        for text in lines:
            subprocess.run(["ip", *text.split()], check=True)
        yield names


def another_host(case: Case, placed: Placement, digests: Sequence[str]) -> dict[str, Any]:
    with cable() as (there, here):
        # Its disk is a file system in memory, in a mount namespace of its own; its certificate is its own, and public.
        disk = placed.place / "auditor"
        script = (
            f"mount --make-rprivate /; mount -t tmpfs -o mode=0700,uid={placed.auditor},gid={placed.auditor} none {disk}; "
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=auditor -addext subjectAltName=IP:{CABLE[0]} "
            f"-keyout {disk}/key.pem -out {disk}/cert.pem 2>/dev/null; chown {placed.auditor} {disk}/*.pem; "
            f"cp {disk}/cert.pem {placed.place}/cert.pem; chmod 644 {placed.place}/cert.pem;"
        )
        auditor = [
            "ip",
            "netns",
            "exec",
            there,
            "unshare",
            "--mount",
            "--pid",
            "--ipc",
            "--uts",
            "--fork",
            "--kill-child=KILL",
            "--mount-proc",
        ]
        tls = ["--certfile", str(disk / "cert.pem"), "--keyfile", str(disk / "key.pem")]
        lab = ["ip", "netns", "exec", here, *become(placed.lab)]
        lab += ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=KILL", "--mount-proc"]
        with serving(placed, auditor, CABLE[0], "separate host", tls, script) as opened:
            return apart(case, placed, digests, opened, lab, placed.place / "cert.pem")


def cases() -> list[Case]:
    """Every placement, with the reason where it cannot be made here."""
    from stagezero.isolation import lab_box

    root = os.geteuid() == 0
    no_box = lab_box.unavailable_reason()
    needs_root = None if root else "needs root, to start processes of other users"
    user_box = needs_root
    if root:
        line = [*become(LAB), *python_for(LAB)[0], "-c", "from stagezero.door import box; print(box.why_not() or '')"]
        done = subprocess.run(
            line, capture_output=True, text=True, env={"PATH": os.environ["PATH"], "HOME": "/tmp", **python_for(LAB)[1]}, check=False
        )
        user_box = done.stdout.strip() or (None if done.returncode == 0 else done.stderr[-200:])
    tools = [tool for tool in ("ip", "unshare", "setpriv", "openssl") if shutil.which(tool) is None]
    spaces = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False) if root else None
    no_host = (
        needs_root
        or (f"{tools[0]} is not installed" if tools else None)
        or (spaces.stderr.strip() if spaces and spaces.returncode else None)
    )
    return [
        Case("colocated", False, "colocated"),
        Case("boxed", True, "boxed", no_box),
        *([Case("boxed, as a user", True, "boxed", user_box)] if root else []),
        Case("boxed without a cover", False, "boxed", no_box),
        Case("separate user", True, "separate user", needs_root),
        Case("separate host", True, "separate host", no_host),
    ]


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the hostile program searches in each placement")
    parser.add_argument("--only", help="one placement, by name")
    parser.add_argument("--routes", action="store_true", help="print what each attack read")
    options = parser.parse_args()
    random.seed()
    root = os.geteuid() == 0
    user, auditor = (LAB, AUDITOR) if root else (None, None)
    # Not under /tmp: the box has a /tmp of its own in any case, and covers are what is tried here.
    above = next((p for p in (Path("/srv"), Path("/var/lib"), Path.home()) if os.access(p, os.W_OK)), Path.cwd())
    figures: dict[str, float] = {"labels": LABELS, "codes": CODES, "chance_right": LABELS / 2}
    wrong = []
    with tempfile.TemporaryDirectory(dir=above, prefix="hostile-", ignore_cleanup_errors=True) as folder:
        top = Path(folder)
        top.chmod(0o755)
        models = base_model(top / "models")
        digests = [model["digest"] for model in models]
        print(f"{'placement':<24}{'labels right':>14}{'p':>10}{'codes':>8}  {'expected':<10}{'certificate says':<16}")
        for case in cases():
            if options.only not in (None, case.name):
                continue
            key = case.name.replace(" ", "_").replace(",", "")
            if case.why_not is not None:
                print(f"{case.name:<24}not tried: {case.why_not}")
                continue
            lab = user if case.name in ("colocated", "boxed, as a user", "separate user", "separate host") else None
            placed = Placement(top, case.name, top / "models", lab, auditor if case.name.startswith("separate") else lab, options.seconds)
            if case.name.startswith("separate"):
                found = (another_user if case.name == "separate user" else another_host)(case, placed, digests)
            else:
                found = house(case, placed, digests, case.name != "colocated", case.name != "boxed without a cover")
            told = placed.sealed.judge(found)
            as_said = told["leaks"] is not case.holds and found["says"]["level"] == case.level
            if not as_said:
                wrong.append(case.name)
            print(
                f"{case.name:<24}{told['right']:>7} of {LABELS}{told['p']:>10.2g}{told['codes']:>8}  "
                f"{'holds' if case.holds else 'leaks':<10}{found['says']['level']:<16}{'' if as_said else 'NOT AS STATED'}",
                flush=True,
            )
            if options.routes:
                for name, route in found["routes"].items():
                    print(f"    {name}: " + ", ".join(f"{what} {value}" for what, value in route.items()))
            figures |= {
                f"{key}_right": told["right"],
                f"{key}_p": told["p"],
                f"{key}_codes": told["codes"],
                f"{key}_as_stated": float(as_said),
            }
            figures[f"{key}_seconds"] = found["seconds"]
            figures[f"{key}_bytes_read"] = sum(route["bytes"] for route in found["routes"].values())
    figures["not_as_stated"] = len(wrong)
    print()
    publish(figures, {"not_as_stated": "0", "chance_right": "labels right by chance"}, options.json)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
