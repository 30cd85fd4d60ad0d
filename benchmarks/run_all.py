"""Every benchmark, each in a process of its own, then the slow tests. Figures go to ``benchmarks/results/``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# generation.py also imports the tools it is measured against, which live in a venv of their own.
OWN_VENV = {"generation.py"}


def main() -> int:
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    failed = []
    other = HERE.parent / ".venv-bench" / "bin" / "python"
    for script in sorted(HERE.glob("[a-z]*.py")):
        if script.name == Path(__file__).name:
            continue
        python = str(other) if script.name in OWN_VENV else sys.executable
        print(f"\n== {script.name}", flush=True)
        if subprocess.run([python, str(script), "--json", str(results / f"{script.stem}.json")], check=False).returncode != 0:
            failed.append(script.name)
    print("\n== slow tests", flush=True)
    if subprocess.run([sys.executable, "-m", "pytest", "-m", "slow"], cwd=HERE.parent, check=False).returncode != 0:
        failed.append("slow tests")
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
