"""A project with everything that its file names, resolved and validated in one place.

The campaign, the box, the check of ideas and the rebuild all use this class, so that they see the
same suite, channels, limits and paths. Each file is read on first use: outside the box, nothing of
a project is loaded but the project file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from stagezero.door import Terms, default_auditor_folder
from stagezero.errors import ProjectError, explain
from stagezero.files import read_text
from stagezero.ideas.airlock import Admitted, Refused, admit
from stagezero.ideas.idea import Idea
from stagezero.isolation import Confinement, Limits, unavailable_reason
from stagezero.models import check_model
from stagezero.project import Audit, AuditElsewhere, Project, Sandbox, load_project
from stagezero.tasks import Suite, claims, full_suite_name, load_suite
from stagezero.training import Recipe, load_recipe
from stagezero.training.channels import check_channel_models
from stagezero.training.steps.run_program import check_programs
from stagezero.trials.hypothesis import Hypothesis


class ResolvedProject:
    """A project file and everything that it names.

    Args:
        path: the project file.

    Raises:
        ProjectError: the project file is invalid. A file that it names raises its own error on
            first use, or in ``validate``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.project: Project = load_project(path)

    def resolve(self, name: str) -> Path:
        """Return the absolute path of a name in the file, relative to the file's folder."""
        return (self.path.parent / name).resolve()

    # --- models, suite and recipe -----------------------------------------------------------------

    @cached_property
    def suite_name(self) -> str:
        """``atlas``, or the absolute path of a suite file."""
        return full_suite_name(self.project.suite, self.path.parent)

    @cached_property
    def suite(self) -> Suite:
        """The suite."""
        return load_suite(self.suite_name)

    @cached_property
    def stage0(self) -> Recipe:
        """The recipe of stage 0."""
        return load_recipe(self.resolve(self.project.stage0))

    @cached_property
    def base(self) -> str:
        """The base: a model's name, or the absolute path of its folder."""
        return self._model(self.project.base)

    @cached_property
    def chat_template(self) -> str | None:
        """The text of the chat template that replaces the base's; None for the base's own.

        Raises:
            ProjectError: the file cannot be read.
        """
        name = self.project.chat_template
        if name is None:
            return None
        if not self.resolve(name).is_file():
            raise ProjectError(f"{self.path}: chat_template: expected a file, found none at {name!r}; check the path.")
        return read_text(self.resolve(name), ProjectError)

    @cached_property
    def channels(self) -> Mapping[str, str]:
        """Sources of labels or weights: name in ideas → a model's name or absolute path."""
        return {name: self._model(name) for name in self.project.channels}

    def _model(self, name: str) -> str:
        folder = self.resolve(name)
        return str(folder) if folder.is_dir() else name

    @cached_property
    def confinement(self) -> Confinement:
        """The sandbox and its limits for programs in builds."""
        return confinement_of(self.project.sandbox)

    # --- admission of ideas -----------------------------------------------------------------------

    @cached_property
    def code_refusal(self) -> str | None:
        """The reason why this machine runs no program of an idea; None if it does."""
        kind = self.confinement.kind
        return "the project's sandbox.kind is none" if kind == "none" else unavailable_reason(kind)

    def admit(
        self, ideas: Sequence[Idea], control: Recipe | None = None, decided: Sequence[tuple[str, Hypothesis]] = ()
    ) -> tuple[list[Admitted], list[Refused]]:
        """Pass ideas through the airlock.

        Args:
            ideas: the ideas.
            control: the recipe that the ideas change; stage 0 if None.
            decided: title and hypothesis of each earlier decision.
        """
        control = self.stage0 if control is None else control
        margin, seconds = self.project.trial.margin, self.project.sandbox.seconds
        return admit(ideas, control, self.suite, margin, decided, self.channels, self.code_refusal, seconds)

    # --- the auditor ------------------------------------------------------------------------------

    @property
    def sealed_file(self) -> Path | None:
        """The file of sealed items, if the run starts its own auditor and the project names one.

        Raises:
            ProjectError: it is the file of the suite.
        """
        audit = self.project.audit
        if not isinstance(audit, Audit) or audit.sealed is None:
            return None
        file, suite = self.resolve(audit.sealed), Path(self.suite_name)
        if file.is_file() and suite.is_file() and file.samefile(suite):
            raise ProjectError(
                f"{self.path}: audit.sealed: {audit.sealed!r} is the file of the suite; the sealed items must be others; name another file."
            )
        return file

    @property
    def auditor_folder(self) -> Path:
        """The folder of the run's own auditor.

        The project file may name it. Otherwise it is in the default auditor folder. All projects
        with a sealed file share one auditor, so that an item has one budget across projects. Each
        project without a sealed file has its own auditor, so that several projects can run at the
        same time.
        """
        audit = self.project.audit
        assert isinstance(audit, Audit)
        if audit.folder is not None:
            return self.resolve(audit.folder)
        return default_auditor_folder() / ("files" if audit.sealed is not None else f"project-{self.project.name}")

    def terms(self) -> Terms:
        """Return the terms for the run's own auditor.

        Raises:
            ProjectError: the terms contradict each other.
        """
        audit = self.project.audit
        assert isinstance(audit, Audit)
        sealed = str(self.sealed_file) if self.sealed_file is not None else None
        try:
            return Terms(suite=self.suite_name, sealed=sealed, **audit.model_dump(exclude={"sealed", "folder"}))
        except ValidationError as error:
            raise ProjectError(explain(error, f"{self.path}: audit")) from None

    def named_folders(self) -> list[Path]:
        """Return the project's folder, and the folders of its base, suite, recipe and ideas."""
        template = self.project.chat_template
        files = [
            self.path.resolve(), self.resolve(self.project.stage0), Path(self.suite_name),
            *([self.resolve(template)] if template is not None else []),
        ]  # fmt: skip
        ideas = [self.resolve(r.ideas) for r in self.project.researchers if r.kind == "people"]
        folders = [*(file.parent for file in files if file.is_absolute()), Path(self.base), *ideas]
        return [folder for folder in dict.fromkeys(folders) if folder.is_absolute() and folder.is_dir()]

    # --- validation -------------------------------------------------------------------------------

    def validate(self) -> None:
        """Read everything that the file names, and reject what cannot run.

        The campaign calls this before it builds anything.

        Raises:
            InputError: names the file, the field, the expected value and the fix.
        """
        _ = self.suite, self.stage0, self.chat_template
        self._validate_audit()
        check_programs(self.stage0, self.confinement.kind, "stage0")
        check_channel_models(self.stage0)
        check_model(self.base)

    def _validate_audit(self) -> None:
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
        if self.sealed_file is not None and not self.sealed_file.is_file():
            raise ProjectError(f"{where}: audit.sealed: expected a JSONL file, found none at {audit.sealed!r}; check the path.")
        if self.sealed_file is None and self.suite.finite:
            raise ProjectError(
                f"{where}: audit.sealed is missing; a suite from a file needs a separate file of sealed items: name it, or remove 'audit'."
            )
        self.terms()


def confinement_of(sandbox: Sandbox) -> Confinement:
    """Convert a project's sandbox settings."""
    limits = Limits(int(sandbox.memory * 2**30), int(sandbox.disk * 2**30), sandbox.processes)
    return Confinement(sandbox.kind, limits)
