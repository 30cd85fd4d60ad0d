"""Sealed items: forms of one question have one commitment, and a file's clusters stay whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest_auditor import sealed_file, terms
from hypothesis import given
from hypothesis import strategies as st

from stagezero.auditor.sealed import commitment, copy_sealed_file, load_sealed_items, normalise_question
from stagezero.errors import SuiteError
from stagezero.files import load_or_create_secret

SECRET = b"k" * 32


@pytest.mark.parametrize(
    "other",
    [
        "WHAT IS THE CAPITAL OF PERU",
        "What  is the\tcapital of Peru ?",
        "“What is the capital of Peru?”",
        "What is the cap\u200bital of Peru?",
        "Whát is the càpital of Peru?",
        "Ｗｈａｔ is the capital of Peru?",
        "What-is-the-capital-of-Peru",
    ],
)
def test_forms_of_one_question_are_one_item(other: str) -> None:
    assert commitment(SECRET, other) == commitment(SECRET, "What is the capital of Peru?")


def test_different_questions_and_different_secrets_give_different_commitments() -> None:
    assert commitment(SECRET, "What is 1 + 2?") != commitment(SECRET, "What is 1 + 3?")
    assert commitment(SECRET, "a") != commitment(b"x" * 32, "a")
    assert normalise_question("?!") == "?!" and normalise_question("日本の首都は？") == "日本の首都は"


@given(st.text(max_size=60))
def test_normalising_a_question_is_idempotent(text: str) -> None:
    assert normalise_question(normalise_question(text)) == normalise_question(text)


def test_generated_items_depend_on_the_secret_and_the_name_only(tmp_path: Path) -> None:
    secret = load_or_create_secret(tmp_path / "secret")
    assert load_or_create_secret(tmp_path / "secret") == secret and len(secret) == 32
    assert (tmp_path / "secret").stat().st_mode & 0o077 == 0
    private_terms = terms(bars={"privacy": 0.5})
    first = load_sealed_items("a", private_terms, secret)
    assert load_sealed_items("a", private_terms, secret) == first
    assert load_sealed_items("b", private_terms, secret).items_by_claim != first.items_by_claim
    assert load_sealed_items("a", private_terms, b"x" * 32).items_by_claim != first.items_by_claim
    assert {c: len(items) for c, items in first.items_by_claim.items()} == {"privacy": 60}


def test_a_sealed_file_contributes_one_item_per_cluster(tmp_path: Path) -> None:
    path = sealed_file(tmp_path / "sealed.jsonl")
    sealed = load_sealed_items("s", terms(suite="mine.jsonl", sealed=str(path)), SECRET)
    chosen = sealed.items_by_claim["candour"]
    assert len({i.twin_of for i in chosen}) == len(chosen) == 40
    assert sum(i.kind == "trap" for i in chosen) * 2 == len(chosen)
    assert sum(len(c) for c in sealed.clusters) == 80, "an unused row is spent with its cluster"
    with pytest.raises(SuiteError, match="not enough sealed items for claim 'other'"):
        load_sealed_items("s", terms(sealed=str(path), bars={"other": 0.5}), SECRET)
    with pytest.raises(SuiteError, match=r"audit\.sealed"):
        load_sealed_items("s", terms(suite="mine.jsonl", sealed=None), SECRET)
    with pytest.raises(SuiteError, match="no claim 'honesty'"):
        load_sealed_items("s", terms(bars={"honesty": 0.5}), SECRET)


def test_a_registered_rewording_belongs_to_the_cluster_of_its_original(tmp_path: Path) -> None:
    path = sealed_file(tmp_path / "sealed.jsonl")
    rewording = {"id": "again", "input": "put otherwise", "target": "no", "kind": "trap", "property": "candour", "split": "open"}
    path.write_text(path.read_text() + json.dumps({**rewording, "rewording_of": " trap 3?"}) + "\n")
    sealed = load_sealed_items("s", terms(sealed=str(path)), SECRET)
    assert len(sealed.clusters) == 40, "no new cluster"
    cluster = next(c for c in sealed.clusters if commitment(SECRET, "put otherwise") in c)
    assert commitment(SECRET, " trap 3?") in cluster


def test_checkers_are_copied_with_the_sealed_file(tmp_path: Path) -> None:
    path = sealed_file(tmp_path / "sealed.jsonl")
    row = {"id": "p", "input": "p?", "target": "", "kind": "trap", "property": "candour", "split": "open", "scorer": "python"}
    (tmp_path / "check.py").write_text("def score(item, answer):\n    return 'right'\n")
    text = path.read_text()
    path.write_text(text + json.dumps({**row, "checker": "check.py"}) + "\n")
    stored = copy_sealed_file(path, tmp_path / "stored")
    assert stored.read_text() == path.read_text() and (tmp_path / "stored" / "check.py").is_file()
    (tmp_path / "sub").mkdir()
    inner = tmp_path / "sub" / "sealed.jsonl"
    inner.write_text(text + json.dumps({**row, "checker": "../check.py"}) + "\n")
    with pytest.raises(SuiteError, match="outside the file's folder"):
        copy_sealed_file(inner, tmp_path / "stored2")
