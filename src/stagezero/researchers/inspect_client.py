"""Sends requests to the model that a project's ``llm`` settings name, through Inspect.

This module sends one request and returns the reply's text and its token counts. It stores nothing,
writes no file and validates no idea. Inspect is an optional package and slow to import, so each
function imports it where it is used.

A provider's error text may quote the request and its headers. Secrets from the environment are
therefore removed from the text of every error before it leaves this module.
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

MAX_RETRIES = 4
"""Retries by Inspect after a transient error (rate limit, connection), with growing pauses.
Inspect's default has no limit, and the user would never see the reason."""
RESERVED_ARGUMENTS = frozenset({"api_key", "config", "default", "memoize", "model", "required", "role"})
"""Arguments that a project file may not contain. This module sets some of them. A key would be
published, because the ledger contains the project."""
MIN_SECRET_CHARACTERS = 8
"""Shorter values of environment variables are not treated as secrets."""
_USER_ERROR_CODES = frozenset({400, 401, 402, 403, 404, 405, 422})
_TOO_LONG_CODES = frozenset({400, 413})


class NoReplyError(Exception):
    """The request got no reply.

    ``user_error``: the user must correct something; otherwise the cause may be transient.
    ``uncharged``: the provider rejected the request, so it cost nothing.
    ``may_be_too_long``: a shorter request may succeed.
    """

    def __init__(self, reason: str, user_error: bool = False, uncharged: bool = False, may_be_too_long: bool = False) -> None:
        super().__init__(reason)
        self.user_error, self.uncharged, self.may_be_too_long = user_error, uncharged, may_be_too_long


@dataclass(frozen=True, slots=True)
class ModelReply:
    """A model's reply and the tokens that it took.

    ``usage_reported`` is false if the token counts are estimated from the length of the text.
    """

    text: str
    stop_reason: str
    tokens_in: int
    tokens_out: int
    usage_reported: bool

    def context_exceeded(self) -> bool:
        """Return whether the request did not fit into the model's context."""
        return self.stop_reason == "model_length"


def remove_secrets(text: str) -> str:
    """Replace the values of environment variables that contain secrets."""
    values = (value.strip() for name, value in os.environ.items() if name.upper().endswith(("_KEY", "_TOKEN", "_SECRET")))
    for secret in sorted((value for value in values if len(value) >= MIN_SECRET_CHARACTERS), key=len, reverse=True):
        text = text.replace(secret, "<secret>")
    return text


def printable_text(text: str) -> str:
    """Return a text that UTF-8 can encode and a terminal can display.

    Surrogates, control characters and invisible characters are removed; every line ends with a
    line feed.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in lines if c in "\n\t" or unicodedata.category(c)[0] != "C")


def _error_line(error: BaseException) -> str:
    """Return an error's type and the beginning of its message, without markup and secrets."""
    message = getattr(error, "provider_message", None) or getattr(error, "message", None) or str(error)
    text = re.sub(r"\[/?[a-z_ ]+\]", "", remove_secrets(printable_text(str(message))))
    return f"{type(error).__name__}: {' '.join(text.split()).removeprefix('ERROR: '):.300}"


def local_model_name(name: str, folder: Path) -> str | None:
    """Return the name for ``materialise`` of a model on this machine; None for any other model.

    Args:
        name: a built-in model's name, or a checkpoint folder relative to ``folder``.
        folder: the project's folder.
    """
    if name.startswith(("pocket/", "package/")):
        return name
    checkpoint = folder / name
    return str(checkpoint.resolve()) if (checkpoint / "config.json").is_file() else None


def _local_provider(name: str, settings: LLM) -> tuple[str, dict[str, Any]]:
    """Return the name and arguments with which Inspect's local provider loads a local model."""
    import torch

    from stagezero.models.chat import load_tokenizer
    from stagezero.models.loader import configure_libraries, materialise

    configure_libraries()
    path = materialise(name)
    arguments: dict[str, Any] = {"chat_template": load_tokenizer(path).chat_template}
    if not torch.cuda.is_available():
        arguments["device"] = "cpu"
    if settings.temperature == 0:  # transformers rejects a temperature of zero
        arguments["do_sample"] = False
    return "hf/local", {**arguments, **settings.arguments, "model_path": str(path), "use_safetensors": True}


def load_model(settings: LLM, folder: Path) -> Any:
    """Return the model as Inspect's ``Model``. A local model is loaded now.

    Args:
        settings: the researcher's entry in the project file.
        folder: the project's folder.

    Raises:
        ProjectError: the model or provider does not exist, or its key, package or arguments are
            wrong.
        MissingPackageError: a package that a local model needs is not installed.
    """
    from inspect_ai.model import get_model

    try:
        local_name = local_model_name(settings.model, folder)
        name, arguments = _local_provider(local_name, settings) if local_name else (settings.model, settings.arguments)
        return get_model(name, memoize=False, **arguments)
    except MissingPackageError:
        raise
    except InputError as error:
        raise ProjectError(f"researchers: model: {remove_secrets(str(error))}") from None
    except Exception as error:  # every provider has its own error types
        field = "arguments" if isinstance(error, TypeError) and settings.arguments else "model"
        raise ProjectError(
            f"researchers: {field}: model {settings.model!r} cannot be loaded ({_error_line(error)}); expected a provider and model that "
            "Inspect knows (openai/…, hf/…), pocket/…, package/… or a checkpoint folder; correct it, install the provider's package, or "
            "set its key in the environment."
        ) from None


def context_tokens(model: Any) -> int | None:
    """Return the size of the model's context in tokens; None if it is unknown.

    A local model's own configuration has priority over Inspect's list.
    """
    local = getattr(getattr(getattr(model.api, "model", None), "config", None), "max_position_embeddings", None)
    if isinstance(local, int):
        return local
    from inspect_ai.model import get_model_info

    try:
        info = get_model_info(model)
    except Exception:  # an unreadable list is the same as no entry
        return None
    return info.context_length if info else None


def chat_messages(turns: list[tuple[str, str]]) -> list[Any]:
    """Convert pairs of role and text to Inspect's messages."""
    from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser

    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    return [kinds[role](content=text) for role, text in turns]


def count_tokens(model: Any, turns: list[tuple[str, str]]) -> int:
    """Return the number of tokens of a request.

    The number is exact for a local tokenizer. Otherwise it is an upper estimate of one token for
    three bytes. No provider is queried, because that would be a network request.
    """
    tokenizer = getattr(model.api, "tokenizer", None)
    if callable(tokenizer) and hasattr(model.api, "hf_chat"):
        try:
            return len(tokenizer(model.api.hf_chat(chat_messages(turns), [])).input_ids)
        except Exception:  # a template may reject these messages; the request will then report it
            pass
    return math.ceil(sum(len(text.encode("utf-8", "replace")) for _, text in turns) / 3) + 8 * len(turns)


async def request_reply(model: Any, turns: list[tuple[str, str]], settings: LLM, seconds: float) -> ModelReply:
    """Send one request and wait at most ``seconds`` for the reply.

    Raises:
        NoReplyError: the provider failed, or rejected the request.
        TimeoutError: the time is over.
    """
    from inspect_ai.model import GenerateConfig

    config = GenerateConfig(
        max_tokens=settings.answer_tokens,
        temperature=settings.temperature,
        max_retries=MAX_RETRIES,
        max_connections=1,
        cache_prompt=False,  # cached tokens have other prices
    )
    clock = asyncio.timeout(seconds)
    try:
        async with clock:
            with _stop_local_model_after(model, seconds):
                output = await model.generate(chat_messages(turns), config=config)
    except StagezeroError:
        raise
    except Exception as error:  # every provider has its own error types
        if clock.expired():
            raise TimeoutError from None
        raise _no_reply_error(model, error) from None
    if output.error and not output.completion:
        raise NoReplyError(remove_secrets(printable_text(str(output.error)))[:300])
    return _model_reply(output, turns)


@contextmanager
def _stop_local_model_after(model: Any, seconds: float) -> Iterator[None]:
    """Make a local model stop computing after a time.

    A local model computes in a thread, which cannot be cancelled. A hook before each layer raises
    an error after the time. The hooks are removed after a reply. After a timeout they stay until
    the model is discarded.
    """
    network: Any = getattr(model.api, "model", None)
    until = monotonic() + seconds

    def raise_when_late(*_: Any) -> None:
        if monotonic() > until:
            raise TimeoutError("the time for this reply is over")

    hooks = (
        [module.register_forward_pre_hook(raise_when_late) for module in network.modules()]
        if hasattr(network, "register_forward_pre_hook")
        else []
    )
    yield
    for hook in hooks:
        hook.remove()


def _no_reply_error(model: Any, error: Exception) -> NoReplyError:
    last_attempt = getattr(error, "last_attempt", None)  # the retry library wraps the last failure
    cause = (last_attempt.exception() if last_attempt is not None else None) or error
    status = getattr(cause, "status_code", None)
    try:
        wrong_key = bool(model.api.is_auth_failure(cause))
    except Exception:
        wrong_key = False
    user_error = wrong_key or status in _USER_ERROR_CODES or type(cause).__name__ == "PrerequisiteError"
    rejected = isinstance(status, int) and 400 <= status < 500
    return NoReplyError(
        _error_line(cause), user_error=user_error, uncharged=rejected or user_error, may_be_too_long=status in _TOO_LONG_CODES
    )


def _model_reply(output: Any, turns: list[tuple[str, str]]) -> ModelReply:
    text, usage = str(output.completion), output.usage
    stop_reason = str(output.stop_reason) if output.choices else "unknown"
    tokens_in = (usage.input_tokens + (usage.input_tokens_cache_read or 0) + (usage.input_tokens_cache_write or 0)) if usage else 0
    # Some providers count reasoning tokens in the total only, not in the output tokens.
    tokens_out = max(usage.output_tokens, usage.total_tokens - tokens_in) if usage else 0
    if tokens_in + tokens_out > 0:
        return ModelReply(text, stop_reason, tokens_in, tokens_out, usage_reported=True)
    characters_in = sum(len(content) for _, content in turns)
    return ModelReply(text, stop_reason, math.ceil(characters_in / 4), math.ceil(len(text) / 4), usage_reported=False)
