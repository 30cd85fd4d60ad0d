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
from stagezero.training.data import is_there, portable
from stagezero.training.patches import Patch, parse_patch
from stagezero.training.recipes import Frozen

MAX_BYTES = 8192
"""What an idea may carry at the most, the files that its command steps name included."""


class _Plain(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can stand for more text than fits into memory."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name) stands where a value should; write it out")
        return super().compose_node(parent, index)


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
        """The most this idea could carry: the length of its canonical text and of every file that it brings along, in bits."""
        text = canonical({"title": self.title, "reason": self.reason, **self.technique()})
        return 8 * (len(text) + sum(Path(name).stat().st_size for name in self._files() if is_there(name)))

    def _files(self) -> set[str]:
        """The inputs of its command steps."""
        steps = (getattr(op, "step", None) or getattr(op, "values", None) or {} for op in self.operations())
        return {name for step in steps for name in step.get("inputs", ())}


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
        value = yaml.load(front, _Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that does not exist is a ValueError
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
    except RecursionError:
        raise IdeaError(f"{where}: 'patch' holds itself, or is nested too deep; write it out plainly.") from None
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
            key: {**inner, "inputs": [str((folder / name).absolute()) for name in inner["inputs"]]}
            if key in ("step", "values") and isinstance(inner, dict) and "inputs" in inner
            else inner
            for key, inner in op.items()
        }

    return idea.model_copy(update={"patch": tuple(placed(op) for op in idea.patch)})
