"""The stage's own model as the researcher: it generates ideas in the recipe language.

Each stage therefore trains the researcher of the next one. Decoding is constrained to the grammar
in ``grammar.py``: the model can propose nothing but an idea of that language, and nothing of the
model crosses to the next stage but the idea. Floating-point arithmetic affects the output, so a
continued run reads the stored proposals and does not query the model again (``proposal_cache.py``).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stagezero.ideas.brief import Brief, OwnModel
from stagezero.ideas.idea import Idea
from stagezero.models import Model
from stagezero.models.chat import render_completion, render_prompt
from stagezero.models.constrained import Decoder
from stagezero.researchers.base import Researcher
from stagezero.researchers.grammar import propose
from stagezero.training.data import derive_seed


class SelfModelResearcher(Researcher):
    """Lets the model in ``brief.own`` propose ``ideas`` patches a stage.

    It proposes nothing if the brief has no such model.
    """

    name = "self"

    def __init__(self, ideas: int, seed: int, temperature: float) -> None:
        self.max_ideas = ideas
        self.seed = seed
        self.temperature = temperature

    def propose(self, brief: Brief) -> Sequence[Idea]:
        """Load the model, let it generate ideas, and free its memory."""
        if brief.own is None:
            return []
        with _temporary_torch_settings():
            return self._generate_ideas(brief.own, brief)

    def _generate_ideas(self, own: OwnModel, brief: Brief) -> list[Idea]:
        model = Model(own.folder)
        prompt = prompt_for(model, brief)

        def chooser(number: int, attempt: int) -> Decoder:
            return Decoder(model, prompt, derive_seed(self.seed, self.name, brief.stage, number, attempt), self.temperature)

        author = f"stage {own.stage} ({own.digest})"
        return propose(brief, self.name, self.max_ideas, chooser, author)


# The wording of the question is fixed. Every probability of the constrained decoder is conditioned
# on it, so another wording gives other proposals for the same seed.
def question(brief: Brief) -> str:
    """Return the question for the model: short, for a small context, the lowest score first."""
    scores = sorted((brief.scores[name], name) for name in brief.properties if name in brief.scores)
    return "What should this model practise next? Scores: " + ", ".join(f"{name} {score:.2f}" for score, name in scores) + "."


def prompt_for(model: Model, brief: Brief) -> str:
    """Return the question in the model's chat template, up to the first character of the answer."""
    # Templates may put text between prompt and answer. A rendered answer shows where it begins;
    # "Improve" is the first word of every sentence in the grammar.
    text, first_word = question(brief), "Improve"
    completion = render_completion(model.tokenizer, text, first_word)
    return render_prompt(model.tokenizer, text) + completion[: completion.index(first_word)]


@contextmanager
def _temporary_torch_settings() -> Iterator[None]:
    """Use one thread and no progress bar, then restore both settings and free the memory.

    Every use of a model in this project runs on one thread.
    """
    import torch
    from transformers.utils import logging

    threads, bar_enabled = torch.get_num_threads(), logging.is_progress_bar_enabled()
    torch.set_num_threads(1)
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if bar_enabled:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        gc.collect()  # a network contains reference cycles, so reference counting does not free it
        torch.cuda.empty_cache()
