"""The way from a project's ``llm`` settings to a model: through Inspect, whatever the model is.

This module sends one request and gives back the text and what it cost. It keeps nothing, writes no file and judges no idea. Inspect is an
optional package and slow to import, so it is imported where it is used. What a provider says when it fails may quote the request and its
headers, so no text of an error leaves here before the environment's secrets are taken out of it.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from stagezero.errors import InputError, MissingPackageError, ProjectError, StagezeroError
from stagezero.project import LLM

RETRIES = 4
"""How often Inspect retries what is passing (rate limits, connections), with growing pauses; without an end, nobody would be told why."""
RESERVED = frozenset({"api_key", "config", "default", "memoize", "model", "required", "role"})
"""Arguments that are set here, or must not be in a file: a project is kept in the ledger, and a key in it would be published."""
_MEND = frozenset({400, 401, 402, 403, 404, 405, 422})
_TOO_LONG = frozenset({400, 413})


class Unanswered(Exception):
    """No reply came.

    ``mend``: the user must mend something; otherwise it may pass. ``free``: the request was turned away, so that it cost nothing.
    ``shorter``: a shorter request may do.
    """

    def __init__(self, why: str, mend: bool = False, free: bool = False, shorter: bool = False) -> None:
        super().__init__(why)
        self.mend, self.free, self.shorter = mend, free, shorter


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said, and the tokens that it took; ``reported`` is false where they are estimated from the length."""

    text: str
    stopped: str
    tokens_in: int
    tokens_out: int
    reported: bool

    def too_long(self) -> bool:
        """Did the request not fit into the model's context?"""
        return self.stopped == "model_length"


def scrubbed(text: str) -> str:
    """A text without the values of environment variables that hold secrets."""
    held = (value.strip() for name, value in os.environ.items() if name.upper().endswith(("_KEY", "_TOKEN", "_SECRET")))
    for secret in sorted((value for value in held if len(value) >= 8), key=len, reverse=True):
        text = text.replace(secret, "<secret>")
    return text


def plain(text: str) -> str:
    """A text as UTF-8 can hold and a terminal can show it: no surrogates, control or invisible characters, and one kind of line end."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in lines if c in "\n\t" or unicodedata.category(c)[0] != "C")


def _told(error: BaseException) -> str:
    """An error in one line: its kind and the beginning of what it says, without markup and secrets."""
    said = getattr(error, "provider_message", None) or getattr(error, "message", None) or str(error)
    text = re.sub(r"\[/?[a-z_ ]+\]", "", scrubbed(plain(str(said))))
    return f"{type(error).__name__}: {' '.join(text.split()).removeprefix('ERROR: '):.300}"


def own(name: str, folder: Path) -> str | None:
    """The name for ``materialise`` of a model that is known here: a built-in one, or a checkpoint folder seen from the project's."""
    if name.startswith(("pocket/", "package/")):
        return name
    found = folder / name
    return str(found.resolve()) if (found / "config.json").is_file() else None


def _served(name: str, settings: LLM) -> tuple[str, dict[str, Any]]:
    """A model that is known here, as Inspect's own provider for local models takes it."""
    import torch

    from stagezero.models.loader import load_tokenizer, materialise, settle_libraries

    settle_libraries()
    path = materialise(name)
    arguments: dict[str, Any] = {"chat_template": load_tokenizer(path).chat_template}
    if not torch.cuda.is_available():
        arguments["device"] = "cpu"
    if settings.temperature == 0:  # the library takes no temperature of nothing
        arguments["do_sample"] = False
    return "hf/local", {**arguments, **settings.arguments, "model_path": str(path), "use_safetensors": True}


def reach(settings: LLM, folder: Path) -> Any:
    """The model, as Inspect's ``Model``; local ones are loaded now.

    Raises:
        ProjectError: there is no such model or provider, or its key, package or arguments are not right.
        MissingPackageError: a package that a model known here needs is not installed.
    """
    from inspect_ai.model import get_model

    try:
        known = own(settings.model, folder)
        name, arguments = _served(known, settings) if known else (settings.model, settings.arguments)
        return get_model(name, memoize=False, **arguments)
    except MissingPackageError:
        raise
    except InputError as error:
        raise ProjectError(f"researchers: model: {scrubbed(str(error))}") from None
    except Exception as error:  # every provider has errors of its own
        field = "arguments" if isinstance(error, TypeError) and settings.arguments else "model"
        raise ProjectError(
            f"researchers: {field}: model {settings.model!r} cannot be reached ({_told(error)}); expected a provider and model that "
            "Inspect knows (openai/…, hf/…), pocket/…, package/… or a checkpoint folder; correct it, install the provider's package, or "
            "set its key in the environment."
        ) from None


def window(model: Any) -> int | None:
    """How many tokens the model's context holds, where that is known: from a local model's own configuration, else from Inspect's list."""
    local = getattr(getattr(getattr(model.api, "model", None), "config", None), "max_position_embeddings", None)
    if isinstance(local, int):
        return local
    from inspect_ai.model import get_model_info

    try:
        info = get_model_info(model)
    except Exception:  # a list that cannot be read says nothing about the model
        return None
    return info.context_length if info else None


def chat(turns: list[tuple[str, str]]) -> list[Any]:
    """Messages as Inspect takes them, from pairs of role and text."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return [kinds[role](content=text) for role, text in turns]


def count(model: Any, turns: list[tuple[str, str]]) -> int:
    """How many tokens a request has: exactly where the tokenizer is here, else at the most, three bytes a token. Nobody is asked: providers
    that count tokens for others do so over the network."""
    tokenizer = getattr(model.api, "tokenizer", None)
    if callable(tokenizer) and hasattr(model.api, "hf_chat"):
        try:
            return len(tokenizer(model.api.hf_chat(chat(turns), [])).input_ids)
        except Exception:  # a template that refuses these messages: the request itself will say so
            pass
    return math.ceil(sum(len(text.encode("utf-8", "replace")) for _, text in turns) / 3) + 8 * len(turns)


async def ask(model: Any, turns: list[tuple[str, str]], settings: LLM, seconds: float) -> Answer:
    """Send one request and wait for the reply, no longer than ``seconds``.

    Raises:
        Unanswered: the provider failed, or turned the request away.
        TimeoutError: the time is over.
    """
    from inspect_ai.model import GenerateConfig

    config = GenerateConfig(
        max_tokens=settings.answer_tokens,
        temperature=settings.temperature,
        max_retries=RETRIES,
        max_connections=1,
        cache_prompt=False,  # cached tokens have prices of their own
    )
    clock = asyncio.timeout(seconds)
    try:
        async with clock:
            with _stopping(model, seconds):
                output = await model.generate(chat(turns), config=config)
    except StagezeroError:
        raise
    except Exception as error:  # every provider has errors of its own
        if clock.expired():
            raise TimeoutError from None
        raise _unanswered(model, error) from None
    if output.error and not output.completion:
        raise Unanswered(scrubbed(plain(str(output.error)))[:300])
    return _answer(output, turns)


@contextmanager
def _stopping(model: Any, seconds: float) -> Iterator[None]:
    """A local model computes in a thread, which nobody can cancel: it looks at the clock itself, before each layer, and gives up.

    What looks is taken away when the reply is there, and stays where none came in time, until the model is dropped.
    """
    network: Any = getattr(model.api, "model", None)
    until = monotonic() + seconds

    def look(*_: Any) -> None:
        if monotonic() > until:
            raise TimeoutError("the time for this reply is over")

    lookers = (
        [module.register_forward_pre_hook(look) for module in network.modules()] if hasattr(network, "register_forward_pre_hook") else []
    )
    yield
    for looker in lookers:
        looker.remove()


def _unanswered(model: Any, error: Exception) -> Unanswered:
    last = getattr(error, "last_attempt", None)  # what the library that retries wraps around the last failure
    found = (last.exception() if last is not None else None) or error
    status = getattr(found, "status_code", None)
    try:
        auth = bool(model.api.is_auth_failure(found))
    except Exception:
        auth = False
    mend = auth or status in _MEND or type(found).__name__ == "PrerequisiteError"
    free = isinstance(status, int) and 400 <= status < 500
    return Unanswered(_told(found), mend=mend, free=free or mend, shorter=status in _TOO_LONG)


def _answer(output: Any, turns: list[tuple[str, str]]) -> Answer:
    text, usage = str(output.completion), output.usage
    stopped = str(output.stop_reason) if output.choices else "unknown"
    tokens_in = (usage.input_tokens + (usage.input_tokens_cache_read or 0) + (usage.input_tokens_cache_write or 0)) if usage else 0
    # Some providers leave reasoning out of what went out, and have it in the total.
    tokens_out = max(usage.output_tokens, usage.total_tokens - tokens_in) if usage else 0
    if tokens_in + tokens_out > 0:
        return Answer(text, stopped, tokens_in, tokens_out, reported=True)
    sent = sum(len(said) for _, said in turns)
    return Answer(text, stopped, math.ceil(sent / 4), math.ceil(len(text) / 4), reported=False)
