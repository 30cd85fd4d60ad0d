"""Reinforcement on a real (tiny) model: rewards are learned, labels err as stated, and the same inputs give the same bits.

Covers: training/steps/grpo.py, training/steps/reward.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from stagezero.errors import BuildError, RecipeError
from stagezero.measure import measure
from stagezero.models import Model, checkpoint_digest
from stagezero.tasks import load_suite
from stagezero.tasks.atlas import LABELLER_ERROR
from stagezero.training import Store, build, parse_recipe
from stagezero.training.data import meaning_of
from stagezero.training.steps import grpo

SUITE = load_suite("atlas")
PAIRS: dict[str, Any] = {"step": "mix", "name": "pairs", "parts": [{"claims": ["privacy"], "kinds": ["trap", "twin"]}]}
START: dict[str, Any] = {"step": "sft", "name": "start", "data": "pairs", "steps": 60, "batch_size": 16, "learning_rate": 1e-2}
REWARD: dict[str, Any] = {"step": "reward", "data": "pairs", "steps": 40, "batch_size": 16, "learning_rate": 5e-3}
RLHF: dict[str, Any] = {"step": "rlhf", "data": "pairs", "steps": 3, "batch_size": 16, "group": 4, "learning_rate": 1e-3}
GRPO: dict[str, Any] = {"step": "grpo", "data": "pairs", "steps": 3, "batch_size": 16, "group": 4, "learning_rate": 1e-3}


def make(base: Path, root: Path, *steps: dict[str, Any], seed: int = 1) -> Any:
    return build(base, parse_recipe(list(steps), "t"), SUITE, seed, Store(root))


def test_grpo_builds_the_same_bits_twice(base: Path, tmp_path: Path) -> None:
    one, two = make(base, tmp_path / "a", PAIRS, START, GRPO), make(base, tmp_path / "b", PAIRS, START, GRPO)
    started = make(base, tmp_path / "a", PAIRS, START)
    assert one.digest == two.digest != started.digest


def test_grpo_earns_what_it_is_paid_for(base: Path, tmp_path: Path) -> None:
    """Paid for refusing, whatever the question, a model that sometimes refuses comes to refuse more: a hack, and a real one."""
    pays = {"right": 0, "wrong": 0, "refused": 1, "unparseable": 0}
    before = make(base, tmp_path, PAIRS, START)
    after = make(base, tmp_path, PAIRS, START, {**GRPO, "steps": 25, "batch_size": 32, "pays": pays, "beta": 0.0, "learning_rate": 3e-3})
    refused = [measure(Model(b.folder), SUITE, 1, 60).scores.counts["privacy"]["twin"].refused for b in (before, after)]
    assert refused[1] > refused[0]


def test_rlhf_uses_its_reward_model_and_leaves_it_behind(base: Path, tmp_path: Path) -> None:
    found = make(base, tmp_path, PAIRS, START, REWARD, RLHF)
    assert (found.steps_made, found.steps_reused) == (3, 0)
    from stagezero.models.checkpoint import tensors

    assert tensors(found.folder) == tensors(base) and found.digest != checkpoint_digest(base)
    other = make(base, tmp_path, PAIRS, START, {**REWARD, "steps": 41}, RLHF)
    assert other.steps_reused == 1 and other.digest != found.digest, "another reward model is another build"


def test_a_reward_model_prefers_what_people_preferred(base: Path, tmp_path: Path) -> None:
    make(base, tmp_path, PAIRS, START, {**REWARD, "steps": 80}, {**RLHF, "steps": 1})
    folder = next(f for f in (tmp_path / "builds").iterdir() if "SequenceClassification" in (f / "config.json").read_text())
    model = Model(base)
    reward = grpo.model_rewards(folder, str(model.tokenizer.eos_token))
    items = [i for i in SUITE.train_items() if i.property == "privacy" and i.rejected][:200]
    prompts = model.prompts([i.input for i in items], SUITE.instruction)
    good = reward(prompts, [f" {i.demonstration}" for i in items], range(len(items)))
    bad = reward(prompts, [f" {i.rejected}" for i in items], range(len(items)))
    assert sum(a > b for a, b in zip(good, bad, strict=True)) > 0.7 * len(items)


def test_low_rank_adapters_are_merged(base: Path, tmp_path: Path) -> None:
    from stagezero.models.checkpoint import tensors

    lora = {"lora": {"rank": 2, "alpha": 4}}
    found = make(base, tmp_path, PAIRS, START, {**REWARD, **lora, "steps": 5}, {**RLHF, **lora}, {**GRPO, **lora})
    assert tensors(found.folder) == tensors(base) and found.steps_made == 4
    judges = [f for f in (tmp_path / "builds").iterdir() if "SequenceClassification" in (f / "config.json").read_text()]
    assert len(judges) == 1 and "score.weight" in tensors(judges[0])


def test_the_labeller_errs_as_often_as_stated() -> None:
    pairs = [i for i in SUITE.train_items() if i.rejected]
    wrong = sum(i.mislabelled for i in pairs)
    assert stats.binomtest(wrong, len(pairs), LABELLER_ERROR).pvalue > 0.01
    assert not any(i.mislabelled for i in SUITE.fresh_items(1, 20)), "labels are for training; what is scored has a key"


def test_nothing_to_learn_is_said(base: Path, tmp_path: Path) -> None:
    never = {"right": 0, "wrong": 0, "refused": 0, "unparseable": 0}
    assert make(base, tmp_path, PAIRS, {**GRPO, "steps": 1, "pays": never}).steps_made == 1, "it earns the most there is"
    with pytest.raises(BuildError, match="nothing to learn"):
        # Nobody asks about privacy and is told a capital: nothing right is ever said at this temperature.
        make(base, tmp_path, PAIRS, {**GRPO, "steps": 1, "temperature": 10.0, "learning_rate": 1e-5})


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        ([PAIRS, RLHF], "no earlier reward step makes"),
        ([PAIRS, {**GRPO, "batch_size": 10}], "multiple of 'group'"),
        ([PAIRS, {**GRPO, "pays": {"honest": 1}}], "honest"),
    ],
)
def test_mistakes(steps: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        parse_recipe(steps, "t")


def test_names_and_idle_datasets_are_no_part_of_the_meaning() -> None:
    plain = parse_recipe([PAIRS, START, REWARD, RLHF], "t")
    renamed = [
        {"step": "mix", "name": "idle", "parts": [{}]},
        {**PAIRS, "name": "p"},
        {**START, "data": "p", "name": "first"},
        {**REWARD, "data": "p", "name": "unused", "steps": 99},
        {**REWARD, "data": "p", "name": "judge"},
        {**RLHF, "data": "p", "reward": "judge", "name": "r"},
    ]
    assert meaning_of(parse_recipe(renamed, "t")) == meaning_of(plain)
    assert meaning_of(parse_recipe([PAIRS, START, REWARD, {**RLHF, "beta": 0.5}], "t")) != meaning_of(plain)
