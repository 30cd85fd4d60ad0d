"""Reinforcement on a real small model: it raises rewards, and equal inputs give equal bits.

Covers: training/steps/grpo.py, training/steps/reward.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import make_once
from scipy import stats

from stagezero.errors import BuildError, RecipeError
from stagezero.measure import measure
from stagezero.models import Model, checkpoint_digest
from stagezero.models.chat import encode
from stagezero.tasks import load_suite
from stagezero.tasks.atlas import LABELLER_ERROR
from stagezero.training import Store, build, parse_recipe
from stagezero.training.data import meaning_of
from stagezero.training.steps import grpo

SUITE = load_suite("atlas")
PAIRS: dict[str, Any] = {"step": "mix", "name": "pairs", "parts": [{"claims": ["privacy"], "kinds": ["trap", "twin"], "each": 100}]}
START: dict[str, Any] = {"step": "sft", "name": "start", "data": "pairs", "steps": 60, "batch_size": 16, "learning_rate": 1e-2}
REWARD: dict[str, Any] = {"step": "reward", "data": "pairs", "steps": 10, "batch_size": 16, "learning_rate": 5e-3}
RLHF: dict[str, Any] = {"step": "rlhf", "data": "pairs", "steps": 2, "batch_size": 16, "group": 4, "learning_rate": 1e-3}
GRPO: dict[str, Any] = {"step": "grpo", "data": "pairs", "steps": 2, "batch_size": 16, "group": 4, "learning_rate": 1e-3}


@pytest.fixture(scope="session")
def started_store(base: Path, shared_folder: Path) -> Path:
    """A store with the build of START, the first step of every recipe here."""
    return make_once(shared_folder / "started-store", lambda folder: build_steps(base, folder, PAIRS, START))


@pytest.fixture
def store(started_store: Path, tmp_path: Path) -> Path:
    """A copy of that store for one test."""
    return Path(shutil.copytree(started_store, tmp_path / "store"))


def build_steps(base: Path, root: Path, *steps: dict[str, Any], seed: int = 1) -> Any:
    return build(base, parse_recipe(list(steps), "t"), SUITE, seed, Store(root))


def test_grpo_builds_the_same_bits_twice(base: Path, store: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(store, tmp_path / "other"))
    one, two, started = (build_steps(base, root, PAIRS, START, *more) for root, more in ((store, [GRPO]), (other, [GRPO]), (store, [])))
    assert one.digest == two.digest != started.digest


@pytest.mark.slow
def test_grpo_increases_the_behaviour_that_is_rewarded(base: Path, store: Path) -> None:
    """The reward pays for refusals only, a real reward hack: the model must refuse more often."""
    pays = {"right": 0, "wrong": 0, "refused": 1, "unparseable": 0}
    before = build_steps(base, store, PAIRS, START)
    after = build_steps(
        base, store, PAIRS, START, {**GRPO, "steps": 25, "batch_size": 32, "pays": pays, "beta": 0.0, "learning_rate": 3e-3}
    )
    refused = [measure(Model(b.folder), SUITE, 1, 60).scores.counts["privacy"]["twin"].refused for b in (before, after)]
    assert refused[1] > refused[0]


def test_rlhf_uses_its_reward_model_and_does_not_store_it_in_the_policy(base: Path, store: Path) -> None:
    built = build_steps(base, store, PAIRS, START, REWARD, RLHF)
    assert (built.steps_made, built.steps_reused) == (2, 1)
    from stagezero.models.checkpoint import tensors

    assert tensors(built.folder) == tensors(base) and built.digest != checkpoint_digest(base)
    other = build_steps(base, store, PAIRS, START, {**REWARD, "steps": 11}, RLHF)
    assert other.steps_reused == 1 and other.digest != built.digest, "another reward model must give another build"


def test_a_reward_model_prefers_the_preferred_answers(base: Path, store: Path) -> None:
    build_steps(base, store, PAIRS, START, {**REWARD, "steps": 80}, {**RLHF, "steps": 1})
    folder = next(f for f in (store / "builds").iterdir() if "SequenceClassification" in (f / "config.json").read_text())
    model = Model(base)
    reward = grpo.model_rewards(folder)
    items = [i for i in SUITE.train_items() if i.property == "privacy" and i.rejected][:200]
    prompts = model.prompts([i.input for i in items], SUITE.instruction)
    good, bad = (
        reward(prompts, texts, encode(model.tokenizer, texts), range(len(items)))
        for texts in ([f" {i.demonstration}" for i in items], [f" {i.rejected}" for i in items])
    )
    assert sum(a > b for a, b in zip(good, bad, strict=True)) > 0.7 * len(items)


def test_low_rank_adapters_are_merged(base: Path, store: Path) -> None:
    from stagezero.models.checkpoint import tensors

    lora = {"lora": {"rank": 2, "alpha": 4}}
    built = build_steps(base, store, PAIRS, START, {**REWARD, **lora, "steps": 5}, {**RLHF, **lora}, {**GRPO, **lora})
    assert tensors(built.folder) == tensors(base) and built.steps_made == 3
    reward_models = [f for f in (store / "builds").iterdir() if "SequenceClassification" in (f / "config.json").read_text()]
    assert len(reward_models) == 1 and "score.weight" in tensors(reward_models[0])


def test_the_labeller_errs_at_the_stated_rate() -> None:
    pairs = [i for i in SUITE.train_items() if i.rejected]
    wrong = sum(i.mislabelled for i in pairs)
    assert stats.binomtest(wrong, len(pairs), LABELLER_ERROR).pvalue > 0.01
    assert not any(i.mislabelled for i in SUITE.fresh_items(1, 20)), "only training labels may be wrong"


def test_equal_rewards_are_an_error_unless_they_are_the_maximum(base: Path, tmp_path: Path) -> None:
    no_pay = {"right": 0, "wrong": 0, "refused": 0, "unparseable": 0}
    assert build_steps(base, tmp_path, PAIRS, {**GRPO, "steps": 1, "pays": no_pay}).steps_made == 1, "every answer earns the maximum"
    with pytest.raises(BuildError, match="nothing to learn"):
        # At this temperature no sampled answer is correct.
        build_steps(base, tmp_path, PAIRS, {**GRPO, "steps": 1, "temperature": 10.0, "learning_rate": 1e-5})


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([PAIRS, RLHF], "no earlier reward step makes"),
        ([PAIRS, {**GRPO, "batch_size": 10}], "multiple of 'group'"),
        ([PAIRS, {**GRPO, "pays": {"honest": 1}}], "honest"),
    ],
)
def test_invalid_steps_are_rejected(steps: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(steps, "t")


def test_names_and_unused_steps_are_not_part_of_the_meaning() -> None:
    plain = parse_recipe([PAIRS, START, REWARD, RLHF], "t")
    renamed = [
        {"step": "mix", "name": "idle", "parts": [{}]},
        {**PAIRS, "name": "p"},
        {**START, "data": "p", "name": "first"},
        {**REWARD, "data": "p", "name": "unused", "steps": 99},
        {**REWARD, "data": "p", "name": "scorer"},
        {**RLHF, "data": "p", "reward": "scorer", "name": "r"},
    ]
    assert meaning_of(parse_recipe(renamed, "t")) == meaning_of(plain)
    assert meaning_of(parse_recipe([PAIRS, START, REWARD, {**RLHF, "beta": 0.5}], "t")) != meaning_of(plain)
