"""``stagezero compare``: decides which of two recipes is better on one property."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from stagezero.cli._limits import MAX_ANSWER_TOKENS, MAX_SEED, MAX_WORKERS, check_number
from stagezero.cli._output import ConsoleProgress, format_estimate, make_table, print_json, stdout_console
from stagezero.errors import InputError, explain
from stagezero.isolation import Kind
from stagezero.project import Trial
from stagezero.trials import compare as comparing


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
    answer_tokens: int | None = None,
    json: bool = False,
) -> None:
    """Compare two recipes on one property, and check for side effects.

    Trains the base with both recipes, pair by pair, on fresh seeds and fresh items, until the
    question is decided. The error rate allows for a test after every pair: a candidate that is no
    better is called better with probability `--alpha` at most. The same command continues an
    interrupted comparison.

    Example: `stagezero compare plain.yaml balanced.yaml --property privacy`

    Parameters
    ----------
    control
        The current recipe (YAML).
    candidate
        The recipe that may be better (YAML).
    property
        The property that the candidate claims to improve, for example abstention.
    model
        The base that both recipes train: pocket/262k, package/smollm2-135m-q4, hf/ORG/NAME, or a
        checkpoint folder.
    suite
        The suite that scores the models: atlas, or your own JSONL file.
    margin
        The candidate must be better by more than this.
    alpha
        The largest probability of calling a candidate better that is not.
    max_pairs
        The largest number of pairs (10 or more).
    items
        Fresh items of each kind, for each property and capability, in every pair.
    worth
        Stop early once the pairs are evidence against an effect of this many standard deviations of
        a paired difference.
    workers
        Worker processes, with one thread each.
    seed
        Makes the seeds repeatable. By default they are random, and no one can predict them.
    runs
        The folder for runs; the ledger goes into a new folder in it.
    sandbox
        The confinement of programs in command and code steps: box (bubblewrap), landlock (weaker),
        or none (only for your own commands).
    answer_tokens
        The longest answer of a model, in tokens. By default 24 for atlas, and for a file what its
        longest right answer needs.
    json
        Print the result as one JSON object.
    """
    check_number("--workers", workers, 1, MAX_WORKERS)
    check_number("--answer-tokens", answer_tokens, 1, MAX_ANSWER_TOKENS)
    check_number("--seed", seed, 0, MAX_SEED)
    try:
        plan = Trial(margin=margin, alpha=alpha, max_pairs=max_pairs, items=items, worth=worth)
    except ValidationError as error:
        raise InputError(explain(error, "compare")) from None
    with ConsoleProgress(quiet=json) as progress:
        comparison = comparing.compare(
            control, candidate, property, model, suite, plan, workers, seed, runs, progress, sandbox, answer_tokens
        )
    if json:
        print_json(comparison.as_json())
        return
    out = stdout_console()
    out.print("\n" + "\n".join(comparing.summary_lines(comparison)))
    if comparison.effects:
        rows = make_table("", "change", "over the deciding pairs")
        for claim, effect in comparison.effects.items():
            rows.add_row(claim, format_estimate(effect, signed=True), "claimed" if claim == property else "")
        out.print()
        out.print(rows)
    out.print(f"\n  ledger     {comparison.ledger}", soft_wrap=True)
