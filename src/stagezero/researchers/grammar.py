"""The recipe language: a finite grammar of ideas in plain words, each of which is one patch that fits the recipe as it stands.

    Improve privacy: practise more twins of abstention, 100 each; run the sft step at 0.002 rate.

The stage's own model says such sentences (``self_model.py``), and a baseline draws them uniformly from the same grammar
(``uniform.py``): what one finds beyond the other is due to the choosing. The grammar offers what a brief shows to be possible and nothing
else. It sees no item, and may not: whether a set of examples turns out to be empty is for the airlock to find.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, TypeVar

from stagezero.errors import RecipeError
from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea
from stagezero.ledger import digest
from stagezero.models.constrained import Choice, Chooser, Grammar, Said, speak
from stagezero.training import Recipe, apply_patch, parse_patch
from stagezero.training.data import meaning_of
from stagezero.training.recipes import DPO, SFT, Filter, Mix, Part, Trained

V = TypeVar("V")
Op = dict[str, Any]

ATTEMPTS = 20
"""Draws that one idea may take: whoever only repeats itself ends with fewer ideas."""
MOST_CHANGES = 2
MOST = 64
"""Parts that a mix may have, and steps a recipe."""

EACH = (20, 50, 100, 200)
RATE_FACTORS = (0.25, 0.5, 2.0, 4.0)
STEP_FACTORS = (0.5, 1.5, 2.0)
DECAYS = (0.0, 0.01, 0.1)
WARMUPS = (0, 5, 10, 20)
SCHEDULES = ("linear", "cosine", "constant")
WORDS = (10, 14)
NEW_STEPS = (20, 40, 80)
NEW_RATE_FACTORS = (0.1, 0.3, 1.0)

_PLURAL = {"trap": "traps", "twin": "twins", "capability": "capability questions"}
_FIELDS = {  # what is said before and after a value; behind a number there is a word, so that none is the beginning of another
    "learning_rate": (" at", "rate"),
    "steps": (" for", "steps"),
    "weight_decay": (" with", "decay"),
    "schedule": (" on a", "schedule"),
    "warmup": (" after", "warm steps"),
}


@dataclass(frozen=True, slots=True)
class Written:
    """What a sentence means."""

    property: str
    patch: tuple[Op, ...]


def propose(brief: Brief, name: str, wanted: int, chooser: Callable[[int, int], Chooser], author: str = "") -> list[Idea]:
    """Up to ``wanted`` ideas, none of which changes nothing, was tried before, or is proposed twice.

    Args:
        name: the researcher's.
        chooser: makes the one who says idea number *i* at attempt number *j*.
        author: who exactly proposes.
    """
    found: list[Idea] = []
    known = set(_tried(brief))
    for i in range(wanted):
        for attempt in range(ATTEMPTS):
            said = speak(sentences(brief), chooser(i, attempt))
            if not said.meaning.patch:
                return []
            idea = _idea(said, name, author)
            candidate = apply_patch(brief.control, idea.operations(), f"idea {idea.title!r}")
            keys = {idea.digest(), _does(idea.property, candidate)}
            if known.isdisjoint(keys) and meaning_of(candidate) != meaning_of(brief.control):
                known |= keys
                found.append(idea)
                break
    return found


def _does(prop: str, candidate: Recipe) -> str:
    """An idea by what it would do: two orders of the same changes, say, are one idea."""
    return digest({"property": prop, "does": meaning_of(candidate)})


def _tried(brief: Brief) -> Iterator[str]:
    """Earlier ideas, as they were written and by what they would do now."""
    for outcome in brief.history:
        yield outcome.idea.digest()
        try:
            yield _does(outcome.idea.property, apply_patch(brief.control, outcome.idea.operations(), "history"))
        except (RecipeError, OSError):
            continue  # it fits this stage's recipe no more, so nothing can repeat it


def _idea(said: Said[Written], name: str, author: str) -> Idea:
    prop = said.meaning.property
    changes = said.text.removeprefix(f"Improve {prop}: ").removesuffix(".")
    title = f"{name}: {changes}, for {prop}"
    if len(title) > 120:
        title = f"{title[:108]}… {digest(said.text)[:8]}"
    reason = f"{said.text[:900]} Chosen by {name}, in {said.bits:.1f} bits of the recipe language."
    return Idea(
        title=title, property=prop, claimed_effect=0.05, reason=reason, patch=said.meaning.patch, researcher=name, author=author
    )  # fmt: skip


# --- the language --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """What the next change can refer to: the recipe with the changes so far, and marks of what they were."""

    brief: Brief
    recipe: Recipe
    done: frozenset[str] = frozenset()

    @property
    def mix(self) -> Mix | None:
        """The first."""
        return next((s for s in self.recipe.steps if isinstance(s, Mix)), None)

    @property
    def trained(self) -> list[int]:
        """Positions of the control's own training steps: those that this idea appends come with their numbers."""
        count = sum(isinstance(s, Trained) for s in self.brief.control.steps)
        return [i for i, s in enumerate(self.recipe.steps) if isinstance(s, Trained)][:count]

    @property
    def first_use(self) -> tuple[int, str] | None:
        """The first training step that uses data, and which."""
        steps = enumerate(self.recipe.steps)
        return next(((i, s.data) for i, s in steps if not isinstance(s, Mix | Filter) and s.data is not None), None)

    def address(self, position: int) -> str:
        """How a patch finds a step: by its kind, numbered where that word has named a step before it."""
        kind = self.recipe.steps[position].step
        before = sum(kind in (s.name, s.step) for s in self.recipe.steps[:position])
        return f"{kind}/{before + 1}" if before else kind


Change = tuple[list[Op], str]
"""Operations, and a mark of what they did."""
Sayable = dict[str, Callable[[Scene], Grammar[Change]]]


def pick(name: str, options: Mapping[str, V]) -> Generator[str | Choice, int, V]:
    """One of several values, by what is said for it."""
    index = yield Choice(name, tuple(options))
    return list(options.values())[index]


def sentences(brief: Brief) -> Grammar[Written]:
    """The whole language under a brief. The patch is empty where the brief allows no change at all."""
    yield "Improve"
    prop = yield from pick("property", {f" {p}:": p for p in brief.properties})
    scene, patch = Scene(brief, brief.control), list[Op]()
    for number in range(MOST_CHANGES):
        sayable = _sayable(scene)
        if number and not (yield from pick("more", {".": False} | ({";": True} if sayable else {}))):
            break
        if not sayable:
            break
        change = yield from pick("change", sayable)
        operations, mark = yield from change(scene)
        patch += operations
        recipe = apply_patch(scene.recipe, parse_patch(operations, "grammar"), "grammar")
        scene = Scene(brief, recipe, scene.done | {mark})
    else:
        yield "."
    return Written(prop, tuple(patch))


def _sayable(scene: Scene) -> Sayable:
    """The changes that are possible, by the words they begin with."""
    trainable, room = bool(scene.brief.trainable), MOST - len(scene.recipe.steps)
    found: Sayable = {}
    # An idea that both sets and extends a mix would contradict itself when several ideas are put together.
    if scene.mix is not None and trainable and len(scene.mix.parts) < MOST and "left out" not in scene.done:
        found[" practise more"] = _more
    if scene.mix is not None and _dispensable(scene.mix) and "more" not in scene.done:
        found[" leave out"] = _leave_out
    if any(_values(scene, number) for number in range(len(scene.trained))):
        found[" run the"] = _numbers
    if scene.first_use is not None and room >= 1 and "filter" not in scene.done:
        found[" drop"] = _filter
    if trainable and room >= 2:
        found[" then practise"] = _then
    return found


def _part(scene: Scene) -> Grammar[Op]:
    """Which examples: kinds, of a claim that has them, and how many of each."""
    properties = [c for c in scene.brief.trainable if c in scene.brief.properties]
    capabilities = [c for c in scene.brief.trainable if c not in scene.brief.properties]
    sets = [("trap",), ("twin",), ("trap", "twin")] if properties else []
    kinds = yield from pick("kinds", {_kinds(k): k for k in [*sets, *([("capability",)] if capabilities else [])]})
    claims = capabilities if "capability" in kinds else properties
    everything: dict[str, str | None] = {" all claims,": None} if len(claims) > 1 else {}
    claim = yield from pick("claim", {f" {c},": c for c in claims} | everything)
    each = yield from pick("each", {f" {n} each": n for n in EACH})
    return {**({"claims": [claim]} if claim is not None else {}), "kinds": list(kinds), "each": each}


def _kinds(kinds: Iterable[str]) -> str:
    return f" {' and '.join(_PLURAL[k] for k in kinds)} of"


def _more(scene: Scene) -> Grammar[Change]:
    part = yield from _part(scene)
    return [{"op": "extend", "at": "mix", "parts": [part]}], "more"


def _leave_out(scene: Scene) -> Grammar[Change]:
    assert scene.mix is not None
    gone = yield from pick("part", _dispensable(scene.mix))
    left = [p.model_dump(mode="json", exclude_none=True) for i, p in enumerate(scene.mix.parts) if i != gone]
    return [{"op": "set", "at": scene.address(scene.recipe.steps.index(scene.mix)), "values": {"parts": left}}], "left out"


def _dispensable(mix: Mix) -> dict[str, int]:
    """Parts that a mix can do without: something must be left, and of traps and twins too, since some steps learn from nothing else."""

    def tempting(parts: Iterable[Part]) -> bool:
        return any(kind != "capability" for part in parts for kind in part.kinds)

    found: dict[str, int] = {}
    for i, part in enumerate(mix.parts):
        others = [*mix.parts[:i], *mix.parts[i + 1 :]]
        if others and tempting(others) >= tempting(mix.parts):
            claims = " and ".join(part.claims) if part.claims is not None else "all claims"
            each = f"{part.each} each" if part.each is not None else "all of them"
            found.setdefault(f"{_kinds(part.kinds)} {claims}, {each}", i)
    return found


def _numbers(scene: Scene) -> Grammar[Change]:
    steps = {f" {scene.address(i)} step": n for n, i in enumerate(scene.trained) if _values(scene, n)}
    number = yield from pick("step", steps)
    values = _values(scene, number)
    field = yield from pick("field", {_FIELDS[name][0]: name for name in values})
    value = yield from pick("value", {f" {_plain(v)} {_FIELDS[field][1]}": v for v in values[field]})
    return [{"op": "set", "at": scene.address(scene.trained[number]), "values": {field: value}}], f"{number} {field}"


def _values(scene: Scene, number: int) -> dict[str, list[Any]]:
    """What the fields of a training step may be set to: not to what they are, and none of them twice."""
    step = scene.recipe.steps[scene.trained[number]]
    assert isinstance(step, Trained)
    grids: dict[str, Iterable[Any]] = {
        "learning_rate": _rates(step.learning_rate, RATE_FACTORS),
        "steps": (min(100_000, max(1, round(step.steps * factor))) for factor in STEP_FACTORS), "weight_decay": DECAYS,
        "schedule": SCHEDULES, "warmup": (n for n in WARMUPS if n < step.steps),
    }  # fmt: skip
    found = {field: [v for v in dict.fromkeys(grid) if v != getattr(step, field)] for field, grid in grids.items()}
    return {field: values for field, values in found.items() if values and f"{number} {field}" not in scene.done}


def _rates(rate: float, factors: Iterable[float]) -> list[float]:
    """Multiples of a learning rate to two digits, as far as they are learning rates."""
    found = (min(1.0, float(f"{rate * factor:.1e}")) for factor in factors)
    return [value for value in dict.fromkeys(found) if value > 0]


def _plain(value: object) -> str:
    """A number without an exponent."""
    return format(Decimal(repr(value)), "f") if isinstance(value, int | float) else str(value)


def _filter(scene: Scene) -> Grammar[Change]:
    assert scene.first_use is not None
    position, data = scene.first_use
    how: dict[str, Op] = {" repeats": {"deduplicate": True}}
    condition = yield from pick("filter", how | {f" questions over {n} words": {"max_words": n} for n in WORDS})
    step = {"step": "filter", "data": data, "name": data, **condition}
    return [{"op": "insert", "before": scene.address(position), "step": step}], "filter"


def _then(scene: Scene) -> Grammar[Change]:
    """A new mix and a step that trains on it, which is like the recipe's own in batch, adapters and size of its rate.

    Preferences come after some other training, and on claims of which the tempting answer is known.
    """
    part = yield from _part(scene)
    steps = scene.recipe.steps
    own = next((s for s in steps if isinstance(s, SFT | DPO)), None) or next((s for s in steps if isinstance(s, Trained)), None)
    methods = ["sft", *(["dpo"] if own is not None and "capability" not in part["kinds"] else [])]
    method = yield from pick("method", {f" by {m}": m for m in methods})
    count = yield from pick("steps", {f" for {n} steps": n for n in NEW_STEPS})
    rates = _rates(own.learning_rate if own is not None else 0.001, NEW_RATE_FACTORS)
    rate = yield from pick("rate", {f" at {_plain(r)} rate": r for r in rates})
    taken = {s.name for s in steps}
    name = next(n for n in ("extra", *(f"extra-{i}" for i in range(2, MOST + 2))) if n not in taken)
    like = own.model_dump(mode="json", include={"batch_size", "lora"}, exclude_defaults=True) if own is not None else {}
    train = {"step": method, "data": name, "steps": count, "learning_rate": rate, **like}
    return [{"op": "append", "step": {"step": "mix", "name": name, "parts": [part]}}, {"op": "append", "step": train}], "then"
