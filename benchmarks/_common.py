"""What every benchmark shares: one flat JSON object of named figures, and a table beside its anchors."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path


def arguments(description: str) -> argparse.ArgumentParser:
    """A parser with ``--json PATH``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="write the figures here as one flat object")
    return parser


def publish(figures: Mapping[str, float], anchors: Mapping[str, str], path: Path | None) -> None:
    """Print figures beside what they are to be held against; write them as JSON if asked."""
    width = max(len(name) for name in figures)
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:>12.4g}  {anchors.get(name, '')}")
    if path is not None:
        path.write_text(json.dumps(dict(figures), indent=1, sort_keys=True) + "\n")
