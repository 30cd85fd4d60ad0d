"""Finds the idea file in a language model's reply, whatever text surrounds it.

Replies are untrusted text. This module reads them line by line, limits their size, and opens no
file that they name.
"""

from __future__ import annotations

from bisect import bisect

import yaml

from stagezero.errors import IdeaError
from stagezero.ideas.idea import MAX_IDEA_BYTES

MAX_REPLY_CHARACTERS = 64 * 1024
"""Characters of a reply that are read; an idea has at most an eighth of that."""
MAX_FRONT_MATTER_CHARACTERS = 2 * MAX_IDEA_BYTES
"""Characters of front matter that are parsed as YAML."""
MAX_NESTING_LEVELS = 40
"""Levels to which front matter may be nested."""


def extract_idea_file(reply: str) -> str:
    """Return the first idea file of a reply: its front matter, and the Python blocks after it.

    The reply is read once, line by line, so even a hostile reply takes little time.

    Raises:
        IdeaError: the reply contains no idea file.
    """
    if not reply.strip():
        raise IdeaError("the reply: expected one idea file, got nothing; write one.")
    lines = reply.split("\n")
    rules = [number for number, line in enumerate(lines) if line.strip() == "---"]
    titles = [number for number, line in enumerate(lines) if line.lstrip().startswith("title:")]
    # Text before the idea file may contain lines of dashes too. The front matter is the part
    # between two such lines that has a title.
    last = max(bisect(rules, titles[0]), 1) if titles else 1
    if last >= len(rules):
        raise IdeaError("the reply: expected front matter between two lines of three dashes; write the whole idea file.")
    front = "\n".join(lines[rules[last - 1] + 1 : rules[last]])
    if len(front) > MAX_FRONT_MATTER_CHARACTERS:
        raise IdeaError(
            f"the reply: expected at most {MAX_FRONT_MATTER_CHARACTERS:,} characters of front matter, got {len(front):,}; write less."
        )
    _check_yaml_events(front)
    next_title = next((title for title in titles if title > rules[last]), len(lines))
    blocks = _python_blocks(lines[rules[last] + 1 : next_title])
    return f"---\n{front}\n---\n" + "".join(f"```python\n{block}\n```\n" for block in blocks)


def _python_blocks(lines: list[str]) -> list[str]:
    """Return the closed blocks of Python in some lines of Markdown."""
    blocks: list[str] = []
    block: list[str] | None = None
    for line in lines:
        mark = line.strip().lower()
        if block is None:
            block = [] if mark in ("```python", "```py") else None
        elif mark == "```":
            blocks.append("\n".join(block))
            block = None
        else:
            block.append(line)
    return blocks


def _check_yaml_events(front: str) -> None:
    """Check front matter as a stream of YAML events, before any object is made of it.

    A later stage would look for every file that an idea names, and deep nesting is slow to parse.

    Raises:
        IdeaError: the front matter names files, or is nested too deeply.
    """
    depth = 0
    try:
        for event in yaml.parse(front, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_NESTING_LEVELS:
                raise IdeaError(f"the reply: the front matter is nested deeper than {MAX_NESTING_LEVELS} levels; write it more plainly.")
            if isinstance(event, yaml.ScalarEvent) and event.value == "inputs":
                raise IdeaError("the reply: 'inputs': a model's idea may name no files; leave it out.")
    except (yaml.YAMLError, ValueError):
        return  # ``parse_idea`` reports invalid YAML
