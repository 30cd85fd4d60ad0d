"""The ledger at a million entries: how fast it verifies, what a proof costs from a cold start, how fast it is written to.

The entries are made in bulk with ``stagezero.ledger.format.written``, the function that ``Ledger.record`` makes its lines
with, and the file is then opened by ``Ledger``, which verifies every line and makes the tree beside it. A proof is timed
from opening the two files to the finished proof, ledger and tree opened anew each time; checking it is timed apart.
One process, one core; the files are in the page cache, since they were written just now.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _common import arguments, publish

from stagezero.ledger import Ledger, SigningKey, prove, verify
from stagezero.ledger.format import GENESIS, make_line

ENTRIES, PROOFS, APPENDS, PAD = 1_000_000, 200, 300, 270
VERIFY_FLOOR, PROOF_CEILING = 100_000, 10.0


def write(path: Path, entries: int) -> int:
    """Write a sound ledger without syncing; the size of one entry's bytes."""
    previous = stamp = GENESIS
    content = b""
    with path.open("wb", buffering=1 << 20) as out:
        for i in range(entries):
            content = b'{"body":{"n":%d,"text":"%s"},"kind":"note","prev":"%s","seq":%d}' % (i, b"x" * PAD, previous.encode(), i)
            stored = make_line(content, "2026-01-01T00:00:00.000000Z", stamp)
            out.write(stored.line + b"\n")
            previous, stamp = stored.hash, stored.stamp
    return len(content)


def per_second(entries: int, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return entries / (time.perf_counter() - start)


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--entries", type=int, default=ENTRIES)
    options = parser.parse_args()
    n: int = options.entries
    key = SigningKey.from_seed(bytes(32), "benchmark")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.jsonl"
        figures: dict[str, float] = {"entries": n, "entry_bytes": write(path, n)}
        figures["verify_per_s"] = per_second(n, lambda: verify(path))
        figures["verify_deep_per_s"] = per_second(n, lambda: verify(path, deep=True))
        start = time.perf_counter()
        ledger = Ledger(path)
        figures["open_first_s"] = time.perf_counter() - start
        text = ledger.checkpoint(key)
        ledger.close()
        figures["verify_checkpoint_per_s"] = per_second(n, lambda: verify(path, text, key.verify_key))
        draw, took, checked = random.Random(0), [], []
        for _ in range(PROOFS):
            seq = draw.randrange(n)
            start = time.perf_counter()
            proof = prove(path, seq)
            between = time.perf_counter()
            sound = proof.holds()
            checked.append(time.perf_counter() - between)
            took.append(between - start)
            if not sound or proof.root != ledger.root:
                raise SystemExit(f"the proof of entry {seq} does not hold")
        figures["proof_ms"] = 1e3 * statistics.median(took)
        figures["proof_ms_max"] = 1e3 * max(took)
        figures["proof_verify_ms"] = 1e3 * statistics.median(checked)
        start = time.perf_counter()
        ledger = Ledger(path)
        figures["open_again_s"] = time.perf_counter() - start
        ledger.catch_up()

        def append() -> None:
            for i in range(APPENDS):
                ledger.record("note", {"n": i, "text": "x" * PAD})

        figures["append_fsync_per_s"] = per_second(APPENDS, append)
        ledger.close()
    anchors = {
        "verify_per_s": f"at least {VERIFY_FLOOR}",
        "proof_ms": f"below {PROOF_CEILING:g}",
        "append_fsync_per_s": "the disk's doing, mostly",
    }
    publish(figures, anchors, options.json)
    return 0 if figures["verify_per_s"] >= VERIFY_FLOOR and figures["proof_ms"] < PROOF_CEILING else 1


if __name__ == "__main__":
    sys.exit(main())
