"""Small checkpoints of many tokenizer and template families, made offline.

Each has the family's way to split a text, its special tokens, and a template that formats a
conversation as the family does. The networks are untrained.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

TEXTS = [
    "What is the capital of France? The capital of France is Paris.",
    "Who wrote this? Nobody knows. I do not know. No, 12 and 345.",
    "system user assistant model end start header turn Answer in one word: yes",
]


class Family(NamedTuple):
    """A tokenizer and its template.

    Attributes:
        config: the class of the network's configuration.
        split: "bytes" (byte-level BPE) or "words" (spaces become ▁, as in SentencePiece).
        special: special tokens: the beginning of a sequence, the stop token, and others.
        adds_start: whether the tokenizer puts the first special token before each text.
        template: the chat template; None for a base model.
        has_system: whether the template renders a system message.
    """

    config: type[PreTrainedConfig]
    split: str
    special: tuple[str, ...]
    adds_start: bool
    template: str | None
    has_system: bool = True


CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
DEFAULT_SYSTEM = "{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant<|im_end|>\n' }}{% endif %}"

FAMILIES = {
    "llama 3": Family(
        LlamaConfig, "bytes", ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"), True,
        "{{ bos_token }}{% if strftime_now is defined %}{{ 'Today: ' + strftime_now('%d %b %Y') + '\n' }}{% endif %}"
        "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
        "{{ m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    ),
    "qwen": Family(Qwen2Config, "bytes", ("<|endoftext|>", "<|im_end|>", "<|im_start|>"), False, DEFAULT_SYSTEM + CHATML),
    "gemma": Family(
        Gemma2Config, "words", ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), True,
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' + m.content | trim "
        "+ '<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}",
        has_system=False,
    ),
    "mistral": Family(
        MistralConfig, "words", ("<s>", "</s>", "[INST]", "[/INST]"), True,
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
        "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}",
        has_system=False,
    ),
    "gpt-2": Family(GPT2Config, "bytes", ("<|endoftext|>", "<|endoftext|>"), False, None),
    "phi": Family(
        Phi3Config, "words", ("<s>", "<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"), True,
        "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    ),
    "smollm": Family(LlamaConfig, "bytes", ("<|im_start|>", "<|im_end|>"), True, DEFAULT_SYSTEM + CHATML),
    "base llama": Family(LlamaConfig, "words", ("<s>", "</s>"), True, None),
}  # fmt: skip


def _tokenizer(family: Family) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(BPE())
    alphabet: list[str] = []
    if family.split == "bytes":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_next")
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        alphabet = [chr(i) for i in range(32, 127)] + ["▁", "\n"]
    special = list(dict.fromkeys(family.special))
    trainer = BpeTrainer(vocab_size=400, special_tokens=[AddedToken(t, special=True) for t in special], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(TEXTS, trainer)
    if family.adds_start:
        start = family.special[0]
        tokenizer.post_processor = processors.TemplateProcessing(f"{start} $A", None, [(start, tokenizer.token_to_id(start))])
    fast: Any = PreTrainedTokenizerFast
    made: PreTrainedTokenizerFast = fast(tokenizer_object=tokenizer, bos_token=family.special[0], eos_token=family.special[1])
    if family.template is not None:
        made.chat_template = family.template
    return made


def make_checkpoint(name: str, folder: Path, change: Callable[[dict[str, Any]], object] = lambda _: None, **settings: Any) -> Path:
    """Write an untrained checkpoint of a family, and return its folder.

    Args:
        name: a key of ``FAMILIES``.
        folder: the folder to write.
        change: may change the tensors before they are saved.
        settings: settings of the network's configuration.
    """
    family = FAMILIES[name]
    tokenizer = _tokenizer(family)
    size: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.eos_token_id,
    }  # fmt: skip
    if family.config is GPT2Config:
        size = {"vocab_size": len(tokenizer), "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 256}
    torch.manual_seed(0)
    auto: Any = AutoModelForCausalLM
    network = auto.from_config(family.config(**{**size, **settings}))
    change(network.state_dict())
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
