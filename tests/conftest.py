"""Shared fixtures: one small base, trained here once a session, and one small finished campaign."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest_plugins = ["conftest_auditor"]
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def stagezero(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command line, run as a user runs it."""
    return subprocess.run(
        [sys.executable, "-m", "stagezero.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=dict(os.environ),
        check=False,
    )


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store of the session's own, shared by every process the tests start."""
    folder = tmp_path_factory.mktemp("home")
    before = os.environ.get("STAGEZERO_HOME")
    os.environ["STAGEZERO_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["STAGEZERO_HOME"]
    else:
        os.environ["STAGEZERO_HOME"] = before


@pytest.fixture(scope="session")
def base(home: Path) -> Path:
    """A real pocket model of 16k parameters, trained for a few seconds: enough to learn from, not to be good."""
    import torch

    from stagezero.models import pocket

    torch.set_num_threads(1)
    folder = home / "tiny-base"
    folder.mkdir()
    size = pocket.SIZES["16k"]
    pocket.SIZES["16k"] = replace(size, steps=300)
    try:
        pocket.save(pocket.pretrain("16k", seed=0), folder, {"kind": "test"})
    finally:
        pocket.SIZES["16k"] = size
    return folder


IDEAS = {
    "twins": "- {op: extend, at: data, parts: [{kinds: [twin], each: 40}]}",
    "decay": "- {op: set, at: sft, values: {weight_decay: 0.001}}",
    "faster": "- {op: set, at: sft, values: {learning_rate: 0.9}}",
}


def write_project(folder: Path, base: Path, name: str = "small", **changes: str) -> Path:
    """A small but real project: a tiny base, three ideas, one stage, an auditor with low bars."""
    (folder / "ideas").mkdir(parents=True, exist_ok=True)
    for title, patch in IDEAS.items():
        text = f"---\ntitle: {title} idea\nproperty: privacy\nclaimed_effect: 0.1\nreason: because\npatch:\n  {patch}\n---\n"
        (folder / "ideas" / f"{title}.md").write_text(text)
    (folder / "stage0.yaml").write_text(
        "steps:\n  - {step: mix, parts: [{kinds: [trap], each: 40}]}\n  - {step: sft, steps: 8, batch_size: 8, learning_rate: 0.005}\n"
    )
    fields = {
        "name": name,
        "base": str(base),
        "stage0": "stage0.yaml",
        "stages": "1",
        "seed": "5",
        "researchers": "[{kind: people, ideas: ideas}]",
        "trial": "{items: 10, max_pairs: 10, calibration: 3, confirm: 3, worth: 0.5}",
        "audit": "{items: 60, submissions: 3, passes: 2, bars: {privacy: 0.05}, folder: keep}",
        "workers": "2",
        **changes,
    }
    path = folder / "project.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in fields.items() if value))
    return path


@pytest.fixture(scope="session")
def finished(home: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a small campaign, finished."""
    from stagezero.lab.campaign import Campaign

    folder = tmp_path_factory.mktemp("finished")
    campaign = Campaign(write_project(folder, base), runs=folder / "runs")
    campaign.run()
    return campaign.folder


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run that a test may damage."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
