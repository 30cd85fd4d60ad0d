"""``stagezero mcp``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from stagezero.researchers.mcp_server import serve


def mcp(*, run: Path, name: Annotated[str, Parameter(name="--as")]) -> None:
    """Let an agent take part in a campaign: an MCP server on standard input and output, for one outside researcher.

    Name this command in the agent's settings. It offers the brief, checks and takes ideas, and waits for results; of the run it
    reaches that researcher's folder alone.

    Parameters
    ----------
    run
        The folder of a run, for example runs/first-bootstrap.
    name
        The outside researcher's name in the project file.
    """
    serve(run, name)
