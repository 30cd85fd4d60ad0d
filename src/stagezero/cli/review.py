"""``stagezero review``: signs a person's decisions about ideas."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from rich.text import Text

from stagezero.cli._output import print_json, stdout_console
from stagezero.errors import InputError
from stagezero.ideas.review import PendingIdea, ReviewDecision, pending_ideas, sign_decision
from stagezero.ledger import SigningKey

_DECISIONS: dict[str, ReviewDecision] = {"a": "approve", "approve": "approve", "r": "reject", "reject": "reject"}
MIN_PREFIX_CHARS = 4


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
    """List the ideas that wait for review, and sign a decision to approve or reject them.

    Without a run, the command prints the reviewer's public key, which goes into the project file
    (`review.keys`); it creates the key on first use. With a run, it prints each idea and the text
    that the campaign would receive. With a key and a terminal, it also asks for each decision.

    Example: `stagezero review --key reviewer.key`

    Example: `stagezero review runs/first-bootstrap --key reviewer.key`

    Parameters
    ----------
    run
        The folder of a run.
    key
        File with the reviewer's private key. It is created on first use, readable only by its
        owner.
    name
        The reviewer's name, for the ledger and the lineage.
    approve
        Digests (or their first characters) of ideas to approve.
    reject
        Digests (or their first characters) of ideas to reject.
    note
        The reason, for the ledger.
    json
        Print the waiting ideas as JSON instead.
    """
    if key is not None:
        key.parent.mkdir(parents=True, exist_ok=True)
    signing_key = SigningKey.load_or_create(key, name) if key is not None else None
    if run is None:
        if signing_key is None:
            raise InputError("review: expected the folder of a run, or --key FILE to create a reviewer's key; give one of them.")
        stdout_console().print(signing_key.verify_key.text(), soft_wrap=True)
        return
    ideas = pending_ideas(run)
    if json:
        print_json([{field: getattr(idea, field) for field in type(idea).__slots__} for idea in ideas])
        return
    decisions: list[tuple[ReviewDecision, str]] = [*(("approve", prefix) for prefix in approve), *(("reject", prefix) for prefix in reject)]
    if not decisions:
        _review_each(run, ideas, signing_key, note)
        return
    if signing_key is None:
        raise InputError("review: --approve and --reject are signed; give the reviewer's key with --key FILE.")
    for decision, prefix in decisions:
        idea = _find_idea(ideas, prefix)
        sign_decision(run, idea, decision, signing_key, note)
        stdout_console().print(f"{decision}: {idea.title} ({idea.digest[:12]})", soft_wrap=True)


def _find_idea(ideas: list[PendingIdea], prefix: str) -> PendingIdea:
    """Return the one idea whose digest starts with ``prefix``.

    Raises:
        InputError: the prefix is too short, or matches no idea or several.
    """
    matches = [idea for idea in ideas if idea.digest.startswith(prefix)]
    if len(matches) != 1 or len(prefix) < MIN_PREFIX_CHARS:
        pending = ", ".join(idea.digest[:12] for idea in ideas) or "none"
        raise InputError(
            f"review: expected the first characters ({MIN_PREFIX_CHARS} or more) of the digest of one waiting idea, got {prefix!r}; "
            f"waiting: {pending}."
        )
    return matches[0]


def _review_each(run: Path, ideas: list[PendingIdea], signing_key: SigningKey | None, note: str) -> None:
    """Print each idea; ask for a decision if there is a key and stdin is a terminal."""
    out = stdout_console()
    if not ideas:
        out.print("no idea waits for review")
    for idea in ideas:
        out.print(Text.assemble((idea.title, "bold"), f"  {idea.digest[:12]}"), soft_wrap=True)
        details = (
            f"stage {idea.stage}, by {idea.researcher} ({idea.author}), for {idea.property}; {idea.bits:,} bits; waits because {idea.why}"
        )
        out.print(f"  {details}", soft_wrap=True)
        out.print(f"  reason: {idea.reason}", soft_wrap=True)
        out.print(_readable_technique(idea), soft_wrap=True)
        if signing_key is not None and sys.stdin.isatty():
            decision = _DECISIONS.get(input("approve, reject or skip? [s] ").strip().lower())
            if decision is not None:
                sign_decision(run, idea, decision, signing_key, note)
                out.print(f"  signed: {decision}")
        out.print()


def _readable_technique(idea: PendingIdea) -> str:
    """Return what would reach a build, for a reader: code as code, a patch as YAML.

    Characters that a terminal could interpret are replaced.
    """
    steps = idea.crosses["patch"]
    if len(steps) == 1 and isinstance(steps[0].get("step"), dict) and steps[0]["step"].get("step") == "code":
        text = str(steps[0]["step"]["source"])
    else:
        text = yaml.safe_dump(steps, sort_keys=False, width=120)
    return "\n".join("    " + "".join(c if c.isprintable() else "?" for c in line) for line in text.splitlines())
