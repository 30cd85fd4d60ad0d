"""Submitted models: a hostile model is rejected without a charge, or charged and answered.

The HTTP interface is fuzzed from its own OpenAPI description. benchmarks/fuzz.py is the long
version, with every attack and thousands of requests.

Covers: auditor/examiner.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from _auditing import TOKEN, Audited, alarms, attempt, honest
from _hostile import ANSWERED, REFUSED, Attack, attacks
from _schema import fuzz

from stagezero.auditor.examiner import Examiner
from stagezero.auditor.intake import Intake, is_checkpoint_file
from stagezero.errors import ModelError
from stagezero.models import checkpoint_digest
from stagezero.models.checkpoint import check

ATTACKS = attacks()
SLOT = 4.0
ALSO_ANSWERED = {
    "NaN weights",
    "a billion wide",
    "remote code beside it",
    "tokens far away",
    "template: globals",
    "template: loops in loops",
    "template: 'a'*10**12",
    "pickles beside the weights",
    "hard link",
}


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audited]:
    audited = Audited(tmp_path_factory.mktemp("audited"), SLOT)
    yield audited
    audited.close()


def test_there_are_many_attacks() -> None:
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names)) >= 100
    assert names and set(names) >= ALSO_ANSWERED


@pytest.mark.parametrize(
    "attack", [a for a in ATTACKS if (a.expected == REFUSED and not a.slow) or a.name in ALSO_ANSWERED], ids=lambda a: a.name
)
def test_a_hostile_model_is_rejected_uncharged_or_charged_and_answered(audited: Audited, base: Path, attack: Attack) -> None:
    number = [a.name for a in ATTACKS].index(attack.name)
    outcome, wrong = attempt(audited, attack, base, number)
    assert wrong is None, f"{outcome}: {wrong}"
    assert outcome in (("refused",) if attack.expected != ANSWERED else ("pass", "fail"))


def test_an_honest_model_is_audited_after_the_attacks(audited: Audited, base: Path, tmp_path: Path) -> None:
    folder = honest(base, tmp_path / "honest", 10_000)
    receipt = audited.submit(str(folder), checkpoint_digest(folder))
    assert receipt.status_code == 202 and audited.settled(SLOT) and audited.hear(receipt.json()) == "pass"


@pytest.mark.parametrize("informed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_requests_generated_from_the_openapi_description_cause_no_server_error(audited: Audited, base: Path, informed: bool) -> None:
    before = audited.counts()
    known = {"suite": "suite", "digest": checkpoint_digest(base), "number": "1", "name": "config.json"} if informed else {}
    with alarms() as errors:
        result = fuzz(audited.app, TOKEN, 2, known, phases="fuzzing")
    assert (result.failures, errors) == ((), [])
    assert result.server_errors == 0 and result.requests >= 10
    assert audited.counts() == before


# --- paths that change during the copy ------------------------------------------------------------


def test_a_symlink_that_is_swapped_during_the_copy_gives_no_access_to_other_models(base: Path, tmp_path: Path) -> None:
    """The submitted path alternates between the lab's folder and a copy of another lab's model."""
    folder = tmp_path / "auditor"
    folder.mkdir()
    intake = Intake(folder, 2**27)
    other = honest(base, folder / "intake" / "others", 1)
    mine = honest(base, tmp_path / "mine", 2)
    digest, link, stop = checkpoint_digest(other), tmp_path / "link", threading.Event()
    link.symlink_to(mine)

    def alternate() -> None:
        while not stop.is_set():
            for target in (other, mine):
                (tmp_path / "next").symlink_to(target)
                (tmp_path / "next").rename(link)

    thread = threading.Thread(target=alternate)
    thread.start()
    try:
        for _ in range(150):
            with pytest.raises(ModelError):
                intake.admit(digest, link, "lab")
    finally:
        stop.set()
        thread.join()
    assert sorted(path.name for path in (folder / "intake").iterdir()) == ["others"]
    assert len(list(Path("/proc/self/fd").iterdir())) < 200, "file descriptors leak"


def test_only_the_files_of_a_checkpoint_are_permitted() -> None:
    for name in ("config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json"):
        assert is_checkpoint_file(name)
    for name in ("", ".", "..", "../config.json", "a/b.safetensors", "model.safetensors\n", "evil.py", "pytorch_model.bin", ".safetensors",
                 "config.json\0", "\u2025.safetensors", "adapter_config.json", "-x.safetensors"):  # fmt: skip
        assert not is_checkpoint_file(name), name


def test_an_index_may_name_the_files_of_its_folder(base: Path, tmp_path: Path) -> None:
    from safetensors import safe_open

    folder = honest(base, tmp_path / "sharded", 1)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    with safe_open(folder / "model-00001-of-00001.safetensors", framework="pt") as handle:
        names = list(handle.keys())
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    check(folder)
    assert Examiner(2.0).answers(folder, ["What is this?"], None, 60.0, 24)[0]


# --- the restrictions of the examination ----------------------------------------------------------

_INSIDE = """
import os, sys
from pathlib import Path
from stagezero.auditor import examiner
sys.path.insert(0, "")
examiner._leave_network()
restricted = examiner._restrict_files(Path(sys.argv[1]))
for path in sys.argv[2:]:
    try:
        os.close(os.open(path, os.O_RDONLY))
        print("opened")
    except OSError:
        print("denied")
try:
    os.close(os.open(sys.argv[1] + "/written", os.O_WRONLY | os.O_CREAT))
    print("opened")
except OSError:
    print("denied")
print(restricted)
"""


def test_an_examination_can_open_only_the_model_and_the_libraries(base: Path, tmp_path: Path) -> None:
    secret, link = tmp_path / "secret", base.parent / "link-out"
    secret.write_text("sealed")
    link.unlink(missing_ok=True)
    link.symlink_to(secret)
    paths = [
        str(base / "config.json"),
        sys.executable,
        str(secret),
        str(link),
        str(base / ".." / link.name),
        "/etc/passwd",
        "/proc/1/environ",
    ]
    done = subprocess.run([sys.executable, "-c", _INSIDE, str(base), *paths], capture_output=True, text=True, check=True, cwd="/")
    *results, restricted = done.stdout.split()
    if restricted == "False":
        pytest.skip("this system has no Landlock")
    assert results == ["opened", "opened", *["denied"] * 6]


def test_output_of_libraries_is_discarded(base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The lab may be able to read stdout, and text printed there is charged to no account."""
    folder = honest(base, tmp_path / "talks", 1)
    config = json.loads((folder / "config.json").read_text())
    auto = {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "evil", "auto_map": auto}))
    with pytest.raises(ModelError):
        Examiner(2.0).answers(folder, ["a sealed question"], None, 60.0, 24)
    output = capfd.readouterr()
    assert output.out == "" and "question" not in output.err and output.err in ("", "an examination ended: ModelError\n")
