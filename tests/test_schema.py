"""Numbers that a person writes: true and false are none, and each number is finite.

Covers: training/fields.py.
"""

from __future__ import annotations

from math import inf, nan
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import ValidationError

from stagezero.errors import ProjectError, RecipeError, explain
from stagezero.ideas.idea import Idea
from stagezero.project import Project, load_project
from stagezero.schema import Frozen
from stagezero.training.recipes import parse_recipe

PROJECT: dict[str, Any] = {"name": "p", "base": "b", "stage0": "r.yaml", "researchers": [{"kind": "people", "ideas": "i"}]}
MIX: dict[str, Any] = {"step": "mix", "parts": [{"each": 4}]}
GRADIENT: dict[str, Any] = {"steps": 1, "learning_rate": 0.1}


class Everything(Frozen):
    """One field of each form."""

    kind: Literal["all"] = "all"
    whole: int | None = None
    share: float = 0.5
    shares: dict[str, float] = {}  # noqa: RUF012
    pair: tuple[int, float] | None = None
    choice: bool = False
    anything: dict[str, str | int | bool] = {}  # noqa: RUF012


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"whole": True}, "there: 'whole': expected a whole number, got true; correct it."),
        ({"share": False}, "there: 'share': expected a number, got false; correct it."),
        ({"shares": {"a": 0.1, "b": True}}, "there: 'shares.b': expected a number, got true; correct it."),
        ({"pair": [1, True]}, "there: 'pair.1': expected a number, got true; correct it."),
        ({"share": nan}, "there: 'share': expected a finite number, got nan; correct it."),
        ({"shares": {"a": inf}}, "there: 'shares.a': expected a finite number, got inf; correct it."),
    ],
)
def test_truth_and_infinity_are_no_numbers(value: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Everything.model_validate(value)
    assert explain(error.value, "there", Everything) == message


def test_fields_of_truth_accept_it_and_numbers_are_read_as_before() -> None:
    read = Everything.model_validate({"choice": True, "anything": {"a": True}, "whole": 3.0, "share": 1, "pair": [1, 2]})
    assert read.choice is True and read.anything == {"a": True} and (read.whole, read.share, read.pair) == (3, 1.0, (1, 2.0))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"seed": True}, "'seed'"), ({"stages": True}, "'stages'"), ({"workers": True}, "'workers'"),
        ({"answer_tokens": True}, "'answer_tokens'"), ({"trial": {"margin": False}}, "trial: 'margin'"),
        ({"trial": {"items": True}}, "trial: 'items'"), ({"sandbox": {"memory": True}}, "sandbox: 'memory'"),
        ({"audit": {"bars": {"privacy": True}}}, "audit: 'bars.privacy'"), ({"audit": {"bars": {"a": 0.5}, "passes": True}}, "'passes'"),
        ({"review": {"keys": ["k"], "seconds": True}}, "review: 'seconds'"),
        ({"researchers": [{"kind": "optuna", "ideas": True}]}, "researchers.0.optuna: 'ideas'"),
    ],
)  # fmt: skip
def test_every_number_of_a_project_refuses_truth(change: dict[str, Any], place: str, tmp_path: Path) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(yaml.safe_dump({**PROJECT, **change}))
    with pytest.raises(ProjectError, match=r"expected a (whole )?number, got (true|false); correct it") as refusal:
        load_project(path)
    assert place in str(refusal.value)


def test_numbers_of_a_project_without_end_are_refused() -> None:
    for change in (
        {"researchers": [{"kind": "optuna", "ideas": 10**30}]},
        {"researchers": [{"kind": "llm", "model": "m", "seconds": inf}]},
        {"review": {"keys": ["k"], "seconds": 1e300}},
    ):
        with pytest.raises(ValidationError):
            Project.model_validate({**PROJECT, **change})
    given = {"researchers": [{"kind": "llm", "model": "m", "arguments": {"stream": True, "n": 3, "t": 0.5}}]}
    (researcher,) = Project.model_validate({**PROJECT, **given}).researchers
    assert researcher.kind == "llm" and list(map(repr, researcher.arguments.values())) == ["True", "3", "0.5"]


@pytest.mark.parametrize(
    ("step", "field"),
    [
        *(({"step": "sft", **GRADIENT, name: True}, name) for name in ("steps", "learning_rate", "weight_decay", "warmup", "batch_size")),
        ({"step": "sft", **GRADIENT, "lora": {"rank": True}}, "rank"),
        ({"step": "dpo", **GRADIENT, "beta": True}, "beta"),
        *(({"step": "grpo", **GRADIENT, name: True}, name) for name in ("group", "temperature", "beta", "length")),
        ({"step": "grpo", **GRADIENT, "pays": {"wrong": False}}, "wrong"),
        ({"step": "merge", "source": "base", "weight": True}, "weight"),
        ({"step": "filter", "max_words": True}, "max_words"),
        ({"step": "command", "run": ["x"], "timeout": True}, "timeout"),
        ({"step": "mix", "parts": [{"each": True}]}, "each"),
    ],
)
def test_every_number_of_a_recipe_refuses_truth(step: dict[str, Any], field: str) -> None:
    with pytest.raises(RecipeError, match=rf"'{field}': expected a (whole )?number, got (true|false); correct it"):
        parse_recipe([MIX, step], "r.yaml")


def test_switches_of_a_recipe_accept_truth() -> None:
    recipe = parse_recipe([MIX, {"step": "filter", "deduplicate": True}, {"step": "sft", **GRADIENT, "gradient_checkpointing": True}], "r")
    assert recipe.canonical()["steps"][2]["gradient_checkpointing"] is True


def test_the_claimed_effect_of_an_idea_refuses_truth() -> None:
    with pytest.raises(ValidationError, match="expected a number, got true"):
        Idea(title="An idea", property="privacy", claimed_effect=True, reason="because", patch=({},))
