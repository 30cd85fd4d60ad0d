"""The command line: one file per verb, no logic. A user's mistake is one sentence and exit code 2, never a traceback.

Each verb's module imports what is heavy only when it runs, so that ``--help`` is quick.
"""

from __future__ import annotations

import sys

from cyclopts import App, CycloptsError

from stagezero.cli import (
    attest,
    audit,
    compare,
    doctor,
    idea,
    init,
    ledger,
    lineage,
    mcp,
    measure,
    models,
    rebuild,
    report,
    review,
    run,
    verify,
)
from stagezero.errors import StagezeroError

app = App(
    name="stagezero",
    help="Automated alignment research that can be trusted.\n\n"
    "Start with `stagezero compare A.yaml B.yaml --property P`: two recipes, one property, replicates until it is decided. "
    "Then `stagezero run`: many ideas, stages, an auditor. `stagezero init` writes a project to edit.",
    help_format="markdown",
)
app.command(compare.compare)
app.command(run.run)
app.command(init.init)
app.command(idea.app)
app.command(mcp.mcp)
app.command(measure.measure)
app.command(models.models)
app.command(review.review)
app.command(lineage.lineage)
app.command(rebuild.rebuild)
app.command(ledger.app)
app.command(audit.app)
app.command(attest.attest)
app.command(verify.verify)
app.command(report.report)
app.command(doctor.doctor)


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
