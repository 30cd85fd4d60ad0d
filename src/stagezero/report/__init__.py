"""The report of a run: one self-contained HTML page.

``gather`` reads the ledger and the files beside it; ``page`` and ``plots`` render what it returns.
The package starts no run, loads no model, and changes only ``report.html``.
"""

from stagezero.report.gather import View, gather
from stagezero.report.page import write_page

__all__ = ["View", "gather", "write_page"]
