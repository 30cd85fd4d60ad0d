"""Ideas and the airlock: which ideas are admitted, and which are the same hypothesis.

Covers: ideas/airlock.py, ideas/idea.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stagezero import examples
from stagezero.errors import IdeaError
from stagezero.ideas.airlock import Refusal, admit
from stagezero.ideas.idea import Idea, load_ideas, parse_idea
from stagezero.tasks import Suite, load_suite
from stagezero.training import data, load_recipe, parse_recipe

CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 9}]}, {"step": "sft", "steps": 6, "learning_rate": 1e-3}], "control"
)


def idea(title: str = "an idea", prop: str = "privacy", patch: object = None, reason: str = "because") -> Idea:
    operations = patch if patch is not None else [{"op": "set", "at": "sft", "values": {"learning_rate": 5e-4}}]
    return Idea(title=title, property=prop, claimed_effect=0.1, reason=reason, patch=tuple(operations), researcher="people")  # type: ignore[arg-type]


def test_shipped_ideas_fit_the_shipped_stage() -> None:
    folder = examples.project_folder()
    ideas = load_ideas(folder / "ideas", "people")
    assert len(ideas) >= 8
    admitted, rejected = admit(ideas, load_recipe(folder / "stage0.yaml"), load_suite("atlas"), 0.0)
    assert len(admitted) == len(ideas) and not rejected
    assert all(a.idea.bits() < 8 * 1024 for a in admitted)


def test_another_title_or_formatting_is_the_same_hypothesis() -> None:
    one = idea("first", patch=[{"op": "set", "at": "sft", "values": {"learning_rate": 0.0005}}])
    two = idea("second", patch=[{"op": "set", "at": "sft", "values": {"learning_rate": 5e-4, "steps": 6}}], reason="other words")
    admitted, rejected = admit([one, two], CONTROL, load_suite("atlas"), 0.0)
    assert len(admitted) == 1 and rejected[0].code is Refusal.DUPLICATE
    admitted_again, decided = admit([two], CONTROL, load_suite("atlas"), 0.0, [(admitted[0].idea.title, admitted[0].hypothesis)])
    assert not admitted_again and decided[0].code is Refusal.DECIDED_BEFORE


@pytest.mark.parametrize(
    "disguise",
    [
        [{"op": "extend", "at": "data", "parts": [{"kinds": ["twin"], "claims": ["privacy", "injection"]}]}],
        [{"op": "extend", "at": "data", "parts": [{"kinds": ["twin", "twin"], "claims": ["injection", "privacy"]}]}],
        [{"op": "extend", "at": "data", "parts": [{"kinds": ["twin"], "claims": [c]} for c in ("privacy", "injection")]}],
        [
            {"op": "extend", "at": "data", "parts": [{"kinds": ["twin"], "claims": ["injection", "privacy"]}]},
            {"op": "insert", "before": "sft", "step": {"step": "filter", "max_words": 10_000}},
        ],
        [
            {"op": "extend", "at": "data", "parts": [{"kinds": ["twin"], "claims": ["injection", "privacy"], "each": 100_000}]},
            {"op": "set", "at": "sft", "values": {"name": "another"}},
        ],
        [
            {"op": "append", "step": {"step": "mix", "name": "idle", "parts": [{}]}},
            {"op": "append", "step": {"step": "reward", "data": "idle", "steps": 3, "learning_rate": 1e-3}},
            {"op": "extend", "at": "data", "parts": [{"kinds": ["twin"], "claims": ["injection", "privacy"]}]},
        ],
    ],
)
def test_another_selection_of_the_same_examples_is_the_same_hypothesis(disguise: object) -> None:
    plain = idea(patch=[{"op": "extend", "at": "data", "parts": [{"kinds": ["twin"], "claims": ["injection", "privacy"]}]}])
    admitted, rejected = admit([plain, idea("in disguise", patch=disguise)], CONTROL, load_suite("atlas"), 0.0)
    assert len(admitted) == 1 and rejected[0].code is Refusal.DUPLICATE


def test_an_idea_without_an_effect_is_rejected() -> None:
    idle = idea(patch=[{"op": "insert", "before": "sft", "step": {"step": "filter", "matching": ""}}])
    assert admit([idle], CONTROL, load_suite("atlas"), 0.0)[1][0].code is Refusal.CHANGES_NOTHING


def test_an_idea_depends_on_the_content_of_its_script_and_not_on_its_path(tmp_path: Path) -> None:
    def idea_with_script(folder: str, text: str) -> Idea:
        (tmp_path / folder / "ideas").mkdir(parents=True)
        (tmp_path / folder / "ideas" / "train.py").write_text(text)
        (tmp_path / folder / "ideas" / "own.md").write_text(
            "---\ntitle: own trainer\nproperty: privacy\nclaimed_effect: 0.1\nreason: because\npatch:\n"
            "  - {op: append, step: {step: command, run: [python, train.py], inputs: [train.py]}}\n---\n"
        )
        return load_ideas(tmp_path / folder / "ideas", "people")[0]

    one, moved, other = idea_with_script("a", "pass"), idea_with_script("b", "pass"), idea_with_script("c", "pass  # not the same")
    assert one.digest() == moved.digest() != other.digest()
    admitted, rejected = admit([one, moved, other], CONTROL, load_suite("atlas"), 0.0)
    assert len(admitted) == 2 and len(rejected) == 1
    assert str(tmp_path) not in str([a.entry() for a in admitted]), "no path of this machine may be recorded"


def test_a_near_copy_of_a_decided_idea_is_reported() -> None:
    first, _ = admit([idea("old", patch=[{"op": "set", "at": "sft", "values": {"steps": 20}}])], CONTROL, load_suite("atlas"), 0.0)
    near_copy = idea("new", patch=[{"op": "set", "at": "sft", "values": {"steps": 21}}])
    admitted, _ = admit([near_copy], CONTROL, load_suite("atlas"), 0.0, [(first[0].idea.title, first[0].hypothesis)])
    assert admitted[0].near_duplicates == ("'old', decided before",)


def test_admission_does_not_depend_on_the_order_of_ideas() -> None:
    ideas = [idea(f"idea {i}", patch=[{"op": "set", "at": "sft", "values": {"steps": 10 + i}}]) for i in range(6)]
    forwards, _ = admit(ideas, CONTROL, load_suite("atlas"), 0.0)
    backwards, _ = admit(ideas[::-1], CONTROL, load_suite("atlas"), 0.0)
    assert forwards == backwards


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (idea(prop="honesty"), "not one of abstention"),
        (idea(patch=[{"op": "set", "at": "dpo", "values": {"steps": 1}}]), "does not fit"),
        (idea(patch=[{"op": "set", "at": "sft", "values": {"steps": 6}}]), "changes nothing"),
        (idea(patch=[{"op": "extend", "at": "data", "parts": [{"claims": ["honesty"]}]}]), "no training items"),
        (idea(patch=[{"op": "append", "step": {"step": "mix", "name": "x" * 9000, "parts": [{}]}}]), "may cross"),
    ],
)
def test_inadmissible_ideas_are_rejected(candidate: Idea, message: str) -> None:
    admitted, rejected = admit([candidate], CONTROL, load_suite("atlas"), 0.0)
    assert not admitted and message in rejected[0].why


GOOD = "---\ntitle: good idea\nproperty: privacy\nclaimed_effect: 0.1\nreason: because\npatch:\n  - {op: remove, at: sft}\n---\nnotes\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD.replace("because", "2026-02-31"), "not valid YAML"),
        (GOOD.replace("because", "*x").replace("title: good", "title: &x good"), "alias"),
        ("no front matter", "two lines of three dashes"),
        (GOOD.replace("title", "titel"), "titel|title"),
        (GOOD.replace("0.1", "7"), "claimed_effect"),
        (GOOD.replace("remove", "destroy"), "op"),
        (GOOD.replace("property: privacy", "property: [privacy"), "not valid YAML"),
        (GOOD.replace("0.1", "true"), "'claimed_effect': expected a number, got true"),
        (GOOD.replace("good idea", '"good\\nidea"'), r"title: expected one line without control characters, got U\+000A"),
        (GOOD.replace("good idea", '"good\\u2028idea"'), r"title: expected one line without control characters, got U\+2028"),
        (GOOD.replace("remove, at: sft", "set, at: sft, values: {beta: .nan}"), "expected finite numbers, got nan"),
        (GOOD.replace("remove, at: sft", "set, at: sft, values: {beta: 1e400}"), "expected finite numbers, got inf"),
        (GOOD.replace("remove, at: sft", "set, at: sft, values: {beta: 0x20000000000000}"), r"expected numbers below 2\^53"),
    ],
)
def test_malformed_idea_files_are_rejected(text: str, message: str) -> None:
    assert parse_idea(GOOD, "x.md", "people").title == "good idea"
    with pytest.raises(IdeaError, match=message):
        parse_idea(text, "x.md", "people")


@pytest.mark.parametrize("inputs", ["null", "7", "train.py", "[7]", "[null]", '[""]', "{a: 1}", "[[a]]"])
@pytest.mark.parametrize("op", ["{op: append, step: {%s}}", "{op: set, at: sft, values: {%s}}"])
def test_malformed_inputs_in_an_idea_file_are_rejected(tmp_path: Path, inputs: str, op: str) -> None:
    patch = op % f"step: command, run: [python, train.py], inputs: {inputs}"
    (tmp_path / "own.md").write_text(GOOD.replace("{op: remove, at: sft}", patch))
    with pytest.raises(
        IdeaError, match=r"inputs: expected a list of non-empty names without NUL characters, such as \[train.py\], got .*; correct it"
    ):
        load_ideas(tmp_path, "people")


def test_the_bytes_of_a_script_count_as_part_of_the_idea(tmp_path: Path) -> None:
    patch = "{op: append, step: {step: command, run: [python, train.py], inputs: [train.py]}}"
    (tmp_path / "own.md").write_text(GOOD.replace("{op: remove, at: sft}", patch))
    (tmp_path / "train.py").write_text("")
    empty = load_ideas(tmp_path, "people")[0].bits()
    (tmp_path / "train.py").write_text("#" * 1000)
    assert load_ideas(tmp_path, "people")[0].bits() == empty + 8000
    (tmp_path / "train.py").write_text("#" * 8192)
    admitted, rejected = admit(load_ideas(tmp_path, "people"), CONTROL, load_suite("atlas"), 0.0)
    assert not admitted and "its files included; at most 65,536 may cross" in rejected[0].why


def test_a_regular_expression_that_re2_refuses_is_rejected() -> None:
    bad = idea(patch=[{"op": "insert", "before": "sft", "step": {"step": "filter", "matching": r"(\w+)\s\1"}}])
    admitted, rejected = admit([bad], CONTROL, load_suite("atlas"), 0.0)
    assert not admitted and "write the repeated text out" in rejected[0].why


@pytest.mark.parametrize("change", [lambda t: "\ufeff" + t, lambda t: t.replace("\n", "\r\n"), lambda t: t.replace("\n", "\r")])
def test_a_byte_order_mark_and_other_line_ends_change_nothing(change: Callable[[str], str]) -> None:
    assert parse_idea(change(GOOD), "idea", "people") == parse_idea(GOOD, "idea", "people")


def test_an_invalid_idea_does_not_affect_the_others() -> None:
    odd = idea("odd", patch=[{"op": "unheard of"}])
    admitted, rejected = admit([odd, idea()], CONTROL, load_suite("atlas"), 0.0)
    assert len(admitted) == 1 and rejected[0].idea is odd


def test_datasets_are_drawn_once_per_seed_and_candidate(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    item_pools = data._item_pools

    def count_calls(suite: Suite, seed: int) -> data.ItemPools:
        seeds.append(seed)
        return item_pools(suite, seed)

    monkeypatch.setattr(data, "_item_pools", count_calls)
    operations = [{"op": "append", "step": {"step": "sft", "steps": n, "learning_rate": 1e-3}} for n in range(1, 9)]
    ideas = [idea(f"idea {n}", patch=operations[:n]) for n in range(1, 9)]
    admitted, _ = admit(ideas, CONTROL, load_suite("atlas"), 0.0)
    assert len(admitted) == 8 and len(seeds) == 2 * (8 + 1), "once for each seed of each candidate and of the control"


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IdeaError, match="found none"):
        load_ideas(tmp_path, "people")
