"""``stagezero init``."""

from __future__ import annotations

from pathlib import Path

from stagezero import examples
from stagezero.cli._output import output
from stagezero.lab.scaffold import write_project


def init(
    folder: Path = Path("stagezero-project"), /, *, model: str | None = None, suite: Path | None = None, shipped: str = "first"
) -> None:
    """Write out a shipped project for you to edit.

    Parameters
    ----------
    folder
        Where to write it; must not exist or be empty.
    model
        Base to put into it, for example hf/ORG/NAME or package/smollm2-135m-q4.
    suite
        A JSONL suite of your own to put into it; it is checked line by line first.
    shipped
        Which project: first, or rlhf.
    """
    written = write_project(folder, examples.contents(shipped), model, suite)
    out = output()
    for path in written:
        out.print(f"wrote {path}", soft_wrap=True)
    out.print(f"\nedit them, then: stagezero run {folder / 'project.yaml'}", soft_wrap=True)
