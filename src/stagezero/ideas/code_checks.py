"""Static checks of an idea's code.

The code must not reach out of its function, and must not carry more data than an idea needs.

The checks are heuristics over the syntax tree. They give honest researchers a reason early and stop
lazy attackers. They are not the security boundary: the sandbox contains everyone else.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from stagezero.errors import IdeaError
from stagezero.training.technique import parse_technique

ALLOWED_MODULES = frozenset((
    "torch", "math", "random", "itertools", "functools", "collections", "copy", "statistics", "operator", "heapq", "bisect",
    "string", "typing", "dataclasses", "numpy", "contextlib", "re",
))  # fmt: skip
FORBIDDEN_NAMES = frozenset((
    "open", "exec", "eval", "compile", "globals", "locals", "vars", "input", "breakpoint", "memoryview", "getattr", "setattr",
    "delattr", "dir", "help", "exit", "quit", "__import__", "__builtins__", "__loader__", "__spec__", "__file__",
))  # fmt: skip
FORBIDDEN_ATTRIBUTES = frozenset((
    "hub", "cpp_extension", "multiprocessing", "distributed", "package", "load_library", "from_file", "from_buffer", "frombuffer",
    "fromfile", "tofile", "memmap", "ctypeslib", "save", "savez", "load", "open_memmap", "system", "popen", "fork", "spawn",
    "classes", "ops", "_C", "_utils", "f_globals", "gi_frame", "cr_frame", "tb_frame", "format_map", "loadtxt", "savetxt",
    "genfromtxt", "from_pretrained", "push_to_hub", "save_pretrained", "set_default_device", "share_memory_",
    # Modules that are attributes of allowed modules, and functions that read an attribute whose
    # name is computed.
    "os", "_os", "sys", "_sys", "io", "builtins", "ctypes", "importlib", "inspect", "subprocess", "socket", "shutil", "pathlib",
    "pickle", "platform", "tempfile", "threading", "signal", "warnings", "time", "datetime", "profiler", "urandom", "SystemRandom",
    "attrgetter", "methodcaller",
))  # fmt: skip
"""Attributes of torch, numpy and Python that access files, start processes, or leave the function.

The code's own attributes must have other names.
"""
MAX_NUMBERS = 96
MAX_DIGITS = 6
"""Significant digits of one number with a fraction."""
MAX_INTEGER = 9_999_999
MAX_VALUES_IN_COLLECTION = 24
MAX_TEXT_CHARACTERS = 600
"""Characters of all string constants together."""
MAX_STRING_CHARACTERS = 160
"""Characters of one string constant."""
MAX_NAME_CHARACTERS = 40
MAX_ALL_NAMES_CHARACTERS = 2500
"""Characters of all different names together."""


def check_code(text: str, where: str) -> None:
    """Reject code that reaches out of its function or contains more data than an idea needs.

    Raises:
        IdeaError, RecipeError: the line, the reason and the fix.
    """
    function = parse_technique(text, where)
    for node in ast.walk(function):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Import(names=names):
                _check_modules([name.name for name in names], where, line)
            case ast.ImportFrom(module=module, level=level, names=names):
                _check_modules(["" if level else str(module)], where, line)
                _check_attributes([name.name for name in names], where, line)
            case ast.Name(id=name) if name in FORBIDDEN_NAMES or (name.startswith("__") and name.endswith("__")):
                raise IdeaError(f"{where}: line {line} uses {name!r}, which gives access beyond the function; do without it.")
            case ast.Attribute(attr=name):
                _check_attributes([name], where, line)
            case ast.MatchClass(kwd_attrs=names):
                _check_attributes(names, where, line)
            case ast.Global() | ast.Nonlocal() | ast.AsyncFunctionDef() | ast.Await() | ast.AsyncFor() | ast.AsyncWith():
                kind = type(node).__name__.lower()
                raise IdeaError(f"{where}: line {line} uses {kind}, which a technique may not; write ordinary local code.")
    check_data(function, where)


def _check_modules(names: Sequence[str], where: str, line: int) -> None:
    for name in names:
        parts = name.split(".")
        if parts[0] not in ALLOWED_MODULES:
            raise IdeaError(
                f"{where}: line {line} imports {name or 'a relative module'!r}; a technique trains a model and needs no files, "
                f"network or processes. Import only {', '.join(sorted(ALLOWED_MODULES))}."
            )
        _check_attributes(parts[1:], where, line)


def _check_attributes(names: Sequence[str], where: str, line: int) -> None:
    for name in names:
        if name in FORBIDDEN_ATTRIBUTES or name.startswith("__") or name == "*":
            raise IdeaError(
                f"{where}: line {line} uses {name!r}, which gives access to files, processes or foreign objects; do without it."
            )


def check_data(tree: ast.AST, where: str) -> None:
    """Limit the data in constants and names: hyperparameters fit, weights and item banks do not.

    Raises:
        IdeaError: the limit that the code exceeds, and where.
    """
    numbers = text = 0
    names: set[str] = set()
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Constant(value=bytes() | complex()):
                raise IdeaError(f"{where}: line {line} contains bytes or a complex number, which no idea needs; remove it.")
            case ast.Constant(value=str() as value):
                text += len(value)
                if len(value) > MAX_STRING_CHARACTERS:
                    raise IdeaError(
                        f"{where}: line {line} contains a text of {len(value)} characters; at most {MAX_STRING_CHARACTERS} may cross."
                    )
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                numbers += 1
                _check_number(value, where, line)
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts) | ast.Dict(values=parts):
                if sum(isinstance(p, ast.Constant | ast.UnaryOp) for p in parts) > MAX_VALUES_IN_COLLECTION:
                    raise IdeaError(
                        f"{where}: line {line} contains a bank of {len(parts)} values; "
                        f"at most {MAX_VALUES_IN_COLLECTION} may be in one collection."
                    )
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
            case ast.MatchClass(kwd_attrs=attributes):
                names |= set(attributes)
    bad_name = next((n for n in sorted(names) if len(n) > MAX_NAME_CHARACTERS or not n.isascii()), None)
    if bad_name is not None:
        raise IdeaError(
            f"{where}: the name {bad_name[:50]!r} is longer than {MAX_NAME_CHARACTERS} characters or not plain letters; choose another."
        )
    if numbers > MAX_NUMBERS:
        raise IdeaError(f"{where}: contains {numbers} numbers, which looks like weights; at most {MAX_NUMBERS} may cross.")
    if text > MAX_TEXT_CHARACTERS:
        raise IdeaError(
            f"{where}: contains {text} characters of text, which looks like a bank of items; at most {MAX_TEXT_CHARACTERS} may cross."
        )
    characters = sum(map(len, names))
    if characters > MAX_ALL_NAMES_CHARACTERS:
        raise IdeaError(
            f"{where}: its names have {characters} characters in all, which looks like packed data; "
            f"at most {MAX_ALL_NAMES_CHARACTERS} may cross."
        )


def _check_number(value: float, where: str, line: int) -> None:
    if isinstance(value, int):
        if abs(value) > MAX_INTEGER:
            raise IdeaError(f"{where}: line {line} contains the number {str(value)[:20]}; at most {MAX_INTEGER:,} may cross. Compute it.")
        return
    rounded_digits = len(f"{value:e}".split("e")[0].rstrip("0").replace(".", "").lstrip("-"))
    exact_digits = len(repr(value).lower().split("e")[0].replace(".", "").replace("-", "").strip("0"))
    if max(rounded_digits, exact_digits) > MAX_DIGITS:
        raise IdeaError(f"{where}: line {line} contains {value!r}, which has more than {MAX_DIGITS} digits, as weights have; round it.")
