"""Executors: where builds run.

``local`` runs worker processes on this machine. Every executor takes jobs and returns results, both
plain data.
"""

from stagezero.training.executors.jobs import Draw, Job, Result, Speed
from stagezero.training.executors.local import LocalPool, wait_for_result

__all__ = ["Draw", "Job", "LocalPool", "Result", "Speed", "wait_for_result"]
