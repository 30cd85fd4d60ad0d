"""Training and evaluation see the same token ids for the same conversation, in every family."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizer_families import FAMILIES, make_checkpoint

from stagezero.isolation import runner
from stagezero.models import Model, generation
from stagezero.models.chat import TEMPLATE_DATE, answer_end, encode, encode_answers, load_tokenizer, render_completion, render_prompt
from stagezero.models.loader import configure_libraries
from stagezero.tasks import Item
from stagezero.training.build import render_examples
from stagezero.training.recipes import Recipe, parse_recipe
from stagezero.training.reference import network as second_network
from stagezero.training.reference import reinforce, train_step
from stagezero.training.steps import common, distil, dpo, grpo, reward, sft

INSTRUCTION = "Answer in one word."
ITEMS = [
    Item("t", "What is the capital of France?", "Paris", "trap", "facts", rejected="Lyon"),
    Item("u", "Who wrote this?", "", "twin", "facts", answer="I do not know.", rejected="12, 345"),
]
SETTINGS = {"steps": 1, "learning_rate": 1e-4, "batch_size": 2}


@pytest.fixture(scope="module", params=list(FAMILIES))
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    configure_libraries()
    return request.param, make_checkpoint(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[int]]]:
    """Collect the rows of tokens, without padding, that networks receive."""
    rows: list[list[int]] = []

    def record(_: object, __: object, arguments: dict[str, Any]) -> None:
        ids = arguments["input_ids"]
        mask = arguments.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask
        if ids.shape == mask.shape and ids.shape[1] > 1:  # otherwise one new token of an answer
            rows.extend(row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True))

    def recorded(load: Any) -> Any:
        def load_recorded(*arguments: Any, **options: Any) -> Any:
            model = load(*arguments, **options)
            model.register_forward_pre_hook(record, with_kwargs=True)
            return model

        return load_recorded

    import stagezero.models.network as networks

    for name in ("load_network", "load_reward_network"):
        function = recorded(getattr(networks, name))
        for module in (networks, common, second_network):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, function)
    yield rows


def steps(*values: dict[str, Any]) -> Recipe:
    return parse_recipe([{"step": "mix", "parts": [{}]}, *({**SETTINGS, **value} for value in values)], "test")


def test_every_step_sees_the_ids_of_evaluation(
    checkpoint: tuple[str, Path], received: list[list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, folder = checkpoint
    family, tokenizer = FAMILIES[name], load_tokenizer(folder)
    asked: list[list[int]] = []
    real = generation._greedy_batch
    monkeypatch.setattr(generation, "_greedy_batch", lambda m, rows, *a: asked.extend(map(list, rows)) or real(m, rows, *a))  # type: ignore[func-returns-value]
    Model(folder).answer([item.input for item in ITEMS], INSTRUCTION, max_new_tokens=2)
    prompts = encode(tokenizer, [render_prompt(tokenizer, item.input, INSTRUCTION) for item in ITEMS])
    assert sorted(asked) == sorted(prompts)
    start = tokenizer.bos_token_id
    for row in prompts:
        first = family.adds_start and (family.template is None or "bos_token" in family.template)
        assert (row[0] == start) == (first or name == "smollm")  # SmolLM begins each turn with that token
        if name not in ("smollm", "gpt-2"):
            assert row.count(start) == int(first)

    examples = render_examples(ITEMS, tokenizer, INSTRUCTION)
    texts = [(e["prompt"], e["completion"], str(e["rejected"])) for e in examples]
    right, wrong = (
        [h + t for h, t in zip(*encode_answers(tokenizer, [t[0] for t in texts], [t[i] for t in texts]), strict=True)] for i in (1, 2)
    )
    assert all(row[: len(prompt)] == prompt for rows in (right, wrong) for row, prompt in zip(rows, prompts, strict=True))
    assert all(row[-1] in generation.stop_tokens(Model(folder).network, tokenizer) for row in right)

    def rows_of(make: Any) -> list[list[int]]:
        received.clear()
        make()
        return sorted([list(row) for row in {tuple(row) for row in received}])

    _, train_sft = steps({"step": "sft"}).steps
    _, train_dpo = steps({"step": "dpo"}).steps
    _, train_reward = steps({"step": "reward"}).steps
    _, train_grpo = steps({"step": "grpo", "group": 2, "length": 2, "beta": 0.0}).steps
    reward_model = tmp_path / "reward"
    assert rows_of(lambda: sft.train(folder, tmp_path / "sft", train_sft, examples, 1)) == sorted(right)  # type: ignore[arg-type]
    assert rows_of(lambda: dpo.train(folder, tmp_path / "dpo", train_dpo, examples, 1)) == sorted(right + wrong)  # type: ignore[arg-type]
    assert rows_of(lambda: reward.train(folder, reward_model, train_reward, examples, ITEMS, 1)) == sorted(right + wrong)  # type: ignore[arg-type]

    def with_prompts(rows: list[list[int]]) -> bool:
        """Return whether every row is a prompt, or a prompt with an answer."""
        return bool(rows) and all(any(row[: len(prompt)] == prompt for prompt in prompts) for row in rows)

    pays = iter(range(10**6))
    by_turn = lambda _, answers, __, ___: [float(next(pays)) for _ in answers]  # noqa: E731  (rewards that differ)
    assert with_prompts(rows_of(lambda: grpo.train(folder, tmp_path / "grpo", train_grpo, examples, by_turn, 1)))  # type: ignore[arg-type]
    # A model stops at the first stop token of the template's end, or at the limit.
    stops, end = generation.stop_tokens(Model(folder).network, tokenizer), answer_end(tokenizer)
    tails = [row[len(p) :] for row, p in zip(right, prompts, strict=True)]
    first_stop = next(i for i, token in enumerate(end) if token in stops)
    for model_rewards, present in itertools.product(
        (grpo.model_rewards(reward_model), reinforce.model_rewards(reward_model)), (len(end), first_stop + 1, 0)
    ):
        sampled = [tail[: len(tail) - len(end) + present] for tail in tails]
        assert rows_of(lambda r=model_rewards, s=sampled: r([t[0] for t in texts], ["", ""], s, [0, 1])) == sorted(right)
    for step in (train_sft, train_dpo, train_reward):
        expected = sorted(right) if step is train_sft else sorted(right + wrong)
        assert rows_of(lambda step=step: train_step(step, folder, tmp_path / "second", ITEMS, examples, None, 1)) == expected
    assert with_prompts(rows_of(lambda: reinforce.train(folder, tmp_path / "second-grpo", train_grpo, examples, by_turn, 1)))  # type: ignore[arg-type]
    labelled = distil.label_examples(folder, folder, ITEMS, examples, INSTRUCTION, 24)  # sft trains on these
    assert all(example["prompt"] in (texts[0][0], texts[1][0]) for example in labelled)

    # code steps
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "model").symlink_to(folder)
    monkeypatch.setattr(runner, "INPUTS", tmp_path / "in")
    batch = runner.Context(1).batch([dict(e) for e in examples])
    assert [row[kept.bool()].tolist() for row, kept in zip(batch["input_ids"], batch["attention_mask"], strict=True)] == right
    assert torch.equal(batch["labels"] >= 0, (batch["attention_mask"] > 0) & (batch["labels"] != -100))
    # a command's data is text: its special tokens are in the text already
    plain = [row for row, (p, c, _) in zip(right, texts, strict=True) if encode(tokenizer, [p + c]) == [row]]
    assert plain == right


def test_a_template_cannot_see_the_day_or_draw_at_random(tmp_path: Path) -> None:
    import random

    folder = make_checkpoint("llama 3", tmp_path / "clock")
    tokenizer = load_tokenizer(folder)
    assert f"Today: {TEMPLATE_DATE:%d %b %Y}" in render_prompt(tokenizer, "Why?")
    clock = "%H:%M %R %j %U %V %G %k %P %f"
    (folder / "chat_template.jinja").write_text("{{ strftime_now('" + clock + "') }}{% for m in messages %} {{ m.content }}{% endfor %}")
    assert render_prompt(load_tokenizer(folder), "Why?").startswith(TEMPLATE_DATE.strftime(clock) + " Why?")
    (folder / "chat_template.jinja").write_text(
        "{{ range(10**5) | random }}{{ lipsum(1) }}{% for m in messages %} {{ m.content }}{% endfor %}"
    )
    tokenizer = load_tokenizer(folder)
    random.seed(5)
    state = random.getstate()
    assert render_prompt(tokenizer, "Why?") == render_prompt(tokenizer, "Why?")
    assert random.getstate() == state


@pytest.mark.parametrize("name", ["gemma", "mistral"])
def test_without_a_system_role_the_instruction_begins_the_question(name: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(make_checkpoint(name, tmp_path / "model"))
    prompt = render_prompt(tokenizer, "Why?", INSTRUCTION)
    assert f"{INSTRUCTION}\n\nWhy?" in prompt and prompt == render_prompt(tokenizer, f"{INSTRUCTION}\n\nWhy?")
    assert render_completion(tokenizer, "Why?", "So.", INSTRUCTION).strip().startswith("So.")
