"""Adds a suite to an auditor: its sealed items, its terms, its shadow, and the measurement that its worst audit fits the slot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stagezero.auditor.budget_tables import SHADOW, Suite
from stagezero.auditor.examiner import Examiner
from stagezero.auditor.sealed import Sealed, sealed_suite
from stagezero.auditor.shadow import add_shadow
from stagezero.auditor.storage import Storage
from stagezero.door.messages import Terms
from stagezero.errors import DoorError, InputError, ModelError, explain
from stagezero.models import materialise
from stagezero.models.checkpoint import check

FOREVER = 86400.0
MEASURED = 1000
"""Questions on which the worst audit is measured, evenly spread; more are counted in proportion."""


def bars_of(given: Sequence[str]) -> dict[str, float]:
    """``["privacy=0.8", …]`` as claim → bar.

    Raises:
        InputError: one of them is none.
    """
    found = {}
    for text in given:
        claim, sign, value = text.partition("=")
        try:
            found[claim] = float(value)
        except ValueError:
            sign = ""
        if not sign or not claim:
            raise InputError(f"--bar: expected claim=0.8, got {text!r}; correct it.")
    return found


def add_suite(
    storage: Storage,
    sealed: str,
    name: str,
    bars: Sequence[str],
    shadow: str | None,
    slowest: str | None,
    tell: Callable[[str], None],
    **terms: Any,
) -> Suite:
    """Add a suite as the command line describes it.

    Args:
        sealed: a JSONL file, or atlas.
        bars: claim=bar, each.
        shadow: a file for the shadow, or atlas; None for none.
        slowest: a model of the largest size expected, by name; None measures nothing.
        tell: who is told what was measured.
        terms: the rest of ``Terms``.

    Raises:
        InputError: naming what is wrong.
        DoorError: the items have a budget already, or the worst audit does not fit the slot.
    """
    generated = sealed in ("atlas", "atlas+graded")
    try:
        kind = {"suite": sealed} if generated else {"suite": "jsonl", "sealed": sealed}
        found = Terms.model_validate({**kind, "bars": bars_of(bars), "shadow": shadow is not None, **terms})
    except ValidationError as error:
        raise InputError(explain(error, "audit add")) from None
    if name.endswith(SHADOW):
        raise InputError(f"--name: expected a name that does not end in {SHADOW}, got {name!r}; rename the suite.")
    if slowest is not None:
        items = sealed_suite(name, found, storage.secret)
        worst = measure_worst(Examiner(storage.settings.memory), items, materialise(slowest))
        tell(f"the worst audit of a model like {slowest} takes {worst:.1f} s; the slot is {storage.settings.slot:.0f} s")
        if 2 * worst > storage.settings.slot:
            raise DoorError(
                f"--slowest: the worst audit takes {worst:.1f} s and the slot is {storage.settings.slot:.0f} s; set up an auditor with a "
                f"slot of at least {2 * worst:.0f}s."
            )
    suite = storage.add(name, found)
    if shadow is not None:
        add_shadow(storage, suite, shadow)
    return suite


def measure_worst(examiner: Examiner, sealed: Sealed, model: Path) -> float:
    """Seconds that the slowest model of this size takes over the sealed items: every answer as long as it may be.

    Raises:
        ModelError: the model cannot be loaded.
    """
    try:
        check(model)
    except OSError:
        raise ModelError(f"base: {model}: expected a checkpoint that the auditor can read; check its rights.") from None
    examiner.warm()
    every = max(1, len(sealed.questions) // MEASURED)
    asked = sealed.questions[::every]
    start = time.perf_counter()
    examiner.answers(model, asked, sealed.instruction, FOREVER, whole=True)
    # What does not grow with the questions is counted as often as the rest: on the safe side.
    return (time.perf_counter() - start) * len(sealed.questions) / len(asked)
