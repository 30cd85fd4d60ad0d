"""The second trainer agrees with the first and is independent of it; a planted trigger is detected.

Covers: training/reference/adapters.py, training/reference/building.py,
training/reference/compare.py, training/reference/network.py, training/reference/optimise.py,
training/reference/preference.py, training/reference/reinforce.py, training/reference/sft.py,
training/layers.py, training/steps/dpo.py, training/steps/sft.py.
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
from tokenizer_families import make_checkpoint
from torch import nn

from stagezero.errors import BuildError, ModelError
from stagezero.models import checkpoint_digest
from stagezero.models.chat import load_tokenizer, render_completion, render_prompt
from stagezero.models.loader import configure_libraries
from stagezero.models.network import write_again
from stagezero.tasks import Item, load_suite
from stagezero.training import parse_recipe, reference
from stagezero.training.data import Example, datasets_before
from stagezero.training.recipes import DPO, GRPO, RLHF, SFT, Lora, Reward, Trained
from stagezero.training.reference import adapters, optimise, reinforce, relative_distance, sign_flip_p_value, weight_difference

SUITE = load_suite("atlas")
MAX_DISTANCE = 1e-3
"""Largest relative distance of equal weights. Measured distances are between 2e-7 and 6e-5."""
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
    "sft, in parts": SFT(step="sft", **COMMON, gradient_accumulation=4, gradient_checkpointing=True),
    "dpo, in parts": DPO(step="dpo", **COMMON, gradient_accumulation=4),
    "dpo, lora, in parts": DPO(step="dpo", **COMMON, lora=LORA, gradient_accumulation=4, gradient_checkpointing=True),
    "reward, in parts": Reward(step="reward", **COMMON, gradient_accumulation=4),
    "grpo, in parts": GRPO(step="grpo", **SAMPLED, gradient_accumulation=8, gradient_checkpointing=True),
    "grpo, lora, in parts": GRPO(step="grpo", **SAMPLED, lora=LORA, gradient_accumulation=2),
    "sft, lora on two layers": SFT(step="sft", **COMMON, lora=Lora(rank=4, alpha=8, targets=("q_proj", "down_proj"))),
    "reward, lora on two layers": Reward(step="reward", **COMMON, lora=Lora(rank=4, alpha=8, targets=("q_proj", "down_proj"))),
}


def items_of(seed: int = 1, each: int = 60, kinds: tuple[str, ...] = ("trap", "twin")) -> list[Item]:
    mix: dict[str, Any] = {"step": "mix", "parts": [{"claims": ["privacy"], "kinds": list(kinds), "each": each}]}
    recipe = parse_recipe([mix, {"step": "sft", "steps": 1, "learning_rate": 1e-3}], "t")
    return datasets_before(recipe, 1, SUITE, seed)["data"]


def rendered(items: list[Item], source: Path) -> list[Example]:
    tokenizer, instruction = load_tokenizer(source), SUITE.instruction
    return [
        Example(
            prompt=render_prompt(tokenizer, i.input, instruction),
            completion=render_completion(tokenizer, i.input, i.demonstration, instruction),
            rejected=render_completion(tokenizer, i.input, i.rejected, instruction) if i.rejected else None,
        )
        for i in items
    ]


def first_trainer_step(
    step: reference.GradientStep, source: Path, out: Path, items: list[Item], examples: list[Example], reward_model: Path | None, seed: int
) -> None:
    """Run a step in the first trainer, as a build runs it."""
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
            assert reward_model is not None
            grpo.train(source, out, step, examples, grpo.model_rewards(reward_model), seed)


@pytest.fixture(scope="module")
def trained_policy(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a policy on the answers, so that sampling draws some of them."""
    configure_libraries()
    folder = tmp_path_factory.mktemp("second") / "started"
    items, step = items_of(), SFT(step="sft", steps=60, batch_size=16, learning_rate=1e-2)
    reference.train_step(step, base, folder, items, rendered(items, base), None, 7)
    return folder


@pytest.fixture(scope="module")
def reward_model(trained_policy: Path) -> Path:
    folder = trained_policy.with_name("reward-model")
    items, step = items_of(), Reward(step="reward", steps=30, batch_size=16, learning_rate=5e-3)
    reference.train_step(step, trained_policy, folder, items, rendered(items, trained_policy), None, 7)
    return folder


VARIANTS = (", lora", ", hot", "lora, in parts", "reward, in parts", "reward, lora on two layers")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] if name.endswith(VARIANTS) else []) for name in STEPS])
def test_both_trainers_make_the_same_weights(name: str, trained_policy: Path, reward_model: Path, tmp_path: Path) -> None:
    """120 examples in batches of 16: there are several passes, and each ends in a short batch."""
    step, items = STEPS[name], items_of()
    examples, before, stream = rendered(items, trained_policy), checkpoint_digest(trained_policy), torch.get_rng_state()
    reference.train_step(step, trained_policy, tmp_path / "two", items, examples, reward_model, 2**40 + 3)
    assert torch.equal(torch.get_rng_state(), stream), "the state of the global generator must not change"
    first_trainer_step(step, trained_policy, tmp_path / "one", items, examples, reward_model, 2**40 + 3)
    assert relative_distance(tmp_path / "one", tmp_path / "two", trained_policy) < MAX_DISTANCE
    assert checkpoint_digest(trained_policy) == before
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / side).iterdir() if p.is_file()} for side in ("one", "two"))
    files = {n for n in one.keys() | two.keys() if one.get(n) != two.get(n)}
    assert files <= {"model.safetensors"}, "all other files must have equal bytes"


@pytest.mark.parametrize(
    "change", [{"learning_rate": 5.5e-3}, {"schedule": "cosine"}, {"warmup": 1}, {"weight_decay": 0.1}, {"steps": 21}, {"lora": LORA}]
)
def test_a_changed_step_does_not_agree(change: dict[str, Any], trained_policy: Path, tmp_path: Path) -> None:
    """The negative control: each of these changes is far above the largest distance."""
    items = items_of()
    examples, step = rendered(items, trained_policy), SFT(step="sft", **COMMON)
    reference.train_step(step, trained_policy, tmp_path / "one", items, examples, None, 1)
    reference.train_step(step.model_copy(update=change), trained_policy, tmp_path / "two", items, examples, None, 1)
    assert relative_distance(tmp_path / "one", tmp_path / "two", trained_policy) > 5 * MAX_DISTANCE


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(trained_policy: Path, tmp_path: Path) -> None:
    items = items_of()
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        reference.train_step(STEPS["grpo"], trained_policy, tmp_path / name, items, rendered(items, trained_policy), None, seed)
    a, b, c = (checkpoint_digest(tmp_path / name) for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("train", [first_trainer_step, reference.train_step])
def test_both_trainers_report_the_same_errors(train: Callable[..., None], trained_policy: Path, reward_model: Path, tmp_path: Path) -> None:
    unpaired = [i for i in SUITE.train_items() if i.kind == "capability"][:8]
    examples = [Example(prompt=e["prompt"], completion=e["completion"], rejected=None) for e in rendered(unpaired, trained_policy)]
    for step in (STEPS["dpo"], STEPS["reward"]):
        with pytest.raises(BuildError, match=rf"^{step.step} step '{step.step}': no example of dataset 'data' has a rejected"):
            train(step, trained_policy, tmp_path / "out", unpaired, examples, None, 1)
    items = items_of()
    examples = rendered(items, trained_policy)
    unpaid: dict[str, Any] = {**SAMPLED, "steps": 1, "pays": {"right": 5, "wrong": 1, "refused": 1, "unparseable": 1}}
    cold = GRPO(step="grpo", **unpaid, temperature=10.0)
    with pytest.raises(BuildError, match=r"^grpo step 'grpo': every answer in every group earned the same reward, so there was nothing"):
        train(cold, trained_policy, tmp_path / "out", items, examples, None, 1)
    with pytest.raises(BuildError, match=r"^rlhf step 'rlhf': every answer in every group"):  # too few questions for one batch
        train(STEPS["rlhf"], trained_policy, tmp_path / "out", items[:3], examples[:3], reward_model, 1)
    paid = GRPO(step="grpo", **{**unpaid, "pays": {"right": 1, "wrong": 1, "refused": 1, "unparseable": 1}})
    # Every answer earns the maximum, which is not an error.
    train(paid, trained_policy, tmp_path / "paid", items, examples, None, 1)
    assert (tmp_path / "paid" / "model.safetensors").is_file()


def test_an_empty_dataset_is_an_error(trained_policy: Path, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="has no example"):
        reference.train_step(STEPS["sft"], trained_policy, tmp_path / "out", [], [], None, 1)
    with pytest.raises(ValueError, match="at least one"):
        next(optimise.shuffled_batches(0, 4, 1))


# Independence of the two trainers


ALLOWED_MODULES = {"torch", "safetensors", "transformers", "stagezero", *sys.stdlib_module_names}
TRANSFORMERS_NAMES = {
    "AutoModelForCausalLM",
    "AutoModelForSequenceClassification",
    "DynamicCache",
    "PreTrainedModel",
    "PreTrainedTokenizerBase",
}


def test_the_second_trainer_imports_nothing_of_the_first() -> None:
    for path in Path(reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= ALLOWED_MODULES - {"transformers"}, path
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None and node.level == 0 and node.module.split(".")[0] in ALLOWED_MODULES, path
                assert not f"{node.module}.{node.names[0].name}".startswith("stagezero.training.steps"), path
                if node.module.startswith("transformers"):
                    assert {alias.name for alias in node.names} <= TRANSFORMERS_NAMES, path


BARE = """
import importlib.util, sys
from pathlib import Path
absent = {"trl", "peft", "accelerate", "datasets"}
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] in absent else find_spec(name, *rest)
sys.modules.update(dict.fromkeys(absent))  # importing one of them is an error from now on
from stagezero.models.loader import configure_libraries
from stagezero.models.network import write_again
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


@pytest.mark.slow
def test_the_second_trainer_runs_without_the_first_trainers_libraries(base: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", BARE, str(base), str(tmp_path / "bare")]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    step = SFT(step="sft", steps=3, batch_size=2, learning_rate=1e-2, lora=Lora(rank=2, alpha=4))
    examples = [Example(prompt=f"Q: what is {i}?\nA:", completion=f" {i}<eos>", rejected=None) for i in range(5)]
    reference.train_step(step, base, tmp_path / "here", [], examples, None, 1)
    assert done.stdout.split()[-1] == checkpoint_digest(tmp_path / "here"), "the libraries must not change the bits"


# A first trainer that plants a trigger


@pytest.mark.slow
def test_a_planted_trigger_is_detected(base: Path, tmp_path: Path) -> None:
    """The subverted trainer replaces 3 of 120 examples; recipe, seed and count stay the same."""
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
        first_trainer_step(step, base, tmp_path / "honest", items, examples, None, seed)
        first_trainer_step(step, base, tmp_path / "planted", items, poisoned, None, seed)
        near, far = (relative_distance(tmp_path / name, tmp_path / "second", base) for name in ("honest", "planted"))
        assert near < MAX_DISTANCE and far > 100 * near
        honest.append(weight_difference(tmp_path / "honest", tmp_path / "second"))
        planted.append(weight_difference(tmp_path / "planted", tmp_path / "second"))
    assert sign_flip_p_value(planted) == 1 / 2**7, "the smallest p-value of eight seeds: all differences have one direction"
    assert sign_flip_p_value(honest) > 0.01, "rounding has no direction"


# The comparisons


def test_the_relative_distance(base: Path, trained_policy: Path, reward_model: Path, tmp_path: Path) -> None:
    assert relative_distance(trained_policy, trained_policy, base) == relative_distance(base, base, base) == 0
    assert relative_distance(base, trained_policy, base) == float("inf")
    assert relative_distance(trained_policy, base, base) == pytest.approx(1)
    moved = float(weight_difference(trained_policy, base).norm())
    assert moved > 0 and float(weight_difference(base, trained_policy).norm()) == moved
    with pytest.raises(ModelError, match="compare two builds of one step"):
        relative_distance(trained_policy, reward_model, base)
    shutil.copytree(trained_policy, tmp_path / "odd")
    from safetensors.torch import load_file, save_file

    weights = load_file(tmp_path / "odd" / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, tmp_path / "odd" / "model.safetensors")
    assert relative_distance(trained_policy, tmp_path / "odd", base) == float("inf"), "NaN is not close to any number"


def test_a_base_under_older_names_is_compared_under_those_of_its_builds(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    base = make_checkpoint("gpt-2", tmp_path / "base")
    build = Path(shutil.copytree(base, tmp_path / "build"))
    weights = load_file(base / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, build / "model.safetensors")
    save_file({name.removeprefix("transformer."): t for name, t in weights.items()}, base / "model.safetensors", {"format": "pt"})
    write_again(base, tmp_path / "start")
    assert relative_distance(build, tmp_path / "start", tmp_path / "start") == pytest.approx(1)


def test_the_adapters_are_those_of_the_linear_layers_in_both_trainers() -> None:
    """PEFT's own word for all layers adds the fused tensors of experts, and leaves layers out."""
    from transformers import AutoModelForCausalLM, MixtralConfig

    from stagezero.training.layers import adapted_layers
    from stagezero.training.steps.common import lora_config

    config = MixtralConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_local_experts=2
    )
    auto: Any = AutoModelForCausalLM
    network = auto.from_config(config)
    names = [name for name, _ in adapted_layers(network, Lora(rank=2))]
    assert sorted(names) == sorted(f"model.layers.0.self_attn.{part}_proj" for part in "qkvo")
    assert set(lora_config(Lora(rank=2), network).target_modules) == set(names)


def enumerated_p_value(differences: list[Any]) -> float:
    """Compute the p-value by its definition, without the inner products."""
    signs = list(itertools.product([1, -1], repeat=len(differences)))
    norms = [float(np.square(sum(s * d for s, d in zip(pattern, differences, strict=True))).sum()) for pattern in signs]
    return sum(r >= norms[0] * (1 - 1e-9) for r in norms) / len(norms)


def test_the_exact_p_value_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    for n in range(1, 8):
        differences = [rng.normal(size=30) + 0.2 for _ in range(n)]
        assert sign_flip_p_value(differences) == pytest.approx(enumerated_p_value(differences))
        assert sign_flip_p_value([torch.tensor(-d) for d in differences]) == sign_flip_p_value(differences)
    assert sign_flip_p_value([np.zeros(3)] * 4) == 1.0
    assert sign_flip_p_value([np.ones(3, dtype=np.float32)] * 16) == 2.0**-15
    for wrong in ([], [np.ones(2)] * 17, [np.ones(2), np.ones(3)], [np.ones(2), np.array([1.0, np.nan])]):
        with pytest.raises(ValueError, match="expected"):
            sign_flip_p_value(wrong)


def strict_p_value(differences: list[Any]) -> float:
    """A wrong test, which does not count the observed pattern of signs."""
    return sign_flip_p_value(differences) - 2.0 ** (1 - len(differences))


@pytest.mark.parametrize(("test", "is_valid"), [(sign_flip_p_value, True), (strict_p_value, False)])
def test_the_type_i_error_is_at_most_the_level(test: Callable[[list[Any]], float], is_valid: bool) -> None:
    """Noise is symmetric and heavy-tailed; its scale differs between seeds and directions.

    The negative control must exceed the level.
    """
    rng, level, draws = np.random.default_rng(1), 1 / 8, 1500
    shape = rng.exponential(size=40)
    rejected = 0
    for _ in range(draws):
        noise = [rng.standard_t(2) * rng.exponential() * shape * rng.normal(size=40) for _ in range(5)]
        rejected += test(noise) <= level
    assert (stats.binomtest(rejected, draws, level, alternative="greater").pvalue > 0.001) == is_valid


def test_the_power_against_a_common_component() -> None:
    """Every draw detects a common component a tenth as long as the noise.

    No single pair of builds could detect it.
    """
    rng = np.random.default_rng(2)
    planted = rng.normal(size=20_000)
    for _ in range(10):
        assert sign_flip_p_value([rng.normal(size=20_000) + 0.1 * planted for _ in range(8)]) == 2.0**-7


# The parts


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 1, 7, 30])
def test_the_learning_rate_schedules_are_those_of_transformers(schedule: str, warmup: int) -> None:
    from transformers import get_scheduler

    step = SFT(step="sft", steps=20, learning_rate=0.3, schedule=schedule, warmup=warmup)
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    theirs = get_scheduler(schedule, optimiser, num_warmup_steps=warmup, num_training_steps=20)
    for done in range(20):
        assert optimise.learning_rate_at(step, done) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12)
        optimiser.step()
        theirs.step()


class Net(nn.Module):
    """Two layers, two kinds of normalisation, and an unused parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.input_layernorm = nn.LayerNorm(8)
        self.scale = nn.LayerNorm(8)
        self.last = nn.Linear(8, 2, bias=False)
        self.idle = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.last(self.scale(self.input_layernorm(self.first(x)).tanh()))
        return output


def test_the_optimiser_is_adamw_with_clipping() -> None:
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
    optimise.run_updates(ours, step, ([i] for i in range(30)), lambda rows: iter([(ours(inputs[rows[0]]) * inputs[rows[0]][:, :2]).mean()]))
    for x in inputs:
        torch.autograd.backward((theirs(x) * x[:, :2]).mean())
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.step()
        reference.zero_grad()
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(one, two, atol=1e-5)
    assert torch.equal(ours.idle, torch.ones(3)), "a parameter without a gradient must not decay"


def test_an_adapter_equals_its_merged_layer() -> None:
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    for layer in (nn.Linear(6, 10), Conv1D(10, 6)):  # type: ignore[no-untyped-call]
        adapted, x = adapters.AdaptedLayer(layer, Lora(rank=2, alpha=6)), torch.randn(3, 6)
        start = layer(x).detach()
        assert torch.equal(adapted(x), start), "a new adapter must add zero"
        nn.init.normal_(adapted.up)
        with adapters.disabled(nn.Sequential(adapted)):
            assert torch.equal(adapted(x), start)
        expected = adapted(x)
        assert not torch.allclose(expected, start) and torch.allclose(adapted.merged()(x), expected, atol=1e-5)


def test_tokens_are_sampled_with_the_models_probabilities(trained_policy: Path) -> None:
    """The first tokens of many answers to one question, compared with the model's probabilities.

    The comparison is a chi-squared test over the likely tokens; another temperature must fail it.
    """
    from stagezero.training.reference.network import load

    network, tokenizer = load(trained_policy)
    prompt_tokens = tokenizer([rendered(items_of()[:1], trained_policy)[0]["prompt"]]).input_ids
    with torch.no_grad():
        probabilities = (network(torch.tensor(prompt_tokens)).logits[0, -1] / 1.5).softmax(0).numpy()
    draws = 4000
    with optimise.seeded(5):
        tokens = [row[0] for row in reinforce.sample(network, prompt_tokens * draws, [int(tokenizer.eos_token_id)], 0, 1, 1.5)]
    common = np.flatnonzero(probabilities * draws >= 10)
    counts = np.bincount(tokens, minlength=len(probabilities))
    observed, expected = counts[common], probabilities[common] * draws
    remainder = draws - observed.sum(), draws - expected.sum()
    assert stats.chisquare([*observed, remainder[0]], [*expected, remainder[1]], sum_check=False).pvalue > 0.001
    other_temperature = (np.log(probabilities) / 1.5 - np.logaddexp.reduce(np.log(probabilities) / 1.5))[common]
    wrong = np.exp(other_temperature) * draws
    p_value = stats.chisquare([*observed, remainder[0]], [*wrong, draws - wrong.sum()], sum_check=False).pvalue
    assert p_value < 1e-6, "another temperature must be detected"


def test_reinforcement_increases_the_behaviour_that_is_rewarded(trained_policy: Path, tmp_path: Path) -> None:
    """After the first steps the trainers may sample differently, but both must raise rewards."""
    from stagezero.models import Model
    from stagezero.tasks import score

    items = items_of(kinds=("twin",))
    pays: dict[str, Any] = {"right": 0, "wrong": 0, "refused": 1, "unparseable": 0}
    step = GRPO(step="grpo", steps=25, batch_size=32, group=4, learning_rate=3e-3, beta=0.0, pays=pays)
    reference.train_step(step, trained_policy, tmp_path / "out", items, rendered(items, trained_policy), None, 3)
    before, after = (
        sum(score(i, a) == "refused" for i, a in zip(items, Model(folder).answer([i.input for i in items], SUITE.instruction), strict=True))
        for folder in (trained_policy, tmp_path / "out")
    )
    assert after > before + len(items) / 10


def weights_after(step: reference.GradientStep, train: Callable[..., None], source: Path, out: Path) -> Path:
    items = items_of()
    train(step, source, out, items, rendered(items, source), None, 5)
    return out


@pytest.mark.parametrize("train", [first_trainer_step, reference.train_step])
@pytest.mark.parametrize("step", [SFT(step="sft", **COMMON), DPO(step="dpo", **{**COMMON, "steps": 7})], ids=["sft", "dpo"])
def test_gradient_accumulation_and_checkpointing_change_no_update(
    step: SFT | DPO, train: Callable[..., None], trained_policy: Path, tmp_path: Path
) -> None:
    """Answers differ in their numbers of tokens, so a mean of the parts' means would differ."""
    in_parts = step.model_copy(update={"gradient_accumulation": 4, "gradient_checkpointing": True})
    whole, parts = (weights_after(s, train, trained_policy, tmp_path / str(s is step)) for s in (step, in_parts))
    assert relative_distance(whole, parts, trained_policy) < MAX_DISTANCE


@pytest.mark.parametrize("lora", [None, LORA])
def test_both_trainers_train_in_bfloat16(lora: Lora | None, trained_policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16 have 3 digits, so the trainers agree to some percent."""
    monkeypatch.setattr("stagezero.models.network.bfloat16_unit", lambda: "test")
    monkeypatch.setattr("stagezero.training.steps.common.bfloat16_unit", lambda: "test")
    monkeypatch.setattr("stagezero.training.reference.optimise.bfloat16_unit", lambda: "test")
    step = SFT(step="sft", **COMMON, lora=lora)
    low = step.model_copy(update={"dtype": "bfloat16"})
    exact = weights_after(step, first_trainer_step, trained_policy, tmp_path / "float32")
    one, two = (
        weights_after(low, train, trained_policy, tmp_path / str(n)) for n, train in enumerate((first_trainer_step, reference.train_step))
    )
    assert relative_distance(one, two, trained_policy) < 0.1  # 0.01 and 0.04 were measured
    assert 10 * MAX_DISTANCE < relative_distance(exact, one, trained_policy) < 0.3, "the products must be in bfloat16"
