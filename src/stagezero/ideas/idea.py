"""An idea: a claim, a reason, and a recipe patch or a function of code, in a short Markdown file. It is all that crosses between stages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import Field, ValidationError, model_validator
from rfc8785 import CanonicalizationError

from stagezero.errors import IdeaError, RecipeError, explain
from stagezero.files import read_text
from stagezero.ledger import canonical, digest
from stagezero.training.data import is_there, portable
from stagezero.training.fields import Frozen
from stagezero.training.patches import Patch, parse_patch
from stagezero.training.technique import canonical_source

MAX_BYTES = 8192
"""What an idea may carry at the most: its patch with the files that command steps name, or its code in canonical form."""
LONGEST = 1 << 16
"""Characters of an idea file; what is for people and does not cross is counted too."""
DEEPEST = 40


class _Plain(yaml.SafeLoader):
    """YAML without aliases (a few lines of them can stand for more text than fits into memory), and of bounded depth."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("an alias (*name) stands where a value should; write it out")
        if self.depth > DEEPEST:
            raise yaml.YAMLError(f"it is nested deeper than {DEEPEST} levels; write it out plainly")
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


def _plain(value: Any, where: str) -> None:
    """Refuse what YAML knows and JSON does not: dates, bytes, sets.

    Raises:
        IdeaError: naming it.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            _plain(key, where)
            _plain(inner, where)
    elif isinstance(value, list):
        for inner in value:
            _plain(inner, where)
    elif not isinstance(value, str | int | float | bool | None):
        raise IdeaError(f"{where}: {str(value)[:40]!r} is a {type(value).__name__}; write it in quotes, as text.")


def _sources(value: Any) -> Iterator[str]:
    """Whatever a patch gives as a source, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("source"), str):
            yield value["source"]
        for inner in value.values():
            yield from _sources(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _sources(inner)


def _blocks(text: str) -> list[str]:
    """The blocks of Python in Markdown, in one pass; one that is not closed is none."""
    found: list[str] = []
    inside: list[str] | None = None
    for line in text.splitlines(keepends=True):
        mark = line.rstrip()
        if inside is None and mark == "```python":
            inside = []
        elif inside is not None and mark == "```":
            found.append("".join(inside))
            inside = None
        elif inside is not None:
            inside.append(line)
    return found


class Idea(Frozen):
    """What a researcher proposes.

    ``property`` is the one property it claims to improve; ``claimed_effect`` is by how much. It has either a ``patch`` of the recipe or
    ``code``, one function ``technique(ctx) -> model`` that is run after the recipe's steps. ``researcher`` is the kind of researcher
    that proposed it, ``author`` who exactly (a model by name or digest, an agent by name); neither is an idea's own to say.
    """

    title: str = Field(min_length=3, max_length=120)
    property: str
    claimed_effect: float = Field(gt=0, le=1)
    reason: str = Field(min_length=3, max_length=1000)
    patch: tuple[Any, ...] = ()
    code: str | None = None
    researcher: str = ""
    author: str = ""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if bool(self.patch) == (self.code is not None):
            raise ValueError(
                "expected either 'patch' or one ```python block with technique(ctx), got "
                + ("both; keep one" if self.patch else "neither; add one")
            )
        return self

    def operations(self) -> Patch:
        """The patch, checked; code is a step of its own behind all others.

        Raises:
            RecipeError: naming the operation and field.
        """
        where = f"idea {self.title!r}"
        if self.code is not None:
            return parse_patch([{"op": "append", "step": {"step": "code", "source": canonical_source(self.code, where)}}], where)
        return parse_patch(self.patch, where)

    def technique(self) -> dict[str, Any]:
        """What actually crosses: the claim and the canonical patch, without names or prose."""
        return {"property": self.property, "patch": portable([op.model_dump(mode="json") for op in self.operations()])}

    def digest(self) -> str:
        return digest(self.technique())

    def bits(self) -> int:
        """The most this idea could carry: the length of its canonical text and of every file that it brings along, in bits."""
        text = canonical({"title": self.title, "reason": self.reason, **self.technique()})
        return 8 * (len(text) + sum(Path(name).stat().st_size for name in self.files() if is_there(name)))

    def size(self) -> int:
        """Bytes that count against ``MAX_BYTES``: of code alone, the title and reason being capped in themselves; else of everything."""
        return len(canonical_source(self.code, f"idea {self.title!r}").encode()) if self.code is not None else self.bits() // 8

    def files(self) -> set[str]:
        """The inputs of its command steps."""
        steps = (getattr(op, "step", None) or getattr(op, "values", None) or {} for op in self.operations())
        return {name for step in steps for name in step.get("inputs", ())}


def parse_idea(text: str, where: str, researcher: str, author: str = "", files: bool = False) -> Idea:
    """Read an idea from Markdown with YAML front matter.

    Where the front matter has no ``patch``, the one block of Python that follows it is the idea's code. All else that follows is for
    people and does not cross.

    Args:
        files: whether command steps may name files that lie beside it; what comes as text alone brings none.

    Raises:
        IdeaError: naming the field, what was expected and the fix.
    """
    if len(text) > LONGEST:
        raise IdeaError(f"{where}: {len(text):,} characters; at most {LONGEST:,} are read, so write less.")
    head, mark, rest = text.partition("---\n")
    front, end, _ = rest.partition("\n---")
    if head.strip() or not mark or not end:
        raise IdeaError(f"{where}: expected YAML front matter between two lines of three dashes; see the shipped ideas for the form.")
    try:
        value = yaml.load(front, _Plain)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that does not exist is a ValueError
        raise IdeaError(f"{where}: the front matter is not valid YAML ({' '.join(str(error).split())}); correct it.") from None
    if not isinstance(value, dict):
        raise IdeaError(f"{where}: expected keys title, property, claimed_effect, reason and patch (or a block of Python below).")
    _plain(value, where)
    for ours in ("researcher", "author", "code"):
        if ours in value:
            raise IdeaError(
                f"{where}: unknown key {ours!r}; remove it" + (", code goes below the front matter." if ours == "code" else ".")
            )
    blocks = _blocks(rest[len(front) :]) if "patch" not in value else []
    if len(blocks) > 1:
        raise IdeaError(f"{where}: expected one block of Python, got {len(blocks)}; put everything into one technique(ctx).")
    try:
        idea = Idea.model_validate({**value, "code": blocks[0] if blocks else None, "researcher": researcher, "author": author})
        if idea.files() and not files:
            raise IdeaError(f"{where}: command steps name files, and an idea that comes as text brings none; write technique(ctx) instead.")
        if not files and any(Path(name).is_absolute() for name in _sources(idea.patch)):
            raise IdeaError(f"{where}: a channel's source is a path of this machine; name it as the project's 'channels' does.")
        canonical([op.model_dump(mode="json") for op in idea.operations()])
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
    return [load_idea(path, researcher) for path in files]


def load_idea(path: Path, researcher: str) -> Idea:
    """One idea file; what its command steps name is found beside it.

    Raises:
        IdeaError: it is no idea.
    """
    return _beside(parse_idea(read_text(path, IdeaError), str(path), researcher, files=True), path.parent)


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
