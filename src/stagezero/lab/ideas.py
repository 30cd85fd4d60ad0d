"""An idea: a claim, a reason and a recipe patch in one short Markdown file. It is all that crosses between stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from rfc8785 import CanonicalizationError

from stagezero.errors import IdeaError, RecipeError, explain
from stagezero.ledger import canonical, digest
from stagezero.private import read_text
from stagezero.training.data import portable
from stagezero.training.recipes import Frozen, Patch, parse_patch

MAX_BYTES = 8192


class Idea(Frozen):
    """What a researcher proposes.

    ``property`` is the one property it claims to improve; ``claimed_effect`` is by how much; ``researcher`` is who.
    """

    title: str = Field(min_length=3, max_length=120)
    property: str
    claimed_effect: float = Field(gt=0, le=1)
    reason: str = Field(min_length=3, max_length=1000)
    patch: tuple[Any, ...] = Field(min_length=1)
    researcher: str = ""

    def operations(self) -> Patch:
        """The patch, checked.

        Raises:
            RecipeError: naming the operation and field.
        """
        return parse_patch(self.patch, f"idea {self.title!r}")

    def technique(self) -> dict[str, Any]:
        """What actually crosses: the claim and the canonical patch, without names or prose."""
        return {"property": self.property, "patch": portable([op.model_dump(mode="json") for op in self.operations()])}

    def digest(self) -> str:
        return digest(self.technique())

    def bits(self) -> int:
        """The most this idea could carry: the length of its canonical text in bits."""
        return 8 * len(canonical({"title": self.title, "reason": self.reason, **self.technique()}))


def parse_idea(text: str, where: str, researcher: str) -> Idea:
    """Read an idea from Markdown with YAML front matter; what follows the front matter is for people and does not cross.

    Raises:
        IdeaError: naming the field, what was expected and the fix.
    """
    head, mark, rest = text.partition("---\n")
    front, end, _ = rest.partition("\n---")
    if head.strip() or not mark or not end:
        raise IdeaError(f"{where}: expected YAML front matter between two lines of three dashes; see the shipped ideas for the form.")
    try:
        value = yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise IdeaError(f"{where}: the front matter is not valid YAML ({' '.join(str(error).split())}); correct it.") from None
    if not isinstance(value, dict):
        raise IdeaError(f"{where}: expected keys title, property, claimed_effect, reason and patch.")
    try:
        idea = Idea.model_validate({**value, "researcher": researcher})
        idea.digest()
    except ValidationError as error:
        raise IdeaError(explain(error, where)) from None
    except (RecipeError, CanonicalizationError) as error:
        raise IdeaError(f"{where}: {error}") from None
    return idea


def load_ideas(folder: Path, researcher: str) -> list[Idea]:
    """Every idea file (``*.md``) of a folder.

    Raises:
        IdeaError: no such folder, nothing in it, or a file that is not an idea.
    """
    files = sorted(folder.glob("*.md")) if folder.is_dir() else []
    if not files:
        raise IdeaError(f"ideas folder {str(folder)!r}: expected Markdown files with ideas, found none; check the path.")
    return [_beside(parse_idea(read_text(path, IdeaError), str(path), researcher), folder) for path in files]


def _beside(idea: Idea, folder: Path) -> Idea:
    """The inputs of command steps are found beside the idea's file."""

    def placed(op: dict[str, Any]) -> dict[str, Any]:
        return {
            key: {**inner, "inputs": [str((folder / name).resolve()) for name in inner["inputs"]]}
            if key in ("step", "values") and isinstance(inner, dict) and "inputs" in inner
            else inner
            for key, inner in op.items()
        }

    return idea.model_copy(update={"patch": tuple(placed(op) for op in idea.patch)})
