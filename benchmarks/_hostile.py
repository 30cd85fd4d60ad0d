"""Hostile checkpoints, and how an auditor must respond to each.

Each is a copy of an honest checkpoint that was changed in one way. ``_auditing.attempt`` submits
one.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import shutil
import socket
import stat
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from stagezero.models import checkpoint_digest

WEIGHTS = "model.safetensors"
REFUSED, ANSWERED, EITHER = "refused", "answered", "either"
MARKER = "it-ran"
"""A file beside the model's folder. It exists only if code of the model was executed."""

Change = Callable[[Path], str | None]
"""Changes a checkpoint folder; may return another path, which is submitted instead."""


@dataclass(frozen=True, slots=True)
class Attack:
    """One hostile checkpoint.

    Args:
        name: name of the attack.
        apply: changes a copy of an honest checkpoint.
        expected: whether it must be refused before a charge, or charged and answered.
        verdict: verdict that it must have if it is answered; None if either is right.
        slow: whether it takes all the time of an audit, or much disk space.
    """

    name: str
    apply: Change
    expected: Literal["refused", "answered", "either"]
    verdict: Literal["pass", "fail"] | None = None
    slow: bool = False


def digest_of(folder: Path) -> str:
    """Return the true digest of a folder if it can be computed, else 64 zeros.

    With a wrong digest, an attack would be refused for the wrong reason.
    """
    try:
        for path in folder.iterdir():
            if path.suffix == ".safetensors" and (not path.is_file() or path.stat().st_size > 2**30):
                return "0" * 64
        return checkpoint_digest(folder)
    except (OSError, ValueError, RuntimeError):
        return "0" * 64


# --- weights --------------------------------------------------------------------------------------


def _raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Return a safetensors file; ``length`` is the stated length of the header."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _weights(content: bytes) -> Change:
    """Replace the weights by other bytes."""

    def apply(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(content)

    return apply


def _header(**tensors: Any) -> Change:
    """Replace the weights by 16 zero bytes with this header."""
    return _weights(_raw(json.dumps(tensors).encode(), bytes(16)))


def _tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    """Return the entry of a tensor in a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def _many(dtype: str = "F32", n: int = 250_000) -> Change:
    """Replace the weights by many empty tensors."""
    part = ",".join(f'"t{i}":{{"dtype":"{dtype}","shape":[0],"data_offsets":[0,0]}}' for i in range(n))
    return _weights(_raw(f"{{{part}}}".encode()))


def _changed_weights(change: Callable[[str, Any], Any]) -> Change:
    """Apply ``change`` to every tensor; a tensor that becomes None is removed."""

    def apply(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(folder / WEIGHTS)
        changed = {name: change(name, tensor) for name, tensor in tensors.items()}
        save_file({n: t.contiguous() for n, t in changed.items() if t is not None}, folder / WEIGHTS, {"format": "pt"})

    return apply


def _more_tensors(folder: Path) -> None:
    """Add 500 tensors with odd names."""
    import torch
    from safetensors.torch import load_file, save_file

    odd = {f"../../{i}/\u202e\n": torch.ones(3) for i in range(500)}
    save_file({**load_file(folder / WEIGHTS), **odd}, folder / WEIGHTS, {"format": "pt"})


def _other_dtype(folder: Path) -> None:
    """Declare the floats as integers."""
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content.replace(b'"F32"', b'"I32"'))


def _cut(folder: Path) -> None:
    """Truncate the weights to half of their size."""
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size // 2)


def _sparse(folder: Path) -> None:
    """Extend the weights to a sparse file of 1 TiB."""
    os.truncate(folder / WEIGHTS, 2**40)


def _zipped(folder: Path) -> None:
    """Replace the weights by a zip archive with a path outside and a bomb."""
    inside = (folder / WEIGHTS).read_bytes()
    with zipfile.ZipFile(folder / WEIGHTS, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("../../../../tmp/model.safetensors", inside)
        out.writestr("bomb", bytes(2**26))


def _gzipped(folder: Path) -> None:
    """Replace the weights by a gzip bomb."""
    (folder / WEIGHTS).write_bytes(gzip.compress((folder / WEIGHTS).read_bytes() + bytes(2**26)))


class _Runs:
    """An object that creates the marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {self.marker}",))


def _pickled(names: tuple[str, ...]) -> Change:
    """Write files with a pickle that creates the marker file."""

    def apply(folder: Path) -> None:
        for name in names:
            (folder / name).write_bytes(pickle.dumps(_Runs(folder.parent / MARKER)))

    return apply


def _shards(folder: Path) -> None:
    """Add 600 empty weight files."""
    for i in range(600):
        (folder / f"part-{i}.safetensors").write_bytes(_raw(b"{}"))


def _index(target: Callable[[Path], str]) -> Change:
    """Move the weights out of the folder, and leave an index that names them and an empty file."""

    def apply(folder: Path) -> None:
        from safetensors import safe_open

        outside = folder.parent / "outside.safetensors"
        shutil.move(folder / WEIGHTS, outside)
        with safe_open(outside, framework="pt") as handle:
            names = list(handle.keys())
        (folder / "stub.safetensors").write_bytes(_raw(b"{}"))
        index = {"metadata": {}, "weight_map": dict.fromkeys(names, target(folder))}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))

    return apply


def _bad_index(content: str) -> Change:
    """Add an index with this content."""

    def apply(folder: Path) -> None:
        (folder / f"{WEIGHTS}.index.json").write_text(content)

    return apply


# --- configuration, tokenizer, template -----------------------------------------------------------


def _set(name: str, **values: Any) -> Change:
    """Change some keys of a JSON file."""

    def apply(folder: Path) -> None:
        path = folder / name
        fields = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**fields, **values}))

    return apply


def _config(**values: Any) -> Change:
    """Change some keys of the configuration."""
    return _set("config.json", **values)


def _file(name: str, content: str | bytes) -> Change:
    """Write a file of the model."""

    def apply(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return apply


def _template(text: str) -> Change:
    """Set the chat template in both places where it may be."""

    def apply(folder: Path) -> None:
        template = text.replace("MARKER", str(folder.parent / MARKER))
        (folder / "chat_template.jinja").write_text(template)
        _set("tokenizer_config.json", chat_template=template)(folder)

    return apply


def _tokenizer(change: Callable[[dict[str, Any]], Any]) -> Change:
    """Change the tokenizer's JSON in place."""

    def apply(folder: Path) -> None:
        path = folder / "tokenizer.json"
        tokenizer = json.loads(path.read_text())
        change(tokenizer)
        path.write_text(json.dumps(tokenizer))

    return apply


def _split(pattern: str) -> Change:
    """Make the tokenizer split text by a regular expression."""
    rule = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return _tokenizer(lambda t: t.update(pre_tokenizer=rule))


def _doubling(steps: int) -> Change:
    """Make the tokenizer's normalizer double the text many times."""
    double = [{"type": "Replace", "pattern": {"Regex": "(?s)."}, "content": "aa"}] * steps
    return _tokenizer(lambda t: t.update(normalizer={"type": "Sequence", "normalizers": double}))


def _far_ids(tokenizer: dict[str, Any]) -> None:
    """Add 10^9 to every token id."""
    vocabulary = tokenizer["model"]["vocab"]
    if isinstance(vocabulary, dict):
        tokenizer["model"]["vocab"] = {token: i + 10**9 for token, i in vocabulary.items()}


def _code(name: str, **auto: str) -> Change:
    """Add code to the model that a loader with remote code enabled would run."""

    def apply(folder: Path) -> None:
        (folder / "evil.py").write_text(f"open({str(folder.parent / MARKER)!r}, 'w')\nclass Evil: pass\n")
        _set(name, auto_map=auto, model_type="evil" if name == "config.json" else None)(folder)

    return apply


def _adapter(folder: Path) -> None:
    """Add an adapter with a hostile configuration."""
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "/etc", "auto_mapping": {"parent_library": "os"}})
    )
    (folder / "adapter_model.safetensors").write_bytes(_raw(b"{}"))


# --- the folder itself ----------------------------------------------------------------------------


def _linked(name: str, target: str | None = None) -> Change:
    """Replace a file by a symlink to ``target``; by default, to the file at another place."""

    def apply(folder: Path) -> None:
        path = folder / name
        destination = Path(target) if target is not None else folder.parent / f"elsewhere-{name}"
        if target is None:
            shutil.move(path, destination)
        path.unlink(missing_ok=True)
        path.symlink_to(destination)

    return apply


def _hard_linked(folder: Path) -> None:
    """Create a second link to the weights."""
    (folder.parent / "first").hardlink_to(folder / WEIGHTS)


def _fifo(folder: Path) -> None:
    """Replace the weights by a named pipe."""
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)


def _device(folder: Path) -> None:
    """Replace the tokenizer by a device, or by a link to one."""
    (folder / "tokenizer.json").unlink()
    try:
        os.mknod(folder / "tokenizer.json", 0o666 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    except OSError:
        (folder / "tokenizer.json").symlink_to("/dev/zero")


def _socket(folder: Path) -> None:
    """Replace the configuration by a socket."""
    (folder / "config.json").unlink()
    working_folder = Path.cwd()
    os.chdir(folder)  # the path of a socket must be short
    try:
        with socket.socket(socket.AF_UNIX) as unix_socket:
            unix_socket.bind("config.json")
    finally:
        os.chdir(working_folder)


def _folder_as_file(folder: Path) -> None:
    """Replace the weights by a folder."""
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def _link_to(target: str) -> Change:
    """Submit a symlink to a folder; AUDITOR is replaced by the auditor's folder."""

    def apply(folder: Path) -> str:
        link = folder.parent / "link"
        link.symlink_to(target.replace("AUDITOR", str(folder.parent.parent / "auditor")))
        return str(link)

    return apply


def _instead(path: str) -> Change:
    """Submit another path; AUDITOR is replaced by the auditor's folder, HERE by the model's."""
    return lambda folder: path.replace("AUDITOR", str(folder.parent.parent / "auditor")).replace("HERE", str(folder))


def _loop(folder: Path) -> str:
    """Submit a symlink to itself."""
    (folder.parent / "loop").symlink_to(folder.parent / "loop")
    return str(folder.parent / "loop")


def _deep(n: int) -> str:
    """Return n nested JSON lists."""
    return "[" * n + "]" * n


_TWICE = b'{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
_NAN, _INF = float("nan"), float("inf")
_SPIN = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"


def attacks() -> list[Attack]:
    """Return all hostile checkpoints."""
    r, a, e = REFUSED, ANSWERED, EITHER
    rows: list[tuple[Any, ...]] = [
        # malformed weights
        ("weights cut in half", _cut, r),
        ("empty weights", _weights(b""), r),
        ("seven bytes", _weights(b"\x01" * 7), r),
        ("header of 2^63 bytes", _weights(_raw(b"{}", length=2**63)), r),
        ("header of 2^64-1 bytes", _weights(_raw(b"{}", length=2**64 - 1)), r),
        ("header of 99 MB", _weights(_raw(b"[" * 99_000_000)), r, None, True),
        ("header nested deeply", _weights(_raw(_deep(100_000).encode())), r),
        ("header of 250,000 tensors", _many(), e, "fail", True),
        ("header not UTF-8", _weights(_raw(b'{"\xff\xfe":1}')), r),
        ("header that is a list", _weights(_raw(b"[]")), r),
        ("metadata that is not text", _weights(_raw(b'{"__metadata__":{"a":[1]}}')), r),
        ("overlapping tensors", _header(a=_tensor("F32", [2], 0, 8), b=_tensor("F32", [2], 4, 12)), r),
        ("tensor beyond the end", _header(a=_tensor("F32", [2**40], 0, 2**42)), r),
        ("negative offsets", _header(a=_tensor("F32", [2], -8, 0)), r),
        ("shape that overflows", _header(a=_tensor("F32", [2**62, 2**62], 0, 16)), r),
        ("negative shape", _header(a=_tensor("F32", [-4], 0, 16)), r),
        ("unknown dtype", _header(a=_tensor("F99", [4], 0, 16)), r),
        ("the same tensor twice", _weights(_raw(_TWICE, bytes(16))), e),
        ("no tensors at all", _weights(_raw(b"{}")), e, "fail"),
        ("a gzip bomb as weights", _gzipped, r),
        ("a zip with .. as weights", _zipped, r),
        ("a pickle as weights", _pickled((WEIGHTS,)), r),
        ("pickles beside the weights", _pickled(("pytorch_model.bin", "training_args.bin", "model.pt")), a, "pass"),
        ("sparse file of 1 TiB", _sparse, r),
        ("600 shards", _shards, r),
        # weights that are well-formed
        ("integers for floats", _other_dtype, a),
        ("NaN weights", _changed_weights(lambda _, t: t * _NAN), a),
        ("infinite weights", _changed_weights(lambda _, t: t * _INF), a),
        ("zero-size tensors", _changed_weights(lambda _, t: t[:0]), a, "fail"),
        ("half of the tensors missing", _changed_weights(lambda n, t: None if "mlp" in n else t), a, "fail"),
        ("500 more tensors with odd names", _more_tensors, a),
        # an index
        ("index names ../ file", _index(lambda _: "../outside.safetensors"), r),
        ("index names an absolute path", _index(lambda f: str(f.parent / "outside.safetensors")), r),
        ("index names a missing file", _index(lambda _: "gone.safetensors"), r),
        ("index that is a list", _bad_index("[1, 2]"), r),
        ("index nested deeply", _bad_index(_deep(100_000)), r),
        ("index of numbers", _bad_index('{"weight_map": {"a": 7}}'), r),
        # configuration
        ("configuration that is a list", _file("config.json", "[]"), r),
        ("configuration not UTF-8", _file("config.json", b'{"a": "\xff"}'), r),
        ("configuration nested deeply", _file("config.json", '{"a":' + _deep(100_000) + "}"), r),
        ("configuration of 60 MB", _file("config.json", '{"a":"' + "x" * 60_000_000 + '"}'), r, None, True),
        ("configuration of NaN", _config(rms_norm_eps=_NAN), r),
        ("a billion wide", _config(hidden_size=10**9), a, "fail"),
        ("a billion layers", _config(num_hidden_layers=10**9), a, "fail", True),
        ("a vocabulary of 10^12", _config(vocab_size=10**12), a, "fail"),
        ("10^15 positions", _config(max_position_embeddings=10**15), a),
        ("negative sizes", _config(hidden_size=-16, num_attention_heads=-1), a, "fail"),
        ("sizes that are text", _config(hidden_size="many"), a, "fail"),
        ("no heads", _config(num_attention_heads=0), a, "fail"),
        ("a number of 5,000 digits", _file("config.json", '{"hidden_size": ' + "9" * 5000 + "}"), e, "fail"),
        ("remote code beside it", _code("config.json", AutoConfig="evil.Evil", AutoModelForCausalLM="evil.Evil"), a, "fail"),
        ("remote code from a hub", _code("config.json", AutoConfig="evil/evil--evil.Evil"), a, "fail"),
        ("remote code of a tokenizer", _code("tokenizer_config.json", AutoTokenizer="evil.Evil"), a),
        ("another architecture", _config(model_type="bert", architectures=["BertModel"]), a),
        ("another class", _config(architectures=["os.system"]), a),
        ("an encoder-decoder", _config(model_type="encoder-decoder", encoder={"model_type": "bert"}), a, "fail"),
        ("weights outside the folder", _config(transformers_weights="../outside.safetensors"), r),
        ("quantised by bitsandbytes", _config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}), a, "fail"),
        ("an unknown quantisation method", _config(quantization_config={"quant_method": "../evil"}), a),
        ("attention from a hub", _config(_attn_implementation="evil/kernels"), r),
        ("an odd dtype", _config(dtype="__import__('os')", torch_dtype="evil"), a),
        ("an absurd rotary factor", _config(rope_scaling={"rope_type": "dynamic", "factor": 1e300}), a),
        ("an adapter beside it", _adapter, r),
        # generation
        ("a million beams", _set("generation_config.json", num_beams=10**6, max_length=10**9, min_length=10**9, do_sample=True), a),
        ("a million stop tokens", _set("generation_config.json", eos_token_id=list(range(10**6))), a),
        ("stop tokens that are text", _set("generation_config.json", eos_token_id="stop"), a),
        ("generation nested deeply", _file("generation_config.json", _deep(100_000)), a),
        ("generation of a custom kind", _set("generation_config.json", custom_generate="evil/evil", trust_remote_code=True), a),
        # tokenizer
        ("a pattern with exponential backtracking", _split("(.*)*(.*)*(.*)*x$"), a, None, True),
        ("nested repetitions in a pattern", _split("((((a{1,99}){1,99}){1,99}){1,99})"), a),
        ("a text that doubles 60 times", _doubling(60), a, "fail", True),
        ("tokens far away", _tokenizer(_far_ids), a, "fail"),
        ("tokenizer cut short", _file("tokenizer.json", '{"version": "1.0", '), a, "fail"),
        ("tokenizer nested deeply", _file("tokenizer.json", _deep(100_000)), a, "fail"),
        ("tokenizer of another class", _set("tokenizer_config.json", tokenizer_class="os.system"), a),
        ("tokenizer files outside the folder", _set("tokenizer_config.json", fast_tokenizer_files=["../tokenizer.4.0.0.json"]), r),
        ("tokenizer file outside the folder", _set("tokenizer_config.json", tokenizer_file="/etc/passwd", vocab_file="/etc/passwd"), r),
        ("tokenizer configuration that is a list", _file("tokenizer_config.json", "[]"), r),
        # chat templates
        ("template: classes", _template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), a, "fail"),
        ("template: globals", _template("{{ cycler.__init__.__globals__.os.system('touch MARKER') }}"), a, "fail"),
        ("template: namespace", _template("{{ namespace.__init__.__globals__['os'].system('touch MARKER') }}"), a, "fail"),
        ("template: format", _template("{{ '{0.__class__.__init__.__globals__}'.format(raise_exception) }}"), a),
        ("template: include", _template("{% include '/etc/passwd' %}{% import 'os' as os %}"), a, "fail"),
        ("template: range(10**12)", _template("{% for i in range(10**12) %}a{% endfor %}"), a, "fail"),
        ("template: loops in loops", _template(_SPIN), a, "fail", True),
        ("template: 'a'*10**12", _template("{{ 'a'*10**12 }}"), a, "fail"),
        ("template: 'a'*10**9", _template("{{ 'a'*10**9 }}"), a, "fail", True),
        ("template: 10^8 characters in an error", _template("{{ raise_exception('a'*10**8) }}"), a, "fail"),
        ("template: wide format", _template("{{ '%2000000000d' | format(1) }}"), a, "fail"),
        ("template: indent of 10^9", _template("{{ messages | tojson(indent=10**9) }}"), a, "fail"),
        ("template: ** of **", _template("{{ 9**(9**9) }}"), a, "fail", True),
        ("template: infinite recursion", _template("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"), a, "fail"),
        ("template: prints all variables", _template("{{ messages }}{{ self }}{{ tools }}{{ documents }}"), a),
        ("template: prints nothing", _template(""), a),
        ("template: prints a blank", _template(" "), a),
        ("template: invalid syntax", _template("{% for %}"), a, "fail"),
        ("template of 60 MB", _file("chat_template.jinja", "{{ messages }}" + "a" * 60_000_000), a, "fail", True),
        # the folder
        ("weights are a link", _linked(WEIGHTS), r),
        ("configuration is a link to /etc/passwd", _linked("config.json", "/etc/passwd"), r),
        ("hard link", _hard_linked, a, "pass"),
        ("weights are a pipe", _fifo, r),
        ("tokenizer is a device", _device, r),
        ("configuration is a socket", _socket, r),
        ("weights are a folder", _folder_as_file, r),
        ("odd names", _file("mod\u00e8le\n\u202e.safetensors", _raw(b"{}")), a),  # no part of the model
        ("the auditor's folder", _instead("AUDITOR"), r),
        ("the auditor's intake", _instead("AUDITOR/intake"), r),
        ("the auditor's folder by a link", _link_to("AUDITOR"), r),
        ("the auditor's folder by ..", _instead("HERE/../../auditor/intake"), r),
        ("the auditor's folder by /proc", _instead("/proc/self/rootAUDITOR"), r),
        ("a relative path", _instead("."), r),
        ("no path", _instead(""), r),
        ("a path with NUL", _instead("HERE\x00/etc"), r),
        ("a path of 4,000 letters", _instead("/" + "a" * 4000), r),
        ("a path of a million letters", _instead("/" + "a" * 10**6), r),
        ("a path that does not exist", _instead("HERE/nowhere"), r),
        ("a path to a file", _instead("HERE/config.json"), r),
        ("a path that is a loop", _loop, r),
        ("/proc/self/fd", _instead("/proc/self/fd"), r),
        ("/proc/self/fd/3", _instead("/proc/self/fd/3"), r),
        ("/proc/self/cwd", _instead("/proc/self/cwd"), r),
        ("/dev", _instead("/dev"), r),
        ("/", _instead("/"), r),
    ]  # fmt: skip
    return [Attack(*row) for row in rows]
