"""Items, suites and scoring. ``atlas`` is the built-in suite; ``jsonl`` reads a user's own file.

Other rooms import the names listed in ``__all__``. Nothing here runs a model.
"""

from stagezero.tasks.items import ALL_PROPERTIES, Item, Suite, claims
from stagezero.tasks.refusals import is_refusal
from stagezero.tasks.registry import DEFAULT_ANSWER_TOKENS, answer_tokens, full_suite_name, load_suite
from stagezero.tasks.scoring import Counts, Outcome, names_both, score, tally
from stagezero.tasks.text_forms import normalise

__all__ = [
    "ALL_PROPERTIES", "DEFAULT_ANSWER_TOKENS", "Counts", "Item", "Outcome", "Suite", "answer_tokens", "claims", "full_suite_name",
    "is_refusal", "load_suite", "names_both", "normalise", "score", "tally",
]  # fmt: skip
