"""Reads ledgers and run folders, and nothing else; writes one self-contained page."""

from stagezero.report.gather import View, gather
from stagezero.report.page import write_page

__all__ = ["View", "gather", "write_page"]
