"""Adds a suite to an auditor: its sealed items, its terms and its shadow.

It also measures the slowest audit, which must fit into the slot. ``stagezero audit add`` calls
``add_suite``; an embedded auditor calls ``measure_worst_audit``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stagezero.auditor.budget_tables import SHADOW_SUFFIX, Suite
from stagezero.auditor.examiner import Examiner
from stagezero.auditor.sealed import SealedItems, load_sealed_items
from stagezero.auditor.shadow import add_shadow, check_shadow
from stagezero.auditor.storage import Storage
from stagezero.door.messages import NAME_PATTERN, Terms
from stagezero.errors import DoorError, InputError, ModelError, explain
from stagezero.models import materialise
from stagezero.models.checkpoint import check

MEASUREMENT_TIMEOUT_SECONDS = 86400.0
MEASURED_QUESTIONS = 1000
"""The number of evenly spaced questions on which the slowest audit is measured.

The time for more questions is extrapolated in proportion.
"""


def parse_bars(texts: Sequence[str]) -> dict[str, float]:
    """Parse ``["privacy=0.8", …]`` into claim → bar.

    Raises:
        InputError: a text is not of this form.
    """
    bars = {}
    for text in texts:
        claim, sign, value = text.partition("=")
        try:
            bars[claim] = float(value)
        except ValueError:
            sign = ""
        if not sign or not claim:
            raise InputError(f"--bar: expected claim=0.8, got {text!r}; correct it.")
    return bars


def check_name(option: str, name: str) -> None:
    """Refuse the name of a suite or an account that could leave the auditor's folder.

    Raises:
        InputError: the option, the permitted characters and the fix.
    """
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise InputError(
            f"{option}: expected a letter or digit, then letters, digits, dots, dashes and underscores, at most 100 in all, "
            f"got {name!r:.120}; choose another name."
        )


def add_suite(
    storage: Storage,
    sealed: str,
    name: str,
    bars: Sequence[str],
    shadow: str | None,
    slowest: str | None,
    report: Callable[[str], None],
    **terms: Any,
) -> Suite:
    """Add a suite as the command line describes it, and return it.

    Args:
        storage: the auditor's folder.
        sealed: a JSONL file, or atlas.
        name: the suite's name.
        bars: a list of claim=bar.
        shadow: a file for the shadow, or atlas; None for no shadow.
        slowest: the name of a model of the largest size expected; None skips the measurement.
        report: receives one line about the measurement.
        terms: the other fields of ``Terms``.

    Raises:
        InputError: an argument is invalid; the message names it.
        DoorError: the items have a budget already, or the slowest audit does not fit the slot.
    """
    generated = sealed in ("atlas", "atlas+graded")
    try:
        source = {"suite": sealed} if generated else {"suite": "jsonl", "sealed": sealed}
        suite_terms = Terms.model_validate({**source, "bars": parse_bars(bars), "shadow": shadow is not None, **terms})
    except ValidationError as error:
        raise InputError(explain(error, "audit add")) from None
    check_name("--name", name)
    if name.endswith(SHADOW_SUFFIX):
        raise InputError(f"--name: expected a name that does not end in {SHADOW_SUFFIX}, got {name!r}; rename the suite.")
    if slowest is not None:
        items = load_sealed_items(name, suite_terms, storage.secret)
        worst = measure_worst_audit(Examiner(storage.settings.memory), items, materialise(slowest))
        report(f"the slowest audit of a model like {slowest} takes {worst:.1f} s; the slot is {storage.settings.slot:.0f} s")
        if 2 * worst > storage.settings.slot:
            raise DoorError(
                f"--slowest: the slowest audit takes {worst:.1f} s and the slot is {storage.settings.slot:.0f} s; set up an auditor with "
                f"a slot of at least {2 * worst:.0f}s."
            )
    if shadow is not None:
        check_shadow(storage, name, suite_terms, shadow)
    suite = storage.add(name, suite_terms)
    if shadow is not None:
        add_shadow(storage, suite, shadow)
    return suite


def measure_worst_audit(examiner: Examiner, sealed: SealedItems, model: Path) -> float:
    """Return the seconds of the slowest audit: every answer has its maximum length.

    Args:
        examiner: runs the measurement.
        sealed: the sealed items of the audit.
        model: a checkpoint of the largest size expected.

    Raises:
        ModelError: the model cannot be loaded.
    """
    try:
        check(model)
    except OSError:
        raise ModelError(f"base: {model}: expected a checkpoint that the auditor can read; check its permissions.") from None
    examiner.preload()
    step = max(1, len(sealed.questions) // MEASURED_QUESTIONS)
    sample = sealed.questions[::step]
    start = time.perf_counter()
    examiner.answers(model, sample, sealed.instruction, MEASUREMENT_TIMEOUT_SECONDS, sealed.answer_tokens, full_length=True)
    # Fixed costs are extrapolated like the rest, which overestimates the time and so is safe.
    return (time.perf_counter() - start) * len(sealed.questions) / len(sample)
