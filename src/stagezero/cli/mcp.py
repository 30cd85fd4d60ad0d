"""``stagezero mcp``: serves one outside researcher of a run over MCP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stagezero.researchers.mcp_server import serve


def mcp(*, run: Path, name: Annotated[str, Parameter(name="--as")]) -> None:
    """Serve an agent over MCP, as one outside researcher of a campaign.

    Put this command into the agent's MCP settings; the server uses stdin and stdout. It provides
    the brief, validates and accepts ideas, and waits for results. Of the run, it reads and writes
    only that researcher's folder.

    Example: `stagezero mcp --run runs/first-bootstrap --as agent`

    Parameters
    ----------
    run
        The folder of a run, for example runs/first-bootstrap.
    name
        The outside researcher's name in the project file.
    """
    serve(run, name)
