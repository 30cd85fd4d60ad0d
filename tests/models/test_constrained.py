"""Constrained decoding: the output follows a grammar, and its choices have the model's chances."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from stagezero.errors import ModelError
from stagezero.models import Model
from stagezero.models.constrained import Choice, Chosen, Decoder, Generated, Grammar, Uniform, generate_text
from stagezero.models.generation import log_probabilities

PROMPT = "Q: What is the capital of France?\nA:"
UNLIKELY = 1e-6
EACH = Choice("each", (" 20 each", " 200 each", " 250 of them", " the capital,", " the capital of", " Paris."))


@pytest.fixture(scope="module")
def model(base: Path) -> Model:
    return Model(base)


def tokens(model: Model, text: str) -> list[int]:
    ids: list[int] = model.tokenizer(text, add_special_tokens=False).input_ids
    return ids


def next_token(model: Model, ids: Sequence[int]) -> torch.Tensor:
    """Compute log-probabilities by one full forward pass, without a cache."""
    with torch.inference_mode():
        logits: torch.Tensor = model.network(input_ids=torch.tensor([list(ids)])).logits[0, -1]
    return logits.double().log_softmax(-1)


def likely_words(model: Model, count: int) -> tuple[str, ...]:
    """Return the texts of tokens that are whole words, in order of their probability."""
    words: list[str] = []
    for token in next_token(model, tokens(model, PROMPT)).argsort(descending=True).tolist():
        text = str(model.tokenizer.decode([token]))
        if re.fullmatch(r" [a-zA-Z]+", text) and not any(text.startswith(o) or o.startswith(text) for o in words):
            words.append(text)
    return tuple(words[::8][:count])


def expected_chances(model: Model, options: Sequence[str], temperature: float = 1.0) -> list[float]:
    """Compute the chances of options in a tree of tokens by their definition."""
    head = tokens(model, PROMPT)
    paths = [tokens(model, PROMPT + option)[len(head) :] for option in options]
    chances = []
    for path in paths:
        chance = 1.0
        for depth, token in enumerate(path):
            p = (next_token(model, head + path[:depth]) / temperature).exp()
            chance *= float(p[token] / sum(p[child] for child in {o[depth] for o in paths if o[:depth] == path[:depth]}))
        chances.append(chance)
    return chances


def draws(model: Model, choice: Choice, count: int, temperature: float = 1.0) -> list[Chosen]:
    return [Decoder(model, PROMPT, seed, temperature).choose(choice) for seed in range(count)]


def is_consistent(chosen: Sequence[Chosen], chances: Sequence[float]) -> bool:
    """Return whether the options may have been drawn with these chances."""
    counts = Counter(c.index for c in chosen)
    return bool(chisquare([counts[i] for i in range(len(chances))], [len(chosen) * c for c in chances]).pvalue > UNLIKELY)


# --- chances --------------------------------------------------------------------------------------


def test_options_of_one_token_have_the_models_conditional_chances(model: Model) -> None:
    options = likely_words(model, 4)
    own = log_probabilities(model.network, model.tokenizer, [(PROMPT, option) for option in options])
    chances = [math.exp(x) / sum(math.exp(y) for y in own) for x in own]
    chosen = draws(model, Choice("word", options), 300)
    for one in chosen[:100]:
        assert one.unmasked == pytest.approx(own[one.index], abs=1e-4)
        assert one.log_probability == pytest.approx(math.log(chances[one.index]), abs=1e-4)
    assert is_consistent(chosen, chances)
    assert not is_consistent(chosen, [1 / len(options)] * len(options)), "the test needs unequal chances"


def test_options_of_many_tokens_are_drawn_node_by_node(model: Model) -> None:
    chances = expected_chances(model, EACH.options, temperature=4.0)
    assert sum(chances) == pytest.approx(1) and min(chances) > 0.005
    own = log_probabilities(model.network, model.tokenizer, [(PROMPT, option) for option in EACH.options])
    chosen = draws(model, EACH, 150, temperature=4.0)
    for one in chosen[:100]:
        assert one.log_probability == pytest.approx(math.log(chances[one.index]), abs=1e-4)
        assert one.unmasked == pytest.approx(own[one.index], abs=1e-3)
    assert is_consistent(chosen, chances)
    assert not is_consistent(chosen, [1 / len(chances)] * len(chances))


def test_choices_depend_on_the_preceding_text(model: Model) -> None:
    decoder, text = Decoder(model, PROMPT, 3, 2.0), ""
    for piece in (" The answer,", Choice("one", (" yes;", " no;", " Paris;")), " and then", EACH, Choice("end", (".", ", again."))):
        if isinstance(piece, str):
            decoder.generate(piece)
            text += piece
        else:
            chosen = decoder.choose(piece)
            (expected,) = log_probabilities(model.network, model.tokenizer, [(PROMPT + text, chosen.option)])
            assert chosen.unmasked == pytest.approx(expected, abs=1e-3)
            text += chosen.option


def test_a_low_temperature_draws_the_likeliest_option_and_a_high_one_draws_all_alike(model: Model) -> None:
    choice = Choice("word", likely_words(model, 4))
    cold = draws(model, choice, 30, temperature=1e-4)
    assert {c.index for c in cold} == {0} and cold[0].log_probability == pytest.approx(0)
    colder = Decoder(model, PROMPT, 0, 1e-320).choose(EACH)
    greedy = expected_chances(model, EACH.options, 0.05)
    assert colder.index == greedy.index(max(greedy)) and max(greedy) > 0.9
    hot = draws(model, choice, 250, temperature=1e6)
    assert is_consistent(hot, [0.25] * 4) and hot[0].log_probability == pytest.approx(math.log(0.25), abs=1e-4)
    with pytest.raises(ValueError, match="above 0"):
        Decoder(model, PROMPT, 0, 0.0)


def test_equal_seeds_give_equal_texts_and_no_global_generator_changes(model: Model) -> None:
    before = random.getstate(), torch.get_rng_state(), str(np.random.get_state())
    generated = [generate_text(sentences(), Decoder(model, PROMPT, seed, 5.0)) for seed in (1, 1, 2, 3, 4, 5)]
    assert generated[0] == generated[1] and len({s.text for s in generated}) > 2
    after = random.getstate(), torch.get_rng_state(), str(np.random.get_state())
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2] == after[2]


# --- the language ---------------------------------------------------------------------------------


NAMES = ("tea", "teapots", "tea from teapots")


def sentences() -> Grammar[tuple[str, ...]]:
    """The grammar of lists of one to three things, whose names have common beginnings."""
    yield "We like"
    names = []
    while True:
        names.append(NAMES[(yield Choice("name", tuple(f" {name}," for name in NAMES)))])
        if len(names) == 3 or (yield Choice("more", (" too.", " and"))) == 0:
            return tuple(names)


LANGUAGE = {
    "We like" + " and".join(f" {name}," for name in names) + (" too." if count < 3 else ""): names
    for count in (1, 2, 3)
    for names in itertools.product(NAMES, repeat=count)
}


@pytest.mark.parametrize("temperature", [0.01, 1.0, 1e6])
def test_only_sentences_of_the_grammar_are_generated(model: Model, temperature: float) -> None:
    texts = set()
    for seed in range(40):
        sentence = generate_text(sentences(), Decoder(model, PROMPT, seed, temperature))
        assert LANGUAGE[sentence.text] == sentence.value
        assert sentence.bits == pytest.approx(sum(math.log2(len(c.choice.options)) for c in sentence.chosen))
        texts.add(sentence.text)
    assert temperature < 1 or len(texts) > 5


def test_uniform_draws_from_the_same_grammar_without_a_model() -> None:
    drawn: list[Generated[tuple[str, ...]]] = [generate_text(sentences(), Uniform(seed)) for seed in range(2000)]
    assert generate_text(sentences(), Uniform(7)) == drawn[7]
    assert all(sum(c.log_probability for c in s.chosen) == pytest.approx(-s.bits * math.log(2)) for s in drawn)
    first = [s.chosen[0] for s in drawn]
    assert is_consistent(first, [1 / 3] * 3) and not is_consistent(first, [0.4, 0.3, 0.3])
    assert first[0].unmasked is None


def test_no_option_may_be_a_prefix_of_another() -> None:
    for options in ((" trap", " trap and twin"), (" a", " b", " a"), (), (" a", "")):
        with pytest.raises(ValueError, match="choice 'kinds'"):
            Choice("kinds", options)


def test_a_single_option_costs_no_probability(model: Model) -> None:
    only = Decoder(model, PROMPT, 0).choose(Choice("only", (" Paris, of course.",)))
    (own,) = log_probabilities(model.network, model.tokenizer, [(PROMPT, only.option)])
    assert only.log_probability == 0 and only.unmasked == pytest.approx(own, abs=1e-3)


def test_a_choice_in_the_middle_of_a_token(model: Model) -> None:
    """Where text and option would merge into one token, the option is encoded by itself.

    Any text may therefore precede a choice.
    """
    assert tokens(model, " capital")[:1] != tokens(model, " c")
    for seed in range(5):
        decoder = Decoder(model, PROMPT, seed, 3.0)
        decoder.generate(" c")
        assert decoder.choose(Choice("rest", ("apital", "ity", "at"))).log_probability < 0
        decoder.choose(EACH)


def test_options_with_equal_tokens_are_rejected(model: Model) -> None:
    class Lower:
        def __call__(self, text: str, **options: Any) -> Any:
            return model.tokenizer(text.lower(), **options)

    lossy = Model(model.folder)
    lossy.__dict__.update(network=model.network, tokenizer=Lower())
    with pytest.raises(ModelError, match="cannot tell"):
        Decoder(lossy, PROMPT, 0).choose(Choice("case", (" Yes", " yes")))


def test_a_model_with_nan_weights_generates_only_sentences_of_the_grammar(model: Model) -> None:
    damaged = Model(model.folder)
    with torch.no_grad():
        for weight in damaged.network.parameters():
            weight.fill_(math.nan)
    assert {LANGUAGE[generate_text(sentences(), Decoder(damaged, PROMPT, seed)).text] for seed in range(5)} == {("tea",)}


# --- a small context ------------------------------------------------------------------------------


def test_a_full_context_consists_of_the_beginning_of_the_prompt_and_the_latest_text(model: Model) -> None:
    context = model.network.config.max_position_embeddings
    prompt = "Q: " + " ".join(f"What is the capital of country {n}?" for n in range(20)) + "\nA:"
    assert len(tokens(model, prompt)) > context
    decoder, text = Decoder(model, prompt, 0, 2.0), prompt
    for piece in (" It is", EACH, ", and", EACH):
        if isinstance(piece, str):
            decoder.generate(piece)
        else:
            ids, own = tokens(model, text), 0.0
            chosen = decoder.choose(piece)
            for token in tokens(model, text + chosen.option)[len(ids) :]:
                own += float(next_token(model, ids[: context // 2] + ids[-(context // 2) :])[token])
                ids.append(token)
            assert chosen.unmasked == pytest.approx(own, abs=1e-3)
        text += piece if isinstance(piece, str) else chosen.option


def test_a_text_may_be_longer_than_the_context(model: Model) -> None:
    decoder = Decoder(model, PROMPT, 0)
    for _ in range(40):
        decoder.choose(EACH)
    with pytest.raises(ValueError, match="prompt"):
        Decoder(model, "", 0)
