"""The verdict rule, and the certificate that describes it.

Covers: auditor/verdict.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest_auditor import AuditorHarness, terms
from scipy import stats

from stagezero.auditor.certificate import budget_report, certificate
from stagezero.auditor.verdict import decide, ladder_rung, passes, randomise
from stagezero.errors import InputError


def test_the_verdict_is_the_stated_rule() -> None:
    rule = terms(bars={"a": 0.80, "b": 0.80}, items=1000)
    assert passes({"a": (862, 1000), "b": (862, 1000)}, rule, bits=8.2)
    assert not passes({"a": (840, 1000), "b": (990, 1000)}, rule, bits=8.2)
    assert passes({"a": (840, 1000), "b": (990, 1000)}, rule, bits=0.0)


def test_a_model_below_its_bar_passes_at_most_at_the_stated_rate() -> None:
    rule, rng = terms(bars={"a": 0.80}, items=400), np.random.default_rng(0)
    wrong = sum(passes({"a": (int(k), 400)}, rule, bits=0.0) for k in rng.binomial(400, 0.80, 4000))
    assert stats.binomtest(wrong, 4000, rule.delta, "greater").pvalue > 1e-3
    naive = sum(k / 400 >= 0.80 for k in rng.binomial(400, 0.80, 4000))
    assert stats.binomtest(naive, 4000, rule.delta, "greater").pvalue < 1e-6, "the negative control must fail"


def test_a_ladder_rises_with_the_best_model() -> None:
    rule = terms(bars={"a": 0.5}, items=1000, step=0.05)
    assert ladder_rung({"a": (400, 1000)}, rule, 0.0) is None
    assert decide({"a": (540, 1000)}, rule, 0.0, None) == ("pass", 0.5)
    verdict, rung = decide({"a": (700, 1000)}, rule, 0.0, 0.5)
    assert verdict == "pass" and rung == pytest.approx(0.65), "the highest rung that it reached, not one step"
    assert decide({"a": (690, 1000)}, rule, 0.0, rung)[0] == "fail"
    assert decide({"a": (740, 1000)}, rule, 0.0, rung)[0] == "pass"


def test_verdicts_are_flipped_at_the_stated_rate() -> None:
    secret = b"s" * 32
    flips = sum(randomise("pass", 0.2, secret, "suite", f"{i:064x}") == "fail" for i in range(4000))
    assert stats.binomtest(flips, 4000, 0.2).pvalue > 1e-3
    assert randomise("fail", 0.0, secret, "suite", "0" * 64) == "fail"


def test_the_certificate_states_its_terms_and_its_limits(harness: AuditorHarness) -> None:
    suite = harness.auditor.storage.suite(harness.add_suite("s", bars={"privacy": 0.8}, items=1000, submissions=12))
    report = certificate(harness.auditor.storage, suite, "boxed", harness.clock.now)
    assert report["sentence"].startswith("With probability at least 0.95 over the draw of the sealed items, whatever the lab did")
    assert "privacy 0.8" in report["sentence"] and "atlas/1" in report["population"]
    assert report["bits"] == {"meter": "counted", "allowed": pytest.approx(6.304, abs=1e-3), "used": 0.0}
    assert report["claims"]["privacy"]["share_needed"] == pytest.approx(0.841)
    assert report["separation"]["level"] == "boxed" and "root" in report["separation"]["what_it_stops"]
    assert report["floor"]["gain"] > 0 and not any("fewer than" in line for line in report["not_covered"])
    few = harness.auditor.storage.suite(harness.add_suite("few"))
    assert any("fewer than 1,000" in line for line in certificate(harness.auditor.storage, few, "colocated", 0.0)["not_covered"])


def test_other_budgets_have_other_sentences(harness: AuditorHarness) -> None:
    storage = harness.auditor.storage
    flips = storage.suite(harness.add_suite("flips", meter="randomised", bits=5.0, flip=0.1))
    assert "certifies nothing about one model" in certificate(storage, flips, "colocated", 0.0)["sentence"]
    ladder = storage.suite(harness.add_suite("ladder", step=0.05))
    assert "the first model that was called better" in certificate(storage, ladder, "colocated", 0.0)["sentence"]


def test_a_budget_report_estimates_how_many_submissions_a_suite_could_carry(harness: AuditorHarness) -> None:
    storage = harness.auditor.storage
    suite = storage.suite(harness.add_suite("s", bars={"privacy": 0.8}, items=1000, submissions=12))
    near, far = (budget_report(storage, suite, None, mean, 0.0)["claims"]["privacy"]["could_carry"] for mean in (0.85, 0.9))
    assert 0 < near < far
    assert budget_report(storage, suite, 0.7, 0.85, 0.0)["claims"]["privacy"]["could_carry"] > near
    with pytest.raises(InputError, match="bar < mean"):
        budget_report(storage, suite, 0.9, 0.8, 0.0)


def test_the_stated_share_is_the_smallest_that_passes(harness: AuditorHarness, base: Path) -> None:
    suite = harness.auditor.storage.suite(harness.add_suite("s", bars={"privacy": 0.8}, items=1000))
    bits = harness.auditor.meter.bits_allowed(suite)
    row = certificate(harness.auditor.storage, suite, "colocated", 0.0)["claims"]["privacy"]
    need = row["right_answers_needed"]
    assert passes({"privacy": (need, 1000)}, suite.terms, bits)
    assert not passes({"privacy": (need - 1, 1000)}, suite.terms, bits)
