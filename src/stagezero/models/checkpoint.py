"""What a checkpoint folder is: safetensors weights, configuration and tokenizer, and one digest over them all.

Nothing else in the folder is ever loaded: no pickles, no remote code; and no file of a checkpoint may send a loader elsewhere, or
the digest would not be the model's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from stagezero.errors import ModelError
from stagezero.ledger import digest, file_digest

CONTENT = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model",
    "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}Q: {{ message['content'] }}\n"
    "{% elif message['role'] == 'assistant' %}A: {{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}A:{% endif %}"
)
"""The chat template of pocket models, and of a checkpoint that brings none."""
MOST_HEADER = 16 * 2**20  # bytes of one file's list of tensors, which is parsed whole


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in order."""
    return sorted(folder.glob("*.safetensors"))


def content_files(folder: Path) -> list[Path]:
    """Every file that is part of the model: weights, index, configuration, tokenizer, chat template."""
    index = sorted(folder.glob("*.safetensors.index.json"))
    return [*weight_files(folder), *index, *(folder / name for name in CONTENT if (folder / name).is_file())]


def checkpoint_digest(folder: Path) -> str:
    """SHA-256 over the names and bytes of everything that is part of the model."""
    return digest({path.name: file_digest(path) for path in content_files(folder)})


def copy_all_but_weights(source: Path, out: Path, config: bool = True) -> None:
    """Copy tokenizer and configuration from one checkpoint folder to another unchanged; ``config.json`` only if ``config``."""
    for name in CONTENT:
        if (source / name).is_file() and (config or name != "config.json"):
            shutil.copyfile(source / name, out / name)


def tensors(folder: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → (shape, dtype) of every tensor, read from the headers alone.

    Raises:
        ModelError: no weights, or a file is damaged or cut short.
    """
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    files = weight_files(folder)
    if not files:
        raise ModelError(f"{folder}: expected a checkpoint with .safetensors weights, found none; check the path or convert the model.")
    for path in files:
        with path.open("rb") as handle:
            header = int.from_bytes(handle.read(8), "little")
        if header > MOST_HEADER:
            raise ModelError(
                f"{path}: the weights are damaged or cut short (a list of tensors of {header:,} bytes, at most {MOST_HEADER:,} are taken); "
                "copy the checkpoint again."
            )
        try:
            with safe_open(path, framework="pt") as handle:
                for name in handle.keys():  # noqa: SIM118  (not a dict)
                    part = handle.get_slice(name)
                    found[name] = (tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path}: the weights are damaged or cut short ({error}); copy the checkpoint again.") from None
    return found


def check(folder: Path) -> None:
    """Refuse a folder that is not a whole checkpoint.

    Raises:
        ModelError: a file is missing, damaged or cut short.
    """
    if not folder.is_dir():
        raise ModelError(f"model {str(folder)!r}: expected a checkpoint folder, found none; check the path.")
    config = folder / "config.json"
    if not config.is_file():
        raise ModelError(f"{folder}: config.json is missing; expected a Transformers checkpoint folder.")
    _object(config)
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        raise ModelError(f"{folder}: no tokenizer; expected tokenizer.json beside the weights.")
    _no_way_out(folder)
    tensors(folder)


def _object(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: not valid JSON; copy the checkpoint again.") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: expected a JSON object; copy the checkpoint again.")
    return found


def _no_way_out(folder: Path) -> None:
    """Refuse an index or a tokenizer that names files outside the folder: loaders would follow it, past the digest.

    Raises:
        ModelError: naming the file that does.
    """
    weights = {path.name for path in weight_files(folder)}
    for path in sorted(folder.glob("*.safetensors.index.json")):
        shards = _object(path).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) and name in weights for name in shards.values()):
            raise ModelError(f"{path}: expected a weight_map that names weight files of this folder alone; copy the checkpoint again.")
    path = folder / "tokenizer_config.json"
    others = _object(path).get("fast_tokenizer_files") if path.is_file() else None
    if others is not None and not (isinstance(others, list) and all(isinstance(name, str) and name in CONTENT for name in others)):
        raise ModelError(f"{path}: expected fast_tokenizer_files that name files of this folder alone; remove the entry.")
