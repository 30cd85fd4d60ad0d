"""The project that ships with stagezero: what ``stagezero run`` runs, and what ``stagezero init`` writes out for people to edit."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def folder() -> Path:
    """The shipped project's folder, read-only."""
    return Path(str(files("stagezero.embedded")))


def contents() -> dict[str, str]:
    """Relative path → text of every file a person may edit."""
    root = folder()
    return {str(p.relative_to(root)): p.read_text(encoding="utf-8") for p in sorted(root.rglob("*")) if p.suffix in (".yaml", ".md")}
