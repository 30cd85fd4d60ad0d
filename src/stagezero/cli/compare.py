"""``stagezero compare``: decides which of two recipes is better on one property."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from stagezero.cli._limits import MAX_ANSWER_TOKENS, MAX_SEED, MAX_WORKERS, check_number
from stagezero.cli._output import ConsoleProgress, format_estimate, make_table, print_json, stdout_console
from stagezero.errors import InputError, explain
from stagezero.evidence import Test
from stagezero.isolation import Kind
from stagezero.trials import compare as comparing
from stagezero.trials.comparison import summary_lines


def compare(
    control: Path,
    candidate: Path,
    /,
    *,
    property: str,
    model: str = "pocket/262k",
    suite: str = "atlas",
    better: str | None = None,
    margin: float = 0.0,
    same_within: float | None = None,
    alpha: float = 0.05,
    max_pairs: int = 25,
    items: int = 100,
    worth: float = 0.75,
    patience: float = 2.0,
    test: Test = "auto",
    go_on: int | None = None,
    failure_score: float | None = None,
    workers: int = 2,
    seed: int | None = None,
    runs: Path = Path("runs"),
    sandbox: Kind = "box",
    answer_tokens: int | None = None,
    json: bool = False,
) -> None:
    """Decide which of two recipes is better on one property, and check for side effects.

    Trains the base with both recipes, pair by pair, on fresh seeds and fresh items, until the
    question is decided: better, worse, the same within a width, or undecided. The error rate allows
    for a test after every pair: the probability of a wrong answer is at most `--alpha`. The same
    command continues an interrupted comparison. An undecided comparison may go on with `--go-on`.

    Example: `stagezero compare plain.yaml balanced.yaml --property privacy`

    Parameters
    ----------
    control
        One recipe (YAML): the current one, if there is one.
    candidate
        The other recipe (YAML). Differences are candidate minus control.
    property
        The property to compare, for example abstention.
    model
        The base that both recipes train: pocket/262k, package/smollm2-135m-q4, hf/ORG/NAME, or a
        checkpoint folder.
    suite
        The suite that scores the models: atlas, or your own JSONL file.
    better
        Ask only whether this recipe is better (one-sided): the name of one of the two files. By
        default the question is which one is better (two-sided).
    margin
        A recipe must be better by more than this.
    same_within
        Also ask whether the recipes are the same: whether their mean difference lies within plus or
        minus this.
    alpha
        The largest probability of a wrong answer.
    max_pairs
        The largest number of pairs (10 or more).
    items
        Fresh items of each kind, for each property and capability, in every pair.
    worth
        Stop early once the pairs are evidence against an effect of this many standard deviations of
        a paired difference, or once an answer is very unlikely.
    patience
        How strong that evidence must be: the log of the likelihood ratio.
    test
        The sequential test: auto (chosen from calibration runs), t, e-value, sign-flip or betting.
    go_on
        Go on with an undecided comparison until this total number of pairs. `--alpha` holds over
        all extensions together.
    failure_score
        The score of a build that fails, from 0 to 1. By default failed builds are counted, and a
        recipe that fails more often is never called better.
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
        plan = comparing.default_plan(
            margin=margin, alpha=alpha, max_pairs=max_pairs, items=items, worth=worth, patience=patience, test=test
        )  # fmt: skip
    except ValidationError as error:
        raise InputError(explain(error, "compare")) from None
    if better is not None:
        control, candidate = _one_sided_arms(control, candidate, better)
    with ConsoleProgress(quiet=json) as progress:
        comparison = comparing.compare(
            control, candidate, property, model, suite, plan, workers, seed, runs, progress, sandbox, answer_tokens, better is None,
            same_within, go_on, failure_score,
        )  # fmt: skip
    if json:
        print_json(comparison.as_json())
        return
    out = stdout_console()
    out.print("\n" + "\n".join(summary_lines(comparison)))
    if comparison.effects:
        rows = make_table("", "change", "over the pairs of the trial")
        for claim, effect in comparison.effects.items():
            rows.add_row(claim, format_estimate(effect, signed=True), "claimed" if claim == property else "")
        out.print()
        out.print(rows)
    out.print(f"\n  ledger     {comparison.ledger}", soft_wrap=True)


def _one_sided_arms(control: Path, candidate: Path, better: str) -> tuple[Path, Path]:
    """Return control and candidate of a one-sided question: ``better`` names the candidate."""
    names = {path.stem: path for path in (control, candidate)} | {str(path): path for path in (control, candidate)}
    names |= {str(path.resolve()): path for path in (control, candidate)}
    better = better if better in names else str(Path(better).resolve())
    if better not in names or control.stem == candidate.stem == better:
        raise InputError(f"--better: expected {control.stem} or {candidate.stem}, got {better!r}; name the recipe that may be better.")
    chosen = names[better]
    return (candidate, control) if chosen == control else (control, candidate)
