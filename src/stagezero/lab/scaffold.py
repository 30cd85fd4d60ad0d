"""Writes a project that a person can edit: a shipped one, adapted to another model and suite."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from stagezero.errors import ProjectError
from stagezero.models import check_model
from stagezero.models.loader import POCKET, SMOLLM2
from stagezero.tasks import load_suite

_LLM_STAGE0 = """# The recipe of stage 0, the first technique, written by people.
steps:
  # mix makes a dataset from the suite's training examples: here 40 traps of each property.
  #   name   the dataset's name
  #   parts  kinds of examples (trap, twin, capability), and how many of each
  - {step: mix, name: data, parts: [{kinds: [trap], each: 40}]}
  # sft is supervised fine-tuning on the answers that a person would write.
  #   data   the dataset's name
  #   steps, batch_size, learning_rate  of the optimizer
  #   lora   trains low-rank adapters only, because the base is a full-size language model
  - {step: sft, data: data, steps: 20, batch_size: 8, learning_rate: 0.0005, lora: {rank: 8, alpha: 16}}
"""


def _idea_file(prop: str) -> str:
    """Return an idea file that adds harmless twins, for a suite's property."""
    return f"""---
title: Show the harmless twins too
# The property that the idea improves, and by how much.
property: {prop}
claimed_effect: 0.05
# Why it should help.
reason: Traps alone teach the model to refuse whatever looks like them. Twins of the same shape show where refusing is wrong.
# Changes to the recipe. This one adds up to 100 twins of each property to the dataset named data.
patch:
  - {{op: extend, at: data, parts: [{{kinds: [twin], each: 100}}]}}
---
Text below the front matter is for people. It does not cross to the next stage.
"""


def _yaml_text(text: str) -> str:
    """Return a text as YAML, in quotes only where YAML needs them."""
    return text if re.fullmatch(r"[\w./+-]+", text) else json.dumps(text, ensure_ascii=False)


def write_project(folder: Path, shipped: Mapping[str, str], model: str | None, suite: Path | None) -> list[Path]:
    """Write a project's files and return their paths.

    Args:
        folder: the project's folder.
        shipped: the files of a shipped project, as relative path → text.
        model: the base, if it is not the shipped project's.
        suite: a suite file, if the suite is not the shipped project's.

    Raises:
        ProjectError: the folder is not empty, or the suite does not fit the project.
        SuiteError: the suite has a malformed line.
        ModelError: there is no such base.
    """
    if model is not None:
        check_model(model)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ProjectError(f"init: {str(folder)!r} already exists and is not empty; give another folder.")
    files = dict(shipped)
    # Only the project "first" has a folder of recipes; its stage 0 and its ideas fit other models
    # and suites.
    adaptable = any(name.startswith("recipes/") for name in files)
    if suite is not None and not adaptable:
        raise ProjectError("init: --suite works with the first project only; leave out --shipped, or edit the files by hand.")
    project = files["project.yaml"]
    if model is not None:
        # The project's paths start from its own folder, and this one from the current folder.
        base = model if model in (*POCKET, SMOLLM2) or model.startswith("hf/") else str(Path(model).resolve())
        project = re.sub(r"^base: \S+ *", lambda _: f"base: {_yaml_text(base)}  ", project, flags=re.M)
        if model not in POCKET and adaptable:
            files["stage0.yaml"] = _LLM_STAGE0
    if suite is not None:
        loaded = load_suite(str(suite.resolve()))
        project = re.sub(r"^suite: \S+ *", lambda _: f"suite: {_yaml_text(str(suite.resolve()))}  ", project, flags=re.M)
        # The shipped bars and ideas are for the atlas suite, and a suite from a file needs a file
        # of sealed items.
        start, end = project.index("audit:"), project.index("workers:")
        bars = "\n".join(f"#     {claim}: 0.60" for claim in loaded.properties)
        project = (
            project[:start]
            + "# To add an auditor, remove the '# ' at the beginning of the next lines.\n"
            + "# audit:                 # audits every stage on sealed items\n"
            + "#   sealed: sealed.jsonl # the file of sealed items, which the lab must never read\n"
            + f"#   bars:                # the score that a stage must reach, for each property\n{bars}\n\n"
            + project[end:]
        )
        files = {name: text for name, text in files.items() if not name.startswith(("ideas/", "recipes/"))}
        files["ideas/show-the-twins.md"] = _idea_file(loaded.properties[0])
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
