"""JSON and YAML that people and agents write, read strictly.

A key that is given twice is an error: the libraries take the last one without an error. Numbers of
thousands of digits, deep nesting, dates that do not exist and halves of characters are errors of
one sentence, too.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from stagezero.errors import InputError

MAX_YAML_DEPTH = 40
MAX_NUMBER_CHARACTERS = 100
_UNUSABLE_CHARACTER = re.compile("[\ud800-\udfff]")
"""Half of a character that UTF-16 writes as two. An escape such as "\\ud800" makes one."""


class _StrictLoader(yaml.SafeLoader):
    """Builds a document's values. Rejects repeated keys and deep nesting."""

    aliases = True

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose one node of the document."""
        if not self.aliases and self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("expected a value, got an alias (*name); write the value out")
        if self._depth >= MAX_YAML_DEPTH:
            raise yaml.YAMLError(f"it is nested deeper than {MAX_YAML_DEPTH} levels; use fewer levels")
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
        """Compose one text, number or other single value."""
        node = super().compose_scalar_node(anchor)
        where = f"line {node.start_mark.line + 1}"
        if node.tag in _NUMBER_TAGS and len(node.value) > MAX_NUMBER_CHARACTERS:
            raise yaml.YAMLError(f"{where}: {_too_long(node.value)}")
        if "\0" in node.value:
            raise yaml.YAMLError(f"{where}: the text has a NUL character; leave it out")
        if _UNUSABLE_CHARACTER.search(node.value):  # JSON writes a whole character as two halves
            node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
        if half := _UNUSABLE_CHARACTER.search(node.value):
            raise yaml.YAMLError(f"{where}: {_half_a_character(half[0])}")
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build one mapping."""
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in lines:
                    raise yaml.YAMLError(f"key {key.value!r} is given on line {lines[key.value]} and again on line {line}; remove one")
                lines[key.value] = line
        return super().construct_mapping(node, deep)


_NUMBER_TAGS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
# The words and numbers of YAML 1.2 only: YAML 1.1 reads 010 as 8, 1:30 as 90, and yes as true.
_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("bool", "int", "float")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)|0x[0-9a-fA-F]+|0o[0-7]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|(0|[1-9][0-9_]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+.0123456789"),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


class _StrictLoaderWithoutAliases(_StrictLoader):
    """Also rejects aliases, with which a short text can stand for a very long one."""

    aliases = False


def parse_yaml(text: str, where: str, error: type[InputError], aliases: bool = True) -> Any:
    """Parse a YAML document.

    Args:
        text: the document.
        where: its origin; the error message begins with this.
        error: the class of the error to raise.
        aliases: whether a value may refer to another one (``*name``).

    Raises:
        InputError: of the given class, if the text is not YAML or a key is given twice.
    """
    try:
        return yaml.load(text, _StrictLoader if aliases else _StrictLoaderWithoutAliases)
    # An impossible date is a ValueError.
    except (yaml.YAMLError, ValueError, RecursionError, OverflowError) as problem:
        raise error(f"{where}: not valid YAML ({_one_line(problem)}); correct it.") from None


def parse_json(text: str, where: str, error: type[InputError]) -> Any:
    """Parse one JSON value.

    Args:
        text: the JSON text.
        where: its origin; the error message begins with this.
        error: the class of the error to raise.

    Raises:
        InputError: of the given class, if the text is not JSON or a key is given twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_int=_parse_int, parse_float=_parse_float)
        if r"\u" in text or _UNUSABLE_CHARACTER.search(text):
            _reject_half_characters(value, "")
        return value
    except json.JSONDecodeError as problem:
        raise error(f"{where}: not valid JSON ({problem.msg} at column {problem.colno}); correct it.") from None
    except RecursionError:
        raise error(f"{where}: not valid JSON (nested too deep); correct it.") from None
    except ValueError as problem:
        raise error(f"{where}: not valid JSON ({_one_line(problem)}); correct it.") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {twice!r:.60} is given twice; remove one")
    return value


def _parse_int(text: str) -> int:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise ValueError(_too_long(text))
    return int(text)


def _parse_float(text: str) -> float:
    if len(text) > MAX_NUMBER_CHARACTERS:
        raise ValueError(_too_long(text))
    return float(text)


def _too_long(number: str) -> str:
    return f"a number of too many digits ({len(number):,}); write at most {MAX_NUMBER_CHARACTERS}"


def _half_a_character(half: str) -> str:
    return f"the text has half a character (\\u{ord(half):04x}); write the whole character"


def _reject_half_characters(value: Any, place: str) -> None:
    """Reject half a character in any text of a JSON value.

    Raises:
        ValueError: the keys that lead to the text, and the fix.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            _reject_half_characters(key, place)
            _reject_half_characters(inner, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _reject_half_characters(inner, f"{place}.{number}" if place else str(number))
    elif isinstance(value, str) and (half := _UNUSABLE_CHARACTER.search(value)):
        raise ValueError((f"{place!r}: " if place else "") + _half_a_character(half[0]))


def _one_line(problem: Exception) -> str:
    return (" ".join(str(problem).split()) or "nested too deep")[:300]
