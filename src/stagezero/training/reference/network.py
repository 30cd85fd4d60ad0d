"""Checkpoints in and out, texts as rows of tokens, and the one thing that is asked of a language model: log-probabilities.

Nothing here knows what it is trained for. The model's own forward pass is used as it stands, so that scalings and caps of the
architecture are honoured without naming them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stagezero.models.checkpoint import copy_all_but_weights
from stagezero.models.loader import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and an answer as one row of tokens; the answer begins at position ``start``."""

    ids: list[int]
    start: int


def device() -> torch.device:
    """Where training happens: as in the first trainer, the accelerator where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A language model in float32 and evaluation mode, and its tokenizer."""
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    return network.to(device()), load_tokenizer(folder)


def load_scorer(folder: Path, pad: int | None = None) -> PreTrainedModel:
    """A network with one number as its output, in float32 and evaluation mode; a head that the folder lacks is drawn at random.

    Args:
        folder: checkpoint of a language model or of a scorer.
        pad: the padding token, which such a network must know to find the end of a row; the folder's own when None.
    """
    from transformers import AutoModelForSequenceClassification

    network: Any = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, dtype=torch.float32, use_safetensors=True)
    if pad is not None:
        network.config.pad_token_id = pad
    network.to(device())
    scorer: PreTrainedModel = network
    return scorer


def without_dropout(network: nn.Module) -> None:
    """Switch off the dropout layers, as preference training does; a probability inside an attention function stays."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def save(network: PreTrainedModel, source: Path, out: Path, config: bool = True) -> None:
    """Write the weights, and carry the tokenizer over unchanged from ``source``, and the configuration if ``config``."""
    out.mkdir(parents=True, exist_ok=True)
    network.cpu().save_pretrained(out)
    copy_all_but_weights(source, out, config)


def rows_of(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *answers: Sequence[str]) -> list[list[Row]]:
    """Tokens of each prompt with each of its answers: one list for each sequence of answers.

    The stop token is added to an answer that lacks it. An answer begins where the rows of its prompt alone and of the prompt with its
    answers part, since tokens may join across the seam; that place is the same for all answers to one prompt.
    """
    stop = str(tokenizer.eos_token or "")
    heads = tokenizer(list(prompts)).input_ids
    wholes = []
    for told in answers:
        texts = [prompt + (answer if answer.endswith(stop) else answer + stop) for prompt, answer in zip(prompts, told, strict=True)]
        wholes.append(tokenizer(texts).input_ids)
    starts = [min(_shared(head, whole[i]) for whole in wholes) for i, head in enumerate(heads)]
    return [[Row(ids, start) for ids, start in zip(whole, starts, strict=True)] for whole in wholes]


def _shared(one: Sequence[int], two: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def padded(rows: Sequence[Sequence[int]], pad: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of tokens as one matrix, and which of its places are real: two (rows, longest) tensors of integers."""
    width = max(len(row) for row in rows)
    gaps = [width - len(row) for row in rows]
    ids = [[pad] * gap + list(row) if left else list(row) + [pad] * gap for row, gap in zip(rows, gaps, strict=True)]
    real = [[0] * gap + [1] * (width - gap) if left else [1] * (width - gap) + [0] * gap for gap in gaps]
    return torch.tensor(ids, device=device()), torch.tensor(real, device=device())


def batch_of(rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows padded on the right: tokens, which are real, and which belong to an answer; each (rows, longest)."""
    ids, real = padded([row.ids for row in rows], pad)
    places = torch.arange(ids.shape[1], device=ids.device)
    starts = torch.tensor([row.start for row in rows], device=ids.device)
    return ids, real, (places >= starts.unsqueeze(1)) & (real > 0)


def log_probabilities(
    network: PreTrainedModel, ids: Tensor, real: Tensor, wanted: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """log P(token | tokens before it in its row) of every wanted token.

    Logits are made for the columns with a wanted token only, which is most of the memory that a step needs.

    Args:
        network: a language model.
        ids: (rows, width) tokens.
        real: (rows, width) 1 where ``ids`` is not padding.
        wanted: (rows, width) booleans; the first column has nothing before it and is never scored.
        temperature: the logits are divided by it.

    Returns:
        Two vectors, one entry for each wanted token in reading order: the log-probabilities in nats, and the row each stands in.
    """
    ahead = wanted[:, 1:]
    columns = ahead.any(0).nonzero().squeeze(1)
    logits = network(input_ids=ids, attention_mask=real, use_cache=False, logits_to_keep=columns).logits
    chosen = ahead[:, columns]
    scores = logits[chosen].float() / temperature
    found = scores.gather(1, ids[:, 1:][:, columns][chosen].unsqueeze(1)).squeeze(1) - scores.logsumexp(1)
    return found, chosen.nonzero()[:, 0]
