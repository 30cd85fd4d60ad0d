"""A shadow: sealed items of the same kind that nobody is asked, until they are burned once to see whether the lab overfitted the others.

Models that went through the door are compared with control models that never met it. A shift between the two draws moves both; only
what the door's models lost beyond the controls' line is overfitting. The burn discloses one bit about the sealed items,
which the suite's budget has set aside from the beginning, and all of the shadow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stagezero.auditor import verdict
from stagezero.auditor.budget_tables import SHADOW, Suite
from stagezero.auditor.examiner import Examiner
from stagezero.auditor.sealed import Sealed
from stagezero.auditor.storage import LEAST_SLOT, Storage, charge_entry
from stagezero.door.messages import Terms
from stagezero.errors import DoorError, InputError
from stagezero.evidence import shadow_finding, shadow_power
from stagezero.ledger import digest
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import check

OPERATOR = "operator"
FEWEST_CONTROLS = 3
ALPHA = 0.05
TYPICAL = {"accuracy": 0.75, "correlation": 0.3}


def name_of(suite: Suite) -> str:
    """What a suite's shadow is called."""
    return f"{suite.name}{SHADOW}"


def add_shadow(storage: Storage, suite: Suite, source: str) -> Suite:
    """Set up the shadow of a suite: a file of other items, or another draw from the built-in generator.

    Raises:
        DoorError: some of its items have been asked already.
    """
    terms = Terms(
        suite=suite.terms.suite, sealed=source if suite.terms.sealed is not None else None, items=suite.terms.items,
        bars=suite.terms.bars, submissions=1, passes=1, delta=suite.terms.delta, meter="flat", bits=1.0,
    )  # fmt: skip
    if (suite.terms.sealed is None) != (source == suite.terms.suite):
        raise InputError(
            f"--shadow: expected {'another file' if suite.terms.sealed is not None else suite.terms.suite!r}, got {source!r}; correct it."
        )
    return storage.add(name_of(suite), terms, slot=LEAST_SLOT, fresh=True)


def _parts(storage: Storage, suite: Suite) -> tuple[Suite, Sealed, Sealed]:
    found = storage.meter.suite(name_of(suite))
    if found is None:
        raise DoorError(f"suite {suite.name!r} has no shadow; it is set up with the suite: stagezero audit add … --shadow FILE")
    return found, storage.sealed(suite), storage.sealed(found)


def power(storage: Storage, suite: Suite, door: int, controls: int, effect: float) -> dict[str, Any]:
    """How likely the burn is to find an overfit of a size; burns and discloses nothing.

    Raises:
        DoorError: the suite has no shadow.
    """
    shadow, *_ = _parts(storage, suite)
    n_sealed, n_shadow = (sum(s.facts["clusters"].values()) for s in (suite, shadow))
    if controls < FEWEST_CONTROLS or door < 1:
        raise InputError(f"--control: expected at least {FEWEST_CONTROLS} models, and one --door, got {controls} and {door}; name more.")
    chance = shadow_power(n_sealed, n_shadow, door, controls, effect, TYPICAL["accuracy"], TYPICAL["correlation"], ALPHA)
    return {"suite": suite.name, "effect": effect, "power": chance, "items": [n_sealed, n_shadow], "models": [door, controls]}


def burn(
    storage: Storage, suite: Suite, door: Sequence[Path], controls: Sequence[Path], effect: float, tell: Callable[[str], None], now: float
) -> dict[str, Any]:
    """Burn the shadow: charged first, then asked. The same models again are answered the same; others never.

    Raises:
        InputError: too few models, or one of them met the door and is named a control.
        BudgetSpentError: it was burned with other models.
    """
    expected = power(storage, suite, len(door), len(controls), effect)
    shadow, sealed_items, shadow_items = _parts(storage, suite)
    for folder in (*door, *controls):
        check(folder)
    met = {charge.model for charge in storage.meter.charges(suite.name)}
    names = {folder: checkpoint_digest(folder) for folder in (*door, *controls)}
    for folder in door:
        if names[folder] not in met:
            raise InputError(f"--door: {folder}: expected a model that was submitted to suite {suite.name!r}; name it as a --control.")
    for folder in controls:
        if names[folder] in met:
            raise InputError(f"--control: {folder}: expected a model that never met the door, and this one did; name another.")
    what = digest({"door": sorted(names[f] for f in door), "controls": sorted(names[f] for f in controls)})
    charge, new = storage.meter.charge(shadow, what, OPERATOR, now)
    if new:
        storage.ledger.record("charged", charge_entry(charge.number, shadow.name, what))
    examiner = Examiner(storage.settings.memory)

    def asked(folder: Path, items: Sealed) -> list[float]:
        answers = examiner.answers(folder, items.questions, items.instruction, 86400.0)
        return verdict.marks(items.chosen, answers)

    def both(folder: Path) -> tuple[list[float], list[float]]:
        tell(f"asking {folder.name}")
        return asked(folder, sealed_items), asked(folder, shadow_items)

    found = shadow_finding([both(f) for f in door], [both(f) for f in controls], ALPHA)
    word = storage.meter.settle(charge, "fail" if found.overfitted else "pass")
    if charge.word is None:
        storage.ledger.record("answered", {"number": charge.number, "word": word})
    return {
        **expected, "overfitted": found.overfitted, "p_value": found.p_value,
        "excess": [found.excess.mean, found.excess.low, found.excess.high], "slope": found.slope, "shift": found.shift,
        "sentence": found.sentence,
    }  # fmt: skip
