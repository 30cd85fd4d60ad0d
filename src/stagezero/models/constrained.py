"""Constrained generation: a model chooses among given options, and can generate nothing else.

A grammar is a Python generator. It yields fixed text and choices; it receives the index of the
option chosen at each choice, and returns the value that the text represents. ``Decoder`` lets a
model choose. ``Uniform`` draws from the same grammar with equal probabilities. The text is
concatenated from the options, never decoded from tokens, so that it always belongs to the language
of the grammar.

This module must not depend on recipes or ideas, and must not use a global random generator: every
draw is a function of model, prompt and seed.
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
    """A point in a grammar where one of several texts is generated.

    No option may be a prefix of another, because a model could not stop after the shorter one. End
    each option with the delimiter that follows it.
    """

    name: str
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        """Validate the options.

        Raises:
            ValueError: there is no option, one is empty, or one is a prefix of another.
        """
        if not self.options or not all(self.options):
            raise ValueError(f"choice {self.name!r}: expected one or more non-empty options, got {self.options!r:.200}; add options")
        for one, other in pairwise(sorted(self.options)):
            if other.startswith(one):
                raise ValueError(f"choice {self.name!r}: option {one!r} is a prefix of {other!r}; end both with a delimiter")


Grammar = Generator[str | Choice, int, T]


@dataclass(frozen=True, slots=True)
class Chosen:
    """The option that was chosen at one choice.

    Attributes:
        choice: the choice.
        index: index of the option.
        log_probability: log-probability of the draw among the options, at the chooser's
            temperature, in nats.
        unmasked: log-probability of the option after the preceding text, without constraints and at
            temperature 1, in nats; None without a model.
    """

    choice: Choice
    index: int
    log_probability: float
    unmasked: float | None = None

    @property
    def option(self) -> str:
        """The text of the option."""
        return self.choice.options[self.index]


class Chooser(Protocol):
    """Generates a text of a grammar, choice by choice."""

    def generate(self, text: str) -> None:
        """Append fixed text, which the grammar does not leave to choice."""

    def choose(self, choice: Choice) -> Chosen:
        """Choose an option and append its text."""
        ...


@dataclass(frozen=True, slots=True)
class Generated(Generic[T]):
    """One complete text of a grammar.

    Attributes:
        value: the value that the grammar returned for it.
        text: the text itself.
        chosen: the options chosen, in order.
    """

    value: T
    text: str
    chosen: tuple[Chosen, ...]

    @property
    def bits(self) -> float:
        """The information in the choices of this text, in bits.

        It is the sum of log2(number of options) over the choices: an upper bound on what the text
        can convey.
        """
        return sum(math.log2(len(c.choice.options)) for c in self.chosen)


def generate_text(grammar: Grammar[T], chooser: Chooser) -> Generated[T]:
    """Generate one text of a grammar; the chooser makes the choices."""
    text: list[str] = []
    chosen: list[Chosen] = []
    index = 0
    started = False
    while True:
        try:
            point = grammar.send(index) if started else next(grammar)
        except StopIteration as end:
            return Generated(end.value, "".join(text), tuple(chosen))
        started = True
        if isinstance(point, str):
            chooser.generate(point)
            text.append(point)
        else:
            chosen.append(chooser.choose(point))
            text.append(chosen[-1].option)
            index = chosen[-1].index


def _draw(weights: Sequence[float], rng: random.Random) -> int:
    """Draw an index with probability proportional to its weight.

    Uses only ``Random.random``, whose sequence Python guarantees never to change.
    """
    remaining = rng.random() * sum(weights)
    for index, weight in enumerate(weights):
        remaining -= weight
        if remaining < 0:
            return index
    return max(range(len(weights)), key=lambda i: weights[i])  # reached only because of rounding


class Uniform:
    """Chooses with equal probabilities; needs no model."""

    def __init__(self, seed: int) -> None:
        """Seed this chooser's own random generator."""
        self._rng = random.Random(seed)

    def generate(self, text: str) -> None:
        """Do nothing: the preceding text does not influence the draws."""

    def choose(self, choice: Choice) -> Chosen:
        """Draw one of the options."""
        count = len(choice.options)
        return Chosen(choice, _draw([1.0] * count, self._rng), -math.log(count))


class Decoder:
    """Chooses the options with the probabilities that a model gives them after a prompt.

    The options are tokenised in the context of the text so far. They form a tree of tokens, which
    the decoder descends: at each node, the model's distribution over the next token is restricted
    to the node's children, renormalised, and drawn from. A node with one child has probability 1,
    so that a long name does not make an option less likely. ``Chosen.unmasked`` has the probability
    of the whole option without this restriction.

    If prompt and text exceed the model's context (``max_position_embeddings``), the model reads the
    beginning of the prompt, up to half of the context, and as many of the most recent tokens as
    fill the rest.
    """

    def __init__(self, model: Model, prompt: str, seed: int, temperature: float = 1.0) -> None:
        """Prepare to generate after a prompt.

        Args:
            model: the model that chooses.
            prompt: the complete prompt, with the chat template applied.
            seed: seed of this decoder's own random generator.
            temperature: divisor of the logits. Towards 0 the most likely token is chosen; towards
                infinity all are chosen with equal probability.

        Raises:
            ValueError: the prompt is empty, or the temperature is not above zero.
        """
        if not prompt:
            raise ValueError("expected a prompt of at least one token, got an empty one; give a prompt")
        if not temperature > 0:
            raise ValueError(f"'temperature': expected a number above 0, got {temperature}; raise it")
        self._network = model.network
        self._tokenizer = model.tokenizer
        self._temperature = temperature
        self._rng = random.Random(seed)
        self._text = prompt
        self._head = len(self._tokens(prompt))
        self._context: int | None = getattr(model.network.config.get_text_config(), "max_position_embeddings", None)
        self._cached_tokens: list[int] = []  # the tokens in the cache
        self._cache: Any = None

    def generate(self, text: str) -> None:
        """Append fixed text to the context."""
        self._text += text

    def choose(self, choice: Choice) -> Chosen:
        """Draw one of the options and append its text to the context.

        Raises:
            ModelError: the model's tokenizer turns one option into the tokens, or the first tokens,
                of another.
        """
        before = self._tokens(self._text)
        candidates = dict(enumerate(self._paths(before, choice)))
        path_so_far: list[int] = []
        log_probability = unmasked = 0.0
        while any(len(path) > len(path_so_far) for path in candidates.values()):
            children = sorted({path[len(path_so_far)] for path in candidates.values()})
            scores = self._next_log_probabilities([*before, *path_so_far])
            best = max(scores[token] for token in children)
            weights = [math.exp((scores[token] - best) / self._temperature) for token in children]
            drawn = _draw(weights, self._rng)
            log_probability += math.log(weights[drawn] / sum(weights))
            unmasked += scores[children[drawn]]
            candidates = {i: path for i, path in candidates.items() if path[len(path_so_far)] == children[drawn]}
            path_so_far.append(children[drawn])
        (index,) = candidates
        self.generate(choice.options[index])
        return Chosen(choice, index, log_probability, unmasked)

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _paths(self, before: Sequence[int], choice: Choice) -> list[list[int]]:
        """Tokenise each option in the context of the text so far.

        An option whose first characters would merge with that text into one token is tokenised
        alone.
        """
        paths = []
        for option in choice.options:
            whole = self._tokens(self._text + option)
            paths.append(whole[len(before) :] if whole[: len(before)] == before else self._tokens(option))
        for one, other in pairwise(sorted(paths)):
            if other[: len(one)] == one:
                raise ModelError(f"choice {choice.name!r}: the tokenizer cannot tell all options apart; use a model with a byte-level one.")
        return paths

    def _next_log_probabilities(self, ids: Sequence[int]) -> list[float]:
        """Return log P(next token) after these tokens, for every token of the vocabulary."""
        import torch
        from transformers import DynamicCache

        window = self._window(ids)
        if self._cache is None or len(self._cached_tokens) >= len(window) or window[: len(self._cached_tokens)] != self._cached_tokens:
            self._cache, self._cached_tokens = DynamicCache(config=self._network.config), []
        with torch.inference_mode():
            new = torch.tensor([window[len(self._cached_tokens) :]], device=self._network.device)
            logits = self._network(input_ids=new, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            self._cached_tokens = window
            log_probabilities: list[float] = logits.double().log_softmax(-1).tolist()
        return log_probabilities

    def _window(self, ids: Sequence[int]) -> list[int]:
        """Return the tokens that the model reads; see the class docstring."""
        if self._context is None or len(ids) <= self._context:
            return list(ids)
        head = min(self._head, self._context // 2)
        return [*ids[:head], *ids[len(ids) - (self._context - head) :]]
