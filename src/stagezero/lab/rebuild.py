"""A stage made again from the ledger alone, elsewhere and by somebody else, and compared with what the ledger says.

Bit for bit where the environment is the same (library versions, threads, processor); else by a test of equivalence on the very items
that the ledger has scores for. With the second trainer the stage is made once more through code that shares nothing with the first
(diverse double-compiling): weights that lie apart, always in the same direction, are a trainer that does something else than it says.
Neither shows what is wrong with an idea itself: both trainers do faithfully what it asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagezero.errors import InputError, ModelError
from stagezero.evidence import Equivalence, equivalence
from stagezero.lab.resolved_project import confinement_of
from stagezero.ledger import file_digest
from stagezero.ledger.lineage import record
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import check, weight_files
from stagezero.project import Project
from stagezero.tasks import claims, full_suite_name, load_suite
from stagezero.training import Recipe
from stagezero.training.executors import LocalPool, Result
from stagezero.training.recipes import parse_recipe
from stagezero.trials.jobs import Bench, Silent, Tell, materialise_base
from stagezero.trials.seeds import draw_of
from stagezero.trials.versions import check_build

SEEDS = 8
"""Pairs of builds that the two trainers are compared on: the smallest p-value of eight is 1/128."""
ROUNDING = 0.01
"""Distance between two trainers' weights, as a share of the way trained, up to which it is the arithmetic's. One of 1e-6 is usual, and
a step that amplifies rounding has shown 5e-3."""
BY_CHANCE = 0.02
MARGIN = 0.05


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing compared: is it as the ledger says?"""

    what: str
    same: bool
    said: str


@dataclass
class Rebuilt:
    """What a rebuild found."""

    run: str
    stage: int
    findings: list[Finding] = field(default_factory=list)
    equivalences: list[Equivalence] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    p_value: float | None = None
    digest: str = ""

    @property
    def sound(self) -> bool:
        return all(f.same for f in self.findings)

    def add(self, what: str, same: bool, said: str) -> bool:
        self.findings.append(Finding(what, same, said))
        return same

    def as_json(self) -> dict[str, Any]:
        return {
            "run": self.run, "stage": self.stage, "sound": self.sound, "digest": self.digest,
            "findings": [{"what": f.what, "same": f.same, "said": f.said} for f in self.findings],
            "distances": self.distances, "p_value": self.p_value,
            "equivalence": {e.name: [e.shown, e.mean, e.low, e.high, e.margin] for e in self.equivalences},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Brought:
    """What whoever rebuilds brings along, where the ledger has only its digest or a name."""

    base: str | None = None
    suite: str | None = None
    files: Path | None = None
    """Folder with programs that were too long for the ledger."""
    models: Sequence[Path] = ()
    """Models that declared channels name by a folder."""


def rebuild(
    run: Path, stage: int | None = None, out: Path | str = "rebuilds", *, brought: Brought | None = None, model: Path | None = None,
    second: bool = False, workers: int = 2, tell: Tell | None = None, pool: LocalPool | None = None,
) -> Rebuilt:  # fmt: skip
    """Make a stage again and compare.

    Args:
        run: the folder with the ledger; nothing else of it is read.
        stage: which; the last adopted one when None.
        out: where the builds are kept; the same call continues there.
        brought: what the ledger does not hold.
        model: a checkpoint that is said to be the stage's model.
        second: also make it through the second trainer.
        pool: workers that are there already; started, and ended, when None.

    Raises:
        LedgerError: the ledger does not verify, or has no such stage.
        InputError: something it needs is not there, naming the option that brings it.
    """
    tell, brought = tell or Silent(), brought or Brought()
    r = record(run / "ledger.jsonl" if run.is_dir() else run)
    number = max((n for n, b in r.stages.items() if b["adopted"]), default=0) if stage is None else stage
    if number not in r.stages:
        raise InputError(f"stage {number}: the ledger has {', '.join(map(str, sorted(r.stages))) or 'none'}; choose one of them.")
    body, described = r.stages[number], r.described
    check_build(described)
    found = Rebuilt(r.name, number)
    place = Path(out) / r.name
    project = Project.model_validate({**described["project"], "audit": None})
    suite_name = full_suite_name(brought.suite or project.suite)
    suite = load_suite(suite_name)
    if not found.add("training data", suite.digest() == described["suite"], _digests(suite.digest(), described["suite"])):
        return found
    recipe = _recipe(body, place / "files", brought)
    with nullcontext(pool) if pool is not None else LocalPool(workers) as pool:
        base = materialise_base(pool, brought.base or project.base, place, tell)
        if not found.add("base", checkpoint_digest(base) == described["base"], _digests(checkpoint_digest(base), described["base"])):
            return found
        ours = pool.environment()
        bench = Bench(pool, base, suite_name, project.trial.items, place / "first", None, tell, confinement_of(project.sandbox))
        seeds = list(body["seeds"])
        (made,) = bench.gather([bench.submit(recipe, seeds[0], (draw_of(seeds[0]),))], f"making stage {number} again")
        found.digest = made.digest
        alike = ours == described["environment"]
        if made.digest == body["model"]:
            found.add("model", True, "identical, bit for bit")
        elif alike:
            found.add("model", False, f"{made.digest[:16]} was made, the ledger says {body['model'][:16]}, in the same environment")
        else:
            _statistically(found, bench, recipe, seeds, body, described, ours)
        if model is not None:
            _look_at(found, model, str(body["model"]), made.folder)
        if second:
            other = Bench(pool, base, suite_name, project.trial.items, place / "second", None, tell, bench.confinement, "second")
            _double(found, bench, other, recipe, seeds, base)
    return found


def _digests(ours: str, theirs: str) -> str:
    return "as in the ledger" if ours == theirs else f"is {ours[:16]}, the ledger says {theirs[:16]}"


def _recipe(body: Mapping[str, Any], place: Path, brought: Brought) -> Recipe:
    """The recipe as it can be built here: programs written out from the ledger, models of channels found among those brought.

    Raises:
        InputError: one of them is not there.
    """
    steps = []
    for written in body["recipe"]["steps"]:
        step = dict(written)
        if step["step"] == "command":
            step["inputs"] = [str(_program(name, digest, body.get("files", {}), place, brought)) for name, digest in step["inputs"].items()]
        if step["step"] in ("distil", "merge") and isinstance(step["source"], dict):
            step["source"] = str(_brought_model(step["source"], brought))
        steps.append(step)
    return parse_recipe(steps, "the ledger's recipe")


def _program(name: str, digest: str, texts: Mapping[str, str], place: Path, brought: Brought) -> Path:
    path = place / digest[:16] / name
    if digest in texts:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[digest], encoding="utf-8", newline="")
    elif brought.files is not None:
        path = brought.files / name
    if not path.is_file() or file_digest(path) != digest:
        raise InputError(
            f"program {name!r}: expected a file of digest {digest[:16]}…, which the ledger does not hold; bring it with --files FOLDER."
        )
    return path.absolute()


def _brought_model(source: Mapping[str, str], brought: Brought) -> Path:
    for folder in brought.models:
        if checkpoint_digest(folder) == source["digest"]:
            return folder.absolute()
    raise InputError(
        f"model {source['folder']!r}: expected a checkpoint of digest {source['digest'][:16]}…; bring it with --source FOLDER."
    )


def _statistically(
    found: Rebuilt,
    bench: Bench,
    recipe: Recipe,
    seeds: Sequence[int],
    body: Mapping[str, Any],
    described: Mapping[str, Any],
    ours: Mapping[str, Any],
) -> None:
    """Equivalence on the ledger's own items and scores, where another environment makes other bits."""
    results = bench.gather([bench.submit(recipe, s, (draw_of(s),)) for s in seeds], "making its other seeds")
    found.equivalences = _equivalences(
        [r.scores[0] for r in results], body["after"], (*described["properties"], *described["capabilities"])
    )
    odd = [e for e in found.equivalences if e.shown != "same"]
    changed = ", ".join(sorted(key for key in ours if ours[key] != described["environment"].get(key)))
    said = f"other bits in another environment ({changed}); "
    if not odd:
        found.add("model", True, said + f"every score is the same within ±{MARGIN:g} over {len(seeds)} seeds")
    else:
        worst = max(odd, key=lambda e: abs(e.mean))
        told = f"{worst.name} differs by {worst.mean:+.3f} [{worst.low:+.3f}, {worst.high:+.3f}], which is {worst.shown}"
        found.add("model", False, said + f"not shown to be equivalent: {told}")


def _equivalences(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[Equivalence]:
    return [equivalence(c, [a[c] - b[c] for a, b in zip(ours, theirs, strict=True)], MARGIN, floor=0.005) for c in names]


def _look_at(found: Rebuilt, model: Path, said: str, made: Path) -> None:
    """A checkpoint that claims to be the stage's model."""
    try:
        check(model)
        digest = checkpoint_digest(model)
    except ModelError as error:
        found.add("checkpoint", False, str(error))
        return
    if digest == said:
        found.add("checkpoint", True, "is the model of the ledger")
    else:
        found.add(
            "checkpoint", False, f"is {digest[:16]}, the ledger says {said[:16]}; against the rebuilt one {_first_difference(model, made)}"
        )


def _first_difference(one: Path, other: Path) -> str:
    """Where two checkpoints differ."""
    from safetensors.torch import load_file

    mine, theirs = ({n: t for path in weight_files(folder) for n, t in load_file(path).items()} for folder in (one, other))
    if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in theirs.items()}:
        return "its tensors are others"
    for name in sorted(mine):
        differ = int((mine[name] != theirs[name]).sum())
        if differ:
            return f"{differ:,} of {mine[name].numel():,} values of {name} differ"
    return "its weights are the same, and other files differ (configuration or tokenizer)"


def _double(found: Rebuilt, first: Bench, second: Bench, recipe: Recipe, seeds: Sequence[int], base: Path) -> None:
    """The same builds through both trainers, held against each other."""
    from stagezero.training.data import derive_seed
    from stagezero.training.reference import difference, relative_distance, systematic

    many = [*seeds, *(derive_seed(seeds[0], "second trainer", n) for n in range(SEEDS))][:SEEDS]
    jobs = [(s, first.submit(recipe, s, (draw_of(s),)), second.submit(recipe, s, (draw_of(s),))) for s in many]
    ours: list[Result] = first.gather([a for _, a, _ in jobs], "the first trainer")
    theirs: list[Result] = second.gather([b for _, _, b in jobs], "the second trainer")
    if all(a.digest == checkpoint_digest(base) for a in ours):
        found.add("trainer", True, "there is nothing to train")
        return
    pairs = [(a.folder, b.folder) for a, b in zip(ours, theirs, strict=True)]
    found.distances = [relative_distance(a, b, base) for a, b in pairs]
    found.p_value = systematic([difference(a, b) for a, b in pairs])
    names = claims(first.suite)
    found.equivalences = _equivalences([a.scores[0] for a in ours], [b.scores[0] for b in theirs], names)
    far = max(found.distances)
    differ = [e.name for e in found.equivalences if e.shown == "different"]
    told = (
        f"the two trainers' weights lie {far:.2g} of the way trained apart at the most, over {len(many)} seeds "
        f"(sign-flip p = {found.p_value:.3g})"
    )
    if far <= ROUNDING and not differ:
        found.add("trainer", True, told + ": rounding")
    elif found.p_value > BY_CHANCE and not differ:
        found.add("trainer", True, told + ": apart, and in no direction in particular, as chance would have it")
    else:
        found.add(
            "trainer", False, told + ": apart, always in the same direction" + (f"; scores differ: {', '.join(differ)}" if differ else "")
        )
