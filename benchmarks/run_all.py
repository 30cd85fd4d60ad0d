"""Run every benchmark in a process of its own, then the slow tests.

The figures are written to ``benchmarks/results/``, one JSON file for each benchmark.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
# generation.py imports other tools to compare with. They are installed in a separate venv.
NEEDS_BENCH_VENV = {"generation.py"}


def main() -> int:
    """Run the benchmarks and the slow tests; return 1 if any of them failed."""
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    failed = []
    bench_python = HERE.parent / ".venv-bench" / "bin" / "python"
    for script in sorted(HERE.glob("[a-z]*.py")):
        if script.name == Path(__file__).name:
            continue
        python = str(bench_python) if script.name in NEEDS_BENCH_VENV else sys.executable
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
