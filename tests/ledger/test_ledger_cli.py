"""``stagezero ledger verify | prove`` from the shell.

Covers: cli/ledger.py, ledger/inclusion.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stagezero.cli.app import app
from stagezero.errors import LedgerError, StagezeroError, WitnessError
from stagezero.ledger import Ledger, SigningKey, leaf_hash, verify_inclusion

LAB = SigningKey.from_seed(b"l" * 32, "lab.example")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Write a ledger, a checkpoint of its first 6 entries and the key; return the folder."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for i in range(9):
        ledger.record("note", {"i": i})
        if i == 5:
            (tmp_path / "six").write_text(ledger.checkpoint(LAB))
    ledger.close()
    (tmp_path / "key").write_text(LAB.verify_key.text() + "\n")
    return tmp_path


def stagezero(*arguments: object) -> object:
    return app(["ledger", *map(str, arguments)], result_action="return_value")


@pytest.mark.parametrize("deep", [[], ["--deep"]])
def test_verify(run: Path, deep: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    stagezero("verify", run, *deep)
    for key in (LAB.verify_key.text(), run / "key"):
        stagezero("verify", run / "ledger.jsonl", *deep, "--checkpoint", run / "six", "--key", key)
    output = capsys.readouterr().out
    assert output.count("9 entries, all valid") == 3 and output.count("in agreement with the checkpoint") == 2
    (run / "ledger.jsonl").write_bytes(b"".join((run / "ledger.jsonl").read_bytes().splitlines(keepends=True)[:5]))
    stagezero("verify", run, *deep)
    with pytest.raises(WitnessError, match="covers 6 entries, got 5"):
        stagezero("verify", run, *deep, "--checkpoint", run / "six", "--key", run / "key")


def test_a_mistake_is_reported_in_one_sentence(run: Path) -> None:
    (run / "bytes").write_bytes(b"\xff")
    for options in (
        ["--checkpoint", run / "six"],
        ["--key", run / "key"],
        ["--checkpoint", run / "none", "--key", run / "key"],
        ["--checkpoint", run / "bytes", "--key", run / "key"],
        ["--checkpoint", run / "six", "--key", run / "none"],
        ["--checkpoint", run / "six", "--key", "lab+12+34"],
        ["--checkpoint", run / "key", "--key", run / "key"],
    ):
        with pytest.raises(StagezeroError, match=r"^[^\n]+; [^\n]+\.$"):
            stagezero("verify", run, *options)


def test_prove(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stagezero("prove", run, 4, "--json")
    proof = json.loads(capsys.readouterr().out)
    path = [bytes.fromhex(h) for h in proof["proof"]]
    assert verify_inclusion(leaf_hash(proof["line"].encode()), proof["seq"], proof["size"], path, bytes.fromhex(proof["root"]))
    stagezero("prove", run, 4)
    printed = capsys.readouterr().out
    assert all(text in printed for text in (proof["line"], proof["root"], *proof["proof"], "size   9"))
    with pytest.raises(LedgerError, match="below 9"):
        stagezero("prove", run, 9)
