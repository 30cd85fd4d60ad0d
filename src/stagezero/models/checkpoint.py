"""Checkpoint folders: which files belong to a model, their digest, and their validation.

A checkpoint consists of safetensors weights, configuration and tokenizer. No other file in the
folder is ever loaded: no pickles and no remote code. No file of a checkpoint may refer a loader to
a file outside the folder, because the digest would not cover that file.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stagezero.errors import ModelError
from stagezero.ledger import digest, file_digest

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
MAX_HEADER_BYTES = 16 * 2**20
"""Limit for the list of tensors in one weight file, which is parsed as a whole."""


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a checkpoint, sorted by name."""
    return sorted(folder.glob("*.safetensors"))


def content_files(folder: Path) -> list[Path]:
    """Return all files of the model: weights, index, configuration, tokenizer, chat template."""
    index = sorted(folder.glob("*.safetensors.index.json"))
    return [*weight_files(folder), *index, *(folder / name for name in CONTENT_FILES if (folder / name).is_file())]


def checkpoint_digest(folder: Path) -> str:
    """Return SHA-256, as hex, over the names and bytes of all files of the model."""
    return digest({path.name: file_digest(path) for path in content_files(folder)})


def copy_all_but_weights(source: Path, out: Path, config: bool = True) -> None:
    """Copy tokenizer and configuration from one checkpoint folder to another, unchanged.

    Args:
        config: also copy ``config.json``.
    """
    for name in CONTENT_FILES:
        if (source / name).is_file() and (config or name != "config.json"):
            shutil.copyfile(source / name, out / name)


def tensors(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shape and dtype of every tensor, by its name, read from the files' headers.

    Raises:
        ModelError: there are no weights, or a file is damaged or cut short.
    """
    shapes: dict[str, tuple[tuple[int, ...], str]] = {}
    files = weight_files(folder)
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
            raise ModelError(f"{path}: the weights are damaged or cut short ({error}); copy the checkpoint again.") from None
    return shapes


def check(folder: Path) -> None:
    """Reject a folder that is not a complete checkpoint.

    Raises:
        ModelError: a file is missing, damaged or cut short, or refers to files outside the folder.
    """
    if not folder.is_dir():
        raise ModelError(f"model {str(folder)!r}: expected a checkpoint folder, found none; check the path.")
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder}: config.json is missing; expected a Transformers checkpoint folder.")
    _read_object(config)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{folder}: no tokenizer; expected tokenizer.json beside the weights.")
    _reject_outside_files(folder)
    tensors(folder)


def _read_object(path: Path) -> dict[str, Any]:
    """Read a file that contains one JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: not valid JSON; copy the checkpoint again.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object; copy the checkpoint again.")
    return value


def _reject_outside_files(folder: Path) -> None:
    """Reject an index or a tokenizer that refers to files outside the folder.

    Loaders would open such a file, and the digest does not cover it.

    Raises:
        ModelError: the message contains the name of the file with the reference.
    """
    weights = {path.name for path in weight_files(folder)}
    for path in sorted(folder.glob("*.safetensors.index.json")):
        shards = _read_object(path).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) and name in weights for name in shards.values()):
            raise ModelError(f"{path}: expected a weight_map with only weight files of this folder; copy the checkpoint again.")
    path = folder / "tokenizer_config.json"
    others = _read_object(path).get("fast_tokenizer_files") if path.is_file() else None
    if others is not None and not (isinstance(others, list) and all(isinstance(name, str) and name in CONTENT_FILES for name in others)):
        raise ModelError(f"{path}: expected fast_tokenizer_files with only files of this folder; remove the entry.")
