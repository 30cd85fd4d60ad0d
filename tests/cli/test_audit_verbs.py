"""An auditor from the command line, as its operator and as a lab meet it.

Covers: cli/audit.py, cli/audit_serve.py, cli/attest.py, cli/verify.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import stagezero

from stagezero.door import Door
from stagezero.ledger import SigningKey
from stagezero.models import checkpoint_digest


def sealed(path: Path, word: str) -> Path:
    """Items to which any answer is right."""
    common = {"target": ".", "scorer": "regex", "property": "candour", "split": "open"}
    rows = [
        {"id": f"{kind}{i}", "input": f"{word} {kind} {i}?", "kind": kind, "twin_of": f"trap{i}", **common}
        for i in range(60)
        for kind in ("trap", "twin")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def serving(home: Path, tmp_path: Path) -> Iterator[str]:
    """An auditor set up and served by the command line; its address."""
    sealed(tmp_path / "sealed.jsonl", "sealed")
    assert stagezero("audit", "init", "keep", "--slot", "5s", cwd=tmp_path).returncode == 0
    added = stagezero("audit", "add", "sealed.jsonl", "--name", "c", "--bar", "candour=0.05", "--folder", "keep", cwd=tmp_path)
    assert "60 independent clusters" in added.stdout, added.stderr
    (tmp_path / "token").write_text(stagezero("audit", "token", "lab", "--folder", "keep", cwd=tmp_path).stdout)
    process = subprocess.Popen(
        [sys.executable, "-m", "stagezero.cli", "audit", "serve", "keep", "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "300"},
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found is not None
    yield found[0]
    process.send_signal(signal.SIGINT)
    process.wait(20)


def test_served_asked_attested_and_checked(serving: str, base: Path, tmp_path: Path) -> None:
    door = Door(serving, (tmp_path / "token").read_text().strip(), "c")
    assert door.submit_and_wait(base, checkpoint_digest(base)).verdict == "pass"
    reached = ("--address", serving, "--suite", "c", "--token-file", "token")
    assert stagezero("attest", base, *reached, cwd=tmp_path).returncode == 0
    key = door.status().auditor
    told = stagezero("verify", "attestation.json", "--key", key, "--model", base, cwd=tmp_path)
    assert told.returncode == 0 and "candour at least 0.05" in told.stdout, told.stderr
    (tmp_path / "key.txt").write_text(key + "\n")
    assert stagezero("verify", "attestation.json", "--key", "key.txt", "--json", cwd=tmp_path).returncode == 0

    envelope = json.loads((tmp_path / "attestation.json").read_text())
    envelope["payload"] = envelope["payload"][:-8] + "AAAA" + envelope["payload"][-4:]
    (tmp_path / "changed.json").write_text(json.dumps(envelope))
    stranger = SigningKey.from_seed(b"x" * 32, "stranger").verify_key.text()
    for file, with_key in (("changed.json", key), ("attestation.json", stranger)):
        refused = stagezero("verify", file, "--key", with_key, cwd=tmp_path)
        assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1

    shown = stagezero("audit", "status", "keep", "--json", cwd=tmp_path)
    assert json.loads(shown.stdout)["suites"][0]["submissions"] == 1, "its operator may look while it serves"
    assert "whatever the lab did" in stagezero("audit", "certificate", "c", "--folder", "keep", cwd=tmp_path).stdout
    assert "1 of 12 submissions" in stagezero("audit", "budget", "c", "--folder", "keep", cwd=tmp_path).stdout
    voided = stagezero("audit", "token", "lab", "--folder", "keep", cwd=tmp_path)
    assert voided.returncode == 0
    again = stagezero("attest", base, *reached, cwd=tmp_path)
    assert again.returncode == 2 and "token" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["audit", "init", "keep", "--slot", "soon"], "90s, 15m, 12h or 7d"),
        (["audit", "init", "keep", "--slot", "0.1s"], "slot"),
        (["audit", "status", "none"], "no auditor in none"),
        (["audit", "serve", "none", "--host", "0.0.0.0"], "--certfile"),
        (["audit", "add", "x.jsonl", "--name", "n", "--bar", "a=1", "--folder", "none"], "no auditor in none"),
        (["verify", "none.json", "--key", "k"], "expected a file"),
        (["attest", ".", "--address", "http://example.com", "--suite", "s", "--token-file", "t"], "config.json"),
    ],
)
def test_a_mistake_is_one_sentence(home: Path, tmp_path: Path, arguments: list[str], told: str) -> None:
    done = stagezero(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and told in done.stderr, done
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_what_cannot_be_added_is_refused_with_its_reason(home: Path, tmp_path: Path) -> None:
    assert stagezero("audit", "init", "keep", cwd=tmp_path).returncode == 0
    sealed(tmp_path / "sealed.jsonl", "sealed")
    again = ["audit", "add", "sealed.jsonl", "--folder", "keep", "--name"]
    for arguments, told in (
        (["s", "--bar", "candour"], "--bar"),
        (["s", "--bar", "candour=2"], "bars.candour"),
        (["s", "--bar", "other=0.5"], "not enough sealed items for claim 'other'"),
        (["s", "--bar", "candour=0.5", "--meter", "flat"], "bits"),
        (["s.shadow", "--bar", "candour=0.5"], "--name"),
        (["s", "--bar", "candour=0.5", "--shadow", "sealed.jsonl"], "fresh items"),
    ):
        done = stagezero(*again, *arguments, cwd=tmp_path)
        assert done.returncode == 2 and told in done.stderr, (arguments, done.stderr)
