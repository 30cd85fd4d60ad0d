"""An idea: a claim, a reason, and a recipe patch or one function of code, in a short Markdown file.

Only ideas cross from one stage to the next. This module parses idea files. ``airlock.py`` decides
whether an idea may cross.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator
from rfc8785 import CanonicalizationError

from stagezero.errors import IdeaError, RecipeError, explain
from stagezero.files import read_text
from stagezero.ledger import canonical, digest
from stagezero.parsing import parse_yaml
from stagezero.schema import Frozen
from stagezero.training.data import is_existing_file, portable_form
from stagezero.training.patches import Patch, parse_patch
from stagezero.training.technique import canonical_source

MAX_IDEA_BYTES = 8192
"""Limit on what crosses (``Idea.size``).

It counts the patch with the files that its command steps name, or the code in canonical form.
"""
MAX_FILE_CHARACTERS = 1 << 16
"""Characters of an idea file, with the notes for people, which do not cross."""


def _check_json_types(value: Any, where: str) -> None:
    """Reject values that YAML has and canonical JSON has not: dates, bytes, sets, odd numbers.

    Raises:
        IdeaError: the value, its type and the fix.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_json_types(key, where)
            _check_json_types(inner, where)
    elif isinstance(value, list):
        for inner in value:
            _check_json_types(inner, where)
    elif not isinstance(value, str | int | float | bool | None):
        raise IdeaError(f"{where}: {str(value)[:40]!r} is a {type(value).__name__}; write it in quotes, as text.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise IdeaError(f"{where}: expected finite numbers, got {value}; write a finite one.")
    elif isinstance(value, int) and abs(value) >= 2**53:
        raise IdeaError(f"{where}: expected numbers below 2^53, got {value:.3e}; write a smaller one.")


def _check_title(title: str) -> str:
    """Reject a title that does not stay on one line of a table.

    Raises:
        ValueError: the character and the fix.
    """
    if odd := next((c for c in title if unicodedata.category(c) in ("Cc", "Zl", "Zp")), None):
        raise ValueError(f"expected one line without control characters, got U+{ord(odd):04X}, which cannot be seen; remove it")
    return title


def _sources(value: Any) -> Iterator[str]:
    """Yield every string under the key ``source`` in a patch, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("source"), str):
            yield value["source"]
        for inner in value.values():
            yield from _sources(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _sources(inner)


def _python_blocks(text: str) -> list[str]:
    """Return the closed blocks of Python in Markdown, in one pass."""
    blocks: list[str] = []
    inside: list[str] | None = None
    for line in text.splitlines(keepends=True):
        mark = line.rstrip()
        if inside is None and mark == "```python":
            inside = []
        elif inside is not None and mark == "```":
            blocks.append("".join(inside))
            inside = None
        elif inside is not None:
            inside.append(line)
    return blocks


class Idea(Frozen):
    """A researcher's proposal.

    ``property`` is the one property that the idea claims to improve, ``claimed_effect`` the size of
    the claimed improvement. The idea has either a ``patch`` of the recipe, or ``code``: one
    function ``technique(ctx) -> model`` that runs after the recipe's steps. ``researcher`` is the
    kind of researcher that proposed it, ``author`` the exact one (a model by name or digest, an
    agent by name). The caller sets both; an idea file may not contain them.
    """

    title: Annotated[str, AfterValidator(_check_title)] = Field(min_length=3, max_length=120)
    property: str
    claimed_effect: float = Field(gt=0, le=1)
    reason: str = Field(min_length=3, max_length=1000)
    patch: tuple[Any, ...] = ()
    code: str | None = None
    researcher: str = ""
    author: str = ""

    @model_validator(mode="after")
    def _check_one_of_patch_and_code(self) -> Self:
        if bool(self.patch) == (self.code is not None):
            raise ValueError(
                "expected either 'patch' or one ```python block with technique(ctx), got "
                + ("both; remove one" if self.patch else "neither; add one")
            )
        return self

    def operations(self) -> Patch:
        """Return the parsed patch. Code becomes a step of its own after all others.

        Raises:
            RecipeError: the operation and field that are wrong.
        """
        where = f"idea {self.title!r}"
        if self.code is not None:
            return parse_patch([{"op": "append", "step": {"step": "code", "source": canonical_source(self.code, where)}}], where)
        return parse_patch(self.patch, where)

    def technique(self) -> dict[str, Any]:
        """Return what reaches a build: the claim and the canonical patch, no names, no prose."""
        return {"property": self.property, "patch": portable_form([op.model_dump(mode="json") for op in self.operations()])}

    def digest(self) -> str:
        """Return the digest of ``technique``."""
        return digest(self.technique())

    def bits(self) -> int:
        """Return the most bits that the idea can carry.

        That is the length of its canonical text and of all files that it names.
        """
        text = canonical({"title": self.title, "reason": self.reason, **self.technique()})
        return 8 * (len(text) + sum(Path(name).stat().st_size for name in self.files() if is_existing_file(name)))

    def size(self) -> int:
        """Return the bytes that count against ``MAX_IDEA_BYTES``.

        For code these are the code's only, since title and reason have limits of their own;
        otherwise all of ``bits``.
        """
        return len(canonical_source(self.code, f"idea {self.title!r}").encode()) if self.code is not None else self.bits() // 8

    def files(self) -> set[str]:
        """Return the paths of the inputs of its command steps."""
        steps = (getattr(op, "step", None) or getattr(op, "values", None) or {} for op in self.operations())
        return {name for step in steps for name in step.get("inputs", ())}


def parse_idea(text: str, where: str, researcher: str, author: str = "", files: bool = False) -> Idea:
    """Parse an idea from Markdown with YAML front matter.

    If the front matter has no ``patch``, the one block of Python after it is the idea's code. All
    other text after the front matter is for people and does not cross.

    Args:
        where: the source of the text, for messages.
        researcher: the kind of researcher that proposed the idea.
        author: the exact researcher; empty if unknown.
        files: whether command steps may name files beside the idea file. An idea that comes as text
            alone has no files.

    Raises:
        IdeaError: the field, what was expected and the fix.
    """
    if len(text) > MAX_FILE_CHARACTERS:
        raise IdeaError(f"{where}: expected at most {MAX_FILE_CHARACTERS:,} characters, got {len(text):,}; write less.")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")  # as an editor may save it
    head, mark, rest = text.partition("---\n")
    front, end, _ = rest.partition("\n---")
    if head.strip() or not mark or not end:
        raise IdeaError(f"{where}: expected YAML front matter between two lines of three dashes; see the shipped ideas for examples.")
    value = parse_yaml(front, f"{where}: the front matter", IdeaError, aliases=False)
    if not isinstance(value, dict):
        raise IdeaError(f"{where}: expected keys title, property, claimed_effect, reason and patch (or a block of Python below it).")
    _check_json_types(value, where)
    for key in ("researcher", "author", "code"):
        if key in value:
            raise IdeaError(
                f"{where}: unknown key {key!r}; remove it" + (", and put code below the front matter." if key == "code" else ".")
            )
    blocks = _python_blocks(rest[len(front) :]) if "patch" not in value else []
    if len(blocks) > 1:
        raise IdeaError(f"{where}: expected one block of Python, got {len(blocks)}; put everything into one technique(ctx).")
    try:
        idea = Idea.model_validate({**value, "code": blocks[0] if blocks else None, "researcher": researcher, "author": author})
        if idea.files() and not files:
            raise IdeaError(
                f"{where}: a command step names files, but an idea that comes as text has no files; write technique(ctx) instead."
            )
        if not files and any(Path(name).is_absolute() for name in _sources(idea.patch)):
            raise IdeaError(f"{where}: a channel's source is a path on this machine; use its name in the project's 'channels'.")
        canonical([op.model_dump(mode="json") for op in idea.operations()])
    except ValidationError as error:
        raise IdeaError(explain(error, where, Idea, hidden=("code", "researcher", "author"))) from None
    except (RecipeError, CanonicalizationError) as error:
        raise IdeaError(f"{where}: {error}") from None
    except RecursionError:
        raise IdeaError(f"{where}: 'patch' contains itself or is nested too deep; use fewer levels.") from None
    return idea


def load_ideas(folder: Path, researcher: str) -> list[Idea]:
    """Load every idea file (``*.md``) of a folder, sorted by file name.

    Raises:
        IdeaError: the folder does not exist, contains no idea file, or contains a file that is not
            an idea.
    """
    files = sorted(folder.glob("*.md")) if folder.is_dir() else []
    if not files:
        raise IdeaError(f"ideas folder {str(folder)!r}: expected Markdown files with ideas, found none; check the path.")
    return [load_idea(path, researcher) for path in files]


def load_idea(path: Path, researcher: str) -> Idea:
    """Load one idea file. The files that its command steps name must be beside it.

    Raises:
        IdeaError: the file is not an idea.
    """
    return _with_absolute_inputs(parse_idea(read_text(path, IdeaError), str(path), researcher, files=True), path.parent)


def _with_absolute_inputs(idea: Idea, folder: Path) -> Idea:
    """Replace the inputs of command steps by their absolute paths in ``folder``."""

    def with_absolute_inputs(op: dict[str, Any]) -> dict[str, Any]:
        return {
            key: {**inner, "inputs": [str((folder / name).absolute()) for name in inner["inputs"]]}
            if key in ("step", "values") and isinstance(inner, dict) and "inputs" in inner
            else inner
            for key, inner in op.items()
        }

    return idea.model_copy(update={"patch": tuple(with_absolute_inputs(op) for op in idea.patch)})
