"""Fuzz an auditor's HTTP interface, and submit hostile models to it.

Schemathesis fuzzes the interface from its OpenAPI description, over real HTTP: in folder mode and
in upload mode, with a token, without one, and with names and digests that exist. Afterwards the
rows and counts of the budget and the ledger must be unchanged.

Each hostile model is submitted for audit. It must be refused before any charge, with a reason that
reveals no internals of the auditor, or be charged and answered "pass" or "fail" within its slot.
The auditor may log no error and may execute no code of a model, and must audit an honest model
afterwards as before. The auditor's peak memory is that of this process.

Bad projects, recipes, ideas, suites, checkpoints and command lines are given to the commands that
read them (``_bad_inputs.py``). Each must be answered with one sentence and exit code 2. A good idea
is the control: it must not be answered so.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from _auditing import TOKEN, Audited, alarms, attempt, honest
from _bad_inputs import IDEA, BadInput, bad_inputs, problem_of
from _common import arguments, publish
from _hostile import Attack, attacks
from _schema import FuzzResult, fuzz

from stagezero.models import checkpoint_digest, materialise

BASE = "pocket/16k"
SLOT_SECONDS = 8.0
EXAMPLES = 25
MAX_MEMORY_GROWTH_MB = 1500


def peak_mb() -> float:
    """Return the peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def audited_honestly(audited: Audited, base: Path, number: int) -> bool:
    """Return whether an honest model is charged and passes; ``number`` makes its digest unique."""
    folder = honest(base, audited.folder / f"honest-{number}", number)
    receipt = audited.submit(str(folder), checkpoint_digest(folder))
    return receipt.status_code == 202 and audited.settled(SLOT_SECONDS) and audited.hear(receipt.json()) == "pass"


def fuzz_interface(base: Path, place: Path, examples: int, failures: list[str]) -> list[FuzzResult]:
    """Fuzz the HTTP interface in both modes.

    Args:
        base: an honest checkpoint.
        place: folder for the auditors.
        examples: cases per operation.
        failures: receives what is wrong.
    """
    results = []
    for takes_folders in (True, False):
        folder = place / ("folders" if takes_folders else "uploads")
        folder.mkdir()
        audited = Audited(folder, SLOT_SECONDS, takes_folders=takes_folders)
        try:
            with alarms() as errors:
                if takes_folders and not audited_honestly(audited, base, 1):
                    failures.append("an honest model did not pass")
                before = audited.counts()
                known = {"suite": "suite", "digest": checkpoint_digest(base), "number": "1", "name": "config.json"}
                for token, fixed, cases in ((TOKEN, None, examples), (None, None, max(1, examples // 8)), (TOKEN, known, examples // 2)):
                    result = fuzz(audited.app, token, max(1, cases), fixed)
                    results.append(result)
                    failures += [f"interface: {failure}" for failure in result.failures]
                if audited.counts() != before:
                    failures.append(f"interface: the counts were {before} and are {audited.counts()}")
                if takes_folders and not audited_honestly(audited, base, 2):
                    failures.append("interface: an honest model did not pass afterwards")
            failures += [f"interface: logged: {line}" for line in errors]
        finally:
            audited.close()
    return results


def fuzz_intake(base: Path, place: Path, chosen: list[Attack], failures: list[str]) -> Counter[str]:
    """Submit hostile models, and return how often each outcome occurred.

    Args:
        base: an honest checkpoint.
        place: folder for the auditor.
        chosen: the hostile models.
        failures: receives what is wrong.
    """
    audited, outcomes = Audited(place, SLOT_SECONDS), Counter[str]()
    try:
        for number, attack in enumerate(chosen):
            start = time.perf_counter()
            outcome, defect = attempt(audited, attack, base, number)
            outcomes[outcome] += 1
            print(f"{attack.name:<45} {outcome:<9} {time.perf_counter() - start:5.1f} s  {defect or ''}", flush=True)
            if defect is not None:
                failures.append(f"{attack.name}: {defect}")
        if not audited_honestly(audited, base, len(chosen)):
            failures.append("intake: an honest model did not pass afterwards")
        counts = audited.counts()
        expected = outcomes["pass"] + outcomes["fail"] + outcomes["late"] + 1
        if counts != (expected,) * 3:
            failures.append(f"intake: the outcomes are {dict(outcomes)}, the counts are {counts}; expected {expected} charges")
    finally:
        audited.close()
    return outcomes


def main() -> int:
    """Run the benchmark; return 1 if anything is wrong."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="cases per operation of the interface")
    parser.add_argument("--base", default=BASE, help="base of the honest and the hostile models")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    base, failures = materialise(options.base), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        start_mb, start = peak_mb(), time.perf_counter()
        place = Path(folder) / "intake"
        place.mkdir()
        outcomes = fuzz_intake(base, place, attacks(), failures)
        growth_mb, intake_s = peak_mb() - start_mb, time.perf_counter() - start
        if growth_mb > MAX_MEMORY_GROWTH_MB:
            failures.append(f"intake: the auditor's memory grew by {growth_mb:.0f} MB")
        start = time.perf_counter()
        results = fuzz_interface(base, Path(folder), options.examples, failures)
    start, cases = time.perf_counter(), bad_inputs(base)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        answers = list(zip(cases, pool.map(problem_of, cases), strict=True))
    failures += [f"input: {case.name}: {problem}" for case, problem in answers if problem is not None]
    if problem_of(BadInput("a good idea", {"i.md": IDEA}, ["idea", "check", "i.md"])) is None:
        failures.append("input: a good idea is answered like a bad one")
    inputs_s = time.perf_counter() - start
    errors = sum(result.server_errors for result in results)
    if errors:
        failures.append(f"interface: {errors} responses with a status of 5xx")
    figures = {
        "hostile_models": sum(outcomes.values()),
        "hostile_refused": outcomes["refused"],
        "hostile_answered": outcomes["pass"] + outcomes["fail"],
        "intake_s": intake_s,
        "intake_memory_mb": growth_mb,
        "api_requests": sum(result.requests for result in results),
        "api_server_errors": errors,
        "bad_inputs": len(cases),
        "one_sentence": sum(problem is None for _, problem in answers),
        "bad_inputs_s": inputs_s,
        "api_findings": sum(len(result.failures) for result in results),
        "api_s": time.perf_counter() - start,
        "failures": len(failures),
    }
    anchors = {"api_server_errors": "0", "api_findings": "0", "failures": "0", "intake_memory_mb": f"below {MAX_MEMORY_GROWTH_MB}"}
    publish(figures, anchors, options.json)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
