"""JSON and YAML that people and agents write, read strictly.

A key that is given twice is an error: the libraries take the last one without an error. Numbers of
thousands of digits, deep nesting and dates that do not exist are errors of one sentence, too.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

from stagezero.errors import InputError

MAX_YAML_DEPTH = 40


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
    # An impossible date is a ValueError, and so is a number of too many digits.
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
        return json.loads(text, object_pairs_hook=_unique_keys)
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


def _one_line(problem: Exception) -> str:
    text = " ".join(str(problem).split()) or "nested too deep"
    return "a number of too many digits" if "integer string conversion" in text else text[:300]
