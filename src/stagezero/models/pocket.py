"""Pocket models: small Llama models, trained here from the atlas corpus.

Training takes a minute or two on one CPU thread. With them, a whole bootstrap with real gradients,
real trade-offs and real noise runs on a laptop. They are ordinary Transformers checkpoints: no
other code depends on their size.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Digits
from tokenizers.pre_tokenizers import Sequence as PreSequence
from tokenizers.trainers import BpeTrainer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from stagezero.models.checkpoint import PLAIN_TEMPLATE
from stagezero.tasks.atlas import corpus, corpus_digest

VOCABULARY = 1024
CONTEXT = 128
_TOKENIZER_DOCUMENTS = 20_000


@dataclass(frozen=True, slots=True)
class Size:
    """Architecture and schedule of one pocket model. A step is a batch of 64 documents."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    steps: int
    learning_rate: float


SIZES = {
    "16k": Size(12, 2, 2, 32, 1500, 1e-2), "65k": Size(32, 3, 4, 72, 1500, 8e-3), "262k": Size(64, 4, 4, 172, 1500, 6e-3),
    "1m": Size(128, 4, 4, 400, 1500, 4e-3),
}  # fmt: skip
BATCH = 64
PROMPT_SHARE = 0.1


def recipe_of(size: str, seed: int) -> dict[str, Any]:
    """Return everything that determines a pocket base; its digest identifies the base."""
    return {
        "kind": "pocket", "size": asdict(SIZES[size]), "vocabulary": VOCABULARY, "batch": BATCH, "prompt_share": PROMPT_SHARE,
        "corpus": corpus_digest(), "seed": seed, "format": 1,
    }  # fmt: skip


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on the base corpus: byte-level BPE, separate digits; deterministic."""
    texts = [f"Q: {q}\nA: {a}" for q, a in itertools.islice(corpus.documents(seed=-1), _TOKENIZER_DOCUMENTS)]
    bpe = Tokenizer(BPE())
    bpe.pre_tokenizer = PreSequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=["<pad>", "<eos>"], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe, pad_token="<pad>", eos_token="<eos>", model_max_length=CONTEXT, padding_side="left"
    )
    fast.chat_template = PLAIN_TEMPLATE
    return fast


def config(size: str) -> LlamaConfig:
    """Return the architecture of a pocket model, given by a key of ``SIZES``."""
    shape = SIZES[size]
    return LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=shape.hidden, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads, intermediate_size=shape.feed_forward, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        pad_token_id=0, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip


def _batches(seed: int, steps: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Make batches of token ids and labels, each of shape (BATCH, longest document).

    Documents are sorted by length within a group of batches, to reduce padding.
    """
    fast = tokenizer()
    rng = random.Random(f"pocket/batches/{seed}")
    stream = corpus.documents(seed)
    batches = []
    for start in range(0, steps, 50):
        group = list(itertools.islice(stream, BATCH * min(50, steps - start)))
        questions = fast([f"Q: {q}\nA:" for q, _ in group], add_special_tokens=False).input_ids
        answers = fast([f" {a}<eos>" for _, a in group], add_special_tokens=False).input_ids
        rows = sorted(zip(questions, answers, strict=True), key=lambda row: len(row[0]) + len(row[1]))
        chunks = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(chunks)
        for chunk in chunks:
            width = max(len(q) + len(a) for q, a in chunk)
            ids = torch.tensor([q + a + [0] * (width - len(q) - len(a)) for q, a in chunk])
            # Most of the loss is on the answers. They contain the facts; questions are wordings.
            labels = ids.masked_fill(ids == 0, -100)
            for row, (q, _) in enumerate(chunk):
                if rng.random() > PROMPT_SHARE:
                    labels[row, : len(q)] = -100
            batches.append((ids, labels))
    return batches


def pretrain(size: str, seed: int, progress: Callable[[int, int], None] | None = None) -> LlamaForCausalLM:
    """Train a base from scratch on the atlas corpus.

    Seeds the global torch generator: call it only in the build's own process.

    Args:
        size: a key of ``SIZES``.
        seed: determines initialisation and data order.
        progress: called with (steps done, all steps).
    """
    shape = SIZES[size]
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config(size))
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}], lr=shape.learning_rate, betas=(0.9, 0.98),
        fused=True,
    )  # fmt: skip
    batches = _batches(seed, shape.steps)
    model.train()
    for step, (ids, labels) in enumerate(batches):
        warmup = min(1.0, (step + 1) / 50)
        rate = shape.learning_rate * warmup * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / shape.steps)))
        for group in optimiser.param_groups:
            group["lr"] = rate
        # Right padding, causal attention and no labels at padded positions: no mask is needed.
        loss = model(input_ids=ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if progress is not None and (step + 1) % 25 == 0:
            progress(step + 1, shape.steps)
    model.train(False)
    return model


def save(model: LlamaForCausalLM, folder: Path, made_by: dict[str, Any]) -> None:
    """Write a checkpoint folder: safetensors, tokenizer, configuration, and ``made_by.json``."""
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    (folder / "made_by.json").write_text(json.dumps(made_by, indent=1, sort_keys=True))
