"""``stagezero init``."""

from __future__ import annotations

from pathlib import Path

from stagezero.cli._output import output


def init(
    folder: Path = Path("stagezero-project"), /, *, model: str | None = None, suite: Path | None = None, shipped: str = "first"
) -> int:
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
    from stagezero import examples
    from stagezero.lab.scaffold import write_project

    written = write_project(folder, examples.contents(shipped), model, suite)
    out = output()
    for path in written:
        out.print(f"wrote {path}", soft_wrap=True)
    out.print(f"\nedit them, then: stagezero run {folder / 'project.yaml'}", soft_wrap=True)
    return 0
