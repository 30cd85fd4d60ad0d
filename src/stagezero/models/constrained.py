"""A model held to a language: at every choice it may say one of the given options and nothing else.

A grammar is a generator that yields text which is said whatever happens, and choices; it is sent back the number of the option that was
chosen, and returns what was meant. ``Decoder`` lets a model choose, ``Uniform`` draws with equal chances from the very same grammar. The
text is put together from the options, never decoded from tokens, so nothing can come out that is not of the language.

This module knows nothing of recipes or ideas. It may not use a global generator: what is drawn is a function of model, prompt and seed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from stagezero.errors import ModelError

if TYPE_CHECKING:
    from stagezero.models.loader import Model

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Choice:
    """A point where one of several texts is said.

    No option may be the beginning of another: a model that has said it would have no way to stop there. Let each end with what follows it.
    """

    name: str
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.options or not all(self.options):
            raise ValueError(f"choice {self.name!r}: expected one option or more, none of them empty, got {self.options!r:.200}; add them")
        for one, other in pairwise(sorted(self.options)):
            if other.startswith(one):
                raise ValueError(f"choice {self.name!r}: option {one!r} is the beginning of {other!r}; end both with a delimiter")


Grammar = Generator[str | Choice, int, T]


@dataclass(frozen=True, slots=True)
class Chosen:
    """What was said at one choice.

    ``log_probability`` is that with which it was drawn, among the options and at the chooser's temperature. ``unmasked`` is what the model
    itself gives the option after the text so far, when it may say anything and the temperature is one; None without a model. Both in nats.
    """

    choice: Choice
    index: int
    log_probability: float
    unmasked: float | None = None

    @property
    def option(self) -> str:
        return self.choice.options[self.index]


class Chooser(Protocol):
    """Says a text, choice by choice."""

    def say(self, text: str) -> None: ...

    def choose(self, choice: Choice) -> Chosen: ...


@dataclass(frozen=True, slots=True)
class Said(Generic[T]):
    """A whole text of a grammar, and what it means."""

    meaning: T
    text: str
    chosen: tuple[Chosen, ...]

    @property
    def bits(self) -> float:
        """What the grammar's alternatives on this path come to: the most that saying this and nothing else could tell."""
        return sum(math.log2(len(c.choice.options)) for c in self.chosen)


def speak(grammar: Grammar[T], chooser: Chooser) -> Said[T]:
    """Let a chooser say one text of a grammar."""
    text: list[str] = []
    chosen: list[Chosen] = []
    answer = 0
    started = False
    while True:
        try:
            point = grammar.send(answer) if started else next(grammar)
        except StopIteration as end:
            return Said(end.value, "".join(text), tuple(chosen))
        started = True
        if isinstance(point, str):
            chooser.say(point)
            text.append(point)
        else:
            chosen.append(chooser.choose(point))
            text.append(chosen[-1].option)
            answer = chosen[-1].index


def _draw(weights: Sequence[float], rng: random.Random) -> int:
    """An index, with chances in proportion to the weights. ``Random.random`` is the one draw that Python promises never to change."""
    left = rng.random() * sum(weights)
    for index, weight in enumerate(weights):
        left -= weight
        if left < 0:
            return index
    return max(range(len(weights)), key=lambda i: weights[i])  # only rounding leads here


class Uniform:
    """Chooses with equal chances; needs no model."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def say(self, text: str) -> None:
        """What was said before makes no difference."""

    def choose(self, choice: Choice) -> Chosen:
        count = len(choice.options)
        return Chosen(choice, _draw([1.0] * count, self._rng), -math.log(count))


class Decoder:
    """Chooses as a model would go on after a prompt.

    The options are tokenised as they stand after the text so far. They form a tree of tokens, and the decoder walks down it: at each node
    the model's distribution of the next token is cut down to the node's children, renormalised, and drawn from. A node's only child costs
    nothing, so an option is not the less likely for a long name; what the model gives the whole of it is in ``Chosen.unmasked``.

    Where prompt and text are longer than the model's context (``max_position_embeddings``), it sees the head of the prompt, which is at
    most half of the context, and of all that follows the most recent tokens that fill the rest.
    """

    def __init__(self, model: Model, prompt: str, seed: int, temperature: float = 1.0) -> None:
        """
        Args:
            prompt: complete, chat template already applied.
            seed: of this decoder's own generator.
            temperature: divides the logits; towards 0 the likeliest token is chosen, towards infinity each with equal chance.

        Raises:
            ValueError: an empty prompt, or a temperature that is not above zero.
        """
        if not prompt:
            raise ValueError("expected a prompt of at least one token, got an empty one; give the question")
        if not temperature > 0:
            raise ValueError(f"'temperature': expected a number above 0, got {temperature}; raise it")
        self._network = model.network
        self._tokenizer = model.tokenizer
        self._temperature = temperature
        self._rng = random.Random(seed)
        self._text = prompt
        self._head = len(self._tokens(prompt))
        self._context: int | None = getattr(model.network.config.get_text_config(), "max_position_embeddings", None)
        self._fed: list[int] = []  # the tokens that the cache holds
        self._cache: Any = None

    def say(self, text: str) -> None:
        self._text += text

    def choose(self, choice: Choice) -> Chosen:
        """One of the options.

        Raises:
            ModelError: to the model's tokenizer one option is the same as another, or its beginning.
        """
        before = self._tokens(self._text)
        alive = dict(enumerate(self._paths(before, choice)))
        walked: list[int] = []
        drawn = unmasked = 0.0
        while any(len(path) > len(walked) for path in alive.values()):
            children = sorted({path[len(walked)] for path in alive.values()})
            scores = self._next([*before, *walked])
            best = max(scores[token] for token in children)
            weights = [math.exp((scores[token] - best) / self._temperature) for token in children]
            which = _draw(weights, self._rng)
            drawn += math.log(weights[which] / sum(weights))
            unmasked += scores[children[which]]
            alive = {i: path for i, path in alive.items() if path[len(walked)] == children[which]}
            walked.append(children[which])
        (index,) = alive
        self.say(choice.options[index])
        return Chosen(choice, index, drawn, unmasked)

    def _tokens(self, text: str) -> list[int]:
        found: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return found

    def _paths(self, before: Sequence[int], choice: Choice) -> list[list[int]]:
        """Each option's tokens, as they follow the text so far; where it would merge with that, as they are alone."""
        paths = []
        for option in choice.options:
            whole = self._tokens(self._text + option)
            paths.append(whole[len(before) :] if whole[: len(before)] == before else self._tokens(option))
        for one, other in pairwise(sorted(paths)):
            if other[: len(one)] == one:
                raise ModelError(f"choice {choice.name!r}: the tokenizer cannot tell all options apart; use one that keeps every byte.")
        return paths

    def _next(self, ids: Sequence[int]) -> list[float]:
        """log P(next token) for every token of the vocabulary, after these."""
        import torch
        from transformers import DynamicCache

        seen = self._window(ids)
        if self._cache is None or len(self._fed) >= len(seen) or seen[: len(self._fed)] != self._fed:
            self._cache, self._fed = DynamicCache(config=self._network.config), []
        with torch.inference_mode():
            new = torch.tensor([seen[len(self._fed) :]], device=self._network.device)
            logits = self._network(input_ids=new, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            self._fed = seen
            found: list[float] = logits.double().log_softmax(-1).tolist()
        return found

    def _window(self, ids: Sequence[int]) -> list[int]:
        """What of these tokens the model sees: see the class."""
        if self._context is None or len(ids) <= self._context:
            return list(ids)
        head = min(self._head, self._context // 2)
        return [*ids[:head], *ids[len(ids) - (self._context - head) :]]
