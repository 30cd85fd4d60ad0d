"""The verbs of the command line and their help.

The module of a verb is imported only when the verb runs or its help is displayed, so that
``stagezero --help`` is fast.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

from cyclopts import App, CycloptsError
from cyclopts.exceptions import MissingArgumentError, UnusedCliTokensError

from stagezero.errors import InputError

app = App(
    name="stagezero",
    help="Run automated alignment research whose results anyone can verify.\n\n"
    "Start with `stagezero compare A.yaml B.yaml --property P`. It trains a model with each of two recipes, "
    "again and again, until it can decide which one is better. "
    "`stagezero run` decides about many ideas in the same way, stage by stage, with an independent auditor. "
    "`stagezero init` writes a project for you to edit.",
    suppress_keyboard_interrupt=False,  # main prints what an interruption leaves
    help_format="markdown",
    help_epilogue="Example: `stagezero init demo`\n\nExample: `stagezero run demo/project.yaml`",
)


def _docstring(path: str) -> str:
    """Return a function's docstring from its source; an import would load the verb's libraries."""
    module, _, name = path.partition(":")
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return next(ast.get_docstring(f) or "" for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == name)


def _add(group: App, *paths: str) -> None:
    """Add verbs by their import paths.

    A list of verbs shows the first paragraph of each docstring. The help of a verb shows the
    paragraphs that start with "Example:" last, after the options.
    """
    for path in paths:
        paragraphs = _docstring(path).split("\n\n")
        examples = [paragraph for paragraph in paragraphs if paragraph.startswith("Example:")]
        text = "\n\n".join(paragraph for paragraph in paragraphs if paragraph not in examples)
        group.command(path, help=text, help_epilogue="\n\n".join(examples))


def _group(name: str, text: str, example: str, *paths: str) -> None:
    """Add a verb that has verbs of its own."""
    group = App(name=name, help=text, help_epilogue=f"Example: `{example}`")
    app.command(group)
    _add(group, *paths)


_add(app, "stagezero.cli.compare:compare", "stagezero.cli.run:run", "stagezero.cli.plan:plan", "stagezero.cli.init:init")
_group(
    "idea",
    "Write, validate and submit ideas: the changes to a recipe that a campaign tests.",
    'stagezero idea new --title "Show the twins" --property privacy',
    "stagezero.cli.idea:new",
    "stagezero.cli.idea:check",
    "stagezero.cli.idea:schema",
    "stagezero.cli.idea:submit",
)
_add(
    app, "stagezero.cli.mcp:mcp", "stagezero.cli.measure:measure", "stagezero.cli.models:models", "stagezero.cli.review:review",
    "stagezero.cli.lineage:lineage", "stagezero.cli.rebuild:rebuild",
)  # fmt: skip
_group(
    "ledger",
    "Verify a ledger, prove that it contains an entry, or print its entries.",
    "stagezero ledger verify runs/first-bootstrap",
    "stagezero.cli.ledger:verify",
    "stagezero.cli.ledger:prove",
    "stagezero.cli.ledger:show",
)
_group(
    "audit",
    "Run an independent auditor: store sealed items, accept models, answer pass or fail, and count every bit disclosed.",
    "stagezero audit init /srv/auditor --slot 12h",
    "stagezero.cli.audit:init",
    "stagezero.cli.audit:add",
    "stagezero.cli.audit_serve:token",
    "stagezero.cli.audit_serve:serve",
    "stagezero.cli.audit_serve:unit",
    "stagezero.cli.audit:status",
    "stagezero.cli.audit:budget",
    "stagezero.cli.audit:certificate",
    "stagezero.cli.audit:burn_shadow",
)
_add(
    app, "stagezero.cli.export:export", "stagezero.cli.attest:attest", "stagezero.cli.verify:verify", "stagezero.cli.report:report",
    "stagezero.cli.doctor:doctor",
)  # fmt: skip


def _explain(error: CycloptsError) -> str:
    """Return one line: why a command line is rejected, and whose help has the fix."""
    command = " ".join(error.command_chain or ())
    reason, _, listed = str(error).rpartition(" Available commands:")  # it would list some of them
    reason = reason or listed
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        given = error.keyword or next((token.keyword for token in error.argument.tokens if token.keyword), None)
        _, hint, similar = reason.partition(" Did you mean ")
        reason = (f"{given} has no value" if given else f"{error.argument.name} is missing") + (f".{hint}{similar}" if hint else "")
    elif isinstance(error, UnusedCliTokensError):
        reason = f"unexpected arguments: {' '.join(error.unused_tokens or ())}"
    reason = re.sub(r"\S{120,}", lambda word: f"{word[0][:60]}…", reason)
    reason = " ".join(reason.split()).removesuffix(".").replace('nknown command "-', 'nknown option "-')
    reason = reason[:1].lower() + reason[1:] if reason[1:2].islower() else reason
    return f"{command}: {reason}; see: stagezero {command} --help" if command else f"{reason}; see: stagezero --help"


def run(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    Raises:
        InputError: the command line is wrong; the message has whose help shows the fix.
    """
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        raise InputError(_explain(error)) from None
    return code if isinstance(code, int) else 0
