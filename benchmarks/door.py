"""Measure the cost of a submission at the auditor: time, rate, and growth with their number.

What is timed is the work of ``Auditor.submit`` once it has the model: the charge is committed to
the budget meter and then appended to the ledger, each with a full sync, one after another in one
process. The two syncs cannot be one: a charge that is in the ledger and not in the meter would mean
that the database was restored. The disk's own time is measured separately: two appends, each
synced. Other users may slow the disk now and then, so that the figures are those of the best of six
batches of a thousand; the rate of the worst batch is printed too.

Growth is measured over everything that may grow: twenty thousand charges, all answered, half of the
answers due and the other half not yet due. It is measured on a file system in memory, if there is
one, so that it shows the growth of the program and not the variation of the disk. It is the median
of the last thousand over that of the first thousand. The benchmark also measures the requests of
operators and labs: counts, known submissions and the certificate.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _common import arguments, publish

from stagezero.auditor.budget_tables import Suite
from stagezero.auditor.storage import Storage
from stagezero.door import Terms

CHARGES, BATCHES, WINDOW = 20_000, 6, 1000
MAX_MEDIAN_MS, MIN_CHARGES_PER_S, MAX_GROWTH = 5.0, 300.0, 1.5
MIN_VERIFIED_PER_S, MAX_PROOF_MS = 100_000, 10.0
SLOT_SECONDS = 3600.0


def create_auditor(folder: Path) -> tuple[Storage, Suite]:
    """Create an auditor with one suite whose budget is practically unlimited."""
    storage = Storage.create(folder, "timed", SLOT_SECONDS)
    terms = Terms(suite="atlas", items=10, bars={"privacy": 0.5}, submissions=100_000, passes=100_000)
    return storage, storage.add("timed", terms)


def charge(storage: Storage, suite: Suite, number: int, now: float, answer: bool) -> float:
    """Make one charge as ``Auditor.submit`` does, and return the seconds that it took.

    Args:
        storage: the auditor's storage.
        suite: the suite to charge.
        number: number of the submission; it determines the model's digest.
        now: seconds since 1970.
        answer: also answer the submission; this is not timed.
    """
    model = hashlib.sha256(str(number).encode()).hexdigest()
    start = time.perf_counter()
    new_charge, _ = storage.meter.charge(suite, model, "lab", now, (storage.ledger.size, storage.ledger.head))
    storage.queue_charge(new_charge)
    storage.flush_queue(now)
    seconds = time.perf_counter() - start
    if answer:
        storage.meter.settle(new_charge, "pass" if number % 3 == 0 else "fail")
    return seconds


def charges(folder: Path, count: int, answer: bool) -> tuple[list[float], Storage, Suite, float]:
    """Make many charges; half of their answers are due at the end.

    Returns:
        The seconds of each charge, the storage, the suite, and the time at the end.
    """
    storage, suite = create_auditor(folder)
    seconds, now = [], 1_800_000_000.0
    for number in range(count):
        seconds.append(charge(storage, suite, number, now, answer))
        now += SLOT_SECONDS / 2
    return seconds, storage, suite, now


def synced_appends(folder: Path, count: int = 500) -> list[float]:
    """Append to two files and sync each; return the seconds of each pair of appends.

    This is the time that the disk alone needs for a charge.
    """
    seconds = []
    handles = [os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("first", "second")]
    for _ in range(count):
        start = time.perf_counter()
        for handle in handles:
            os.write(handle, bytes(500))
            os.fsync(handle)
        seconds.append(time.perf_counter() - start)
    for handle in handles:
        os.close(handle)
    return seconds


def median_ms(work: Callable[[], object], repetitions: int = 50) -> float:
    """Return the median time of a function, in milliseconds."""
    seconds = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def ledger_figures(folder: Path) -> dict[str, float]:
    """Run the ledger's benchmark in a process of its own, and return two of its figures."""
    script = Path(__file__).parent / "ledger.py"
    subprocess.run([sys.executable, str(script), "--json", str(folder / "ledger.json")], check=False, stdout=subprocess.DEVNULL)
    figures = json.loads((folder / "ledger.json").read_text())
    return {name: figures[name] for name in ("verify_per_s", "proof_ms")}


def main() -> int:
    """Run the benchmark; return 1 if a figure misses its anchor."""
    from stagezero.auditor.certificate import certificate

    parser = arguments(__doc__ or "")
    parser.add_argument("--charges", type=int, default=CHARGES, help="charges over which growth is measured")
    parser.add_argument("--no-ledger", action="store_true", help="skip the benchmark of the ledger")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batches = []
        for number in range(BATCHES):
            disk = statistics.median(synced_appends(folder))
            start = time.perf_counter()
            seconds, storage, *_ = charges(folder / f"disk{number}", WINDOW, answer=False)
            batches.append((WINDOW / (time.perf_counter() - start), seconds, disk))
            storage.close()
        rate, seconds, disk = max(batches)
        figures["charges_per_s"], figures["charges_per_s_worst"] = rate, min(batches)[0]
        figures["charge_ms_median"], figures["disk_ms_median"] = 1e3 * statistics.median(seconds), 1e3 * disk
        figures["charge_ms_p99"] = 1e3 * statistics.quantiles(seconds, n=100)[98]
        if not options.no_ledger:
            figures |= ledger_figures(folder)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        seconds, storage, suite, now = charges(Path(name) / "auditor", options.charges, answer=True)
        first, last = statistics.median(seconds[:WINDOW]), statistics.median(seconds[-WINDOW:])
        figures["charge_ms_first"], figures["charge_ms_last"], figures["charge_growth"] = 1e3 * first, 1e3 * last, last / first
        # Requests of a lab, compared with an auditor that has no charges.
        empty, empty_suite = create_auditor(Path(name) / "empty")
        for request, query in {
            "counts": lambda k, s: (k.meter.visible_pools(s, now), k.meter.visible_counts(s.name, now)),
            "known": lambda k, s: (k.meter.find_charge(s.name, "0" * 64), k.meter.awaits_audit("0" * 64), k.meter.advance_clock(now)),
        }.items():
            figures[f"{request}_ms_last"] = median_ms(lambda query=query: query(storage, suite))  # type: ignore[misc]
            empty_ms = median_ms(lambda query=query: query(empty, empty_suite))  # type: ignore[misc]
            figures[f"{request}_growth"] = figures[f"{request}_ms_last"] / empty_ms
        figures["certificate_ms"] = median_ms(lambda: certificate(storage, suite, "colocated", now), 3)
        storage.close()
        empty.close()
    anchors = {
        "charge_ms_median": f"below {MAX_MEDIAN_MS:g}",
        "charges_per_s": f"at least {MIN_CHARGES_PER_S:g}",
        "charge_growth": f"below {MAX_GROWTH:g}",
        "disk_ms_median": "two synced appends",
        "charges_per_s_worst": "depends on the disk: 2 syncs per charge",
        "verify_per_s": f"at least {MIN_VERIFIED_PER_S}",
        "proof_ms": f"below {MAX_PROOF_MS:g}",
    }
    publish(figures, anchors, options.json)
    passed = (
        figures["charge_ms_median"] < MAX_MEDIAN_MS
        and figures["charges_per_s"] >= MIN_CHARGES_PER_S
        and all(figures[f"{name}_growth"] < MAX_GROWTH for name in ("charge", "counts", "known"))
        and figures.get("verify_per_s", MIN_VERIFIED_PER_S) >= MIN_VERIFIED_PER_S
        and figures.get("proof_ms", 0.0) < MAX_PROOF_MS
    )
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
