"""``stagezero audit init | add | status | budget | certificate | burn-shadow``.

These verbs set up an auditor and report what it stores and what it has disclosed. Its operator runs
them; a lab never does.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from stagezero.auditor import certificate as certificates
from stagezero.auditor import shadow as shadows
from stagezero.auditor.setup import add_suite
from stagezero.auditor.storage import Records, Storage
from stagezero.cli._output import ConsoleProgress, make_table, print_json, stdout_console
from stagezero.door.messages import MeterKind
from stagezero.errors import InputError

DEFAULT_FOLDER = Path("auditor")
_SECONDS_PER_UNIT = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_duration(text: str) -> float:
    """Convert ``90``, ``90s``, ``15m``, ``12h`` or ``7d`` to seconds.

    Raises:
        InputError: the text has none of these forms.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    if match is None:
        raise InputError(f"--slot: expected a time such as 90s, 15m, 12h or 7d, got {text!r:.80}; correct it.")
    return float(match[1]) * _SECONDS_PER_UNIT[match[2]]


def init(
    folder: Path = DEFAULT_FOLDER, /, *, name: str | None = None, slot: str = "7d", memory: float = 8.0, largest: float = 16.0
) -> None:
    """Create an auditor: its folder, its lifetime key and its ledger.

    Example: `stagezero audit init /srv/auditor --slot 12h`

    Parameters
    ----------
    folder
        The auditor's folder. It must be empty or not exist. Choose a place that no lab can read.
    name
        Name with which the auditor signs.
    slot
        Time from a submission to its answer: 90s, 15m, 12h, 7d. The slowest audit of every suite
        must take much less.
    memory
        Memory limit of one audit, in GiB.
    largest
        Size limit of a submitted model, in GiB.
    """
    with Storage.create(folder, name, parse_duration(slot), memory=memory, largest=largest) as storage:
        out = stdout_console()
        out.print(f"auditor {storage.settings.name} in {storage.folder}", soft_wrap=True)
        out.print(f"public key, for everyone: {storage.public_key.text()}", soft_wrap=True)
        out.print(f"next: stagezero audit add SEALED.jsonl --name NAME --bar claim=0.8 --folder {folder}", soft_wrap=True)


def add(
    sealed: str,
    /,
    *,
    name: str,
    bar: list[str],
    folder: Path = DEFAULT_FOLDER,
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
    """Add a suite of sealed items, and fix the terms of its audits.

    Neither the items nor the terms can be changed later.

    Example: `stagezero audit add sealed.jsonl --name candour --bar candour=0.8
    --folder /srv/auditor`

    Parameters
    ----------
    sealed
        A JSONL file of items (split open), or atlas for independent draws from the built-in
        generator.
    name
        The suite's name for labs.
    bar
        A claim and the true mean that a model must exceed on it, such as claim=0.8. Repeat the
        option for each claim.
    folder
        The auditor's folder.
    submissions
        Largest number of submissions that are ever answered.
    passes
        Largest number of them that can ever pass (counted meter).
    delta
        Largest probability that any certificate of this suite is wrong.
    meter
        How disclosure is charged.
    bits
        Budget of the flat, kraft and randomised meters.
    flip
        Probability that a verdict is flipped (randomised meter).
    step
        Make the suite a ladder: a pass means "better than the best so far by this step".
    items
        Number of draws for each claim from the built-in generator.
    shadow
        A second file of the same kind, or atlas. No model is examined on it until it is burned,
        which happens once.
    slowest
        A model of the largest expected size. Its slowest audit is measured and must fit into the
        slot.
    """
    with Storage(folder) as storage, ConsoleProgress() as progress:
        suite = add_suite(storage, sealed, name, bar, shadow, slowest, progress.message, submissions=submissions, passes=passes,
                          delta=delta, meter=meter, bits=bits, flip=flip, step=step, items=items)  # fmt: skip
        out = stdout_console()
        out.print(f"suite {suite.name}: {suite.facts['generator']}; it may disclose {storage.meter.bits_allowed(suite):.1f} bits in total")
        for claim, n in suite.facts["clusters"].items():
            out.print(f"  {claim}: {n} independent clusters, bar {suite.terms.bars[claim]:g}")


def status(folder: Path = DEFAULT_FOLDER, /, *, json: bool = False) -> None:
    """Print the suites that the auditor serves, and how much each has disclosed.

    Example: `stagezero audit status /srv/auditor`

    Parameters
    ----------
    folder
        The auditor's folder.
    json
        Print the result as one JSON object.
    """
    with Records(folder) as records:
        rows = []
        for name in records.served_suites():
            suite = records.suite(name)
            pools = records.meter.visible_pools(suite, time.time())
            rows.append(
                {
                    "suite": name,
                    "submissions": len(records.meter.charges(name)),
                    "allowed": sum(p.allowance.submissions for p in pools),
                    "bits": sum(p.allowance.bits_spent(p.replies, p.passes) for p in pools),
                    "bits_allowed": records.meter.bits_allowed(suite),
                }
            )
        state = {"auditor": records.public_key.text(), "closed": records.meter.closed_reason, "suites": rows}
    if json:
        print_json(state)
        return
    out = stdout_console()
    out.print(f"auditor {state['auditor']}" + (f", closed: {state['closed']}" if state["closed"] else ""), soft_wrap=True)
    listed = make_table("suite", "submissions", "bits disclosed", "bits allowed")
    for row in rows:
        listed.add_row(str(row["suite"]), f"{row['submissions']} of {row['allowed']}", f"{row['bits']:.1f}", f"{row['bits_allowed']:.1f}")
    out.print(listed)


def budget(
    suite: str, /, *, folder: Path = DEFAULT_FOLDER, bar: float | None = None, mean: float | None = None, json: bool = False
) -> None:
    """Print how much a suite has disclosed, and how many submissions a fresh suite could carry.

    Example: `stagezero audit budget candour --mean 0.87 --folder /srv/auditor`

    Parameters
    ----------
    suite
        The suite's name.
    folder
        The auditor's folder.
    bar
        Calculate for this bar instead of the suite's own ones.
    mean
        Assumed true mean of the submitted models; by default halfway between the bar and 1.
    json
        Print the result as one JSON object.
    """
    with Records(folder) as records:
        report = certificates.budget_report(records, records.suite(suite), bar, mean, time.time())
    if json:
        print_json(report)
        return
    out = stdout_console()
    out.print(f"{report['submissions_used']} of {report['submissions']} submissions, {report['passes_used']} passes; "
              f"{report['bits_used']:.1f} of {report['bits_allowed']:.1f} bits disclosed")  # fmt: skip
    rows = make_table("claim", "bar", "clusters", "share needed to pass", "capacity of a fresh suite of this size")
    for claim, row in report["claims"].items():
        needed = f"{row['share_needed']:.3f}" if row["share_needed"] is not None else "more than all"
        rows.add_row(
            claim,
            f"{row['bar']:g}",
            str(row["clusters"]),
            needed,
            f"{row['could_carry']:,} submissions at a true mean of {row['mean']:.3f}",
        )
    out.print(rows)


def certificate(suite: str, /, *, folder: Path = DEFAULT_FOLDER, json: bool = False) -> None:
    """Print the certificate of a suite: the meaning of a pass, its population and its limits.

    Example: `stagezero audit certificate candour --folder /srv/auditor`

    Parameters
    ----------
    suite
        The suite's name.
    folder
        The auditor's folder.
    json
        Print the result as one JSON object.
    """
    with Records(folder) as records:
        values = certificates.certificate(records, records.suite(suite), records.separation(), time.time())
    if json:
        print_json(values)
        return
    out = stdout_console()
    out.print(values["sentence"])
    out.print(f"\npopulation: {values['population']}")
    for claim, row in values["claims"].items():
        needed = (
            f"a model passes if it is right on {row['share_needed']:.1%} of {row['clusters']} clusters"
            if row["share_needed"] is not None
            else f"no model can pass, because even all {row['clusters']} clusters are too few"
        )
        out.print(f"  {claim}: bar {row['bar']:g}; {needed}")
    out.print(f"bits: {values['bits']['used']:.1f} disclosed of {values['bits']['allowed']:.1f} allowed ({values['bits']['meter']} meter)")
    floor = values["floor"]
    out.print(f"tightness: {floor['what']}: {floor['gain']:+.3f} over {floor['submissions']} submissions")
    out.print(f"separation: {values['separation']['level']}: {values['separation']['what_it_stops']}")
    out.print("not covered: " + "; ".join(values["not_covered"]))
    if values["closed"]:
        out.print(f"CLOSED: {values['closed']}")


def burn_shadow(
    suite: str,
    /,
    *,
    door: list[Path],
    control: list[Path],
    folder: Path = DEFAULT_FOLDER,
    effect: float = 0.05,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Test whether a lab overfitted the sealed items, or whether the distribution shifted.

    The test uses the shadow of a suite and burns it, so it is possible only once. Without --yes,
    the command prints only the power of the test and burns no shadow.

    Example: `stagezero audit burn-shadow candour --door m1 --control c1 --control c2 --control c3`

    Parameters
    ----------
    suite
        The suite's name.
    door
        Models that were submitted through the door.
    control
        At least three models that were never submitted, of different quality.
    folder
        The auditor's folder.
    effect
        Overfit, as a difference in score, for which the power is calculated.
    yes
        Burn the shadow. This is charged as a disclosure and cannot be repeated.
    json
        Print the result as one JSON object.
    """
    with Storage(folder) as storage, ConsoleProgress(quiet=json) as progress:
        stored = storage.suite(suite)
        if yes:
            result = shadows.burn(storage, stored, door, control, effect, progress.message, time.time())
        else:
            result = shadows.power(storage, stored, len(door), len(control), effect)
    if json:
        print_json(result)
        return
    out = stdout_console()
    out.print(f"power: the test finds an overfit of {effect:g} with probability {result['power']:.2f}")
    out.print(result["sentence"] if yes else "the shadow was not burned; add --yes to burn it, once")
