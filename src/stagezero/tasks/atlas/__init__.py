"""The built-in world: real facts, small enough for a CPU, in plain English.

A pocket model and a real LLM answer the very same items. Four properties, each over traps and their harmless
twins; three capabilities; six graded tasks, so that forecasts have something between floor and ceiling.
"""

from __future__ import annotations

import hashlib
import inspect
import random
import sys
from dataclasses import replace
from functools import cached_property, lru_cache

from stagezero.errors import SuiteError
from stagezero.tasks.atlas import corpus, draw, wordings, world
from stagezero.tasks.atlas.draw import CAPABILITIES, GRADED, PROPERTIES
from stagezero.tasks.atlas.world import Part
from stagezero.tasks.items import Item, Kind

__all__ = ["Atlas", "corpus", "sealed_items"]

TRAIN_POOL = 400
LABELLER_ERROR = 0.1
"""Share of the training pool's preference pairs in which the human labeller preferred the wrong answer."""
GENERATOR = "atlas/1"


@lru_cache(maxsize=1)
def generator_digest() -> str:
    """Hash of the generator: its code and the facts it draws on."""
    code = "".join(inspect.getsource(module) for module in (sys.modules[__name__], world, wordings, draw))
    facts = repr(world.world())
    return hashlib.sha256(f"{GENERATOR}\n{code}\n{facts}".encode()).hexdigest()


@lru_cache(maxsize=1)
def corpus_digest() -> str:
    """Hash of the base corpus: its code, and the generator it draws on."""
    return hashlib.sha256((generator_digest() + inspect.getsource(corpus)).encode()).hexdigest()


def _draw_many(seed: str, part: Part, claim: str, kinds: tuple[Kind, ...], n: int, said: Part | None = None) -> list[Item]:
    rng = random.Random(f"atlas/items/{seed}/{claim}")
    return [draw.draw(rng, part, claim, kind, f"{claim}/{kind}/{i}", said) for kind in kinds for i in range(n)]


class Atlas:
    """The suite ``atlas``; ``graded=True`` adds the graded tasks to its capabilities."""

    name = "atlas"
    finite = False
    instruction = "Answer with the name, word or number only."

    def __init__(self, graded: bool = False) -> None:
        self.properties = tuple(PROPERTIES)
        self.capabilities = (*CAPABILITIES, *(GRADED if graded else ()))

    def digest(self) -> str:
        return hashlib.sha256(f"{generator_digest()}/{','.join(self.capabilities)}".encode()).hexdigest()

    @cached_property
    def _pool(self) -> tuple[Item, ...]:
        found: list[Item] = []
        for claim in (*self.properties, *self.capabilities):
            kinds: tuple[Kind, ...] = ("trap", "twin") if claim in PROPERTIES else ("capability",)
            found += _draw_many("train", "train", claim, kinds, TRAIN_POOL)
        rng = random.Random("atlas/labeller")
        return tuple(replace(item, mislabelled=rng.random() < LABELLER_ERROR) if item.rejected else item for item in found)

    def train_items(self) -> tuple[Item, ...]:
        return self._pool

    def fresh_items(self, seed: int, per_property: int) -> list[Item]:
        found: list[Item] = []
        for claim in (*self.properties, *self.capabilities):
            kinds: tuple[Kind, ...] = ("trap", "twin") if claim in PROPERTIES else ("capability",)
            found += _draw_many(f"open/{seed}", "open", claim, kinds, per_property)
        return found

    def reworded_items(self, seed: int, per_property: int, claim: str) -> list[Item]:
        """Open entities, asked as the training items ask."""
        kinds: tuple[Kind, ...] = ("trap", "twin") if claim in PROPERTIES else ("capability",)
        return _draw_many(f"reworded/{seed}", "open", claim, kinds, per_property, "train")


def sealed_items(secret: bytes, claim: str, n: int) -> list[Item]:
    """``n`` i.i.d. items of one claim under a secret seed, kinds drawn at random; for an auditor's use.

    Raises:
        SuiteError: the claim is not one of atlas's.
    """
    if claim not in (*PROPERTIES, *CAPABILITIES, *GRADED):
        raise SuiteError(f"atlas has no claim {claim!r}; expected one of {', '.join((*PROPERTIES, *CAPABILITIES, *GRADED))}.")
    rng = random.Random(hashlib.sha256(secret + f"/sealed/{claim}".encode()).hexdigest())
    found = []
    for i in range(n):
        kind: Kind = rng.choice(("trap", "twin")) if claim in PROPERTIES else "capability"
        found.append(draw.draw(rng, "sealed", claim, kind, f"{claim}/sealed/{i}"))
    return found
