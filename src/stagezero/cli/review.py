"""``stagezero review``."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from rich.markup import escape

from stagezero.cli._output import output, print_json
from stagezero.errors import InputError
from stagezero.ideas.review import Waiting, Word, sign, waiting
from stagezero.ledger import SigningKey

_WORDS: dict[str, Word] = {"a": "approve", "approve": "approve", "r": "reject", "reject": "reject"}


def review(
    run: Path | None = None,
    /,
    *,
    key: Path | None = None,
    name: str = "reviewer",
    approve: tuple[str, ...] = (),
    reject: tuple[str, ...] = (),
    note: str = "",
    json: bool = False,
) -> None:
    """List ideas that wait for a person's word, show what would cross, and sign approve or reject.

    Without a run it makes the reviewer's key, if need be, and prints the public part, which goes into the project (`review.keys`).
    With a run and a key, on a terminal, it shows each idea and asks.

    Parameters
    ----------
    run
        The folder of a run.
    key
        File with the reviewer's private key; made on first use, readable by its owner alone.
    name
        The reviewer's name: what ledger and lineage will say.
    approve
        Digests (or their first letters) of ideas to approve.
    reject
        Digests (or their first letters) of ideas to reject.
    note
        A word on why, for the ledger.
    json
        Print the waiting ideas as JSON instead.
    """
    if key is not None:
        key.parent.mkdir(parents=True, exist_ok=True)
    signing = SigningKey.lasting(key, name) if key is not None else None
    if run is None:
        if signing is None:
            raise InputError("review: expected the folder of a run, or --key FILE to make a reviewer's key; give one of them.")
        output().print(signing.verify_key.text(), soft_wrap=True)
        return
    ideas = waiting(run)
    if json:
        print_json([{n: getattr(w, n) for n in type(w).__slots__} for w in ideas])
        return
    decided: list[tuple[Word, str]] = [*(("approve", prefix) for prefix in approve), *(("reject", prefix) for prefix in reject)]
    if not decided:
        _ask(run, ideas, signing, note)
        return
    if signing is None:
        raise InputError("review: --approve and --reject are signed; give the reviewer's key with --key FILE.")
    for word, prefix in decided:
        idea = _one(ideas, prefix)
        sign(run, idea, word, signing, note)
        output().print(f"{word}: {escape(idea.title)} ({idea.digest[:12]})", soft_wrap=True)


def _one(ideas: list[Waiting], prefix: str) -> Waiting:
    hits = [w for w in ideas if w.digest.startswith(prefix)]
    if len(hits) != 1 or len(prefix) < 4:
        there = ", ".join(w.digest[:12] for w in ideas) or "none"
        raise InputError(f"review: {prefix!r}: expected the first letters (4 or more) of one waiting idea's digest; waiting: {there}.")
    return hits[0]


def _ask(run: Path, ideas: list[Waiting], signing: SigningKey | None, note: str) -> None:
    """Show each idea; ask about it where there is a key and somebody to answer."""
    out = output()
    if not ideas:
        out.print("no idea waits for review")
    for w in ideas:
        out.print(f"[bold]{escape(w.title)}[/bold]  {w.digest[:12]}", soft_wrap=True)
        out.print(
            escape(f"  stage {w.stage}, by {w.researcher} ({w.author}), for {w.property}; {w.bits:,} bits; waits because {w.why}"),
            soft_wrap=True,
        )
        out.print(escape(f"  reason: {w.reason}"), soft_wrap=True)
        out.print(escape(_crossing(w)), soft_wrap=True)
        if signing is not None and sys.stdin.isatty():
            said = input("approve, reject or skip? [s] ").strip().lower()
            word = _WORDS.get(said)
            if word is not None:
                sign(run, w, word, signing, note)
                out.print(f"  signed: {word}")
        out.print()


def _crossing(w: Waiting) -> str:
    """What would reach a build, as a person reads it: code as code, a patch as YAML. Nothing that a terminal would obey is in it."""
    steps = w.crosses["patch"]
    if len(steps) == 1 and isinstance(steps[0].get("step"), dict) and steps[0]["step"].get("step") == "code":
        text = str(steps[0]["step"]["source"])
    else:
        text = yaml.safe_dump(steps, sort_keys=False, width=120)
    return "\n".join("    " + "".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines())
