"""The house stands as it is described: names in strings exist, and no module hides one of the standard library."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from stagezero.files import PACKAGE_FOLDER

SOURCES = sorted(PACKAGE_FOLDER.rglob("*.py"))
ROOT = Path(__file__).parent.parent


def named_in_strings() -> set[str]:
    """Names of this package that stand in quotes: what a fork server preloads, what ``-m`` runs, ``module:attribute`` of a verb."""
    found: set[str] = set()
    for path in (*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")):
        found |= set(re.findall(r"""["'](stagezero(?:\.[a-z_]\w*)+(?::\w+)?)["']""", path.read_text(encoding="utf-8")))
    return found


def test_every_module_named_in_a_string_exists() -> None:
    # A fork server swallows ImportError: a stale name would silently cost 5 s and 470 MB in every worker.
    names = named_in_strings()
    assert {"stagezero.training.executors.worker", "stagezero.auditor.forkserver_preload"} <= names
    assert "stagezero.cli.compare:compare" in names
    for name in sorted(names):
        module, _, attribute = name.partition(":")
        if attribute:
            assert hasattr(importlib.import_module(module), attribute), name
        parts = module.split(".")
        while (spec := _spec(".".join(parts))) is None:
            parts.pop()
        rest = module.split(".")[len(parts) :]
        if spec.submodule_search_locations is not None and rest:  # a package, and no module of it
            assert hasattr(importlib.import_module(".".join(parts)), rest[0]), name


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, without importing it: some are expensive, and one narrows the process that imports it."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


@pytest.mark.parametrize("folder", ["isolation", "auditor", "cli"])
def test_no_module_of_a_launchers_folder_hides_one_of_the_standard_library(folder: str) -> None:
    names = {path.stem for path in (PACKAGE_FOLDER / folder).glob("*.py")} - {"__init__", "__main__"}
    assert not names & sys.stdlib_module_names


def test_paths_of_the_package_come_from_its_resources() -> None:
    # Counted from a module's own file they would, after a move, hide all of site-packages in a sandbox, or nothing.
    for path in SOURCES:
        assert not re.search(r"__file__(?!\")", path.read_text(encoding="utf-8")), path


def test_every_module_has_a_test_of_its_name_or_is_named_by_one_that_covers_it() -> None:
    tests = ROOT / "tests"
    covered: set[str] = set()
    for path in tests.rglob("test_*.py"):
        covered.add(str(path.relative_to(tests).with_name(path.name.removeprefix("test_"))))
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        _, _, names = docstring.partition("Covers: ")
        listed = set(re.findall(r"[\w/]+\.py", names))
        assert all((PACKAGE_FOLDER / name).is_file() for name in listed), (path.name, listed)
        covered |= listed
    modules = {str(path.relative_to(PACKAGE_FOLDER)) for path in SOURCES if path.name not in ("__init__.py", "__main__.py")}
    assert not modules - covered
