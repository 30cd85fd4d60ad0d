"""Suites by name: ``atlas``, ``atlas+graded``, or the path of a JSONL file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from stagezero.errors import SuiteError
from stagezero.tasks.items import Suite

DEFAULT_ANSWER_TOKENS = 24
"""Longest answer, in tokens, to an item of atlas, and shortest limit of any suite."""


def answer_tokens(suite: Suite) -> int:
    """Return the most tokens that an answer to an item of a suite may have.

    For a user's file that is the length in bytes of its longest right answer, and 8 more: no
    tokenizer needs more than one token for a byte.
    """
    longest = getattr(suite, "longest_answer_bytes", None)
    return DEFAULT_ANSWER_TOKENS if longest is None else max(DEFAULT_ANSWER_TOKENS, int(longest) + 8)


def full_suite_name(name: str, folder: Path = Path()) -> str:
    """Return the name under which a worker process can load a suite.

    Args:
        name: the suite's name.
        folder: the folder that a relative path of a file starts from.

    Returns:
        The absolute path for a JSONL file; otherwise ``name``.
    """
    return str((folder / name).resolve()) if name.endswith(".jsonl") else name


@lru_cache(maxsize=8)
def load_suite(name: str) -> Suite:
    """Load a suite.

    Raises:
        SuiteError: no such suite or file exists, or a line of the file is malformed.
    """
    if name in ("atlas", "atlas+graded"):
        from stagezero.tasks.atlas import Atlas

        return Atlas(graded=name.endswith("graded"))
    if not name.endswith(".jsonl"):
        raise SuiteError(f"suite {name!r}: expected 'atlas', 'atlas+graded' or the path of a .jsonl file; correct the name.")
    from stagezero.tasks.jsonl import JsonlSuite

    return JsonlSuite(Path(name))
