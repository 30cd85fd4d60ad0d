"""JSON and YAML that people write: a repeated key, a long number and deep nesting are errors."""

from __future__ import annotations

from datetime import date
from math import inf
from pathlib import Path

import pytest

from stagezero.errors import IdeaError, InputError, ProjectError, RecipeError
from stagezero.ideas.idea import parse_idea
from stagezero.parsing import parse_json, parse_yaml
from stagezero.project import load_project
from stagezero.training.recipe_files import load_recipe
from stagezero.training.recipes import parse_recipe

INVALID_YAML = [
    ("a: 1\nb: 2\na: 3\n", "key 'a' is given on line 1 and again on line 3; remove one"),
    ("t: {alpha: 0.01}\nt: {items: 10}\n", "key 't' is given on line 1 and again on line 2"),
    ("x:\n  - {k: 1, k: 2}\n", "key 'k' is given"),
    ("seed: 2025-13-45\n", "month must be in 1..12"),
    ("seed: " + "9" * 5000, "a number of too many digits"),
    ("seed: 0x" + "f" * 5000, "line 1: a number of too many digits (5,002); write at most 100"),
    ("a: 1\nb: 1." + "0" * 5000, "line 2: a number of too many digits (5,002); write at most 100"),
    ('a: 1\nb: ["x\\ud800"]\n', r"line 2: the text has half a character (\ud800); write the whole character"),
    ('"\\udfff": 1\n', r"line 1: the text has half a character (\udfff)"),
    ('a: "\\0"\n', "line 1: the text has a NUL character; leave it out"),
    ("[" * 100, "nested deeper than 40 levels"),
    ("a: *b\n", "undefined alias"),
    ("a: b: c\n", "mapping values are not allowed"),
]


@pytest.mark.parametrize(("text", "message"), INVALID_YAML, ids=[message[:30] for _, message in INVALID_YAML])
def test_invalid_yaml_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there: not valid YAML") as refusal:
        parse_yaml(text, "there", InputError)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)
    (tmp_path / "f.yaml").write_text(text)
    for read, error in ((load_project, ProjectError), (load_recipe, RecipeError)):
        with pytest.raises(error, match="not valid YAML"):
            read(tmp_path / "f.yaml")
    with pytest.raises(IdeaError, match="not valid YAML"):
        parse_idea(f"---\n{text}\n---\n", "idea", "people")


def test_a_merged_mapping_may_be_overridden() -> None:
    assert parse_yaml("a: &x {k: 1}\nb: {<<: *x, k: 2}\n", "there", InputError)["b"] == {"k": 2}
    with pytest.raises(InputError, match="got an alias"):
        parse_yaml("a: &x 1\nb: *x\n", "there", InputError, aliases=False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "key 'a' is given twice; remove one"),
        ('{"a": ' + "9" * 5000 + "}", "a number of too many digits"),
        ('{"a": 1.' + "0" * 5000 + "}", "a number of too many digits (5,002); write at most 100"),
        (r'{"a": [1, {"b": "\ud800"}]}', r"'a.1.b': the text has half a character (\ud800); write the whole character"),
        (r'{"\udfff": 1}', r"the text has half a character (\udfff)"),
        ("[" * 100_000, "nested too deep"),
        ('{"a": }', "at column 7"),
    ],
)
def test_invalid_json_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(InputError, match="there: not valid JSON") as refusal:
        parse_json(text, "there", InputError)
    assert message in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("010", "010"), ("1:30", "1:30"), ("yes", "yes"), ("on", "on"), ("0x1F", 31), ("1e-3", 0.001), ("-2", -2), ("1_000", 1000),
        (".5", 0.5), ("true", True), ("null", None), ("2025-01-02", date(2025, 1, 2)), ("1.", 1.0), ("0", 0), ("+3", 3), ("-.inf", -inf),
    ],
)  # fmt: skip
def test_words_and_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    """YAML 1.1 reads 010 as 8, 1:30 as 90, and yes as true."""
    found = parse_yaml(f"a: {text}\n", "there", InputError)["a"]
    assert found == value and type(found) is type(value)


def test_whole_characters_and_long_texts_are_read() -> None:
    assert parse_json(r'["\ud83d\ude00", "\u00e9"]', "there", InputError) == ["\U0001f600", "\u00e9"]
    assert parse_yaml(r'["\U0001f600", "\u00e9"]', "there", InputError) == ["\U0001f600", "\u00e9"]
    assert parse_yaml(f"a: '{'9' * 5000}'\nb: {'9' * 100}\n", "there", InputError) == {"a": "9" * 5000, "b": int("9" * 100)}


def test_a_truth_value_is_no_number() -> None:
    for change in ({"steps": True}, {"learning_rate": True}, {"steps": "yes"}):
        with pytest.raises(RecipeError, match="expected a"):
            parse_recipe([{"step": "mix", "parts": [{}]}, {"step": "sft", "steps": 2, "learning_rate": 0.1, **change}], "recipe")


def test_a_character_in_the_escapes_of_json_is_whole() -> None:
    assert parse_yaml('{"title": "Use \\ud83d\\ude00 rewards"}', "x", InputError) == {"title": "Use \U0001f600 rewards"}
