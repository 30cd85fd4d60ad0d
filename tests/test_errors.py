"""Messages about invalid data: an unknown key is answered with the known ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from stagezero import examples
from stagezero.errors import InputError
from stagezero.ideas.idea import parse_idea
from stagezero.project import load_project
from stagezero.training.patches import parse_patch
from stagezero.training.recipes import parse_recipe

SFT: dict[str, Any] = {"step": "sft", "steps": 1, "learning_rate": 1e-3}


def project(**changes: Any) -> Callable[[Path], object]:
    def parse(folder: Path) -> object:
        value = yaml.safe_load(examples.project_files()["project.yaml"])
        (folder / "project.yaml").write_text(yaml.safe_dump({**value, **changes}))
        return load_project(folder / "project.yaml")

    return parse


def recipe(*steps: dict[str, Any]) -> Callable[[Path], object]:
    return lambda _: parse_recipe(list(steps), "recipe")


IDEA = """---
titel: Show the twins
property: privacy
claimed_effect: 0.1
reason: Why.
patch: [{op: remove, at: sft}]
---
"""


@pytest.mark.parametrize(
    ("parse", "key", "meant", "known"),
    [
        (
            recipe({**SFT, "learning_rat": 1}),
            "steps.0.sft.learning_rat",
            "learning_rate",
            "weight_decay, lora, dtype, gradient_accumulation",
        ),
        # Two errors: the unknown key explains why another one is missing.
        (recipe({"step": "sft", "steps": 1, "learningrate": 1}), "steps.0.sft.learningrate", "learning_rate", "steps, batch_size"),
        (recipe({**SFT, "lora": {"ranks": 8}}), "steps.0.sft.lora.ranks", "rank", "rank, alpha, targets"),
        (recipe({"step": "mix", "parts": [{"kind": ["trap"]}]}), "steps.0.mix.parts.0.kind", "kinds", "claims, kinds, each"),
        (lambda _: parse_recipe({"stps": []}, "recipe"), "stps", "steps", "steps"),
        (lambda _: parse_patch([{"op": "set", "at": "sft", "value": {}}], "patch"), "0.set.value", "values", "op, at, values"),
        (project(bas="x"), "bas", "base", "name, base, suite, stage0"),
        (project(trial={"alpa": 0.1}), "trial.alpa", "alpha", "alpha, margin, max_pairs"),
        (project(audit={"bars": {"facts": 0.5}, "item": 50}), "audit.item", "items", "bars, submissions, passes"),
        (project(audit={"address": "https://a", "tokenfile": "t"}), "audit.tokenfile", "token_file", "address, suite, token_file"),
        (project(researchers=[{"kind": "llm", "modell": "m"}]), "researchers.0.llm.modell", "model", "kind, model, name, ideas"),
        (project(sandbox={"knd": "box"}), "sandbox.knd", "kind", "kind, memory, disk"),
        (lambda _: parse_idea(IDEA, "idea", "people"), "titel", "title", "title, property, claimed_effect"),
    ],
)
def test_an_unknown_key_is_answered_with_the_known_ones(
    parse: Callable[[Path], object], key: str, meant: str, known: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        parse(tmp_path)
    message = str(caught.value)
    assert f"unknown key {key!r} (did you mean {meant!r}?)" in message
    assert known in message.partition("the known keys are: ")[2]
    assert "researcher," not in message and "author" not in message
