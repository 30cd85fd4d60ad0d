"""Measure what a hostile lab can read of the sealed labels, in every placement of lab and auditor.

The lab reads every file, process, reply, error and response time that its user can observe, and
then guesses the labels. The auditor is the real one, with a sealed file of random labels and random
codes. It audits real models while ``hostile/lab.py`` runs. That program receives every question
and the paths of everything. The benchmark compares its guesses with chance (exact binomial test),
and counts the codes that it found (by chance: none). The placements are:

    colocated              must leak, and the certificate must state "colocated"
    boxed                  must hold; as the current user and, for root, as an ordinary user
    boxed without a cover  must leak; the negative control of the box
    separate user          must hold
    separate host          must hold

The separate host is made of namespaces. The auditor has its own network, mounts, processes and
user, and is reached by TLS over a virtual cable. The lab is root in namespaces of its own. A
placement that cannot be made on this machine is printed with the reason.
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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from _common import arguments, publish
from hostile.start_run import children, handle_of
from scipy.stats import binomtest

LABELS, CODES = 300, 100
LEVEL = 1e-3
"""A placement leaks if the guesses are better than chance at this level, or a code was found."""
LAB, AUDITOR = 61001, 61002
"""Arbitrary user ids without a name."""
HERE = Path(__file__).parent
SOURCE = HERE.parent / "src"
CABLE = ("10.213.7.1", "10.213.7.2")
"""Addresses of the auditor and the lab on the virtual cable."""
SLOT_SECONDS = 5.0


@dataclass
class Case:
    """One placement.

    Args:
        name: its name.
        holds: whether it is expected to hold; otherwise it must leak.
        level: separation that the certificate must state.
        unavailable: why it cannot be made on this machine; None if it can.
    """

    name: str
    holds: bool
    level: str
    unavailable: str | None = None


class SealedItems:
    """Random labels and codes, and the rows that contain them."""

    def __init__(self) -> None:
        """Draw the labels and codes."""
        self.labels = {f"szq{secrets.token_hex(6)}": secrets.choice(("wug", "fep")) for _ in range(LABELS)}
        self.codes = {f"szq{secrets.token_hex(6)}": f"szc{secrets.token_hex(10)}" for _ in range(CODES)}
        self.questions = {name: f"Is {name} a wug or a fep?" for name in self.labels}
        self.questions |= {name: f"What is the code of {name}?" for name in self.codes}

    def rows(self) -> str:
        """Return the content of the sealed file."""
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

    def evaluate(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Compare the result of the hostile program with chance.

        Returns:
            Right labels and their p-value, codes that were read, and whether the placement leaks.
        """
        right = sum(result["guesses"].get(name) == label for name, label in self.labels.items())
        codes = len(set(result["codes"]) & set(self.codes.values()))
        p = binomtest(right, LABELS, 0.5, "greater").pvalue
        # With either of these, an attacker with enough time can read everything.
        sufficient = ("raw devices server", "kernel settings written")
        accesses = sum(route.get(access, 0) for route in result["routes"].values() for access in sufficient)
        return {"right": right, "codes": codes, "p": p, "leaks": p < LEVEL or codes > 0 or accesses > 0}


def python_for(user: int | None) -> tuple[list[str], dict[str, str]]:
    """Return an interpreter that a user may run, and the environment variables that it needs.

    Args:
        user: id of the user; None is the current one.

    Raises:
        OSError: there is none.
    """
    environment = {"PYTHONPATH": str(SOURCE), "PYTHONDONTWRITEBYTECODE": "1"}
    if user is None:
        return [sys.executable], environment
    site = next(p for p in sys.path if p.endswith("site-packages"))
    environment["PYTHONPATH"] += f":{site}"
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        command = [
            *become(user),
            python,
            "-c",
            "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch, stagezero'], check=True)",
        ]
        if (
            shutil.which(python)
            and subprocess.run(command, capture_output=True, env={**os.environ, **environment}, check=False).returncode == 0
        ):
            return [python], environment
    raise OSError(f"user {user} can run no Python with torch; install Python and the packages where all users can read them")


def become(user: int | None) -> list[str]:
    """Return the start of a command line that runs the rest as a user; None changes nothing."""
    return [] if user is None else ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--"]


def base_model(folder: Path) -> list[dict[str, str]]:
    """Train a tiny real model and make two copies with other digests.

    Returns:
        The folder and the digest of each.
    """
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
    """Folders of one placement, its sealed items, and the task of the hostile program."""

    def __init__(self, top: Path, name: str, models: Path, lab: int | None, auditor: int | None, seconds: float) -> None:
        """Create the folders and draw the items.

        Args:
            top: folder of all placements.
            name: name of the placement.
            models: folder with the models that the lab submits.
            lab: user id of the lab; None is the current one.
            auditor: user id of the auditor; None is the current one.
            seconds: how long the hostile program searches.
        """
        self.place = top / name.replace(" ", "-").replace(",", "")
        self.lab, self.auditor = lab, auditor
        self.since, self.ticks = time.time() - 1, int(float(Path("/proc/uptime").read_text().split()[0]) * os.sysconf("SC_CLK_TCK"))
        self.sealed = SealedItems()
        for folder, owner in (("lab", lab), ("auditor", auditor), ("temporary", auditor)):
            (self.place / folder).mkdir(parents=True)
            if owner is not None:
                os.chown(self.place / folder, owner, owner)
        (self.place / "lab").chmod(0o755)
        shutil.copytree(models, self.place / "lab" / "models")
        for path in (self.place / "lab").rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        model_folders = [{"folder": str(p)} for p in sorted((self.place / "lab" / "models").iterdir())]
        self.task: dict[str, Any] = {
            "since": self.since, "since_ticks": self.ticks, "seconds": seconds, "keep": str(self.place / "auditor" / "folder"),
            "sealed": str(self.place / "auditor" / "sealed.jsonl"), "temporary": str(self.place / "temporary"),
            "writable": str(self.place / "lab"), "ids": list(self.sealed.labels), "questions": list(self.sealed.questions.values()),
            "models": model_folders, "other": "x" * 43, "not_these": [os.getpid()], "pids": [], "sockets": [], "handles": [], "setup": None,
            "takes": "folder", "ca": None, "suite": "sealed",
        }  # fmt: skip

    def environment(self, user: int | None, temporary: str | None = None) -> dict[str, str]:
        """Return the environment variables of a user's process.

        Args:
            user: id of the user.
            temporary: folder for temporary files; by default, the placement's.
        """
        inherited = {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "TERM")}
        home = str(self.place / "lab") if user == self.lab else str(self.place / "auditor")
        temporary = temporary or str(self.place / "temporary")
        return {**inherited, **python_for(user)[1], "HOME": home, "TMPDIR": temporary, "OMP_NUM_THREADS": "1"}


def same_machine(case: Case, placement: Placement, digests: Sequence[str], boxed: bool, covered: bool) -> dict[str, Any]:
    """Run the hostile program as the lab of a project with an embedded auditor.

    Args:
        case: the placement's expectations.
        placement: its folders and task.
        digests: digests of the models.
        boxed: whether the lab runs in a box.
        covered: whether the box hides the auditor's folder and the sealed file.

    Returns:
        The result of the hostile program, and the separation that the certificate states.

    Raises:
        RuntimeError: the hostile program has no result.
    """
    sealed = Path(placement.task["sealed"])
    sealed.write_text(placement.sealed.rows())
    if placement.lab is not None:
        os.chown(sealed, placement.lab, placement.lab)
    sealed.chmod(0o600)
    for model, digest in zip(placement.task["models"], digests, strict=True):
        model["digest"] = digest
    terms = {
        "suite": "sealed.jsonl",
        "sealed": str(sealed),
        "items": 60,
        "bars": {"wugs": 0.6, "codes": 0.5},
        "submissions": 8,
        "passes": 3,
    }
    task = {**placement.task, "boxed": boxed, "covered": covered}
    task["setup"] = {"project": "hostile", "terms": terms, "base": placement.task["models"][0]["folder"]}
    task_file = placement.place / "house.json"
    task_file.write_text(json.dumps(task))
    task_file.chmod(0o644)
    command = [*become(placement.lab), *python_for(placement.lab)[0], str(HERE / "hostile" / "start_run.py"), str(task_file)]
    environment = placement.environment(placement.lab)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=placement.place / "lab", check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{case.name}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@contextmanager
def serving(
    placement: Placement, prefix: Sequence[str], host: str, level: str, options: Sequence[str], script: str = ""
) -> Iterator[dict[str, Any]]:
    """Serve an auditor as another user, and kill it at the end.

    Args:
        placement: its folders and items.
        prefix: start of the command line, which may enter namespaces.
        host: address to listen on.
        level: separation that the operator states.
        options: further options of ``stagezero audit serve``.
        script: shell commands that run before the server.

    Yields:
        The labs' tokens, the address and the process id.

    Raises:
        RuntimeError: the server does not start.
    """
    assert placement.auditor is not None
    folder = placement.task["keep"]
    terms = {"slot": SLOT_SECONDS, "suite": "sealed", "bars": ["wugs=0.6", "codes=0.5"], "terms": {"submissions": 8, "passes": 3}}
    terms_file = placement.place / "office.json"
    terms_file.write_text(json.dumps(terms))
    server = [
        *become(placement.auditor),
        *python_for(placement.auditor)[0],
        str(HERE / "hostile" / "start_auditor.py"),
        folder,
        str(terms_file),
    ]
    server += ["--host", host, "--port", "0", "--separation", level, *options]
    command = [*prefix, "bash", "-ec", script + ' umask 077; exec "$@"', "office", *server]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=placement.environment(placement.auditor, str(Path(folder).parent)),
        cwd="/",
        text=True,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(placement.sealed.rows())
        process.stdin.close()
        tokens = json.loads(process.stdout.readline())
        output = ""
        while " at http" not in output:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError(f"the auditor did not start: {output}")
            output += line.strip() + " "
        yield {"tokens": tokens, "address": output.rsplit(" at ", 1)[1].replace(" ", ""), "pid": process.pid}
    finally:
        for pid in reversed(children(process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def separate_lab(
    case: Case, placement: Placement, digests: Sequence[str], server: dict[str, Any], prefix: Sequence[str], ca: Path | None
) -> dict[str, Any]:
    """Run the hostile program as the lab of an auditor that is served by another user.

    Args:
        case: the placement's expectations.
        placement: its folders and task.
        digests: digests of the models.
        server: tokens, address and process id from ``serving``.
        prefix: start of the command line, which changes the user and may enter namespaces.
        ca: certificate of the auditor; None for plain HTTP.

    Returns:
        The result of the hostile program, and the separation that the certificate states.

    Raises:
        RuntimeError: the hostile program or the other lab failed.
    """
    for model, digest in zip(placement.task["models"], digests, strict=True):
        model["digest"] = digest
    sealed = Path(placement.task["sealed"])
    task = {
        **placement.task,
        "address": server["address"],
        "token": server["tokens"]["lab"],
        "takes": "upload",
        "ca": str(ca) if ca else None,
    }
    task |= {"pids": children(server["pid"]), "handles": [handle_of(sealed)] if sealed.is_file() else []}
    task_file = placement.place / "lab" / "task.json"
    task_file.write_text(json.dumps(task))
    # Another lab submits a model at the same time, and reads the certificate.
    script = (
        "import json,sys; from pathlib import Path; from stagezero.door import Door\n"
        f"door = Door({server['address']!r}, sys.stdin.readline().strip(), 'sealed', {ca and Path(str(ca))!r})\n"
        f"door.submit(Path({placement.task['models'][2]['folder']!r}), {digests[2]!r})\n"
        "print(json.dumps(door.certificate()['separation']))"
    ).replace("PosixPath", "Path")
    python, environment = python_for(placement.lab)[0], placement.environment(placement.lab, str(placement.place / "lab"))
    rival = subprocess.run(
        [*prefix, *python, "-c", script],
        input=server["tokens"]["rival"] + "\n",
        capture_output=True,
        text=True,
        env=environment,
        cwd="/",
        check=False,
    )
    if rival.returncode != 0:
        raise RuntimeError(f"{case.name}: {rival.stderr[-2000:]}")
    command = [*prefix, *python, str(HERE / "hostile" / "lab.py"), str(task_file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=placement.place / "lab", check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{case.name}: {done.stderr[-2000:]}")
    return {**json.loads(done.stdout.splitlines()[-1]), "separation": json.loads(rival.stdout.splitlines()[-1])}


def separate_user(case: Case, placement: Placement, digests: Sequence[str]) -> dict[str, Any]:
    """Run the hostile program as one user, and the auditor as another."""
    (placement.place / "auditor").chmod(0o700)
    with serving(placement, [], "127.0.0.1", "separate user", []) as server:
        return separate_lab(case, placement, digests, server, become(placement.lab), None)


@contextmanager
def cable() -> Iterator[tuple[str, str]]:
    """Create two network namespaces with a virtual cable between them; yield their names."""
    tag = secrets.token_hex(2)
    names = f"sza{tag}", f"szl{tag}"
    with ExitStack() as stack:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        commands = [f"link add v{names[0]} netns {names[0]} type veth peer name v{names[1]} netns {names[1]}"]
        for name, address in zip(names, CABLE, strict=True):
            commands += [f"-n {name} address add {address}/30 dev v{name}", f"-n {name} link set v{name} up", f"-n {name} link set lo up"]
        for command in commands:
            subprocess.run(["ip", *command.split()], check=True)
        yield names


def separate_host(case: Case, placement: Placement, digests: Sequence[str]) -> dict[str, Any]:
    """Run the hostile program and the auditor in separate namespaces with a cable between them."""
    with cable() as (auditor_network, lab_network):
        # The auditor's disk is a file system in memory, in its own mount namespace. It makes its
        # own certificate, which is public.
        disk = placement.place / "auditor"
        script = (
            f"mount --make-rprivate /; mount -t tmpfs -o mode=0700,uid={placement.auditor},gid={placement.auditor} none {disk}; "
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=auditor -addext subjectAltName=IP:{CABLE[0]} "
            f"-keyout {disk}/key.pem -out {disk}/cert.pem 2>/dev/null; chown {placement.auditor} {disk}/*.pem; "
            f"cp {disk}/cert.pem {placement.place}/cert.pem; chmod 644 {placement.place}/cert.pem;"
        )
        auditor = [
            "ip",
            "netns",
            "exec",
            auditor_network,
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
        lab = ["ip", "netns", "exec", lab_network, *become(placement.lab)]
        lab += ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child=KILL", "--mount-proc"]
        with serving(placement, auditor, CABLE[0], "separate host", tls, script) as server:
            return separate_lab(case, placement, digests, server, lab, placement.place / "cert.pem")


def cases() -> list[Case]:
    """Return every placement, with the reason if it cannot be made here."""
    from stagezero.isolation import lab_box

    root = os.geteuid() == 0
    no_box = lab_box.unavailable_reason()
    needs_root = None if root else "needs root, to start processes of other users"
    user_box = needs_root
    if root:
        script = "from stagezero.isolation import lab_box; print(lab_box.unavailable_reason() or '')"
        environment = {"PATH": os.environ["PATH"], "HOME": "/tmp", **python_for(LAB)[1]}
        command = [*become(LAB), *python_for(LAB)[0], "-c", script]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        user_box = done.stdout.strip() or (None if done.returncode == 0 else done.stderr[-200:])
    tools = [tool for tool in ("ip", "unshare", "setpriv", "openssl") if shutil.which(tool) is None]
    namespaces = subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, text=True, check=False) if root else None
    no_host = (
        needs_root
        or (f"{tools[0]} is not installed" if tools else None)
        or (namespaces.stderr.strip() if namespaces and namespaces.returncode else None)
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
    """Run the benchmark; return 1 if a placement is not as expected."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--seconds", type=float, default=60.0, help="seconds that the hostile program searches in each placement")
    parser.add_argument("--only", help="run one placement only, by name")
    parser.add_argument("--routes", action="store_true", help="print what each route of the attack read")
    options = parser.parse_args()
    random.seed()
    root = os.geteuid() == 0
    user, auditor = (LAB, AUDITOR) if root else (None, None)
    # Not under /tmp: the box always has a /tmp of its own, but its covers are to be tested.
    parent = next((p for p in (Path("/srv"), Path("/var/lib"), Path.home()) if os.access(p, os.W_OK)), Path.cwd())
    figures: dict[str, float] = {"labels": LABELS, "codes": CODES, "chance_right": LABELS / 2}
    unexpected = []
    with tempfile.TemporaryDirectory(dir=parent, prefix="hostile-", ignore_cleanup_errors=True) as folder:
        top = Path(folder)
        top.chmod(0o755)
        models = base_model(top / "models")
        digests = [model["digest"] for model in models]
        print(f"{'placement':<24}{'labels right':>14}{'p':>10}{'codes':>8}  {'expected':<10}{'certificate':<16}")
        for case in cases():
            if options.only not in (None, case.name):
                continue
            key = case.name.replace(" ", "_").replace(",", "")
            if case.unavailable is not None:
                print(f"{case.name:<24}was not run: {case.unavailable}")
                continue
            lab = user if case.name in ("colocated", "boxed, as a user", "separate user", "separate host") else None
            auditor_user = auditor if case.name.startswith("separate") else lab
            placement = Placement(top, case.name, top / "models", lab, auditor_user, options.seconds)
            if case.name.startswith("separate"):
                result = (separate_user if case.name == "separate user" else separate_host)(case, placement, digests)
            else:
                result = same_machine(case, placement, digests, case.name != "colocated", case.name != "boxed without a cover")
            outcome, level = placement.sealed.evaluate(result), result["separation"]["level"]
            as_expected = outcome["leaks"] is not case.holds and level == case.level
            if not as_expected:
                unexpected.append(case.name)
            print(
                f"{case.name:<24}{outcome['right']:>7} of {LABELS}{outcome['p']:>10.2g}{outcome['codes']:>8}  "
                f"{'holds' if case.holds else 'leaks':<10}{level:<16}{'' if as_expected else 'NOT AS EXPECTED'}",
                flush=True,
            )
            if options.routes:
                for name, route in result["routes"].items():
                    print(f"    {name}: " + ", ".join(f"{counter} {value}" for counter, value in route.items()))
            figures |= {
                f"{key}_right": outcome["right"],
                f"{key}_p": outcome["p"],
                f"{key}_codes": outcome["codes"],
                f"{key}_as_stated": float(as_expected),
            }
            figures[f"{key}_seconds"] = result["seconds"]
            figures[f"{key}_bytes_read"] = sum(route["bytes"] for route in result["routes"].values())
    figures["not_as_stated"] = len(unexpected)
    print()
    publish(figures, {"not_as_stated": "0", "chance_right": "labels right by chance"}, options.json)
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
