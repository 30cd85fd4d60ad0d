"""``stagezero compare``."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from rich.markup import escape

from stagezero.cli._output import Teller, number, output, print_json, table
from stagezero.errors import InputError, explain
from stagezero.isolation import Kind
from stagezero.project import Trial
from stagezero.trials import compare as lab


def compare(
    control: Path,
    candidate: Path,
    /,
    *,
    property: str,
    model: str = "pocket/262k",
    suite: str = "atlas",
    margin: float = 0.0,
    alpha: float = 0.05,
    max_pairs: int = 25,
    items: int = 100,
    worth: float = 1.5,
    workers: int = 2,
    seed: int | None = None,
    runs: Path = Path("runs"),
    sandbox: Kind = "box",
    json: bool = False,
) -> None:
    """Is one recipe better than another on one property, with no side effects?

    Builds both from the base with fresh seeds and fresh items, pair by pair, until the question is decided. Looking
    after every pair is allowed for: the chance of calling a useless candidate better is at most `--alpha`.

    Parameters
    ----------
    control
        Recipe that stands now (YAML).
    candidate
        Recipe that is said to be better (YAML).
    property
        The property it is said to improve, for example abstention.
    model
        Base both are built from: pocket/262k, package/smollm2-135m-q4, hf/ORG/NAME, or a folder.
    suite
        atlas, or a JSONL file of your own.
    margin
        The candidate must be better by more than this.
    alpha
        Error allowed.
    max_pairs
        Pairs at most (10 or more).
    items
        Fresh items of each kind, for each property and capability, in every pair.
    worth
        Give up once an effect of so many seed standard deviations is ruled out.
    workers
        Worker processes, one thread each.
    seed
        Makes the seeds repeatable; left out, nobody can foresee them.
    runs
        Folder for the ledger.
    sandbox
        How the programs of command and code steps are confined: box (bubblewrap), or weaker: landlock, none (your own commands alone).
    json
        Print one JSON object instead.
    """
    try:
        plan = Trial(margin=margin, alpha=alpha, max_pairs=max_pairs, items=items, worth=worth)
    except ValidationError as error:
        raise InputError(explain(error, "compare")) from None
    with Teller(quiet=json) as tell:
        found = lab.compare(control, candidate, property, model, suite, plan, workers, seed, runs, tell, sandbox)
    if json:
        print_json(found.as_json())
        return
    out = output()
    out.print(escape("\n" + "\n".join(lab.summary_lines(found))))
    if found.effects:
        rows = table("", "change", "over the deciding pairs")
        for claim, effect in found.effects.items():
            note = "claimed" if claim == property else ""
            rows.add_row(claim, number(effect, signed=True), note)
        out.print()
        out.print(rows)
    out.print(f"\n  ledger     {found.ledger}", soft_wrap=True)
