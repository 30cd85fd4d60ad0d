"""Answers and log-probabilities do not depend on the other prompts of a batch.

Covers: models/generation_check.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from stagezero.errors import ModelError, NonFiniteScoresError
from stagezero.models import Model
from stagezero.models.chat import load_tokenizer
from stagezero.models.generation import greedy, log_probabilities
from stagezero.models.network import context_length
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


@pytest.mark.parametrize("kind", ["Mamba", "Bert", "Rwkv"])
def test_an_architecture_whose_answers_would_be_wrong_is_rejected(kind: str, base: Path, tmp_path: Path) -> None:
    """They ignore the cache, or see later tokens: each was measured, with answers not its own."""
    tokenizer = load_tokenizer(base)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_hidden_layers": 2, "initializer_range": 0.5}
    library: Any = transformers
    config = {
        "Mamba": lambda: library.MambaConfig(**sizes, state_size=4),
        "Bert": lambda: library.BertConfig(**sizes, num_attention_heads=2, intermediate_size=16, is_decoder=False),
        "Rwkv": lambda: library.RwkvConfig(**sizes, attention_hidden_size=16),
    }[kind]()
    torch.manual_seed(1)
    network = library.AutoModelForCausalLM.from_config(config)
    network.save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"):
        if (base / name).is_file():
            shutil.copyfile(base / name, tmp_path / "model" / name)
    with pytest.raises(ModelError, match=f"models of the kind {kind}.* cannot be measured here .*use a decoder-only transformer"):
        Model(tmp_path / "model").answer(["Why?", "Why not, if I may ask?"])


def test_a_model_with_infinite_scores_has_no_answer(base: Path, tmp_path: Path) -> None:
    """Its weights are finite, and another model of the same configuration was checked before."""
    assert len(Model(base).answer(["Why?"])) == 1
    folder = Path(shutil.copytree(base, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    head = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    weights[head] = weights[head] * 1e4
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1e37
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteScoresError, match="its scores for the next token are NaN or infinite"):
        Model(folder).answer(["Why?"])


def test_a_context_that_changes_all_positions_is_the_limit(base: Path) -> None:
    network: Any = SimpleNamespace(config=transformers.LlamaConfig(max_position_embeddings=100))
    assert context_length(network) == 100
    long = {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 25, "rope_theta": 10000.0}
    network.config.rope_parameters = long
    assert context_length(network) == 25
