"""A user's own suite: one JSON object a line (wrapped below), validated line by line.

    {"id": "t1", "input": "…", "target": "…", "kind": "trap", "property": "candour",
     "split": "open"}

Fields:

- ``kind`` is trap, twin or capability. ``split`` is train or open.
- ``target`` is the right answer. An empty target means that the right answer is a refusal;
  ``answer`` then contains the words that a person would write.
- ``scorer`` is exact (the default), choice (with ``choices``), regex (``target`` is the pattern) or
  python (``checker`` is a file beside the suite with ``score(item, answer)``).
  A pattern is in RE2's syntax; with ``engine: re`` it is in that of Python, and runs under a limit.
- ``twin_of`` is the id of a twin's trap. ``rejected`` is the tempting answer, for preference data.
- ``rewording_of`` is the question as it was first worded. It marks an item that is not new: the
  item joins the cluster of its original, and an auditor charges it to its original's budget.

A file is finite. A fresh draw resamples whole clusters (an item and its twins) with replacement, so
results hold only for the file's own distribution. The report states this.
"""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stagezero import patterns
from stagezero.errors import SuiteError, explain
from stagezero.files import read_text
from stagezero.ledger import digest, file_digest
from stagezero.parsing import parse_json
from stagezero.patterns import check_pattern, check_python_pattern
from stagezero.tasks.items import ALL_PROPERTIES, Engine, Item, Kind, ScorerName
from stagezero.tasks.question_keys import same_question_key
from stagezero.tasks.scoring import Outcome, equals, score
from stagezero.tasks.text_forms import is_visible, normalise

MAX_TARGET_CHARACTERS = 10_000
"""The longest pattern of the ``regex`` scorer."""


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
    engine: Engine = "re2"
    choices: tuple[str, ...] = ()
    checker: str | None = None
    twin_of: str | None = None
    rejected: str | None = None
    answer: str | None = None
    rewording_of: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _validate_combinations(self) -> Row:
        if self.scorer == "choice" and self.target and self.target not in self.choices:
            raise ValueError(
                f"scorer 'choice' expects 'choices' to list every permitted answer, but it lacks the target {self.target!r:.60}; add it"
            )
        if self.scorer == "python" and not self.checker:
            raise ValueError("scorer 'python' needs 'checker', the file that contains score(item, answer); add it")
        if self.scorer == "regex" and self.target:
            (check_pattern if self.engine == "re2" else check_python_pattern)(self.target, "'target'", MAX_TARGET_CHARACTERS)
            if patterns.matches(self.target, "") if self.engine == "re2" else re.search(self.target, ""):
                raise ValueError(f"'target' matches the empty text, so that every answer would be right ({self.target!r:.60}); correct it")
        if self.checker is not None and "\0" in self.checker:
            raise ValueError("'checker' contains a NUL character, which no file name has; correct it")
        self._validate_answers()
        if self.split == "train" and not (self.answer or self.target):
            raise ValueError("a training item whose right answer is a refusal needs 'answer', the words that a person would write; add it")
        if self.split == "train" and self.scorer in ("regex", "python") and not self.answer:
            raise ValueError(f"a training item with scorer {self.scorer!r} needs 'answer', the words that a person would write; add it")
        return self

    def _validate_answers(self) -> None:
        """Reject answers that are the same for the scorer or for preference training."""
        if self.target and not self.target.strip():
            raise ValueError("'target' is only white space, which no answer equals; correct it")
        if self.target and self.scorer in ("exact", "choice") and not (is_visible(self.target) and normalise(self.target)):
            raise ValueError(f"'target' has only invisible characters, which no answer equals ({self.target!a:.60}); correct it")
        if not all(choice.strip() for choice in self.choices):
            raise ValueError("'choices' contains an empty text; remove it")
        unseen = next((choice for choice in self.choices if not (is_visible(choice) and normalise(choice))), None)
        if unseen is not None:
            raise ValueError(f"'choices' contains a text of invisible characters only ({unseen!a:.60}); remove it")
        by_form: dict[str, str] = {}
        for choice in self.choices:
            other = by_form.setdefault(normalise(choice), choice)
            if other != choice:
                raise ValueError(f"'choices' contains {other!r:.60} and {choice!r:.60}, which are scored as one; remove one")
        right = self.answer or self.target
        if not self.rejected:
            return
        as_text = self.scorer in ("exact", "choice") and any(t and equals(t, self.rejected) for t in (right, self.target))
        if as_text or self.rejected.strip() == right.strip():
            raise ValueError(f"'rejected' equals the right answer ({self.rejected!r:.60}); give the tempting wrong one")
        if self.scorer == "python" or (self.scorer == "regex" and self.engine == "re" and self.target):
            return  # these run a program of the user, or may take long
        # Without its own tempting answer: a refusal would otherwise count as disclosing itself.
        # What begins with a disclosure is no refusal, whatever follows.
        text = self.rejected if self.target else re.split(r"[.;:!?]", self.rejected)[0]
        if score(replace(self.item(Path()), rejected=None), text) is Outcome.RIGHT:
            raise ValueError(
                f"'rejected' of item {self.id!r:.60} counts as right for the item's scorer ({self.rejected!r:.60}); "
                "give the tempting wrong answer"
            )

    def item(self, folder: Path) -> Item:
        """Return the line as an item; ``checker`` is resolved relative to ``folder``."""
        checker = str((folder / self.checker).resolve()) if self.checker else None
        return Item(
            self.id, self.input, self.target, self.kind, self.property, self.scorer,
            self.choices, self.twin_of, self.rejected, self.answer, checker, engine=self.engine,
        )  # fmt: skip


def _rows(path: Path) -> list[Row]:
    """Read and validate every line of a file.

    Raises:
        SuiteError: the file is missing, a line is malformed, or an id is used twice.
    """
    if not path.is_file():
        raise SuiteError(f"suite {str(path)!r}: expected a .jsonl file, found no file; correct the path.")
    rows: list[Row] = []
    line_of_id: dict[str, int] = {}
    for number, line in enumerate(read_text(path, SuiteError).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            rows.append(Row.model_validate(parse_json(line, where, SuiteError)))
        except ValidationError as error:
            raise SuiteError(explain(error, where, Row)) from None
        if rows[-1].id in line_of_id:
            raise SuiteError(f"{where}: id {rows[-1].id!r} is already used on line {line_of_id[rows[-1].id]}; give each item its own id.")
        line_of_id[rows[-1].id] = number
    return rows


def _trained_items(rows: list[Row], twins: bool) -> dict[str, str]:
    """Return open item → the training item that has its question, for the open items with one.

    Items have one question if their texts or those that they reword are the same, through any
    number of steps.

    Args:
        rows: the rows of the file.
        twins: whether a trap and its twin count as one question, too.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while (above := parent.setdefault(name, name)) != name:
            parent[name] = parent[above]
            name = above
        return name

    key_of_id = {row.id: same_question_key(row.input) for row in rows}
    for row in rows:
        linked = [] if row.rewording_of is None else [same_question_key(row.rewording_of), key_of_id.get(row.rewording_of)]
        if twins and row.twin_of is not None:
            linked.append(key_of_id.get(row.twin_of))
        for key in linked:
            if key is not None:
                parent[root(key)] = root(key_of_id[row.id])
    trained: dict[str, str] = {}
    for row in rows:
        if row.split == "train":
            trained.setdefault(root(key_of_id[row.id]), row.id)
    return {row.id: trained[root(key_of_id[row.id])] for row in rows if row.split == "open" and root(key_of_id[row.id]) in trained}


class JsonlSuite:
    """A suite read from a file. The module's docstring describes the format."""

    finite = True
    instruction = None

    def __init__(self, path: Path) -> None:
        """Read and validate the whole file.

        Raises:
            SuiteError: the message names the line, the field, what was expected and the fix.
        """
        rows = _rows(path)
        self.name = path.stem
        self.path = path
        self._items = {split: [r.item(path.parent) for r in rows if r.split == split] for split in ("train", "open")}
        properties = sorted({r.property for r in rows if r.kind != "capability"})
        self.properties = tuple(properties)
        self.capabilities = tuple(sorted({r.property for r in rows if r.kind == "capability" and r.split == "open"}))
        if ALL_PROPERTIES in (*self.properties, *self.capabilities):
            raise SuiteError(
                f"{path}: property {ALL_PROPERTIES!r}: that name is reserved for the mean over all properties; rename the property."
            )
        both = set(self.properties) & set(self.capabilities)
        if both:
            raise SuiteError(f"{path}: {sorted(both)[0]!r} is used both as a property and as a capability; rename one of them.")
        if not properties:
            raise SuiteError(f"{path}: expected at least one property with traps and twins, found none; add items of both kinds.")
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
        self._reject_known_questions(rows)
        texts = [t for r in rows for t in (r.answer, *r.choices, *([] if r.scorer in ("regex", "python") else [r.target])) if t]
        self.longest_answer_bytes = max((len(text.encode("utf-8", "replace")) for text in texts), default=0)
        self._join_rewordings(rows)
        checkers = sorted({i.checker for items in self._items.values() for i in items if i.checker})
        for checker in checkers:
            if not Path(checker).is_file():
                raise SuiteError(f"{path}: 'checker' names {checker!r}, and there is no such file; correct it.")
        self._digest = digest({"format": "jsonl/1", "file": file_digest(path), "checkers": [file_digest(Path(c)) for c in checkers]})

    def _reject_known_questions(self, rows: list[Row]) -> None:
        """Reject a file with an open item twice, or with one that is also a training item.

        The one would count as two pieces of evidence; the other would measure memory. An item is
        also another one's if both reword one question, or if one is the other's twin.

        Raises:
            SuiteError: the message names both items.
        """
        same = _trained_items(rows, twins=False)
        twins = _trained_items(rows, twins=True)
        first: dict[tuple[str, str, str], str] = {}
        for item in self._items["open"]:
            key = same_question_key(item.input)
            other = first.setdefault((item.property, item.kind, key), item.id)
            if other != item.id:
                raise SuiteError(
                    f"{self.path}: open item {item.id!r} repeats the question of item {other!r}, which is no second piece of evidence; "
                    "remove one of them."
                )
            if item.id in same:
                raise SuiteError(
                    f"{self.path}: open item {item.id!r} has the question of training item {same[item.id]!r}, so that a model could know "
                    "it by heart; remove one of them."
                )
            if item.id in twins:
                raise SuiteError(
                    f"{self.path}: open item {item.id!r} and training item {twins[item.id]!r} belong together by 'twin_of', so that a "
                    "model could know the answer by heart; give a trap, its twins and their rewordings one split."
                )
            other_kind = first.get((item.property, "trap" if item.kind == "twin" else "twin", key)) if item.kind != "capability" else None
            if other_kind is not None:
                raise SuiteError(
                    f"{self.path}: item {item.id!r} has the question of item {other_kind!r}, and one is a trap and the other a twin; "
                    "correct one of them."
                )

    def _join_rewordings(self, rows: list[Row]) -> None:
        """Put each rewording of an item of this file into the cluster of that item."""
        cluster_of_text = {r.input: r.twin_of or r.id for r in reversed(rows) if r.rewording_of is None}
        joined = {r.id: cluster_of_text[r.rewording_of] for r in rows if r.rewording_of in cluster_of_text and r.twin_of is None}
        for split, items in self._items.items():
            self._items[split] = [replace(i, twin_of=joined[i.id]) if i.id in joined else i for i in items]

    def rewording_of(self, item: str) -> str | None:
        """Return the original question of an item that is a rewording; None for any other item.

        Args:
            item: the item's id.
        """
        return self._rewordings.get(item)

    def digest(self) -> str:
        """Return the hash of the file and of its checkers."""
        return self._digest

    def train_items(self) -> list[Item]:
        """Return the items with split ``train``."""
        return self._items["train"]

    def open_items(self) -> list[Item]:
        """Return every item with split ``open``, in the file's order."""
        return self._items["open"]

    def fresh_items(self, seed: int, per_property: int) -> list[Item]:
        """Resample whole clusters with replacement, until each kind has ``per_property`` items.

        The order is by property and capability. Members of the last clusters that would exceed
        ``per_property`` are left out.
        """
        drawn: list[Item] = []
        for claim in (*self.properties, *self.capabilities):
            members = [i for i in self._items["open"] if i.property == claim]
            clusters: dict[str, list[Item]] = {}
            for item in members:
                clusters.setdefault(item.cluster, []).append(item)
            rng = random.Random(f"jsonl/{seed}/{claim}")
            names = sorted(clusters)
            missing = dict.fromkeys({i.kind for i in members}, per_property)
            draw = 0
            while any(count > 0 for count in missing.values()):
                for item in clusters[rng.choice(names)]:
                    if missing[item.kind] > 0:
                        # Traps and twins of one draw stay in one cluster.
                        # Each draw is a cluster of its own.
                        twin_of = f"{item.twin_of}#draw{draw}" if item.twin_of is not None else None
                        drawn.append(replace(item, id=f"{item.id}#draw{draw}", twin_of=twin_of))
                        missing[item.kind] -= 1
                draw += 1
        return drawn

    def reworded_items(self, seed: int, per_property: int, claim: str) -> list[Item]:
        """Return an empty list: a file does not state which wordings belong to one entity."""
        return []
