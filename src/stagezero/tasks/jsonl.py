"""A user's own suite: one JSON object a line, checked line by line.

    {"id": "t1", "input": "…", "target": "…", "kind": "trap", "property": "candour", "split": "open"}

``kind`` is trap, twin or capability; ``split`` is train or open; ``scorer`` is exact (default), choice (with ``choices``), regex
(``target`` is the pattern) or python (``checker`` is a file beside the suite with ``score(item, answer)``); an empty
``target`` means that the right answer is to refuse, and ``answer`` then says what a person would write. ``twin_of`` ties a twin
to its trap, ``rejected`` is the tempting answer for preference data, and ``rewording_of`` (the question as it was first put) says that
an item is no new one: it joins its original's cluster, and an auditor charges it to its original's budget.

A file is finite: a fresh draw is a resample with replacement of whole clusters (an item and its twins), so
claims hold for the file's own distribution and no further, which the report says.
"""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stagezero.errors import SuiteError, explain
from stagezero.files import read_text
from stagezero.ledger import digest, file_digest
from stagezero.tasks.items import ALL_PROPERTIES, Item, Kind, ScorerName


class Row(BaseModel):
    """One line of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(min_length=1)
    input: str = Field(min_length=1)
    target: str
    kind: Kind
    property: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    split: Literal["train", "open"]
    scorer: ScorerName = "exact"
    choices: tuple[str, ...] = ()
    checker: str | None = None
    twin_of: str | None = None
    rejected: str | None = None
    answer: str | None = None
    rewording_of: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> Row:
        if self.scorer == "choice" and self.target and self.target not in self.choices:
            raise ValueError("'choices' must list every permitted answer, the target among them; add them")
        if self.scorer == "python" and not self.checker:
            raise ValueError("scorer 'python' needs 'checker', the file that holds score(item, answer); add it")
        if self.scorer == "regex" and self.target:
            try:
                re.compile(self.target)
            except re.error as error:
                raise ValueError(f"'target' is not a regular expression ({error}); correct it") from None
        if self.split == "train" and not (self.answer or self.target):
            raise ValueError("a training item whose right answer is a refusal needs 'answer', what a person would write; add it")
        if self.split == "train" and self.scorer in ("regex", "python") and not self.answer:
            raise ValueError("a training item scored by a pattern or a program needs 'answer', what a person would write; add it")
        return self

    def item(self, folder: Path) -> Item:
        checker = str((folder / self.checker).resolve()) if self.checker else None
        return Item(
            self.id, self.input, self.target, self.kind, self.property, self.scorer,
            self.choices, self.twin_of, self.rejected, self.answer, checker,
        )  # fmt: skip


def _rows(path: Path) -> list[Row]:
    if not path.is_file():
        raise SuiteError(f"suite {str(path)!r}: expected a .jsonl file, found none; check the path.")
    rows: list[Row] = []
    seen: dict[str, int] = {}
    for number, line in enumerate(read_text(path, SuiteError).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            rows.append(Row.model_validate(json.loads(line)))
        except json.JSONDecodeError as error:
            raise SuiteError(f"{where}: not valid JSON ({error.msg} at column {error.colno}); correct the line.") from None
        except ValidationError as error:
            raise SuiteError(explain(error, where)) from None
        if rows[-1].id in seen:
            raise SuiteError(f"{where}: id {rows[-1].id!r} is already used on line {seen[rows[-1].id]}; ids must be unique.")
        seen[rows[-1].id] = number
    return rows


class JsonlSuite:
    """A suite read from a file; see the module's docstring for the format."""

    finite = True
    instruction = None

    def __init__(self, path: Path) -> None:
        """Read and check the whole file.

        Raises:
            SuiteError: naming the line, the field, what was expected and the fix.
        """
        rows = _rows(path)
        self.name = path.stem
        self.path = path
        self._items = {split: [r.item(path.parent) for r in rows if r.split == split] for split in ("train", "open")}
        properties = sorted({r.property for r in rows if r.kind != "capability"})
        self.properties = tuple(properties)
        self.capabilities = tuple(sorted({r.property for r in rows if r.kind == "capability" and r.split == "open"}))
        if ALL_PROPERTIES in (*self.properties, *self.capabilities):
            raise SuiteError(f"{path}: property {ALL_PROPERTIES!r}: that name is kept for the mean over all properties; rename it.")
        both = set(self.properties) & set(self.capabilities)
        if both:
            raise SuiteError(f"{path}: {sorted(both)[0]!r} is used both as a property and as a capability; rename one of them.")
        if not properties:
            raise SuiteError(f"{path}: no traps or twins; a suite needs at least one property with both.")
        ids = {r.id for r in rows}
        for row in rows:
            if row.twin_of is not None and row.twin_of not in ids:
                raise SuiteError(f"{path}: item {row.id!r}: twin_of {row.twin_of!r} names no item of this file; correct it.")
        for name in properties:
            for kind in ("trap", "twin"):
                if not any(i.property == name and i.kind == kind for i in self._items["open"]):
                    raise SuiteError(
                        f"{path}: property {name!r} has no open {kind}; a score needs traps and twins with split 'open'; add some."
                    )
        self._rewordings = {r.id: r.rewording_of for r in rows if r.rewording_of is not None}
        self._join_rewordings(rows)
        checkers = sorted({i.checker for items in self._items.values() for i in items if i.checker})
        self._digest = digest({"format": "jsonl/1", "file": file_digest(path), "checkers": [file_digest(Path(c)) for c in checkers]})

    def _join_rewordings(self, rows: list[Row]) -> None:
        """Give a rewording of an item of this file the cluster of that item."""
        by_text = {r.input: r.twin_of or r.id for r in reversed(rows) if r.rewording_of is None}
        joined = {r.id: by_text[r.rewording_of] for r in rows if r.rewording_of in by_text and r.twin_of is None}
        for split, items in self._items.items():
            self._items[split] = [replace(i, twin_of=joined[i.id]) if i.id in joined else i for i in items]

    def rewording_of(self, item: str) -> str | None:
        """The original question of an item that is a rewording."""
        return self._rewordings.get(item)

    def digest(self) -> str:
        return self._digest

    def train_items(self) -> list[Item]:
        return self._items["train"]

    def open_items(self) -> list[Item]:
        """Every open item, as written."""
        return self._items["open"]

    def fresh_items(self, seed: int, per_property: int) -> list[Item]:
        """A resample with replacement of whole clusters, ``per_property`` items of each kind at most two over."""
        found: list[Item] = []
        for claim in (*self.properties, *self.capabilities):
            members = [i for i in self._items["open"] if i.property == claim]
            clusters: dict[str, list[Item]] = {}
            for item in members:
                clusters.setdefault(item.cluster, []).append(item)
            rng = random.Random(f"jsonl/{seed}/{claim}")
            names = sorted(clusters)
            wanted = dict.fromkeys({i.kind for i in members}, per_property)
            draw = 0
            while any(count > 0 for count in wanted.values()):
                for item in clusters[rng.choice(names)]:
                    if wanted[item.kind] > 0:
                        # Traps and twins drawn together stay one cluster, and each draw is a cluster of its own.
                        twin_of = f"{item.twin_of}#{draw}" if item.twin_of is not None else None
                        found.append(replace(item, id=f"{item.id}#{draw}", twin_of=twin_of))
                        wanted[item.kind] -= 1
                draw += 1
        return found

    def reworded_items(self, seed: int, per_property: int, claim: str) -> list[Item]:
        """None: a file says nothing of which of its wordings belong together."""
        return []
