"""Where builds run. ``local`` keeps worker processes alive on this machine; every backend takes jobs and gives results."""

from stagezero.training.executors.local import Job, LocalPool, Result

__all__ = ["Job", "LocalPool", "Result"]
