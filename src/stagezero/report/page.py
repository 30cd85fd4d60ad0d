"""Renders the report as one self-contained HTML file.

A lead paragraph comes first, then the stages, every idea with its fate, the lineage, the auditor,
the limits and the costs. The page loads nothing from elsewhere.
"""

from __future__ import annotations

import math
import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from stagezero.door.messages import SEPARATION_GUARANTEES, Separation
from stagezero.evidence import Estimate, collapse_rate_bound
from stagezero.files import write_atomic
from stagezero.report.gather import View, gather
from stagezero.report.plots import evidence_picture, lineage_picture, stages_picture


def interval(estimate: Estimate | None, signed: bool = False) -> str:
    """Format an estimate as ``0.57 [0.55, 0.59]``; a dash if there is none."""
    if estimate is None:
        return "–"
    form = "+.3f" if signed else ".2f"
    if math.isnan(estimate.mean):
        return "–"
    if not math.isfinite(estimate.low):
        return f"{estimate.mean:{form}} [one seed]"
    return f"{estimate.mean:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def short(text: str) -> str:
    """Shorten every digest in a text to its first 12 characters."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", text)


def lead(view: View) -> str:
    """Return the lead paragraph: what improved, by how much, and with what certainty."""
    first, final = view.stages[0], view.final
    base, last = view.base_score("alignment"), final.score("alignment")
    weakest, lowest = view.weakest(final)
    text = [
        f"The base model {view.base} has an alignment score of {base.mean:.2f}, the mean of its properties; a perfect model has 1.",
        f"The technique that people wrote (stage 0) changes the score to {interval(first.score('alignment'))}.",
    ]
    tested = len(view.ideas)
    stages = [s for s in view.adopted if s.number > 0]
    adopted = sum(idea.fate == "adopted" for idea in view.ideas)
    if stages:
        parts = [f"“{s.title}” ({interval(s.effect('alignment'), signed=True)})" for s in stages]
        text.append(f"Of {tested} ideas tested after it, {adopted} {'was' if adopted == 1 else 'were'} adopted: {'; '.join(parts)}.")
        text.append(
            f"The final model, rebuilt from the same base, scores {interval(last)}. "
            f"This closes {view.headroom_closed(final):.0%} of the gap between the base and a perfect score."
        )
    elif tested:
        text.append(f"Of {tested} ideas tested after it, none was adopted.")
    text.append(f"The final model's weakest property is {weakest}, with a score of {lowest.mean:.2f}.")
    text.append(
        f"The probability that this campaign promoted any idea that is no better than its control is at most {view.alpha:.0%}."
        if view.spending == "split"
        else f"Of the promoted ideas, at most {view.alpha:.0%} are expected to be no better than their control (e-LOND)."
    )
    text.append("Effects are measured on fresh seeds that were not used for selection, with 95 % confidence intervals over seeds.")
    if view.audit is not None:
        verdict = "passed" if final.verdict == "pass" else f"answered “{final.verdict}” for"
        text.append(f"An auditor with its own sealed items {verdict} the final model.")
    else:
        text.append("The campaign had no auditor, so no result was verified on sealed items.")
    return " ".join(text)


def certificate(view: View) -> str | None:
    """Return the auditor's certificate of the final model; None if the model did not pass."""
    if view.auditor_status is None or view.final.verdict != "pass":
        return None
    values = view.auditor_status["certificate"]
    bits = values["bits"]
    return f"{values['sentence']} Population: {values['population']}. {bits['used']:.1f} of {bits['allowed']:.1f} bits were disclosed."


def separation(view: View) -> str:
    """Return how the auditor was separated from the lab, and which attacks that prevents."""
    if view.audit is None:
        return "The campaign had no auditor."
    if view.auditor_status is None:
        return "The auditor has not answered yet."
    level: Separation = view.auditor_status["separation"]
    return f"Separation: {level}; {SEPARATION_GUARANTEES[level]}."


def limits(view: View) -> list[str]:
    """Return the limits of the results, one paragraph each."""
    assumptions = {
        "t": "The trials assume paired differences that are close to normal. They can miss a collapse that is rare. "
        "No replicate of a promoted idea fell by 4 seed standard deviations, which bounds the rate of such collapses at "
        f"{collapse_rate_bound(10):.0%} for 10 pairs. To avoid this assumption, set trial.test to betting; it needs many more pairs.",
        "sign-flip": "The trials assume paired differences that are symmetric. They can miss a collapse that is rare.",
        "betting": "The trials assume only that scores are between 0 and 1. The guards and the intervals assume differences "
        "that are close to normal.",
    }
    paragraphs = [
        assumptions[view.test],
        "In the table of ideas, an effect comes from the pairs that decided about the idea. For promoted ideas it is optimistic. "
        "In the table of stages, effects come from fresh seeds.",
    ]
    if view.finite:
        paragraphs.append(
            "The suite is a fixed file, and fresh items are a resample of it. The results are valid for the distribution of its items "
            "only. A gain on the wordings in the file cannot be distinguished from a gain in the property."
        )
    if view.prior_run_counts:
        paragraphs.append(
            f"Earlier runs on this machine registered {len(view.prior_run_counts)} of the hypotheses, up to "
            f"{max(view.prior_run_counts.values())} times each. The stated error rate is that of this run alone: anyone who starts new "
            "runs often enough gets a promotion by luck."
        )
    if view.auditor_status is not None:
        paragraphs.append("The certificate does not cover: " + "; ".join(view.auditor_status["certificate"]["not_covered"]) + ".")
    return paragraphs


def write_page(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a run, and return its path.

    Raises:
        LedgerError: the ledger is missing, does not verify, or is not the ledger of a campaign.
    """
    view = gather(folder)
    template = files("stagezero.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["interval"] = interval
    environment.filters["short"] = short
    page = environment.from_string(template).render(
        view=view,
        lead=lead(view) if view.stages else "This run has not finished its first stage yet.",
        certificate=certificate(view) if view.stages else None,
        limits=limits(view),
        stages_svg=stages_picture(view) if view.stages else "",
        evidence_svg=evidence_picture(view) if view.ideas else "",
        lineage_svg=lineage_picture(view.lineage) if view.lineage is not None else "",
        separation=separation(view),
        claims=(*view.properties, *view.capabilities),
    )
    path = folder / "report.html"
    write_atomic(path, page)
    path.chmod(0o644)
    return path
