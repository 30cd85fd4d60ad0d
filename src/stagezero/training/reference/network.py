"""Networks for the second trainer: checkpoints, texts as rows of tokens, and log-probabilities.

Nothing here depends on the training method. The model's own forward pass is used unchanged, so that
an architecture's scalings and caps apply without being named here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from stagezero.models.chat import encode_answers, load_tokenizer
from stagezero.models.checkpoint import copy_all_but_weights
from stagezero.models.network import check_rows, load_network, load_reward_network

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and an answer as one row of tokens; the answer begins at position ``start``."""

    ids: list[int]
    start: int


def device() -> torch.device:
    """Return the device for training: the accelerator if there is one, as in the first trainer."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a language model, in float32 and evaluation mode, and its tokenizer."""
    return load_network(folder, str(device())), load_tokenizer(folder)


def load_reward_model(folder: Path, pad: int | None = None) -> PreTrainedModel:
    """Load a network with one number as its output, in float32 and evaluation mode.

    If the folder lacks the head, the head is drawn at random.

    Args:
        folder: checkpoint of a language model or of a reward model.
        pad: the padding token, which such a network needs to find the end of a row; None uses the
            folder's own.
    """
    network = load_reward_network(folder, str(device()))
    if pad is not None:
        network.config.pad_token_id = pad
    return network


def set_checkpointing(network: PreTrainedModel, enabled: bool) -> None:
    """Compute activations again in the backward pass instead of storing them, or stop doing so."""
    if enabled:
        network.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    elif network.is_gradient_checkpointing:
        network.gradient_checkpointing_disable()  # type: ignore[no-untyped-call]


def disable_dropout(network: nn.Module) -> None:
    """Disable the dropout layers, as preference training does.

    A dropout probability inside an attention function is not changed.
    """
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def save(network: PreTrainedModel, source: Path, out: Path, config: bool = True) -> None:
    """Write a checkpoint: the network's weights, and the files of the step's input.

    Args:
        network: the trained network.
        source: the step's input folder; its tokenizer is copied unchanged.
        out: folder to fill.
        config: copy the configuration from ``source`` too, instead of writing the network's own.
    """
    out.mkdir(parents=True, exist_ok=True)
    network.cpu().save_pretrained(out)
    copy_all_but_weights(source, out, config)


def tokenise(
    tokenizer: PreTrainedTokenizerBase, network: PreTrainedModel, prompts: Sequence[str], *answers: Sequence[str]
) -> list[list[Row]]:
    """Tokenise each prompt with each of its answers.

    Args:
        tokenizer: the model's tokenizer.
        network: the model.
        prompts: n prompts.
        answers: any number of sequences, each with n answers that end with the stop token.

    Returns:
        One list of n rows for each sequence of answers.

    Raises:
        ModelError: the network cannot read a row.
    """
    sequences = []
    for sequence in answers:
        heads, tails = encode_answers(tokenizer, prompts, sequence)
        sequences.append([Row(head + tail, len(head)) for head, tail in zip(heads, tails, strict=True)])
    check_rows(network, [row.ids for rows in sequences for row in rows])
    return sequences


def pad_rows(rows: Sequence[Sequence[int]], pad: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Pad rows of tokens to one width.

    Args:
        rows: the rows.
        pad: the padding token.
        left: pad on the left instead of the right.

    Returns:
        Two integer tensors (rows, longest): the tokens, and a mask that is 1 for tokens and 0 for
        padding.
    """
    width = max(len(row) for row in rows)
    gaps = [width - len(row) for row in rows]
    ids = [[pad] * gap + list(row) if left else list(row) + [pad] * gap for row, gap in zip(rows, gaps, strict=True)]
    mask = [[0] * gap + [1] * (width - gap) if left else [1] * (width - gap) + [0] * gap for gap in gaps]
    return torch.tensor(ids, device=device()), torch.tensor(mask, device=device())


def pad_batch(rows: Sequence[Row], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pad rows on the right.

    Returns:
        Three tensors (rows, longest): the tokens, a mask that is 1 for tokens and 0 for padding,
        and a mask that is True for tokens of an answer.
    """
    ids, mask = pad_rows([row.ids for row in rows], pad)
    positions = torch.arange(ids.shape[1], device=ids.device)
    starts = torch.tensor([row.start for row in rows], device=ids.device)
    return ids, mask, (positions >= starts.unsqueeze(1)) & (mask > 0)


def log_probabilities(
    network: PreTrainedModel, ids: Tensor, mask: Tensor, selected: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return log P(token | earlier tokens of its row) of every selected token.

    Logits are computed only for the columns with a selected token. They take most of the memory
    that a step needs.

    Args:
        network: a language model.
        ids: (rows, width) tokens.
        mask: (rows, width) 0 for padding, otherwise 1.
        selected: (rows, width) booleans. The first column is never scored, since no token precedes
            it.
        temperature: the logits are divided by it.

    Returns:
        Two vectors with one entry for each selected token, row by row: the log-probabilities in
        nats, and the indices of the tokens' rows.
    """
    next_selected = selected[:, 1:]
    columns = next_selected.any(0).nonzero().squeeze(1)
    logits = network(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=columns).logits
    chosen = next_selected[:, columns]
    scores = logits[chosen].float() / temperature
    values = scores.gather(1, ids[:, 1:][:, columns][chosen].unsqueeze(1)).squeeze(1) - scores.logsumexp(1)
    return values, chosen.nonzero()[:, 0]
