"""External researchers: their briefs, submissions, and damaged or hostile inbox folders.

Covers: ideas/brief.py, ideas/precheck.py, researchers/external.py, researchers/inbox_record.py,
researchers/briefing.py.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stagezero import files
from stagezero.errors import IdeaError, RunChangedError
from stagezero.ideas.airlock import Refusal, Refused
from stagezero.ideas.brief import Brief, Outcome, OwnModel
from stagezero.ideas.idea import Idea
from stagezero.ideas.precheck import SubmissionLimits
from stagezero.project import Outside
from stagezero.researchers import inbox, inbox_client, inbox_record
from stagezero.researchers.briefing import briefing_text
from stagezero.researchers.external import OutsideResearcher
from stagezero.training import parse_recipe

CONTROL = parse_recipe(
    [{"step": "mix", "parts": [{"kinds": ["trap"], "each": 9}]}, {"step": "sft", "steps": 6, "learning_rate": 1e-3}], "control"
)
NAME = "ada"


def brief_for(stage: int = 1, history: tuple[Outcome, ...] = ()) -> Brief:
    own = OwnModel(0, Path("/somewhere/private"), "d" * 64, True)
    return Brief(stage, CONTROL, ("privacy", "injection"), ("facts",), ("privacy",), {"privacy": 0.5}, history, ("base",), own)


def text_of(each: int = 10, title: str = "Show the twins", patch: str = "", prop: str = "privacy") -> str:
    patch = patch or f"- {{op: extend, at: data, parts: [{{kinds: [twin], each: {each}}}]}}"
    return f"---\ntitle: {title}\nproperty: {prop}\nclaimed_effect: 0.1\nreason: because of this\npatch:\n  {patch}\n---\nNotes.\n"


def settings(ideas: int = 2, seconds: float = 30) -> Outside:
    return Outside(kind="outside", name=NAME, ideas=ideas, seconds=seconds)


def limits() -> SubmissionLimits:
    return SubmissionLimits.from_brief(brief_for())


def own_results(run: Path) -> list[dict[str, Any]]:
    own: list[dict[str, Any]] = inbox_client.read_results(run, NAME)["own"]
    return own


def inbox_of(run: Path, stage: int = 1) -> Path:
    return run / "outside" / NAME / "inbox" / f"stage-{stage}"


def outcome(idea: Idea, stage: int = 1, fate: str = "promoted") -> Outcome:
    return Outcome(stage, idea, fate, 10, 0.12345678, 0.05)


class CampaignThread:
    """A thread in which a campaign waits for the researcher's ideas."""

    def __init__(self, run: Path, brief: Brief, options: Outside) -> None:
        self.ideas: list[Idea] = []
        self.error: BaseException | None = None

        def run_stage() -> None:
            try:
                self.ideas = OutsideResearcher(options, run).propose(brief)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run_stage, daemon=True)
        self.thread.start()
        until(lambda: run.is_dir() and inbox_client.read_state(run, options.name).stage == brief.stage)

    def result(self) -> list[Idea]:
        self.thread.join(20)
        assert not self.thread.is_alive() and self.error is None, self.error
        return self.ideas


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never became true"
        time.sleep(0.02)


def test_a_stage_from_its_brief_to_its_results(tmp_path: Path) -> None:
    campaign = CampaignThread(tmp_path, brief_for(), settings())
    folder = tmp_path / "outside" / NAME
    assert (folder / "brief.md").read_text() == briefing_text(brief_for())
    brief = json.loads((folder / "brief.json").read_text())
    assert brief["recipe"] == CONTROL.canonical() and "/somewhere/private" not in (folder / "brief.json").read_text()
    state = json.loads((folder / "state.json").read_text())
    assert state["open"] and state["stage"] == 1 and state["wanted"] == 2 and 0 < state["closes"] - time.time() <= 30

    digests = [inbox_client.submit(tmp_path, NAME, text_of(each)) for each in (10, 20)]
    ideas = campaign.result()
    assert [idea.digest() for idea in ideas] == sorted(digests)
    assert {(idea.researcher, idea.author) for idea in ideas} == {(NAME, NAME)}
    assert {(e["digest"], e["fate"]) for e in own_results(tmp_path)} == {(d, "accepted") for d in digests}
    assert not inbox_client.read_state(tmp_path, NAME).open

    inbox.publish_outcomes(
        tmp_path,
        [NAME, "bob"],
        [outcome(ideas[0]), outcome(with_researcher(ideas[1], "people"))],
        [Refused(ideas[1], Refusal.CONTENT, "no good")],
    )
    assert {e["digest"]: (e["fate"], e["why"]) for e in own_results(tmp_path)} == {
        ideas[0].digest(): ("promoted", ""),
        ideas[1].digest(): ("refused", "no good"),
    }
    results = inbox_client.read_results(tmp_path, NAME)["results"]
    assert inbox_client.read_results(tmp_path, "bob") == {"results": results, "own": []}
    assert results[0] == {
        "stage": 1, "title": "Show the twins", "researcher": NAME, "property": "privacy", "fate": "promoted", "pairs": 10,
        "effect": 0.1235, "alignment_gain": 0.05,
    }  # fmt: skip


def with_researcher(idea: Idea, researcher: str) -> Idea:
    return idea.model_copy(update={"researcher": researcher})


def test_the_next_stage_publishes_the_outcomes_of_the_previous_one(tmp_path: Path) -> None:
    first = CampaignThread(tmp_path, brief_for(), settings(1))
    inbox_client.submit(tmp_path, NAME, text_of())
    history = (outcome(first.result()[0], fate="adopted"),)
    second = CampaignThread(tmp_path, brief_for(2, history), settings(1))
    until(lambda: inbox_client.read_state(tmp_path, NAME).open)
    assert inbox_client.read_results(tmp_path, NAME)["results"][0]["fate"] == "adopted"
    inbox_client.submit(tmp_path, NAME, text_of(33))
    later = [*history, outcome(second.result()[0], 2, "futile")]
    inbox.publish_outcomes(tmp_path, [NAME], later, ended=True)
    assert [(e["stage"], e["fate"]) for e in own_results(tmp_path)][-1] == (2, "futile")
    inbox.publish_outcomes(tmp_path, [NAME], later[:1])  # a continued run that has not yet reached its former state
    assert len(inbox_client.read_results(tmp_path, NAME)["results"]) == 2 and inbox_client.read_state(tmp_path, NAME).ended
    with pytest.raises(IdeaError, match="the run has ended"):
        inbox_client.submit(tmp_path, NAME, text_of())


def test_a_researcher_may_end_the_stage_early(tmp_path: Path) -> None:
    campaign = CampaignThread(tmp_path, brief_for(), settings(4))
    inbox_client.submit(tmp_path, NAME, text_of())
    assert inbox_client.mark_done(tmp_path, NAME) == 1
    assert len(campaign.result()) == 1
    with pytest.raises(IdeaError, match="stage 1 is closed; wait for the next one"):
        inbox_client.submit(tmp_path, NAME, text_of(20))


def test_a_changed_state_file_does_not_extend_the_time_limit(tmp_path: Path) -> None:
    campaign = CampaignThread(tmp_path, brief_for(), settings(4, seconds=0.8))
    for name in ("state.json", "brief.json", "results.json"):
        (tmp_path / "outside" / NAME / name).write_text('{"stage": 1, "open": true, "closes": 1e12, "wanted": 99}')
    assert campaign.result() == []
    assert inbox_client.read_state(tmp_path, NAME).open is False
    with pytest.raises(IdeaError, match="closed"):
        inbox_client.submit(tmp_path, NAME, text_of())


def test_a_repeated_idea_counts_once_and_surplus_ideas_are_rejected(tmp_path: Path) -> None:
    inbox.open_stage(tmp_path, NAME, brief_for(), 2, 30)
    first = inbox_client.submit(tmp_path, NAME, text_of())
    assert inbox_client.submit(tmp_path, NAME, text_of(title="Another name")) == first
    (inbox_of(tmp_path) / "by-hand.md").write_text(text_of(title="By hand"))
    assert len(list(inbox_of(tmp_path).iterdir())) == 2
    inbox_state = inbox.read_inbox(tmp_path, NAME, 1, limits())
    assert len(inbox_state.ideas) == 1 and inbox_state.refused == (("by-hand.md", f"the same idea as {first}.md; one is enough"),)
    inbox_client.submit(tmp_path, NAME, text_of(20))
    with pytest.raises(IdeaError, match="has the 2 ideas that it wants; submit to the next one"):
        inbox_client.submit(tmp_path, NAME, text_of(30))
    (inbox_of(tmp_path) / "third.md").write_text(text_of(30))
    accepted = inbox.close_stage(tmp_path, NAME, 1, limits())
    assert len(accepted) == 2 and accepted == sorted(accepted, key=Idea.digest)
    assert "more than the 2 wanted" in {e["why"] for e in own_results(tmp_path)}


def test_a_late_submission_is_reported_as_late(tmp_path: Path) -> None:
    inbox.open_stage(tmp_path, NAME, brief_for(), 2, 30)
    assert inbox.close_stage(tmp_path, NAME, 1, limits()) == []
    (inbox_of(tmp_path) / "late.md").write_text(text_of())
    inbox.publish_outcomes(tmp_path, [NAME], [])
    inbox.publish_outcomes(tmp_path, [NAME], [])
    (entry,) = own_results(tmp_path)
    assert entry["file"] == "late.md" and "arrived after stage 1 had closed" in entry["why"]
    inbox.open_stage(tmp_path, NAME, brief_for(2), 2, 30)
    assert inbox.read_inbox(tmp_path, NAME, 2, limits()).ideas == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no idea", "expected YAML front matter"),
        (text_of(prop="honesty"), "'property': expected one of privacy, injection"),
        (text_of(patch="- {op: set, at: dpo, values: {steps: 9}}"), "names step 'dpo', which the recipe lacks; its steps are: data, sft"),
        (text_of(patch="- {op: set, at: sft, values: {steps: 6}}"), "changes nothing"),
        (text_of(patch="- {op: append, step: {step: command, run: [python, x.py], inputs: [x.py]}}"), "has no files; write technique(ctx)"),
        (text_of(patch='- {op: append, step: {step: command, run: [x], "inp\\u0075ts": [x.py]}}'), "has no files; write technique(ctx)"),
        (text_of(patch="- {op: append, step: {step: merge, source: /root, weight: 0.5}}"), "a path on"),
        (text_of(patch="- {op: append, step: {step: sft, x: [{step: merge, source: /root}]}}"), "a path on"),
        (text_of(patch="- {op: append, step: {step: merge, source: hf/who/knows, weight: 0.5}}"), "a channel that the project does not"),
        (text_of(title="A\u200bB invisible"), "cannot be seen"),
        (text_of(patch="- " + "[" * 60 + "]" * 60), "nested deeper than 40 levels"),
        ("---\n" + "x: " + "y " * 20_000 + "\n---\n", "characters of front matter"),
        ("---\ntitle: many\n---\n" + "```python\n" * 5000, "is missing"),
        ("x" * 70_000, "expected at most 65,536 bytes, of which 8,192 may cross, got 70,000"),
        ("\ud800", "surrogates not allowed"),
    ],
)
def test_an_invalid_idea_is_rejected_in_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    inbox.open_stage(tmp_path, NAME, brief_for(), 2, 30)
    with pytest.raises(IdeaError) as error:
        inbox_client.submit(tmp_path, NAME, text)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list(inbox_of(tmp_path).iterdir())


def test_an_idea_may_be_code(tmp_path: Path) -> None:
    inbox.open_stage(tmp_path, NAME, brief_for(), 2, 30)
    code = "```python\ndef technique(ctx):\n    return ctx.model()\n```\n"
    text = f"---\r\ntitle: By code\r\nproperty: privacy\r\nclaimed_effect: 0.1\r\nreason: because\r\n---\r\n{code}"
    digest = inbox_client.submit(tmp_path, NAME, text)
    assert [i.digest() for i in inbox.close_stage(tmp_path, NAME, 1, limits())] == [digest]


def test_no_file_that_an_idea_names_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail_if_called(*_: object) -> str:
        raise AssertionError("opened")

    for name in ("file_digest", "checkpoint_digest"):
        monkeypatch.setattr(f"stagezero.training.data.{name}", fail_if_called)
    (tmp_path / "secret").write_text("root:x")
    inbox.open_stage(tmp_path, NAME, brief_for(), 2, 30)
    for number, value in enumerate(("step: command, run: [x], inputs: [SECRET]", "step: merge, source: FOLDER, weight: 0.5")):
        patch = value.replace("SECRET", str(tmp_path / "secret")).replace("FOLDER", str(tmp_path))
        (inbox_of(tmp_path) / f"{number}.md").write_text(text_of(patch=f"- {{op: append, step: {{{patch}}}}}"))
    inbox_state = inbox.read_inbox(tmp_path, NAME, 1, limits())
    assert not inbox_state.ideas and len(inbox_state.refused) == 2 and "root:x" not in str(inbox_state)


def test_a_valid_idea_is_found_among_hostile_files(tmp_path: Path) -> None:
    run = tmp_path / "run"
    inbox.open_stage(run, NAME, brief_for(), 3, 2)
    box = inbox_of(run)
    (box / "passwd.md").symlink_to("/etc/passwd")
    (box / "endless.md").symlink_to("/dev/zero")
    (box / "x.md").mkdir()
    (box / "big.md").write_bytes(b"x" * 10_000_000)
    (box / "latin.md").write_bytes("---\ntitle: früh".encode("latin-1"))
    (box / "notes.txt").write_text("hello")
    (box / ".half-written").write_text("---\ntit")
    os.mkfifo(box / "pipe.md")
    (tmp_path / "elsewhere").write_text(text_of(77))
    os.link(tmp_path / "elsewhere", box / "hard.md")
    (box / os.fsdecode(b"\xff\xfe.md")).write_text("?")
    good = inbox_client.submit(run, NAME, text_of())
    inbox_client.mark_done(run, NAME)
    ideas = OutsideResearcher(settings(3), run).propose(brief_for())
    assert [idea.digest() for idea in ideas] == [good]
    own = own_results(run)
    reasons = {e["file"]: e["why"] for e in own if e["fate"] == "refused"}
    assert len(reasons) == 9 and len(own) == 10
    for name in ("passwd.md", "endless.md", "x.md", "pipe.md", "hard.md"):
        assert "expected a regular file" in reasons[name]
    assert "got 10,000,000" in reasons["big.md"] and "UTF-8" in reasons["latin.md"] and ".md" in reasons["notes.txt"]
    assert "root:" not in json.dumps(own)


def test_a_thousand_files_do_not_hide_a_submission(tmp_path: Path) -> None:
    inbox.open_stage(tmp_path, NAME, brief_for(), 2, 30)
    for number in range(1000):
        (inbox_of(tmp_path) / f"{number:04}.md").write_text("junk" if number % 2 else text_of(-number))
    good = inbox_client.submit(tmp_path, NAME, text_of(5000))
    cache: inbox.ScanCache = {}
    inbox_state = inbox.read_inbox(tmp_path, NAME, 1, limits(), cache)
    assert [idea.digest() for _, idea in inbox_state.ideas] == [good]
    assert len(cache) == inbox.MAX_INBOX_FILES and "more than 256 files" in inbox_state.refused[0][1]
    start = time.monotonic()
    assert inbox.read_inbox(tmp_path, NAME, 1, limits(), cache) == inbox_state
    assert time.monotonic() - start < 1, "unchanged files must not be read again"
    inbox.close_stage(tmp_path, NAME, 1, limits(), cache)
    assert len(own_results(tmp_path)) <= 2 * inbox_record.MAX_REPORTED_REFUSALS + 2


@pytest.mark.parametrize("replaced", ["stage", "inbox", "folder", "file"])
def test_a_folder_that_is_replaced_by_a_link_is_not_followed(tmp_path: Path, replaced: str) -> None:
    """Ideas behind the link are not read, no file is written there, and the campaign continues."""
    run, away = tmp_path / "run", tmp_path / "away"
    for place in (away, away / "stage-1", away / "inbox" / "stage-1"):
        place.mkdir(parents=True, exist_ok=True)
        (place / "idea.md").write_text(text_of())
    before = sorted(str(p) for p in away.rglob("*"))
    folder = run / "outside" / NAME
    inbox.open_stage(run, NAME, brief_for(), 2, 0.5)
    path = {"stage": inbox_of(run), "inbox": folder / "inbox", "folder": folder, "file": folder / "inbox"}[replaced]
    path.rename(tmp_path / "gone")
    if replaced == "file":
        path.write_text("no folder")
    else:
        path.symlink_to(away)
    inbox_state = inbox.read_inbox(run, NAME, 1, limits())
    assert not inbox_state.ideas and "cannot be read" in inbox_state.refused[0][1]
    assert OutsideResearcher(settings(), run).propose(brief_for()) == []
    inbox.publish_outcomes(run, [NAME], [])
    assert sorted(str(p) for p in away.rglob("*")) == before


def test_entries_in_place_of_the_campaigns_files_are_set_aside(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "outside" / NAME
    (folder / "brief.json" / "full").mkdir(parents=True)
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (folder / "state.json").symlink_to(victim)
    (folder / "results.json").symlink_to("/dev/full")
    inbox.open_stage(tmp_path / "run", NAME, brief_for(), 2, 30)
    assert json.loads((folder / "brief.json").read_text())["stage"] == 1
    assert inbox_client.read_state(tmp_path / "run", NAME).open and victim.read_text() == "precious"


@pytest.mark.parametrize(("code", "stops"), [(errno.EACCES, False), (errno.ENOSPC, True)])
def test_errors_in_the_shared_folder_do_not_stop_the_run_and_a_full_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, stops: bool
) -> None:
    def raise_error(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    inbox.open_stage(tmp_path, NAME, brief_for(), 2, 0)
    monkeypatch.setattr(files.os, "mkdir", raise_error)  # type: ignore[attr-defined]
    monkeypatch.setattr(files.os, "scandir", raise_error)  # type: ignore[attr-defined]
    researcher = OutsideResearcher(settings(), tmp_path)
    if stops:
        with pytest.raises(OSError, match="No space left"):
            researcher.propose(brief_for())
    else:
        assert researcher.propose(brief_for()) == []


def test_ctrl_c_passes_through_and_the_stage_stays_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(time, "sleep", interrupt)
        OutsideResearcher(settings(), tmp_path).propose(brief_for())
    assert inbox_client.read_state(tmp_path, NAME).open


def test_a_killed_and_continued_run_reopens_the_stage_unchanged(tmp_path: Path) -> None:
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
        "from test_inbox import brief_for, settings, OutsideResearcher\n"
        "OutsideResearcher(settings(2, 60), Path(sys.argv[2])).propose(brief_for())\n"
    )
    run = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", script, str(Path(__file__).parent), str(run)])
    until(lambda: run.is_dir() and inbox_client.read_state(run, NAME).open)
    first = inbox_client.submit(run, NAME, text_of())
    until(lambda: any(e["fate"] == "submitted" for e in own_results(run)))
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = inbox_client.read_state(run, NAME)
    second = inbox_client.submit(run, NAME, text_of(20))  # no campaign is running, but the stage is open
    campaign = CampaignThread(run, brief_for(), settings(2, 60))
    assert [idea.digest() for idea in campaign.result()] == sorted([first, second])
    after = inbox_client.read_state(run, NAME)
    assert (after.stage, after.closes, after.wanted, after.open) == (before.stage, before.closes, before.wanted, False)


def test_a_deadline_also_passes_while_no_campaign_is_running(tmp_path: Path) -> None:
    inbox.open_stage(tmp_path, NAME, brief_for(), 2, 0.3)
    digest = inbox_client.submit(tmp_path, NAME, text_of())
    time.sleep(0.4)
    start = time.monotonic()
    assert [i.digest() for i in OutsideResearcher(settings(2, 60), tmp_path).propose(brief_for())] == [digest]
    assert time.monotonic() - start < 5


def test_mistakes_of_a_researcher_are_reported(tmp_path: Path) -> None:
    with pytest.raises(IdeaError, match="expected the folder of a run"):
        inbox_client.read_state(tmp_path / "none", NAME)
    with pytest.raises(IdeaError, match="has not asked for ideas yet"):
        inbox_client.submit(tmp_path, NAME, text_of())
    inbox.open_stage(tmp_path, NAME, brief_for(), 2, 30)
    with pytest.raises(IdeaError, match=r"expected one of this run's outside researchers \(ada\)"):
        inbox_client.submit(tmp_path, "eve", text_of())
    with pytest.raises(IdeaError, match="expected letters"):
        inbox.open_stage(tmp_path, "../eve", brief_for(), 2, 30)
    (tmp_path / "outside" / NAME / "state.json").write_text('{"stage": Infinity}')
    with pytest.raises(IdeaError, match="the campaign did not write this content"):
        inbox_client.read_state(tmp_path, NAME)
    (tmp_path / "outside" / ".kept" / f"{NAME}.json").write_text("{}")
    with pytest.raises(RunChangedError, match="damaged"):
        inbox.open_stage(tmp_path, NAME, brief_for(), 2, 30)


def test_only_the_campaign_validates_patches_of_a_recipe_with_files(tmp_path: Path) -> None:
    steps = [*CONTROL.canonical()["steps"], {"step": "command", "run": ["x"], "inputs": ["x.py"]}]
    brief = replace(brief_for(), control=parse_recipe(steps, "control"))
    inbox.open_stage(tmp_path, NAME, brief, 2, 30)
    assert SubmissionLimits.from_json(inbox_client.read_brief(tmp_path, NAME)).recipe is None
    inbox_client.submit(tmp_path, NAME, text_of(patch="- {op: set, at: dpo, values: {steps: 9}}"))
    inbox_state = inbox.read_inbox(tmp_path, NAME, 1, SubmissionLimits.from_brief(brief))
    assert not inbox_state.ideas and "names step 'dpo'" in inbox_state.refused[0][1]


def test_a_request_for_ideas_is_displayed_when_its_stage_opens_and_when_ideas_arrive(tmp_path: Path) -> None:
    """With two researchers, both requests are displayed before the first one's time is over."""
    messages: list[str] = []
    researcher = OutsideResearcher(settings(2, 60), tmp_path / "a run", messages.append)
    researcher.open(brief_for())
    inbox_client.submit(tmp_path / "a run", NAME, text_of())
    inbox_client.mark_done(tmp_path / "a run", NAME)
    assert len(researcher.propose(brief_for())) == 1
    assert len(messages) == 1 and messages[0].startswith(f"waiting for 2 ideas from {NAME!r} until ")
    assert messages[0].endswith(f"submit with: stagezero idea submit FILE --run '{tmp_path / 'a run'}' --as {NAME}")
