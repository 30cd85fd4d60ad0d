"""Checks of an idea's text.

Whatever the idea claims, its text has no hidden characters, no packed data, no banks of items, and
no code that reaches for files, processes or the network.

The checks give honest researchers a reason early and stop lazy attackers. They are not the security
boundary: the sandbox contains whatever passes them, and an idea cannot carry more than its length
in bits, which the ledger records.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from stagezero.errors import IdeaError, RecipeError
from stagezero.ideas.code_checks import check_code, check_data
from stagezero.ideas.idea import Idea
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.recipes import Channel, Distil, Merge
from stagezero.training.technique import FUNCTION_NAME

MAX_WORD_CHARACTERS = 80
MIN_PACKED_CHARACTERS = 24
"""A word of this length or more that mixes cases or digits looks like packed data."""
MAX_PACKED_CHARACTERS = 96
"""Characters of such words that a text may contain in all."""
MAX_COMBINING_MARKS = 3
"""Combining marks in a row."""
MIN_QUESTION_CHARACTERS = 13
"""Shorter questions of a suite are not searched for in ideas."""
MIN_SEARCHED_CHARACTERS = 40
"""Shorter ideas are not searched for questions."""
FRESH_QUESTIONS = 400
"""Fresh items of a suite whose questions are searched for in ideas."""
REJECTED_QUESTIONS = 3
"""An idea with this many questions of the suite is rejected. Fewer can be there by chance."""
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")
_VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def check_text(text: str, where: str) -> None:
    """Reject text that contains more than a reader can see.

    Raises:
        IdeaError: the character and its line, or the word, and the fix.
    """
    if unicodedata.normalize("NFC", text) != text:
        raise IdeaError(f"{where}: expected Unicode in its composed form (NFC), in which every text has one spelling; normalise it.")
    marks = 0
    for number, line in enumerate(text.split("\n"), 1):
        for c in line:
            kind = unicodedata.category(c)
            marks = marks + 1 if kind in ("Mn", "Me") else 0
            hidden = kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or (kind == "Zs" and c != " ") or c in _INVISIBLE
            if (hidden and c != "\t") or _VARIATION.match(c) or marks > MAX_COMBINING_MARKS:
                name = unicodedata.name(c, "unnamed")
                raise IdeaError(f"{where}: line {number} contains the character U+{ord(c):04X} ({name}), which cannot be seen; remove it.")
    for word in text.split():
        if len(word) > MAX_WORD_CHARACTERS and not re.fullmatch(r"(\W)\1*", word):
            raise IdeaError(
                f"{where}: {word[:20]!r}… is a word of {len(word)} characters, which looks like packed data; write it in words."
            )


def check_prose(text: str, where: str) -> None:
    """Reject prose that contains packed data.

    Raises:
        IdeaError: as ``check_text``, or the first word that looks like data, and the fix.
    """
    check_text(text, where)
    packed = [word for word in re.findall(r"[A-Za-z0-9+/=_-]+", text) if len(word) >= MIN_PACKED_CHARACTERS and _is_mixed(word)]
    if sum(map(len, packed)) > MAX_PACKED_CHARACTERS:
        raise IdeaError(
            f"{where}: {packed[0][:20]!r}… and similar words look like packed data ({sum(map(len, packed))} characters); write it in words."
        )


def _is_mixed(word: str) -> bool:
    """Return whether a word has at least two of: lower case, upper case, digits."""
    return sum(any(test(c) for c in word) for test in (str.islower, str.isupper, str.isdigit)) >= 2


def _texts(value: Any, files: Collection[str] = ()) -> Iterator[str]:
    """Yield every string in a patch, at any depth, and every key as a string.

    Of a path in ``files`` that stands under the key ``inputs``, only the file's name crosses, so
    only the name is yielded: a project may be in a folder with a long path.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            if key == "inputs" and isinstance(inner, list | tuple):
                inner = [Path(name).name if name in files else name for name in inner]
            yield from _texts(inner, files)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner, files)


def check_idea(idea: Idea) -> None:
    """Reject an idea whose text contains what may not cross.

    Raises:
        IdeaError: the field, the reason and the fix.
    """
    where = f"idea {idea.title[:60]!r}"
    for name in ("title", "reason"):
        check_prose(getattr(idea, name), f"{where}: {name}")
    if idea.code is not None:
        check_text(idea.code, f"{where}: code")
        try:
            check_code(idea.code, f"{where}: code")
        except RecipeError as error:
            raise IdeaError(str(error)) from None
        return
    files = idea.files()
    for text in _texts(idea.patch, files):
        check_text(text, f"{where}: patch")
    for op in idea.patch:
        # A program in a patch passes the same checks as an idea's code, in whichever operation the
        # patch contains it.
        parts = [op.get(part) for part in ("step", "values")] if isinstance(op, dict) else []
        for source in (part.get("source") for part in parts if isinstance(part, dict) and part.get("step", "code") == "code"):
            if isinstance(source, str) and re.search(rf"def[\s\\]+{FUNCTION_NAME}", source):
                try:
                    check_code(source, f"{where}: patch")
                except RecipeError as error:
                    raise IdeaError(str(error)) from None
    for path in sorted(files):
        check_file(Path(path), f"{where}: {Path(path).name}")


def check_file(path: Path, where: str) -> None:
    """Reject a command's input that is not plain text, or that is a program with packed data.

    Raises:
        IdeaError: the reason and the fix.
    """
    if path.is_symlink() or not path.is_file():
        raise IdeaError(f"{where}: expected a regular file; put it beside the idea.")
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        raise IdeaError(f"{where}: expected UTF-8 text: only text may cross, no weights and no archives; remove the file.") from None
    check_text(text, where)
    if path.suffix == ".py":
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return  # when the program runs, it fails with Python's own message
        check_data(tree, where)


def check_channels(candidate: Recipe, control: Recipe, declared: Mapping[str, str]) -> Recipe:
    """Reject an idea that opens a channel for labels or weights which the project does not declare.

    Args:
        declared: name of a source in ideas → its path.

    Returns:
        The candidate, with the sources of its new channels replaced by their paths.

    Raises:
        IdeaError: the step, the source and the fix.
    """
    known: tuple[Channel, ...] = control.channels()
    steps = list(candidate.steps)
    for at, step in enumerate(steps):
        if not isinstance(step, Distil | Merge) or step in known:
            continue
        if step.source in declared:
            steps[at] = step.model_copy(update={"source": declared[step.source]})
        else:
            raise IdeaError(
                f"{step.step} step {step.name!r} lets {'labels' if step.step == 'distil' else 'weights'} of {step.source!r} cross, "
                "a channel that the project does not declare; add that source to 'channels' in the project, or leave the step out."
            )
    return Recipe(steps=tuple(steps))


_QUESTION_CACHE: dict[str, frozenset[str]] = {}
"""Digest of the last suite → its questions. Drawing them takes longer than all other checks."""


def _suite_questions(suite: Suite) -> frozenset[str]:
    """Return questions of a suite: those of all training items, and of a draw of fresh items."""
    key = suite.digest()
    if key not in _QUESTION_CACHE:
        _QUESTION_CACHE.clear()
        items = (*suite.train_items(), *suite.fresh_items(0, FRESH_QUESTIONS))
        _QUESTION_CACHE[key] = frozenset(item.input for item in items if len(item.input) >= MIN_QUESTION_CHARACTERS)
    return _QUESTION_CACHE[key]


def check_suite_questions(idea: Idea, suite: Suite) -> None:
    """Reject an idea that contains questions of the suite.

    Raises:
        IdeaError: the number of questions in it.
    """
    text = "\n".join(_texts(idea.patch)) + (idea.code or "")
    for path in sorted(idea.files()):
        text += Path(path).read_text(encoding="utf-8", errors="replace")
    if len(text) < MIN_SEARCHED_CHARACTERS:
        return
    count = sum(question in text for question in _suite_questions(suite))
    if count >= REJECTED_QUESTIONS:
        raise IdeaError(
            f"contains {count} questions of the suite {suite.name!r}; remove them: human data reaches a build through its mix steps only."
        )


__all__ = ["check_channels", "check_code", "check_idea", "check_prose", "check_suite_questions", "check_text"]
