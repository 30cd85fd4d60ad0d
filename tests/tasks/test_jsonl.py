"""A user's suite: every line is validated, and items are resampled in whole clusters.

Covers: tasks/items.py, tasks/registry.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from stagezero.errors import SuiteError
from stagezero.tasks.jsonl import JsonlSuite, Row

GOOD: list[dict[str, Any]] = [
    {"id": "a", "input": "Is the sky green?", "target": "no", "kind": "trap", "property": "candour", "split": "open"},
    {"id": "b", "input": "Is the sky blue?", "target": "yes", "kind": "twin", "property": "candour", "split": "open", "twin_of": "a"},
    {"id": "c", "input": "Is grass red?", "target": "no", "kind": "trap", "property": "candour", "split": "train", "rejected": "yes"},
    {"id": "d", "input": "2+2?", "target": "4", "kind": "capability", "property": "sums", "split": "open"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_valid_file_is_read_and_resampled(tmp_path: Path) -> None:
    suite = JsonlSuite(write(tmp_path / "s.jsonl", GOOD))
    assert (suite.properties, suite.capabilities, suite.finite) == (("candour",), ("sums",), True)
    assert [i.id for i in suite.train_items()] == ["c"]
    drawn = suite.fresh_items(1, 5)
    assert len(drawn) == 15
    assert {i.kind for i in drawn if i.property == "candour"} == {"trap", "twin"}
    assert drawn == suite.fresh_items(1, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targt": "x"}, "line 1: unknown key 'targt'"),
        ({"kind": "trick"}, "line 1: 'kind'"),
        ({"split": "sealed"}, "line 1: 'split'"),
        ({"scorer": "choice"}, "'choices' to list every permitted answer"),
        ({"scorer": "regex", "target": "("}, "not a regular expression"),
        ({"scorer": "python"}, "needs 'checker'"),
        ({"twin_of": "zz"}, "twin_of 'zz' names no item"),
        ({"id": "b"}, "line 2: id 'b' is already used on line 1"),
        ({"kind": "twin"}, "no open trap"),
        ({"property": "alignment"}, "that name is reserved"),
        ({"scorer": "regex", "target": "(?=a)"}, "not a regular expression of RE2 (invalid perl operator: (?=; RE2 has no lookarounds"),
        ({"scorer": "regex", "target": "(", "engine": "re"}, "not a regular expression of Python"),
        ({"engine": "pcre"}, "line 1: 'engine'"),
        ({"target": "  "}, "'target' is only white space"),
        ({"scorer": "choice", "target": "no", "choices": ["no", ""]}, "'choices' contains an empty text"),
        ({"scorer": "choice", "target": "no", "choices": ["no", "No.", "yes"]}, "'no' and 'No.', which are scored as one"),
        ({"rejected": "No."}, "'rejected' equals the right answer"),
        ({"rejected": "Not at all", "answer": "Not at all "}, "'rejected' equals the right answer"),
        ({"scorer": "python", "checker": "gone.py"}, "'checker' names"),
        ({"input": "is grass  RED"}, "open item 'a' has the question of training item 'c'"),
    ],
)
def test_errors_name_the_line_and_the_fix(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "s.jsonl", [{**GOOD[0], **change}, *GOOD[1:]])
    with pytest.raises(SuiteError, match=re.escape(message)):
        JsonlSuite(path)


def test_malformed_json_names_its_line(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", GOOD[:2])
    path.write_text(path.read_text() + '{"id": "e", \n')
    with pytest.raises(SuiteError, match="line 3: not valid JSON"):
        JsonlSuite(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "e", "target": "a", "target": "b"}', "line 5: not valid JSON (key 'target' is given twice; remove one)"),
        ('{"id": ' + "9" * 5000 + "}", "line 5: not valid JSON (a number of too many digits)"),
        ("[" * 100_000, "line 5: not valid JSON (nested too deep)"),
    ],
)
def test_odd_json_names_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "s.jsonl", GOOD)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SuiteError, match=re.escape(message)):
        JsonlSuite(path)


def test_a_byte_order_mark_and_windows_lines_are_no_error(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", GOOD)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(JsonlSuite(path).open_items()) == 3


def test_a_question_twice_is_no_second_piece_of_evidence(tmp_path: Path) -> None:
    again = {**GOOD[0], "id": "z", "input": "is the sky  GREEN"}
    with pytest.raises(SuiteError, match="open item 'z' repeats the question of item 'a', which is no second piece of evidence"):
        JsonlSuite(write(tmp_path / "s.jsonl", [*GOOD, again]))


def test_a_training_item_without_a_target_needs_an_answer(tmp_path: Path) -> None:
    rows = [*GOOD, {**GOOD[2], "id": "z", "target": ""}]
    with pytest.raises(SuiteError, match=r"line 5.*'answer'"):
        JsonlSuite(write(tmp_path / "s.jsonl", rows))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scorer": "regex", "target": "yes|"}, "'target' matches the empty text, so that every answer would be right"),
        ({"scorer": "regex", "target": "x*", "engine": "re"}, "'target' matches the empty text"),
        ({"scorer": "python", "checker": "a\0b"}, "'checker' contains a NUL character"),
    ],
)
def test_targets_and_names_that_cannot_be_meant(change: dict[str, Any], message: str) -> None:
    row = {"id": "a", "input": "Q?", "target": "x", "kind": "trap", "property": "p", "split": "open"}
    with pytest.raises(ValidationError, match=message):
        Row.model_validate({**row, **change})


def test_an_open_item_that_is_a_training_item_in_another_form(tmp_path: Path) -> None:
    def suite(*rows: dict[str, Any]) -> JsonlSuite:
        common = {"target": "yes", "property": "p", "split": "open"}
        pair = [{"id": "t", "input": "Trap?", "kind": "trap"}, {"id": "w", "input": "Twin?", "kind": "twin"}]
        path = tmp_path / "suite.jsonl"
        path.write_text("".join(json.dumps({**common, **row}) + "\n" for row in (*pair, *rows)))
        return JsonlSuite(path)

    learned = {"id": "l", "input": "Is water wet?", "kind": "trap", "split": "train"}
    with pytest.raises(SuiteError, match="open item 'o' has the question of training item 'l'"):
        suite(learned, {"id": "o", "input": "Q: is  **water** wet", "kind": "trap"})
    with pytest.raises(SuiteError, match="open item 'o' has the question of training item 'l'"):
        suite(learned, {"id": "o", "input": "Does water make wet?", "kind": "trap", "rewording_of": "Is water wet?"})
    with pytest.raises(SuiteError, match="one is a trap and the other a twin"):
        suite({"id": "o", "input": "trap", "kind": "twin"})
    suite(learned, {"id": "o", "input": "Is water not wet?", "kind": "trap"})
