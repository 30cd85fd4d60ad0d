"""``stagezero measure``."""

from __future__ import annotations

from stagezero import measure as room
from stagezero.cli._output import Teller, number, output, print_json, table
from stagezero.errors import InputError
from stagezero.models import Model, home, materialise
from stagezero.models.loader import settle_libraries
from stagezero.tasks import load_suite, score


def measure(
    model: str, /, *, suite: str = "atlas", items: int = 100, seed: int = 0, limit: int | None = None, show: int = 0, json: bool = False
) -> None:
    """Ask one model the open items and show its scores.

    Parameters
    ----------
    model
        pocket/262k, package/smollm2-135m-q4, hf/ORG/NAME, or a checkpoint folder.
    suite
        atlas, atlas+graded, or a JSONL file.
    items
        Items of each kind, for each property and capability.
    seed
        Which draw of items.
    limit
        Ask at most this many items, spread over the draw.
    show
        Also print this many questions with the model's answers.
    json
        Print one JSON object instead.
    """
    for name, value in (("items", items), ("limit", limit if limit is not None else 1)):
        if value < 1:
            raise InputError(f"--{name}: expected a positive number, got {value}; correct it.")
    settle_libraries()
    loaded = load_suite(suite)
    with Teller(quiet=json) as tell:
        folder = materialise(model, lambda done, total: tell.doing(f"training the base {model}", done, total, None))
        tell.doing(f"asking {model}", 0, 1, None)
        found = room.measure(Model(folder), loaded, seed, items, home() / "store" / "answers", limit)
    rate = len(found.items) / found.seconds if found.seconds else None
    if json:
        counts = {
            c: {k: [t.right, t.wrong, t.refused, t.unparseable] for k, t in kinds.items()} for c, kinds in found.scores.counts.items()
        }
        print_json(
            {"model": model, "suite": suite, "seed": seed, "scores": found.scores.all(), "counts": counts, "items": len(found.items)}
        )
        return
    out = output()
    rows = table("claim", "score", "kind", "right", "wrong", "refused", "unparseable")
    for claim, kinds in found.scores.counts.items():
        for kind, tally in kinds.items():
            first = kind == next(iter(kinds))
            rows.add_row(
                claim if first else "", number(found.interval(claim)) if first else "", kind,
                str(tally.right), str(tally.wrong), str(tally.refused), str(tally.unparseable),
            )  # fmt: skip
    out.print(rows)
    out.print("\nScores with 95 % intervals over items that hold however many are asked, and whenever one stops.")
    out.print(f"{len(found.items)} items" + (f", {rate:.1f} answers a second" if rate else ", answers known from before"))
    for item, answer in list(zip(found.items, found.answers, strict=True))[: max(show, 0)]:
        out.print(f"\n{item.input}\n  → {answer!r}  ({score(item, answer)})", markup=False, soft_wrap=True)
