"""The command line: one file per verb, no logic. A user's mistake is one sentence and exit code 2, never a traceback.

A verb's module is imported when the verb runs or its help is shown, and not before: so ``stagezero --help`` is quick.
"""

from __future__ import annotations

import ast
import sys
from importlib.util import find_spec
from pathlib import Path

from cyclopts import App, CycloptsError

from stagezero.errors import StagezeroError

app = App(
    name="stagezero",
    help="Automated alignment research that can be trusted.\n\n"
    "Start with `stagezero compare A.yaml B.yaml --property P`: two recipes, one property, replicates until it is decided. "
    "Then `stagezero run`: many ideas, stages, an auditor. `stagezero init` writes a project to edit.",
    help_format="markdown",
)


def _docstring(path: str) -> str:
    """The docstring of a function, from the source: an import would load all that the verb needs."""
    module, _, name = path.partition(":")
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    return next(ast.get_docstring(f, clean=False) or "" for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == name)


def _add(group: App, *paths: str) -> None:
    """Add verbs by their import paths. The list of verbs shows the first sentence of each docstring."""
    for path in paths:
        group.command(path, help=_docstring(path))


def _group(name: str, text: str, *paths: str) -> None:
    """Add a verb that has verbs of its own."""
    group = App(name=name, help=text)
    app.command(group)
    _add(group, *paths)


_add(app, "stagezero.cli.compare:compare", "stagezero.cli.run:run", "stagezero.cli.init:init")
_group(
    "idea",
    "Write, check and submit ideas: what a campaign tries.",
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
    "Check a ledger, prove what it holds, or read it.",
    "stagezero.cli.ledger:verify",
    "stagezero.cli.ledger:prove",
    "stagezero.cli.ledger:show",
)
_group(
    "audit",
    "Be the independent party: hold sealed items, take in models, answer pass or fail, and count every bit.",
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
_add(app, "stagezero.cli.attest:attest", "stagezero.cli.verify:verify", "stagezero.cli.report:report", "stagezero.cli.doctor:doctor")


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit: 0 done, 2 something to mend, 130 stopped by the user."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        print(f"stagezero: {' '.join(str(error).split())} See: stagezero --help", file=sys.stderr)
        sys.exit(2)
    except StagezeroError as error:
        print(f"stagezero: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"stagezero: {error.filename or 'a file'}: {error.strerror or error}; nothing that was finished is lost.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stagezero: stopped; finished work is kept, the same command continues.", file=sys.stderr)
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)
