"""Measure the share of a campaign's time that is neither training nor answering.

The overhead ratio is wall time × workers / Σ(seconds inside train and generate). The shipped
project runs in a fresh process, with its base already built and nothing else cached. The memory of
all its processes is sampled as proportional set size, so that pages shared between workers count
once.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from _common import arguments, publish

from stagezero import examples
from stagezero.models import materialise
from stagezero.models.loader import configure_libraries


def _process_tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    pids, queue = [], [pid]
    while queue:
        current = queue.pop()
        pids.append(current)
        try:
            for task in Path(f"/proc/{current}/task").iterdir():
                queue += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return pids


def _memory_gib(pid: int) -> float:
    """Return the proportional set size of a process tree, in GiB."""
    total = 0
    for member in _process_tree(pid):
        try:
            for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
        except OSError:
            continue
    return total / 2**20


def main() -> None:
    """Run the benchmark.

    Raises:
        SystemExit: the campaign failed.
    """
    options = arguments(__doc__ or "").parse_args()
    configure_libraries()
    base = materialise("pocket/262k")
    with tempfile.TemporaryDirectory() as scratch:
        store_home = Path(scratch) / "home"
        (store_home / "bases").mkdir(parents=True)
        shutil.copytree(base, store_home / "bases" / base.name)
        # A new auditor, which has answered for none of these models, so that the campaign has to
        # wait for its answers.
        project = Path(scratch) / "project"
        for name, text in examples.project_files("first").items():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(text.replace("\n  delta:", "\n  folder: keep\n  delta:") if name == "project.yaml" else text)
        environment = {**os.environ, "STAGEZERO_HOME": str(store_home)}
        start = time.perf_counter()
        command = [sys.executable, "-m", "stagezero.cli", "run", str(project / "project.yaml"), "--runs", f"{scratch}/runs"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        peak = 0.0

        def sample_memory() -> None:
            nonlocal peak
            while process.poll() is None:
                peak = max(peak, _memory_gib(process.pid))
                time.sleep(0.5)

        sampler = threading.Thread(target=sample_memory)
        sampler.start()
        code = process.wait()
        sampler.join()
        wall = time.perf_counter() - start
        if code != 0:
            raise SystemExit(f"the campaign ended with exit code {code}")
        folder = next(p for p in Path(f"{scratch}/runs").iterdir() if p.is_dir())
        costs = json.loads((folder / "costs.json").read_text())
        ledger = (folder / "ledger.jsonl").read_text().splitlines()
        last = json.loads(ledger[-1])
        print(f"final model {last['entry']['body']['final']}, {len(ledger)} entries, head {last['hash']}")
        workers = 2
        busy = costs["train_seconds"] + costs["generate_seconds"]
    publish(
        {
            "overhead_ratio": wall * workers / busy,
            "run_seconds_base_built": wall,
            "train_and_generate_seconds": busy,
            "decision_share": costs["decision_seconds"] / wall,
            "peak_resident_gib": peak,
        },
        {
            "overhead_ratio": "at most 1.25",
            "run_seconds_base_built": "at most 240",
            "decision_share": "at most 0.02",
            "peak_resident_gib": "at most 3",
        },
        options.json,
    )


if __name__ == "__main__":
    main()
