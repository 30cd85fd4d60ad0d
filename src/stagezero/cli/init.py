"""``stagezero init``: writes a project folder."""

from __future__ import annotations

from pathlib import Path

from stagezero import examples
from stagezero.cli._output import stdout_console
from stagezero.lab.scaffold import write_project


def init(
    folder: Path = Path("stagezero-project"), /, *, model: str | None = None, suite: Path | None = None, shipped: str = "first"
) -> None:
    """Write a shipped project to a folder, for you to edit.

    Example: `stagezero init demo`

    Example: `stagezero init mine --model package/smollm2-135m-q4 --suite mine.jsonl`

    Parameters
    ----------
    folder
        The new project's folder. It must be empty or not exist.
    model
        The base of the new project, for example hf/ORG/NAME or package/smollm2-135m-q4.
    suite
        Your own JSONL suite for the new project. Every line is validated first.
    shipped
        The shipped project to copy: first, rlhf or smollm2.
    """
    written = write_project(folder, examples.project_files(shipped), model, suite)
    out = stdout_console()
    for path in written:
        out.print(f"wrote {path}", soft_wrap=True)
    out.print(f"\nedit the files, then: stagezero run {folder / 'project.yaml'}", soft_wrap=True)
