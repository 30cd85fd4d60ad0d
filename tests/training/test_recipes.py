"""Recipes and patches: typed, canonical, and with precise error messages.

Covers: training/recipe_files.py, training/fields.py, training/patches.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from stagezero.errors import RecipeError
from stagezero.training import apply_patch, load_recipe, parse_patch, parse_recipe

PLAIN: list[dict[str, Any]] = [
    {"step": "mix", "parts": [{"kinds": ["trap"], "each": 100}]},
    {"step": "sft", "steps": 60, "learning_rate": 1e-3},
]


def test_the_digest_does_not_depend_on_formatting(tmp_path: Path) -> None:
    one = tmp_path / "one.yaml"
    one.write_text("steps:\n- {step: mix, parts: [{kinds: [trap], each: 100}]}\n- {step: sft, steps: 60, learning_rate: 0.001}\n")
    two = tmp_path / "two.yaml"
    two.write_text(
        "# the same\nsteps:\n  - parts:\n      - each: 100\n    name: data\n    step: mix\n"
        "  - step: sft\n    learning_rate: 1.0e-3\n    steps: 60\n    batch_size: 16\n    weight_decay: 0\n"
    )
    assert load_recipe(one).digest() == load_recipe(two).digest() == parse_recipe(PLAIN, "x").digest()


def test_fields_of_later_releases_leave_older_digests_as_they_were() -> None:
    defaults = {"dtype": "float32", "gradient_accumulation": 1, "gradient_checkpointing": False, "lora": {"rank": 8, "targets": None}}
    written, plain = parse_recipe([PLAIN[0], {**PLAIN[1], **defaults}], "x"), parse_recipe([PLAIN[0], {**PLAIN[1], "lora": {}}], "x")
    assert written.digest() == plain.digest() == "f3f806d3fa4c4f26dc87d703e1db0147dfb5197eab3362cfbb0e9118f24b2b5a"
    assert plain.canonical()["steps"][1]["lora"] == {"rank": 8, "alpha": 16}
    changes: list[dict[str, Any]] = [
        {"dtype": "bfloat16"}, {"gradient_accumulation": 4}, {"gradient_checkpointing": True}, {"lora": {"targets": ["q_proj"]}},
    ]  # fmt: skip
    digests = {parse_recipe([PLAIN[0], {**PLAIN[1], "lora": {}, **change}], "x").digest() for change in changes}
    assert len(digests | {plain.digest()}) == 5


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([{"step": "sft", "steps": 6, "learning_rate": 1e-3}], "dataset 'data', which no earlier mix"),
        ([PLAIN[0], {**PLAIN[1], "learning_rat": 1}], "unknown key"),
        ([PLAIN[0], {**PLAIN[1], "steps": 0}], "steps"),
        ([PLAIN[0], {"step": "ppo"}], "ppo"),
        ([{"step": "mix", "parts": []}], "parts"),
        ([PLAIN[0], {"step": "filter", "matching": "("}, PLAIN[1]], "not a regular expression"),
        ([PLAIN[0], {"step": "filter", "matching": r"(a)\1"}, PLAIN[1]], "RE2 has no references to groups"),
        ([{"step": "mix", "parts": [{}] * 65}], "parts: expected at most 64 parts, got 65; remove some"),
        ([PLAIN[0], {**PLAIN[1], "gradient_accumulation": 3}], "got 16; change one of them"),
        ([PLAIN[0], {**PLAIN[1], "dtype": "float16"}], "expected 'float32' or 'bfloat16', got 'float16'"),
        ([PLAIN[0], {**PLAIN[1], "lora": {"targets": []}}], "targets"),
        ([{"step": "mix", "parts": [{"each": 10**7}]}], "each: expected at most 1,000,000, got 10,000,000"),
        ([PLAIN[0], {**PLAIN[1], "steps": 10**6}], "steps: expected at most 100,000, got 1,000,000"),
        ([PLAIN[0]] * 65, "steps: expected at most 64 steps, got 65"),
        ([{"step": "command", "run": ["a"], "timeout": 10**6}], "timeout: expected at most 604,800 seconds"),
        ([{"step": "command", "run": ["a"], "inputs": ["a\0b"]}], "inputs: expected a list of non-empty names"),
        ([{"step": "command", "run": ["a\0b"]}], "run: expected a list of non-empty names"),
        ([{"step": "command", "run": ["a"], "inputs": ["x/t.py", "y/t.py"]}], "expected files of different names, got t.py, t.py"),
    ],
)
def test_mistakes_in_a_recipe_are_reported(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")):
        parse_recipe(steps, "recipe")


def test_every_patch_operation() -> None:
    recipe = parse_recipe(PLAIN, "x")
    patch = parse_patch(
        [
            {"op": "set", "at": "sft", "values": {"learning_rate": 5e-4}},
            {"op": "extend", "at": "data", "parts": [{"kinds": ["twin"], "each": 10}]},
            {"op": "insert", "before": "sft", "step": {"step": "filter", "deduplicate": True}},
            {"op": "append", "step": {"step": "dpo", "steps": 5, "learning_rate": 1e-4}},
            {"op": "append", "step": {"step": "sft", "steps": 5, "learning_rate": 1e-4}},
            {"op": "remove", "at": "dpo"},
            {"op": "set", "at": "sft/2", "values": {"steps": 7}},
        ],
        "p",
    )
    patched = apply_patch(recipe, patch, "p")
    assert [s.step for s in patched.steps] == ["mix", "filter", "sft", "sft"]
    dumped = patched.canonical()["steps"]
    assert dumped[2]["learning_rate"] == 5e-4 and dumped[3]["steps"] == 7 and len(dumped[0]["parts"]) == 2
    assert recipe.digest() == parse_recipe(PLAIN, "x").digest(), "a patch must not change its recipe in place"


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ([{"op": "set", "at": "dpo", "values": {"steps": 1}}], "names step 'dpo', which the recipe lacks; its steps are: data, sft"),
        ([{"op": "set", "at": "sft/3", "values": {"steps": 1}}], "sft/3"),
        ([{"op": "set", "at": "sft", "values": {"stepz": 1}}], "unknown key"),
        ([{"op": "remove", "at": "data"}], "no earlier mix"),
        (
            [{"op": "append", "step": {"step": "mix", "name": "new", "parts": 5}}, {"op": "extend", "at": "new", "parts": [{}]}],
            "'at' names mix 'new', whose 'parts' is 5; expected a list; correct 'parts'",
        ),
        (
            [{"op": "set", "at": "data", "values": {"parts": None}}, {"op": "extend", "at": "data", "parts": [{}]}],
            "'parts' is None; expected a list",
        ),
    ],
)
def test_patches_that_do_not_fit_are_rejected(patch: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        apply_patch(parse_recipe(PLAIN, "x"), parse_patch(patch, "p"), "p")


def test_unknown_and_too_many_operations_are_rejected() -> None:
    with pytest.raises(RecipeError, match="op"):
        parse_patch([{"op": "replace"}], "p")
    with pytest.raises(RecipeError, match="at most 64 operations, got 65"):
        parse_patch([{"op": "remove", "at": "sft"}] * 65, "p")


@pytest.mark.parametrize("inputs", [None, 7, "train.py", [7], [None], [["train.py"]], ["a\0b"], {"train.py": 1}, [""]])
@pytest.mark.parametrize(
    "op", [{"op": "append", "step": {}}, {"op": "insert", "before": "sft", "step": {}}, {"op": "set", "at": "sft", "values": {}}]
)
def test_malformed_inputs_in_a_patch_are_rejected(op: dict[str, Any], inputs: object) -> None:
    patch = [{key: {"step": "command", "run": ["a"], "inputs": inputs} if value == {} else value for key, value in op.items()}]
    with pytest.raises(
        RecipeError,
        match=r"(step|values): inputs: expected a list of non-empty names without NUL characters, such as \[train.py\], got .*; correct it",
    ):
        parse_patch(patch, "p")


def test_unreadable_recipe_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="there is none"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("steps: [")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("steps: 2026-02-31")
    with pytest.raises(RecipeError, match="not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "cmd.yaml").write_text("steps:\n- {step: command, run: [python, t.py], inputs: [t.py]}\n")
    with pytest.raises(RecipeError, match="does not exist"):
        load_recipe(tmp_path / "cmd.yaml")
    for inputs, message in (
        ("[.]", "cannot be read"),
        ("[" + "x" * 300 + "]", "cannot be read"),
        ('["a\\0b"]', "has a NUL character"),
        ("null", "inputs"),
        ("5", "inputs"),
        ("t.py", "inputs"),
    ):
        (tmp_path / "cmd.yaml").write_text(f"steps:\n- {{step: command, run: [python, t.py], inputs: {inputs}}}\n")
        with pytest.raises(RecipeError, match=message):
            load_recipe(tmp_path / "cmd.yaml")
