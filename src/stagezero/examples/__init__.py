"""The projects that ship with stagezero: what ``stagezero run`` runs, and what ``stagezero init`` writes out for people to edit.

first    a base with bad habits, a first technique, ideas that help, do nothing or harm, an auditor
rlhf     reinforcement from human preferences as the technique that stands, and ideas to stop it from making things up
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from stagezero.errors import ProjectError

SHIPPED = ("first", "rlhf")


def folder(name: str = "first") -> Path:
    """A shipped project's folder, read-only.

    Raises:
        ProjectError: there is none of that name.
    """
    if name not in SHIPPED:
        raise ProjectError(f"project {name!r}: expected one of the shipped ones, {' or '.join(SHIPPED)}; correct the name.")
    return Path(str(files("stagezero.examples"))) / name


def contents(name: str = "first") -> dict[str, str]:
    """Relative path → text of every file a person may edit."""
    root = folder(name)
    return {str(p.relative_to(root)): p.read_text(encoding="utf-8") for p in sorted(root.rglob("*")) if p.suffix in (".yaml", ".md")}
