"""The canonical form of a code idea: one Python function ``technique(ctx) -> model``.

The canonical text contains no comments, docstrings, blank lines or layout. These can therefore
carry no information, and two ways of writing one program are one hypothesis. This module does not
decide whether code may cross (``ideas/content_checks.py`` does), and it never runs code: the
sandbox contains what the code does when it runs.
"""

from __future__ import annotations

import ast
import textwrap

from stagezero.errors import RecipeError

FUNCTION_NAME = "technique"
MAX_SOURCE_BYTES = 8192
MAX_NESTING_LEVELS = 60
"""Levels that the syntax tree may nest.

The parser itself fails at a slightly greater depth, and not always with a clean error.
"""


MAX_NUMBER_DIGITS = 1000
"""Decimal digits of a whole number in the code. Python itself writes out a few thousand."""
MAX_NUMBER_BITS = (10**MAX_NUMBER_DIGITS - 1).bit_length()


class _ConstantStatementRemover(ast.NodeTransformer):
    """Removes statements that are only a constant: docstrings and other text without an effect."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        for field in ("body", "orelse", "finalbody"):
            body = getattr(node, field, None)
            if isinstance(body, list):
                effective = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
                setattr(node, field, effective or ([ast.Pass()] if body else []))
        return node


def _nesting_levels(node: ast.AST) -> int:
    """Count a tree's levels, up to one more than ``MAX_NESTING_LEVELS``.

    The count does not recurse, because the tree may be too deep for recursion.
    """
    levels, nodes = 0, [node]
    while nodes:
        levels += 1
        if levels > MAX_NESTING_LEVELS:
            return levels
        nodes = [child for parent in nodes for child in ast.iter_child_nodes(parent)]
    return levels


def _long_number(where: str, line: int | None) -> str:
    return f"{where}: line {line} has a number that is too long; write at most {MAX_NUMBER_DIGITS:,} digits."


def parse_technique(text: str, where: str) -> ast.FunctionDef:
    """Parse a program that consists of one function.

    Args:
        text: the program.
        where: the program's origin, for error messages.

    Raises:
        RecipeError: the text is not Python, or is anything but one plain function
            ``technique(ctx)``.
    """
    if len(text) > 8 * MAX_SOURCE_BYTES:
        raise RecipeError(
            f"{where}: expected at most {8 * MAX_SOURCE_BYTES:,} characters of source, got {len(text):,}; "
            f"shorten it (at most {MAX_SOURCE_BYTES:,} bytes of code without comments may cross)."
        )
    try:
        tree = ast.parse(textwrap.dedent(text))
    except SyntaxError as error:
        if "integer string conversion" in error.msg:
            raise RecipeError(_long_number(where, error.lineno)) from None
        raise RecipeError(f"{where}: not valid Python ({error.msg}, line {error.lineno}); correct it.") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise RecipeError(f"{where}: not valid Python ({str(error) or 'nested too deep'}); correct it.") from None
    for node in ast.walk(tree):
        # Digits as in bits: Python writes no decimal number of thousands of digits.
        if isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value.bit_length() > MAX_NUMBER_BITS:
            raise RecipeError(_long_number(where, node.lineno))
    if _nesting_levels(tree) > MAX_NESTING_LEVELS:
        raise RecipeError(f"{where}: the code is nested deeper than {MAX_NESTING_LEVELS} levels; simplify it.")
    if len(tree.body) != 1 or not isinstance(tree.body[0], ast.FunctionDef) or tree.body[0].name != FUNCTION_NAME:
        raise RecipeError(
            f"{where}: expected one function {FUNCTION_NAME}(ctx) and nothing beside it; put imports and helper functions inside it."
        )
    function = tree.body[0]
    a = function.args
    plain = len(a.args) == 1 and not (a.posonlyargs or a.kwonlyargs or a.vararg or a.kwarg or a.defaults)
    if not plain or function.decorator_list:
        raise RecipeError(
            f"{where}: expected {FUNCTION_NAME} to take one argument, ctx, with no default and no decorator; correct its first line."
        )
    return function


def canonical_source(text: str, where: str) -> str:
    """Return a program's canonical text, which is the same for all ways of writing the program.

    Args:
        text: the program.
        where: the program's origin, for error messages.

    Raises:
        RecipeError: the text is not one function ``technique(ctx)``, or its canonical form is
            longer than 8 KiB.
    """
    function = parse_technique(text, where)
    for node in ast.walk(function):
        # Annotations have no effect here, and may contain any expression.
        for field in ("type_comment", "returns", "annotation"):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.arg) and getattr(node, field, None) is not None:
                setattr(node, field, None)
    try:
        source = ast.unparse(ast.fix_missing_locations(_ConstantStatementRemover().visit(ast.Module([function], [])))) + "\n"
        size = len(source.encode("utf-8"))
    except (RecursionError, UnicodeEncodeError, ValueError):
        raise RecipeError(f"{where}: the code has no canonical form (nested too deep, or not valid Unicode); simplify it.") from None
    if size > MAX_SOURCE_BYTES:
        raise RecipeError(f"{where}: expected at most {MAX_SOURCE_BYTES:,} bytes of code without comments, got {size:,}; shorten it.")
    return source
