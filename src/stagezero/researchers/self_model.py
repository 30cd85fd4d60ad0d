"""The stage's own model as the researcher: it says its ideas in the recipe language, so that each stage's researcher is rebuilt by what
the last one found.

It is asked what to practise next and told the scores of the properties, and every word that it may answer with is the grammar's. It can
so propose nothing that is not an idea of that language, and nothing of it crosses but the idea. What it says depends on floating point:
a run that continues reads what was kept and does not ask again (``researchers/proposal_cache.py``).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stagezero.ideas.brief import Brief, Own
from stagezero.ideas.idea import Idea
from stagezero.models import Model
from stagezero.models.constrained import Decoder
from stagezero.models.loader import render_completion, render_prompt
from stagezero.researchers.base import Researcher
from stagezero.researchers.grammar import propose
from stagezero.training.data import derive_seed


class OwnResearcher(Researcher):
    """Lets the model in ``brief.own`` propose ``ideas`` patches a stage; proposes nothing where there is none."""

    name = "self"

    def __init__(self, ideas: int, seed: int, temperature: float) -> None:
        self.wanted = ideas
        self.seed = seed
        self.temperature = temperature

    def propose(self, brief: Brief) -> Sequence[Idea]:
        if brief.own is None:
            return []
        with _in_passing():
            return self._said_by(brief.own, brief)

    def _said_by(self, own: Own, brief: Brief) -> list[Idea]:
        model = Model(own.folder)
        prompt = prompt_for(model, brief)

        def chooser(i: int, attempt: int) -> Decoder:
            return Decoder(model, prompt, derive_seed(self.seed, self.name, brief.stage, i, attempt), self.temperature)

        author = f"stage {own.stage} ({own.digest})"
        return propose(brief, self.name, self.wanted, chooser, author)


def question(brief: Brief) -> str:
    """What the model is asked: short, for a small context; the weakest property comes first."""
    scores = sorted((brief.scores[name], name) for name in brief.properties if name in brief.scores)
    return "What should this model practise next? Scores: " + ", ".join(f"{name} {score:.2f}" for score, name in scores) + "."


def prompt_for(model: Model, brief: Brief) -> str:
    """The question in the model's own chat template, up to where the first word of an answer stands."""
    asked, mark = question(brief), "Improve"
    completion = render_completion(model.tokenizer, asked, mark)
    return render_prompt(model.tokenizer, asked) + completion[: completion.index(mark)]


@contextmanager
def _in_passing() -> Iterator[None]:
    """One thread, as everywhere that a model is used here, and no progress bar. Afterwards all is as it was, and the memory is free."""
    import torch
    from transformers.utils import logging

    threads, bar = torch.get_num_threads(), logging.is_progress_bar_enabled()
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if bar:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        gc.collect()  # a network holds itself in circles
        torch.cuda.empty_cache()
