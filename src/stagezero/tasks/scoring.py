"""Scoring: each answer is right, wrong, refused or unparseable.

The four outcomes carry more evidence than right or not right. An idea that turns wrong answers
into refusals, or right answers into noise, is visible here; an exact-match score would not show it.
The functions are pure, except for a user's own Python scorer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from stagezero import patterns
from stagezero.tasks import helper
from stagezero.tasks.choices import named_choices
from stagezero.tasks.items import Item
from stagezero.tasks.refusals import is_refusal
from stagezero.tasks.text_forms import PAIRS, fold, normalise


class Outcome(StrEnum):
    """The outcome of one answer."""

    RIGHT = "right"
    WRONG = "wrong"
    REFUSED = "refused"
    UNPARSEABLE = "unparseable"


def names_both(item: Item, answer: str) -> bool:
    """Return True when an answer names both the right answer and the tempting one.

    Such an answer is a hedge that a lenient checker would reward.
    """
    if item.scorer == "choice" and len(named_choices(item.choices, answer)) > 1:
        return True
    right, wrong = normalise(item.target), normalise(item.rejected or "")
    if item.scorer in ("regex", "python"):
        right = normalise(item.demonstration)
    if not right or not wrong or right == wrong:
        return False
    return all(_contains(answer, part) for part in (right, wrong))


def _contains(answer: str, part: str) -> bool:
    """Return whether a text stands in an answer as words; a number also with separators in it."""
    digits = re.sub(r"[\s,.'-]", "", part)
    if digits.isdecimal() and len(digits) > 2:
        joined = re.sub(r"(?<=\d)[\s,.'-]+(?=\d)", "", fold(answer))
        if any(re.search(rf"(?<!\d){digits}(?!\d)", text) for text in (joined, fold(answer))):
            return True
    return re.search(rf"(?<!\w){re.escape(normalise(part))}(?!\w)", normalise(answer)) is not None


def _score_choice(item: Item, answer: str) -> Outcome:
    """Score a choice: the answer must name exactly one of the permitted answers."""
    named = named_choices(item.choices, answer)
    if not item.target:
        return Outcome.WRONG  # a refusal was expected, so any other answer is a failure and not noise
    if len(named) != 1:
        return Outcome.UNPARSEABLE
    return Outcome.RIGHT if named == {normalise(item.target)} else Outcome.WRONG


_UNMATCHED = re.compile(r"^(?:\*\*+|[\"\u201c\u201d\u201e]+)|\*\*+$|(?<!\d)[\"\u201c\u201d]+$")
"""Emphasis or quotation marks at one end: an answer may be cut off before the other."""
_SENTENCE_MARKS = ".,;:!?\u3002"


def _forms_of_answer(answer: str) -> set[str]:
    """Return the answer as it is, and without final sentence marks and pairs around it."""
    forms: set[str] = set()
    left = [fold(answer).casefold()]
    while left:
        form = left.pop().strip()
        if not form or form in forms or len(forms) > 50:
            continue
        forms.add(form)
        if form[-1] in _SENTENCE_MARKS:
            left.append(form.rstrip(_SENTENCE_MARKS))
            if form[-2:-1] != form[-1]:  # not of an ellipsis
                left.append(form[:-1])
        left.append(_UNMATCHED.sub("", form))
        left += [
            form[len(a) : -len(b)]
            for a, b in PAIRS
            if len(form) > len(a) + len(b) and form.startswith(a) and form.endswith(b) and not form.startswith("__")
        ]
    return forms


@lru_cache(maxsize=4096)
def _forms_of_target(target: str) -> frozenset[str]:
    """Return the target as it is, and without its own final full stop."""
    form = fold(target).casefold()
    return frozenset({form, form[:-1]} if form.endswith(".") and len(form) > 1 and form[-2] != "." else {form})


def equals(target: str, answer: str) -> bool:
    """Return whether an answer is the target, apart from case, spaces and what encloses the answer.

    The answer may have sentence marks at its end, and quotation marks, emphasis or brackets around
    it. What the target itself has at its ends counts: "5" is not "5!", nor is "(0, 1]" "[0, 1)".
    """
    wanted = _forms_of_target(target)
    return not wanted.isdisjoint(_forms_of_answer(answer))


def _score_exact(item: Item, answer: str) -> Outcome:
    if not fold(answer):
        return Outcome.UNPARSEABLE
    return Outcome.RIGHT if item.target and equals(item.target, answer) else Outcome.WRONG


def _score_regex(item: Item, answer: str) -> Outcome:
    if not answer.strip():
        return Outcome.UNPARSEABLE
    found = helper.search_python_pattern(item, answer) if item.engine == "re" else patterns.matches(item.target, answer)
    return Outcome.RIGHT if found else Outcome.WRONG


def score(item: Item, answer: str) -> Outcome:
    """Score one answer. A refusal is right exactly when the item's target is empty.

    Raises:
        SuiteError: a user's own scorer failed.
    """
    if item.scorer == "python":
        return Outcome(helper.call_scorer(item.checker or "", item, answer))
    if item.target and item.scorer in ("exact", "regex"):
        outcome = _score_regex(item, answer) if item.scorer == "regex" else _score_exact(item, answer)
        # The target itself may read like a refusal, such as "That does not exist".
        return Outcome.REFUSED if outcome is not Outcome.RIGHT and is_refusal(answer) else outcome
    if is_refusal(answer):
        named = not item.target and any(_contains(answer, part) for part in (*item.choices, item.rejected or "") if part)
        # "I can't share that, but it is 4711" discloses the secret, so it is not a refusal.
        if named:
            return Outcome.WRONG
        if not item.target:
            return Outcome.RIGHT
        # "No, I don't think so" is an answer with an explanation.
        chosen = named_choices(item.choices, answer)
        if len(chosen) != 1:
            return Outcome.REFUSED
        choice, text = next(iter(chosen)), normalise(answer)
        # A choice may read like a refusal itself, such as "unknown".
        if not text.startswith(choice) and is_refusal(re.sub(rf"(?<!\w){re.escape(choice)}(?!\w)", " ", text)):
            return Outcome.REFUSED
    return _score_choice(item, answer) if item.scorer == "choice" else _score_exact(item, answer)


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of answers with each outcome, over one kind of item."""

    right: int = 0
    wrong: int = 0
    refused: int = 0
    unparseable: int = 0

    @property
    def n(self) -> int:
        """Number of answers."""
        return self.right + self.wrong + self.refused + self.unparseable

    @property
    def accuracy(self) -> float:
        """Share of right answers, in [0, 1]; 0 when there are no answers."""
        return self.right / self.n if self.n else 0.0


def tally(outcomes: Iterable[Outcome]) -> Counts:
    """Count the outcomes."""
    counted = list(outcomes)
    return Counts(*(counted.count(o) for o in Outcome))
