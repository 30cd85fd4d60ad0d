"""The recipe language: all its sentences are valid ideas, drawn with equal chances by the baseline.

A model can generate no other text.

Covers: researchers/self_model.py, researchers/uniform.py.
"""

from __future__ import annotations

import gc
import math
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest
from transformers import PreTrainedModel

from stagezero import examples
from stagezero.ideas.airlock import Refusal, admit
from stagezero.ideas.brief import Brief, Outcome, OwnModel
from stagezero.ideas.idea import Idea, parse_idea
from stagezero.models import Model, materialise
from stagezero.models.constrained import Choice, Chosen, Generated, Uniform, generate_text
from stagezero.researchers.grammar import MAX_DRAWS_PER_IDEA, SentenceMeaning, propose, sentence_grammar
from stagezero.researchers.self_model import SelfModelResearcher, prompt_for, question
from stagezero.researchers.uniform import UniformResearcher
from stagezero.tasks import Suite, load_suite
from stagezero.training import Recipe, apply_patch, load_recipe, parse_patch, parse_recipe
from stagezero.training.data import meaning_of
from stagezero.training.recipes import DPO, SFT

SHIPPED = Path(str(examples.project_folder())).parent
UNLIKELY = 1e-6
CROWDED = """
- step: mix
  name: sft
  parts: [{claims: [injection], kinds: [trap]}, {claims: [facts], kinds: [capability], each: 40}, {kinds: [trap, twin], each: 30}]
- {step: filter, data: sft, name: short/ones, max_words: 16}
- {step: sft, name: first, data: short/ones, steps: 3, learning_rate: 0.9, lora: {rank: 4}, schedule: cosine, weight_decay: 0.1}
- {step: mix, name: extra, parts: [{claims: [privacy], kinds: [trap, twin], each: 20}]}
- {step: dpo, data: extra, steps: 30, batch_size: 8, learning_rate: 0.00001}
- {step: sft, name: dpo, data: sft, steps: 100000, learning_rate: 1, warmup: 5}
"""


@pytest.fixture(scope="module")
def controls() -> dict[str, Recipe]:
    import yaml

    return {
        "first": load_recipe(SHIPPED / "first" / "stage0.yaml"),
        "rlhf": load_recipe(SHIPPED / "rlhf" / "stage0.yaml"),
        "crowded": parse_recipe(yaml.safe_load(CROWDED), "crowded"),
        "small": parse_recipe([{"step": "mix", "parts": [{"each": 5}]}, {"step": "sft", "steps": 1, "learning_rate": 1}], "small"),
        "empty": Recipe(),
    }


@pytest.fixture(scope="module")
def suite() -> Suite:
    """The atlas, which draws the same open items once."""
    loaded = load_suite("atlas")
    loaded.fresh_items = lru_cache(loaded.fresh_items)  # type: ignore[method-assign]
    return loaded


def brief_of(control: Recipe, stage: int = 1, history: Sequence[Outcome] = (), own: OwnModel | None = None) -> Brief:
    suite = load_suite("atlas")
    trainable = tuple(sorted({item.property for item in suite.train_items()}))
    scores = {name: 0.3 + 0.1 * i for i, name in enumerate((*suite.properties, *suite.capabilities))}
    return Brief(stage, control, suite.properties, suite.capabilities, trainable, scores, tuple(history), own=own)


class PathChooser:
    """A chooser that takes the options of a path, and then always the first option."""

    def __init__(self, path: Sequence[int]) -> None:
        self.remaining = list(path)

    def generate(self, text: str) -> None: ...

    def choose(self, choice: Choice) -> Chosen:
        return Chosen(choice, self.remaining.pop(0) if self.remaining else 0, 0.0)


def all_sentences(brief: Brief, limit: int = 100_000) -> Iterator[Generated[SentenceMeaning]]:
    """Yield every sentence with one change for the first property.

    They contain every choice, because a second change has the same choices as the first.
    """
    path: list[int] | None = []
    for _ in range(limit):
        if path is None:
            return
        sentence = generate_text(sentence_grammar(brief), PathChooser(path))
        yield sentence
        indices = [(c.index, len(c.choice.options) if c.choice.name not in ("property", "more") else 1) for c in sentence.chosen]
        while indices and indices[-1][0] + 1 >= indices[-1][1]:
            indices.pop()
        path = [*(index for index, _ in indices[:-1]), indices[-1][0] + 1] if indices else None


# --- the language ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["first", "rlhf", "crowded", "small", "empty"])
def test_every_sentence_is_one_patch_that_applies_and_changes_the_recipe(controls: dict[str, Recipe], name: str) -> None:
    brief = brief_of(controls[name])
    texts, patches = set(), set()
    before = meaning_of(brief.control)
    for sentence in all_sentences(brief):
        candidate = apply_patch(brief.control, parse_patch(sentence.value.patch, "test"), "test")
        assert meaning_of(candidate) != before, sentence.text
        texts.add(sentence.text)
        patches.add(repr(sentence.value.patch))
        assert sentence.bits == pytest.approx(sum(math.log2(len(c.choice.options)) for c in sentence.chosen))
    assert len(texts) == len(patches) > 300, "every text must have its own patch"


def test_the_text_of_a_sentence_describes_its_patch(controls: dict[str, Recipe]) -> None:
    patches = {s.text.removeprefix("Improve abstention: "): s.value.patch for s in all_sentences(brief_of(controls["crowded"]))}
    both = {"kinds": ["trap", "twin"], "each": 30}
    expected = {
        "practise more traps and twins of privacy, 100 each.": [
            {"op": "extend", "at": "mix", "parts": [{"claims": ["privacy"], "kinds": ["trap", "twin"], "each": 100}]}
        ],
        "practise more capability questions of all claims, 20 each.": [
            {"op": "extend", "at": "mix", "parts": [{"kinds": ["capability"], "each": 20}]}
        ],
        "leave out capability questions of facts, 40 each.": [
            {"op": "set", "at": "mix", "values": {"parts": [{"claims": ["injection"], "kinds": ["trap"]}, both]}}
        ],
        "run the sft/2 step at 0.45 rate.": [{"op": "set", "at": "sft/2", "values": {"learning_rate": 0.45}}],
        "run the dpo step at 0.000005 rate.": [{"op": "set", "at": "dpo", "values": {"learning_rate": 5e-06}}],
        "run the sft/3 step on a constant schedule.": [{"op": "set", "at": "sft/3", "values": {"schedule": "constant"}}],
        "drop questions over 14 words.": [
            {"op": "insert", "before": "sft/2", "step": {"step": "filter", "data": "short/ones", "name": "short/ones", "max_words": 14}}
        ],
        "then practise twins of injection, 50 each by dpo for 40 steps at 0.27 rate.": [
            {
                "op": "append",
                "step": {"step": "mix", "name": "extra-2", "parts": [{"claims": ["injection"], "kinds": ["twin"], "each": 50}]},
            },
            {"op": "append", "step": {"step": "dpo", "data": "extra-2", "steps": 40, "learning_rate": 0.27, "lora": {"rank": 4}}},
        ],
    }
    for text, patch in expected.items():
        assert [dict(op) for op in patches[text]] == patch
    # sft/1 is the mix with the name sft, and sft/2 is the step with the name first. A dpo step and
    # an sft step with the name dpo have different addresses.
    candidate = apply_patch(controls["crowded"], parse_patch(patches["run the sft/2 step at 0.45 rate."], "test"), "test")
    step = candidate.steps[2]
    assert isinstance(step, SFT) and step.name == "first" and step.learning_rate == 0.45
    candidate = apply_patch(controls["crowded"], parse_patch(patches["run the dpo step at 0.000005 rate."], "test"), "test")
    assert isinstance(candidate.steps[4], DPO) and candidate.steps[4].learning_rate == 5e-06
    assert not any("capability" in text and "by dpo" in text for text in patches), "a preference needs a tempting answer"
    assert {"leave out traps of injection, all of them.", "leave out traps and twins of all claims, 30 each."} <= patches.keys()


def test_no_field_is_changed_twice_and_no_idea_contradicts_itself(controls: dict[str, Recipe]) -> None:
    brief, counts = brief_of(controls["rlhf"]), Counter[int]()
    for seed in range(1500):
        sentence = generate_text(sentence_grammar(brief), Uniform(seed))
        changes = sentence.text.split(": ", 1)[1].split("; ")
        counts[len(changes)] += 1
        if len(changes) == 2:
            one, two = (c.split(" ") for c in changes)
            assert not (one[:5] == two[:5] and one[0] == "run"), sentence.text
            assert {one[0], two[0]} != {"practise", "leave"} and [one[0], two[0]] != ["drop", "drop"]
            for change in (one, two):
                assert change[:2] != ["run", "the"] or change[2] in ("sft", "reward", "rlhf")
    assert set(counts) == {1, 2} and min(counts.values()) > 500


def test_without_training_items_or_steps_there_is_no_idea(controls: dict[str, Recipe]) -> None:
    bare = replace(brief_of(controls["empty"]), trainable=())
    assert UniformResearcher(5, 0).propose(bare) == []
    numbers = UniformResearcher(5, 0).propose(replace(brief_of(controls["first"]), trainable=()))
    assert len(numbers) == 5 and all(op["op"] in ("set", "insert") for idea in numbers for op in idea.patch)
    full = parse_recipe([{"step": "mix", "parts": [{}] * 64}, *[{"step": "sft", "steps": 9, "learning_rate": 0.1}] * 63], "full")
    assert len(UniformResearcher(5, 0).propose(brief_of(full))) == 5


# --- the baseline ---------------------------------------------------------------------------------


def test_a_hundred_ideas_are_parsed_applied_and_admitted(controls: dict[str, Recipe], suite: Suite) -> None:
    for control in controls.values():
        ideas = UniformResearcher(24, 7).propose(brief_of(control))
        assert len(ideas) == 24 == len({i.digest() for i in ideas}) == len({i.title for i in ideas})
        for idea in ideas:
            front = idea.model_dump_json(include={"title", "property", "claimed_effect", "reason", "patch"})
            assert parse_idea(f"---\n{front}\n---\n", "test", "uniform") == idea
            assert idea.researcher == "uniform" and idea.title.startswith("uniform: ") and idea.claimed_effect == 0.05
        for start in range(0, 24, 12):  # in batches, because each idea is compared with all others of its batch
            admitted, refused = admit(ideas[start : start + 12], control, suite, 0.0)
            # Only the suite determines whether a filter removes any item.
            assert {r.code for r in refused} <= {Refusal.CHANGES_NOTHING, Refusal.DUPLICATE}
            assert len(admitted) >= 9


def biased_options(sentences: Sequence[Generated[SentenceMeaning]]) -> list[str]:
    """Return the options drawn too often or too rarely for equal chances."""
    counts: dict[Choice, Counter[int]] = defaultdict(Counter)
    for sentence in sentences:
        for chosen in sentence.chosen:
            counts[chosen.choice][chosen.index] += 1
    return [
        f"{choice.name}: {option}"
        for choice, drawn in counts.items()
        for i, option in enumerate(choice.options)
        if binomtest(drawn[i], drawn.total(), 1 / len(choice.options)).pvalue < UNLIKELY
    ]


class BiasedChooser(Uniform):
    """A chooser that slightly prefers first options."""

    def choose(self, choice: Choice) -> Chosen:
        one, other = super().choose(choice), super().choose(choice)
        return min(one, other, key=lambda c: c.index) if one.index + other.index == 1 else one


@pytest.mark.parametrize("name", ["first", pytest.param("crowded", marks=pytest.mark.slow)])
def test_uniform_reaches_every_choice_with_equal_chances(controls: dict[str, Recipe], name: str) -> None:
    brief = brief_of(controls[name])
    sentences = [generate_text(sentence_grammar(brief), Uniform(seed)) for seed in range(2000)]
    reached = {(c.choice.name, option) for s in sentences for c in s.chosen for option in [c.option]}
    possible = {(c.choice.name, option) for s in all_sentences(brief) for c in s.chosen for option in c.choice.options}
    assert possible <= reached
    assert biased_options(sentences) == []
    biased = [generate_text(sentence_grammar(brief), BiasedChooser(seed)) for seed in range(2000)]
    assert biased_options(biased), "the test must detect a bias"


def test_uniform_depends_only_on_its_settings_and_the_brief(controls: dict[str, Recipe]) -> None:
    researcher = UniformResearcher(8, 3)
    assert researcher.repeatable and researcher.ideas_on_file == () and researcher.name == "uniform"
    ideas = researcher.propose(brief_of(controls["first"]))
    assert UniformResearcher(8, 3).propose(brief_of(controls["first"])) == ideas
    for other in (UniformResearcher(8, 4).propose(brief_of(controls["first"])), researcher.propose(brief_of(controls["first"], stage=2))):
        assert other != ideas


def test_tested_ideas_are_not_proposed_again(controls: dict[str, Recipe]) -> None:
    control = controls["first"]
    ideas = UniformResearcher(30, 1).propose(brief_of(control))
    stale = Idea(title="gone", property="privacy", claimed_effect=0.1, reason="of an older recipe", patch=({"op": "remove", "at": "grpo"},))
    backwards = [idea.model_copy(update={"patch": idea.patch[::-1], "title": "the other way"}) for idea in ideas]
    fits = [i for i in backwards if not any(op["op"] == "append" for op in i.patch)]
    history = [Outcome(1, idea, "undecided", 10, 0.0, 0.0) for idea in (stale, *fits)]
    proposed = UniformResearcher(30, 1).propose(brief_of(control, history=history))
    tested_meanings = {(i.property, repr(meaning_of(apply_patch(control, i.operations(), "test")))) for i in fits}
    new_meanings = {(i.property, repr(meaning_of(apply_patch(control, i.operations(), "test")))) for i in proposed}
    assert len(new_meanings) == 30 and new_meanings.isdisjoint(tested_meanings) and len(fits) > 10


def test_a_chooser_with_constant_answers_proposes_one_idea(controls: dict[str, Recipe]) -> None:
    draws: list[tuple[int, int]] = []

    def chooser(i: int, attempt: int) -> PathChooser:
        draws.append((i, attempt))
        return PathChooser([])

    (only,) = propose(brief_of(controls["first"]), "stubborn", 3, chooser)
    assert len(draws) == 1 + 2 * MAX_DRAWS_PER_IDEA and len(set(draws)) == len(draws)
    assert only.title == "stubborn: practise more traps of abstention, 20 each, for abstention"
    assert f"in {math.log2(4 * 4 * 4 * 5 * 4 * 2):.1f} bits" in only.reason


# --- the stage's own model ------------------------------------------------------------------------


def count_networks() -> int:
    gc.collect()
    return sum(isinstance(value, PreTrainedModel) for value in gc.get_objects())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_a_models_ideas_always_apply(base: Path, controls: dict[str, Recipe], suite: Suite, temperature: float) -> None:
    own = OwnModel(4, base, "sha256:abc", passed=True)
    for name in ("first", "crowded", "empty"):
        ideas = SelfModelResearcher(3, 0, temperature).propose(brief_of(controls[name], own=own))
        assert 1 <= len(ideas) <= 3 and len({i.digest() for i in ideas}) == len(ideas)
        assert all(i.researcher == "self" and i.author == "stage 4 (sha256:abc)" for i in ideas)
        assert not [r for r in admit(ideas, controls[name], suite, 0.0)[1] if r.code is Refusal.DOES_NOT_FIT]


def test_a_model_is_unloaded_after_its_proposals(base: Path, controls: dict[str, Recipe]) -> None:
    brief = brief_of(controls["first"], own=OwnModel(0, base, "sha256:abc", passed=False))
    researcher = SelfModelResearcher(2, 5, 2.0)
    assert not researcher.repeatable and researcher.name == "self" and researcher.ideas_on_file == ()
    threads, before = torch.get_num_threads(), count_networks()
    torch.set_num_threads(2)
    try:
        ideas = researcher.propose(brief)
        assert torch.get_num_threads() == 2 and count_networks() == before
    finally:
        torch.set_num_threads(threads)
    assert ideas and researcher.propose(brief) == ideas
    assert SelfModelResearcher(2, 6, 2.0).propose(brief) != ideas
    assert researcher.propose(replace(brief, own=None)) == []


def test_the_question_is_short_and_lists_the_weakest_property_first(base: Path, controls: dict[str, Recipe]) -> None:
    brief = replace(brief_of(controls["first"]), scores={"alignment": 0.1, "privacy": 0.52, "abstention": 0.314, "facts": 0.2})
    assert question(brief) == "What should this model practise next? Scores: abstention 0.31, privacy 0.52."
    assert prompt_for(Model(base), brief) == f"Q: {question(brief)}\nA: "


def test_importing_the_researchers_does_not_import_torch() -> None:
    code = "import sys, stagezero.researchers.self_model, stagezero.researchers.uniform; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_a_real_llm_proposes(home: Path, controls: dict[str, Recipe]) -> None:
    """SmolLM2 with 135M parameters on a CPU takes some seconds per idea."""
    own = OwnModel(0, materialise("package/smollm2-135m-q4"), "sha256:abc", passed=True)
    for name in ("first", "rlhf"):
        start = time.monotonic()
        ideas = SelfModelResearcher(4, 0, 1.0).propose(brief_of(controls[name], own=own))
        print(f"{name}: {len(ideas)} ideas in {time.monotonic() - start:.1f} s", *(i.title for i in ideas), sep="\n  ")
        assert len(ideas) == 4
        assert not [r for r in admit(ideas, controls[name], load_suite("atlas"), 0.0)[1] if r.code is Refusal.DOES_NOT_FIT]
