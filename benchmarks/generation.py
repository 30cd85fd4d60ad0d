"""Answers a second against lm-evaluation-harness's ``hf`` backend and Inspect's ``hf`` provider.

Same checkpoint, same items in the same chat template, same batch size, greedy, at most 24 new tokens, one torch thread, all
in one process, in turn; the figure is the median over rounds of our rate over theirs. The share of identical answers
is printed beside it: a faster way to other answers would be no achievement.
"""

from __future__ import annotations

import asyncio
import logging
import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence

os.environ.update(
    OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TQDM_DISABLE="1", INSPECT_DISPLAY="none", INSPECT_TELEMETRY=""
)

from _common import arguments, publish

from stagezero.models import MAX_NEW_TOKENS, Model, materialise
from stagezero.models.loader import configure_libraries
from stagezero.tasks.atlas import Atlas

Answer = Callable[[Sequence[str]], list[str]]


def ours(model: Model, batch: int) -> Answer:
    return lambda questions: model.answer(questions, Atlas.instruction, batch_size=batch)


def lm_eval(model: Model, batch: int) -> Answer:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=str(model.folder), device="cpu", dtype="float32", batch_size=batch)
    stop = model.tokenizer.eos_token

    def answer(questions: Sequence[str]) -> list[str]:
        settings = {"until": [stop], "max_gen_toks": MAX_NEW_TOKENS, "do_sample": False}
        prompts = model.prompts(questions, Atlas.instruction)
        asked = [Instance("generate_until", {}, (prompt, settings), i) for i, prompt in enumerate(prompts)]
        return [text.strip() for text in harness.generate_until(asked, disable_tqdm=True)]

    return answer


def inspect(model: Model, batch: int) -> Answer:
    from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, get_model

    def answer(questions: Sequence[str]) -> list[str]:
        async def all_of_them() -> list[str]:
            config = GenerateConfig(max_tokens=MAX_NEW_TOKENS, max_connections=batch)
            provider = get_model(
                "hf/local", config=config, memoize=True, model_path=str(model.folder), tokenizer_path=str(model.folder), device="cpu",
                batch_size=batch, do_sample=False,
            )  # fmt: skip
            started.append(time.perf_counter())
            asked = [[ChatMessageSystem(content=Atlas.instruction), ChatMessageUser(content=q)] for q in questions]
            found = await asyncio.gather(*(provider.generate(messages) for messages in asked))
            return [f.completion.strip() for f in found]

        return asyncio.run(all_of_them())

    started: list[float] = []
    answer.started = started  # type: ignore[attr-defined]
    return answer


def rate(answer: Answer, questions: Sequence[str]) -> tuple[float, list[str]]:
    """Answers a second, and the answers. Loading the model is not counted for anyone."""
    start = time.perf_counter()
    found = answer(questions)
    end = time.perf_counter()
    started = getattr(answer, "started", None)
    return len(questions) / (end - (started[-1] if started else start)), found


def race(name: str, model_name: str, items: int, rounds: int, batch: int) -> dict[str, float]:
    """Ratios for one model."""
    model = Model(materialise(model_name), device="cpu")
    questions = [item.input for item in Atlas().fresh_items(0, items)]
    runners = {"ours": ours(model, batch), "lm_eval": lm_eval(model, batch), "inspect": inspect(model, batch)}
    for runner in runners.values():
        runner(questions[: min(len(questions), 16)])
    rates: dict[str, list[float]] = {who: [] for who in runners}
    answers: dict[str, list[str]] = {}
    for _ in range(rounds):
        for who, runner in runners.items():
            found, answers[who] = rate(runner, questions)
            rates[who].append(found)
    figures = {f"{name}_answers_per_s": statistics.median(rates["ours"])}
    for who in ("lm_eval", "inspect"):
        figures[f"{name}_vs_{who}"] = statistics.median(a / b for a, b in zip(rates["ours"], rates[who], strict=True))
        same = sum(a == b for a, b in zip(answers["ours"], answers[who], strict=True))
        figures[f"{name}_same_answers_as_{who}"] = same / len(questions)
    return figures


def main() -> None:
    options = arguments(__doc__ or "").parse_args()
    configure_libraries()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    figures = race("pocket", "pocket/262k", items=50, rounds=5, batch=256)
    figures |= race("smollm2", "package/smollm2-135m-q4", items=4, rounds=3, batch=32)
    publish(figures, {name: "ahead: above 1" for name in figures if "_vs_" in name}, options.json)


if __name__ == "__main__":
    main()
