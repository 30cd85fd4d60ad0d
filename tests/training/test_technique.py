"""The canonical form of code has no comments and no idle statements, and is one function."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagezero.errors import RecipeError
from stagezero.training import parse_recipe
from stagezero.training.data import meaning_of
from stagezero.training.technique import MAX_SOURCE_BYTES, canonical_source

PLAIN = "def technique(ctx):\n    return ctx.model()\n"


@pytest.mark.parametrize(
    "text",
    [
        "def technique(ctx):\n    return ctx.model()",
        "\n\n# hello\ndef technique(ctx):   # a comment\n\n    '''a docstring'''\n    return (ctx.model())\n",
        "def technique(ctx: 'weights: 0.123') -> 'more':\n    'one'\n    'two'\n    ...\n    1.2345678\n    return ctx.model()",
        "    def technique(ctx):\n        return ctx.model()\n",
    ],
)
def test_comments_and_idle_statements_are_removed(text: str) -> None:
    assert canonical_source(text, "idea") == PLAIN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n" + PLAIN, "nothing beside it"),
        (PLAIN + PLAIN, "nothing beside it"),
        ("def other(ctx):\n    return 1", "one function technique"),
        ("async def technique(ctx):\n    return 1", "one function technique"),
        ("def technique(ctx, more=1):\n    return 1", "one argument"),
        ("def technique(*ctx):\n    return 1", "one argument"),
        ("@cache\ndef technique(ctx):\n    return 1", "no decorator"),
        ("def technique(ctx)\n    return 1", "not valid Python"),
        ("def technique(ctx):\n    return " + "(" * 300 + "1" + ")" * 300, "not valid Python|nested"),
        ("def technique(ctx):\n    return " + "-" * 100 + "1", "nested deeper"),
        ("def technique(ctx):\n    return '\\ud800'.encode() and '" + "a" * 9000 + "'", "at most"),
        ("def technique(ctx):\n    return '" + "a" * 80_000 + "'", "at most"),
        ("def technique(ctx):\n    return 1\0", "not valid Python"),
        ("def technique(ctx):\n    return " + "9" * 5000, r"line 2 has a number that is too long; write at most 1,000 digits\.$"),
        ("def technique(ctx):\n    return 0x" + "f" * 5000, r"line 2 has a number that is too long; write at most 1,000 digits\.$"),
    ],
)
def test_source_that_is_not_one_function_is_rejected(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        canonical_source(text, "idea")


def test_the_canonical_form_is_idempotent() -> None:
    text = "def technique(ctx):\n    for i in range(3):\n        'x'\n    while True:\n        pass\n    return {**{'a': 1}}"
    once = canonical_source(text, "idea")
    assert canonical_source(once, "idea") == once and "'x'" not in once


@given(st.text(max_size=300))
def test_any_text_is_accepted_or_rejected_in_one_sentence(text: str) -> None:
    try:
        canonical = canonical_source("def technique(ctx):\n    " + text, "idea")
    except RecipeError as error:
        assert str(error).endswith(".") and "\n" not in str(error)
    else:
        assert len(canonical.encode()) <= MAX_SOURCE_BYTES


def test_code_with_one_canonical_form_is_one_hypothesis() -> None:
    recipes = [parse_recipe([{"step": "code", "source": text}], "t") for text in (PLAIN, "# x\n" + PLAIN + "\n\n")]
    assert meaning_of(recipes[0]) == meaning_of(recipes[1])
