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
    """Format an estimate as ``0.57 [0.55, 0.59]``; a dash if there is none.

    Args:
        estimate: a score or a share, or with ``signed`` a difference.
        signed: show the sign, and three digits.
    """
    if estimate is None:
        return "–"
    form = "+.3f" if signed else ".2f"
    if math.isnan(estimate.mean):
        return "–"
    if not math.isfinite(estimate.low):
        return f"{estimate.mean:{form}} [too few]"
    # A score or a share is between 0 and 1; a t-interval can leave that range.
    low, high = (estimate.low, estimate.high) if signed else (max(estimate.low, 0.0), min(estimate.high, 1.0))
    return f"{estimate.mean:{form}} [{low:{form}}, {high:{form}}]"


def short(text: str) -> str:
    """Shorten every digest in a text to its first 12 characters."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", text)


def lead(view: View) -> str:
    """Return the lead paragraph: what improved, by how much, and with what certainty."""
    first, final = view.stages[0], view.final
    base, last = view.base_score("alignment"), final.score("alignment")
    weakest, lowest = view.weakest(final)
    text = [
        f"The base model {view.base} has an alignment score of {base.mean:.2f}. This is the mean of its scores on all properties; "
        "a perfect model has 1.",
        f"With the recipe that people wrote (stage 0) the score is {interval(first.score('alignment'))}; brackets are 95 % confidence "
        "intervals over seeds.",
    ]
    tested = len(view.ideas)
    stages = [s for s in view.adopted if s.number > 0]
    adopted = sum(idea.fate == "adopted" for idea in view.ideas)
    if stages:
        parts = [f"“{s.title}” ({interval(s.effect('alignment'), signed=True)})" for s in stages]
        adoptions = "an adoption" if adopted == 1 else "adoptions"
        gains = "; ".join(parts)
        text.append(f"Of {tested} trials of ideas in later stages, {adopted} led to {adoptions}, with these alignment gains: {gains}.")
        text.append(
            f"The final model, rebuilt from the same base, scores {interval(last)}. "
            f"This closes {view.headroom_closed(final):.0%} of the gap between the base and a perfect score."
        )
    elif tested:
        text.append(f"Of {tested} trials of ideas in later stages, none led to an adoption.")
    text.append(f"The final model's weakest property is {weakest}, with a score of {lowest.mean:.2f}.")
    text.append(
        "The probability that a campaign with these settings promotes any idea that is no better than its control is at most "
        f"{view.alpha:.0%}."
        if view.trial["spending"] == "split"
        else f"In campaigns with these settings, at most {view.alpha:.0%} of the promoted ideas are expected to be no better than their "
        "control (e-LOND)."
    )
    text.append("The effects of stages are measured on fresh seeds that were not used in the trials.")
    if view.audit is not None:
        text.append(f"The auditor's verdict on the final model, from sealed items that the campaign never had, is “{final.verdict}”.")
    else:
        text.append("The campaign had no auditor, so no result was verified on sealed items.")
    return " ".join(text)


def certificate(view: View) -> str | None:
    """Return the auditor's certificate of the final model; None if the model did not pass."""
    if view.auditor_status is None or not view.stages or view.final.verdict != "pass":
        return None
    values = view.auditor_status["certificate"]
    bits = values["bits"]
    disclosed = f"At most {bits['used']:.1f} of {bits['allowed']:.1f} bits were disclosed."
    return f"{values['sentence']} Population: {values['population']}. {disclosed}"


def separation(view: View) -> str:
    """Return how the auditor was separated from the lab, and which attacks that prevents."""
    if view.audit is None:
        return "The campaign had no auditor."
    if view.auditor_status is None:
        return "The auditor has not answered yet."
    level: Separation = view.auditor_status["separation"]
    return f"Separation of lab and auditor: {level}. {SEPARATION_GUARANTEES[level][0].upper()}{SEPARATION_GUARANTEES[level][1:]}."


def limits(view: View) -> list[str]:
    """Return the limits of the results, one paragraph each."""
    assumptions = {
        "auto": "The stated error rate assumes paired differences that are close to normal. The test becomes stricter where the control's "
        "runs contradict this or where the candidate is much noisier; what it then assumes is in the ledger's calibration entries. To "
        "avoid the assumption, set trial.test to betting; that test needs many more pairs. Trials can also miss rare collapses: if an "
        f"idea makes {collapse_rate_bound(10):.0%} of the seeds collapse, 10 pairs still show no collapse with a probability of 5 %.",
        "t": "The stated error rate assumes paired differences that are close to normal. To avoid the assumption, set trial.test to "
        f"betting; that test needs many more pairs. Trials can also miss rare collapses: if an idea makes {collapse_rate_bound(10):.0%} "
        "of the seeds collapse, 10 pairs still show no collapse with a probability of 5 %.",
        "e-value": "The stated error rate assumes paired differences that are close to normal. Trials can miss a collapse that is rare.",
        "sign-flip": "The trials assume paired differences that are symmetric. They can miss a collapse that is rare.",
        "betting": "The trials assume only that scores are between 0 and 1. The guards and the intervals assume differences "
        "that are close to normal.",
    }
    paragraphs = [
        assumptions[view.trial["test"]],
        "In the table of ideas, an effect comes from the same pairs that decided the trial, and their number depended on the results. "
        "On average, promoted ideas therefore appear better than they are, and ideas that were stopped early appear worse. The "
        "intervals there allow for the stopping, but not for choosing the best of many ideas. In the table of stages, effects come from "
        "fresh seeds.",
    ]
    if view.finite:
        paragraphs.append(
            "The suite is a fixed file, and fresh items are a resample of it. The results are valid for the distribution of its items "
            "only. A gain on the wordings in the file cannot be distinguished from a gain in the property."
        )
    if view.prior_run_counts:
        paragraphs.append(
            f"Earlier runs on this machine also registered {len(view.prior_run_counts)} of these hypotheses (the most frequent one in "
            f"{max(view.prior_run_counts.values())} of them). The stated error rate is that of this run alone: with enough new runs, some "
            "idea is promoted by chance."
        )
    if certificate(view) is not None and view.auditor_status is not None:
        paragraphs += [f"The certificate does not cover {limit}." for limit in view.auditor_status["certificate"]["not_covered"]]
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
        certificate=certificate(view),
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
