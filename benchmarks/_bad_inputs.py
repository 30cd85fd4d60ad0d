"""Bad inputs for ``fuzz.py``: each must be answered with one sentence and exit code 2.

A case is a name, the files that a person wrote, and a command line. The files are written to an
empty folder, in which the command runs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from numpy import ones
from safetensors.numpy import load, save

Content = str | bytes


class BadInput(NamedTuple):
    """Files, and a command that cannot use them."""

    name: str
    files: dict[str, Content]
    command: list[str]


PROJECT = "name: p\nbase: pocket/16k\nstage0: r.yaml\nresearchers: [{kind: people, ideas: ideas}]\n"
RECIPE = "steps:\n  - {step: mix, parts: [{each: 4}]}\n  - {step: sft, steps: 1, learning_rate: 0.001}\n"
IDEA = (
    "---\ntitle: An idea\nproperty: privacy\nclaimed_effect: 0.1\nreason: because\n"
    "patch:\n  - {op: set, at: sft, values: {steps: 2}}\n---\n"
)
TRAP: dict[str, Any] = {"id": "a", "input": "Is it?", "target": "no", "kind": "trap", "property": "candour", "split": "open"}
TWIN: dict[str, Any] = {"id": "b", "input": "Is that?", "target": "yes", "kind": "twin", "property": "candour", "split": "open"}
DIGITS = "9" * 5000
LEDGERS = Path(__file__).parents[1] / "tests" / "fixtures" / "ledgers" / "2"
ODD_TEXTS: dict[str, Content] = {
    "empty": "",
    "only a comment": "# nothing\n",
    "binary": bytes(range(256)),
    "Latin-1": "name: café\n".encode("latin-1"),
    "UTF-16": "name: p\n".encode("utf-16"),
    "NUL": "name: p\x00\n",
    "tabs": "a:\n\tb: 1\n",
    "an unclosed bracket": "a: [1, 2\n",
    "a list": "- 1\n- 2\n",
    "a number": "7\n",
    "deep nesting": "[" * 5000,
    "a key twice": "a: 1\na: 2\n",
    "an unknown tag": "a: !!python/object:os.system x\n",
    "an undefined alias": "a: *b\n",
    "a recursive alias": "&a [*a]\n",
    "an impossible date": "a: 2025-13-45\n",
    "5,000 digits": f"a: {DIGITS}\n",
    "two documents": "a: 1\n---\nb: 2\n",
}
"""Texts that are no project, recipe or idea."""


def projects() -> Iterator[BadInput]:
    """Yield bad project files."""
    rest = {"r.yaml": RECIPE, "ideas/i.md": IDEA}
    for name, text in ODD_TEXTS.items():
        yield BadInput(f"project: {name}", {**rest, "p.yaml": text}, ["run", "p.yaml", "--no-box"])
    changes = {
        "seed is a date": "seed: 2025-13-45\n",
        "seed of 5,000 digits": f"seed: {DIGITS}\n",
        "negative seed": "seed: -1\n",
        "unknown key": "sead: 1\n",
        "no stages": "stages: 0\n",
        "stages are text": "stages: many\n",
        "a trial twice": "trial: {alpha: 0.01}\ntrial: {items: 10}\n",
        "alpha of 2": "trial: {alpha: 2}\n",
        "alpha is NaN": "trial: {alpha: .nan}\n",
        "infinite worth": "trial: {worth: .inf}\n",
        "too few pairs": "trial: {max_pairs: 1}\n",
        "bars above 1": "audit: {bars: {privacy: 1.5}}\n",
        "no bars": "audit: {bars: {}}\n",
        "no workers": "workers: 0\n",
        "unknown sandbox": "sandbox: {kind: jail}\n",
        "zero answer tokens": "answer_tokens: 0\n",
        "an unknown suite": "suite: none\n",
        "a suite that is not there": "suite: gone.jsonl\n",
        "an unknown channel": "channels: [7]\n",
        "a chat template that is not there": "chat_template: gone.jinja\n",
        "a chat template that is no template": "chat_template: r.yaml\n",
        "yes is no number": "stages: yes\n",
        "a time is no number": "stages: 1:30\n",
        "true is no seed": "seed: true\n",
        "true is no number of stages": "stages: true\n",
        "true is no number of workers": "workers: true\n",
        "true is no number of tokens": "answer_tokens: true\n",
        "false is no margin": "trial: {margin: false}\n",
        "true is no bar": "audit: {bars: {privacy: true}}\n",
        "a wait without end": "review: {keys: [k], seconds: .inf}\n",
        "a hexadecimal number of 5,000 digits": f"seed: 0x{'f' * 5000}\n",
        "half a character in a name of a file": 'chat_template: "\\ud800"\n',
    }
    for name, line in changes.items():
        yield BadInput(f"project: {name}", {**rest, "p.yaml": PROJECT + line}, ["run", "p.yaml", "--no-box"])
    for name, old, new in (
        ("name with a slash", "name: p", "name: ../p"),
        ("unknown base", "pocket/16k", "pocket/3b"),
        ("base that is a file", "pocket/16k", "r.yaml"),
        ("base with NUL", "pocket/16k", '"\\0"'),
        ("base with half a character", "pocket/16k", '"\\ud800"'),
        ("ideas without end", "kind: people, ideas: ideas", f"kind: uniform, ideas: {10**30}"),
        ("true is no number of ideas", "kind: people, ideas: ideas", "kind: uniform, ideas: true"),
        ("recipe that is not there", "r.yaml", "gone.yaml"),
        ("ideas that are not there", "ideas: ideas", "ideas: none"),
        ("unknown researcher", "kind: people", "kind: oracle"),
        ("no researchers", "[{kind: people, ideas: ideas}]", "[]"),
    ):
        yield BadInput(f"project: {name}", {**rest, "p.yaml": PROJECT.replace(old, new)}, ["run", "p.yaml", "--no-box"])


def recipes() -> Iterator[BadInput]:
    """Yield bad recipes."""
    command = ["compare", "a.yaml", "b.yaml", "--property", "privacy", "--model", "pocket/16k"]
    texts: dict[str, Content] = {
        **ODD_TEXTS,
        "unknown step": RECIPE.replace("sft", "ppo"),
        "no dataset": "steps: [{step: sft, steps: 1, learning_rate: 0.1}]\n",
        "zero steps": RECIPE.replace("steps: 1,", "steps: 0,"),
        "steps are a word": RECIPE.replace("steps: 1,", "steps: one,"),
        "rate of 5": RECIPE.replace("0.001", "5"),
        "rate is NaN": RECIPE.replace("0.001", ".nan"),
        "steps without end": RECIPE.replace("steps: 1,", f"steps: {10**30},"),
        "a lookaround": RECIPE.replace("  - {step: sft", "  - {step: filter, matching: '(?=a)'}\n  - {step: sft"),
        "a broken pattern": RECIPE.replace("  - {step: sft", "  - {step: filter, matching: '('}\n  - {step: sft"),
        "a repeat that is text in RE2": RECIPE.replace("  - {step: sft", "  - {step: filter, matching: 'a{,3}'}\n  - {step: sft"),
        "a misspelt key": RECIPE.replace("learning_rate", "learning_rate"),
        "an unknown dtype": RECIPE.replace("steps: 1,", "steps: 1, dtype: float16,"),
        "parts that do not divide the batch": RECIPE.replace("steps: 1,", "steps: 1, gradient_accumulation: 3,"),
        "no layers for adapters": RECIPE.replace("steps: 1,", "steps: 1, lora: {targets: []},"),
        "truth as a number": RECIPE.replace("steps: 1,", "steps: true,"),
        **{
            f"truth as {field}": RECIPE.replace("steps: 1,", f"steps: 1, {field}: true,")
            for field in ("weight_decay", "warmup", "batch_size")
        },
        "truth as a rank": RECIPE.replace("steps: 1,", "steps: 1, lora: {rank: true},"),
        "truth as beta": RECIPE.replace("step: sft, steps: 1,", "step: dpo, beta: true, steps: 1,"),
        **{
            f"truth as {field}": RECIPE.replace("step: sft, steps: 1,", f"step: grpo, {field}: {value}, steps: 1,")
            for field, value in {"temperature": "true", "length": "true", "group": "true", "pays": "{wrong: true}"}.items()
        },
        "truth as a weight": "steps: [{step: merge, source: base, weight: true}]\n",
        "a weight decay that is NaN": RECIPE.replace("steps: 1,", "steps: 1, weight_decay: .nan,"),
        "half a character in a name": RECIPE.replace("steps: 1,", 'steps: 1, name: "\\ud800",'),
        "half a character in a key": RECIPE.replace("steps: 1,", 'steps: 1, "\\ud800": 1,'),
        "NUL in a name": RECIPE.replace("steps: 1,", 'steps: 1, name: "\\0",'),
        "an input that is not there": "steps: [{step: command, run: [python, t.py], inputs: [gone.py]}]\n",
        "code that is no function": "steps: [{step: code, source: 'x = 1'}]\n",
        "a source that is not there": "steps: [{step: merge, source: nowhere, weight: 0.5}]\n",
        "the same recipe": RECIPE,
    }
    for name, text in texts.items():
        if name != "only a comment" and name != "empty":  # an empty file is no mistake in a recipe's YAML alone
            yield BadInput(f"recipe: {name}", {"a.yaml": RECIPE, "b.yaml": text}, command)
    yield BadInput("recipe: unknown property", {"a.yaml": RECIPE, "b.yaml": RECIPE}, [*command[:3], "--property", "charm"])


def ideas() -> Iterator[BadInput]:
    """Yield bad idea files."""
    texts: dict[str, Content] = {
        **{name: text for name, text in ODD_TEXTS.items() if isinstance(text, bytes)},
        **{
            f"front matter with {name}": f"---\n{text}---\n"
            for name, text in ODD_TEXTS.items()
            if isinstance(text, str) and name != "two documents"
        },
        "no front matter": "hello\n",
        "no patch": IDEA.replace("patch:", "path:"),
        "an effect of 7": IDEA.replace("0.1", "7"),
        "an effect that is true": IDEA.replace("0.1", "true"),
        "a value that is NaN": IDEA.replace("steps: 2", "weight_decay: .nan"),
        "a value without end": IDEA.replace("steps: 2", "weight_decay: 1e400"),
        "a value of 5,000 hexadecimal digits": IDEA.replace("steps: 2", f"steps: 0x{'f' * 5000}"),
        "a value of 50 hexadecimal digits": IDEA.replace("steps: 2", f"steps: 0x{'f' * 50}"),
        "a line break in the title": IDEA.replace("An idea", '"An\\nidea"'),
        "half a character in the title": IDEA.replace("An idea", '"An idea \\ud800"'),
        "a program with 5,000 digits": IDEA.split("patch")[0] + f"---\n```python\ndef technique(ctx): return {DIGITS}\n```\n",
        "a program with 5,000 hexadecimal digits": IDEA.split("patch")[0]
        + f"---\n```python\ndef technique(ctx): return 0x{'f' * 5000}\n```\n",
        "an alias": IDEA.replace("because", "&a because").replace("An idea", "*a"),
        "a date as the title": IDEA.replace("An idea", "2026-02-03"),
        "researcher is set": IDEA.replace("title:", "researcher: me\ntitle:"),
        "two programs": IDEA.split("patch")[0]
        + "---\n```python\ndef technique(ctx): return 1\n```\n```python\ndef technique(ctx): return 2\n```\n",
        "a program with a syntax error": IDEA.split("patch")[0] + "---\n```python\ndef technique(ctx) return\n```\n",
        "70,000 characters": IDEA + "x" * 70_000,
    }
    for name, text in texts.items():
        yield BadInput(f"idea: {name}", {"i.md": text}, ["idea", "check", "i.md"])


def suites() -> Iterator[BadInput]:
    """Yield bad suites."""

    def file(*rows: dict[str, Any] | str) -> str:
        return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)

    texts: dict[str, Content] = {
        "empty": "",
        "binary": bytes(range(256)),
        "no JSON": file(TRAP, "{"),
        "a list": "[1]\n",
        "a number": "7\n",
        "deep nesting": "[" * 100_000,
        "5,000 digits": f'{{"id": {DIGITS}}}\n',
        "a key twice": file(TRAP, TWIN, '{"id": "c", "id": "d"}'),
        "no twin": file(TRAP),
        "the same id": file(TRAP, {**TWIN, "id": "a"}),
        "unknown key": file({**TRAP, "colour": 1}, TWIN),
        "unknown kind": file({**TRAP, "kind": "trick"}, TWIN),
        "reserved name": file({**TRAP, "property": "alignment"}, TWIN),
        "target outside the choices": file({**TRAP, "scorer": "choice", "choices": ["a"]}, TWIN),
        "a blank choice": file({**TRAP, "scorer": "choice", "choices": ["no", " "]}, TWIN),
        "choices that are one": file({**TRAP, "scorer": "choice", "choices": ["no", "No!"]}, TWIN),
        "a blank target": file({**TRAP, "target": " "}, TWIN),
        "rejected is right": file({**TRAP, "rejected": "No"}, TWIN),
        "a lookbehind": file({**TRAP, "scorer": "regex", "target": "(?<=a)b"}, TWIN),
        "a backreference": file({**TRAP, "scorer": "regex", "target": r"(a)\1"}, TWIN),
        "unknown engine": file({**TRAP, "engine": "pcre"}, TWIN),
        "no checker": file({**TRAP, "scorer": "python"}, TWIN),
        "a checker that is not there": file({**TRAP, "scorer": "python", "checker": "gone.py"}, TWIN),
        "twin of nothing": file(TRAP, {**TWIN, "twin_of": "z"}),
        "a question of the training items": file(TRAP, TWIN, {**TRAP, "id": "c", "split": "train"}),
        "a question of the training items in another form": file(
            TRAP, TWIN, {**TRAP, "id": "c", "split": "train", "input": "Q: is **it**"}
        ),
        "a rewording of a training item": file(
            TRAP,
            TWIN,
            {**TRAP, "id": "c", "split": "train", "input": "New?"},
            {**TRAP, "id": "d", "input": "Fresh?", "rewording_of": "New?"},
        ),
        "a trap that is a twin": file(TRAP, {**TWIN, "input": "is it"}),
        "a target that matches everything": file({**TRAP, "scorer": "regex", "target": "a|"}, TWIN),
        "a checker with NUL": file({**TRAP, "scorer": "python", "checker": "a\0b"}, TWIN),
        "half a character": file(TRAP, TWIN, '{"id": "\\ud800"}'),
        "half a character in a question": file(TRAP, {**TWIN, "input": "Is \ud800?"}),
    }
    for name, text in texts.items():
        yield BadInput(f"suite: {name}", {"s.jsonl": text}, ["measure", "pocket/16k", "--suite", "s.jsonl"])
    for name, code in (
        ("exits", "import sys\ndef score(item, answer): sys.exit()\n"),
        ("ends its process", "import os\ndef score(item, answer): os._exit(0)\n"),
        ("fails", "def score(item, answer): 1/0\n"),
        ("returns a number", "def score(item, answer): return 1\n"),
        ("is empty", ""),
    ):
        row = {**TRAP, "scorer": "python", "checker": "c.py"}
        yield BadInput(
            f"suite: a checker that {name}", {"s.jsonl": file(row, TWIN), "c.py": code}, ["measure", "pocket/16k", "--suite", "s.jsonl"]
        )


def models(base: Path) -> Iterator[BadInput]:
    """Yield bad checkpoint folders, made from a good one."""
    good: dict[str, Content] = {f"m/{path.name}": path.read_bytes() for path in base.iterdir()}

    def without(name: str) -> dict[str, Content]:
        return {key: value for key, value in good.items() if key != f"m/{name}"}

    def with_entry(file: str, **entries: object) -> dict[str, Content]:
        return {**good, f"m/{file}": json.dumps({**json.loads(good[f"m/{file}"]), **entries})}

    weights = good["m/model.safetensors"]
    assert isinstance(weights, bytes)
    cases: dict[str, dict[str, Content]] = {
        "no configuration": without("config.json"),
        "no weights": without("model.safetensors"),
        "no tokenizer": without("tokenizer.json"),
        "half the weights": {**good, "m/model.safetensors": weights[: len(weights) // 2]},
        "empty weights": {**good, "m/model.safetensors": b""},
        "a tensor of an adapter": {**good, "m/model.safetensors": save({**load(weights), "layers.0.lora_A": ones(2)}, {"format": "pt"})},
        "an adapter": {**good, "m/adapter_config.json": "{}"},
        "another template": {**good, "m/additional_chat_templates/default.jinja": "x"},
        "code": {**good, "m/modeling.py": "x = 1"},
        "another vocabulary": {**good, "m/vocab.txt": "a"},
        "weights elsewhere": with_entry("config.json", transformers_weights="../x.safetensors"),
        "a configuration elsewhere": with_entry("config.json", configuration_files=["config.1+all_results.json"]),
        "a hidden tokenizer": {**good, "m/.tokenizer.model": "x"},
        "a configuration with NaN": {**good, "m/config.json": '{"x": NaN}'},
        "a template that prints an address": {
            **good,
            "m/chat_template.jinja": "{% for m in messages %}{{ m.content }}{{ lipsum }}{{ eos_token }}{% endfor %}",
        },
        "a template that fails for some texts": {
            **good,
            "m/chat_template.jinja": "{% for m in messages %}{% if m.content | length > 20 %}{{ raise_exception('no') }}{% endif %}"
            "{{ m.content }}{{ eos_token }}{% endfor %}",
        },
        "attention of a hub": with_entry("config.json", attn_implementation="a/b"),
        "configuration of another kind": with_entry("config.json", model_type="nothing"),
        "configuration that is a list": {**good, "m/config.json": "[]"},
        "a tokenizer file elsewhere": with_entry("tokenizer_config.json", vocab_file="/etc/passwd"),
        "a template that fails": {**good, "m/chat_template.jinja": "{{ raise_exception('no') }}"},
        "a template that is no template": {**good, "m/chat_template.jinja": "{% if %}"},
        "a broken tokenizer": {**good, "m/tokenizer.json": "{}"},
    }
    for name, files in cases.items():
        yield BadInput(f"model: {name}", files, ["measure", "m", "--items", "1"])


def command_lines() -> Iterator[BadInput]:
    """Yield command lines that are wrong."""
    lines = {
        "unknown verb": ["fly"],
        "unknown option": ["run", "--fast"],
        "misspelt option": ["--hlep"],
        "missing argument": ["compare", "a.yaml"],
        "a number that is a word": ["measure", "pocket/16k", "--items", "many"],
        "a limit without room": ["measure", "pocket/16k", "--limit", "1"],
        "a path as a hub name": ["measure", "hf//etc"],
        "too many parts of a hub name": ["measure", "hf/a/b/c"],
        "zero items": ["measure", "pocket/16k", "--items", "0"],
        "a report of nothing": ["report", "gone"],
        "lineage of nothing": ["lineage", "gone"],
        "rebuild of nothing": ["rebuild", "gone"],
        "export of nothing": ["export", "gone", "--model", "m"],
        "export without a folder": ["export", "gone"],
        "a ledger with a line break": ["ledger", "verify", "a\nb"],
        "a ledger with an escape": ["ledger", "verify", "\x1b[31m"],
        "a project with brackets": ["run", "exp [v2].yaml"],
        "a very long path": ["run", "x" * 5000],
        "a folder as a project": ["run", "."],
        "no such auditor": ["audit", "status", "gone"],
        "review of nothing": ["review", "gone"],
        "items without end": ["measure", "pocket/16k", "--items", "100000000"],
        "items of 5,000 digits": ["measure", "pocket/16k", "--items", DIGITS],
        "answers without end": ["measure", "pocket/16k", "--answer-tokens", "100000000"],
        "a negative seed": ["measure", "pocket/16k", "--seed", "-5"],
        "fewer than no answers": ["measure", "pocket/16k", "--show", "-3"],
        "a run without workers": ["run", "--workers", "0"],
        "a run where no folder can be": ["run", "--no-box", "--runs", "/proc/x"],
        "a project where no folder can be": ["init", "/proc/x"],
        "a project of an unknown model": ["init", "d", "--model", "nope"],
        "an empty ledger, verified": ["ledger", "verify", "/dev/null"],
        "an empty ledger, printed": ["ledger", "show", "/dev/null"],
        "an entry of an empty ledger": ["ledger", "prove", "/dev/null", "0"],
        "a slot without end": ["audit", "init", "a", "--slot", f"{DIGITS}d"],
        "memory without end": ["audit", "init", "a", "--memory", "inf"],
        "a negative port of a unit": ["audit", "unit", "a", "--port", "-1"],
        "an idea with a line break": ["idea", "new", "--title", "a\nbcd", "--property", "privacy"],
    }
    for name, line in lines.items():
        yield BadInput(f"command line: {name}", {}, line)
    yield from _commands_on_a_run()
    yield from _commands_on_an_auditor()


def _commands_on_a_run() -> Iterator[BadInput]:
    """Yield rebuilds of a good run with options that cannot be used."""
    files: dict[str, Content] = {"r/ledger.jsonl": (LEDGERS / "finished" / "ledger.jsonl").read_bytes()}
    for name, options in {
        "without workers": ["--workers", "0"],
        "with fewer than no workers": ["--workers", "-5"],
        "of a model that is not there": ["--model", "nope"],
        "with a source that is not there": ["--source", "nope"],
        "with programs that are not there": ["--files", "nope"],
        "with a base that is not there": ["--base", "nope"],
        "where no folder can be": ["--out", "/proc/x"],
    }.items():
        yield BadInput(f"command line: a rebuild {name}", files, ["rebuild", "r", *options])


def _commands_on_an_auditor() -> Iterator[BadInput]:
    """Yield commands on a good auditor with options that cannot be used."""
    folder = LEDGERS / "finished-auditor"
    files: dict[str, Content] = {f"a/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    add = ["audit", "add", "atlas", "--bar", "privacy=0.5", "--items", "50", "--folder", "a", "--name"]
    for name, line in {
        "a suite outside its folder": [*add, "../n3"],
        "a hidden suite": [*add, ".n"],
        "a suite with a line break": [*add, "a\n"],
        "a suite with a long name": [*add, "x" * 101],
        "an account outside its folder": ["audit", "token", "../x", "--folder", "a"],
        "an account without a name": ["audit", "token", "", "--folder", "a"],
        "a port that is too large": ["audit", "serve", "a", "--port", "99999999"],
        "a negative port": ["audit", "serve", "a", "--port", "-1"],
    }.items():
        yield BadInput(f"command line: {name}", files, line)


def bad_inputs(base: Path) -> list[BadInput]:
    """Return all cases.

    Args:
        base: a good checkpoint folder, from which bad ones are made.
    """
    return [*projects(), *recipes(), *ideas(), *suites(), *models(base), *command_lines()]


def problem_of(case: BadInput) -> str | None:
    """Run a case; return what is wrong with the answer, or None."""
    folder = Path(tempfile.mkdtemp())
    try:
        for name, content in case.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
        command = [sys.executable, "-m", "stagezero.cli", *case.command]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL, check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip() and "  … " not in line]
    if done.returncode != 2:
        return f"exit code {done.returncode}: {lines[-1:]}"
    if len(lines) != 1 or not lines[0].startswith(("stagezero: ", "rejected: ")):
        return f"{len(lines)} lines: {lines[-3:]}"
    return None
