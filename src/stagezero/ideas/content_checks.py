"""What may not cross in an idea's text, whatever it claims: hidden characters, packed data, banks of items, and code that reaches for
files, processes or the network.

These are reasons given early, for honest researchers and lazy attackers: what this lets through, the sandbox contains, and what an idea
could have carried at the most is its length in bits, which the ledger records.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from stagezero.errors import IdeaError, RecipeError
from stagezero.ideas.code_checks import check_code, check_data
from stagezero.ideas.idea import Idea
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.recipes import Channel, Distil, Merge
from stagezero.training.technique import NAME

LONGEST_WORD = 80
PACKED = 24
"""Letters from which on a word of mixed cases and digits looks like data."""
MOST_PACKED = 96
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")
_VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")


def check_text(text: str, where: str) -> None:
    """Refuse text that says more than can be seen.

    Raises:
        IdeaError: naming the character and its place, and the fix.
    """
    if unicodedata.normalize("NFC", text) != text:
        raise IdeaError(f"{where}: expected Unicode in its composed form (NFC), in which every text has one spelling; normalise it.")
    marks = 0
    for number, line in enumerate(text.split("\n"), 1):
        for c in line:
            kind = unicodedata.category(c)
            marks = marks + 1 if kind in ("Mn", "Me") else 0
            hidden = kind in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") or (kind == "Zs" and c != " ") or c in _INVISIBLE
            if (hidden and c != "\t") or _VARIATION.match(c) or marks > 3:
                name = unicodedata.name(c, "unnamed")
                raise IdeaError(f"{where}: line {number} holds the character U+{ord(c):04X} ({name}), which cannot be seen; remove it.")
    for word in text.split():
        if len(word) > LONGEST_WORD and not re.fullmatch(r"(\W)\1*", word):
            raise IdeaError(
                f"{where}: {word[:20]!r}… is a word of {len(word)} characters, which looks like packed data; write it in words."
            )


def check_prose(text: str, where: str) -> None:
    """Refuse prose that holds packed data.

    Raises:
        IdeaError: as ``check_text``, or for words that are none.
    """
    check_text(text, where)
    odd = [word for word in re.findall(r"[A-Za-z0-9+/=_-]+", text) if len(word) >= PACKED and _mixed(word)]
    if sum(map(len, odd)) > MOST_PACKED:
        raise IdeaError(
            f"{where}: {odd[0][:20]!r}… and the like look like packed data ({sum(map(len, odd))} characters); write it in words."
        )


def _mixed(word: str) -> bool:
    return sum(any(test(c) for c in word) for test in (str.islower, str.isupper, str.isdigit)) >= 2


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def check(idea: Idea) -> None:
    """Refuse an idea whose text holds what may not cross.

    Raises:
        IdeaError: the reason.
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
    for text in _texts(idea.patch):
        check_text(text, f"{where}: patch")
    for op in idea.patch:
        # Wherever a patch writes a program, it is held to what a program is held to.
        written = [op.get(part) for part in ("step", "values")] if isinstance(op, dict) else []
        for source in (part.get("source") for part in written if isinstance(part, dict) and part.get("step", "code") == "code"):
            if isinstance(source, str) and re.search(rf"def[\s\\]+{NAME}", source):
                try:
                    check_code(source, f"{where}: patch")
                except RecipeError as error:
                    raise IdeaError(str(error)) from None
    for path in sorted(idea.files()):
        check_file(Path(path), f"{where}: {Path(path).name}")


def check_file(path: Path, where: str) -> None:
    """Refuse a command's input that is no plain text, or a program that holds packed data.

    Raises:
        IdeaError: the reason.
    """
    if path.is_symlink() or not path.is_file():
        raise IdeaError(f"{where}: expected a plain file; put it beside the idea.")
    try:
        text = path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):
        raise IdeaError(f"{where}: expected UTF-8 text, which is all that crosses; bring no weights and no archives.") from None
    check_text(text, where)
    if path.suffix == ".py":
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return  # it will fail in its own words
        check_data(tree, where)


def check_channels(candidate: Recipe, control: Recipe, declared: Mapping[str, str]) -> Recipe:
    """Refuse an idea that opens a channel for labels or weights which the project has not declared.

    Args:
        declared: name of a source in ideas → where it is.

    Returns:
        The candidate, its new sources where they are.

    Raises:
        IdeaError: naming the channel.
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


_ASKED: dict[str, frozenset[str]] = {}
"""Suite's digest → questions: drawing them takes longer than all the rest of a look at an idea."""


def _asked(suite: Suite) -> frozenset[str]:
    """Questions of a suite: all that are trained on, and a draw of those that are asked."""
    key = suite.digest()
    if key not in _ASKED:
        _ASKED.clear()
        items = (*suite.train_items(), *suite.fresh_items(0, 400))
        _ASKED[key] = frozenset(item.input for item in items if len(item.input) > 12)
    return _ASKED[key]


SAME = 3
"""Questions of a suite that an idea may hold by chance."""


def check_items(idea: Idea, suite: Suite) -> None:
    """Refuse an idea that brings questions of the suite along.

    Raises:
        IdeaError: how many it holds.
    """
    text = "\n".join(_texts(idea.patch)) + (idea.code or "")
    for path in sorted(idea.files()):
        text += Path(path).read_text(encoding="utf-8", errors="replace")
    if len(text) < 40:
        return
    held = {question for question in _asked(suite) if question in text}
    if len(held) >= SAME:
        raise IdeaError(f"holds {len(held)} questions of the suite {suite.name!r}; human data reaches a build by its mix steps alone.")


__all__ = ["check", "check_channels", "check_code", "check_items", "check_prose", "check_text"]
