"""Optuna's TPE sampler over the numbers of the current recipe.

The Optuna study is rebuilt from the brief's history at every stage, so it contains nothing that the
ledger does not contain.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stagezero.ideas.brief import Brief
from stagezero.ideas.idea import Idea
from stagezero.researchers.base import Researcher
from stagezero.training.recipes import DPO, SFT, Mix, Recipe

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_LEARNING_RATE_FACTORS = (0.25, 0.5, 1.0, 2.0)
_DRAWS_PER_IDEA = 20
"""Samples that the study may draw for each idea; a repeated sample or an empty patch is no idea."""


class OptunaResearcher(Researcher):
    """Proposes ``ideas`` patches a stage."""

    name = "optuna"
    repeatable = True

    def __init__(self, ideas: int, seed: int) -> None:
        self.max_ideas = ideas
        self.seed = seed

    @staticmethod
    def _search_space(brief: Brief) -> dict[str, BaseDistribution]:
        from optuna.distributions import CategoricalDistribution, IntDistribution

        return {
            "property": CategoricalDistribution(brief.properties), "learning_rate": CategoricalDistribution(_LEARNING_RATE_FACTORS),
            "steps": CategoricalDistribution((0.5, 1.0, 1.5)), "twins": IntDistribution(0, 120, step=40),
            "capabilities": IntDistribution(0, 60, step=30),
        }  # fmt: skip

    def propose(self, brief: Brief) -> Sequence[Idea]:
        """Sample patches, guided by the alignment gains of this researcher's earlier ideas."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        space = self._search_space(brief)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self.seed + brief.stage))
        for outcome in brief.history:
            if outcome.idea.researcher == self.name:
                parameters = _parameters_of(outcome.idea)
                if parameters is not None:
                    study.add_trial(optuna.trial.create_trial(params=parameters, distributions=space, value=outcome.alignment_gain))
        ideas: dict[str, Idea] = {}
        for _ in range(_DRAWS_PER_IDEA * self.max_ideas):
            if len(ideas) == self.max_ideas:
                break
            trial = study.ask(space)
            patch = _patch(brief.control, trial.params)
            if patch:
                idea = _idea(trial.params, patch)
                ideas.setdefault(idea.digest(), idea)
        return list(ideas.values())


def _patch(control: Recipe, parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a patch: scale the first training step's numbers, add examples to the first mix."""
    step = next((s for s in control.steps if isinstance(s, SFT | DPO)), None)
    mix = next((s for s in control.steps if isinstance(s, Mix)), None)
    patch: list[dict[str, Any]] = []
    if step is not None and (parameters["learning_rate"] != 1.0 or parameters["steps"] != 1.0):
        values = {
            "learning_rate": min(1.0, step.learning_rate * parameters["learning_rate"]),
            "steps": max(1, round(step.steps * parameters["steps"])),
        }
        patch.append({"op": "set", "at": step.name, "values": values})
    if mix is not None:
        parts = [
            {"kinds": [kind], "each": parameters[name]}
            for kind, name in (("twin", "twins"), ("capability", "capabilities"))
            if parameters[name] > 0
        ]
        if parts:
            patch.append({"op": "extend", "at": mix.name, "parts": parts})
    return patch


def _idea(parameters: dict[str, Any], patch: list[dict[str, Any]]) -> Idea:
    text = ", ".join(f"{name} {value:g}" for name, value in sorted(parameters.items()) if name != "property")
    # ``_parameters_of`` parses the reason, so its form must not change.
    return Idea(
        title=f"optuna: {text} for {parameters['property']}", property=parameters["property"], claimed_effect=0.05,
        reason=f"sampled: {text}", patch=tuple(patch), researcher=OptunaResearcher.name,
    )  # fmt: skip


def _parameters_of(idea: Idea) -> dict[str, Any] | None:
    """Parse the sampled parameters from an idea's reason; None if the reason has another form.

    The parameters crossed between stages as the text of the idea, like everything else.
    """
    try:
        pairs = (part.rsplit(" ", 1) for part in idea.reason.removeprefix("sampled: ").split(", "))
        numbers = {name: float(value) for name, value in pairs}
        return {
            "property": idea.property, "learning_rate": numbers["learning_rate"], "steps": numbers["steps"],
            "twins": int(numbers["twins"]), "capabilities": int(numbers["capabilities"]),
        }  # fmt: skip
    except (ValueError, KeyError):
        return None
