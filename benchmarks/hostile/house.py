"""A project's two wings as ``stagezero run`` starts them, with the hostile program in the lab's place.

python house.py TASK.json
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from stagezero.door import EmbeddedAuditor, Setup
from stagezero.door.messages import Separation
from stagezero.isolation import lab_box

WING = Path(__file__).with_name("wing.py")


def handle_of(path: Path) -> tuple[int, str]:
    """A file's handle: with it and enough rights a file is opened past every path."""
    libc, mount = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    held = ctypes.create_string_buffer((128).to_bytes(4, sys.byteorder) + bytes(132))
    if libc.name_to_handle_at(-100, str(path).encode(), held, ctypes.byref(mount), 0) != 0:
        return 0, ""
    size, kind = (int.from_bytes(held.raw[i : i + 4], sys.byteorder) for i in (0, 4))
    return kind, held.raw[8 : 8 + size].hex()


def children(pid: int) -> list[int]:
    """A process and all that it has started."""
    try:
        told = [text for task in Path(f"/proc/{pid}/task").iterdir() for text in (task / "children").read_text().split()]
    except OSError:
        told = []
    return [pid, *(found for child in told for found in children(int(child)))]


def main() -> int:
    task: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    level: Separation = "boxed" if task["boxed"] else "colocated"
    keep, sealed = Path(task["keep"]), Path(task["sealed"])
    with EmbeddedAuditor(keep, level, sealed if task["boxed"] else None) as auditor:
        opened = auditor.endpoint()
        door = opened.door()
        task["suite"] = door.set_up(Setup.model_validate(task["setup"])).suite
        task["says"] = door.certificate()["separation"]
        door.close()
        kept = keep / "sealed" / task["suite"] / sealed.name
        task["handles"] = [handle_of(path) for path in (sealed, kept)]
        task["pids"] = children(auditor._process.pid)
        task |= {"address": opened.address, "token": opened.token}
        for path in Path("/proc/net/unix").read_text().splitlines()[1:]:
            if task["temporary"] in path:
                task["sockets"].append(path.split()[-1])
        told = Path(task["writable"]) / "task.json"
        told.write_text(json.dumps(task))
        line = [sys.executable, str(WING), str(told)]
        if task["boxed"]:
            # The attack itself must be there, wherever this checkout lies.
            seen = [told.parent.parent, WING.parent]
            line = lab_box.Box([Path(task["writable"])], [keep, sealed] if task["covered"] else [], seen).command(line, told.parent)
        done = subprocess.run(line, capture_output=True, text=True, cwd=told.parent, timeout=task["seconds"] * 4 + 60, check=False)
    try:
        found = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        print(done.stderr[-3000:], file=sys.stderr)
        return 1
    print(json.dumps({**found, "says": task["says"]}))
    return 0


if __name__ == "__main__":
    assert os.name == "posix"
    sys.exit(main())
