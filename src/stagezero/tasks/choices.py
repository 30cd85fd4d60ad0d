"""Choices: which of the permitted answers an answer names.

A choice counts where it stands as a word or a number of its own. It does not count as a part of
another number ("1 000 100" does not name 100), of an expression (2×100, ≥ 100), or negated.
"""

from __future__ import annotations

import re
from functools import lru_cache

from stagezero.tasks.text_forms import PAIRS, fold, normalise

_CONTEXT = 80
"""Characters on each side of a choice that decide whether it counts."""

_PAIRS = (("__", "__"), ("{", "}"), *PAIRS)
"""Emphasis, quotation marks and brackets around a choice."""

_LONG_MINUS = re.compile(r"(?<![\w\u2014\u2015])[\u2014\u2015](?=[$\u20ac\u00a3\u00a5]?\d)")
"""An em dash directly before a number, and not directly after a word."""
_TAG_BEFORE = re.compile(r"<[a-z][^<>]{0,30}>\s*$", re.IGNORECASE)
_COMPARISON = (
    r"(?:(?:more|less|greater|fewer|larger|smaller|higher|lower|bigger) than(?: or equal to)?|at least|at most|up to|over|under|above|below"
    r"|exceeds|between)"
)
_UNITS = (
    r"zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen|eighteen|nineteen"
)
_TENS = r"twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
_SCALES = r"hundred|thousand|million|billion|trillion|quadrillion|quintillion|dozen|gross|lakh|crore"
_ANY_NUMBER = rf"(?:\d|(?:{_UNITS}|{_TENS}|{_SCALES})\b)"
_IS_NUMBER_WORD = re.compile(rf"(?:{_UNITS}|{_TENS}|{_SCALES})")

_PART_BEFORE = re.compile(
    # a sign, a point or a comma
    r"(?:^|\W)[-+] ?[$\u20ac\u00a3\u00a5]? ?$"
    r"|[)}\]]$|\.$|(?<![^\W\d_]),$|\d[/:]$"
    # an operator or a comparison, but no arrow, bullet or emphasis
    r"|(?<![-=])[<>]=? ?$"
    r"|[\u2264\u2265\u2260\u226a\u226b\u2266\u2267\u2a7d\u2a7e\u00b1\u2213\u221a\u221b\u221c\u00d7\u00f7^\u2044\u2215] ?$"
    r"|!= ?$|(?:\d|\)|\b[^\W\d_]) ?(?:\*{1,2}|[/\u00b7\u22c5\u2219\u2022]) ?$|\d x $"
    # words
    rf"|\b(?:minus|negative|plus|times|divided by|multiplied by|to the power of|{_COMPARISON}) $"
    rf"|\b(?:sqrt|log|ln|exp|sin|cos|tan) ?$|(?:\b(?:root|half|third|quarter|percent|power|factorial|square|cube|logarithm|log|out)|%) of $"
    # the upper end of a range
    rf"|\bbetween [^.;!?]{{1,20}} and $|{_ANY_NUMBER}\S*(?: \w+)? to $",
    re.IGNORECASE,
)
"""What stands before a number that is a part of another number or expression."""

_WORD_BEFORE = re.compile(rf"\b(?:{_SCALES})(?: and)? $|\b(?:{_TENS}) $|\b(?:zero|\d) point $", re.IGNORECASE)
"""Words before the rest of a number; "twenty (20)" is a number in words and in digits."""

_PART_AFTER = re.compile(
    r"[.,/:'\u00b7\u066b\u066c]\d| \d{3}\b| \d+/\d|[.] \d|\.{2,3} ?\d"
    r"| ?[\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u209f\u2150-\u215f\u2189]"
    r"| ?[*]{1,2} ?\d| ?[/\u2044\u2215\u00f7\u00d7\u00b7\u22c5\u2219-] ?\(?\d| ?\+ ?\(?\d|\+| x \d"
    r"| ?[\u00d7^\u00b1\u2213\u2264\u2265\u2260]"
    r"| ?[<>]=? ?(?:\d|[a-z]\b(?!>))|\{"
    rf"|[ -](?:{_SCALES}|tenth|hundredth|thousandth|millionth)s?\b| (?:squared|cubed|factorial|or (?:more|less|fewer|higher|lower))\b"
    rf"| (?:times|plus|minus|divided by|multiplied by|to|point) {_ANY_NUMBER}| (?:raised )?to the (?:power|\w+th power)"
    rf"| and (?:a|an|one|two|three|\d/?\d?) ?(?:half|thirds?|quarters?|fifths?|tenths?)\b| (?:half|halves|thirds?|quarters?)\b",
    re.IGNORECASE,
)
"""What stands after a number that is a part of another number or expression."""

_THOUSANDS_BEFORE = re.compile(r"(?<![\d.,])\d{1,3}(?:[ ']\d{3})*[ ']$")

_NEGATOR = (
    r"(?:\b(?:not|never|neither|nor|hardly|no longer|far from|anything but|(?<!none )(?<!no )(?<!nothing )other than|rather than|instead of"
    r"|isnt|wasnt|arent|werent|aint)|n't)"
)
_CLAUSE = r"(?:(?! but | so | therefore | because | - )[^.,;:!?\u2014])*"
_NEGATED_BEFORE = re.compile(
    rf"{_NEGATOR}(?: (?:a|an|the|be|been|really|actually|exactly|quite|necessarily|always|entirely|at all|in fact"
    r"|simply|ever|even|called))* $"
    rf"|{_NEGATOR} (?:the case|true|correct|right|so|think|believe|mean|say|claim|suppose|imply)\b{_CLAUSE}$"
    rf"|\b(?:false|wrong|incorrect|untrue) that\b{_CLAUSE}$",
    re.IGNORECASE,
)
"""A negation of what follows it; "not only" is none."""

_REJECTED_AFTER = re.compile(
    r" (?:is|was|would be)"
    r"(?: (?:wrong|incorrect|untrue)|(?: not|n't) (?:right|correct|true|the (?:right |correct )?(?:answer|one|case)))\b",
    re.IGNORECASE,
)
_AFTER_NO = r"(?! (?:idea|one|more|doubt|matter|longer|clue|comment)\b)"


@lru_cache(maxsize=256)
def _choice_pattern(choices: tuple[str, ...]) -> re.Pattern[str]:
    # The longest choice comes first, so that "Papua New Guinea" does not also count as "Guinea".
    parts = [
        (r"(?<![!-])" if len(c) == 1 and not c.isdigit() else "")
        + re.escape(c)
        + (r"(?![+#])" if len(c) == 1 and not c.isdigit() else _AFTER_NO if c == "no" else "")
        for c in sorted(set(choices), key=lambda c: (-len(c), c))
        if c
    ]
    if not parts:
        return re.compile(r"(?!)")
    # Neither "New-York" nor "York's-end" names York.
    return re.compile(r"(?<![^\W_])(?<!\w-)(?:" + "|".join(parts) + r")(?![^\W_])(?!-\w)")


def _counts(text: str, start: int, end: int) -> bool:
    """Return whether the choice at this place is named, and not negated or a part of a number."""
    before, after = text[max(0, start - _CONTEXT) : start], text[end : end + _CONTEXT]
    found = text[start:end]
    enclosed = False
    while pair := next(((a, b) for a, b in _PAIRS if before.endswith(a) and after.startswith(b)), None):
        before, after, enclosed = before[: -len(pair[0])], after[len(pair[1]) :], True
        if (before[-1:].isalnum() and (before[-1:].isdigit() or pair[0] not in "({")) or after[:1].isalnum():
            return False
    if before.endswith("_") or after.startswith("_"):
        return False
    if _NEGATED_BEFORE.search(before) or _REJECTED_AFTER.match(after):
        return False
    word = _IS_NUMBER_WORD.fullmatch(found.casefold()) is not None
    if word or found[0].isdigit() or (found[0] in "-+.$\u20ac\u00a3" and found[1:2].isdigit()):
        if _PART_BEFORE.search(_TAG_BEFORE.sub("", before)) or (not enclosed and _WORD_BEFORE.search(before)):
            return False
        if not enclosed and re.match(r"\d{3}(?!\d)", found) and _THOUSANDS_BEFORE.search(before):
            return False
    return not ((word or found[-1].isdigit()) and _PART_AFTER.match(after))


def _named(choices: tuple[str, ...], text: str) -> set[str]:
    text = text if text.isascii() else _LONG_MINUS.sub("-", text)
    return {found[0] for found in _choice_pattern(choices).finditer(text) if _counts(text, *found.span())}


def named_choices(choices: tuple[str, ...], answer: str) -> set[str]:
    """Return the choices that an answer names, in normalised form.

    Choices that are single letters count in their own case only, since "a" and "i" are words. An
    answer that consists of one letter counts in any case.
    """
    forms = tuple(normalise(choice) for choice in choices)
    whole = normalise(answer)
    if whole in forms:
        return {whole}
    if all(len(choice) == 1 and choice.isalpha() for choice in choices):
        return {normalise(found) for found in _named(choices, fold(answer))}
    return _named(forms, fold(answer).casefold())
