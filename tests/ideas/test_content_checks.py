"""Content that no idea may contain is rejected with a reason, and ordinary ideas are admitted.

Covers: ideas/code_checks.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from stagezero import examples
from stagezero.errors import IdeaError
from stagezero.ideas import content_checks
from stagezero.ideas.airlock import admit
from stagezero.ideas.idea import Idea, load_ideas, parse_idea
from stagezero.tasks import load_suite
from stagezero.training import Recipe, parse_recipe
from stagezero.training.recipes import Command

CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 20}]}, {"step": "sft", "steps": 3, "batch_size": 4, "learning_rate": 0.001}], "t"
)
GOOD = """def technique(ctx):
    import torch
    from torch.nn import functional
    model = ctx.model()
    base = ctx.base()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.0003, betas=(0.9, 0.98))
    for step in range(40):
        rows = ctx.data[16 * step:16 * (step + 1)]
        batch = ctx.batch(rows)
        loss = model(**batch).loss
        with torch.no_grad():
            before = base(**batch).logits.log_softmax(-1)
        penalty = functional.kl_div(model(**batch).logits.log_softmax(-1), before, log_target=True, reduction='batchmean')
        (loss + 0.1 * penalty).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
    return model
"""


def code(text: str, reason: str = "because") -> Idea:
    return Idea(title="an idea", property="privacy", claimed_effect=0.1, reason=reason, code=text)


def body(line: str) -> Idea:
    return code(f"def technique(ctx):\n    {line}\n    return ctx.model()")


def patch(*operations: object, title: str = "an idea", reason: str = "because") -> Idea:
    return Idea(title=title, property="privacy", claimed_effect=0.1, reason=reason, patch=operations)


def test_shipped_ideas_and_ordinary_code_are_accepted() -> None:
    for name in examples.SHIPPED:
        for idea in load_ideas(examples.project_folder(name) / "ideas", "people"):
            content_checks.check_idea(idea)
    content_checks.check_idea(code(GOOD))
    content_checks.check_idea(
        patch({"op": "remove", "at": "sft"}, title="Äußere Zwänge – «наука»", reason="Überlegt: 日本語 है, and an emoji 🙂.")
    )


HIDDEN = ["\u200b", "\u200d", "\u202e", "\xad", "\ufeff", "\U000e0041", "️", "ㅤ", "\u2060", "\x07", "\ue000", "é", "\u2062"]


@pytest.mark.parametrize("c", [*HIDDEN, "\u00a0", "\u2028"])
def test_invisible_characters_are_rejected(c: str) -> None:
    ideas = (
        patch({"op": "remove", "at": "sft"}, reason=f"be{c}cause"),
        patch({"op": "set", "at": f"s{c}ft", "values": {"steps": 1}}),
        body(f"x = 'a{c}b'"),
        body(f"pass # {c}"),
    )
    for idea in ideas:
        with pytest.raises(IdeaError, match=r"cannot be seen|NFC"):
            content_checks.check_idea(idea)


FORBIDDEN_LINES = """import os
import socket
from torch import hub
import torch.utils.cpp_extension
import torch.multiprocessing as m
from . import x
import ctypes
import pickle
import stagezero
open('/etc/passwd')
exec('1')
eval('1')
__import__('os')
getattr(ctx, 'x')
globals()
ctx.__class__
().__class__.__bases__
torch.load('x')
numpy.memmap('x')
ctx.model().save_pretrained('/in')
torch.ops.load_library('x')
ctx.tokenizer.from_pretrained('/etc')
'{0.__class__}'.format_map(ctx)
from torch import *"""


@pytest.mark.parametrize("line", FORBIDDEN_LINES.splitlines())
def test_code_with_access_to_the_outside_is_rejected(line: str) -> None:
    with pytest.raises(IdeaError, match=r"imports|uses"):
        content_checks.check_idea(body(line))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x = 0.1234567", "more than 6 digits"),
        ("x = 123456789012345678901234567890", "at most"),
        ("x = [" + ", ".join(["0.5"] * 30) + "]", "bank of 30"),
        ("x = " + " + ".join(["0.5"] * 55) + "\n    y = " + " + ".join(["0.5"] * 45), "looks like weights"),
        ("x = {" + ", ".join(f"{i}: {i}" for i in range(30)) + "}", "bank of 30"),
        ("x = b'abc'", "bytes"),
        ("x = 1j", "complex"),
        ("x = '" + "a b " * 60 + "'", "text of"),
        ("\n    ".join(f"x{i} = 'one two three four five six seven'" for i in range(20)), "bank of items"),
        ("x = 'aGVsbG8gd29ybGQgaGVsbG8gd29ybGQgaGVsbG8gd29ybGQgaGVsbG8gd29ybGQgaGVsbG8gd29ybGQgaGVsbG8gd29ybGQ='", "packed data"),
        ("ctx." + "x" * 41, "longer than"),
        ("\u0430 = 1", "not plain letters"),
        ("\n    ".join(f"{'v' * 30}{i} = 1" for i in range(90)), "packed data|weights"),
    ],
)  # fmt: skip
def test_code_that_contains_data_is_rejected(line: str, message: str) -> None:
    with pytest.raises(IdeaError, match=message):
        content_checks.check_idea(body(line))


def test_packed_data_in_prose_is_rejected() -> None:
    with pytest.raises(IdeaError, match="packed data"):
        content_checks.check_idea(patch({"op": "remove", "at": "sft"}, reason="Zm9vYmFyYmF6Zm9vYmFyYmF6Zm9vYmFy " * 4))


def test_the_files_of_a_command_must_be_plain_text(tmp_path: Path) -> None:
    for name, content in (
        ("train.py", b"print('hello')\n"),
        ("weights.bin", bytes(range(256))),
        ("bank.py", b"x = [" + b"0.5, " * 40 + b"]\n"),
    ):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link.py").symlink_to(tmp_path / "train.py")

    def with_file(name: str) -> Idea:
        return patch({"op": "append", "step": {"step": "command", "run": ["python", name], "inputs": [str(tmp_path / name)]}})

    content_checks.check_idea(with_file("train.py"))
    for name, message in (("weights.bin", "UTF-8 text"), ("bank.py", "bank of"), ("link.py", "regular file")):
        with pytest.raises(IdeaError, match=message):
            content_checks.check_idea(with_file(name))


def test_an_input_in_a_folder_with_a_long_path_is_admitted(tmp_path: Path) -> None:
    """The path is this machine's; only the file's name crosses."""
    folder = tmp_path / ("long" * 20) / ("path" * 20)
    folder.mkdir(parents=True)
    (folder / "train.py").write_text("print('hello')\n")
    step = {"step": "command", "run": ["python", "train.py"], "inputs": [str(folder / "train.py")]}
    content_checks.check_idea(patch({"op": "append", "step": step}))
    path = step["inputs"][0]
    for elsewhere in ({"run": ["python", path]}, {"name": path}, {"data": path}, {"run": ["python", "x" * 81]}):
        with pytest.raises(IdeaError, match="word of"):
            content_checks.check_idea(patch({"op": "append", "step": {**step, **elsewhere}}))


def test_an_undeclared_channel_is_rejected() -> None:
    suite = load_suite("atlas")
    step = {"step": "distil", "source": "self", "steps": 2, "batch_size": 2, "learning_rate": 0.001}
    idea = patch({"op": "append", "step": step})
    _, rejected = admit([idea], CONTROL, suite, 0.0)
    assert "channel that the project does not declare" in rejected[0].why
    admitted, _ = admit([idea], CONTROL, suite, 0.0, channels={"self": "self"})
    assert [a.idea for a in admitted] == [idea]
    control_with_channel = Recipe(steps=(*CONTROL.steps, *admitted[0].hypothesis.candidate.channels()))
    harmless = patch({"op": "set", "at": "sft", "values": {"steps": 9}})
    assert not admit([harmless], control_with_channel, suite, 0.0)[1], "a channel of the control is no new channel"


def test_without_a_sandbox_only_ideas_without_code_are_admitted() -> None:
    suite = load_suite("atlas")
    typed = patch({"op": "set", "at": "sft", "values": {"steps": 9}})
    admitted, rejected = admit([code(GOOD), typed], CONTROL, suite, 0.0, no_sandbox_reason="bwrap is not installed")
    assert [a.idea for a in admitted] == [typed] and "no sandbox to run it in: bwrap is not installed" in rejected[0].why


def test_the_timeout_of_a_program_in_an_idea_is_limited() -> None:
    step = {"step": "command", "run": ["sleep", "1000000"], "timeout": 604_800}
    (idea,), _ = admit([patch({"op": "append", "step": step})], CONTROL, load_suite("atlas"), 0.0, max_program_seconds=60)
    last = idea.hypothesis.candidate.steps[-1]
    assert isinstance(last, Command) and last.timeout == 60
    slow = Recipe(steps=(*CONTROL.steps, Command(step="command", run=("x",), timeout=5000)))
    (unchanged,), _ = admit(
        [patch({"op": "set", "at": "sft", "values": {"steps": 9}})], slow, load_suite("atlas"), 0.0, max_program_seconds=60
    )
    assert unchanged.hypothesis.candidate.steps[-1] == slow.steps[-1], "the limit must not apply to the control's own programs"


def test_questions_of_the_suite_are_rejected() -> None:
    suite = load_suite("atlas")
    questions = [item.input for item in suite.fresh_items(0, 5)][:4]
    idea = patch({"op": "append", "step": {"step": "command", "run": ["python", "-c", *questions]}})
    _, rejected = admit([idea], CONTROL, suite, 0.0)
    assert "questions of the suite" in rejected[0].why or "packed" in rejected[0].why


def test_code_is_read_from_below_the_front_matter() -> None:
    head = "---\ntitle: an idea\nproperty: privacy\nclaimed_effect: 0.1\nreason: because\n"
    idea = parse_idea(f"{head}---\nWords.\n\n```python\n{GOOD}```\nMore words.\n", "x", "people")
    assert idea.code == GOOD and idea.operations()[0].op == "append" and idea.size() < idea.bits() // 8
    with pytest.raises(IdeaError, match="one block of Python, got 2"):
        parse_idea(f"{head}---\n```python\n{GOOD}```\n```python\n{GOOD}```\n", "x", "people")
    with pytest.raises(IdeaError, match="either 'patch' or one"):
        parse_idea(f"{head}---\nText.\n", "x", "people")
    for key in ("researcher", "author", "code"):
        with pytest.raises(IdeaError, match=f"unknown key '{key}'"):
            parse_idea(f"{head}{key}: me\n---\n", "x", "people")
    with_patch = f"{head}patch:\n  - {{op: remove, at: sft}}\n---\n```python\n{GOOD}```\n"
    assert parse_idea(with_patch, "x", "people").code is None, "code beside a patch is only an illustration"
