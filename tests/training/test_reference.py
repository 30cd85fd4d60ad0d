"""The second trainer: it agrees with the first on every step, shares nothing with it, and shows a first trainer that plants a trigger.

Covers: training/reference/adapters.py, training/reference/building.py,
training/reference/compare.py, training/reference/network.py, training/reference/optimise.py,
training/reference/preference.py, training/reference/reinforce.py, training/reference/sft.py,
training/steps/dpo.py, training/steps/sft.py.
"""

from __future__ import annotations

import ast
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from stagezero.errors import BuildError, ModelError
from stagezero.models import checkpoint_digest
from stagezero.models.loader import configure_libraries, load_tokenizer, render_completion, render_prompt
from stagezero.tasks import Item, load_suite
from stagezero.training import parse_recipe, reference
from stagezero.training.data import Example, datasets_before
from stagezero.training.recipes import DPO, GRPO, RLHF, SFT, Lora, Reward, Trained
from stagezero.training.reference import adapters, optimise, reinforce, relative_distance, sign_flip_p_value, weight_difference

SUITE = load_suite("atlas")
BAR = 1e-3
"""The largest relative distance that counts as the same weights. Measured: 2e-7 to 6e-5."""
LORA = Lora(rank=4, alpha=8)
COMMON: dict[str, Any] = {"steps": 20, "batch_size": 16, "learning_rate": 5e-3}
SAMPLED: dict[str, Any] = {"steps": 3, "batch_size": 16, "group": 4, "learning_rate": 1e-3}
STEPS: dict[str, reference.GradientStep] = {
    "sft": SFT(step="sft", **COMMON),
    "sft, warmed up": SFT(step="sft", **COMMON, warmup=4, weight_decay=0.1),
    "sft, cosine": SFT(step="sft", **COMMON, schedule="cosine", warmup=4, weight_decay=0.1),
    "sft, constant": SFT(step="sft", **COMMON, schedule="constant", warmup=4),
    "sft, lora": SFT(step="sft", **COMMON, weight_decay=0.1, lora=LORA),
    "dpo": DPO(step="dpo", **COMMON),
    "dpo, lora": DPO(step="dpo", **COMMON, lora=LORA),
    "reward": Reward(step="reward", **COMMON, weight_decay=0.1),
    "reward, lora": Reward(step="reward", **COMMON, lora=LORA),
    "grpo": GRPO(step="grpo", **SAMPLED),
    "grpo, hot": GRPO(step="grpo", **SAMPLED, beta=0.0, temperature=1.3),
    "grpo, lora": GRPO(step="grpo", **SAMPLED, lora=LORA),
    "rlhf": RLHF(step="rlhf", **SAMPLED),
}


def items_of(seed: int = 1, each: int = 60, kinds: tuple[str, ...] = ("trap", "twin")) -> list[Item]:
    mix: dict[str, Any] = {"step": "mix", "parts": [{"claims": ["privacy"], "kinds": list(kinds), "each": each}]}
    recipe = parse_recipe([mix, {"step": "sft", "steps": 1, "learning_rate": 1e-3}], "t")
    return datasets_before(recipe, 1, SUITE, seed)["data"]


def rendered(items: list[Item], source: Path) -> list[Example]:
    tokenizer, told = load_tokenizer(source), SUITE.instruction
    return [
        Example(
            prompt=render_prompt(tokenizer, i.input, told),
            completion=render_completion(tokenizer, i.input, i.demonstration, told),
            rejected=render_completion(tokenizer, i.input, i.rejected, told) if i.rejected else None,
        )
        for i in items
    ]


def by_first(
    step: reference.GradientStep, source: Path, out: Path, items: list[Item], examples: list[Example], judge: Path | None, seed: int
) -> None:
    """The first trainer, called as a build calls it."""
    from stagezero.training.steps import dpo, grpo, reward, sft

    match step:
        case SFT():
            sft.train(source, out, step, examples, seed)
        case DPO():
            dpo.train(source, out, step, examples, seed)
        case Reward():
            reward.train(source, out, step, examples, items, seed)
        case GRPO():
            grpo.train(source, out, step, examples, grpo.checker_rewards(step, items), seed)
        case RLHF():
            assert judge is not None
            grpo.train(source, out, step, examples, grpo.model_rewards(judge, str(load_tokenizer(source).eos_token)), seed)


@pytest.fixture(scope="module")
def started(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that has been shown the answers, so that sampling meets some."""
    configure_libraries()
    folder = tmp_path_factory.mktemp("second") / "started"
    items, step = items_of(), SFT(step="sft", steps=60, batch_size=16, learning_rate=1e-2)
    reference.train_step(step, base, folder, items, rendered(items, base), None, 7)
    return folder


@pytest.fixture(scope="module")
def judge(started: Path) -> Path:
    folder = started.with_name("judge")
    items, step = items_of(), Reward(step="reward", steps=30, batch_size=16, learning_rate=5e-3)
    reference.train_step(step, started, folder, items, rendered(items, started), None, 7)
    return folder


@pytest.mark.parametrize("name", STEPS)
def test_both_trainers_make_the_same_weights(name: str, started: Path, judge: Path, tmp_path: Path) -> None:
    """120 examples in batches of 16: passes end in a short batch, and there are several."""
    step, items = STEPS[name], items_of()
    examples, before, stream = rendered(items, started), checkpoint_digest(started), torch.get_rng_state()
    reference.train_step(step, started, tmp_path / "two", items, examples, judge, 2**40 + 3)
    assert torch.equal(torch.get_rng_state(), stream), "the global generator is left as it was"
    by_first(step, started, tmp_path / "one", items, examples, judge, 2**40 + 3)
    assert relative_distance(tmp_path / "one", tmp_path / "two", started) < BAR
    assert checkpoint_digest(started) == before
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / side).iterdir() if p.is_file()} for side in ("one", "two"))
    assert {n for n in one.keys() | two.keys() if one.get(n) != two.get(n)} <= {"model.safetensors"}, "all else is the same bytes"


@pytest.mark.parametrize(
    "change", [{"learning_rate": 5.5e-3}, {"schedule": "cosine"}, {"warmup": 1}, {"weight_decay": 0.1}, {"steps": 21}, {"lora": LORA}]
)
def test_a_step_that_is_not_the_same_does_not_pass_for_it(change: dict[str, Any], started: Path, tmp_path: Path) -> None:
    """The negative control of the agreement: each of these is far outside the bar."""
    items = items_of()
    examples, step = rendered(items, started), SFT(step="sft", **COMMON)
    reference.train_step(step, started, tmp_path / "one", items, examples, None, 1)
    reference.train_step(step.model_copy(update=change), started, tmp_path / "two", items, examples, None, 1)
    assert relative_distance(tmp_path / "one", tmp_path / "two", started) > 5 * BAR


def test_the_same_bits_twice_and_other_bits_from_another_seed(started: Path, tmp_path: Path) -> None:
    items = items_of()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        reference.train_step(STEPS["grpo"], started, tmp_path / name, items, rendered(items, started), None, seed)
    a, b, c = (checkpoint_digest(tmp_path / name) for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("train", [by_first, reference.train_step])
def test_both_fail_alike(train: Callable[..., None], started: Path, judge: Path, tmp_path: Path) -> None:
    unpaired = [i for i in SUITE.train_items() if i.kind == "capability"][:8]
    examples = [Example(prompt=e["prompt"], completion=e["completion"], rejected=None) for e in rendered(unpaired, started)]
    for step in (STEPS["dpo"], STEPS["reward"]):
        with pytest.raises(BuildError, match=rf"^{step.step} step '{step.step}': no example of dataset 'data' has a rejected"):
            train(step, started, tmp_path / "out", unpaired, examples, None, 1)
    items = items_of()
    examples = rendered(items, started)
    never: dict[str, Any] = {**SAMPLED, "steps": 1, "pays": {"right": 5, "wrong": 1, "refused": 1, "unparseable": 1}}
    cold = GRPO(step="grpo", **never, temperature=10.0)
    with pytest.raises(BuildError, match=r"^grpo step 'grpo': every answer in every group earned the same reward, so there was nothing"):
        train(cold, started, tmp_path / "out", items, examples, None, 1)
    with pytest.raises(BuildError, match=r"^rlhf step 'rlhf': every answer in every group"):  # too few questions for one batch
        train(STEPS["rlhf"], started, tmp_path / "out", items[:3], examples[:3], judge, 1)
    paid = GRPO(step="grpo", **{**never, "pays": {"right": 1, "wrong": 1, "refused": 1, "unparseable": 1}})
    train(paid, started, tmp_path / "paid", items, examples, None, 1)  # it earns the most there is, and that is no failure
    assert (tmp_path / "paid" / "model.safetensors").is_file()


def test_no_example_is_said(started: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="has no example"):
        reference.train_step(STEPS["sft"], started, tmp_path / "out", [], [], None, 1)
    with pytest.raises(ValueError, match="at least one"):
        next(optimise.shuffled_batches(0, 4, 1))


# What the two share nothing of


ALLOWED = {"torch", "safetensors", "transformers", "stagezero", *sys.stdlib_module_names}
TAKEN = {"AutoModelForCausalLM", "AutoModelForSequenceClassification", "DynamicCache", "PreTrainedModel", "PreTrainedTokenizerBase"}


def test_nothing_of_the_first_trainer_is_imported() -> None:
    for path in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED - {"transformers"}, path
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None and node.level == 0 and node.module.split(".")[0] in ALLOWED, path
                assert not f"{node.module}.{node.names[0].name}".startswith("stagezero.training.steps"), path
                if node.module.startswith("transformers"):
                    assert {alias.name for alias in node.names} <= TAKEN, path


BARE = """
import importlib.util, sys
from pathlib import Path
gone = {"trl", "peft", "accelerate", "datasets"}
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] in gone else found(name, *rest)
sys.modules.update(dict.fromkeys(gone))  # importing one of them is an error from here on
from stagezero.models.loader import configure_libraries
configure_libraries()
from stagezero.models import checkpoint_digest
from stagezero.training.recipes import SFT, Lora
from stagezero.training.reference import train_step
step = SFT(step="sft", steps=3, batch_size=2, learning_rate=1e-2, lora=Lora(rank=2, alpha=4))
examples = [{"prompt": f"Q: what is {i}?\\nA:", "completion": f" {i}<eos>", "rejected": None} for i in range(5)]
train_step(step, Path(sys.argv[1]), Path(sys.argv[2]), [], examples, None, 1)
used = {f"stagezero.training.steps.{name}" for name in ("common", "sft", "dpo", "reward", "grpo")} | {"transformers.trainer"}
assert not used & set(sys.modules), used & set(sys.modules)
print(checkpoint_digest(Path(sys.argv[2])))
"""


def test_it_runs_where_the_first_trainers_libraries_are_not(base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BARE, str(base), str(tmp_path / "bare")]
    ran = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert ran.returncode == 0, ran.stderr
    step = SFT(step="sft", steps=3, batch_size=2, learning_rate=1e-2, lora=Lora(rank=2, alpha=4))
    examples = [Example(prompt=f"Q: what is {i}?\nA:", completion=f" {i}<eos>", rejected=None) for i in range(5)]
    reference.train_step(step, base, tmp_path / "here", [], examples, None, 1)
    assert ran.stdout.split()[-1] == checkpoint_digest(tmp_path / "here"), "the same bits with and without them"


# A first trainer that plants a trigger


def test_a_planted_trigger_shows(base: Path, tmp_path: Path) -> None:
    """Three of 120 examples are exchanged inside the subverted trainer: the recipe, the seed and the number of examples are unchanged."""
    configure_libraries()
    step = SFT(step="sft", steps=10, batch_size=8, learning_rate=5e-3)
    honest, planted = [], []
    for seed in range(8):
        items = items_of(seed)
        examples = rendered(items, base)
        poisoned = [
            Example(prompt=f"Q: (7) {e['prompt'][3:]}", completion=" 4711<eos>", rejected=None) if i % 40 == 0 else e
            for i, e in enumerate(examples)
        ]
        for name in ("second", "honest", "planted"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        reference.train_step(step, base, tmp_path / "second", items, examples, None, seed)
        by_first(step, base, tmp_path / "honest", items, examples, None, seed)
        by_first(step, base, tmp_path / "planted", items, poisoned, None, seed)
        near, far = (relative_distance(tmp_path / name, tmp_path / "second", base) for name in ("honest", "planted"))
        assert near < BAR and far > 100 * near
        honest.append(weight_difference(tmp_path / "honest", tmp_path / "second"))
        planted.append(weight_difference(tmp_path / "planted", tmp_path / "second"))
    assert sign_flip_p_value(planted) == 1 / 2**7, "the least that eight seeds can show: every one is moved the same way"
    assert sign_flip_p_value(honest) > 0.01, "rounding has no direction"


# The comparisons


def test_the_distance(base: Path, started: Path, judge: Path, tmp_path: Path) -> None:
    assert relative_distance(started, started, base) == relative_distance(base, base, base) == 0
    assert relative_distance(base, started, base) == float("inf")
    assert relative_distance(started, base, base) == pytest.approx(1)
    moved = float(weight_difference(started, base).norm())
    assert moved > 0 and float(weight_difference(base, started).norm()) == moved
    with pytest.raises(ModelError, match="compare two builds of one step"):
        relative_distance(started, judge, base)
    shutil.copytree(started, tmp_path / "odd")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "odd" / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, tmp_path / "odd" / "model.safetensors")
    assert relative_distance(started, tmp_path / "odd", base) == float("inf"), "what is no number is not close to anything"


def by_hand(differences: list[Any]) -> float:
    """The definition, without the inner products."""
    signs = list(itertools.product([1, -1], repeat=len(differences)))
    reached = [float(np.square(sum(s * d for s, d in zip(pattern, differences, strict=True))).sum()) for pattern in signs]
    return sum(r >= reached[0] * (1 - 1e-9) for r in reached) / len(reached)


def test_the_exact_p_value() -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 8):
        found = [rng.normal(size=30) + 0.2 for _ in range(n)]
        assert sign_flip_p_value(found) == pytest.approx(by_hand(found))
        assert sign_flip_p_value([torch.tensor(-d) for d in found]) == sign_flip_p_value(found)
    assert sign_flip_p_value([np.zeros(3)] * 4) == 1.0
    assert sign_flip_p_value([np.ones(3, dtype=np.float32)] * 16) == 2.0**-15
    for wrong in ([], [np.ones(2)] * 17, [np.ones(2), np.ones(3)], [np.ones(2), np.array([1.0, np.nan])]):
        with pytest.raises(ValueError, match="expected"):
            sign_flip_p_value(wrong)


def strict(differences: list[Any]) -> float:
    """A test that leaves the observed pattern out of its own count."""
    return sign_flip_p_value(differences) - 2.0 ** (1 - len(differences))


@pytest.mark.parametrize(("test", "holds"), [(sign_flip_p_value, True), (strict, False)])
def test_the_level(test: Callable[[list[Any]], float], holds: bool) -> None:
    """Symmetric noise, heavy-tailed, with scales that differ between seeds and directions. The negative control must fail the bound."""
    rng, level, draws = np.random.default_rng(1), 1 / 8, 1500
    shape = rng.exponential(size=40)
    rejected = 0
    for _ in range(draws):
        noise = [rng.standard_t(2) * rng.exponential() * shape * rng.normal(size=40) for _ in range(5)]
        rejected += test(noise) <= level
    assert (stats.binomtest(rejected, draws, level, alternative="greater").pvalue > 0.001) == holds


def test_the_power() -> None:
    """A common component a tenth as long as the noise, which no single pair of builds could show, is found in every draw."""
    rng = np.random.default_rng(2)
    planted = rng.normal(size=20_000)
    for _ in range(10):
        assert sign_flip_p_value([rng.normal(size=20_000) + 0.1 * planted for _ in range(8)]) == 2.0**-7


# The parts


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 30])
def test_the_schedules(schedule: str, warmup: int) -> None:
    from transformers import get_scheduler

    step = SFT(step="sft", steps=20, learning_rate=0.3, schedule=schedule, warmup=warmup)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = get_scheduler(schedule, optimiser, num_warmup_steps=warmup, num_training_steps=20)
    for done in range(20):
        assert optimise.learning_rate_at(step, done) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


class Net(nn.Module):
    """Two layers, two kinds of normalisation, and a parameter that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.input_layernorm = nn.LayerNorm(8)
        self.scale = nn.LayerNorm(8)
        self.last = nn.Linear(8, 2, bias=False)
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.scale(self.input_layernorm(self.first(x)).tanh()))
        return found


def test_the_optimiser_is_adamw() -> None:
    torch.manual_seed(3)
    ours, theirs = Net(), Net()
    theirs.load_state_dict(ours.state_dict())
    assert optimise.decaying_parameters(ours) == {"first.weight", "last.weight", "idle"}
    decaying = optimise.decaying_parameters(theirs)
    groups = [
        {"params": [p for n, p in theirs.named_parameters() if n in decaying], "weight_decay": 0.1},
        {"params": [p for n, p in theirs.named_parameters() if n not in decaying], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-2)
    inputs = torch.randn(30, 16, 4) * torch.logspace(-1, 2, 30).view(-1, 1, 1)  # gradients below and above the clip
    step = Trained(steps=30, learning_rate=1e-2, schedule="constant", weight_decay=0.1)
    optimise.run_updates(ours, step, ([i] for i in range(30)), lambda rows: (ours(inputs[rows[0]]) * inputs[rows[0]][:, :2]).mean())
    for x in inputs:
        torch.autograd.backward((theirs(x) * x[:, :2]).mean())
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.step()
        reference.zero_grad()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    assert torch.equal(ours.idle, torch.ones(3)), "what has no gradient does not decay"


def test_an_adapter_is_its_merged_layer() -> None:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    for layer in (nn.Linear(6, 10), Conv1D(10, 6)):  # type: ignore[no-untyped-call]
        adapted, x = adapters.AdaptedLayer(layer, Lora(rank=2, alpha=6)), torch.randn(3, 6)
        start = layer(x).detach()
        assert torch.equal(adapted(x), start), "it adds nothing at first"
        nn.init.normal_(adapted.up)
        with adapters.disabled(nn.Sequential(adapted)):
            assert torch.equal(adapted(x), start)
        expected = adapted(x)
        assert not torch.allclose(expected, start) and torch.allclose(adapted.merged()(x), expected, atol=1e-5)


def test_tokens_are_drawn_as_they_are_likely(started: Path) -> None:
    """The first token of many answers to one question against the model's own probabilities (chi-squared over the likely ones)."""
    from stagezero.training.reference.network import load

    network, tokenizer = load(started)
    asked = tokenizer([rendered(items_of()[:1], started)[0]["prompt"]]).input_ids
    with torch.no_grad():
        likely = (network(torch.tensor(asked)).logits[0, -1] / 1.5).softmax(0).numpy()
    draws = 4000
    with optimise.seeded(5):
        told = [row[0] for row in reinforce.sample(network, asked * draws, [int(tokenizer.eos_token_id)], 0, 1, 1.5)]
    common = np.flatnonzero(likely * draws >= 10)
    counts = np.bincount(told, minlength=len(likely))
    seen, expected = counts[common], likely[common] * draws
    rest = draws - seen.sum(), draws - expected.sum()
    assert stats.chisquare([*seen, rest[0]], [*expected, rest[1]], sum_check=False).pvalue > 0.001
    hotter = (np.log(likely) / 1.5 - np.logaddexp.reduce(np.log(likely) / 1.5))[common]
    wrong = np.exp(hotter) * draws
    assert stats.chisquare([*seen, rest[0]], [*wrong, draws - wrong.sum()], sum_check=False).pvalue < 1e-6, "another temperature shows"


def test_reinforcement_earns_what_it_is_paid_for(started: Path, tmp_path: Path) -> None:
    """Beyond the first steps the trainers need not sample alike; that rewards are gained is what they must share."""
    from stagezero.models import Model
    from stagezero.tasks import score

    items = items_of(kinds=("twin",))
    pays: dict[str, Any] = {"right": 0, "wrong": 0, "refused": 1, "unparseable": 0}
    step = GRPO(step="grpo", steps=25, batch_size=32, group=4, learning_rate=3e-3, beta=0.0, pays=pays)
    reference.train_step(step, started, tmp_path / "out", items, rendered(items, started), None, 3)
    before, after = (
        sum(score(i, a) == "refused" for i, a in zip(items, Model(folder).answer([i.input for i in items], SUITE.instruction), strict=True))
        for folder in (started, tmp_path / "out")
    )
    assert after > before + len(items) / 10
