"""What may not cross in an idea's text, whatever it claims: hidden characters, packed data, banks of items, and code that reaches for
files, processes or the network.

These are reasons given early, for honest researchers and lazy attackers: what this lets through, the sandbox contains, and what an idea
could have carried at the most is its length in bits, which the ledger records.
"""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stagezero.errors import IdeaError, RecipeError
from stagezero.lab.ideas import Idea
from stagezero.tasks import Suite
from stagezero.training import Recipe
from stagezero.training.recipes import Channel, Distil, Merge
from stagezero.training.technique import NAME, parse

LONGEST_WORD = 80
PACKED = 24
"""Letters from which on a word of mixed cases and digits looks like data."""
MOST_PACKED = 96
_INVISIBLE = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5")
_VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")

MODULES = frozenset(
    [
        "torch",
        "math",
        "random",
        "itertools",
        "functools",
        "collections",
        "copy",
        "statistics",
        "operator",
        "heapq",
        "bisect",
        "string",
        "typing",
        "dataclasses",
        "numpy",
        "contextlib",
        "re",
    ]
)
NAMES = frozenset(
    [
        "open",
        "exec",
        "eval",
        "compile",
        "globals",
        "locals",
        "vars",
        "input",
        "breakpoint",
        "memoryview",
        "getattr",
        "setattr",
        "delattr",
        "dir",
        "help",
        "exit",
        "quit",
        "__import__",
        "__builtins__",
        "__loader__",
        "__spec__",
        "__file__",
    ]
)
ATTRIBUTES = frozenset(
    [
        "hub",
        "cpp_extension",
        "multiprocessing",
        "distributed",
        "package",
        "load_library",
        "from_file",
        "from_buffer",
        "frombuffer",
        "fromfile",
        "tofile",
        "memmap",
        "ctypeslib",
        "save",
        "savez",
        "load",
        "open_memmap",
        "system",
        "popen",
        "fork",
        "spawn",
        "classes",
        "ops",
        "_C",
        "_utils",
        "f_globals",
        "gi_frame",
        "cr_frame",
        "tb_frame",
        "format_map",
        "loadtxt",
        "savetxt",
        "genfromtxt",
        "from_pretrained",
        "push_to_hub",
        "save_pretrained",
        "set_default_device",
        "share_memory_",
        # Modules that the allowed ones carry along, and what reads an attribute by a name that is not written as one.
        "os",
        "_os",
        "sys",
        "_sys",
        "io",
        "builtins",
        "ctypes",
        "importlib",
        "inspect",
        "subprocess",
        "socket",
        "shutil",
        "pathlib",
        "pickle",
        "platform",
        "tempfile",
        "threading",
        "signal",
        "warnings",
        "time",
        "datetime",
        "profiler",
        "urandom",
        "SystemRandom",
        "attrgetter",
        "methodcaller",
    ]
)
"""Of torch, numpy and Python: what reads or writes files, starts processes, or leads out of the function. One's own names must differ."""
MOST_NUMBERS, MOST_DIGITS, MOST_WHOLE, MOST_IN_ONE = 96, 6, 9_999_999, 24
MOST_TEXT, MOST_ONE_TEXT, MOST_NAME, MOST_NAMES = 600, 160, 40, 2500


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
        _check_data(tree, where)


def check_code(text: str, where: str) -> None:
    """Refuse code that reaches out of its function, or holds more data than an idea needs.

    Raises:
        IdeaError, RecipeError: the reason.
    """
    function = parse(text, where)
    for node in ast.walk(function):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Import(names=names):
                _modules([name.name for name in names], where, line)
            case ast.ImportFrom(module=module, level=level, names=names):
                _modules(["" if level else str(module)], where, line)
                _attributes([name.name for name in names], where, line)
            case ast.Name(id=name) if name in NAMES or (name.startswith("__") and name.endswith("__")):
                raise IdeaError(f"{where}: line {line} uses {name!r}, with which code leaves its function; do without it.")
            case ast.Attribute(attr=name):
                _attributes([name], where, line)
            case ast.MatchClass(kwd_attrs=names):
                _attributes(names, where, line)
            case ast.Global() | ast.Nonlocal() | ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                raise IdeaError(f"{where}: line {line}: {type(node).__name__.lower()} is not for a technique; write it plainly.")
    _check_data(function, where)


def _modules(names: Sequence[str], where: str, line: int) -> None:
    for name in names:
        parts = name.split(".")
        if parts[0] not in MODULES:
            raise IdeaError(
                f"{where}: line {line} imports {name or 'a relative module'!r}; a technique trains a model and needs no files, "
                f"network or processes: "
                f"import {', '.join(sorted(MODULES))} alone."
            )
        _attributes(parts[1:], where, line)


def _attributes(names: Sequence[str], where: str, line: int) -> None:
    for name in names:
        if name in ATTRIBUTES or name.startswith("__") or name == "*":
            raise IdeaError(
                f"{where}: line {line} uses {name!r}, which reaches for files, processes or what is not the technique's; do without it."
            )


def _check_data(tree: ast.AST, where: str) -> None:
    """Bounds on what constants and names could hold: weights and item banks do not fit, hyperparameters do."""
    numbers = text = 0
    names: set[str] = set()
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Constant(value=bytes() | complex()):
                raise IdeaError(f"{where}: line {line} holds bytes or a complex number; an idea needs neither.")
            case ast.Constant(value=str() as value):
                text += len(value)
                if len(value) > MOST_ONE_TEXT:
                    raise IdeaError(f"{where}: line {line} holds a text of {len(value)} characters, at most {MOST_ONE_TEXT} may cross.")
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                numbers += 1
                _check_number(value, where, line)
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts) | ast.Dict(values=parts):
                if sum(isinstance(p, ast.Constant | ast.UnaryOp) for p in parts) > MOST_IN_ONE:
                    raise IdeaError(f"{where}: line {line} holds a bank of {len(parts)} values; at most {MOST_IN_ONE} may stand together.")
            case (
                ast.Name(id=name)
                | ast.arg(arg=name)
                | ast.Attribute(attr=name)
                | ast.keyword(arg=str() as name)
                | ast.FunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.ExceptHandler(name=str() as name)
                | ast.MatchAs(name=str() as name)
                | ast.MatchStar(name=str() as name)
                | ast.MatchMapping(rest=str() as name)
            ):
                names.add(name)
            case ast.alias(name=name, asname=other):
                names |= {*name.split("."), other or name.split(".")[0]}
            case ast.MatchClass(kwd_attrs=given):
                names |= set(given)
    odd = next((n for n in sorted(names) if len(n) > MOST_NAME or not n.isascii()), None)
    if odd is not None:
        raise IdeaError(f"{where}: the name {odd[:50]!r} is longer than {MOST_NAME} characters or not plain letters; choose another.")
    if numbers > MOST_NUMBERS:
        raise IdeaError(f"{where}: holds {numbers} numbers, which looks like weights; at most {MOST_NUMBERS} may cross.")
    if text > MOST_TEXT:
        raise IdeaError(f"{where}: holds {text} characters of text, which looks like a bank of items; at most {MOST_TEXT} may cross.")
    if sum(map(len, names)) > MOST_NAMES:
        raise IdeaError(
            f"{where}: its names are {sum(map(len, names))} characters, which looks like packed data; at most {MOST_NAMES} may cross."
        )


def _check_number(value: float, where: str, line: int) -> None:
    if isinstance(value, int):
        if abs(value) > MOST_WHOLE:
            raise IdeaError(f"{where}: line {line} holds the number {str(value)[:20]}, at most {MOST_WHOLE:,} may cross; compute it.")
        return
    digits = len(f"{value:e}".split("e")[0].rstrip("0").replace(".", "").lstrip("-"))
    exact = len(repr(value).lower().split("e")[0].replace(".", "").replace("-", "").strip("0"))
    if max(digits, exact) > MOST_DIGITS:
        raise IdeaError(f"{where}: line {line} holds {value!r}, which has more than {MOST_DIGITS} digits, as weights have; round it.")


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


__all__ = ["NAME", "check", "check_channels", "check_code", "check_items", "check_prose", "check_text"]
