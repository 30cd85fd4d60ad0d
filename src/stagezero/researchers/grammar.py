"""The recipe language: a finite grammar. Each sentence is one patch that fits the current recipe.

    Improve privacy: practise more twins of abstention, 100 each; run the sft step at 0.002 rate.

The stage's own model generates such sentences (``self_model.py``). A baseline draws them uniformly
from the same grammar (``uniform.py``), so the model's choices explain any difference between the
two researchers.

The grammar offers the changes that a brief allows, and nothing else. It may not read an item, so it
cannot know whether a selection of examples is empty: the airlock checks that.

The words of a sentence are fixed. The decoder's probabilities are conditioned on them, and ideas
store them in their titles and reasons, so another wording gives other proposals for the same seed.
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
from stagezero.models.constrained import Choice, Chooser, Generated, Grammar, generate_text
from stagezero.training import Recipe, apply_patch, parse_patch
from stagezero.training.data import meaning_of
from stagezero.training.recipes import DPO, MACHINE_FIELDS, SFT, Filter, Mix, Part, Trained

V = TypeVar("V")
Operation = dict[str, Any]

MAX_DRAWS_PER_IDEA = 20
"""Sentences that may be drawn for one idea. A chooser that repeats itself gives fewer ideas."""
MAX_CHANGES = 2
"""Changes in one sentence."""
MAX_PARTS_OR_STEPS = 64
"""Parts of a mix, and steps of a recipe."""

EXAMPLES_EACH = (20, 50, 100, 200)
RATE_FACTORS = (0.25, 0.5, 2.0, 4.0)
STEP_FACTORS = (0.5, 1.5, 2.0)
DECAYS = (0.0, 0.01, 0.1)
WARMUPS = (0, 5, 10, 20)
SCHEDULES = ("linear", "cosine", "constant")
WORD_LIMITS = (10, 14)
NEW_STEP_COUNTS = (20, 40, 80)
NEW_RATE_FACTORS = (0.1, 0.3, 1.0)

_PLURALS = {"trap": "traps", "twin": "twins", "capability": "capability questions"}
# Field → the words before and after its value. A word follows each number, because no option of a
# choice may be the beginning of another option.
_FIELD_WORDS = {
    "learning_rate": (" at", "rate"),
    "steps": (" for", "steps"),
    "weight_decay": (" with", "decay"),
    "schedule": (" on a", "schedule"),
    "warmup": (" after", "warm steps"),
}


@dataclass(frozen=True, slots=True)
class SentenceMeaning:
    """The property that a sentence names, and its changes as patch operations."""

    property: str
    patch: tuple[Operation, ...]


def propose(brief: Brief, name: str, max_ideas: int, make_chooser: Callable[[int, int], Chooser], author: str = "") -> list[Idea]:
    """Return up to ``max_ideas`` different ideas, each of which changes the recipe and is new.

    Args:
        brief: the stage's brief.
        name: the researcher's name.
        make_chooser: makes the chooser for an idea's number and an attempt's number.
        author: the exact author, such as a model with its digest.
    """
    ideas: list[Idea] = []
    known = set(_earlier_keys(brief))
    for number in range(max_ideas):
        for attempt in range(MAX_DRAWS_PER_IDEA):
            sentence = generate_text(sentence_grammar(brief), make_chooser(number, attempt))
            if not sentence.value.patch:
                return []
            idea = _idea(sentence, name, author)
            candidate = apply_patch(brief.control, idea.operations(), f"idea {idea.title!r}")
            keys = {idea.digest(), _effect_digest(idea.property, candidate)}
            if known.isdisjoint(keys) and meaning_of(candidate) != meaning_of(brief.control):
                known |= keys
                ideas.append(idea)
                break
    return ideas


def _effect_digest(prop: str, candidate: Recipe) -> str:
    """Return the digest of an idea's effect. The order of the changes makes no difference."""
    return digest({"property": prop, "does": meaning_of(candidate)})


def _earlier_keys(brief: Brief) -> Iterator[str]:
    """Yield the digests of earlier ideas, and of their effects on the current recipe."""
    for outcome in brief.history:
        yield outcome.idea.digest()
        try:
            yield _effect_digest(outcome.idea.property, apply_patch(brief.control, outcome.idea.operations(), "history"))
        except (RecipeError, OSError):
            continue  # it no longer fits the recipe, so no new idea can have the same effect


def _idea(sentence: Generated[SentenceMeaning], name: str, author: str) -> Idea:
    prop = sentence.value.property
    changes = sentence.text.removeprefix(f"Improve {prop}: ").removesuffix(".")
    title = f"{name}: {changes}, for {prop}"
    if len(title) > 120:
        title = f"{title[:108]}… {digest(sentence.text)[:8]}"
    reason = f"{sentence.text[:900]} Chosen by {name}, in {sentence.bits:.1f} bits of the recipe language."
    return Idea(
        title=title, property=prop, claimed_effect=0.05, reason=reason, patch=sentence.value.patch, researcher=name, author=author
    )  # fmt: skip


# --- the language ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartialIdea:
    """The state of a sentence between two changes: what the next change can refer to.

    ``recipe`` is the control with the changes so far. ``marks`` name the changes so far, so that
    the next one does not repeat or contradict them.
    """

    brief: Brief
    recipe: Recipe
    marks: frozenset[str] = frozenset()

    @property
    def mix(self) -> Mix | None:
        """The recipe's first mix."""
        return next((s for s in self.recipe.steps if isinstance(s, Mix)), None)

    @property
    def trained(self) -> list[int]:
        """Positions of the control's own training steps.

        Training steps that this idea appends are left out: the sentence gave their numbers already.
        """
        count = sum(isinstance(s, Trained) for s in self.brief.control.steps)
        return [i for i, s in enumerate(self.recipe.steps) if isinstance(s, Trained)][:count]

    @property
    def first_use(self) -> tuple[int, str] | None:
        """The position of the first training step that uses data, and the name of that data."""
        steps = enumerate(self.recipe.steps)
        return next(((i, s.data) for i, s in steps if not isinstance(s, Mix | Filter) and s.data is not None), None)

    def address(self, position: int) -> str:
        """Return a step's address in a patch: its kind, numbered if an earlier step matches."""
        kind = self.recipe.steps[position].step
        before = sum(kind in (s.name, s.step) for s in self.recipe.steps[:position])
        return f"{kind}/{before + 1}" if before else kind


Change = tuple[list[Operation], str]
"""The operations of one change, and its mark."""
ChangeOptions = dict[str, Callable[[PartialIdea], Grammar[Change]]]
"""First words of a change → the grammar of the rest."""


def choose(name: str, options: Mapping[str, V]) -> Generator[str | Choice, int, V]:
    """Offer the keys of ``options`` as one choice, and return the value of the chosen key."""
    index = yield Choice(name, tuple(options))
    return list(options.values())[index]


def sentence_grammar(brief: Brief) -> Grammar[SentenceMeaning]:
    """Return the grammar of all sentences under a brief.

    The patch of a sentence is empty if the brief allows no change at all.
    """
    yield "Improve"
    prop = yield from choose("property", {f" {p}:": p for p in brief.properties})
    partial, patch = PartialIdea(brief, brief.control), list[Operation]()
    for number in range(MAX_CHANGES):
        options = _change_options(partial)
        if number and not (yield from choose("more", {".": False} | ({";": True} if options else {}))):
            break
        if not options:
            break
        change = yield from choose("change", options)
        operations, mark = yield from change(partial)
        patch += operations
        recipe = apply_patch(partial.recipe, parse_patch(operations, "grammar"), "grammar")
        partial = PartialIdea(brief, recipe, partial.marks | {mark})
    else:
        yield "."
    return SentenceMeaning(prop, tuple(patch))


def _change_options(partial: PartialIdea) -> ChangeOptions:
    """Return the possible changes by their first words."""
    trainable, free_steps = bool(partial.brief.trainable), MAX_PARTS_OR_STEPS - len(partial.recipe.steps)
    options: ChangeOptions = {}
    # An idea must not both set and extend a mix: it would contradict itself when several ideas are
    # composed.
    if partial.mix is not None and trainable and len(partial.mix.parts) < MAX_PARTS_OR_STEPS and "left out" not in partial.marks:
        options[" practise more"] = _extend_mix
    if partial.mix is not None and _removable_parts(partial.mix) and "more" not in partial.marks:
        options[" leave out"] = _remove_part
    if any(_new_values(partial, number) for number in range(len(partial.trained))):
        options[" run the"] = _set_number
    if partial.first_use is not None and free_steps >= 1 and "filter" not in partial.marks:
        options[" drop"] = _insert_filter
    if trainable and free_steps >= 2:
        options[" then practise"] = _append_training
    return options


def _part(partial: PartialIdea) -> Grammar[Operation]:
    """Generate a part of a mix: kinds of examples, a claim that has such examples, and a count."""
    properties = [c for c in partial.brief.trainable if c in partial.brief.properties]
    capabilities = [c for c in partial.brief.trainable if c not in partial.brief.properties]
    kind_sets = [("trap",), ("twin",), ("trap", "twin")] if properties else []
    kinds = yield from choose("kinds", {_kinds(k): k for k in [*kind_sets, *([("capability",)] if capabilities else [])]})
    claims = capabilities if "capability" in kinds else properties
    all_claims: dict[str, str | None] = {" all claims,": None} if len(claims) > 1 else {}
    claim = yield from choose("claim", {f" {c},": c for c in claims} | all_claims)
    each = yield from choose("each", {f" {n} each": n for n in EXAMPLES_EACH})
    return {**({"claims": [claim]} if claim is not None else {}), "kinds": list(kinds), "each": each}


def _kinds(kinds: Iterable[str]) -> str:
    return f" {' and '.join(_PLURALS[k] for k in kinds)} of"


def _extend_mix(partial: PartialIdea) -> Grammar[Change]:
    part = yield from _part(partial)
    return [{"op": "extend", "at": "mix", "parts": [part]}], "more"


def _remove_part(partial: PartialIdea) -> Grammar[Change]:
    assert partial.mix is not None
    removed = yield from choose("part", _removable_parts(partial.mix))
    left = [p.model_dump(mode="json", exclude_none=True) for i, p in enumerate(partial.mix.parts) if i != removed]
    return [{"op": "set", "at": partial.address(partial.recipe.steps.index(partial.mix)), "values": {"parts": left}}], "left out"


def _removable_parts(mix: Mix) -> dict[str, int]:
    """Return the parts that a mix can lose, as text → position.

    At least one part must remain. If the mix has traps or twins, some of them must remain, because
    some training steps learn from nothing else.
    """

    def has_traps_or_twins(parts: Iterable[Part]) -> bool:
        return any(kind != "capability" for part in parts for kind in part.kinds)

    removable: dict[str, int] = {}
    for i, part in enumerate(mix.parts):
        others = [*mix.parts[:i], *mix.parts[i + 1 :]]
        if others and has_traps_or_twins(others) >= has_traps_or_twins(mix.parts):
            claims = " and ".join(part.claims) if part.claims is not None else "all claims"
            each = f"{part.each} each" if part.each is not None else "all of them"
            removable.setdefault(f"{_kinds(part.kinds)} {claims}, {each}", i)
    return removable


def _set_number(partial: PartialIdea) -> Grammar[Change]:
    steps = {f" {partial.address(i)} step": n for n, i in enumerate(partial.trained) if _new_values(partial, n)}
    number = yield from choose("step", steps)
    values = _new_values(partial, number)
    field = yield from choose("field", {_FIELD_WORDS[name][0]: name for name in values})
    value = yield from choose("value", {f" {_decimal(v)} {_FIELD_WORDS[field][1]}": v for v in values[field]})
    return [{"op": "set", "at": partial.address(partial.trained[number]), "values": {field: value}}], f"{number} {field}"


def _new_values(partial: PartialIdea, number: int) -> dict[str, list[Any]]:
    """Return the values that each field of a training step may be set to.

    A field's current value is left out, and so is a field that the sentence has set already.
    """
    step = partial.recipe.steps[partial.trained[number]]
    assert isinstance(step, Trained)
    grids: dict[str, Iterable[Any]] = {
        "learning_rate": _rates(step.learning_rate, RATE_FACTORS),
        "steps": (min(100_000, max(1, round(step.steps * factor))) for factor in STEP_FACTORS), "weight_decay": DECAYS,
        "schedule": SCHEDULES, "warmup": (n for n in WARMUPS if n < step.steps),
    }  # fmt: skip
    changed = {field: [v for v in dict.fromkeys(grid) if v != getattr(step, field)] for field, grid in grids.items()}
    return {field: values for field, values in changed.items() if values and f"{number} {field}" not in partial.marks}


def _rates(rate: float, factors: Iterable[float]) -> list[float]:
    """Return multiples of a learning rate with two digits, limited to valid learning rates."""
    rates = (min(1.0, float(f"{rate * factor:.1e}")) for factor in factors)
    return [value for value in dict.fromkeys(rates) if value > 0]


def _decimal(value: object) -> str:
    """Return a number as text without an exponent, and any other value as it is."""
    return format(Decimal(repr(value)), "f") if isinstance(value, int | float) else str(value)


def _insert_filter(partial: PartialIdea) -> Grammar[Change]:
    assert partial.first_use is not None
    position, data = partial.first_use
    repeats: dict[str, Operation] = {" repeats": {"deduplicate": True}}
    condition = yield from choose("filter", repeats | {f" questions over {n} words": {"max_words": n} for n in WORD_LIMITS})
    step = {"step": "filter", "data": data, "name": data, **condition}
    return [{"op": "insert", "before": partial.address(position), "step": step}], "filter"


def _append_training(partial: PartialIdea) -> Grammar[Change]:
    """Generate a new mix and a step that trains on it.

    The new step copies batch size and adapters from the recipe's own training step. Its learning
    rate is a multiple of that step's rate. DPO is offered only after other training, and only for
    claims that have a tempting answer.
    """
    part = yield from _part(partial)
    steps = partial.recipe.steps
    own = next((s for s in steps if isinstance(s, SFT | DPO)), None) or next((s for s in steps if isinstance(s, Trained)), None)
    methods = ["sft", *(["dpo"] if own is not None and "capability" not in part["kinds"] else [])]
    method = yield from choose("method", {f" by {m}": m for m in methods})
    count = yield from choose("steps", {f" for {n} steps": n for n in NEW_STEP_COUNTS})
    rates = _rates(own.learning_rate if own is not None else 0.001, NEW_RATE_FACTORS)
    rate = yield from choose("rate", {f" at {_decimal(r)} rate": r for r in rates})
    taken = {s.name for s in steps}
    name = next(n for n in ("extra", *(f"extra-{i}" for i in range(2, MAX_PARTS_OR_STEPS + 2))) if n not in taken)
    copied = own.model_dump(mode="json", include={"batch_size", "lora", *MACHINE_FIELDS}, exclude_defaults=True) if own is not None else {}
    train = {"step": method, "data": name, "steps": count, "learning_rate": rate, **copied}
    return [{"op": "append", "step": {"step": "mix", "name": name, "parts": [part]}}, {"op": "append", "step": train}], "then"
