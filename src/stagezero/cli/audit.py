"""``stagezero audit init | add | status | budget | certificate | burn-shadow``: what an auditor holds, and what it has disclosed."""

from __future__ import annotations

import re
import time
from pathlib import Path

from stagezero.auditor import certificate as certificates
from stagezero.auditor import shadow as shadows
from stagezero.auditor.setup import add_suite
from stagezero.auditor.storage import Records, Storage
from stagezero.cli._output import Teller, output, print_json, table
from stagezero.door.messages import MeterKind
from stagezero.errors import InputError

KEEP = Path("auditor")


def seconds(text: str) -> float:
    """``90``, ``90s``, ``15m``, ``12h`` or ``7d`` in seconds.

    Raises:
        InputError: it is none of these.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if found is None:
        raise InputError(f"--slot: expected a time such as 90s, 15m, 12h or 7d, got {text!r}; correct it.")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def init(keep: Path = KEEP, /, *, name: str | None = None, slot: str = "7d", memory: float = 8.0, largest: float = 16.0) -> None:
    """Set up an auditor: its folder, its lifetime key, its ledger.

    Parameters
    ----------
    keep
        The auditor's folder; must not exist or be empty. Keep it where no lab can read.
    name
        What the auditor signs as.
    slot
        Time from a submission to its answer: 90s, 15m, 12h, 7d. Every suite's worst audit must fit well inside it.
    memory
        GiB that an audit may take.
    largest
        GiB that a submitted model may have.
    """
    with Storage.create(keep, name, seconds(slot), memory=memory, largest=largest) as made:
        out = output()
        out.print(f"auditor {made.settings.name} in {made.folder}", soft_wrap=True)
        out.print(f"public key, to give to everybody: {made.public_key.text()}", soft_wrap=True)
        out.print("next: stagezero audit add SEALED.jsonl --name NAME --bar claim=0.8", soft_wrap=True)


def add(
    sealed: str,
    /,
    *,
    name: str,
    bar: list[str],
    keep: Path = KEEP,
    submissions: int = 12,
    passes: int = 3,
    delta: float = 0.05,
    meter: MeterKind = "counted",
    bits: float | None = None,
    flip: float = 0.0,
    step: float | None = None,
    items: int = 1000,
    shadow: str | None = None,
    slowest: str | None = None,
) -> None:
    """Add a suite of sealed items, with the terms on which it answers. Both are fixed for ever.

    Parameters
    ----------
    sealed
        A JSONL file of items (split open), or atlas for independent draws from the built-in generator.
    name
        What labs call the suite.
    bar
        claim=0.8, once for each claim that a model must be shown to exceed.
    keep
        The auditor's folder.
    submissions
        Submissions that may ever be answered.
    passes
        Of these, how many may ever pass (the counted meter).
    delta
        Chance that any certificate of this suite is wrong.
    meter
        How disclosure is counted: counted, flat, kraft or randomised.
    bits
        The budget of the flat, kraft and randomised meters.
    flip
        Chance that a randomised verdict is turned round.
    step
        Makes it a ladder: a pass says "better than the best so far by so much".
    items
        Draws for each claim, from the built-in generator.
    shadow
        A second file of the same kind (or atlas), never asked until it is burned once.
    slowest
        A model of the largest size expected: its worst audit is measured, and must fit inside the slot.
    """
    with Storage(keep) as held, Teller() as tell:
        suite = add_suite(held, sealed, name, bar, shadow, slowest, tell.say, submissions=submissions, passes=passes, delta=delta,
                          meter=meter, bits=bits, flip=flip, step=step, items=items)  # fmt: skip
        out = output()
        out.print(f"suite {suite.name}: {suite.facts['generator']}, {held.meter.bits_allowed(suite):.1f} bits may ever be disclosed")
        for claim, n in suite.facts["clusters"].items():
            out.print(f"  {claim}: {n} independent clusters, bar {suite.terms.bars[claim]:g}")


def status(keep: Path = KEEP, /, *, json: bool = False) -> None:
    """What the auditor serves, and what has been asked.

    Parameters
    ----------
    keep
        The auditor's folder.
    json
        Print one JSON object instead.
    """
    with Records(keep) as held:
        rows = []
        for name in held.served():
            suite = held.suite(name)
            pools = held.meter.pools_of(suite, time.time())
            rows.append(
                {
                    "suite": name, "submissions": len(held.meter.charges(name)), "allowed": sum(p.allowance.submissions for p in pools),
                    "bits": sum(p.allowance.spent(p.replies, p.passes) for p in pools), "bits_allowed": held.meter.bits_allowed(suite),
                }
            )  # fmt: skip
        told = {"auditor": held.public_key.text(), "closed": held.meter.closed, "suites": rows}
    if json:
        print_json(told)
        return
    out = output()
    out.print(f"auditor {told['auditor']}" + (f", closed: {told['closed']}" if told["closed"] else ""), soft_wrap=True)
    shown = table("suite", "submissions", "bits disclosed", "bits allowed")
    for row in rows:
        shown.add_row(str(row["suite"]), f"{row['submissions']} of {row['allowed']}", f"{row['bits']:.1f}", f"{row['bits_allowed']:.1f}")
    out.print(shown)


def budget(suite: str, /, *, keep: Path = KEEP, bar: float | None = None, mean: float | None = None, json: bool = False) -> None:
    """How much a suite has disclosed, and how many more submissions it could carry.

    Parameters
    ----------
    suite
        The suite's name.
    keep
        The auditor's folder.
    bar
        Ask about this bar instead of the suite's own.
    mean
        True mean of the models one has in mind; halfway between bar and 1 when left out.
    json
        Print one JSON object instead.
    """
    with Records(keep) as held:
        told = certificates.budget(held, held.suite(suite), bar, mean, time.time())
    if json:
        print_json(told)
        return
    out = output()
    out.print(f"{told['submissions_used']} of {told['submissions']} submissions, {told['passes_used']} passes; "
              f"{told['bits_used']:.1f} of {told['bits_allowed']:.1f} bits disclosed")  # fmt: skip
    rows = table("claim", "bar", "clusters", "must get right", "a fresh suite of this size could carry")
    for claim, row in told["claims"].items():
        need = f"{row['share_needed']:.3f}" if row["share_needed"] is not None else "more than there are"
        rows.add_row(
            claim, f"{row['bar']:g}", str(row["clusters"]), need, f"{row['could_carry']:,} submissions at a true mean of {row['mean']:.3f}"
        )
    out.print(rows)


def certificate(suite: str, /, *, keep: Path = KEEP, json: bool = False) -> None:
    """What a pass on a suite means: the sentence, its population, what it does not cover.

    Parameters
    ----------
    suite
        The suite's name.
    keep
        The auditor's folder.
    json
        Print one JSON object instead.
    """
    with Records(keep) as held:
        told = certificates.certificate(held, held.suite(suite), held.separation(), time.time())
    if json:
        print_json(told)
        return
    out = output()
    out.print(told["sentence"])
    out.print(f"\npopulation: {told['population']}")
    for claim, row in told["claims"].items():
        need = (
            f"{row['share_needed']:.3f} of {row['clusters']}"
            if row["share_needed"] is not None
            else f"more than its {row['clusters']} clusters"
        )
        out.print(f"  {claim}: bar {row['bar']:g}; a model must get {need} right")
    out.print(f"bits: {told['bits']['used']:.1f} disclosed of {told['bits']['allowed']:.1f} allowed ({told['bits']['meter']})")
    out.print(f"how tight: {told['floor']['what']}: {told['floor']['gain']:+.3f} over {told['floor']['submissions']} submissions")
    out.print(f"separation: {told['separation']['level']}: {told['separation']['what_it_stops']}")
    out.print("not covered: " + "; ".join(told["not_covered"]))
    if told["closed"]:
        out.print(f"CLOSED: {told['closed']}")


def burn_shadow(
    suite: str, /, *, door: list[Path], control: list[Path], keep: Path = KEEP, effect: float = 0.05, yes: bool = False, json: bool = False
) -> None:
    """Burn a suite's shadow, once: has the lab overfitted the sealed items, or has the distribution shifted?

    Without --yes it shows only how likely it is to find an overfit of the given size, and burns nothing.

    Parameters
    ----------
    suite
        The suite's name.
    door
        Models that went through the door.
    control
        Models that never met it, three or more, of varied quality.
    keep
        The auditor's folder.
    effect
        Overfit, in score, that the power is shown for.
    yes
        Burn it. It is charged as a disclosure, and the shadow is never fresh again.
    json
        Print one JSON object instead.
    """
    with Storage(keep) as held, Teller(quiet=json) as tell:
        found = held.suite(suite)
        if yes:
            told = shadows.burn(held, found, door, control, effect, tell.say, time.time())
        else:
            told = shadows.power(held, found, len(door), len(control), effect)
    if json:
        print_json(told)
        return
    out = output()
    out.print(f"power: an overfit of {effect:g} would be found with probability {told['power']:.2f}")
    out.print(told["sentence"] if yes else "nothing was burned; add --yes to burn the shadow, once")
