"""Which questions are one question: a key that two forms of the same question share."""

from __future__ import annotations

import re
import unicodedata

from stagezero.tasks.text_forms import fold

_LOOK_ALIKES = str.maketrans("\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u03bf\u03b1", "aeopcyxioa")
_LABEL = re.compile(r"^(?:(?:q|question)\b[\s:,.\-]+|(?:#{1,6}|[*\-+\u2022]) +(?![\d.\-]))+")
_ENDS = " .,;:!?*\"'\u2026\u3002"

_OFFSET = 0xF0000  # plane 15 is for private use, and the punctuation that is marked is below 0x10000

_COUNTED_PUNCTUATION = frozenset("&@#%/\\\u00a7\u00b6\u2020\u2021\u2030\u2031\u203b*")

_FORMULA = re.compile(
    r"(?<=\d)[.,:;'](?=\d)"  # 1.5 and 3:4
    r"|!(?==)|(?<=\d)\s*-\s*(?=-)"  # 3 != 4, 5 - -3
    r"|(?<!\w)[.,](?=\d)"  # .5
    r"|(?<=\d)\s*-\s*(?=\d)|(?<=\d)-(?=\w)|(?<![\w-])-(?=\w)|(?<=\b\w)\s*-\s*(?=\w\b)|(?<=[)\]])\s*-\s*(?=[\w(])|(?<=\w)\s*-\s*(?=[(\[])"
    r"|^- ?(?=\d)|[\u2014\u2015](?=\d)"
    r"|(?<=\d)!|(?<=\b[^\W\d_])!|(?<=\))!|(?<!\w)[!?](?=\w)"  # 3! and n!
    r"|(?<=[-+*/^=<>\u00d7\u00f7\u221a\u00b7\w])[(\[{]|(?<=[-+*/^=<>\u00d7\u00f7] )[(\[{]"  # f(x), 2*(3+4)
    r"|[)\]}](?=\s?[-+*/^=<>\u00d7\u00f7])"
    r"|(?<=\s)\.(?= [a-z])|(?<=\s)[!?](?= (?:mean|stand|do|used|called|indicate|denote|represent|in|for)\b)"  # What does ! mean?
    r"|(?<!\S)[.\-\u00b7][.\-\u00b7 ]*[.\-\u00b7](?![^\s?!:;,)\]\"'])"  # Morse
    r"|(?<=\d)\u00b7(?=\d)"
)
_BOUND = r"\s*(?:[^\s,;()\[\]]*\d[^\s,;()\[\]]*|[-+]?[^\s,;()\[\]])\s*"
_INTERVAL = re.compile(rf"([\[(\]])({_BOUND}[,;]{_BOUND})([\])\[])")
"""An interval, a point or a list of two: [0, 1) and (x; y]."""
_EMPHASIS = re.compile(r"(?<![\w*])(\*{1,3})(?=[^\s*])([^*]*[^\s*])\1(?![\w*])")


def _marked(text: str) -> str:
    """Return signs as characters for private use, which are no punctuation."""
    return "".join(chr(_OFFSET + ord(c)) for c in text if not c.isspace())


def same_question_key(text: str) -> str:
    """Return what two forms of one question have in common: words, numbers and symbols, in order.

    Case, spaces, invisible characters, quotation marks, emphasis, punctuation of sentences, a
    label before it ("Q:"), and letters of other alphabets that look the same do not count. Symbols,
    accents and other marks of letters do, and so does punctuation in a formula.
    """
    folded = unicodedata.normalize("NFC", fold(text).casefold())
    plain = "".join(c for c in folded if _is_content(c))
    plain = _LABEL.sub("", plain.strip())
    plain = re.sub(r"^[<\u2039]([^<>]+)[>\u203a]([.!?]?)$", r"\1\2", plain)
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFD", plain).translate(_LOOK_ALIKES))
    body = re.sub(r"(?<=\d) ?= ?(?=[?_.]*$)", "", _EMPHASIS.sub(r"\2", plain).lstrip("*"))
    body = _INTERVAL.sub(lambda found: _marked(found[1]) + found[2] + _marked(found[3]), body)
    body = _FORMULA.sub(lambda found: f" {_marked(found[0])} ", body)
    body = body.rstrip(_ENDS)
    return " ".join("".join(map(_token, body)).split()) or plain


def _is_content(char: str) -> bool:
    """Return whether a character is visible: no format character or variation selector."""
    if "\U000e0020" <= char <= "\U000e007f":
        return True  # the letters of a flag
    return unicodedata.category(char) != "Cf" and not ("\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef")


def _token(char: str) -> str:
    """Return a letter, digit or mark as it is, a sign with spaces, and a space for the rest."""
    category = unicodedata.category(char)
    if category[0] in "LNM" or category == "Cf":
        return char
    return f" {char} " if category[0] == "S" or category == "Co" or char in _COUNTED_PUNCTUATION else " "
