"""Fuzzing of an auditor: its HTTP surface from its own OpenAPI description, and its intake with hostile models.

The surface is fuzzed over real HTTP by Schemathesis, with a token and without, in folder mode and in upload mode, and once more with
names and digests that exist. Afterwards the meter's rows, its counts and its ledger must be what they were before. Each of the hostile
models is handed in for audit: it must be refused before any charge with one sentence that tells nothing of the auditor's insides, or be
charged and answered "pass" or "fail" within its slot. No error may be logged, nothing of a model may be run, and an honest
model must be audited afterwards as it was before. The auditor's peak memory is that of this process.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from _auditing import TOKEN, Audited, alarms, attempt, honest
from _common import arguments, publish
from _hostile import Attack, attacks
from _schema import Fuzzed, fuzz

from stagezero.models import checkpoint_digest, materialise

BASE = "pocket/16k"
SLOT = 8.0
EXAMPLES = 25
MOST_MEMORY = 1500  # MB the auditor itself may take beyond what it began with


def peak() -> float:
    """Peak memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def audited_honestly(audited: Audited, base: Path, number: int) -> bool:
    """Whether an honest model is charged and passes."""
    folder = honest(base, audited.folder / f"honest-{number}", number)
    receipt = audited.submit(str(folder), checkpoint_digest(folder))
    return receipt.status_code == 202 and audited.settled(SLOT) and audited.hear(receipt.json()) == "pass"


def fuzz_surface(base: Path, place: Path, examples: int, wrong: list[str]) -> list[Fuzzed]:
    """The HTTP surface, in both modes."""
    found = []
    for folders in (True, False):
        folder = place / ("folders" if folders else "uploads")
        folder.mkdir()
        audited = Audited(folder, SLOT, takes_folders=folders)
        try:
            with alarms() as told:
                if folders and not audited_honestly(audited, base, 1):
                    wrong.append("an honest model did not pass")
                before = audited.counts()
                known = {"suite": "suite", "digest": checkpoint_digest(base), "number": "1", "name": "config.json"}
                for token, given, cases in ((TOKEN, None, examples), (None, None, max(1, examples // 8)), (TOKEN, known, examples // 2)):
                    run = fuzz(audited.app, token, max(1, cases), given)
                    found.append(run)
                    wrong += [f"surface: {failure}" for failure in run.failures]
                if audited.counts() != before:
                    wrong.append(f"surface: counts were {before} and are {audited.counts()}")
                if folders and not audited_honestly(audited, base, 2):
                    wrong.append("surface: an honest model did not pass afterwards")
            wrong += [f"surface: logged: {line}" for line in told]
        finally:
            audited.close()
    return found


def fuzz_intake(base: Path, place: Path, chosen: list[Attack], wrong: list[str]) -> Counter[str]:
    """Hostile models; how often each thing came of them."""
    audited, outcomes = Audited(place, SLOT), Counter[str]()
    try:
        for number, attack in enumerate(chosen):
            start = time.perf_counter()
            outcome, why = attempt(audited, attack, base, number)
            outcomes[outcome] += 1
            print(f"{attack.name:<45} {outcome:<9} {time.perf_counter() - start:5.1f} s  {why or ''}", flush=True)
            if why is not None:
                wrong.append(f"{attack.name}: {why}")
        if not audited_honestly(audited, base, len(chosen)):
            wrong.append("intake: an honest model did not pass afterwards")
        rows = audited.counts()
        if rows != (outcomes["pass"] + outcomes["fail"] + outcomes["late"] + 1,) * 3:
            wrong.append(f"intake: {dict(outcomes)} and counts of {rows}")
    finally:
        audited.close()
    return outcomes


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--base", default=BASE)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    base, wrong = materialise(options.base), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        began, start = peak(), time.perf_counter()
        place = Path(folder) / "intake"
        place.mkdir()
        outcomes = fuzz_intake(base, place, attacks(), wrong)
        grown, intake_s = peak() - began, time.perf_counter() - start
        if grown > MOST_MEMORY:
            wrong.append(f"intake: the auditor grew by {grown:.0f} MB")
        start = time.perf_counter()
        runs = fuzz_surface(base, Path(folder), options.examples, wrong)
    errors = sum(run.server_errors for run in runs)
    if errors:
        wrong.append(f"surface: {errors} answers of 5xx")
    figures = {
        "hostile_models": sum(outcomes.values()),
        "hostile_refused": outcomes["refused"],
        "hostile_answered": outcomes["pass"] + outcomes["fail"],
        "intake_s": intake_s,
        "intake_memory_mb": grown,
        "api_requests": sum(run.requests for run in runs),
        "api_server_errors": errors,
        "api_findings": sum(len(run.failures) for run in runs),
        "api_s": time.perf_counter() - start,
        "failures": len(wrong),
    }
    anchors = {"api_server_errors": "0", "api_findings": "0", "failures": "0", "intake_memory_mb": f"below {MOST_MEMORY}"}
    publish(figures, anchors, options.json)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
