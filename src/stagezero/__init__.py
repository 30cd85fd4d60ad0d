"""stagezero: automated alignment research that can be trusted.

    import stagezero as sz
    answer = sz.compare("plain.yaml", "balanced.yaml", property="privacy")
    print(answer)

Names are loaded on first use: importing stagezero does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagezero.errors import StagezeroError
    from stagezero.evidence import Estimate, e_value
    from stagezero.ideas.idea import Idea
    from stagezero.lab.campaign import Campaign
    from stagezero.lab.stage import Finished, Stage
    from stagezero.ledger import Ledger
    from stagezero.measure import Scores
    from stagezero.models import Model, materialise
    from stagezero.project import Project, Trial, load_project
    from stagezero.tasks import Item, Outcome, Suite, load_suite
    from stagezero.training import Recipe, load_recipe
    from stagezero.trials.compare import Comparison, compare
    from stagezero.trials.decision import Fate
    from stagezero.trials.state import Decision

_WHERE = {
    "Campaign": "lab.campaign",
    "Comparison": "trials.compare",
    "Decision": "trials.state",
    "Estimate": "evidence",
    "Fate": "trials.decision",
    "Finished": "lab.stage",
    "Idea": "ideas.idea",
    "Item": "tasks",
    "Ledger": "ledger",
    "Model": "models",
    "Outcome": "tasks",
    "Project": "project",
    "Recipe": "training",
    "Scores": "measure",
    "Stage": "lab.stage",
    "StagezeroError": "errors",
    "Suite": "tasks",
    "Trial": "project",
    "compare": "trials.compare",
    "e_value": "evidence",
    "load_project": "project",
    "load_recipe": "training",
    "load_suite": "tasks",
    "materialise": "models",
}

__all__ = [
    "Campaign", "Comparison", "Decision", "Estimate", "Fate", "Finished", "Idea", "Item", "Ledger", "Model", "Outcome", "Project",
    "Recipe", "Scores", "Stage", "StagezeroError", "Suite", "Trial", "compare", "e_value", "load_project", "load_recipe",
    "load_suite", "materialise",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(f"stagezero.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'stagezero' has no attribute {name!r}")
