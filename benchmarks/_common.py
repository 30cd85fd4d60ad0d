"""Functions that every benchmark uses: its command line and the output of its figures."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the option ``--json PATH``.

    Args:
        description: what the benchmark measures; printed by ``--help`` with its line breaks.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=f"Example: python benchmarks/{Path(sys.argv[0]).name} --json figures.json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, as one flat JSON object")
    return parser


def publish(figures: Mapping[str, float], anchors: Mapping[str, str], path: Path | None) -> None:
    """Print every figure beside its anchor, and write the figures to a JSON file.

    Args:
        figures: value of each figure, by name.
        anchors: value that is required or expected, as text, by name of the figure.
        path: output file; without one, no file is written.
    """
    width = max(len(name) for name in figures)
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:>12.4g}  {anchors.get(name, '')}")
    if path is not None:
        path.write_text(json.dumps(dict(figures), indent=1, sort_keys=True) + "\n")
