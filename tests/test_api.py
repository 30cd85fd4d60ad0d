"""The exported names: adding one is a decision, and removing one breaks users' programs."""

from __future__ import annotations

import subprocess
import sys

import stagezero


def test_exported_names() -> None:
    assert sorted(stagezero.__all__) == [
        "Campaign", "CampaignResult", "Comparison", "Decision", "Estimate", "Fate", "Idea", "Item", "Ledger", "Model", "Outcome",
        "Project", "Recipe", "Scores", "Stage", "StagezeroError", "Suite", "Trial", "compare", "e_value", "load_project",
        "load_recipe", "load_suite", "materialise",
    ]  # fmt: skip
    for name in stagezero.__all__:
        assert getattr(stagezero, name) is not None


def test_importing_the_package_imports_no_heavy_library() -> None:
    code = "import sys, stagezero; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'trl')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
