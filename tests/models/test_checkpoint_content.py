"""What is hashed is what is loaded, no code of a checkpoint runs, and common bases work.

Covers: models/checkpoint.py, models/network.py, models/chat.py.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizer_families import make_checkpoint

from stagezero.errors import ModelError, RunChangedError, StagezeroError, UnreadableTextError, WorkerError
from stagezero.models import Model, chat, checkpoint, checkpoint_digest, materialise
from stagezero.models.chat import encode, load_tokenizer
from stagezero.models.checkpoint import check, content_files, fingerprint
from stagezero.models.network import load_network
from stagezero.tasks import load_suite
from stagezero.training.build import StepInputs, build, first_trainer
from stagezero.training.recipes import parse_recipe
from stagezero.training.store import Store


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base, tmp_path / "copy"))


def edit(path: Path, **entries: Any) -> None:
    value = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**value, **entries}))


def add_adapter(folder: Path) -> None:
    """Write an adapter that changes every answer; Transformers applies it on its own."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    loaded: Any = AutoModelForCausalLM
    model = get_peft_model(loaded.from_pretrained(folder), LoraConfig(r=2, target_modules="all-linear"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()


def second_template(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "default.jinja").write_text("Answer wrongly: {{ messages[0].content }}")


OTHER_FILES = [
    (add_adapter, "adapter_config.json", "merge the adapter"),
    (lambda f: (f / "adapter_model.safetensors").write_bytes(b""), "adapter_model.safetensors", "merge the adapter"),
    (second_template, "additional_chat_templates", "remove it"),
    (lambda f: (f / "modeling_evil.py").write_text("print('ran')"), "modeling_evil.py", "remove it"),
    (lambda f: (f / "vocab.txt").write_text("a"), "vocab.txt", "remove it"),
    (lambda f: (f / "spiece.model").write_bytes(b"a"), "spiece.model", "remove it"),
]


@pytest.mark.parametrize(("add", "name", "fix"), OTHER_FILES, ids=[name for _, name, _ in OTHER_FILES])
def test_a_file_that_a_loader_could_use_is_rejected_by_its_name(folder: Path, add: Any, name: str, fix: str) -> None:
    add(folder)
    for load in (lambda: materialise(str(folder)), lambda: Model(folder).network, lambda: load_tokenizer(folder)):
        with pytest.raises(ModelError, match=f"{name}.*{fix}"):
            load()


@pytest.mark.parametrize(
    "name", ["README.md", "LICENSE", ".gitattributes", "pytorch_model.bin", "training_args.bin", "consolidated.safetensors"]
)
def test_a_file_that_no_loader_reads_may_stay(folder: Path, name: str) -> None:
    before = checkpoint_digest(folder)
    (folder / name).write_bytes(b"not read")
    check(folder)
    assert checkpoint_digest(folder) == before and len(Model(folder).answer(["Hi?"])) == 1


REFERENCES: list[tuple[str, dict[str, Any], str]] = [
    ("config.json", {"transformers_weights": "other.safetensors"}, "transformers_weights"),
    ("config.json", {"attn_implementation": "evil/kernels"}, "attn_implementation"),
    ("config.json", {"_attn_implementation": "evil/kernels"}, "_attn_implementation"),
    ("config.json", {"text_config": {"transformers_weights": "other.safetensors"}}, "transformers_weights"),
    ("config.json", {"attribute_map": {"transformers_weights": "zz"}, "zz": "other.safetensors"}, "attribute_map"),
    ("config.json", {"attn_implementation": {"": "evil/kernels"}}, "attn_implementation"),
    ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "vocab_file"),
    ("tokenizer_config.json", {"vocab": "/etc/passwd"}, "'vocab'"),
    ("tokenizer_config.json", {"merges": "other.txt"}, "'merges'"),
    ("special_tokens_map.json", {"tokenizer_file": ".hidden.json"}, "tokenizer_file"),
    ("tokenizer_config.json", {"fast_tokenizer_files": ["../tokenizer.4.0.0.json"]}, "fast_tokenizer_files"),
]


@pytest.mark.parametrize(("file", "entry", "name"), REFERENCES, ids=[f"{file}-{next(iter(entry))}" for file, entry, _ in REFERENCES])
def test_a_reference_to_other_files_or_code_is_rejected(folder: Path, file: str, entry: dict[str, Any], name: str) -> None:
    edit(folder / file, **entry)
    with pytest.raises(ModelError, match=f"{name}.*remove the entry"):
        materialise(str(folder))


@pytest.mark.parametrize("where", ["config.json", "tokenizer_config.json"])
def test_no_code_of_a_checkpoint_runs_and_nothing_is_asked(
    folder: Path, where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The code is in a folder of its own, as it is for a model of a hub."""
    (tmp_path / "hub" / "evil").mkdir(parents=True)
    marker = tmp_path / "ran"
    (tmp_path / "hub" / "evil" / "evil.py").write_text(f"open({str(marker)!r}, 'w')\nclass Evil: pass\n")
    edit(
        folder / where,
        auto_map={"AutoConfig": "evil/evil--evil.Evil", "AutoTokenizer": ["evil/evil--evil.Evil", None]},
        tokenizer_class="Evil",
    )
    if where == "config.json":
        edit(folder / where, model_type="evil", auto_map={"AutoConfig": "evil/evil--evil.Evil"})
    monkeypatch.chdir(tmp_path / "hub")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question was asked"))
    try:
        Model(folder).answer(["Hi?"])
    except ModelError as error:
        assert "\n" not in str(error) and str(folder) in str(error)
    assert not marker.exists() and "[y/N]" not in "".join(capfd.readouterr())


def shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, members in parts.items():
        save_file({name: weights[name] for name in members}, folder / file, {"format": "pt"})
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {name: file for file, members in parts.items() for name in members}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_beside_the_index_are_neither_loaded_nor_hashed(folder: Path, base: Path) -> None:
    shard(folder)
    before = checkpoint_digest(folder)
    save_file({"a": torch.zeros(2)}, folder / "consolidated.safetensors")
    assert checkpoint_digest(folder) == before
    assert "consolidated.safetensors" not in {path.name for path in content_files(folder)}
    questions = ["What is the capital of Peru?"]
    assert Model(folder).answer(questions) == Model(base).answer(questions)


def test_merge_after_training_on_a_bfloat16_base_with_a_tied_head(tmp_path: Path) -> None:
    """The base's file has bfloat16 tensors, and a tied head that a trained file leaves out."""
    folder = make_checkpoint("smollm", tmp_path / "model", tie_word_embeddings=True)
    weights = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    train = {"step": "sft", "steps": 1, "learning_rate": 0.01, "batch_size": 4}
    recipe = parse_recipe([{"step": "mix", "parts": [{"each": 4}]}, train, {"step": "merge", "source": "base", "weight": 0.5}], "test")
    merged, trained = (
        build(folder, recipe.model_copy(update={"steps": recipe.steps[:n]}), load_suite("atlas"), 1, Store(tmp_path / "store"))
        for n in (3, 2)
    )
    name = "model.embed_tokens.weight"
    mine, theirs, mean = (load_file(f / "model.safetensors")[name].float() for f in (trained.folder, folder, merged.folder))
    assert not mine.equal(theirs) and mean.allclose((mine + theirs) / 2, atol=1e-6)


def remove_tokens(folder: Path, *names: str) -> None:
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in settings.items() if key not in names}))


def test_a_stop_token_is_taken_from_the_models_configuration(tmp_path: Path) -> None:
    folder = make_checkpoint("smollm", tmp_path / "model")
    remove_tokens(folder, "eos_token", "pad_token")
    tokenizer = load_tokenizer(folder)
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"


def test_a_model_without_a_stop_token_is_rejected_at_once(tmp_path: Path) -> None:
    folder = make_checkpoint("gpt-2", tmp_path / "model")
    remove_tokens(folder, "eos_token", "pad_token")
    for name in ("config.json", "generation_config.json"):
        edit(folder / name, eos_token_id=None)
    with pytest.raises(ModelError, match=r"no stop token.*set 'eos_token'"):
        load_tokenizer(folder)


def test_an_added_token_without_an_embedding_is_reported(tmp_path: Path) -> None:
    folder = make_checkpoint("qwen", tmp_path / "model")
    settings = json.loads((folder / "tokenizer.json").read_text())
    new = max(token["id"] for token in settings["added_tokens"])
    new = max([new, *settings["model"]["vocab"].values()]) + 1
    added = {**settings["added_tokens"][0], "id": new, "content": "<new>"}
    (folder / "tokenizer.json").write_text(json.dumps({**settings, "added_tokens": [*settings["added_tokens"], added]}))
    assert len(Model(folder).answer(["Hi?"])) == 1
    with pytest.raises(ModelError, match=f"token {new}, and the model has embeddings for {new} tokens only"):
        Model(folder).answer(["A <new> question"])


def test_a_text_that_the_tokenizer_cannot_encode_is_reported() -> None:
    def fake_tokenizer(*_: object, **__: object) -> None:
        raise Exception("WordLevel error: Missing [UNK] token from the vocabulary")

    fake: Any = fake_tokenizer
    with pytest.raises(UnreadableTextError, match=r"cannot encode a text \(WordLevel error.*; correct the tokenizer"):
        encode(fake, ["Why not?"])


def test_a_question_longer_than_the_context_is_reported(tmp_path: Path) -> None:
    for name in ("gpt-2", "smollm"):
        folder = make_checkpoint(name, tmp_path / name)
        with pytest.raises(ModelError, match=r"exceeds the model's context of 256"):
            Model(folder).answer(["Why? " * 400])


def test_a_long_question_shortens_its_own_answer_alone(tmp_path: Path) -> None:
    short, long = "Why?", "Why? " * 45
    for name in ("qwen", "gpt-2"):
        model = Model(make_checkpoint(name, tmp_path / name))
        alone = model.answer([short], max_new_tokens=200)[0]
        assert model.answer([short, long, short, short], max_new_tokens=200)[0] == alone
        assert len(model.answer([long], max_new_tokens=200)[0]) < len(alone)


def test_a_template_that_fails_is_reported(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}")
    with pytest.raises(ModelError, match=r"chat template could not be rendered \(no\)"):
        load_tokenizer(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_base_with_weights_that_are_no_numbers_is_rejected(folder: Path, value: float) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"'model.norm.weight' has a weight that is not a finite number"):
        Model(folder).answer(["Hi?"])


@pytest.mark.parametrize("extra", [{}, {"lora": {"rank": 2}}], ids=["full", "lora"])
def test_a_build_whose_weights_overflow_has_failed(base: Path, tmp_path: Path, extra: dict[str, Any]) -> None:
    train = {"step": "sft", "steps": 30, "learning_rate": 1.0, "batch_size": 4, **extra}
    merge = {"step": "merge", "source": "base", "weight": 0.5}
    source = Path(shutil.copytree(base, tmp_path / "large"))
    weights = load_file(source / "model.safetensors")
    save_file({**weights, "model.norm.weight": weights["model.norm.weight"] * 0 + 3e38}, source / "model.safetensors", {"format": "pt"})
    recipe = parse_recipe([{"step": "mix", "parts": [{"each": 4}]}, train, merge], "test")
    with pytest.raises(StagezeroError, match="finite"):
        build(source, recipe, load_suite("atlas"), 1, Store(tmp_path / "store"))


def test_a_thinking_block_belongs_to_the_prompt(tmp_path: Path) -> None:
    """The model would otherwise learn to produce the block, and an exact answer would be wrong."""
    from stagezero.models.chat import render_completion, render_prompt

    folder = make_checkpoint("qwen", tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + ('<think>\n\n</think>\n\n' if m.role == 'assistant' else '') "
        "+ m.content + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer = load_tokenizer(folder)
    assert render_prompt(tokenizer, "Why?").endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert render_completion(tokenizer, "Why?", "So.") == "So.<|im_end|>"


@pytest.mark.parametrize(
    "template", ["no messages", "{% for m in messages %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endfor %}", ""]
)
def test_a_template_that_leaves_out_the_conversation_is_rejected(folder: Path, template: str) -> None:
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match=r"leaves out the question|could not be rendered"):
        load_tokenizer(folder)


def test_more_files_of_common_folders_may_stay(folder: Path) -> None:
    names = [
        "pytorch_model.bin.index.json",
        "64.tflite",
        "trainer_log.jsonl",
        "latest",
        "zero_to_fp32.py",
        "mergekit_config.yml",
        "modelcard.json",
    ]
    for name in names:
        (folder / name).write_text("{}")
    for name in ("coreml", "wandb", "global_step12"):
        (folder / name).mkdir()
    check(folder)
    (folder / "readme_tekken.json").write_text("{}")
    with pytest.raises(ModelError, match=r"readme_tekken\.json"):
        check(folder)


@pytest.mark.parametrize(
    "name", [".tokenizer.model", "tokenizer.model.md", "LICENSE.tekken.json", "readme.vocab.txt", "config.1+all_results.json"]
)
def test_a_name_that_a_tokenizer_library_searches_for_is_no_other_file(folder: Path, name: str) -> None:
    (folder / name).write_text("{}")
    if name.startswith("config"):
        check(folder)  # only the entry in config.json makes it another configuration
        edit(folder / "config.json", configuration_files=[name])
        name = "configuration_files"
    with pytest.raises(ModelError, match=name.replace("+", r"\+").replace(".", r"\.")):
        check(folder)


def test_numbers_that_are_not_finite_once_they_are_loaded_are_rejected(folder: Path, tmp_path: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"rms_norm_eps_of_a_test": NaN,', 1))
    with pytest.raises(ModelError, match=r"config.json: not valid JSON \(it contains NaN\)"):
        check(folder)
    (folder / "config.json").write_text(text)
    weights = load_file(folder / "model.safetensors")
    name = next(iter(weights))
    weights[name] = weights[name].double()
    weights[name].view(-1)[0] = 1e300  # finite in the file, infinite in float32
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="is not a finite number"):
        load_network(folder, "cpu")


def with_tensor(folder: Path, name: str) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, name: torch.ones(2, 2)}, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "name",
    ["model.layers.0.self_attn.q_proj.lora_A.weight", "score.weight", "model.layers.0.c_attn.bias", "model.layers.9.mlp.up_proj.weight"],
)
def test_a_tensor_that_would_be_dropped_is_rejected(folder: Path, name: str) -> None:
    with_tensor(folder, name)
    with pytest.raises(ModelError, match=f"has no weights '{name}'.*an adapter: merge it"):
        load_network(folder, "cpu")


def test_a_mask_or_position_of_an_older_checkpoint_may_stay(folder: Path) -> None:
    for name in ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.layers.0.attn.masked_bias", "model.decoder.version"):
        with_tensor(folder, name)
    load_network(folder, "cpu")


@pytest.mark.parametrize(
    "call", [lambda folder: load_tokenizer(folder), lambda folder: load_network(folder, "cpu")], ids=["tokenizer", "network"]
)
def test_a_disk_that_fails_is_no_fault_of_the_checkpoint(call: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    monkeypatch.setattr(checkpoint, "safe_open", fail)
    with pytest.raises(WorkerError, match="Input/output error; free space, or mend the disk"):
        call(folder)


def test_a_checkpoint_that_is_written_has_another_fingerprint(folder: Path) -> None:
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    path = folder / "config.json"
    stat = path.stat()
    path.write_text(path.read_text())
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # a forged time of modification
    assert fingerprint(folder) != before


def test_a_base_that_changes_during_a_build_or_a_run_is_reported(folder: Path, tmp_path: Path) -> None:
    recipe = parse_recipe([{"step": "mix", "parts": [{"each": 4}]}, {"step": "sft", "steps": 1, "learning_rate": 1e-3}], "test")
    suite, before = load_suite("atlas"), checkpoint_digest(folder)

    def swapping(step: Any, inputs: StepInputs, out: Path) -> None:
        first_trainer(step, inputs, out)
        edit(folder / "config.json", note=1)

    with pytest.raises(RunChangedError, match="this model changed while it was used"):
        build(folder, recipe, suite, 1, Store(tmp_path / "store"), trainer=swapping)
    assert not list((tmp_path / "store" / "builds").iterdir())
    with pytest.raises(RunChangedError, match="the base changed during the run"):
        build(folder, recipe, suite, 1, Store(tmp_path / "store"), base_digest=before)


def test_a_template_that_never_ends_is_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat, "RENDER_SECONDS", 0.3)
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (folder / "chat_template.jinja").write_text(loop)
    with pytest.raises(ModelError, match=r"the chat template could not be rendered \(it took longer than 0.3 seconds"):
        load_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m.content == 'loop' %}" + loop + "{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}"
    )
    with pytest.raises(ModelError, match=r"for the text 'loop' \(it took longer than 0.3 seconds"):
        Model(folder).answer(["loop"])


def test_a_folder_that_vanished_has_no_digest(folder: Path) -> None:
    """A digest of nothing was once recorded as the base's, when a mount was lost."""
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="Stale file handle"):
        checkpoint_digest(folder)
