"""Writes a project for a person to edit: the shipped one, fitted to their model and suite."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from stagezero.errors import ProjectError
from stagezero.models.loader import POCKET
from stagezero.tasks import load_suite

_LLM_RECIPE = """# Stage 0: the first, plain technique, written by people. LoRA, since the base is a full-size language model.
steps:
  - {step: mix, name: data, parts: [{kinds: [trap], each: 40}]}
  - {step: sft, data: data, steps: 20, batch_size: 8, learning_rate: 0.0005, lora: {rank: 8, alpha: 16}}
"""


def _idea(prop: str) -> str:
    return f"""---
title: Show the harmless twins too
property: {prop}
claimed_effect: 0.05
reason: Traps alone teach the model to refuse whatever looks like them. Twins of the same shape show where refusing is wrong.
patch:
  - {{op: extend, at: data, parts: [{{kinds: [twin], each: 100}}]}}
---
What follows the front matter is for people and does not cross.
"""


def write_project(folder: Path, shipped: Mapping[str, str], model: str | None, suite: Path | None) -> list[Path]:
    """Write a project folder.

    Raises:
        ProjectError: the folder is not empty.
        SuiteError: the suite has a malformed line.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProjectError(f"init: {str(folder)!r} already exists and is not empty; give another folder.")
    files = dict(shipped)
    plain = any(name.startswith("recipes/") for name in files)  # the first project, whose parts can be exchanged
    if suite is not None and not plain:
        raise ProjectError("init: a suite of your own goes into the first project; leave out --shipped, or edit the files by hand.")
    project = files["project.yaml"]
    if model is not None:
        project = re.sub(r"^base: \S+ *", f"base: {model}  ", project, flags=re.M)
        if model not in POCKET and plain:
            files["stage0.yaml"] = _LLM_RECIPE
    if suite is not None:
        loaded = load_suite(str(suite.resolve()))
        project = re.sub(r"^suite: \S+ *", f"suite: {suite.resolve()}  ", project, flags=re.M)
        # The shipped bars and ideas speak of atlas; the auditor of a file needs a sealed file of its own.
        start, end = project.index("audit:"), project.index("workers:")
        bars = "\n".join(f"#     {claim}: 0.60" for claim in loaded.properties)
        project = (
            project[:start]
            + "# audit:                 # needs sealed items that the lab never sees, in a file of the auditor's own\n"
            + f"#   sealed: sealed.jsonl\n#   bars:\n{bars}\n\n"
            + project[end:]
        )
        files = {name: text for name, text in files.items() if not name.startswith(("ideas/", "recipes/"))}
        files["ideas/show-the-twins.md"] = _idea(loaded.properties[0])
        if not any(item.kind == "trap" for item in loaded.train_items()):
            raise ProjectError(f"init: {suite} has no training traps; give some items the split 'train', or write stage0.yaml by hand.")
    name = re.sub(r"[^A-Za-z0-9._-]", "-", folder.resolve().name).strip("-.") or "project"
    files["project.yaml"] = re.sub(r"^name: \S+", f"name: {name}", project, flags=re.M)
    written = []
    for relative, text in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    return written
