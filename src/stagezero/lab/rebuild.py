"""Rebuilds a stage from its ledger alone, on any machine, and compares it with the ledger.

In the same environment (library versions, threads, processor) the model must be identical bit for
bit. In another environment an equivalence test compares the scores of the rebuilt models with those
in the ledger, on the same items.

A second trainer, whose code is independent of the first trainer's, can build the stage again
(diverse double-compiling). If the weights of the two always differ in the same direction, one
trainer does not do what its source states. None of these comparisons can find a fault in an idea,
because both trainers carry out faithfully what the idea describes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagezero.errors import InputError, ModelError
from stagezero.evidence import Equivalence, equivalence
from stagezero.lab.resolved_project import confinement_of
from stagezero.ledger import file_digest
from stagezero.ledger.lineage import read_record
from stagezero.models import check_model, checkpoint_digest
from stagezero.models.checkpoint import check, tensors, weight_files
from stagezero.project import Project
from stagezero.tasks import claims, full_suite_name, load_suite
from stagezero.training import Recipe
from stagezero.training.executors import LocalPool, Result
from stagezero.training.recipes import parse_recipe
from stagezero.trials.jobs import BuildQueue, NoProgress, Progress, materialise_base
from stagezero.trials.seeds import draw_for_seed
from stagezero.trials.versions import check_build

TRAINER_SEEDS = 8
"""Pairs of builds in the comparison of two trainers. The smallest p-value of 8 pairs is 1/128."""
MAX_ROUNDING_DISTANCE = 0.01
"""Distance between two trainers' weights, as a share of the distance trained, that rounding
explains. A distance of 1e-6 is usual. A step that amplifies rounding has reached 5e-3."""
SYSTEMATIC_P_VALUE = 0.02
"""Sign-flip p-value at or below which two trainers' weights differ in a common direction."""
EQUIVALENCE_MARGIN = 0.05
"""Margin of the equivalence tests on scores."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one comparison. ``same`` is true if the subject is as the ledger records it."""

    subject: str
    same: bool
    detail: str


@dataclass
class RebuildReport:
    """The results of a rebuild.

    ``distances`` and ``p_value`` compare the two trainers; they are empty and None without the
    second one. ``digest`` is the rebuilt model's.
    """

    run: str
    stage: int
    findings: list[Finding] = field(default_factory=list)
    equivalences: list[Equivalence] = field(default_factory=list)
    distances: list[float] = field(default_factory=list)
    p_value: float | None = None
    digest: str = ""

    @property
    def sound(self) -> bool:
        """Whether every subject is as the ledger records it."""
        return all(finding.same for finding in self.findings)

    def add(self, subject: str, same: bool, detail: str) -> bool:
        """Add a finding, and return ``same``."""
        self.findings.append(Finding(subject, same, detail))
        return same

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON."""
        return {
            "run": self.run, "stage": self.stage, "sound": self.sound, "digest": self.digest,
            "findings": [{"what": f.subject, "same": f.same, "said": f.detail} for f in self.findings],
            "distances": self.distances, "p_value": self.p_value,
            "equivalence": {e.name: [e.established, e.mean, e.low, e.high, e.margin] for e in self.equivalences},
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class RebuildInputs:
    """Inputs of a rebuild for which the ledger has only a digest or a name."""

    base: str | None = None
    suite: str | None = None
    files: Path | None = None
    """A folder with programs that were too long for the ledger."""
    models: Sequence[Path] = ()
    """Folders of the models that declared channels name."""


def rebuild(
    run: Path, stage: int | None = None, out: Path | str = "rebuilds", *, inputs: RebuildInputs | None = None, model: Path | None = None,
    second: bool = False, workers: int = 2, progress: Progress | None = None, pool: LocalPool | None = None,
) -> RebuildReport:  # fmt: skip
    """Rebuild a stage and compare it with the ledger.

    Args:
        run: the run's folder, or its ledger. Only the ledger is read.
        stage: the stage's number; None for the last adopted stage.
        out: the folder for builds. The same call continues an interrupted rebuild there.
        inputs: what the ledger does not contain.
        model: a checkpoint that is claimed to be the stage's model.
        second: whether to build the stage with the second trainer too.
        workers: the number of worker processes, if ``pool`` is None.
        progress: the display for progress.
        pool: running workers; if None, workers are started and ended.

    Raises:
        LedgerError: the ledger does not verify, or has no such stage.
        InputError: an input is missing or cannot be used; names the option that supplies it.
    """
    progress, inputs = progress or NoProgress(), inputs or RebuildInputs()
    if workers < 1:
        raise InputError(f"workers: expected at least 1, got {workers}; correct it.")
    _check_inputs(inputs, model)
    record = read_record(run / "ledger.jsonl" if run.is_dir() else run)
    number = max((n for n, b in record.stages.items() if b["adopted"]), default=0) if stage is None else stage
    if number not in record.stages:
        raise InputError(f"stage {number}: the ledger has {', '.join(map(str, sorted(record.stages))) or 'none'}; choose one of them.")
    entry, campaign = record.stages[number], record.campaign
    report = RebuildReport(record.name, number)
    place = Path(out) / record.name
    project = Project.model_validate({**campaign["project"], "audit": None})
    suite_name = full_suite_name(inputs.suite or project.suite)
    suite = load_suite(suite_name)
    if not report.add("training data", suite.digest() == campaign["suite"], _compare_digests(suite.digest(), campaign["suite"])):
        return report
    recipe = _local_recipe(entry, place / "files", inputs)
    check_build(campaign, recipe)
    with nullcontext(pool) if pool is not None else LocalPool(workers) as pool:
        base = materialise_base(pool, inputs.base or project.base, place, progress, campaign.get("chat_template"))
        base_digest = checkpoint_digest(base)
        if not report.add("base", base_digest == campaign["base"], _compare_digests(base_digest, campaign["base"])):
            return report
        environment = pool.environment()
        items, tokens, confinement = project.trial.items, project.answer_tokens, confinement_of(project.sandbox)
        queue = BuildQueue(pool, base, suite_name, items, place / "first", None, progress, confinement, max_tokens=tokens)
        seeds = list(entry["seeds"])
        (rebuilt,) = queue.gather([queue.submit(recipe, seeds[0], (draw_for_seed(seeds[0]),))], f"rebuilding stage {number}")
        report.digest = rebuilt.digest
        if rebuilt.digest == entry["model"]:
            report.add("model", True, "identical, bit for bit")
        elif environment == campaign["environment"] and rebuilt.bfloat16 == entry.get("bfloat16"):
            digests = f"the rebuilt model is {rebuilt.digest[:16]}, the ledger records {entry['model'][:16]}"
            report.add("model", False, f"{digests}, in the same environment")
        else:
            _compare_scores(report, queue, recipe, seeds, entry, campaign, environment)
        if model is not None:
            _check_claimed_model(report, model, str(entry["model"]), rebuilt.folder)
        if second:
            second_queue = BuildQueue(pool, base, suite_name, items, place / "second", None, progress, confinement, "second", tokens)
            _compare_trainers(report, queue, second_queue, recipe, seeds, base)
    return report


def _check_inputs(inputs: RebuildInputs, model: Path | None) -> None:
    """Refuse inputs that do not exist, whether the stage needs them or not, before a long build.

    Raises:
        InputError: names the option, what was expected and the fix.
    """
    for option, folder in (*(("--source", folder) for folder in inputs.models), *([("--model", model)] if model is not None else [])):
        try:
            check(folder)
        except ModelError as error:
            raise ModelError(f"{option}: {error}") from None
    if inputs.base is not None:
        try:
            check_model(inputs.base)
        except ModelError as error:
            raise ModelError(f"--base: {error}") from None
    if inputs.files is not None and not inputs.files.is_dir():
        raise InputError(f"--files: expected a folder with programs, found none at {str(inputs.files)!r}; check the path.")


def _compare_digests(actual: str, recorded: str) -> str:
    return "as in the ledger" if actual == recorded else f"is {actual[:16]}, the ledger records {recorded[:16]}"


def _local_recipe(entry: Mapping[str, Any], place: Path, inputs: RebuildInputs) -> Recipe:
    """Return the stage's recipe in a form that can be built on this machine.

    Programs are written out from the ledger, and the models of channels come from ``inputs``.

    Raises:
        InputError: a program or model is missing.
    """
    steps = []
    for recorded in entry["recipe"]["steps"]:
        step = dict(recorded)
        if step["step"] == "command":
            step["inputs"] = [str(_program(name, digest, entry.get("files", {}), place, inputs)) for name, digest in step["inputs"].items()]
        if step["step"] in ("distil", "merge") and isinstance(step["source"], dict):
            step["source"] = str(_channel_model(step["source"], inputs))
        steps.append(step)
    return parse_recipe(steps, "the ledger's recipe")


def _program(name: str, digest: str, texts: Mapping[str, str], place: Path, inputs: RebuildInputs) -> Path:
    path = place / digest[:16] / name
    if digest in texts:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(texts[digest], encoding="utf-8", newline="")
    elif inputs.files is not None:
        path = inputs.files / name
    if not path.is_file() or file_digest(path) != digest:
        raise InputError(
            f"program {name!r}: expected a file of digest {digest[:16]}…, which the ledger does not contain; supply it with --files FOLDER."
        )
    return path.absolute()


def _channel_model(source: Mapping[str, str], inputs: RebuildInputs) -> Path:
    for folder in inputs.models:
        if checkpoint_digest(folder) == source["digest"]:
            return folder.absolute()
    raise InputError(
        f"model {source['folder']!r}: expected a checkpoint of digest {source['digest'][:16]}…; supply it with --source FOLDER."
    )


def _compare_scores(
    report: RebuildReport,
    queue: BuildQueue,
    recipe: Recipe,
    seeds: Sequence[int],
    entry: Mapping[str, Any],
    campaign: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> None:
    """Test the equivalence of scores, because another environment gives other bits.

    The rebuilt models answer the same items as those in the ledger.
    """
    results = queue.gather([queue.submit(recipe, s, (draw_for_seed(s),)) for s in seeds], "rebuilding its other seeds")
    report.equivalences = _equivalences(
        [r.scores[0] for r in results], entry["after"], (*campaign["properties"], *campaign["capabilities"])
    )
    not_same = [e for e in report.equivalences if e.established != "same"]
    changed = ", ".join(sorted(key for key in environment if environment[key] != campaign["environment"].get(key))) or "bfloat16"
    prefix = f"other bits in another environment ({changed}); "
    if not not_same:
        report.add("model", True, prefix + f"every score is the same within ±{EQUIVALENCE_MARGIN:g} over {len(seeds)} seeds")
    else:
        worst = max(not_same, key=lambda e: abs(e.mean))
        difference = f"{worst.name} differs by {worst.mean:+.3f} [{worst.low:+.3f}, {worst.high:+.3f}], which is {worst.established}"
        report.add("model", False, prefix + f"equivalence is not established: {difference}")


def _equivalences(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]], names: Sequence[str]) -> list[Equivalence]:
    return [equivalence(c, [a[c] - b[c] for a, b in zip(ours, theirs, strict=True)], EQUIVALENCE_MARGIN, floor=0.005) for c in names]


def _check_claimed_model(report: RebuildReport, model: Path, recorded: str, rebuilt: Path) -> None:
    """Compare a checkpoint that is claimed to be the stage's model with the ledger."""
    digest = checkpoint_digest(model)
    if digest == recorded:
        report.add("checkpoint", True, "is the model in the ledger")
    else:
        difference = _first_difference(model, rebuilt)
        report.add("checkpoint", False, f"{_compare_digests(digest, recorded)}; compared with the rebuilt model, {difference}")


def _first_difference(one: Path, other: Path) -> str:
    """Return the first difference between two checkpoints, as text."""
    from safetensors.torch import load_file

    mine, theirs = ({n: t for path in weight_files(folder) for n, t in load_file(path).items()} for folder in (one, other))
    if {n: t.shape for n, t in mine.items()} != {n: t.shape for n, t in theirs.items()}:
        return "its tensors have other names or shapes"
    for name in sorted(mine):
        differ = int((mine[name] != theirs[name]).sum())
        if differ:
            return f"{differ:,} of {mine[name].numel():,} values of {name} differ"
    return "its weights are the same, and other files differ (configuration or tokenizer)"


def _compare_trainers(
    report: RebuildReport, first: BuildQueue, second: BuildQueue, recipe: Recipe, seeds: Sequence[int], base: Path
) -> None:
    """Build the stage with both trainers on several seeds, and compare weights and scores."""
    from stagezero.models.network import write_again
    from stagezero.training.data import derive_seed
    from stagezero.training.reference import relative_distance, sign_flip_p_value, weight_difference

    all_seeds = [*seeds, *(derive_seed(seeds[0], "second trainer", n) for n in range(TRAINER_SEEDS))][:TRAINER_SEEDS]
    jobs = [(first.submit(recipe, s, (draw_for_seed(s),)), second.submit(recipe, s, (draw_for_seed(s),))) for s in all_seeds]
    ours: list[Result] = first.gather([job for job, _ in jobs], "the first trainer")
    theirs: list[Result] = second.gather([job for _, job in jobs], "the second trainer")
    if all(a.digest == checkpoint_digest(base) for a in ours):
        report.add("trainer", True, "there is nothing to train")
        return
    pairs = [(a.folder, b.folder) for a, b in zip(ours, theirs, strict=True)]
    with tempfile.TemporaryDirectory() as name:
        start = base
        if not set(tensors(pairs[0][0])) <= set(tensors(base)):  # it has some under older names
            start = Path(name)
            write_again(base, start)
        report.distances = [relative_distance(a, b, start) for a, b in pairs]
    report.p_value = sign_flip_p_value([weight_difference(a, b) for a, b in pairs])
    report.equivalences = _equivalences([a.scores[0] for a in ours], [b.scores[0] for b in theirs], claims(first.suite))
    largest = max(report.distances)
    different = [e.name for e in report.equivalences if e.established == "different"]
    distance = (
        f"the largest distance between the two trainers' weights is {largest:.2g} of the distance trained, over {len(all_seeds)} seeds "
        f"(sign-flip p = {report.p_value:.3g})"
    )
    if largest <= MAX_ROUNDING_DISTANCE and not different:
        report.add("trainer", True, f"{distance}: rounding explains it")
    elif report.p_value > SYSTEMATIC_P_VALUE and not different:
        report.add("trainer", True, f"{distance}: the differences have no common direction, so chance explains them")
    else:
        scores = f"; scores differ: {', '.join(different)}" if different else ""
        report.add("trainer", False, f"{distance}: the differences have a common direction{scores}")
