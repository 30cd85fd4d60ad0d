"""The layout of the package: names in strings resolve, and every module has a test.

No module may have the name of one in the standard library where that would hide it.
"""

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


def names_in_strings() -> set[str]:
    """Return the package's module names in quotes.

    These are the modules that a fork server preloads or ``-m`` runs, and commands'
    ``module:attribute`` names.
    """
    names: set[str] = set()
    for path in (*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")):
        names |= set(re.findall(r"""["'](stagezero(?:\.[a-z_]\w*)+(?::\w+)?)["']""", path.read_text(encoding="utf-8")))
    return names


def test_every_module_named_in_a_string_exists() -> None:
    # A fork server ignores ImportError, so a stale name would cost 5 s and 470 MB in every worker.
    names = names_in_strings()
    assert {"stagezero.training.executors.worker", "stagezero.auditor.forkserver_preload"} <= names
    assert "stagezero.cli.compare:compare" in names
    for name in sorted(names):
        module, _, attribute = name.partition(":")
        if attribute:
            assert hasattr(importlib.import_module(module), attribute), name
        parts = module.split(".")
        while (spec := _spec(".".join(parts))) is None:
            parts.pop()
        remainder = module.split(".")[len(parts) :]
        if spec.submodule_search_locations is not None and remainder:  # a package, and an attribute of it
            assert hasattr(importlib.import_module(".".join(parts)), remainder[0]), name


def _spec(name: str) -> ModuleSpec | None:
    """Find a module without importing it: some are slow, and one restricts the process."""
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


@pytest.mark.parametrize("folder", ["isolation", "auditor", "cli"])
def test_no_module_hides_one_of_the_standard_library(folder: str) -> None:
    names = {path.stem for path in (PACKAGE_FOLDER / folder).glob("*.py")} - {"__init__", "__main__"}
    assert not names & sys.stdlib_module_names


def test_package_paths_come_from_importlib_resources() -> None:
    # A path relative to __file__ would change when its module moves. A sandbox would then hide all
    # of site-packages, or no file.
    for path in SOURCES:
        assert not re.search(r"__file__(?!\")", path.read_text(encoding="utf-8")), path


def test_every_module_has_a_test_file_of_its_name_or_is_listed_as_covered() -> None:
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
