"""A user's own scorer: a Python file with ``score(item: dict, answer: str) -> str``.

The function returns one of right, wrong, refused, unparseable. The file belongs to the user and
runs with the user's rights. Its bytes are part of the suite's digest. Only ``scoring`` calls this
module.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from stagezero.errors import SuiteError

if TYPE_CHECKING:
    from stagezero.tasks.items import Item

OUTCOMES = ("right", "wrong", "refused", "unparseable")


@lru_cache(maxsize=32)
def load_scorer(path: str) -> Callable[[dict[str, object], str], str]:
    """Load the function ``score`` from a file.

    Raises:
        SuiteError: the file is missing, fails to run, or has no function ``score``.
    """
    if not Path(path).is_file():
        raise SuiteError(f"scorer {path!r}: expected a Python file with a function score(item, answer), found no file; correct the path.")
    spec = importlib.util.spec_from_file_location("stagezero_user_scorer", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        function = module.score
    except Exception as error:
        raise SuiteError(f"scorer {path!r}: could not load score(item, answer): {error}; correct the file.") from error
    return function  # type: ignore[no-any-return]


def call_scorer(path: str, item: Item, answer: str) -> str:
    """Score one answer with a user's function.

    Raises:
        SuiteError: the function raised an exception, or returned something that is not an outcome.
    """
    try:
        outcome = load_scorer(path)(asdict(item), answer)
    except SuiteError:
        raise
    except Exception as error:
        raise SuiteError(f"scorer {path!r} failed on item {item.id!r}: {type(error).__name__}: {error}; correct it.") from error
    if outcome not in OUTCOMES:
        raise SuiteError(
            f"scorer {path!r} returned {outcome!r} for item {item.id!r}; expected one of {', '.join(OUTCOMES)}; correct its return value."
        )
    return outcome
