"""The idea file in a language model's reply, whatever stands around it. Replies are untrusted text: read line by line, and cut to size."""

from __future__ import annotations

from bisect import bisect

import yaml

from stagezero.errors import IdeaError
from stagezero.ideas.idea import MAX_BYTES

LOOKED_AT = 64 * 1024
"""Characters of a reply that are looked at; an idea has at most an eighth of that."""
FRONT = 2 * MAX_BYTES
"""Characters of front matter that are read as YAML."""
DEEPEST = 40
"""Levels that front matter may nest."""


def extract(reply: str) -> str:
    """The first idea file of a reply, whatever stands around it: its front matter and, of what follows, the blocks of Python.

    Read line by line, so that no reply takes long.

    Raises:
        IdeaError: there is nothing like an idea file.
    """
    if not reply.strip():
        raise IdeaError("the reply: expected one idea file, got nothing; write one.")
    lines = reply.split("\n")
    rules = [number for number, line in enumerate(lines) if line.strip() == "---"]
    titles = [number for number, line in enumerate(lines) if line.lstrip().startswith("title:")]
    # Rules may stand in the chatter before: the front matter is what has a title.
    last = max(bisect(rules, titles[0]), 1) if titles else 1
    if last >= len(rules):
        raise IdeaError("the reply: expected front matter between two lines of three dashes; write the whole idea file.")
    front = "\n".join(lines[rules[last - 1] + 1 : rules[last]])
    if len(front) > FRONT:
        raise IdeaError(f"the reply: {len(front):,} characters of front matter; at most {MAX_BYTES:,} bytes may cross, so write less.")
    _look_over(front)
    following = next((t for t in titles if t > rules[last]), len(lines))
    return f"---\n{front}\n---\n" + "".join(f"```python\n{block}\n```\n" for block in _blocks(lines[rules[last] + 1 : following]))


def _blocks(lines: list[str]) -> list[str]:
    """The closed blocks of Python among some lines."""
    found: list[str] = []
    block: list[str] | None = None
    for line in lines:
        mark = line.strip().lower()
        if block is None:
            block = [] if mark in ("```python", "```py") else None
        elif mark == "```":
            found.append("\n".join(block))
            block = None
        else:
            block.append(line)
    return found


def _look_over(front: str) -> None:
    """Look at the events of some YAML before anything is made of it: a name of a file would be looked up, and nesting takes long to undo.

    Raises:
        IdeaError: it names files to bring along, or is nested too deep.
    """
    depth = 0
    try:
        for event in yaml.parse(front, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:
                raise IdeaError(f"the reply: the front matter is nested deeper than {DEEPEST} levels; write it more plainly.")
            if isinstance(event, yaml.ScalarEvent) and event.value == "inputs":
                raise IdeaError("the reply: 'inputs': expected none, since a model brings no files along; leave it out.")
    except (yaml.YAMLError, ValueError):
        return  # what is not YAML is refused where it is read
