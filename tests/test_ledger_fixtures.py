"""Ledgers of every format: they verify, can be displayed and traced, and can be recomputed.

Entry 0 of the ledgers in ``fixtures/ledgers/1`` does not yet name the format, the rule and the
scorer (``fixtures/make_ledgers.py``).

Covers: trials/versions.py.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import stagezero

from stagezero.errors import InputError, RunChangedError
from stagezero.evidence import RULE_VERSION
from stagezero.lab.campaign import Campaign
from stagezero.lab.rebuild import rebuild
from stagezero.ledger import Entry, read, verify
from stagezero.ledger.lineage import read_record, trace_lineage
from stagezero.measure import SCORER_VERSION
from stagezero.project import Trial
from stagezero.report import gather, write_page
from stagezero.tasks import Suite, load_suite
from stagezero.training import Recipe, load_recipe, parse_recipe
from stagezero.training.build import BUILD_FORMAT
from stagezero.training.executors import LocalPool
from stagezero.trials import versions
from stagezero.trials.batch import Batch
from stagezero.trials.compare import compare
from stagezero.trials.decision_1 import DecisionRule1
from stagezero.trials.hypothesis import Entrant, Hypothesis, hypothesis
from stagezero.trials.jobs import BuildQueue, NoProgress
from stagezero.trials.ruling import Pair
from stagezero.trials.seeds import campaign_secret, draw_for_seed, replicate_seed

FIXTURES = Path(__file__).parent / "fixtures" / "ledgers"
PROJECTS = FIXTURES / "projects"
FORMATS = ("1", "2")
LEDGERS = tuple(f"{f}/{name}" for f in FORMATS for name in ("finished", "half", "comparison", "finished-auditor", "half-auditor"))
SEED = {"finished": 5, "half": 6, "comparison": 7}


def entries(name: str) -> list[Entry]:
    return list(read(FIXTURES / name / "ledger.jsonl"))


@pytest.mark.parametrize("name", LEDGERS)
def test_every_ledger_verifies(name: str) -> None:
    assert verify(FIXTURES / name / "ledger.jsonl", deep=True) == len(entries(name)) > 2


@pytest.mark.parametrize("format_", FORMATS)
def test_a_finished_run_is_displayed_and_traced(format_: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(FIXTURES / format_ / "finished", tmp_path / "run"))
    view = gather(run)
    assert view.finished and [s.number for s in view.adopted] == [0, 1]
    assert {i.fate for i in view.ideas} >= {"adopted", "given up", "stopped by a guard"}
    assert "Show the harmless twins too" in write_page(run).read_text()
    traced = trace_lineage([read_record(run / "ledger.jsonl")])
    assert traced.stage == 1 and traced.only_ideas()
    displayed = stagezero("ledger", "show", run)
    assert displayed.returncode == 0 and "decision" in displayed.stdout, displayed.stderr


@pytest.mark.parametrize(("format_", "message"), [("1", "ledger format 1, and this release continues ledger format 2"), ("2", "rule 1")])
def test_a_half_finished_run_of_an_old_version_is_not_continued(home: Path, tmp_path: Path, format_: str, message: str) -> None:
    project = Path(shutil.copytree(PROJECTS / "campaign", tmp_path / "half")) / "project.yaml"
    project.write_text(project.read_text().replace("name: fixture", "name: half").replace("seed: 5", "seed: 6"))
    runs = tmp_path / "runs"
    before = (Path(shutil.copytree(FIXTURES / format_ / "half", runs / "half")) / "ledger.jsonl").read_bytes()
    with pytest.raises(RunChangedError, match=f"begun in {message}.*; finish it with"):
        Campaign(project, runs=runs).run()
    assert (runs / "half" / "ledger.jsonl").read_bytes() == before


def test_rebuilding_an_old_build_format_names_its_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "BUILD_FORMAT", "build/4")
    with pytest.raises(InputError, match=r"built in format build/2, and this release builds build/4; use release 0\.1"):
        rebuild(FIXTURES / "1" / "finished", out=tmp_path)


def test_the_builds_of_formats_2_and_3_are_the_same_for_pocket_bases_alone() -> None:
    first = entries("2/finished")[0].body
    assert first["build"] == "build/2" and BUILD_FORMAT == "build/3"
    versions.check_build(first, Recipe())
    mix, common = {"step": "mix", "parts": [{}]}, {"steps": 1, "learning_rate": 0.1}
    filtered = parse_recipe([mix, {"step": "filter", "matching": "a"}], "test")
    rewarded = parse_recipe([mix, {"step": "reward", **common}, {"step": "rlhf", **common}], "test")
    for body, recipe in (({**first, "project": {"base": "hf/org/name"}}, Recipe()), (first, filtered), (first, rewarded)):
        with pytest.raises(InputError, match="use release"):
            versions.check_build(body, recipe)


# --- decisions recomputed from the recorded pairs -------------------------------------------------


def recipe_of(recorded: dict[str, Any]) -> Recipe:
    return parse_recipe(recorded["steps"], "the ledger's recipe")


def registered_batches(name: str) -> Iterator[tuple[list[Entrant], Recipe, float, Trial, list[Entry]]]:
    """Yield every batch of a ledger.

    A batch is the entrants, their control, their level, the plan, and the entries of their trials.
    """
    ledger, suite = entries(name), load_suite("atlas")
    assert versions.recorded_version(ledger[0].body, "rule") == 1 and RULE_VERSION == 2
    # Scorers 1 to 3 agree on the answers to atlas's items.
    assert versions.recorded_version(ledger[0].body, "scorer") == 1 and SCORER_VERSION == 3
    if name.endswith("comparison"):
        plan, body = Trial.model_validate(ledger[0].body["trial"]), ledger[1].body
        a, b = (load_recipe(PROJECTS / "comparison" / f"{recipe}.yaml") for recipe in ("plain", "balanced"))
        entrant = Entrant("balanced against plain", "people", hypothesis(a, b, ledger[0].body["property"], plan.margin, suite))
        assert entrant.hypothesis.digest() == body["hypothesis"]
        yield [entrant], a, body["level"], plan, ledger[1:]
        return
    project = ledger[0].body["project"]
    plan, tested, promoted = Trial.model_validate(project["trial"]), 0, 0
    control = recipe_of(ledger[0].body["stage0"])
    for position, entry in enumerate(ledger):
        if entry.kind == "stage" and entry.body["adopted"]:
            control = recipe_of(entry.body["recipe"])
        if entry.kind == "registration" and entry.body["ideas"]:
            batch = [Entrant(i["title"], i["researcher"], _hypothesis(control, i, plan, suite)) for i in entry.body["ideas"]]
            level = plan.level(entry.body["stage"], project["stages"], len(batch), tested, promoted)
            assert float(f"{level:.6g}") == entry.body["level"]
            remaining = ledger[position:]
            end = next((n for n, e in enumerate(remaining) if n and e.kind not in ("calibration", "pair", "decision")), len(remaining))
            yield batch, control, level, plan, remaining[:end]
            decided = [e.body["fate"] for e in remaining[:end] if e.kind == "decision"]
            tested, promoted = tested + len(decided), promoted + decided.count("promoted")


def _hypothesis(control: Recipe, idea: dict[str, Any], plan: Trial, suite: Suite) -> Hypothesis:
    computed = hypothesis(control, recipe_of(idea["candidate"]), idea["property"], plan.margin, suite)
    assert computed.digest() == idea["hypothesis"]
    return computed


@pytest.mark.parametrize("name", [name for name in LEDGERS if "auditor" not in name])
def test_the_recorded_pairs_give_the_same_e_values_and_fates(name: str) -> None:
    suite, count = load_suite("atlas"), 0
    for batch, _, level, plan, trials in registered_batches(name):
        noise = next(e.body["pooled_sd"] for e in trials if e.kind == "calibration")
        for entrant in batch:
            decision_rule = DecisionRule1(entrant.hypothesis, level, plan, noise, suite.properties, suite.capabilities)
            key = entrant.hypothesis.digest()
            recorded = [dict(e.body) for e in trials if e.kind == "pair" and e.body["hypothesis"] == key]
            decision = next((e.body for e in trials if e.kind == "decision" and e.body["hypothesis"] == key), None)
            pairs: list[Pair] = []
            best, ruling = 1.0, None
            for body in recorded:
                e = body.pop("e")
                body.pop("hypothesis")
                pairs.append(Pair(**body))
                ruling = decision_rule.evaluate(pairs, best)
                assert ruling.e_value == pytest.approx(e, rel=1e-4)  # the noise is recorded with six digits
                best, count = max(best, e), count + 1
            if decision is not None and ruling is not None:
                # An idea whose pairs and guards pass is decided by further checks, whose builds are
                # not recorded.
                assert str(ruling.fate or "promoted") == decision["fate"] or (ruling.fate is None and decision["guards"])
                assert decision["pairs"] == len(pairs)
                if ruling.fate is not None:
                    assert [(g.name, g.established) for g in ruling.guards] == [(g["name"], g["shown"]) for g in decision["guards"]]
    assert count > 5


# --- everything recomputed from the recorded seeds ------------------------------------------------


class FixtureLedger:
    """A ledger that accepts only the fixture's entries; the texts of reasons may differ."""

    def __init__(self, expected: list[Entry]) -> None:
        self.expected, self.position = expected, 0

    @property
    def head(self) -> str:
        return self.expected[self.position - 1].hash

    def record(self, kind: str, body: dict[str, Any]) -> None:
        entry = self.expected[self.position]
        assert (kind, _without_why(body)) == (entry.kind, _without_why(entry.body)), entry.seq
        self.position += 1


def _without_why(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_why(v) for k, v in value.items() if k != "why"}
    return [_without_why(v) for v in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module")
def pool() -> Iterator[LocalPool]:
    with LocalPool(2) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in LEDGERS if name.endswith(("finished", "comparison"))])
def test_every_pair_stage_and_decision_is_reproduced_from_its_seeds(name: str, pool: LocalPool, home: Path, tmp_path: Path) -> None:
    ledger_entries = entries(name)
    if pool.environment() != ledger_entries[0].body["environment"]:
        pytest.skip("other library versions or another processor than the fixture's give other bits")
    base = pool.materialise("pocket/65k", tmp_path / "progress").result()
    secret = campaign_secret(tmp_path, SEED[Path(name).name])
    batches = 0
    for batch, control, level, plan, trials in registered_batches(name):
        queue = BuildQueue(pool, base, "atlas", plan.items, home / "store", None, NoProgress())
        ledger = FixtureLedger(trials)
        ledger.position = 1
        Batch(batch, control, queue, plan, level, secret, ledger, rule=DecisionRule1).run()  # type: ignore[arg-type]
        assert ledger.position == len(trials) or trials[ledger.position].kind == "confirmed"
        batches += 1
    assert batches == (1 if name.endswith("comparison") else 2)
    queue = BuildQueue(pool, base, "atlas", plan.items, home / "store", None, NoProgress())
    before = Recipe()
    for entry in ledger_entries:
        if entry.kind == "stage":
            recipe, seeds = recipe_of(entry.body["recipe"]), entry.body["seeds"]
            assert seeds == [replicate_seed(secret, entry.prev, f"confirm {entry.body['stage']}", s) for s in range(1, plan.confirm + 1)]
            results = queue.gather([queue.submit(r, s, (draw_for_seed(s),)) for s in seeds for r in (before, recipe)], "")
            assert results[1].digest == entry.body["model"]
            scores = [r.scores[0] for r in results]
            assert (scores[0::2], scores[1::2]) == (entry.body["before"], entry.body["after"])
            before = recipe if entry.body["adopted"] else before
        elif entry.kind == "confirmed":
            recipes, seeds, prop = (batch[0].hypothesis.control, batch[0].hypothesis.candidate), entry.body["seeds"], entry.body["property"]
            results = queue.gather([queue.submit(r, s, (draw_for_seed(s),)) for s in seeds for r in recipes], "")
            scores = [r.scores[0] for r in results]
            assert [b[prop] - a[prop] for a, b in zip(scores[0::2], scores[1::2], strict=True)] == entry.body["differences"]


@pytest.mark.slow
@pytest.mark.parametrize("format_", FORMATS)
def test_a_stage_of_an_old_format_is_rebuilt(format_: str, pool: LocalPool, home: Path, tmp_path: Path) -> None:
    assert rebuild(FIXTURES / format_ / "finished", out=tmp_path, pool=pool).sound


def test_a_comparison_of_an_old_format_is_not_continued(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recorded_folder(folder: Path) -> Path:
        (recorded,) = (p for p in folder.iterdir() if p.is_dir())
        return recorded

    class FakeStop(Exception):
        pass

    def stop(*_: object, **__: object) -> None:
        raise FakeStop

    a, b = PROJECTS / "comparison" / "plain.yaml", PROJECTS / "comparison" / "balanced.yaml"
    monkeypatch.setattr("stagezero.trials.compare.LocalPool", stop)
    with pytest.raises(FakeStop):
        compare(a, b, "privacy", "pocket/65k", seed=7, runs=tmp_path)
    folder = recorded_folder(tmp_path)
    shutil.copyfile(FIXTURES / "1" / "comparison" / "ledger.jsonl", folder / "ledger.jsonl")
    with pytest.raises(RunChangedError, match="begun in ledger format 1"):
        compare(a, b, "privacy", "pocket/65k", seed=7, runs=tmp_path)
