"""A technique's model is saved under the names and in the types of the files that it was given."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizer_families import make_checkpoint
from transformers import AutoModelForCausalLM, MixtralConfig

from stagezero.isolation import runner
from stagezero.models.network import load_network

Tensors = dict[str, torch.Tensor]
MASK = torch.tril(torch.ones(1, 1, 8, 8))


def older_gpt2(tensors: Tensors) -> Tensors:
    """Return tensors under the names that GPT-2 had first: without a prefix, with masks."""
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()} | {"h.0.attn.bias": MASK}


def with_positions(tensors: Tensors) -> Tensors:
    return tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}


def half(tensors: Tensors) -> Tensors:
    return {name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}


def mixtral(folder: Path) -> Path:
    """Write a network whose experts are one tensor, and are many tensors in its file."""
    make_checkpoint("mistral", folder)
    config = MixtralConfig(
        vocab_size=400, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=8, num_local_experts=2, max_position_embeddings=256,
    )  # fmt: skip
    loaded: Any = AutoModelForCausalLM
    loaded.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(runner, "INPUTS", tmp_path / "in")
    monkeypatch.setattr(runner, "OUT", tmp_path / "out")
    return tmp_path / "in" / "model"


@pytest.mark.parametrize(
    ("family", "change"),
    [("gpt-2", older_gpt2), ("llama 3", with_positions), ("llama 3", half), ("qwen", dict), ("mixtral", dict)],
    ids=["older GPT-2", "positions", "bfloat16", "plain", "experts"],
)
def test_a_returned_model_has_the_names_and_types_of_its_files(family: str, change: Any, place: Path) -> None:
    mixtral(place) if family == "mixtral" else make_checkpoint(family, place)
    given = change(load_file(place / "model.safetensors"))
    save_file(given, place / "model.safetensors", metadata={"format": "pt"})
    network = load_network(place, "cpu")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(2)
    runner._save_tensors(network.state_dict(), network.base_model_prefix)
    sent = load_file(runner.OUT / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in sent.items()} == {n: (t.shape, t.dtype) for n, t in given.items()}
    computed = [name for name in given if name.endswith(("attn.bias", "inv_freq"))]
    assert all(torch.equal(sent[n], given[n] if n in computed else given[n] * 2) for n in given)
    # The checkpoint that is made of it is the returned model.
    made = Path(shutil.copytree(place, place.parent / "made"))
    (made / "model.safetensors").unlink()
    shutil.copyfile(runner.OUT / "model.safetensors", made / "model.safetensors")
    again = load_network(made, "cpu").state_dict()
    assert all(torch.allclose(again[name], tensor, rtol=0.01) for name, tensor in network.state_dict().items())


def test_a_model_without_one_of_its_tensors_is_rejected(place: Path) -> None:
    make_checkpoint("qwen", place)
    state = load_network(place, "cpu").state_dict()
    del state["model.norm.weight"]
    with pytest.raises(SystemExit, match=r"the model returned has no tensor 'model.norm.weight'"):
        runner._save_tensors(state, "model")
