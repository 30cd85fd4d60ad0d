"""Declared channels: labels and weights of another model may cross, and are counted by name.

Covers: lab/provenance_inputs.py, training/steps/distil.py, training/steps/merge.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import write_project

from stagezero.errors import BuildError, ModelError, RecipeError
from stagezero.lab.campaign import Campaign
from stagezero.lab.provenance_inputs import channel_entry
from stagezero.ledger.lineage import read_record, trace_lineage
from stagezero.models import Model, checkpoint_digest
from stagezero.models.chat import load_tokenizer
from stagezero.tasks import load_suite
from stagezero.training import Recipe, Store, build, load_recipe, parse_recipe
from stagezero.training.channels import channel_digests
from stagezero.training.data import datasets_before, meaning_of, portable_form
from stagezero.training.recipes import Distil, Merge
from stagezero.training.steps.distil import label_examples
from stagezero.trials.compare import compare

MIX: dict[str, Any] = {"step": "mix", "parts": [{"kinds": ["trap"], "each": 10}]}
SFT: dict[str, Any] = {"step": "sft", "steps": 4, "batch_size": 4, "learning_rate": 0.01}


def recipe(*steps: dict[str, Any]) -> Recipe:
    return parse_recipe(list(steps), "test")


def build_steps(base: Path, root: Path, *steps: dict[str, Any], seed: int = 1) -> Any:
    return build(base, recipe(*steps), load_suite("atlas"), seed, Store(root))


def distil(source: str) -> dict[str, Any]:
    return {**SFT, "step": "distil", "source": source}


@pytest.fixture(scope="module")
def teacher(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build another model of the same shape."""
    folder: Path = build_steps(base, tmp_path_factory.mktemp("teacher"), MIX, SFT, seed=9).folder
    return folder


def test_labels_are_the_teachers_and_its_digest_is_part_of_the_build(base: Path, teacher: Path, tmp_path: Path) -> None:
    from stagezero.training.build import render_examples

    suite = load_suite("atlas")
    items = datasets_before(recipe(MIX, SFT), 1, suite, 1)["data"]
    examples = render_examples(items, load_tokenizer(base), suite.instruction)
    labelled = label_examples(teacher, base, items, examples, suite.instruction, 24)
    answers = Model(teacher).answer([item.input for item in items], suite.instruction)
    assert [row["completion"] for row in labelled] == [f" {answer}<eos>" for answer in answers if answer]
    digests = {name: build_steps(base, tmp_path, MIX, distil(name)).digest for name in ("base", "self", str(teacher))}
    assert digests["base"] == digests["self"] != digests[str(teacher)], "before any other step the trained model is the base"
    moved = Path(shutil.copytree(teacher, tmp_path / "elsewhere"))
    repeated = build_steps(base, tmp_path, MIX, distil(str(moved)))
    assert repeated.steps_reused == 1 and repeated.digest == digests[str(teacher)], "the teacher's path is not part of the build"


def test_merged_weights_are_a_weighted_mean(base: Path, teacher: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    half = build_steps(base, tmp_path, {"step": "merge", "source": str(teacher), "weight": 0.5})
    mine, theirs, mixed = (load_file(folder / "model.safetensors") for folder in (base, teacher, half.folder))
    name = sorted(mine)[0]
    assert mixed[name].allclose((mine[name] + theirs[name]) / 2)
    full = build_steps(base, tmp_path, {"step": "merge", "source": str(teacher), "weight": 1.0})
    assert load_file(full.folder / "model.safetensors")[name].allclose(theirs[name])


def test_models_of_different_shapes_cannot_be_merged(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    other = Path(shutil.copytree(base, tmp_path / "other"))
    config, weights = json.loads((other / "config.json").read_text()), load_file(other / "model.safetensors")
    (other / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - 1}))
    shorter = {name: t[:-1].clone() if len(t) == config["vocab_size"] else t for name, t in weights.items()}
    save_file(shorter, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BuildError, match="merge models of one shape"):
        build_steps(base, tmp_path / "s", {"step": "merge", "source": str(other), "weight": 0.5})
    with pytest.raises(ModelError, match="there is no such folder"):
        build_steps(base, tmp_path / "s", {"step": "merge", "source": str(tmp_path / "nowhere"), "weight": 0.5})
    with pytest.raises(RecipeError, match="weight"):
        recipe({"step": "merge", "source": "base", "weight": 1.5})


def test_a_source_folder_is_relative_to_the_recipe_and_recorded_by_its_digest(base: Path, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "teacher")
    (tmp_path / "r.yaml").write_text("steps:\n  - {step: merge, source: teacher, weight: 0.5}\n")
    loaded = load_recipe(tmp_path / "r.yaml")
    (step,) = loaded.channels()
    assert step.source == str(tmp_path / "teacher")
    portable = portable_form(loaded.canonical())["steps"][0]["source"]
    assert portable == {"folder": "teacher", "digest": checkpoint_digest(teacher)}
    assert meaning_of(loaded)[0]["source"] == portable


def test_the_bits_that_could_cross_are_counted(base: Path, teacher: Path) -> None:
    suite = load_suite("atlas")
    merged = channel_entry(Merge(step="merge", source=str(teacher), weight=0.5), base, suite, 24)
    assert merged["digest"] == checkpoint_digest(teacher) and merged["bits"] == 8 * (teacher / "model.safetensors").stat().st_size
    labelled = channel_entry(Distil(step="distil", source="base", steps=1, learning_rate=0.1), base, suite, 24)
    assert labelled["source"] == "base" and 0 < labelled["bits"] < merged["bits"] * 10
    own = channel_entry(Distil(step="distil", source="self", steps=1, learning_rate=0.1), base, suite, 24)
    assert own["digest"] == "" and own["bits"] == 0


def test_the_lineage_of_a_campaign_lists_its_channels(base: Path, teacher: Path, tmp_path: Path) -> None:
    path = write_project(tmp_path, base, name="taught", audit="", trial="{items: 5, max_pairs: 10, calibration: 3, confirm: 3}")
    for surplus in list((tmp_path / "ideas").glob("*.md"))[1:]:
        surplus.unlink()
    shutil.copytree(teacher, tmp_path / "teacher")
    (tmp_path / "stage0.yaml").write_text(
        "steps:\n  - {step: mix, parts: [{kinds: [trap], each: 10}]}\n"
        "  - {step: distil, source: teacher, steps: 2, batch_size: 4, learning_rate: 0.001}\n"
    )
    (tmp_path / "ideas" / next((tmp_path / "ideas").glob("*.md")).name).write_text(
        "---\ntitle: learn from myself\nproperty: privacy\nclaimed_effect: 0.1\nreason: because\npatch:\n"
        "  - {op: append, step: {step: distil, name: again, source: self, steps: 2, batch_size: 4, learning_rate: 0.001}}\n---\n"
    )
    result = Campaign(path, runs=tmp_path / "runs").run()
    lineage = trace_lineage([read_record(result.folder / "ledger.jsonl")], 0)
    assert (
        not lineage.only_ideas()
        and "teacher" in lineage.roots()
        and "Labels or weights of other models were used: data of teacher" in lineage.summary()
    )
    assert not result.decisions, "the project declares no channel for ideas, so its only idea is rejected"


def test_a_model_that_does_not_exist_is_reported_before_anything_is_built(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps: []\n")
    (tmp_path / "b.yaml").write_text("steps: [{step: merge, source: nowhere, weight: 0.5}]\n")
    with pytest.raises(ModelError, match=r"model 'nowhere': expected .* there is no such folder"):
        compare(tmp_path / "a.yaml", tmp_path / "b.yaml", property="privacy", model="pocket/16k", runs=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_folder_called_base_is_not_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``base`` and ``self`` are names of a recipe's own models, whatever the current folder has."""
    (tmp_path / "base").mkdir()
    (tmp_path / "self").mkdir()
    monkeypatch.chdir(tmp_path)
    steps = [{"step": "merge", "source": source, "weight": 0.5} for source in ("base", "self")]
    assert channel_digests(parse_recipe(steps, "test")) == {}
