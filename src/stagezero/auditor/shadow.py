"""A shadow suite: sealed items that are used once, to test whether a lab overfitted the others.

A shadow has items of the same kind as its suite, and no model is examined on it until it is burned.
The burn compares models that were submitted through the door with control models that never were. A
distribution shift between the two draws moves both groups; only what the door's models lose beyond
the controls' line is overfitting. The burn discloses one bit about the sealed items, which the
suite's budget reserves from the beginning, and it discloses the shadow completely. The operator's
commands call this module; a lab cannot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from stagezero.auditor import verdict
from stagezero.auditor.budget_tables import SHADOW_SUFFIX, Suite
from stagezero.auditor.examiner import Examiner
from stagezero.auditor.sealed import SealedItems, load_sealed_items
from stagezero.auditor.storage import MIN_SLOT_SECONDS, Storage, charge_entry
from stagezero.door.messages import Terms
from stagezero.errors import DoorError, InputError
from stagezero.evidence import shadow_finding, shadow_power
from stagezero.ledger import digest
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import check

OPERATOR_ACCOUNT = "operator"
MIN_CONTROLS = 3
SIGNIFICANCE_LEVEL = 0.05
EXAMINATION_TIMEOUT_SECONDS = 86400.0
ASSUMED_ACCURACY = 0.75
"""The models' mean score that the power calculation assumes."""
ASSUMED_CORRELATION = 0.3
"""The assumed correlation of two models' answers to one item, on the latent normal scale."""


def shadow_name(suite: Suite) -> str:
    """Return the name of a suite's shadow."""
    return f"{suite.name}{SHADOW_SUFFIX}"


def add_shadow(storage: Storage, suite: Suite, source: str) -> Suite:
    """Set up the shadow of a suite and return it.

    Args:
        storage: the auditor's folder.
        suite: the suite.
        source: a file of other items, or the name of the built-in generator for another draw.

    Raises:
        InputError: the source is not of the suite's kind.
        DoorError: some of its items belong to another suite already.
    """
    return storage.add(shadow_name(suite), _shadow_terms(suite.terms, source), slot=MIN_SLOT_SECONDS, fresh=True)


def check_shadow(storage: Storage, name: str, terms: Terms, source: str) -> None:
    """Check that a shadow can be set up for a suite that does not exist yet.

    Otherwise the suite would exist without the shadow that its terms state.

    Args:
        storage: the auditor's folder.
        name: the suite's name.
        terms: the suite's terms.
        source: as for ``add_shadow``.

    Raises:
        InputError, SuiteError, DoorError: as for ``add_shadow``.
    """
    own, others = (
        {item for cluster in load_sealed_items(n, t, storage.secret).clusters for item in cluster}
        for n, t in ((name, terms), (name + SHADOW_SUFFIX, _shadow_terms(terms, source)))
    )
    used = len(own & others) + storage.meter.count_known_items(sorted(others))
    if used and storage.meter.suite(name) is None:
        raise DoorError(f"--shadow: expected fresh items, and {used} of them belong to another suite already; take them out.")


def _shadow_terms(terms: Terms, source: str) -> Terms:
    """Return the terms of the shadow of a suite.

    Raises:
        InputError: the source is not of the suite's kind.
    """
    if (terms.sealed is None) != (source == terms.suite):
        raise InputError(f"--shadow: expected {'another file' if terms.sealed is not None else terms.suite!r}, got {source!r}; correct it.")
    return Terms(
        suite=terms.suite, sealed=source if terms.sealed is not None else None, items=terms.items, bars=terms.bars, submissions=1,
        passes=1, delta=terms.delta, meter="flat", bits=1.0,
    )  # fmt: skip


def _load(storage: Storage, suite: Suite) -> tuple[Suite, SealedItems, SealedItems]:
    """Return the shadow of a suite, the suite's sealed items, and the shadow's."""
    shadow = storage.meter.suite(shadow_name(suite))
    if shadow is None:
        raise DoorError(f"suite {suite.name!r} has no shadow; it is set up with the suite: stagezero audit add … --shadow FILE")
    return shadow, storage.sealed_items(suite), storage.sealed_items(shadow)


def power(storage: Storage, suite: Suite, door: int, controls: int, effect: float) -> dict[str, Any]:
    """Return the probability that the burn detects an overfit of a given size.

    It burns and discloses nothing.

    Args:
        storage: the auditor's folder.
        suite: the suite.
        door: the number of models that were submitted through the door.
        controls: the number of control models.
        effect: the overfit, in score.

    Raises:
        InputError: there are too few models, or the effect is no difference in score.
        DoorError: the suite has no shadow.
    """
    if not 0 <= effect <= 1:
        raise InputError(f"--effect: expected a difference in score from 0 to 1, got {effect:g}; correct it.")
    shadow, *_ = _load(storage, suite)
    n_sealed, n_shadow = (sum(s.facts["clusters"].values()) for s in (suite, shadow))
    if controls < MIN_CONTROLS or door < 1:
        raise InputError(f"--control: expected at least {MIN_CONTROLS} models, and one --door, got {controls} and {door}; name more.")
    probability = shadow_power(n_sealed, n_shadow, door, controls, effect, ASSUMED_ACCURACY, ASSUMED_CORRELATION, SIGNIFICANCE_LEVEL)
    return {"suite": suite.name, "effect": effect, "power": probability, "items": [n_sealed, n_shadow], "models": [door, controls]}


def burn(
    storage: Storage, suite: Suite, door: Sequence[Path], controls: Sequence[Path], effect: float, report: Callable[[str], None], now: float
) -> dict[str, Any]:
    """Burn the shadow: charge it, examine all models, and return the finding with the power.

    A repeated burn with the same models is free and gives the same finding. A burn with other
    models is refused.

    Args:
        storage: the auditor's folder.
        suite: the suite.
        door: checkpoints that were submitted to the suite.
        controls: checkpoints that never were.
        effect: the overfit, in score, for which the power is returned.
        report: receives one line per model.
        now: seconds since 1970.

    Raises:
        InputError: there are too few models, or one of them is in the wrong group.
        DoorError: the suite has no shadow.
        BudgetSpentError: the shadow was burned with other models.
    """
    expected = power(storage, suite, len(door), len(controls), effect)
    shadow, sealed_items, shadow_items = _load(storage, suite)
    for folder in (*door, *controls):
        check(folder)
    submitted = {charge.model for charge in storage.meter.charges(suite.name)}
    digests = {folder: checkpoint_digest(folder) for folder in (*door, *controls)}
    for folder in door:
        if digests[folder] not in submitted:
            raise InputError(f"--door: {folder}: expected a model that was submitted to suite {suite.name!r}; name it as a --control.")
    for folder in controls:
        if digests[folder] in submitted:
            raise InputError(f"--control: {folder}: expected a model that was never submitted to suite {suite.name!r}; name another.")
    models = digest({"door": sorted(digests[f] for f in door), "controls": sorted(digests[f] for f in controls)})
    charge, new = storage.meter.charge(shadow, models, OPERATOR_ACCOUNT, now)
    if new:
        storage.ledger.record("charged", charge_entry(charge.number, shadow.name, models))
    examiner = Examiner(storage.settings.memory)

    def scores(folder: Path, items: SealedItems) -> list[float]:
        answers = examiner.answers(folder, items.questions, items.instruction, EXAMINATION_TIMEOUT_SECONDS, items.answer_tokens)
        return verdict.item_scores(items.items_by_claim, answers)

    def both_scores(folder: Path) -> tuple[list[float], list[float]]:
        report(f"examining {folder.name}")
        return scores(folder, sealed_items), scores(folder, shadow_items)

    finding = shadow_finding([both_scores(f) for f in door], [both_scores(f) for f in controls], SIGNIFICANCE_LEVEL)
    settled = storage.meter.settle(charge, "fail" if finding.overfitted else "pass")
    if charge.verdict is None:
        storage.ledger.record("answered", {"number": charge.number, "word": settled})
    return {
        **expected, "overfitted": finding.overfitted, "p_value": finding.p_value,
        "excess": [finding.excess.mean, finding.excess.low, finding.excess.high], "slope": finding.slope, "shift": finding.shift,
        "sentence": finding.sentence,
    }  # fmt: skip
