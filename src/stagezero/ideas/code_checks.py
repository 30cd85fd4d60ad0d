"""What code may not do or hold if it is to cross: reach out of its function, or carry more data than an idea needs.

Rules of thumb over the syntax, each with its reason, for honest researchers and lazy attackers; the sandbox is what contains the others.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from stagezero.errors import IdeaError
from stagezero.training.technique import parse

MODULES = frozenset((
    "torch", "math", "random", "itertools", "functools", "collections", "copy", "statistics", "operator", "heapq", "bisect",
    "string", "typing", "dataclasses", "numpy", "contextlib", "re",
))  # fmt: skip
NAMES = frozenset((
    "open", "exec", "eval", "compile", "globals", "locals", "vars", "input", "breakpoint", "memoryview", "getattr", "setattr",
    "delattr", "dir", "help", "exit", "quit", "__import__", "__builtins__", "__loader__", "__spec__", "__file__",
))  # fmt: skip
ATTRIBUTES = frozenset((
    "hub", "cpp_extension", "multiprocessing", "distributed", "package", "load_library", "from_file", "from_buffer", "frombuffer",
    "fromfile", "tofile", "memmap", "ctypeslib", "save", "savez", "load", "open_memmap", "system", "popen", "fork", "spawn",
    "classes", "ops", "_C", "_utils", "f_globals", "gi_frame", "cr_frame", "tb_frame", "format_map", "loadtxt", "savetxt",
    "genfromtxt", "from_pretrained", "push_to_hub", "save_pretrained", "set_default_device", "share_memory_",
    # Modules that the allowed ones carry along, and what reads an attribute by a name that is not written as one.
    "os", "_os", "sys", "_sys", "io", "builtins", "ctypes", "importlib", "inspect", "subprocess", "socket", "shutil", "pathlib",
    "pickle", "platform", "tempfile", "threading", "signal", "warnings", "time", "datetime", "profiler", "urandom", "SystemRandom",
    "attrgetter", "methodcaller",
))  # fmt: skip
"""Of torch, numpy and Python: what reads or writes files, starts processes, or leads out of the function. One's own names must differ."""
MOST_NUMBERS, MOST_DIGITS, MOST_WHOLE, MOST_IN_ONE = 96, 6, 9_999_999, 24
MOST_TEXT, MOST_ONE_TEXT, MOST_NAME, MOST_NAMES = 600, 160, 40, 2500


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
    check_data(function, where)


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


def check_data(tree: ast.AST, where: str) -> None:
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
