"""stagezero: alignment research whose results can be checked.

    import stagezero as sz
    answer = sz.compare("plain.yaml", "balanced.yaml", property="privacy")
    print(answer)

The public names are those in ``__all__``. Each is loaded on first use, so that importing stagezero
does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stagezero.errors import StagezeroError
    from stagezero.evidence import Estimate, e_value
    from stagezero.ideas.idea import Idea
    from stagezero.lab.campaign import Campaign
    from stagezero.lab.stage import CampaignResult, Stage
    from stagezero.ledger import Ledger
    from stagezero.measure import Scores
    from stagezero.models import Model, materialise
    from stagezero.project import Project, Trial, load_project
    from stagezero.tasks import Item, Outcome, Suite, load_suite
    from stagezero.training import Recipe, load_recipe
    from stagezero.trials.compare import compare
    from stagezero.trials.comparison import Comparison
    from stagezero.trials.ruling import Fate
    from stagezero.trials.state import Decision

_NAMES = {
    "errors": "StagezeroError", "evidence": "Estimate e_value", "ideas.idea": "Idea", "lab.campaign": "Campaign",
    "lab.stage": "CampaignResult Stage", "ledger": "Ledger", "measure": "Scores", "models": "Model materialise",
    "project": "Project Trial load_project", "tasks": "Item Outcome Suite load_suite", "training": "Recipe load_recipe",
    "trials.compare": "compare", "trials.comparison": "Comparison", "trials.ruling": "Fate", "trials.state": "Decision",
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Campaign", "CampaignResult", "Comparison", "Decision", "Estimate", "Fate", "Idea", "Item", "Ledger", "Model", "Outcome",
    "Project", "Recipe", "Scores", "Stage", "StagezeroError", "Suite", "Trial", "compare", "e_value", "load_project",
    "load_recipe", "load_suite", "materialise",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import the module that defines a public name and return the name's value."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"stagezero.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'stagezero' has no attribute {name!r}")
