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
        ('{"id": ' + "9" * 5000 + "}", "line 5: not valid JSON (a number of too many digits (5,000); write at most 100)"),
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


def suite_with(path: Path, *rows: dict[str, Any]) -> JsonlSuite:
    """Write and read a suite with a trap, its twin and these rows."""
    common = {"target": "yes", "property": "p", "kind": "trap", "split": "open"}
    pair = [{"id": "t", "input": "Trap?"}, {"id": "w", "input": "Twin?", "kind": "twin"}]
    return JsonlSuite(write(path, [{**common, **row} for row in (*pair, *rows)]))


@pytest.mark.parametrize(
    "fields",
    [
        {"scorer": "regex", "target": "(?i)blue", "rejected": "It is blue"},
        {"target": "", "rejected": "I can't say."},
        {"scorer": "choice", "target": "", "choices": ["4711"], "rejected": "No idea."},
        {"scorer": "choice", "target": "blue", "choices": ["blue", "red"], "rejected": "The colour is blue"},
        {"target": "Paris", "rejected": "**Paris**"},
    ],
)
def test_a_tempting_answer_that_is_right_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(SuiteError, match=r"line 3: 'rejected' .*; give the tempting wrong"):
        suite_with(tmp_path / "s.jsonl", {"id": "o", "input": "Which colour?", **fields})


@pytest.mark.parametrize(
    "fields",
    [
        {"scorer": "regex", "target": "(?i)blue", "rejected": "It is red"},
        {"scorer": "regex", "target": "(?i)blue", "rejected": "It is blue", "engine": "re"},
        {"target": "", "rejected": "4711"},
        {"target": "", "rejected": "I can't say, but it is 4711", "choices": ["4711"], "scorer": "choice"},
        {"scorer": "choice", "target": "blue", "choices": ["blue", "red"], "rejected": "The colour is red, not blue"},
        {"target": "5!", "rejected": "5"},
    ],
)
def test_a_tempting_answer_that_is_wrong_is_accepted(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert len(suite_with(tmp_path / "s.jsonl", {"id": "o", "input": "Which colour?", **fields}).open_items()) == 3


@pytest.mark.parametrize(
    ("opened", "learned", "message"),
    [
        ({}, {"rewording_of": "o"}, "open item 'o' has the question of training item 'l'"),
        ({}, {"rewording_of": "is  A"}, "open item 'o' has the question of training item 'l'"),
        ({"rewording_of": "l"}, {}, "open item 'o' has the question of training item 'l'"),
        ({"rewording_of": "Was A?"}, {"rewording_of": "was a"}, "open item 'o' has the question of training item 'l'"),
        ({"rewording_of": "Was A?"}, {"input": "Was A?"}, "open item 'o' has the question of training item 'l'"),
        ({"twin_of": "l", "kind": "twin"}, {}, "open item 'o' and training item 'l' belong together by 'twin_of'"),
        ({}, {"twin_of": "o", "kind": "twin"}, "open item 'o' and training item 'l' belong together by 'twin_of'"),
    ],
)
def test_an_open_item_that_training_items_give_away(tmp_path: Path, opened: dict[str, Any], learned: dict[str, Any], message: str) -> None:
    rows = {"id": "o", "input": "Is A?", **opened}, {"id": "l", "input": "Is B?", "split": "train", **learned}
    for order in (rows, rows[::-1]):
        with pytest.raises(SuiteError, match=message):
            suite_with(tmp_path / "s.jsonl", *order)


def test_rewordings_and_twins_within_one_split_are_accepted(tmp_path: Path) -> None:
    rows = [
        {"id": f"{split}{n}", "input": f"Is {split} {n}?", "split": split, **fields}
        for split in ("train", "open")
        for n, fields in enumerate(
            ({"rewording_of": f"Was {split}?"}, {"rewording_of": f"Was {split}?"}, {"kind": "twin", "twin_of": f"{split}0"})
        )
    ]
    assert len(suite_with(tmp_path / "s.jsonl", *rows).train_items()) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        *[({"scorer": "choice", "target": "4", "choices": ["4", c]}, "'choices' .* invisible .*; remove it") for c in ("\u200b", "\u00ad")],
        ({"target": "\u200b"}, "'target' has only invisible characters.*; correct it"),
        ({"scorer": "choice", "target": "4", "choices": ["4", "\udc00"]}, "half a character"),
        *[({name: "x\ud800"}, "half a character") for name in ("target", "rejected", "answer", "rewording_of")],
    ],
)
def test_invisible_texts_and_halves_of_characters(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError, match=f"line 3: .*{message}") as refusal:
        suite_with(tmp_path / "s.jsonl", {"id": "o", "input": "Which?", **fields})
    str(refusal.value).encode()
