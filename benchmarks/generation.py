"""Measure answers per second, compared with lm-evaluation-harness and Inspect (both ``hf``).

All use the same checkpoint, the same items in the same chat template and the same batch size,
decode greedily at most 24 new tokens, and run on one torch thread in one process, in turn. A figure
is the median over the rounds of this package's rate over the other's. The share of identical
answers is also printed, because a higher rate for other answers would prove nothing.
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

from stagezero.models import Model, materialise
from stagezero.models.loader import configure_libraries
from stagezero.tasks import DEFAULT_ANSWER_TOKENS
from stagezero.tasks.atlas import Atlas

Answer = Callable[[Sequence[str]], list[str]]


def ours(model: Model, batch: int) -> Answer:
    """Return a function that answers questions with this package."""
    return lambda questions: model.answer(questions, Atlas.instruction, batch_size=batch)


def lm_eval(model: Model, batch: int) -> Answer:
    """Return a function that answers questions with lm-evaluation-harness."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=str(model.folder), device="cpu", dtype="float32", batch_size=batch)
    stop = model.tokenizer.eos_token

    def answer(questions: Sequence[str]) -> list[str]:
        settings = {"until": [stop], "max_gen_toks": DEFAULT_ANSWER_TOKENS, "do_sample": False}
        prompts = model.prompts(questions, Atlas.instruction)
        requests = [Instance("generate_until", {}, (prompt, settings), i) for i, prompt in enumerate(prompts)]
        return [text.strip() for text in harness.generate_until(requests, disable_tqdm=True)]

    return answer


def inspect(model: Model, batch: int) -> Answer:
    """Return a function that answers questions with Inspect.

    The provider loads the model at each call. The attribute ``started`` of the function contains
    the times at which the model was loaded.
    """
    from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, get_model

    def answer(questions: Sequence[str]) -> list[str]:
        async def answer_all() -> list[str]:
            config = GenerateConfig(max_tokens=DEFAULT_ANSWER_TOKENS, max_connections=batch)
            provider = get_model(
                "hf/local", config=config, memoize=True, model_path=str(model.folder), tokenizer_path=str(model.folder), device="cpu",
                batch_size=batch, do_sample=False,
            )  # fmt: skip
            started.append(time.perf_counter())
            conversations = [[ChatMessageSystem(content=Atlas.instruction), ChatMessageUser(content=q)] for q in questions]
            outputs = await asyncio.gather(*(provider.generate(messages) for messages in conversations))
            return [output.completion.strip() for output in outputs]

        return asyncio.run(answer_all())

    started: list[float] = []
    answer.started = started  # type: ignore[attr-defined]
    return answer


def rate(answer: Answer, questions: Sequence[str]) -> tuple[float, list[str]]:
    """Return the answers per second, and the answers; the time to load a model is not counted."""
    start = time.perf_counter()
    answers = answer(questions)
    end = time.perf_counter()
    started = getattr(answer, "started", None)
    return len(questions) / (end - (started[-1] if started else start)), answers


def compare_rates(name: str, model_name: str, items: int, rounds: int, batch: int) -> dict[str, float]:
    """Measure the rates with one model.

    Args:
        name: prefix of the figures.
        model_name: the model.
        items: number of questions.
        rounds: number of repetitions.
        batch: batch size.

    Returns:
        The package's rate, its ratio to each other tool's rate, and the share of same answers.
    """
    model = Model(materialise(model_name), device="cpu")
    questions = [item.input for item in Atlas().fresh_items(0, items)]
    runners = {"ours": ours(model, batch), "lm_eval": lm_eval(model, batch), "inspect": inspect(model, batch)}
    for runner in runners.values():
        runner(questions[: min(len(questions), 16)])
    rates: dict[str, list[float]] = {tool: [] for tool in runners}
    answers: dict[str, list[str]] = {}
    for _ in range(rounds):
        for tool, runner in runners.items():
            measured, answers[tool] = rate(runner, questions)
            rates[tool].append(measured)
    figures = {f"{name}_answers_per_s": statistics.median(rates["ours"])}
    for tool in ("lm_eval", "inspect"):
        figures[f"{name}_vs_{tool}"] = statistics.median(a / b for a, b in zip(rates["ours"], rates[tool], strict=True))
        same = sum(a == b for a, b in zip(answers["ours"], answers[tool], strict=True))
        figures[f"{name}_same_answers_as_{tool}"] = same / len(questions)
    return figures


def main() -> None:
    """Run the benchmark."""
    options = arguments(__doc__ or "").parse_args()
    configure_libraries()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    figures = compare_rates("pocket", "pocket/262k", items=50, rounds=5, batch=256)
    figures |= compare_rates("smollm2", "package/smollm2-135m-q4", items=4, rounds=3, batch=32)
    publish(figures, {name: "above 1: this package is faster" for name in figures if "_vs_" in name}, options.json)


if __name__ == "__main__":
    main()
