"""The projects that ship with stagezero, as data files.

``stagezero run`` runs them, and ``stagezero init`` writes a copy for people to edit.

    first    a base with harmful habits, a first technique, an auditor, and ideas that help, have no
             effect, or do harm
    rlhf     reinforcement from human preferences as stage 0, and ideas against its made-up answers
    smollm2  a language model of 135 million parameters, low-rank adapters, and two ideas
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from stagezero.errors import ProjectError

SHIPPED = ("first", "rlhf", "smollm2")


def project_folder(name: str = "first") -> Path:
    """Return the folder of a shipped project. It is read-only.

    Raises:
        ProjectError: no shipped project has that name.
    """
    if name not in SHIPPED:
        raise ProjectError(f"project {name!r}: expected one of the shipped projects, {', '.join(SHIPPED)}; correct the name.")
    return Path(str(files("stagezero.examples"))) / name


def project_files(name: str = "first") -> dict[str, str]:
    """Return relative path → text of every file of a shipped project that a person may edit.

    Raises:
        ProjectError: no shipped project has that name.
    """
    root = project_folder(name)
    return {str(p.relative_to(root)): p.read_text(encoding="utf-8") for p in sorted(root.rglob("*")) if p.suffix in (".yaml", ".md")}
