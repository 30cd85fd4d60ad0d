"""Texts in a form in which they can be compared: without the differences that carry no meaning."""

from __future__ import annotations

import unicodedata

_OUTER = " .,;:!?\"'`*_()[]\u201c\u201d\u201e\u00ab\u00bb\u3002"
"""Characters that ``normalise`` removes at both ends."""

_INVISIBLE = "\u00ad\u200b\u200c\u200d\u2060\ufeff"
_DASHES = "\u2010\u2011\u2012\u2013\u2212"
_PLAIN_FORMS = str.maketrans(
    dict.fromkeys("\u2018\u2019\u02bc\u2032\u00b4`", "'") | dict.fromkeys(_INVISIBLE) | dict.fromkeys(_DASHES, "-")
)
_BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Letters, marks and symbols that are drawn as nothing."""

PAIRS = (
    ("**", "**"), ("*", "*"), ("_", "_"), ("'", "'"), ('"', '"'), ("\u201c", "\u201d"), ("\u201e", "\u201c"), ("\u201e", "\u201d"),
    ("\u00ab", "\u00bb"), ("\u00bb", "\u00ab"), ("\u2039", "\u203a"), ("\u300c", "\u300d"), ("\u300e", "\u300f"), ("(", ")"), ("[", "]"),
)  # fmt: skip
"""Emphasis, quotation marks and brackets that may enclose an answer or a choice."""


def fold(text: str) -> str:
    """Return the text without compatibility forms, with plain apostrophes and single spaces.

    Superscripts, subscripts and fractions remain: 5² is not 52.
    """
    if text.isascii():  # the common case, and much faster
        return " ".join(text.replace("`", "'").split())
    not_folded = ("<super>", "<sub>", "<fraction>")
    text = text.translate(_PLAIN_FORMS)  # before: an acute accent alone would become a space
    folded = "".join(c if unicodedata.decomposition(c).startswith(not_folded) else unicodedata.normalize("NFKC", c) for c in text)
    return " ".join(unicodedata.normalize("NFC", folded).translate(_PLAIN_FORMS).split())


def normalise(text: str) -> str:
    """Return the text folded (see ``fold``), in lower case, without punctuation at its ends.

    A point or comma before a digit remains, so that .5 is not 5, and a text of punctuation alone
    remains whole.
    """
    text = fold(text).casefold()
    left = text.lstrip(_OUTER)
    if left[:1].isdigit() and text[: -len(left)].endswith((".", ",")):
        left = text[-len(left) - 1 :]
    return left.rstrip(_OUTER) or text


def is_visible(text: str) -> bool:
    """Return whether a text has a character that a reader would see."""
    return any(
        unicodedata.category(c)[0] not in "CZ" and c not in _BLANK and not "\ufe00" <= c <= "\ufe0f" for c in text if not c.isspace()
    )
