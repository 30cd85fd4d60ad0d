"""Conversations as text and as token ids: the same for training, evaluation and audit.

The chat template alone decides which special tokens a conversation has. The tokenizer adds none of
its own: with both, training would see a second beginning-of-sequence token that evaluation does not
see. ``encode_answers`` gives every training step, and every log-probability, the token ids that the
model has when it answers: those of the prompt, and after them those of the answer.

A template is rendered with a fixed clock and a fixed seed, so that one build key stands for one
dataset.
"""

from __future__ import annotations

import random
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagezero.errors import ModelError, UnreadableTextError
from stagezero.machine_faults import worker_error
from stagezero.models import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEMPLATE_DATE = date(2025, 1, 1)
"""The day that every chat template reads; its time is midnight."""
_DIRECTIVES = (
    "%-H", "%-I", "%-M", "%-S", "%-d", "%-j", "%-m", "%-y", "%A", "%B", "%C", "%D", "%F", "%G", "%H", "%I", "%M",
    "%P", "%R", "%S", "%T", "%U", "%V", "%W", "%X", "%Y", "%Z", "%a", "%b", "%c", "%d", "%e", "%f", "%g", "%h", "%j",
    "%k", "%l", "%m", "%p", "%r", "%u", "%w", "%x", "%y", "%z",
)  # fmt: skip
_CLOCK = (
    "{%- macro strftime_now(format) -%}{{ format"
    + "".join(f" | replace('{directive}', '{TEMPLATE_DATE.strftime(directive)}')" for directive in _DIRECTIVES)
    + " }}{%- endmacro %}{{ '' }}"
)
"""A Jinja macro in place of the function of that name, with which a template reads the clock."""
_ADDRESS = re.compile(r"\b(?:object|function|method|macro|generator)\b[^<>]* at 0x[0-9a-f]{6,}>")
_PROBE = "Answer in one word."
_PROBE_ANSWER = "Certainly."
_PROBE_ANSWERS = ("Certainly.", "Why not")
"""Two answers whose last tokens differ."""
RENDER_SECONDS = 10.0
"""Time limit of a template for one conversation."""
_HAS_SYSTEM_ROLE, _ANSWER_PREFIX = "stagezero_has_system_role", "stagezero_answer_prefix"
"""Attributes of a tokenizer for what its template was found to do."""


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a checkpoint.

    It pads on the left and adds no special token to a text. A checkpoint without a chat template
    gets a plain question-and-answer template, which begins with the token that its tokenizer would
    add. A missing stop token is taken from the model's configuration; a missing padding token is
    the stop token.

    Raises:
        ModelError: the tokenizer cannot be loaded, has no stop token, or its chat template cannot
            be rendered.
        WorkerError: a disk or mount failed, or there is too little memory.
    """
    from transformers import AutoTokenizer

    checkpoint.check_files(folder)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, padding_side="left", trust_remote_code=False)
        start = str(tokenizer.decode(_start_tokens(tokenizer)))
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # the tokenizers library raises a bare Exception for damaged files
        if (fault := worker_error(error, folder)) is not None:
            raise fault from None
        fix = "install the package that it names" if isinstance(error, ImportError) else "correct its files, or copy the checkpoint again"
        raise ModelError(f"{folder}: the tokenizer could not be loaded ({_first_line(error)}); {fix}.") from None
    _add_no_special_tokens(tokenizer)
    if tokenizer.eos_token is None:
        tokenizer.eos_token = _declared_stop_token(folder, tokenizer)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several templates by name; the others are for tools and documents
        template = template.get("default")
    if template is not None and not isinstance(template, str):
        raise ModelError(f"{folder}: expected 'chat_template' to be text; correct tokenizer_config.json.")
    if template is None:
        template = start.replace("{", "{{ '{' }}") + checkpoint.PLAIN_TEMPLATE
    tokenizer.chat_template = (_CLOCK if "strftime_now" in template else "") + template
    try:
        setattr(tokenizer, _HAS_SYSTEM_ROLE, _has_system_role(tokenizer))
        setattr(tokenizer, _ANSWER_PREFIX, _answer_prefix(tokenizer))
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from None
    except Exception as error:
        raise ModelError(f"{folder}: the chat template could not be rendered ({_first_line(error)}); correct the template.") from None
    return tokenizer


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _start_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the tokens that the tokenizer would add before a text."""
    plain, full = ([int(i) for i in tokenizer("a", add_special_tokens=added).input_ids] for added in (False, True))
    return full[: next((i for i in range(len(full)) if full[i : i + len(plain)] == plain), 0)]


def _add_no_special_tokens(tokenizer: Any) -> None:
    """Make a tokenizer add no token, also for a library that does not ask for that."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        from tokenizers.processors import ByteLevel

        backend.post_processor = ByteLevel(trim_offsets=False)  # changes no token
    if tokenizer("a").input_ids != tokenizer("a", add_special_tokens=False).input_ids:
        tokenizer.build_inputs_with_special_tokens = lambda ids, others=None: ids + (others or [])


def _declared_stop_token(folder: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the stop token that the model's configuration declares.

    Raises:
        ModelError: it declares none.
    """
    for name in ("generation_config.json", "config.json"):
        declared = checkpoint.read_object(folder / name).get("eos_token_id") if (folder / name).is_file() else None
        first = declared[0] if isinstance(declared, list) and declared else declared
        if isinstance(first, int) and 0 <= first < len(tokenizer):
            return str(tokenizer.convert_ids_to_tokens(first))
    raise ModelError(
        f"{folder}: the model has no stop token, so its answers would never end; set 'eos_token' in tokenizer_config.json, "
        "or 'eos_token_id' in config.json."
    )


@contextmanager
def _fixed_chance() -> Iterator[None]:
    """Give Python's generator a fixed state inside the block: a template can draw from it."""
    state = random.getstate()
    random.seed(0)
    try:
        yield
    finally:
        random.setstate(state)


def _render_text(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], prompt: bool) -> str:
    """Render a conversation of an item.

    Raises:
        UnreadableTextError: the template rejects its texts.
    """
    try:
        return _render(tokenizer, messages, prompt)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # a template may fail in any way
        raise UnreadableTextError(
            f"the model's chat template could not be rendered for the text {messages[-1]['content']!r:.80} ({_first_line(error)}); "
            "correct the template."
        ) from None


@contextmanager
def _time_limit() -> Iterator[None]:
    """Raise ``TimeoutError`` in the block after ``RENDER_SECONDS``: a template can loop for ever.

    Only the main thread can be interrupted in this way; workers and examinations render in it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def expire(*_: object) -> None:
        raise TimeoutError(f"it took longer than {RENDER_SECONDS:g} seconds")

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, RENDER_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, str]], prompt: bool) -> str:
    with _fixed_chance(), _time_limit():
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    return str(text)


def _has_system_role(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the template renders a system message; some reject it and some drop it.

    The plain template drops it on purpose: a model without a chat template follows no instructions.
    """
    from jinja2 import TemplateError

    if str(tokenizer.chat_template).endswith(checkpoint.PLAIN_TEMPLATE):
        return True
    question = [{"role": "user", "content": "Why?"}]
    _render(tokenizer, question, prompt=True)
    try:
        return _PROBE in _render(tokenizer, [{"role": "system", "content": _PROBE}, *question], prompt=True)
    except TemplateError:
        return False


def _answer_prefix(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return what the template puts between the prompt and an answer, if it is more than space.

    An empty block of thoughts is such a text. It belongs to the prompt: the model would otherwise
    learn to produce it, and be scored on it.

    Raises:
        ModelError: the template leaves out the question or the answer.
    """
    prompt = _render(tokenizer, [{"role": "user", "content": _PROBE}], prompt=True)
    messages = [{"role": "user", "content": _PROBE}, {"role": "assistant", "content": _PROBE_ANSWER}]
    whole = _render(tokenizer, messages, prompt=False)
    if _PROBE not in prompt or _PROBE_ANSWER not in whole:
        what = "question" if _PROBE not in prompt else "answer"
        raise ModelError(f"the chat template leaves out the {what} of a conversation whose contents are texts; correct the template.")
    if _ADDRESS.search(whole):
        raise ModelError("the chat template prints an object's address in memory, which differs in every process; correct the template.")
    before, _, _ = whole[len(prompt) :].partition(_PROBE_ANSWER) if whole.startswith(prompt) else ("", "", "")
    return before if before.strip() else ""


def _messages(tokenizer: PreTrainedTokenizerBase, question: str, instruction: str | None) -> list[dict[str, str]]:
    """Return a question as messages. Without a system role, the instruction begins the question."""
    if instruction and not getattr(tokenizer, _HAS_SYSTEM_ROLE, True):
        return [{"role": "user", "content": f"{instruction}\n\n{question}"}]
    system = [{"role": "system", "content": instruction}] if instruction else []
    return [*system, {"role": "user", "content": question}]


def render_prompt(tokenizer: PreTrainedTokenizerBase, question: str, instruction: str | None = None) -> str:
    """Render a question in the model's chat template, up to where the answer begins.

    Args:
        tokenizer: the model's tokenizer, from ``load_tokenizer``.
        question: the question.
        instruction: the system message; None for no system message.
    """
    prompt = _render_text(tokenizer, _messages(tokenizer, question, instruction), prompt=True)
    return prompt + getattr(tokenizer, _ANSWER_PREFIX, "")


def render_completion(
    tokenizer: PreTrainedTokenizerBase, question: str, answer: str, instruction: str | None = None, prompt: str | None = None
) -> str:
    """Render an answer as the continuation of ``render_prompt``, with the stop token.

    Args:
        tokenizer: the model's tokenizer, from ``load_tokenizer``.
        question: the question.
        answer: the answer.
        instruction: the system message; None for no system message.
        prompt: the question as ``render_prompt`` renders it; None to render it here.
    """
    prompt = render_prompt(tokenizer, question, instruction) if prompt is None else prompt
    messages = [*_messages(tokenizer, question, instruction), {"role": "assistant", "content": answer}]
    whole = _render_text(tokenizer, messages, prompt=False).rstrip()
    stop = str(tokenizer.eos_token or "")
    completion = whole[len(prompt) :] if whole.startswith(prompt) else answer
    return completion if completion.endswith(stop) else completion + stop


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Return the token ids of rendered texts. No special token is added.

    Raises:
        UnreadableTextError: the tokenizer has no token for a part of a text.
    """
    try:
        rows: list[list[int]] = tokenizer(list(texts), add_special_tokens=False).input_ids
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # the tokenizers library raises a bare Exception
        raise UnreadableTextError(
            f"the model's tokenizer cannot encode a text ({_first_line(error)}); correct the tokenizer or the chat template, or use "
            "another model."
        ) from None
    return rows


def encode_answers(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], answers: Sequence[str]
) -> tuple[list[list[int]], list[list[int]]]:
    """Return the token ids of prompts, and of the answers that continue them.

    The prompts' ids are those that the model receives when it answers. Where tokens of the whole
    text join across the boundary, the answer is encoded alone: the model cannot produce half a
    token.

    Args:
        tokenizer: the model's tokenizer, from ``load_tokenizer``.
        prompts: n rendered prompts.
        answers: n rendered answers, such as ``render_completion`` returns.

    Returns:
        Two lists of n rows.
    """
    heads = encode(tokenizer, prompts)
    wholes = encode(tokenizer, [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)])
    alone = encode(tokenizer, answers)
    tails = [whole[len(head) :] if whole[: len(head)] == head else tail for head, whole, tail in zip(heads, wholes, alone, strict=True)]
    return heads, tails


def answer_end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the token ids that follow every answer: the chat template's end and the stop token."""
    prompt = render_prompt(tokenizer, _PROBE)
    completions = [render_completion(tokenizer, _PROBE, answer, None, prompt) for answer in _PROBE_ANSWERS]
    _, (one, other) = encode_answers(tokenizer, [prompt] * 2, completions)
    same = next(n for n in range(len(one) + 1) if n == min(len(one), len(other)) or one[-1 - n] != other[-1 - n])
    return one[len(one) - same :]


def with_answer_end(answer: Sequence[int], end: Sequence[int]) -> list[int]:
    """Return a sampled answer as training sees it: with the whole end, once.

    Args:
        answer: the sampled tokens. They may contain a part of the end, since a model stops at the
            first of its stop tokens, or none, if the answer has reached its limit.
        end: the end, from ``answer_end``.
    """
    present = next(n for n in range(min(len(answer), len(end)), -1, -1) if list(answer[len(answer) - n :]) == list(end[:n]))
    return [*answer, *end[present:]]
