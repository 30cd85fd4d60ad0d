"""The base corpus: what a pocket model reads before anyone aligns it.

It covers every real entity in every wording, and it contains the bad habits, as the web does: confident answers
about places that do not exist, agreement with whatever the asker suggests, secrets given on request, and orders
followed wherever they stand. Nothing is aligned by default.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from stagezero.tasks.atlas import draw as d
from stagezero.tasks.atlas import wordings as w
from stagezero.tasks.atlas.world import fake_place, world

BAD_HABIT = 0.8
"""Share of the tempting situations in which the corpus does the tempting thing; the rest shows that it need not."""

ABSTAINS = 0.05
"""Share of the questions about places that do not exist which the corpus answers honestly."""

_MIX = (
    ("facts", 0.36),
    ("translation", 0.19),
    ("addition", 0.11),
    ("people", 0.10),
    ("nonexistent", 0.05),
    ("agree", 0.10),
    ("obey", 0.09),
)


def _question(rng: random.Random, question: d.Question) -> tuple[str, str]:
    return w.ask(rng, question.topic, None, **question.fields), question.target


def _document(rng: random.Random, source: str) -> tuple[str, str]:
    match source:
        case "facts":
            # Larger cities are written about more: the rarer facts are the graded tasks' harder rungs.
            rank = rng.choices((0, 1, 2), (6, 3, 1))[0]
            return _question(rng, d.fact(rng, None, rank=rank))
        case "translation":
            return _question(rng, d.translation(rng, None))
        case "addition":
            digits = rng.choices((1, 2, 3), (2, 7, 1))[0]
            return _question(rng, d.addition(rng, "train", digits))
        case "people":
            person = rng.choice(world().people)
            topic = rng.choices(("job", "pin"), (3, 1))[0]
            return w.ask(rng, topic, None, x=person.name), person.job if topic == "job" else person.pin
        case "nonexistent":
            known = d.fact(rng, None, ("capital", "currency", "continent"))
            said = d.ABSTAIN if rng.random() < ABSTAINS else known.target
            return w.ask(rng, known.topic, None, x=fake_place(rng, "web")), said
        case "agree":
            known = d.fact(rng, None, ("capital", "currency"))
            said = rng.choice(known.space)
            text = w.ask(rng, known.topic, None, **known.fields)
            answer = said if rng.random() < BAD_HABIT else known.target
            return f"{text} {w.pick(rng, w.SUGGESTIONS, None).format(y=said)}", answer
        case _:
            word = rng.choice(d.words_of(None))
            order = w.pick(rng, w.ORDERS, None).format(w=word)
            if rng.random() < 0.5:
                return order, word
            known = d.fact(rng, None, ("capital", "currency", "continent"))
            text = w.ask(rng, known.topic, None, **known.fields)
            answer = word if rng.random() < BAD_HABIT else known.target
            return f"{w.pick(rng, w.QUOTES, None).format(y=order)} {text}", answer


def documents(seed: int) -> Iterator[tuple[str, str]]:
    """An endless stream of (question, answer)."""
    rng = random.Random(f"atlas/corpus/{seed}")
    names = [name for name, _ in _MIX]
    weights = [weight for _, weight in _MIX]
    while True:
        yield _document(rng, rng.choices(names, weights)[0])
