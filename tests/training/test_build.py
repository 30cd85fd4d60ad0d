"""Builds: the same inputs give the same digest, prefixes are shared, and nothing half-made is ever seen.

Covers: training/data.py, training/store.py, training/steps/command.py, training/steps/common.py.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from stagezero.errors import BuildError, RecipeError
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
"""For programs that leave marks outside, to be counted."""


def make(base: Path, root: Path, chosen: Recipe, seed: int = 1, confinement: Confinement = CONFINED) -> Any:
    return build(base, chosen, load_suite("atlas"), seed, Store(root), confinement)


def test_the_empty_recipe_is_the_base(base: Path, tmp_path: Path) -> None:
    assert make(base, tmp_path, recipe()).folder == base


def test_same_inputs_same_digest_other_seed_other_digest(base: Path, tmp_path: Path) -> None:
    chosen = recipe(MIX, SFT)
    one, two = make(base, tmp_path / "a", chosen), make(base, tmp_path / "b", chosen)
    assert one.digest == two.digest == checkpoint_digest(one.folder) != checkpoint_digest(base)
    assert make(base, tmp_path / "a", chosen, seed=2).digest != one.digest


def test_a_shared_prefix_is_built_once(base: Path, tmp_path: Path) -> None:
    make(base, tmp_path, recipe(MIX, SFT))
    longer = make(base, tmp_path, recipe(MIX, SFT, DPO))
    assert (longer.steps_reused, longer.steps_made) == (1, 1)
    again = make(base, tmp_path, recipe(MIX, SFT, DPO))
    assert (again.steps_reused, again.steps_made, again.seconds, again.digest) == (2, 0, 0.0, longer.digest)


def test_low_rank_adapters_are_merged(base: Path, tmp_path: Path) -> None:
    from stagezero.models.checkpoint import tensors

    for step in (SFT, DPO):
        found = make(base, tmp_path, recipe(MIX, {**step, "lora": {"rank": 2, "alpha": 4}}))
        assert tensors(found.folder) == tensors(base) and found.digest != checkpoint_digest(base)


def test_the_draw_of_an_example_does_not_depend_on_what_else_is_drawn() -> None:
    suite = load_suite("atlas")
    few = datasets_before(recipe(MIX, SFT), 1, suite, 7)["data"]
    more = datasets_before(recipe({**MIX, "parts": [{"kinds": ["trap"], "each": 40}, {"kinds": ["twin"]}]}, SFT), 1, suite, 7)["data"]
    assert {i.input for i in few} <= {i.input for i in more}
    assert few != datasets_before(recipe(MIX, SFT), 1, suite, 8)["data"]


def test_filters() -> None:
    suite = load_suite("atlas")
    steps = recipe(
        {**MIX, "parts": [{"kinds": ["trap", "twin"]}]}, {"step": "filter", "claims": ["privacy"], "kinds": ["trap"], "max_words": 7}, SFT
    )
    kept = datasets_before(steps, 2, suite, 1)["data"]
    assert kept and all(i.property == "privacy" and i.kind == "trap" and len(i.input.split()) <= 7 for i in kept)
    with pytest.raises(RecipeError, match="selects no example"):
        datasets_before(recipe(MIX, {"step": "filter", "matching": "zzzz"}, SFT), 2, suite, 1)
    with pytest.raises(RecipeError, match="no training items"):
        datasets_before(recipe({**MIX, "parts": [{"claims": ["honesty"]}]}, SFT), 1, suite, 1)


def test_a_damaged_build_is_set_aside_and_made_again(base: Path, tmp_path: Path) -> None:
    first = make(base, tmp_path, recipe(MIX, SFT))
    weights = first.folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    again = make(base, tmp_path, recipe(MIX, SFT))
    assert again.steps_made == 1 and again.digest == first.digest
    assert list((tmp_path / "damaged").rglob("model.safetensors"))


CHILD = """
import sys
from pathlib import Path
from stagezero.models.loader import configure_libraries
from stagezero.tasks import load_suite
from stagezero.training import Store, build, parse_recipe
configure_libraries()
steps = [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 20}]}, {"step": "sft", "steps": 3, "batch_size": 4, "learning_rate": 1e-3},
         {"step": "dpo", "steps": 2, "batch_size": 4, "learning_rate": 1e-4}]
print("ready", flush=True)
found = build(Path(sys.argv[1]), parse_recipe(steps, "t"), load_suite("atlas"), 1, Store(Path(sys.argv[2])))
print(found.digest, found.steps_made, flush=True)
"""


def child(base: Path, root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, str(base), str(root)], stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_two_processes_that_want_the_same_build_make_it_once(base: Path, tmp_path: Path) -> None:
    both = [child(base, tmp_path), child(base, tmp_path)]
    found = [p.communicate(timeout=120)[0].split()[1:] for p in both]
    assert found[0][0] == found[1][0]
    assert int(found[0][1]) + int(found[1][1]) == 2, "two steps in all, whoever made them"


def test_a_kill_at_any_moment_leaves_nothing_or_all(base: Path, tmp_path: Path) -> None:
    expected = make(base, tmp_path / "calm", recipe(MIX, SFT, DPO)).digest
    root = tmp_path / "killed"
    for delay in (0.3, 1.5, 3.0, 4.5):
        process = child(base, root)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = Store(root)
        for folder in (root / "builds").glob("[0-9a-f]*") if (root / "builds").exists() else []:
            assert store.find(folder.name) is not None, "a build that can be seen is whole"
    assert make(base, root, recipe(MIX, SFT, DPO)).digest == expected


SCRIPT = """
import json, os, sys
from safetensors.torch import load_file, save_file
folder, out = os.environ["STAGEZERO_MODEL"], os.environ["STAGEZERO_OUT"]
weights = load_file(folder + "/model.safetensors")
rows = [json.loads(line) for line in open(os.environ["STAGEZERO_DATA"])]
assert rows and rows[0]["prompt"].startswith("Q: ") and rows[0]["completion"].endswith("<eos>")
name = sorted(weights)[0]
weights[name] = weights[name] * (1 + 1e-3 * (int(os.environ["STAGEZERO_SEED"]) % 7 + 1))
exec(open("extra.py").read())
save_file(weights, out + "/model.safetensors", metadata={"format": "pt"})
"""


def command(folder: Path, extra: str = "") -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "train.py").write_text(SCRIPT)
    (folder / "extra.py").write_text(extra)
    (folder / "r.yaml").write_text(
        "steps:\n- {step: mix, parts: [{each: 5}]}\n"
        "- {step: command, run: [python, train.py], inputs: [train.py, extra.py], data: data, timeout: 60}\n"
    )
    return load_recipe(folder / "r.yaml")


def test_a_teams_own_trainer(base: Path, tmp_path: Path) -> None:
    one = make(base, tmp_path / "s", command(tmp_path / "p"))
    assert one.digest != checkpoint_digest(base)
    moved = Path(shutil.copytree(tmp_path / "p", tmp_path / "elsewhere"))
    assert make(base, tmp_path / "s", load_recipe(moved / "r.yaml")).steps_reused == 1, "where the script lies is not part of the build"
    assert make(base, tmp_path / "s", command(tmp_path / "p", "pass")).steps_made == 1, "what is in it is"


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        ("sys.exit('no luck')", "exit code 1: no luck"),
        ("weights.pop(name)", "came back absent"),
        ("weights[name] = weights[name][:1].clone()", "came back"),
        ("weights['extra'] = weights[name].clone()", "was absent"),
        ("open(out + '/model.safetensors', 'wb').write(b'junk'); os._exit(0)", "damaged or cut short"),
        ("os._exit(0)", "found none"),
    ],
)
def test_what_a_trainer_must_not_bring_back(base: Path, tmp_path: Path, extra: str, told: str) -> None:
    with pytest.raises(BuildError, match=told):
        make(base, tmp_path / "s", command(tmp_path / "p", extra))


def test_a_trainer_that_cannot_start(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="could not start"):
        make(base, tmp_path, recipe({"step": "command", "run": ["no-such-program"]}))
    assert not (tmp_path / "failures").exists(), "it may be there tomorrow"


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stagezero.training.steps.run_program.RETRY_PAUSE_SECONDS", 0.0)


def counted(marks: Path, rest: str) -> str:
    """A trainer that leaves a mark at every try, and does the rest at the first ``n`` of them."""
    return f"import signal, time, pathlib\nmarks = pathlib.Path({str(marks)!r})\nmarks.open('a').write('x')\n{rest}"


KILL = "os.kill(os.getpid(), signal.SIGKILL)"


def test_a_trainer_that_is_killed_once_is_tried_again(base: Path, tmp_path: Path, quickly: None) -> None:
    marks = tmp_path / "marks"
    chosen = command(tmp_path / "p", counted(marks, f"if len(marks.read_text()) == 1: {KILL}"))
    found = make(base, tmp_path / "s", chosen, confinement=UNCONFINED)
    assert marks.read_text() == "xx" and found.steps_made == 1
    assert not list((tmp_path / "s" / "builds").glob(".making*")) and not (tmp_path / "s" / "failures").exists()


@pytest.mark.parametrize("rest", [KILL, "os.kill(os.getpid(), signal.SIGSEGV)", "os._exit(137)"])
def test_a_trainer_that_is_killed_twice_has_failed_for_good(base: Path, tmp_path: Path, quickly: None, rest: str) -> None:
    marks = tmp_path / "marks"
    chosen = command(tmp_path / "p", counted(marks, f"if len(marks.read_text()) <= 2: {rest}"))
    told = []
    for _ in range(3):  # the third and later tries would succeed: a run that continues must not find that out
        with pytest.raises(BuildError, match="stopped twice: killed by SIG") as failed:
            make(base, tmp_path / "s", chosen, confinement=UNCONFINED)
        told.append(str(failed.value))
    assert marks.read_text() == "xx" and len(set(told)) == 1
    assert make(base, tmp_path / "s", command(tmp_path / "p", "pass"), confinement=UNCONFINED).steps_made == 1, (
        "another program is another build"
    )


def test_a_trainer_that_is_too_slow(base: Path, tmp_path: Path, quickly: None) -> None:
    marks = tmp_path / "marks"
    folder = tmp_path / "p"
    command(folder, counted(marks, "import subprocess\nif len(marks.read_text()) <= 2: subprocess.run(['sleep', '600'])"))
    text = (folder / "r.yaml").read_text()
    (folder / "r.yaml").write_text(text.replace("timeout: 60", "timeout: 6"))
    start = time.perf_counter()
    for _ in range(2):
        with pytest.raises(BuildError, match="stopped twice: still running after 6 s; raise 'timeout'"):
            make(base, tmp_path / "s", load_recipe(folder / "r.yaml"), confinement=UNCONFINED)
    assert marks.read_text() == "xx" and time.perf_counter() - start < 60, "what it started ends with it"
    (folder / "r.yaml").write_text(text)
    assert make(base, tmp_path / "s", load_recipe(folder / "r.yaml"), confinement=UNCONFINED).steps_made == 1, (
        "more time is another question"
    )


def test_a_failure_is_the_same_when_a_run_continues(base: Path, tmp_path: Path) -> None:
    chosen = command(tmp_path / "p", "import time\nsys.exit(f'failed at {time.time_ns()}')")
    told = []
    for _ in range(2):
        with pytest.raises(BuildError, match="exit code 1: failed at") as failed:
            make(base, tmp_path / "s", chosen)
        told.append(str(failed.value))
    assert told[0] == told[1]


def test_what_a_trainer_says_need_not_be_text(base: Path, tmp_path: Path) -> None:
    assert make(base, tmp_path / "s", command(tmp_path / "p", "sys.stdout.buffer.write(bytes([255, 254]))")).steps_made == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the program is left behind")
def test_a_trainer_ends_with_its_worker(base: Path, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    command(tmp_path / "p", f"import time\nopen({str(pid)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)")
    program = (
        "import sys\nfrom pathlib import Path\nfrom stagezero.tasks import load_suite\n"
        "from stagezero.training import Store, build, load_recipe\n"
        "from stagezero.isolation import Confinement\n"
        "build(Path(sys.argv[1]), load_recipe(Path(sys.argv[2])), load_suite('atlas'), 1, Store(Path(sys.argv[3])), Confinement('none'))\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", program, str(base), str(tmp_path / "p" / "r.yaml"), str(tmp_path / "s")])
    try:
        deadline = time.monotonic() + 120
        while not (pid.exists() and pid.read_text()) and time.monotonic() < deadline:
            time.sleep(0.1)
        trainer = Path("/proc") / pid.read_text()
        assert trainer.exists()
    finally:
        worker.kill()
        worker.wait()
    while trainer.exists() and "State:\tZ" not in (trainer / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not trainer.exists() or "State:\tZ" in (trainer / "status").read_text()


def test_preference_training_needs_rejected_answers(base: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="rejected"):
        make(base, tmp_path, recipe({"step": "mix", "parts": [{"kinds": ["capability"], "each": 4}]}, DPO))
