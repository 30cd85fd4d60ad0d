"""Start an auditor and a lab as ``stagezero run`` does, with the hostile program as the lab.

    python start_run.py TASK.json

It prints the hostile program's result as JSON.
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

HOSTILE_LAB = Path(__file__).with_name("lab.py")


def handle_of(path: Path) -> tuple[int, str]:
    """Return the type and the bytes (hex) of a file's handle; 0 and "" if there is none.

    A process with sufficient privileges can open the file by this handle, without a path.
    """
    libc, mount = ctypes.CDLL(None, use_errno=True), ctypes.c_int()
    handle = ctypes.create_string_buffer((128).to_bytes(4, sys.byteorder) + bytes(132))
    if libc.name_to_handle_at(-100, str(path).encode(), handle, ctypes.byref(mount), 0) != 0:
        return 0, ""
    size, kind = (int.from_bytes(handle.raw[i : i + 4], sys.byteorder) for i in (0, 4))
    return kind, handle.raw[8 : 8 + size].hex()


def children(pid: int) -> list[int]:
    """Return a process and its descendants."""
    try:
        ids = [text for task in Path(f"/proc/{pid}/task").iterdir() for text in (task / "children").read_text().split()]
    except OSError:
        ids = []
    return [pid, *(descendant for child in ids for descendant in children(int(child)))]


def main() -> int:
    """Run the hostile program beside an embedded auditor; return 1 if it has no result."""
    task: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    level: Separation = "boxed" if task["boxed"] else "colocated"
    auditor_folder, sealed = Path(task["keep"]), Path(task["sealed"])
    with EmbeddedAuditor(auditor_folder, level, sealed if task["boxed"] else None) as auditor:
        endpoint = auditor.endpoint()
        door = endpoint.door()
        task["suite"] = door.set_up(Setup.model_validate(task["setup"])).suite
        separation = door.certificate()["separation"]
        door.close()
        sealed_copy = auditor_folder / "sealed" / task["suite"] / sealed.name
        task["handles"] = [handle_of(path) for path in (sealed, sealed_copy)]
        task["pids"] = children(auditor._process.pid)
        task |= {"address": endpoint.address, "token": endpoint.token}
        for path in Path("/proc/net/unix").read_text().splitlines()[1:]:
            if task["temporary"] in path:
                task["sockets"].append(path.split()[-1])
        task_file = Path(task["writable"]) / "task.json"
        task_file.write_text(json.dumps(task))
        command = [sys.executable, str(HOSTILE_LAB), str(task_file)]
        if task["boxed"]:
            # The hostile program must be visible in the box, wherever this checkout is.
            visible = [task_file.parent.parent, HOSTILE_LAB.parent]
            covered = [auditor_folder, sealed] if task["covered"] else []
            command = lab_box.Box([Path(task["writable"])], covered, visible).command(command, task_file.parent)
        done = subprocess.run(command, capture_output=True, text=True, cwd=task_file.parent, timeout=task["seconds"] * 4 + 60, check=False)
    try:
        result = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError):
        print(done.stderr[-3000:], file=sys.stderr)
        return 1
    print(json.dumps({**result, "separation": separation}))
    return 0


if __name__ == "__main__":
    assert os.name == "posix"
    sys.exit(main())
