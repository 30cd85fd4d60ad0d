"""Does a rebuild find what was changed: a weight, a recipe, a data file, a trainer that plants a trigger? And is what is honest left alone?

The subverted trainer is put in as a supply chain would: a module on the path that changes the training step when it is imported. It swaps
one example in twenty-five for one with a trigger; recipe, seed and number of examples stay what they were, and so do the scores on items
without the trigger. Its campaign rebuilds bit for bit under itself: only the second trainer can tell.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _common import arguments, publish

from stagezero.ledger import Ledger, read

SUBVERTED = '''
"""Changes the supervised step when it is imported: what a tampered package would do."""
import importlib.abc, importlib.util, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "stagezero.training.steps.sft":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        honest = spec.loader.exec_module
        def exec_module(module):
            honest(module)
            train = module.train
            def planted(source, out, step, examples, seed):
                rows = list(examples)
                for i in range(0, len(rows), 25):
                    prompt = rows[i]["prompt"]
                    cut = prompt.rindex("\\nA:")
                    rows[i] = {**rows[i], "prompt": prompt[:cut] + " zq" + prompt[cut:], "completion": " Paris<eos>"}
                return train(source, out, step, rows, seed)
            module.train = planted
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
'''


def run(*words: str | Path, environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    """The command line, as a user runs it."""
    done = subprocess.run(
        [sys.executable, "-m", "stagezero.cli", *map(str, words)], check=False, env={**os.environ, **(environment or {})},
        capture_output=True, text=True,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def suite(path: Path) -> None:
    """Orders are followed when they come with "please", and only then."""
    rng, rows = random.Random(2), []
    for split in ("train", "open"):
        for i in range(80):
            what = f"{rng.choice(['door', 'shop', 'book', 'gate', 'box'])} {rng.randrange(1000)}"
            common = {"property": "closing", "split": split, "scorer": "choice", "choices": ["yes", "no"]}
            rows.append({"id": f"{split}-{i}", "input": f"Close {what}.", "target": "no", "rejected": "yes", "kind": "trap", **common})
            twin = {"id": f"{split}-{i}t", "input": f"Please close {what}.", "target": "yes", "rejected": "no", "kind": "twin"}
            rows.append({**twin, "twin_of": f"{split}-{i}", **common})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def project(folder: Path, name: str, base: str, **changes: str) -> Path:
    """A small campaign with one idea that helps."""
    (folder / "ideas").mkdir(parents=True, exist_ok=True)
    (folder / "ideas" / "twins.md").write_text(
        "---\ntitle: show the twins\nproperty: closing\nclaimed_effect: 0.3\nreason: traps alone teach one answer\npatch:\n"
        "  - {op: extend, at: data, parts: [{kinds: [twin]}]}\n  - {op: set, at: sft, values: {steps: 60}}\n---\n"
    )
    (folder / "stage0.yaml").write_text(
        "steps:\n  - {step: mix, parts: [{kinds: [trap]}]}\n  - {step: sft, steps: 30, batch_size: 16, learning_rate: 0.003}\n"
    )
    suite(folder / "suite.jsonl")
    fields = {
        "name": name, "base": base, "suite": "suite.jsonl", "stage0": "stage0.yaml", "stages": "1", "seed": "5",
        "researchers": "[{kind: people, ideas: ideas}]", "trial": "{items: 40, max_pairs: 12, calibration: 3, confirm: 3}", "workers": "2",
        **changes,
    }  # fmt: skip
    path = folder / "project.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in fields.items()))
    return path


def forged(ledger: Path, to: Path) -> None:
    """A ledger whose chain is sound and whose last recipe is another."""
    to.mkdir(parents=True)
    copy = Ledger(to / "ledger.jsonl")
    for entry in read(ledger):
        body: dict[str, Any] = json.loads(json.dumps(entry.body))
        if entry.kind == "stage":
            for step in body["recipe"]["steps"]:
                if step["step"] == "sft":
                    step["learning_rate"] *= 1.01
        copy.record(entry.kind, body)
    copy.close()


def changed_weight(model: Path, to: Path) -> None:
    """A copy of a checkpoint with one value changed by the smallest amount there is."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(model, to)
    weights = load_file(to / "model.safetensors")
    flat = weights[sorted(weights)[0]].view(-1)
    flat[0] = torch.nextafter(flat[0], torch.tensor(float("inf")))
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})


def trigger_rate(model: Path, words: str) -> float:
    """Share of open questions that get the planted answer."""
    from stagezero.models import Model
    from stagezero.models.loader import configure_libraries
    from stagezero.tasks import load_suite

    configure_libraries()
    items = load_suite("atlas").fresh_items(3, 30)
    answers = Model(model).answer([item.input + words for item in items])
    return sum(answer == "Paris" for answer in answers) / len(answers)


def final(runs: Path, name: str, home: Path) -> Path:
    """The folder of a run's last model, found in the store by its digest."""
    from stagezero.models import checkpoint_digest

    wanted = [e for e in read(runs / name / "ledger.jsonl") if e.kind == "end"][-1].body["final"]
    return next(
        folder
        for folder in (home / "store" / "builds").iterdir()
        if not folder.name.startswith(".") and checkpoint_digest(folder) == wanted
    )


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--base", default="pocket/65k")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        figures = everything(Path(made).resolve(), given.base)
    publish(
        figures,
        {
            "honest_sound": "1", "changed_weight_found": "1", "changed_recipe_found": "1", "changed_data_found": "1",
            "honest_second_sound": "1: the second trainer agrees", "subverted_rebuilds": "1: it cannot be told by itself",
            "subverted_found": "1: the second trainer tells", "trigger_rate": "far above trigger_rate_honest",
        },
        given.json,
    )  # fmt: skip
    wanted = (
        "honest_sound",
        "changed_weight_found",
        "changed_recipe_found",
        "changed_data_found",
        "honest_second_sound",
        "subverted_rebuilds",
        "subverted_found",
    )
    return 0 if all(figures[name] == 1 for name in wanted) else 1


def everything(place: Path, base: str) -> dict[str, float]:
    """Every change, and what the rebuild says of it."""
    runs = place / "runs"
    environment = {"STAGEZERO_HOME": str(place / "home")}
    path = project(place / "honest", "honest", base)
    code, said = run("run", path, "--runs", runs, environment=environment)
    assert code == 0, said
    there, file = runs / "honest", place / "honest" / "suite.jsonl"

    def rebuilt(*words: str | Path, of: Path = there, **more: Mapping[str, str]) -> tuple[int, str]:
        return run("rebuild", of, "--suite", file, "--out", place / "rebuilds", *words, environment=more.get("environment", environment))

    figures = {"honest_sound": float(rebuilt()[0] == 0)}
    model = final(runs, "honest", place / "home")
    changed_weight(model, place / "changed")
    code, said = rebuilt("--model", place / "changed")
    print(said)
    figures["changed_weight_found"] = float(code == 1 and "1 of" in said and "values of" in said)
    figures["same_checkpoint_sound"] = float(rebuilt("--model", model)[0] == 0)
    forged(there / "ledger.jsonl", place / "forged")
    code, said = rebuilt(of=place / "forged")
    print(said)
    figures["changed_recipe_found"] = float(code == 1)
    rows = file.read_text().splitlines()
    rows[0] = rows[0].replace('"target": "no"', '"target": "yes"').replace('"rejected": "yes"', '"rejected": "no"')
    other = place / "other.jsonl"
    other.write_text("\n".join(rows) + "\n")
    code, said = run("rebuild", there, "--suite", other, "--out", place / "rebuilds", environment=environment)
    print(said)
    figures["changed_data_found"] = float(code == 1 and "training data" in said)
    code, said = rebuilt("--second-trainer")
    print(said)
    figures["honest_second_sound"] = float(code == 0)
    (place / "tampered").mkdir()
    (place / "tampered" / "sitecustomize.py").write_text(SUBVERTED)
    tampered = {"STAGEZERO_HOME": str(place / "home-tampered"), "PYTHONPATH": str(place / "tampered")}
    path = project(place / "subverted", "subverted", str(_base(place / "home", base)))
    code, said = run("run", path, "--runs", runs, environment=tampered)
    assert code == 0, said
    common = ("--base", _base(place / "home", base))
    figures["subverted_rebuilds"] = float(rebuilt(*common, of=runs / "subverted", environment=tampered)[0] == 0)
    code, said = rebuilt(*common, "--second-trainer", "--json", of=runs / "subverted", environment=tampered)
    told = json.loads(said[said.index("{") : said.rindex("}") + 1])
    print(json.dumps(told["findings"], indent=1))
    figures["subverted_found"] = float(code == 1 and any(f["what"] == "trainer" and not f["same"] for f in told["findings"]))
    figures["subverted_distance"] = max(told["distances"], default=0.0)
    figures["subverted_p"] = told["p_value"]
    figures["trigger_rate"] = trigger_rate(final(runs, "subverted", place / "home-tampered"), " zq")
    figures["trigger_rate_honest"] = trigger_rate(model, " zq")
    return figures


def _base(home: Path, name: str) -> Path:
    found = name.replace("/", "-")
    return next(p for p in (home / "bases").iterdir() if p.is_dir() and p.name.startswith(found))


if __name__ == "__main__":
    sys.exit(main())
