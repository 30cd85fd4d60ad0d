"""The one form of a code idea: a single Python function ``technique(ctx) -> model``, without anything that does nothing.

Comments, docstrings, blank lines and the way it was laid out are gone from the canonical text, so that they carry nothing and so that two
ways of writing one program are one hypothesis. Whether it may cross is decided in ``ideas/content_checks.py``; what it does when it
runs, the sandbox contains.
"""

from __future__ import annotations

import ast
import textwrap

from stagezero.errors import RecipeError

NAME = "technique"
MOST_BYTES = 8192
DEEPEST = 60
"""Levels that the syntax may nest; the parser itself gives up a little later, and not always politely."""


class _Bare(ast.NodeTransformer):
    """Takes away statements that are nothing but a constant: docstrings, and whatever else is said to nobody."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                kept = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
                setattr(node, field, kept or ([ast.Pass()] if body else []))
        return node


def _depth(node: ast.AST) -> int:
    """Levels of a tree, without recursion: what is measured may be too deep for it."""
    deepest, level = 0, [node]
    while level:
        deepest += 1
        if deepest > DEEPEST:
            return deepest
        level = [child for parent in level for child in ast.iter_child_nodes(parent)]
    return deepest


def parse(text: str, where: str) -> ast.FunctionDef:
    """The function that a program consists of.

    Raises:
        RecipeError: it is no Python, or anything but one plain function ``technique(ctx)``.
    """
    if len(text) > 8 * MOST_BYTES:
        raise RecipeError(f"{where}: {len(text):,} characters; at most {MOST_BYTES:,} bytes may cross, so write less.")
    try:
        tree = ast.parse(textwrap.dedent(text))
    except SyntaxError as error:
        raise RecipeError(f"{where}: not valid Python ({error.msg}, line {error.lineno}); correct it.") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise RecipeError(f"{where}: not valid Python ({str(error) or 'nested too deep'}); correct it.") from None
    if _depth(tree) > DEEPEST:
        raise RecipeError(f"{where}: nested deeper than {DEEPEST} levels; write it more plainly.")
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef) or tree.body[0].name != NAME:
        raise RecipeError(f"{where}: expected one function {NAME}(ctx) and nothing beside it; put imports and helpers inside it.")
    function = tree.body[0]
    a = function.args
    plain = len(a.args) == 1 and not (a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg or a.defaults)
    if not plain or function.decorator_list:
        raise RecipeError(f"{where}: expected {NAME} to take one argument, ctx, with no default and no decorator; correct its first line.")
    return function


def canonical_source(text: str, where: str) -> str:
    """A program's canonical text. Two texts that differ only in how they were written have the same one.

    Raises:
        RecipeError: it is not one function ``technique(ctx)``, or is longer than 8 KiB in this form.
    """
    function = parse(text, where)
    for node in ast.walk(function):
        for noted in ("type_comment", "returns", "annotation"):  # annotations do nothing here, and may hold any expression
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.arg) and getattr(node, noted, None) is not None:
                setattr(node, noted, None)
    try:
        found = ast.unparse(ast.fix_missing_locations(_Bare().visit(ast.Module([function], [])))) + "\n"
        size = len(found.encode("utf-8"))
    except (RecursionError, UnicodeEncodeError, ValueError):
        raise RecipeError(f"{where}: cannot be written in its canonical form; write it more plainly.") from None
    if size > MOST_BYTES:
        raise RecipeError(f"{where}: {size:,} bytes of code without comments; at most {MOST_BYTES:,} may cross, so write less.")
    return found
