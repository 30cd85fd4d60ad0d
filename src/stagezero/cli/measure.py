"""``stagezero measure``: scores one model on a suite."""

from __future__ import annotations

from stagezero import measure as measuring
from stagezero.cli._limits import MAX_ANSWER_TOKENS, MAX_ITEMS, MAX_SEED, check_number
from stagezero.cli._output import ConsoleProgress, format_estimate, make_table, print_json, stdout_console
from stagezero.models import Model, check_model, home, materialise
from stagezero.models.loader import configure_libraries, denormals_as_zero
from stagezero.tasks import load_suite, score


def measure(
    model: str,
    /,
    *,
    suite: str = "atlas",
    items: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    show: int = 0,
    answer_tokens: int | None = None,
    json: bool = False,
) -> None:
    """Score one model on the open items of a suite.

    Example: `stagezero measure pocket/262k --items 20 --show 3`

    Parameters
    ----------
    model
        pocket/262k, package/smollm2-135m-q4, hf/ORG/NAME, or a checkpoint folder.
    suite
        atlas, atlas+graded, or a JSONL file.
    items
        Items of each kind, for each property and capability. By default 100 from atlas, and each
        open item of a file once.
    seed
        The seed with which the items are drawn.
    limit
        Use at most this many items, spread over the draw.
    answer_tokens
        The longest answer, in tokens. By default 24 for atlas, and for a file what its longest
        right answer needs.
    show
        Also print this many questions with the model's answers.
    json
        Print the result as one JSON object.
    """
    check_number("--items", items, 1, MAX_ITEMS)
    check_number("--limit", limit, 1)
    check_number("--answer-tokens", answer_tokens, 1, MAX_ANSWER_TOKENS)
    check_number("--seed", seed, 0, MAX_SEED)
    check_number("--show", show, 0)
    loaded = load_suite(suite)
    check_model(model)
    configure_libraries()
    with ConsoleProgress(quiet=json) as progress, denormals_as_zero():
        folder = materialise(model, lambda done, total: progress.status(f"training the base {model}", done, total, None))
        progress.status(f"generating the answers of {model}", 0, 1, None)
        measured = measuring.measure(Model(folder), loaded, seed, items, home() / "store" / "answers", limit, max_tokens=answer_tokens)
    rate = len(measured.items) / measured.seconds if measured.seconds else None
    if json:
        counts = {
            c: {k: [t.right, t.wrong, t.refused, t.unparseable] for k, t in kinds.items()} for c, kinds in measured.scores.counts.items()
        }
        print_json(
            {"model": model, "suite": suite, "seed": seed, "scores": measured.scores.all(), "counts": counts, "items": len(measured.items)}
        )
        return
    out = stdout_console()
    rows = make_table("claim", "score", "kind", "right", "wrong", "refused", "unparseable")
    for claim, kinds in measured.scores.counts.items():
        for kind, tally in kinds.items():
            first = kind == next(iter(kinds))
            rows.add_row(
                claim if first else "", format_estimate(measured.interval(claim)) if first else "", kind,
                str(tally.right), str(tally.wrong), str(tally.refused), str(tally.unparseable),
            )  # fmt: skip
    out.print(rows)
    out.print("\nThe intervals are 95 % confidence intervals over items. They are valid for any number of items.")
    out.print(f"{len(measured.items)} items" + (f", {rate:.1f} answers per second" if rate else ", answers from the cache"))
    for item, answer in list(zip(measured.items, measured.answers, strict=True))[: max(show, 0)]:
        out.print(f"\n{item.input}\n  → {answer!r}  ({score(item, answer)})", soft_wrap=True)
