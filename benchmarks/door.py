"""What a submission costs the door: charge and commit, how many a second, and whether that grows; and the ledger's figures.

Timed is what ``Auditor.submit`` does once it has the model: the charge is committed to the meter, and then written into the ledger, each
with a full sync, one after another in one process. (A charge that is in the ledger and not in the meter would say that the database was
restored, so the two syncs cannot be one.) The disk's own share is measured beside it: two appends, each synced, and nothing else. A
disk that others use is slow now and then, so the figures are those of the best of six batches of a thousand, with the worst one's rate.

Cost per submission is compared over all that may grow: twenty thousand charges, all answered, half of the answers due and half of them
still out. It is compared on a file system in memory where there is one, so that it is the program's growth and not the disk's
mood; the last thousand over the first thousand. Then what an operator and a lab look at: status, the certificate, a refusal.
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
MEDIAN_CEILING, RATE_FLOOR, GROWTH_CEILING = 5.0, 300.0, 1.5
VERIFY_FLOOR, PROOF_CEILING = 100_000, 10.0
SLOT = 3600.0


def opened(folder: Path) -> tuple[Storage, Suite]:
    """An auditor whose one suite may be asked for ever."""
    storage = Storage.create(folder, "timed", SLOT)
    terms = Terms(suite="atlas", items=10, bars={"privacy": 0.5}, submissions=100_000, passes=100_000)
    return storage, storage.add("timed", terms)


def charge(storage: Storage, suite: Suite, number: int, now: float, answer: bool) -> float:
    """One charge as the desk makes it, in seconds; answering it is not timed."""
    model = hashlib.sha256(str(number).encode()).hexdigest()
    start = time.perf_counter()
    made, _ = storage.meter.charge(suite, model, "lab", now, (storage.ledger.size, storage.ledger.head))
    storage.queue_charge(made)
    storage.flush_queue(now)
    took = time.perf_counter() - start
    if answer:
        storage.meter.settle(made, "pass" if number % 3 == 0 else "fail")
    return took


def charges(folder: Path, count: int, answer: bool) -> tuple[list[float], Storage, Suite, float]:
    """The first half of them are due by the end; the other half are still out."""
    storage, suite = opened(folder)
    took, now = [], 1_800_000_000.0
    for number in range(count):
        took.append(charge(storage, suite, number, now, answer))
        now += SLOT / 2
    return took, storage, suite, now


def synced_appends(folder: Path, count: int = 500) -> list[float]:
    """Two appends to two files, each synced, and nothing else: what the disk alone takes."""
    took = []
    handles = [os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND) for name in ("first", "second")]
    for _ in range(count):
        start = time.perf_counter()
        for handle in handles:
            os.write(handle, bytes(500))
            os.fsync(handle)
        took.append(time.perf_counter() - start)
    for handle in handles:
        os.close(handle)
    return took


def milliseconds(work: Callable[[], object], times: int = 50) -> float:
    took = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return 1e3 * statistics.median(took)


def ledger_figures(folder: Path) -> dict[str, float]:
    """From the ledger's own benchmark, in a process of its own."""
    script = Path(__file__).parent / "ledger.py"
    subprocess.run([sys.executable, str(script), "--json", str(folder / "ledger.json")], check=False, stdout=subprocess.DEVNULL)
    found = json.loads((folder / "ledger.json").read_text())
    return {name: found[name] for name in ("verify_per_s", "proof_ms")}


def main() -> int:
    from stagezero.auditor.certificate import certificate

    parser = arguments(__doc__ or "")
    parser.add_argument("--charges", type=int, default=CHARGES)
    parser.add_argument("--no-ledger", action="store_true", help="leave the ledger's own benchmark out")
    options = parser.parse_args()
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batches = []
        for number in range(BATCHES):
            disk = statistics.median(synced_appends(folder))
            start = time.perf_counter()
            took, storage, *_ = charges(folder / f"disk{number}", WINDOW, answer=False)
            batches.append((WINDOW / (time.perf_counter() - start), took, disk))
            storage.close()
        rate, took, disk = max(batches)
        figures["charges_per_s"], figures["charges_per_s_worst"] = rate, min(batches)[0]
        figures["charge_ms_median"], figures["disk_ms_median"] = 1e3 * statistics.median(took), 1e3 * disk
        figures["charge_ms_p99"] = 1e3 * statistics.quantiles(took, n=100)[98]
        if not options.no_ledger:
            figures |= ledger_figures(folder)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as name:
        took, storage, suite, now = charges(Path(name) / "keep", options.charges, answer=True)
        first, last = statistics.median(took[:WINDOW]), statistics.median(took[-WINDOW:])
        figures["charge_ms_first"], figures["charge_ms_last"], figures["charge_growth"] = 1e3 * first, 1e3 * last, last / first
        # What a lab is told of the counts, with everything that could have grown.
        few, few_suite = opened(Path(name) / "few")
        for what, look in {
            "counts": lambda k, s: (k.meter.visible_pools(s, now), k.meter.visible_counts(s.name, now)),
            "known": lambda k, s: (k.meter.find_charge(s.name, "0" * 64), k.meter.awaits_audit("0" * 64), k.meter.advance_clock(now)),
        }.items():
            figures[f"{what}_ms_last"] = milliseconds(lambda look=look: look(storage, suite))  # type: ignore[misc]
            figures[f"{what}_growth"] = figures[f"{what}_ms_last"] / milliseconds(lambda look=look: look(few, few_suite))  # type: ignore[misc]
        figures["certificate_ms"] = milliseconds(lambda: certificate(storage, suite, "colocated", now), 3)
        storage.close()
        few.close()
    anchors = {
        "charge_ms_median": f"below {MEDIAN_CEILING:g}",
        "charges_per_s": f"at least {RATE_FLOOR:g}",
        "charge_growth": f"below {GROWTH_CEILING:g}",
        "disk_ms_median": "two synced appends",
        "charges_per_s_worst": "the disk's doing: 2 syncs a charge",
        "verify_per_s": f"at least {VERIFY_FLOOR}",
        "proof_ms": f"below {PROOF_CEILING:g}",
    }
    publish(figures, anchors, options.json)
    fine = (
        figures["charge_ms_median"] < MEDIAN_CEILING
        and figures["charges_per_s"] >= RATE_FLOOR
        and all(figures[f"{what}_growth"] < GROWTH_CEILING for what in ("charge", "counts", "known"))
        and figures.get("verify_per_s", VERIFY_FLOOR) >= VERIFY_FLOOR
        and figures.get("proof_ms", 0.0) < PROOF_CEILING
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
