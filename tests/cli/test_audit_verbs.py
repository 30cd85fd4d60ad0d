"""An auditor from the command line, as its operator and a lab use it.

Covers: cli/audit.py, cli/audit_serve.py, cli/attest.py, cli/verify.py.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import shared_forkserver
from conftest import stagezero

from stagezero.door import Door
from stagezero.ledger import SigningKey
from stagezero.models import checkpoint_digest


def write_sealed_file(path: Path, word: str) -> Path:
    """Write sealed items to which every answer is correct."""
    common = {"target": ".", "scorer": "regex", "property": "candour", "split": "open"}
    rows = [
        {"id": f"{kind}{i}", "input": f"{word} {kind} {i}?", "kind": kind, "twin_of": f"trap{i}", **common}
        for i in range(60)
        for kind in ("trap", "twin")
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def served_address(home: Path, tmp_path: Path) -> Iterator[str]:
    """Set up and serve an auditor by the command line; yield its address."""
    write_sealed_file(tmp_path / "sealed.jsonl", "sealed")
    assert stagezero("audit", "init", "auditor", "--slot", "5s", cwd=tmp_path).returncode == 0
    added = stagezero("audit", "add", "sealed.jsonl", "--name", "c", "--bar", "candour=0.05", "--folder", "auditor", cwd=tmp_path)
    assert "60 independent clusters" in added.stdout, added.stderr
    (tmp_path / "token").write_text(stagezero("audit", "token", "lab", "--folder", "auditor", cwd=tmp_path).stdout)
    process = subprocess.Popen(
        [*shared_forkserver.MODULE, "stagezero.cli", "audit", "serve", "auditor", "--port", "0"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "COLUMNS": "300"},
    )
    assert process.stdout is not None
    match = re.search(r"http://\S+", process.stdout.readline())
    assert match is not None
    yield match[0]
    process.send_signal(signal.SIGINT)
    process.wait(20)


def test_a_model_is_submitted_attested_and_verified(served_address: str, base: Path, tmp_path: Path) -> None:
    door = Door(served_address, (tmp_path / "token").read_text().strip(), "c")
    assert door.submit_and_wait(base, checkpoint_digest(base)).verdict == "pass"
    options = ("--address", served_address, "--suite", "c", "--token-file", "token")
    assert stagezero("attest", base, *options, cwd=tmp_path).returncode == 0
    key = door.status().auditor
    verified = stagezero("verify", "attestation.json", "--key", key, "--model", base, cwd=tmp_path)
    assert verified.returncode == 0 and "candour at least 0.05" in verified.stdout, verified.stderr
    (tmp_path / "key.txt").write_text(key + "\n")
    assert stagezero("verify", "attestation.json", "--key", "key.txt", "--json", cwd=tmp_path).returncode == 0

    envelope = json.loads((tmp_path / "attestation.json").read_text())
    envelope["payload"] = envelope["payload"][:-8] + "AAAA" + envelope["payload"][-4:]
    (tmp_path / "changed.json").write_text(json.dumps(envelope))
    stranger = SigningKey.from_seed(b"x" * 32, "stranger").verify_key.text()
    for file, with_key in (("changed.json", key), ("attestation.json", stranger)):
        rejected = stagezero("verify", file, "--key", with_key, cwd=tmp_path)
        assert rejected.returncode == 2 and len(rejected.stderr.strip().splitlines()) == 1

    status = stagezero("audit", "status", "auditor", "--json", cwd=tmp_path)
    assert json.loads(status.stdout)["suites"][0]["submissions"] == 1, "the operator can read the status of a served auditor"
    assert "whatever the lab did" in stagezero("audit", "certificate", "c", "--folder", "auditor", cwd=tmp_path).stdout
    assert "1 of 12 submissions" in stagezero("audit", "budget", "c", "--folder", "auditor", cwd=tmp_path).stdout
    replaced = stagezero("audit", "token", "lab", "--folder", "auditor", cwd=tmp_path)
    assert replaced.returncode == 0
    attested = stagezero("attest", base, *options, cwd=tmp_path)
    assert attested.returncode == 2 and "token" in attested.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audit", "init", "auditor", "--slot", "soon"], "90s, 15m, 12h or 7d"),
        (["audit", "init", "auditor", "--slot", "0.1s"], "slot"),
        (["audit", "status", "none"], "no auditor in none"),
        (["audit", "serve", "none", "--host", "0.0.0.0"], "--certfile"),
        (["audit", "add", "x.jsonl", "--name", "n", "--bar", "a=1", "--folder", "none"], "no auditor in none"),
        (["verify", "none.json", "--key", "k"], "expected a file"),
        (["attest", ".", "--address", "http://example.com", "--suite", "s", "--token-file", "t"], "config.json"),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(home: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    done = stagezero(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr, done
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_an_invalid_suite_is_rejected_with_a_reason(home: Path, tmp_path: Path) -> None:
    assert stagezero("audit", "init", "auditor", cwd=tmp_path).returncode == 0
    write_sealed_file(tmp_path / "sealed.jsonl", "sealed")
    command = ["audit", "add", "sealed.jsonl", "--folder", "auditor", "--name"]
    for arguments, message in (
        (["s", "--bar", "candour"], "--bar"),
        (["s", "--bar", "candour=2"], "bars.candour"),
        (["s", "--bar", "other=0.5"], "not enough sealed items for claim 'other'"),
        (["s", "--bar", "candour=0.5", "--meter", "flat"], "bits"),
        (["s.shadow", "--bar", "candour=0.5"], "--name"),
        (["s", "--bar", "candour=0.5", "--shadow", "sealed.jsonl"], "fresh items"),
    ):
        done = stagezero(*command, *arguments, cwd=tmp_path)
        assert done.returncode == 2 and message in done.stderr, (arguments, done.stderr)
