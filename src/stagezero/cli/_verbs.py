"""Which verbs there are. Each verb's module imports what is heavy only when it runs, so that ``--help`` is quick."""

from __future__ import annotations

from cyclopts import App

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


def register(app: App) -> None:
    """Attach every verb, in the order a newcomer meets them."""
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
