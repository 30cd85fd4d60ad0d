"""Answers and log-probabilities do not depend on the other prompts of a batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from stagezero.models import Model
from stagezero.models.generation import greedy, log_probabilities
from stagezero.tasks.atlas import Atlas


@pytest.fixture(scope="module")
def model(base: Path) -> Model:
    return Model(base)


@pytest.fixture(scope="module")
def questions() -> list[str]:
    items = Atlas(graded=True).fresh_items(0, 4)
    return ["Hi?", *(item.input for item in items), "One more: " * 8 + items[0].input]


def test_batching_changes_no_answer(model: Model, questions: list[str]) -> None:
    alone = [model.answer([q])[0] for q in questions]
    assert len({len(q) for q in questions}) > 10, "the test needs mixed lengths"
    for size in (2, 7, 64):
        assert model.answer(questions, batch_size=size) == alone
    assert model.answer(list(reversed(questions)), batch_size=5) == list(reversed(alone))


def test_greedy_answers_agree_with_transformers(model: Model, questions: list[str]) -> None:
    tokenizer, network = model.tokenizer, model.network
    for prompt in model.prompts(questions)[::5]:
        tokens = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            out = network.generate(  # type: ignore[operator]
                input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, max_new_tokens=12, do_sample=False, pad_token_id=0
            )
        expected = str(tokenizer.decode(out[0][tokens.input_ids.shape[1] :], skip_special_tokens=True)).strip()
        assert greedy(network, tokenizer, [prompt], 12) == [expected]


def test_log_probabilities_are_correct_and_independent_of_the_batch(model: Model, questions: list[str]) -> None:
    prompts = model.prompts(questions)
    pairs = [(p, f" answer{'s' * (i % 4)}<eos>") for i, p in enumerate(prompts)]
    together = log_probabilities(model.network, model.tokenizer, pairs, batch_size=9)
    for i in range(0, len(pairs), 4):
        assert together[i] == pytest.approx(log_probabilities(model.network, model.tokenizer, [pairs[i]])[0], abs=1e-4)
    prompt, completion = pairs[3]
    head, tail = (model.tokenizer(t, add_special_tokens=False).input_ids for t in (prompt, completion))
    with torch.inference_mode():
        logits = model.network(input_ids=torch.tensor([head + tail])).logits[0].log_softmax(-1)
    expected = sum(float(logits[len(head) - 1 + i, token]) for i, token in enumerate(tail))
    assert together[3] == pytest.approx(expected, abs=1e-4)


def test_an_empty_batch_gives_no_answers(model: Model) -> None:
    assert model.answer([]) == [] and model.log_probabilities([]) == []


def test_a_rendered_completion_ends_with_the_end_token(model: Model) -> None:
    from stagezero.models.chat import render_completion, render_prompt

    assert render_prompt(model.tokenizer, "Why?") == "Q: Why?\nA:"
    assert render_completion(model.tokenizer, "Why?", "Because.") == " Because.<eos>"


def test_denormal_numbers_are_zero_only_within_the_block() -> None:
    from stagezero.models.loader import denormals_as_zero

    with denormals_as_zero():
        assert float(torch.tensor([1e-38]) * 0.5) == 0
    assert float(torch.tensor([1e-38]) * 0.5) > 0
