"""One self-contained HTML file: a paragraph first, then the table of stages, every idea with its fate, and what it all stands on."""

from __future__ import annotations

import math
import re
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from stagezero.door.messages import WHAT_IT_STOPS, Separation
from stagezero.evidence import Estimate, collapse_rate_bound
from stagezero.files import write_whole
from stagezero.report.gather import View, gather
from stagezero.report.plots import evidence_picture, lineage_picture, stages_picture


def interval(estimate: Estimate | None, signed: bool = False) -> str:
    """``0.57 [0.55, 0.59]``, with a dash where nothing can be said."""
    if estimate is None:
        return "–"
    form = "+.3f" if signed else ".2f"
    if math.isnan(estimate.mean):
        return "–"
    if not math.isfinite(estimate.low):
        return f"{estimate.mean:{form}} [one seed]"
    return f"{estimate.mean:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def short(text: str) -> str:
    """A text with its digests cut to what tells them apart."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", text)


def lead(view: View) -> str:
    """The paragraph a person wants to read: what got better, by how much, how sure."""
    first, final = view.stages[0], view.final
    base, last = view.base_score("alignment"), final.score("alignment")
    weakest, low = view.weakest(final)
    text = [f"The base model {view.base} starts with an alignment score of {base.mean:.2f}."]
    start = first.score("alignment")
    text.append(f"The technique that people wrote brings it to {interval(start)}.")
    tried = len(view.ideas)
    stages = [s for s in view.adopted if s.number > 0]
    kept = sum(idea.fate == "adopted" for idea in view.ideas)
    if stages:
        parts = [f"“{s.title}” ({interval(s.effect('alignment'), signed=True)})" for s in stages]
        text.append(
            f"Of {tried} ideas tried after it, {kept} {'was' if kept == 1 else 'were'} adopted: {'; '.join(parts)}. "
            f"The final model, rebuilt from the same base, scores {interval(last)} "
            f"and closes {view.closed(final):.0%} of the base's headroom."
        )
    elif tried:
        text.append(f"Of {tried} ideas tried after it, none was adopted.")
    text.append(f"Its weakest property is {weakest} at {low.mean:.2f}.")
    stated = (
        f"The chance that an idea no better than its control was promoted anywhere in this campaign is at most {view.alpha:.0%}"
        if view.spending == "split"
        else f"Of the ideas promoted, at most {view.alpha:.0%} are expected to be no better than their control (e-LOND)"
    )
    text.append(f"{stated}; effects are from fresh seeds that did not choose the winner, with 95 % intervals over seeds.")
    if view.audit is not None:
        passed = "passed" if final.verdict == "pass" else f"answered “{final.verdict}” to"
        text.append(f"An auditor with sealed items of its own {passed} the final model.")
    else:
        text.append("No auditor was asked, so nothing here has been checked on sealed items.")
    return " ".join(text)


def certificate(view: View) -> str | None:
    """What a pass means, in the auditor's own sentence."""
    if view.said is None or view.final.verdict != "pass":
        return None
    said = view.said["certificate"]
    bits = said["bits"]
    return f"{said['sentence']} Population: {said['population']}. {bits['used']:.1f} of {bits['allowed']:.1f} bits were disclosed."


def separation(view: View) -> str:
    """How far the auditor was from the lab, and what that stops."""
    if view.audit is None:
        return "There was no auditor."
    if view.said is None:
        return "The auditor has not answered yet."
    level: Separation = view.said["separation"]
    return f"Separation: {level}; {WHAT_IT_STOPS[level]}."


def limits(view: View) -> list[str]:
    """What the figures do not say."""
    supposes = {
        "t": "The trials assume paired differences that are close to normal; a collapse that is rare enough can escape them: no replicate "
        "of a promoted idea fell by 4 seed standard deviations, which bounds the rate of such collapses at "
        f"{collapse_rate_bound(10):.0%} for 10 pairs. Whoever cannot assume that much may set trial.test to betting, at the price of "
        "many more pairs.",
        "sign-flip": "The trials assume paired differences that are symmetric; a rare collapse can escape them.",
        "betting": "The trials assume only that scores lie between 0 and 1. The guards and intervals beside them assume differences "
        "that are close to normal.",
    }
    found = [
        supposes[view.test],
        "An idea's effect in the table below comes from the pairs that decided it and is optimistic for ideas that were promoted; "
        "the stages' effects above come from fresh seeds.",
    ]
    if view.finite:
        found.append(
            "The suite is a fixed file: fresh items are a resample of it, so claims hold for its own distribution and no further, "
            "and a gain that belongs to its turns of phrase cannot be told from one that belongs to the property."
        )
    if view.tried_before:
        found.append(
            f"{len(view.tried_before)} of the hypotheses were registered by other runs on this machine before, up to "
            f"{max(view.tried_before.values())} times. The error stated is this run's alone: who starts anew often enough is "
            "promoted by luck."
        )
    if view.said is not None:
        found.append("The certificate does not cover: " + "; ".join(view.said["certificate"]["not_covered"]) + ".")
    return found


def write_page(folder: Path) -> Path:
    """Write ``report.html`` into a run's folder and return its path.

    Raises:
        LedgerError: the ledger is missing or does not verify.
    """
    view = gather(folder)
    template = files("stagezero.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["interval"] = interval
    environment.filters["short"] = short
    page = environment.from_string(template).render(
        view=view,
        lead=lead(view) if view.stages else "This run has not finished its first stage.",
        certificate=certificate(view) if view.stages else None,
        limits=limits(view),
        stages_svg=stages_picture(view) if view.stages else "",
        evidence_svg=evidence_picture(view) if view.ideas else "",
        lineage_svg=lineage_picture(view.lineage) if view.lineage is not None else "",
        separation=separation(view),
        claims=(*view.properties, *view.capabilities),
    )
    path = folder / "report.html"
    write_whole(path, page)
    path.chmod(0o644)
    return path
