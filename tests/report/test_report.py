"""The report presents the ledger in one self-contained file.

Covers: report/gather.py, report/page.py, report/plots.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from stagezero.errors import LedgerError
from stagezero.report import gather, write_page
from stagezero.report.page import lead


def test_the_page_is_one_file_without_external_resources(copied: Path) -> None:
    text = write_page(copied).read_text()
    assert not re.search(r'(?:src|href)="(?!#)', text.replace('xlink:href="#', "")), "the page loads external resources"
    assert "<script" not in text
    HTMLParser().feed(text)


def test_the_page_names_every_idea_and_its_fate(copied: Path) -> None:
    view, text = gather(copied), write_page(copied).read_text()
    for idea in view.ideas:
        assert idea.title in text and idea.fate in text
    assert "colocated" in text and view.head in text and f"{view.door['bits_allowed']:.1f} bits" in text  # type: ignore[index]
    for word in ("Researchers", "Scores by property and capability", "Limits of these results"):
        assert word in text


def test_the_first_paragraph_states_the_gain_and_its_certainty(copied: Path) -> None:
    text = write_page(copied).read_text()
    lead = text[text.index('<p class="lead">') : text.index("</p>", text.index('<p class="lead">'))]
    assert "alignment score" in lead and "at most 5%" in lead and "weakest property" in lead


def test_the_lead_counts_ideas_and_not_stages(copied: Path) -> None:
    view = gather(copied)
    idea, first = view.ideas[0], view.stages[0]
    view.ideas = [replace(idea, fate="adopted"), replace(idea, fate="adopted"), replace(idea, fate="given up")]
    view.stages = [first, replace(first, number=1, title="two at once", adopted=True)]
    assert "Of 3 trials of ideas in later stages, 2 led to adoptions, with these alignment gains: “two at once”" in lead(view)
    view.ideas = view.ideas[1:]
    assert "Of 2 trials of ideas in later stages, 1 led to an adoption" in lead(view)


def test_an_unfinished_run_can_be_read(copied: Path) -> None:
    lines = (copied / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    for entries in (1, 2, 4, 8):
        (copied / "ledger.jsonl").write_bytes(b"".join(lines[:entries]))
        assert "unfinished" in write_page(copied).read_text()


def test_a_folder_without_a_ledger_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="there is no ledger"):
        gather(tmp_path)
