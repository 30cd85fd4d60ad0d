"""One project as it is run: its file, and everything that the file names, found and checked in one place.

Whoever runs a campaign, boxes it off, checks an idea against it or rebuilds it goes by this, so that all of them see the same suite,
channels, limits and paths. Files are read when they are first asked for: outside the box nothing of a project is loaded but its own file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from stagezero.door import Terms, default_keep
from stagezero.errors import ProjectError, explain
from stagezero.ideas.airlock import Admitted, Refused, admit
from stagezero.ideas.idea import Idea
from stagezero.isolation import Confinement, Limits, why_not
from stagezero.project import Audit, AuditElsewhere, Project, Sandbox, load_project
from stagezero.tasks import Suite, claims, full_suite_name, load_suite
from stagezero.training import Recipe, load_recipe
from stagezero.training.steps.run_program import check_programs
from stagezero.trials.hypothesis import Hypothesis


class ResolvedProject:
    """A project file and what it names.

    Args:
        path: the project file.

    Raises:
        ProjectError: it cannot be read. What it names raises when it is first asked for, or in ``check``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.project: Project = load_project(path)

    def resolve(self, name: str) -> Path:
        """A path of the file, seen from the file's folder."""
        return (self.path.parent / name).resolve()

    # --- what is built and asked ---------------------------------------------------------------------------------

    @cached_property
    def suite_name(self) -> str:
        """``atlas``, or the full path of a file."""
        return full_suite_name(self.project.suite, self.path.parent)

    @cached_property
    def suite(self) -> Suite:
        return load_suite(self.suite_name)

    @cached_property
    def stage0(self) -> Recipe:
        return load_recipe(self.resolve(self.project.stage0))

    @cached_property
    def base(self) -> str:
        """A model by name, or the full path of its folder."""
        return self._model(self.project.base)

    @cached_property
    def channels(self) -> Mapping[str, str]:
        """Sources of labels or weights: name in ideas → where it is."""
        return {name: self._model(name) for name in self.project.channels}

    def _model(self, name: str) -> str:
        folder = self.resolve(name)
        return str(folder) if folder.is_dir() else name

    @cached_property
    def confinement(self) -> Confinement:
        return confinement_of(self.project.sandbox)

    # --- what may be tried ---------------------------------------------------------------------------------------

    @cached_property
    def no_code(self) -> str | None:
        """Why programs that ideas bring along are not run here, where they are not."""
        kind = self.confinement.kind
        return "the project's sandbox.kind is none" if kind == "none" else why_not(kind)

    def admit(
        self, ideas: Sequence[Idea], control: Recipe | None = None, decided: Sequence[tuple[str, Hypothesis]] = ()
    ) -> tuple[list[Admitted], list[Refused]]:
        """Pass ideas through the airlock; against stage 0 where no control is given."""
        control = self.stage0 if control is None else control
        margin, seconds = self.project.trial.margin, self.project.sandbox.seconds
        return admit(ideas, control, self.suite, margin, decided, self.channels, self.no_code, seconds)

    # --- the auditor ---------------------------------------------------------------------------------------------

    @property
    def sealed(self) -> Path | None:
        """The sealed file of an auditor of the run's own."""
        audit = self.project.audit
        return self.resolve(audit.sealed) if isinstance(audit, Audit) and audit.sealed is not None else None

    @property
    def auditor_folder(self) -> Path:
        """Where the embedded auditor lives: beside the project where the file names a place, else in the user's own.

        Sealed files share one auditor, so that the budget of an item is one whatever the project; items that are drawn for a project
        have an auditor for each, so that projects can run side by side.
        """
        audit = self.project.audit
        assert isinstance(audit, Audit)
        if audit.keep is not None:
            return self.resolve(audit.keep)
        return default_keep() / ("files" if audit.sealed is not None else f"project-{self.project.name}")

    def terms(self) -> Terms:
        """What the project asks of an auditor of its own.

        Raises:
            ProjectError: the terms do not hold together.
        """
        audit = self.project.audit
        assert isinstance(audit, Audit)
        sealed = str(self.sealed) if self.sealed is not None else None
        try:
            return Terms(suite=self.suite_name, sealed=sealed, **audit.model_dump(exclude={"sealed", "keep"}))
        except ValidationError as error:
            raise ProjectError(explain(error, f"{self.path}: audit")) from None

    def named_folders(self) -> list[Path]:
        """The project's folder, and those of its base, suite, recipe and ideas."""
        files = [self.path.resolve(), self.resolve(self.project.stage0), Path(self.suite_name)]
        ideas = [self.resolve(r.ideas) for r in self.project.researchers if r.kind == "people"]
        found = [*(file.parent for file in files if file.is_absolute()), Path(self.base), *ideas]
        return [folder for folder in dict.fromkeys(found) if folder.is_absolute() and folder.is_dir()]

    # --- everything at once --------------------------------------------------------------------------------------

    def check(self) -> None:
        """Read all that the file names, and refuse what could not be run, before anything is built.

        Raises:
            InputError: naming the file, the field, what was expected and the fix.
        """
        _ = self.suite, self.stage0
        self._check_audit()
        check_programs(self.stage0, self.confinement.kind, "stage0")

    def _check_audit(self) -> None:
        audit, where = self.project.audit, self.path
        if isinstance(audit, AuditElsewhere):
            for field, name in (("token_file", audit.token_file), ("ca_file", audit.ca_file)):
                if name is not None and not self.resolve(name).is_file():
                    raise ProjectError(f"{where}: audit.{field}: expected a file, found none at {name!r}; check the path.")
        if not isinstance(audit, Audit):
            return
        known = claims(self.suite)
        for claim in audit.bars:
            if claim not in known:
                raise ProjectError(f"{where}: audit.bars: unknown property or capability {claim!r}; the suite has: {', '.join(known)}.")
        if self.sealed is not None and not self.sealed.is_file():
            raise ProjectError(f"{where}: audit.sealed: expected a JSONL file, found none at {audit.sealed!r}; check the path.")
        if self.sealed is None and self.suite.finite:
            raise ProjectError(
                f"{where}: audit.sealed is missing; a suite from a file needs the auditor's own sealed file: name it, or leave out 'audit'."
            )
        self.terms()


def confinement_of(sandbox: Sandbox) -> Confinement:
    """How a project confines the programs it builds with."""
    limits = Limits(int(sandbox.memory * 2**30), int(sandbox.disk * 2**30), sandbox.processes)
    return Confinement(sandbox.kind, limits)
