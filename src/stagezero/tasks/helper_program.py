"""The program of the process that runs a user's scorer, or a pattern of Python's ``re``.

``tasks/helper.py`` starts it. It reads requests from stdin and writes replies to stdout, one JSON
object a line. What the user's code prints goes to stderr. It imports nothing of the package, so
that it starts fast.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import sys
import types
from collections.abc import Callable
from typing import Any


@functools.cache
def load_score(path: str) -> Callable[[dict[str, object], str], object]:
    """Return the function ``score`` of a file.

    The file itself is compiled. Python's import would prefer a compiled copy beside it, which no
    digest covers.
    """
    module = types.ModuleType("stagezero_user_scorer")
    module.__dict__["__file__"] = path
    sys.modules[module.__name__] = module  # as an import does; dataclasses look their module up
    with open(path, "rb") as source:  # noqa: PTH123
        exec(compile(source.read(), path, "exec"), module.__dict__)
    score: Callable[[dict[str, object], str], object] = module.score
    return score


def reply_to(request: dict[str, Any]) -> dict[str, object]:
    """Return the reply to one request: ``found``, ``outcome``, or ``error``."""
    if "pattern" in request:
        return {"found": re.search(request["pattern"], request["answer"]) is not None}
    try:
        score = load_score(request["path"])
    except BaseException as error:
        return {"error": f"could not load score(item, answer): {_describe(error)}"}
    try:
        outcome = score(request["item"], request["answer"])
    except BaseException as error:
        return {"error": f"failed: {_describe(error)}"}
    return {"outcome": (outcome if isinstance(outcome, str) else repr(outcome))[:200]}


def _describe(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"it called exit({error.code!r})"
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def main() -> None:
    """Serve requests until stdin ends."""
    requests, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    for line in requests:
        request = json.loads(line)
        text = json.dumps({**reply_to(request), "number": request["number"]}) + "\n"
        os.write(replies, text.encode())
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    os._exit(0)  # the user's code may have left threads


if __name__ == "__main__":
    main()
