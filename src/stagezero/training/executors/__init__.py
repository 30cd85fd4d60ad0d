"""Where builds run. ``local`` keeps worker processes alive on this machine; every backend takes jobs and gives results."""

from stagezero.training.executors.jobs import Draw, Job, Result
from stagezero.training.executors.local import LocalPool, outcome

__all__ = ["Draw", "Job", "LocalPool", "Result", "outcome"]
