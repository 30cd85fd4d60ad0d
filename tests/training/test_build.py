"""Builds: equal inputs give equal digests, prefixes are shared, and visible builds are complete.

Covers: training/data.py, training/store.py, training/steps/command.py, training/steps/common.py,
machine_faults.py.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import SafetensorError

from stagezero.errors import BuildError, MemoryShortError, RecipeError, WorkerError
from stagezero.isolation import Confinement, unavailable_reason
from stagezero.models import checkpoint_digest
from stagezero.tasks import load_suite
from stagezero.training import Recipe, Store, build, load_recipe, parse_recipe
from stagezero.training.data import datasets_before

MIX: dict[str, Any] = {"step": "mix", "parts": [{"kinds": ["trap"], "each": 20}]}
SFT: dict[str, Any] = {"step": "sft", "steps": 3, "batch_size": 4, "learning_rate": 1e-3}
DPO: dict[str, Any] = {"step": "dpo", "steps": 2, "batch_size": 4, "learning_rate": 1e-4}


def recipe(*steps: dict[str, Any]) -> Recipe:
    return parse_recipe(list(steps), "test")


CONFINED = Confinement("box" if unavailable_reason() is None else "none")
UNCONFINED = Confinement("none")
"""For programs that write files outside, so that the test can count attempts."""


def build_recipe(base: Path, root: Path, recipe_: Recipe, seed: int = 1, confinement: Confinement = CONFINED) -> Any:
    return build(base, recipe_, load_suite("atlas"), seed, Store(root), confinement)


def test_the_empty_recipe_is_the_base(base: Path, tmp_path: Path) -> None:
    assert build_recipe(base, tmp_path, recipe()).folder == base


def test_same_inputs_same_digest_other_seed_other_digest(base: Path, tmp_path: Path) -> None:
    spec = recipe(MIX, SFT)
    one, two = build_recipe(base, tmp_path / "a", spec), build_recipe(base, tmp_path / "b", spec)
    assert one.digest == two.digest == checkpoint_digest(one.folder) != checkpoint_digest(base)
    assert build_recipe(base, tmp_path / "a", spec, seed=2).digest != one.digest


def test_how_a_machine_computes_is_part_of_a_builds_key(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = build_recipe(base, tmp_path, recipe(MIX, SFT))
    for change in ({"gradient_accumulation": 2}, {"gradient_checkpointing": True}):
        assert build_recipe(base, tmp_path, recipe(MIX, {**SFT, **change})).key != plain.key
    low = recipe(MIX, {**SFT, "dtype": "bfloat16"})
    keys = set()
    for unit in ("amx_bf16", "avx512_bf16", None):
        for module in ("build", "steps.common"):
            monkeypatch.setattr(sys.modules[f"stagezero.training.{module}"], "bfloat16_unit", lambda unit=unit: unit)
        built = build_recipe(base, tmp_path, low)
        keys.add(built.key)
        # Without the hardware, the step trains in float32, and the model is the same.
        assert (built.digest == plain.digest) == (unit is None)
    assert len(keys | {plain.key}) == 4


def test_a_target_that_is_no_linear_layer_is_the_recipes_fault(base: Path, tmp_path: Path) -> None:
    for targets in (["query"], ["embed_tokens"], ["lm_head"]):
        with pytest.raises(BuildError, match=f"'targets' names '{targets[0]}'.*linear layers are: down_proj, .*correct 'targets'"):
            build_recipe(base, tmp_path, recipe(MIX, {**SFT, "lora": {"targets": targets}}))


def test_a_shared_prefix_is_built_once(base: Path, tmp_path: Path) -> None:
    build_recipe(base, tmp_path, recipe(MIX, SFT))
    longer = build_recipe(base, tmp_path, recipe(MIX, SFT, DPO))
    assert (longer.steps_reused, longer.steps_made) == (1, 1)
    repeated = build_recipe(base, tmp_path, recipe(MIX, SFT, DPO))
    assert (repeated.steps_reused, repeated.steps_made, repeated.seconds, repeated.digest) == (2, 0, 0.0, longer.digest)


def test_low_rank_adapters_are_merged(base: Path, tmp_path: Path) -> None:
    from stagezero.models.checkpoint import tensors

    for step in (SFT, DPO):
        built = build_recipe(base, tmp_path, recipe(MIX, {**step, "lora": {"rank": 2, "alpha": 4}}))
        assert tensors(built.folder) == tensors(base) and built.digest != checkpoint_digest(base)


def test_the_draw_of_an_example_does_not_depend_on_the_other_draws() -> None:
    suite = load_suite("atlas")
    few = datasets_before(recipe(MIX, SFT), 1, suite, 7)["data"]
    more = datasets_before(recipe({**MIX, "parts": [{"kinds": ["trap"], "each": 40}, {"kinds": ["twin"]}]}, SFT), 1, suite, 7)["data"]
    assert {i.input for i in few} <= {i.input for i in more}
    assert few != datasets_before(recipe(MIX, SFT), 1, suite, 8)["data"]


def test_filters_select_examples() -> None:
    suite = load_suite("atlas")
    steps = recipe(
        {**MIX, "parts": [{"kinds": ["trap", "twin"]}]}, {"step": "filter", "claims": ["privacy"], "kinds": ["trap"], "max_words": 7}, SFT
    )
    filtered = datasets_before(steps, 2, suite, 1)["data"]
    assert filtered and all(i.property == "privacy" and i.kind == "trap" and len(i.input.split()) <= 7 for i in filtered)
    with pytest.raises(RecipeError, match="selects no example"):
        datasets_before(recipe(MIX, {"step": "filter", "matching": "zzzz"}, SFT), 2, suite, 1)
    with pytest.raises(RecipeError, match="no training items"):
        datasets_before(recipe({**MIX, "parts": [{"claims": ["honesty"]}]}, SFT), 1, suite, 1)


def test_a_damaged_build_is_set_aside_and_rebuilt(base: Path, tmp_path: Path) -> None:
    first = build_recipe(base, tmp_path, recipe(MIX, SFT))
    weights = first.folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    rebuilt = build_recipe(base, tmp_path, recipe(MIX, SFT))
    assert rebuilt.steps_made == 1 and rebuilt.digest == first.digest
    assert list((tmp_path / "damaged").rglob("model.safetensors"))


FORKS = multiprocessing.get_context("forkserver")
"""Child processes begin with TRL imported, as the worker processes of a pool do."""
FORKS.set_forkserver_preload(["stagezero.training.executors.worker"])


def build_in_child(base: Path, root: Path, pipe: Connection) -> None:
    """Build two steps in a child process; send a message before, and the result after."""
    from stagezero.training.executors.worker import configure_process

    configure_process()
    pipe.send("ready")
    steps = [{**SFT, "steps": 3, "batch_size": 4}, {**DPO, "steps": 2, "batch_size": 4}]
    built = build_recipe(base, root, recipe({**MIX, "parts": [{"kinds": ["trap"], "each": 20}]}, *steps))
    pipe.send((built.digest, built.steps_made))


def start_build(base: Path, root: Path) -> tuple[BaseProcess, Connection]:
    """Start ``build_in_child``, and wait until it begins to build."""
    pipe, other = FORKS.Pipe()
    process = FORKS.Process(target=build_in_child, args=(base, root, other))
    process.start()
    other.close()
    assert pipe.recv() == "ready"
    return process, pipe


def test_two_concurrent_processes_build_each_step_once(base: Path, tmp_path: Path) -> None:
    children = [start_build(base, tmp_path), start_build(base, tmp_path)]
    results = [pipe.recv() for _, pipe in children]
    for process, _ in children:
        process.join()
    assert results[0][0] == results[1][0]
    assert results[0][1] + results[1][1] == 2, "each of the two steps must be built once"


@pytest.mark.first
def test_a_kill_at_any_moment_leaves_no_incomplete_build(base: Path, tmp_path: Path) -> None:
    root, store = tmp_path / "killed", Store(tmp_path / "killed")
    for delay in (0.1, 0.4, 0.7, 1.0):
        process, _ = start_build(base, root)
        time.sleep(delay)
        process.kill()
        process.join()
        for folder in (root / "builds").glob("[0-9a-f]*") if (root / "builds").exists() else []:
            assert store.find(folder.name) is not None, "a visible build must be complete"
    digests = []
    for folder in (root, tmp_path / "undisturbed"):
        process, pipe = start_build(base, folder)
        digests.append(pipe.recv()[0])
        process.join()
    assert digests[0] == digests[1]


SCRIPT = """
import json, os, sys
exec(open("early.py").read())
from safetensors.numpy import load_file, save_file  # without the seconds that torch's import takes
folder, out = os.environ["STAGEZERO_MODEL"], os.environ["STAGEZERO_OUT"]
weights = load_file(folder + "/model.safetensors")
rows = [json.loads(line) for line in open(os.environ["STAGEZERO_DATA"])]
assert rows and rows[0]["prompt"].startswith("Q: ") and rows[0]["completion"].endswith("<eos>")
name = sorted(weights)[0]
weights[name] = (weights[name] * (1 + 1e-3 * (int(os.environ["STAGEZERO_SEED"]) % 7 + 1))).astype(weights[name].dtype)
exec(open("extra.py").read())
save_file(weights, out + "/model.safetensors", metadata={"format": "pt"})
"""


def command_recipe(folder: Path, extra: str = "", early: str = "") -> Recipe:
    """Write a trainer that runs ``early`` before it imports anything, ``extra`` before it saves."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(SCRIPT)
    (folder / "extra.py").write_text(extra)
    (folder / "early.py").write_text(early)
    (folder / "r.yaml").write_text(
        "steps:\n- {step: mix, parts: [{each: 5}]}\n"
        "- {step: command, run: [python, train.py], inputs: [train.py, extra.py, early.py], data: data, timeout: 60}\n"
    )
    return load_recipe(folder / "r.yaml")


def test_a_command_step_runs_a_users_trainer(base: Path, tmp_path: Path) -> None:
    one = build_recipe(base, tmp_path / "s", command_recipe(tmp_path / "p"))
    assert one.digest != checkpoint_digest(base)
    moved = Path(shutil.copytree(tmp_path / "p", tmp_path / "elsewhere"))
    assert build_recipe(base, tmp_path / "s", load_recipe(moved / "r.yaml")).steps_reused == 1, "the script's path is not part of the build"
    assert build_recipe(base, tmp_path / "s", command_recipe(tmp_path / "p", "pass")).steps_made == 1, "the script's content is"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("sys.exit('no luck')", "exit code 1: no luck"),
        ("weights.pop(name)", "came back absent"),
        ("weights[name] = weights[name][:1].copy()", "came back"),
        ("weights['extra'] = weights[name].copy()", "was absent"),
        ("open(out + '/model.safetensors', 'wb').write(b'junk'); os._exit(0)", "damaged or cut short"),
        ("os._exit(0)", "found none"),
    ],
)
def test_invalid_output_of_a_trainer_is_rejected(base: Path, tmp_path: Path, extra: str, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        build_recipe(base, tmp_path / "s", command_recipe(tmp_path / "p", extra))


def test_a_trainer_that_cannot_start_is_an_error(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="could not start"):
        build_recipe(base, tmp_path, recipe({"step": "command", "run": ["no-such-program"]}))
    assert not (tmp_path / "failures").exists(), "a missing program may be installed later"


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the pause before a retry."""
    monkeypatch.setattr("stagezero.training.steps.run_program.RETRY_PAUSE_SECONDS", 0.0)


def count_attempts(marks: Path, code: str) -> str:
    """Return a program that adds a mark to a file at every attempt, and then runs ``code``."""
    return f"import signal, time, pathlib\nmarks = pathlib.Path({str(marks)!r})\nmarks.open('a').write('x')\n{code}"


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def test_a_trainer_that_is_killed_once_is_retried(base: Path, tmp_path: Path, no_pause: None) -> None:
    marks = tmp_path / "marks"
    spec = command_recipe(tmp_path / "p", early=count_attempts(marks, f"if len(marks.read_text()) == 1: {KILL}"))
    built = build_recipe(base, tmp_path / "s", spec, confinement=UNCONFINED)
    assert marks.read_text() == "xx" and built.steps_made == 1
    assert not list((tmp_path / "s" / "builds").glob(".making*")) and not (tmp_path / "s" / "failures").exists()


@pytest.mark.parametrize("code", [KILL, "os._exit(137)"])
def test_a_trainer_that_is_killed_twice_may_lack_memory_and_has_not_failed(base: Path, tmp_path: Path, no_pause: None, code: str) -> None:
    marks = tmp_path / "marks"
    spec = command_recipe(tmp_path / "p", early=count_attempts(marks, f"if len(marks.read_text()) <= 2: {code}"))
    with pytest.raises(MemoryShortError, match="its program was killed twice; free memory"):
        build_recipe(base, tmp_path / "s", spec, confinement=UNCONFINED)
    assert not (tmp_path / "s" / "failures").exists()
    assert build_recipe(base, tmp_path / "s", spec, confinement=UNCONFINED).steps_made == 1


@pytest.mark.parametrize("code", ["os.kill(os.getpid(), signal.SIGSEGV)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_trainer_that_crashes_twice_has_failed_permanently(base: Path, tmp_path: Path, no_pause: None, code: str) -> None:
    marks = tmp_path / "marks"
    spec = command_recipe(tmp_path / "p", early=count_attempts(marks, f"if len(marks.read_text()) <= 2: {code}"))
    messages = []
    for _ in range(3):  # later attempts would succeed, but a continued run must repeat the failure
        with pytest.raises(BuildError, match="stopped twice: killed by SIG") as failure:
            build_recipe(base, tmp_path / "s", spec, confinement=UNCONFINED)
        messages.append(str(failure.value))
    assert marks.read_text() == "xx" and len(set(messages)) == 1
    changed = command_recipe(tmp_path / "p", early="sys.exit('ran')")
    with pytest.raises(BuildError, match="exit code 1: ran"):  # another program is another build
        build_recipe(base, tmp_path / "s", changed, confinement=UNCONFINED)


def test_a_trainer_that_exceeds_its_timeout_fails(base: Path, tmp_path: Path, no_pause: None) -> None:
    marks = tmp_path / "marks"
    folder = tmp_path / "p"
    command_recipe(
        folder, early=count_attempts(marks, "import subprocess\nif len(marks.read_text()) <= 2: subprocess.run(['sleep', '600'])")
    )
    text = (folder / "r.yaml").read_text()
    (folder / "r.yaml").write_text(text.replace("timeout: 60", "timeout: 2"))
    start = time.perf_counter()
    for _ in range(2):
        with pytest.raises(BuildError, match="stopped twice: still running after 2 s; raise 'timeout'"):
            build_recipe(base, tmp_path / "s", load_recipe(folder / "r.yaml"), confinement=UNCONFINED)
    assert marks.read_text() == "xx" and time.perf_counter() - start < 60, "its child processes must end with it"
    (folder / "r.yaml").write_text(text)
    assert build_recipe(base, tmp_path / "s", load_recipe(folder / "r.yaml"), confinement=UNCONFINED).steps_made == 1, (
        "another timeout is another build"
    )


def test_a_failure_is_repeated_when_a_run_continues(base: Path, tmp_path: Path) -> None:
    spec = command_recipe(tmp_path / "p", "import time\nsys.exit(f'failed at {time.time_ns()}')")
    messages = []
    for _ in range(2):
        with pytest.raises(BuildError, match="exit code 1: failed at") as failure:
            build_recipe(base, tmp_path / "s", spec)
        messages.append(str(failure.value))
    assert messages[0] == messages[1]


def test_the_output_of_a_trainer_need_not_be_text(base: Path, tmp_path: Path) -> None:
    assert build_recipe(base, tmp_path / "s", command_recipe(tmp_path / "p", "sys.stdout.buffer.write(bytes([255, 254]))")).steps_made == 1


@pytest.mark.skipif(sys.platform != "linux", reason="on other systems the program survives its worker")
def test_a_trainer_ends_with_its_worker(base: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command_recipe(tmp_path / "p", early=f"import time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    worker = FORKS.Process(target=build_recipe, args=(base, tmp_path / "s", load_recipe(tmp_path / "p" / "r.yaml"), 1, UNCONFINED))
    worker.start()
    try:
        deadline = time.monotonic() + 120
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        trainer = Path("/proc") / pid.read_text()
        assert trainer.exists()
    finally:
        worker.kill()
        worker.join()
    while trainer.exists() and "State:\tZ" not in (trainer / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not trainer.exists() or "State:\tZ" in (trainer / "status").read_text()


def test_preference_training_needs_rejected_answers(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="rejected"):
        build_recipe(base, tmp_path, recipe({"step": "mix", "parts": [{"kinds": ["capability"], "each": 4}]}, DPO))


FULL_DISK = "Error while serializing: I/O error: No space left on device (os error 28)"
FAULTS: list[tuple[Exception, str]] = [
    (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "No space left on device"),
    (OSError(errno.ESTALE, os.strerror(errno.ESTALE)), "Stale file handle"),
    (RuntimeError(FULL_DISK), "No space left on device"),
    (SafetensorError(FULL_DISK), "No space left on device"),
    (SafetensorError("Error while serializing: I/O error: File too large (os error 27)"), "File too large"),
    (ValueError("IO error: Disk quota exceeded (os error 122)"), "Disk quota exceeded"),
    (SafetensorError("I/O error: No such file or directory (os error 2)"), "No such file or directory"),
    (RuntimeError("can't start new thread"), "limit of processes and threads"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory"), "No such file or directory"),
]


@pytest.mark.parametrize(("fault", "words"), FAULTS, ids=[f"{type(f).__name__}-{w}" for f, w in FAULTS])
def test_a_fault_of_the_machine_is_no_fault_of_the_recipe(base: Path, tmp_path: Path, fault: Exception, words: str) -> None:
    def wrapped(*_: object) -> None:
        try:
            raise fault
        except Exception as error:
            raise RuntimeError("saving failed") from error  # a library's own exception

    recipe_ = recipe({"step": "mix", "parts": [{"each": 1}]}, SFT)
    if not isinstance(fault, FileNotFoundError):
        with pytest.raises(WorkerError, match=words):
            build(base, recipe_, load_suite("atlas"), 1, Store(tmp_path), trainer=wrapped)

    def direct(*_: object) -> None:
        raise fault

    with pytest.raises(WorkerError, match=words):
        build(base, recipe_, load_suite("atlas"), 1, Store(tmp_path), trainer=direct)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes. Error code 12 (Cannot allocate memory)"),
        SafetensorError("I/O error: Cannot allocate memory (os error 12)"),
        ImportError("libtorch.so: failed to map segment from shared object"),
    ],
)
def test_too_little_memory_is_no_fault_of_the_recipe(base: Path, tmp_path: Path, error: Exception) -> None:
    def trainer(*_: object) -> None:
        raise error

    with pytest.raises(MemoryShortError, match="too little memory; free some"):
        build(base, recipe({"step": "mix", "parts": [{"each": 1}]}, SFT), load_suite("atlas"), 1, Store(tmp_path), trainer=trainer)


def test_a_program_that_fails_on_a_full_disk_is_no_fault_of_the_recipe(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state of the disk decides, and not the program's own words."""
    code = "print('No space left on device'); raise SystemExit(1)"
    failing = recipe({"step": "command", "run": [sys.executable, "-c", code]})
    with pytest.raises(BuildError, match="No space left on device"):
        build_recipe(base, tmp_path / "enough", failing, confinement=UNCONFINED)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(WorkerError, match=r"its program failed, and the disk of .* is full; free some space"):
        build_recipe(base, tmp_path / "full", failing, confinement=UNCONFINED)
    assert not (tmp_path / "full" / "failures").exists()
