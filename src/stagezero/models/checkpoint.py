"""Checkpoint folders: which files belong to a model, their digest, and their validation.

A checkpoint consists of safetensors weights, configuration and tokenizer. What is hashed is what is
loaded: a folder with another file that Transformers could read (an adapter, a second chat template,
code) is rejected, and so is a file that refers a loader to a file which is not hashed.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stagezero.errors import ModelError
from stagezero.ledger import digest, file_digest
from stagezero.machine_faults import worker_error

CONTENT_FILES = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}Q: {{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}A: {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
"""The chat template of pocket models, and of a checkpoint that has none."""
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_SHARD = re.compile(r"[A-Za-z0-9._-]{1,100}\.safetensors")
_NOT_READ = re.compile(
    r"\..*|(readme(\.(md|txt|rst))?|licen[sc]e.*|notice.*|use_policy.*|acceptable_use_policy.*)"
    r"|(?!adapter_model\.).*\.(safetensors|bin|pt|pth|msgpack|h5|ot|onnx|gguf|tflite)|(pytorch_model|flax_model)\..*index\.json"
    r"|.*\.(md|pdf|png|jpe?g|gif|svg|ya?ml|ini|db|log|out|csv|tsv|cff|bak)|.*tfevents\..*|modelfile|__pycache__|requirements\.txt|trainer_log\.jsonl|latest|zero_to_fp32\.py"
    r"|original|onnx|coreml|assets|figures|images|data|eval|runs|wandb|logs|completions|checkpoint-\d+|global_step\d+"
    r"|(made_by|build|args|tokens_state|trainer_state|params|configuration|modelcard|generation_config_for_text_generation|.*_results)\.json"
    r"|(image_|video_)?(pre)?processor_config\.json|model\.safetensors\.index\.json",
    re.IGNORECASE,
)
"""Other names that a checkpoint folder may hold: no loader of language models reads such a file."""
_MAYBE_READ = re.compile(r"tokenizer|tekken|tiktoken|sentencepiece|spiece|vocab|merges|\.model", re.IGNORECASE)
"""Parts of names by which tokenizer libraries search a folder."""
_FILE_KEYS = ("vocab", "merges", "gguf_file")
"""Entries of tokenizer settings that name a file, besides those that end in ``_file``."""
_UNUSED_FILE_KEYS = ("special_tokens_map_file", "added_tokens_file")
"""Entries of tokenizer_config.json that name a file which Transformers never opens."""
MAX_HEADER_BYTES = 16 * 2**20
"""Limit for the list of tensors in one weight file, which is parsed as a whole."""


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that Transformers loads from a checkpoint, sorted by name.

    That is ``model.safetensors``; if there is none, the files that the index names. If the index is
    not valid, the list is empty.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    try:
        return [folder / name for name in _shards(folder / INDEX)]
    except (ModelError, OSError):
        return []


def _shards(index: Path) -> list[str]:
    """Return the names of the weight files in an index, sorted.

    Raises:
        ModelError: the index is not valid, or names a file that is not in its folder.
    """
    shards = read_object(index).get("weight_map")
    names = set(shards.values()) if isinstance(shards, dict) and all(isinstance(name, str) for name in shards.values()) else {""}
    if not all(_SHARD.fullmatch(name) and (index.parent / name).is_file() for name in names):
        raise ModelError(f"{index}: expected a weight_map with only weight files of this folder; copy the checkpoint again.")
    return sorted(names)


def content_files(folder: Path) -> list[Path]:
    """Return all files of the model: weights, index, configuration, tokenizer, chat template."""
    weights = weight_files(folder)
    index = [folder / INDEX] if (folder / INDEX).is_file() and weights != [folder / WEIGHTS] else []
    return [*weights, *index, *(folder / name for name in CONTENT_FILES if (folder / name).is_file())]


def fingerprint(folder: Path) -> tuple[tuple[str, int, int, int, int], ...]:
    """Return what changes whenever a file of the model is written or replaced; it reads no file.

    Code that hashes a folder and then loads it compares the fingerprints before and after. If they
    are equal, the loaded files are the hashed ones.
    """
    stats = [(path.name, path.stat()) for path in content_files(folder)]
    return tuple((name, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats)


def checkpoint_digest(folder: Path) -> str:
    """Return SHA-256, as hex, over the names and bytes of all files of the model.

    Raises:
        OSError: there is no such file, or they changed while they were read: a mount may be lost.
    """
    files = content_files(folder)
    content = {path.name: file_digest(path) for path in files}
    if not files or content_files(folder) != files:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(folder))
    return digest(content)


def copy_all_but_weights(source: Path, out: Path, config: bool = True) -> None:
    """Copy tokenizer and configuration from one checkpoint folder to another, unchanged.

    Args:
        config: also copy ``config.json``.
    """
    for name in CONTENT_FILES:
        if (source / name).is_file() and (config or name != "config.json"):
            shutil.copyfile(source / name, out / name)


def tensors(folder: Path, files: Sequence[Path] | None = None) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and dtype of every tensor, by its name, read from the files' headers.

    Args:
        folder: the folder with the weights.
        files: the weight files; None takes those of a checkpoint.

    Raises:
        ModelError: there are no weights, or a file is damaged or cut short.
    """
    shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    files = weight_files(folder) if files is None else files
    if not files:
        raise ModelError(f"{folder}: expected a checkpoint with .safetensors weights, found none; check the path or convert the model.")
    for path in files:
        with path.open("rb") as handle:
            header = int.from_bytes(handle.read(8), "little")
        if header > MAX_HEADER_BYTES:
            raise ModelError(
                f"{path}: the weights are damaged or cut short (expected a list of tensors of at most "
                f"{MAX_HEADER_BYTES:,} bytes, got {header:,}); "
                "copy the checkpoint again."
            )
        try:
            with safe_open(path, framework="numpy") as handle:  # reads headers alone, and does not import torch
                for name in handle.keys():  # noqa: SIM118  (not a dict)
                    part = handle.get_slice(name)
                    shapes[name] = (tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            if (fault := worker_error(error, path)) is not None:
                raise fault from None
            raise ModelError(f"{path}: the weights are damaged or cut short ({error}); copy the checkpoint again.") from None
    return shapes


def first_non_finite_tensor(folder: Path) -> str | None:
    """Return the name of a tensor with a weight that is NaN or infinite; None if there is none."""
    import torch

    for path in weight_files(folder):
        with safe_open(path, framework="pt") as handle:
            for name in handle.keys():  # noqa: SIM118  (not a dict)
                tensor = handle.get_tensor(name)
                tensor = tensor.float() if tensor.element_size() == 1 else tensor  # torch tests no float8
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    return str(name)
    return None


def check(folder: Path) -> None:
    """Reject a folder that is not a complete checkpoint.

    Raises:
        ModelError: a file is missing, damaged or cut short, could be loaded without being hashed,
            or refers to files that are not hashed.
    """
    check_files(folder)
    tensors(folder)


def check_files(folder: Path) -> None:
    """Reject a folder that is not a checkpoint, without a look at its weights; see ``check``."""
    if not folder.is_dir():
        raise ModelError(f"model {str(folder)!r}: expected a checkpoint folder, found none; check the path.")
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder}: config.json is missing; expected a Transformers checkpoint folder.")
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{folder}: no tokenizer; expected tokenizer.json beside the weights.")
    _reject_other_files(folder)
    _reject_references(folder)


def _reject_other_files(folder: Path) -> None:
    """Reject a folder with a file that is not hashed and that Transformers could load.

    Raises:
        ModelError: the message names the file.
    """
    hashed = {path.name for path in content_files(folder)}
    others = sorted(
        path.name
        for path in folder.iterdir()
        if path.name not in hashed and (not _NOT_READ.fullmatch(path.name) or _MAYBE_READ.search(path.name))
    )
    if not others:
        return
    fix = "remove it, or copy the model's own files to another folder"
    if any(name.startswith("adapter_") for name in others):
        others = [name for name in others if name.startswith("adapter_")]
        fix = "merge the adapter into the weights (merge_and_unload of peft), save that model, and give its folder"
    raise ModelError(f"{folder}: {others[0]!r} is no part of a checkpoint as stagezero hashes it, but a loader might use it; {fix}.")


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of a checkpoint that contains one JSON object.

    Raises:
        ModelError: it contains anything else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_reject_constant)
    except (ValueError, RecursionError) as error:
        reason = f" ({error})" if type(error) is ValueError else ""
        raise ModelError(f"{path}: not valid JSON{reason}; copy the checkpoint again.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object; copy the checkpoint again.")
    return value


def _reject_constant(name: str) -> None:
    """Reject NaN and infinity, which JSON does not have and Python reads."""
    raise ValueError(f"it contains {name}")


def _reject_references(folder: Path) -> None:
    """Reject a configuration or tokenizer that refers to files or code that are not hashed.

    Raises:
        ModelError: the message contains the name of the file with the reference.
    """
    if (folder / INDEX).is_file():
        _shards(folder / INDEX)
    path = folder / "config.json"
    for key, value in _entries(read_object(path)):
        if key in ("transformers_weights", "attribute_map", "configuration_files") and value is not None:
            raise ModelError(f"{path}: {key!r} can name other weights than {WEIGHTS}, or another configuration; remove the entry.")
        if key.endswith("_implementation") and any("/" in text for text in _texts(value)):
            raise ModelError(f"{path}: {key!r} names code of a hub ({str(value)!r:.80}), which is not run; remove the entry.")
    path = folder / "tokenizer_config.json"
    settings = read_object(path) if path.is_file() else {}
    others = settings.get("fast_tokenizer_files")
    if others is not None and not (isinstance(others, list) and all(isinstance(name, str) and name in CONTENT_FILES for name in others)):
        raise ModelError(f"{path}: expected fast_tokenizer_files with only files of this folder; remove the entry.")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        for key, value in read_object(path).items() if path.is_file() else ():
            names_a_file = (key.endswith("_file") and key not in _UNUSED_FILE_KEYS) or key in _FILE_KEYS
            if names_a_file and isinstance(value, str) and value not in CONTENT_FILES:
                raise ModelError(f"{path}: {key!r} names a file outside the folder ({value!r:.80}); remove the entry.")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield every key of nested objects, with its value."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield key, inner
        yield from _entries(inner)


def _texts(value: Any) -> Iterator[str]:
    """Yield a text, or every text that an object or a list contains."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(inner)
