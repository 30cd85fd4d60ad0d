"""Measure the speed of a ledger of a million entries: verification, proofs and appends.

The entries are made in bulk by ``stagezero.ledger.format.make_line``, which ``Ledger.record`` also
uses. ``Ledger`` then opens the file, verifies every line and writes the tree to a second file. The
time of a proof includes opening both files anew; its verification is measured separately. The
benchmark runs in one process on one core. The files are in the page cache, because they have just
been written.
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

ENTRIES, PROOFS, APPENDS, TEXT_BYTES = 1_000_000, 200, 300, 270
MIN_VERIFIED_PER_S, MAX_PROOF_MS = 100_000, 10.0


def write(path: Path, entries: int) -> int:
    """Write a valid ledger without syncing; return the size of the last entry in bytes."""
    previous = stamp = GENESIS
    content = b""
    with path.open("wb", buffering=1 << 20) as out:
        for i in range(entries):
            content = b'{"body":{"n":%d,"text":"%s"},"kind":"note","prev":"%s","seq":%d}' % (i, b"x" * TEXT_BYTES, previous.encode(), i)
            stored = make_line(content, "2026-01-01T00:00:00.000000Z", stamp)
            out.write(stored.line + b"\n")
            previous, stamp = stored.hash, stored.stamp
    return len(content)


def per_second(entries: int, work: Callable[[], object]) -> float:
    """Return how many entries per second a function processes."""
    start = time.perf_counter()
    work()
    return entries / (time.perf_counter() - start)


def main() -> int:
    """Run the benchmark; return 1 if a figure misses its anchor."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--entries", type=int, default=ENTRIES, help="entries of the ledger")
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
        rng, proof_s, verify_s = random.Random(0), [], []
        for _ in range(PROOFS):
            seq = rng.randrange(n)
            start = time.perf_counter()
            proof = prove(path, seq)
            proved = time.perf_counter()
            valid = proof.holds()
            verify_s.append(time.perf_counter() - proved)
            proof_s.append(proved - start)
            if not valid or proof.root != ledger.root:
                raise SystemExit(f"the proof of entry {seq} is not valid")
        figures["proof_ms"] = 1e3 * statistics.median(proof_s)
        figures["proof_ms_max"] = 1e3 * max(proof_s)
        figures["proof_verify_ms"] = 1e3 * statistics.median(verify_s)
        start = time.perf_counter()
        ledger = Ledger(path)
        figures["open_again_s"] = time.perf_counter() - start
        ledger.catch_up()

        def append() -> None:
            for i in range(APPENDS):
                ledger.record("note", {"n": i, "text": "x" * TEXT_BYTES})

        figures["append_fsync_per_s"] = per_second(APPENDS, append)
        ledger.close()
    anchors = {
        "verify_per_s": f"at least {MIN_VERIFIED_PER_S}",
        "proof_ms": f"below {MAX_PROOF_MS:g}",
        "append_fsync_per_s": "depends mostly on the disk",
    }
    publish(figures, anchors, options.json)
    return 0 if figures["verify_per_s"] >= MIN_VERIFIED_PER_S and figures["proof_ms"] < MAX_PROOF_MS else 1


if __name__ == "__main__":
    sys.exit(main())
