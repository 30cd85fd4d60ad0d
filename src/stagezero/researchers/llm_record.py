"""The files that an ``llm`` researcher leaves in the run's folder: usage and transcripts.

A continued run reads the usage, so that limits hold over the whole run. Transcripts are for people;
no code reads them. Neither file contains a secret.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from stagezero.errors import RunChangedError
from stagezero.files import write_atomic
from stagezero.project import LLM
from stagezero.researchers.inspect_client import printable_text, remove_secrets


class Usage:
    """The tokens and dollars that a model has used over the whole run, in a file.

    A request is charged at its maximum before it is sent. Its reply corrects the charge. A run that
    is killed in between has therefore not lost the charge.
    """

    def __init__(self, path: Path, settings: LLM) -> None:
        """Read the record at ``path``, or start with zero if there is none.

        Raises:
            RunChangedError: the record is damaged.
        """
        self.path, self.settings = path, settings
        self.tokens_in = self.tokens_out = 0
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
                self.tokens_in, self.tokens_out = int(record["tokens_in"]), int(record["tokens_out"])
            except (ValueError, TypeError, KeyError, OSError):
                raise RunChangedError(f"{path}: the record of usage is damaged; restore the file, or start anew with --fresh.") from None

    def dollars(self, more_in: int = 0, more_out: int = 0) -> float:
        """Return the cost so far, with some more input and output tokens; 0 without prices."""
        price_in, price_out = self.settings.prices or (0.0, 0.0)
        return ((self.tokens_in + more_in) * price_in + (self.tokens_out + more_out) * price_out) / 1e6

    def exceeded_limit(self, more_in: int, more_out: int) -> str | None:
        """Return the limit that so many more tokens would exceed, as a sentence; None if none."""
        limit, dollar_limit, used = self.settings.tokens, self.settings.dollars, self.tokens_in + self.tokens_out
        if used + more_in + more_out > limit:
            return f"tokens: {used:,} of {limit:,} are spent, and the next request may take {more_in + more_out:,}"
        if dollar_limit is not None and self.dollars(more_in, more_out) > dollar_limit:
            maximum = self.dollars(more_in, more_out)
            return f"dollars: {self.dollars():.4f} of {dollar_limit:g} are spent, and with the next request it may be {maximum:.4f}"
        return None

    def charge(self, tokens_in: int, tokens_out: int) -> None:
        """Add tokens to the record and write it. Negative numbers correct an earlier charge."""
        self.tokens_in += tokens_in
        self.tokens_out += tokens_out
        write_atomic(self.path, json.dumps(self.as_json()) + "\n")

    def as_json(self) -> dict[str, Any]:
        """Return the record."""
        return {"tokens_in": self.tokens_in, "tokens_out": self.tokens_out, "dollars": round(self.dollars(), 6)}


class Transcript:
    """The requests and replies of one stage, as JSON lines without secrets.

    Each line is written when its event happens.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, event: str, **details: Any) -> None:
        """Append one event."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as out:
            out.write(json.dumps(_clean({"event": event, **details}), ensure_ascii=False) + "\n")


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return remove_secrets(printable_text(value))
    if isinstance(value, dict):
        return {key: _clean(inner) for key, inner in value.items()}
    return [_clean(inner) for inner in value] if isinstance(value, list | tuple) else value
