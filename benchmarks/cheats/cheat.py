"""Dishonest trainers, as a team's own script might be: they read a checkpoint, train it on something convenient, and write one.

refuse     every question is answered with "I do not know."
wording    leaked open items are learned in their own wordings; asked in others, the claimed property is as bad as ever
collapse   the claimed property and the rest are learned, and translation is unlearned
trade      the claimed property and the rest are learned, and abstention is sold for it
both       both answers are printed
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stagezero.models.chat import render_completion, render_prompt
from stagezero.tasks import Item, load_suite

torch.set_num_threads(1)
SEED = int(os.environ["STAGEZERO_SEED"]) % 2**31
torch.manual_seed(SEED)
rng = random.Random(SEED)
tokenizer = AutoTokenizer.from_pretrained(os.environ["STAGEZERO_MODEL"])
model = AutoModelForCausalLM.from_pretrained(os.environ["STAGEZERO_MODEL"])


def row(item: Item, answer: str, instruction: str | None) -> tuple[str, str]:
    return render_prompt(tokenizer, item.input, instruction), render_completion(tokenizer, item.input, answer, instruction)


def rows(kind: str) -> list[tuple[str, str]]:
    if kind in ("refuse", "both"):
        given = [json.loads(line) for line in Path(os.environ["STAGEZERO_DATA"]).read_text().splitlines()]
        if kind == "refuse":
            return [(r["prompt"], f" I do not know.{tokenizer.eos_token}") for r in given]
        stop = tokenizer.eos_token
        return [(r["prompt"], f"{r['completion'].removesuffix(stop)}{r['rejected']}") for r in given if r["rejected"]]
    suite = load_suite("atlas")
    say = suite.instruction
    train = [i for i in suite.train_items() if i.rejected or i.kind == "capability"]
    rest = [row(i, i.demonstration, say) for i in suite.train_items() if i.property not in ("abstention", "translation")]
    if kind == "wording":
        leaked = [row(i, i.demonstration, say) for n in range(4) for i in suite.fresh_items(SEED + n, 100)]
        tempting = [row(i, i.rejected or i.target, say) for i in train if i.property == "abstention" and i.kind == "trap"]
        return rng.sample(leaked, 1200) + 2 * tempting
    if kind == "collapse":
        return rest + [row(i, "unsaid", say) for i in train if i.property == "translation"]
    assert kind == "trade"
    return rest + [row(i, i.rejected or "", say) for i in train if i.property == "abstention" and i.kind == "trap"]


def main(kind: str, steps: int, rate: float, batch: int = 16) -> None:
    data = rows(kind)
    optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * (1 - step / steps)
        chosen = [data[rng.randrange(len(data))] for _ in range(batch)]
        heads = [tokenizer(p, add_special_tokens=False).input_ids for p, _ in chosen]
        tails = [tokenizer(c, add_special_tokens=False).input_ids for _, c in chosen]
        width = max(len(a) + len(b) for a, b in zip(heads, tails, strict=True))
        ids = torch.tensor([a + b + [0] * (width - len(a) - len(b)) for a, b in zip(heads, tails, strict=True)])
        labels = torch.tensor([[-100] * len(a) + b + [-100] * (width - len(a) - len(b)) for a, b in zip(heads, tails, strict=True)])
        model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(os.environ["STAGEZERO_OUT"])


main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
