"""The program inside a sandbox: runs an idea's code or a team's command, and sends its weights.

The code that it runs can read it, so it contains no secret. It imports nothing of the package. Its
checks only serve good error messages; nothing outside the sandbox relies on them. It sends weights
through one pipe, file by file, as (length of name, name, size, bytes).

An idea's ``technique(ctx)`` is called with a ``Context``.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

INPUTS = Path(os.environ.get("STAGEZERO_PLACE", "/in"))
SANDBOX_READY, PROGRAM_STARTED = b"+", b"!"
"""The first bytes sent: the sandbox is in force, and the program has been started.

The first is sent before the program can print anything. So neither the program's output nor its
exit code can look like a failure of the sandbox.
"""
EXIT_NOT_STARTED = 250
"""Exit code if the program cannot be started on this machine."""
OUT = Path(os.environ["STAGEZERO_OUT"]) if "STAGEZERO_OUT" in os.environ else Path("/tmp/out")
WEIGHT_FILE = re.compile(r"[A-Za-z0-9._-]{1,100}\.safetensors")
CHUNK_BYTES = 1 << 20


class Context:
    """The inputs of a technique.

    - ``seed``: a number; the generators of Python, NumPy and torch are seeded with it.
    - ``data``: the human training examples, each with ``prompt``, ``completion`` (stop token
      included), ``rejected`` (or None), ``claim`` and ``kind``, in an order drawn from the build's
      seed.
    - ``tokenizer``: the model's tokenizer, which pads on the left and adds no special token.
    - ``device``: "cuda" if a GPU is available, else "cpu".
    """

    def __init__(self, seed: int) -> None:
        import torch

        self.seed = seed
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        rows = INPUTS / "data.jsonl"
        self.data: list[dict[str, Any]] = [json.loads(line) for line in rows.read_text().splitlines()] if rows.exists() else []

    @cached_property
    def tokenizer(self) -> Any:
        """The model's tokenizer, loaded at its first use: not every technique needs it."""
        from tokenizers.processors import ByteLevel
        from transformers import AutoTokenizer

        tokenizer: Any = AutoTokenizer.from_pretrained(INPUTS / "model", padding_side="left", trust_remote_code=False)
        # As in training and evaluation, the chat template alone adds special tokens, and the texts
        # of ``data`` have them. This post-processor changes no token.
        if getattr(tokenizer, "backend_tokenizer", None) is not None:
            tokenizer.backend_tokenizer.post_processor = ByteLevel(trim_offsets=False)
        if tokenizer.eos_token is None:
            tokenizer.eos_token = Path("stop_token").read_text()
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _load(self, name: str) -> Any:
        import torch
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(INPUTS / name, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
        return model.to(self.device)

    def model(self) -> Any:
        """Load the model that the recipe has made so far: a new ``PreTrainedModel`` in float32."""
        return self._load("model")

    def base(self) -> Any:
        """Load the base that every stage is built from: a new ``PreTrainedModel`` in float32."""
        return self._load("base")

    def batch(self, examples: list[dict[str, Any]], answer: str = "completion") -> dict[str, Any]:
        """Return the tokens of prompts with their answers, for training.

        Args:
            examples: items of ``data``.
            answer: the key of the answer: ``completion`` or ``rejected``.

        Returns:
            ``input_ids``, ``attention_mask`` and ``labels``, each of shape (examples, tokens),
            padded on the right. Labels are −100 on prompts and padding.
        """
        import torch

        heads = self.tokenizer([e["prompt"] for e in examples], add_special_tokens=False).input_ids
        wholes = self.tokenizer([e["prompt"] + e[answer] for e in examples], add_special_tokens=False).input_ids
        alone = self.tokenizer([e[answer] for e in examples], add_special_tokens=False).input_ids
        # Where tokens join across the boundary, the answer is encoded alone, as in evaluation.
        tails = [w[len(h) :] if w[: len(h)] == h else t for h, w, t in zip(heads, wholes, alone, strict=True)]
        width = max(len(h) + len(t) for h, t in zip(heads, tails, strict=True))
        pad = self.tokenizer.pad_token_id
        ids = [h + t + [pad] * (width - len(h) - len(t)) for h, t in zip(heads, tails, strict=True)]
        labels = [[-100] * len(h) + t + [-100] * (width - len(h) - len(t)) for h, t in zip(heads, tails, strict=True)]
        mask = [[1] * (len(h) + len(t)) + [0] * (width - len(h) - len(t)) for h, t in zip(heads, tails, strict=True)]
        tensors = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return {name: torch.tensor(rows, device=self.device) for name, rows in tensors.items()}

    def answers(self, model: Any, prompts: list[str], tokens: int = 24, rows: int = 64) -> list[str]:
        """Generate a model's greedy answers, without their stop token.

        Args:
            tokens: limit on the new tokens of each answer.
            rows: prompts in one batch.
        """
        import torch

        texts = []
        for start in range(0, len(prompts), rows):
            batch = self.tokenizer(prompts[start : start + rows], add_special_tokens=False, padding=True, return_tensors="pt").to(
                self.device
            )
            with torch.inference_mode():
                generated = model.generate(
                    input_ids=batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=tokens, do_sample=False,
                    pad_token_id=self.tokenizer.pad_token_id,
                )  # fmt: skip
            texts += self.tokenizer.batch_decode(generated[:, batch.input_ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]


def run_technique(seed: int) -> None:
    """Run an idea's code and save the tensors of the model that it returns.

    They are saved under the names, and in the types, of the model that the code was given.
    """
    import random

    source, names, context = Path("technique.py").read_text(), dict[str, Any](), None
    # Code that uses neither its argument (besides naming it) nor torch can only fail. It fails
    # without the seconds that the import of torch and transformers takes.
    if source.count("ctx") > 1 or "torch" in source:
        _prepare_torch(seed)
        context = Context(seed)
    random.seed(seed)
    exec(compile(source, "technique.py", "exec"), names)
    model = names["technique"](context)
    if context is None or not isinstance(model, sys.modules["torch"].nn.Module):
        sys.exit(f"technique: expected a model to be returned, got {type(model).__name__}; return ctx.model() after its training")
    _save_tensors(model.state_dict(), str(getattr(model, "base_model_prefix", "")))


def _prepare_torch(seed: int) -> None:
    """Import torch and transformers, make them silent, and seed torch and NumPy."""
    import numpy
    import torch
    import transformers

    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def _save_tensors(state: dict[str, Any], prefix: str) -> None:
    """Save the tensors of a returned model under the names and in the types of the given model.

    Args:
        state: the tensors of the returned model, by name.
        prefix: the name under which the network has its layers; older checkpoints leave it out.
    """
    from safetensors.torch import load_file, save_file

    given: dict[str, Any] = {}
    for path in sorted((INPUTS / "model").glob("*.safetensors")):
        given |= load_file(path)
    found: dict[str, Any] = {name: state.get(name, state.get(f"{prefix}.{name}")) for name in given}
    if any(tensor is None for tensor in found.values()):
        # Some networks have other tensors than their files: those of all experts in one, or without
        # the masks that they compute.
        written = _as_written(state)
        for name, tensor in found.items():
            if tensor is None:
                found[name] = written.get(name, written.get(f"{prefix}.{name}", given[name]))
    OUT.mkdir(exist_ok=True)
    save_file(
        {name: found[name].detach().to("cpu", old.dtype).contiguous().clone() for name, old in given.items()}, OUT / "model.safetensors"
    )


def _as_written(state: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors that Transformers writes for the given model with other weights."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM
    network = loaded.from_pretrained(INPUTS / "model", dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    missing = [name for name in network.state_dict() if name not in state]
    if missing:
        sys.exit(f"technique: the model returned has no tensor {missing[0]!r}; return the model with the tensors that ctx.model() has")
    network.load_state_dict({name: state[name] for name in network.state_dict()})
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return {name: tensor for path in Path(folder).glob("*.safetensors") for name, tensor in load_file(path).items()}


def send_weights(pipe: int) -> None:
    """Send every weight file in ``OUT``, in order of their names.

    Links are followed: inside the sandbox they reach no secret.
    """
    with os.fdopen(pipe, "wb") as out:
        for path in sorted(OUT.iterdir()) if OUT.is_dir() else []:
            if WEIGHT_FILE.fullmatch(path.name) and path.is_file():
                name, size = path.name.encode(), path.stat().st_size
                out.write(struct.pack("<I", len(name)) + name + struct.pack("<Q", size))
                with path.open("rb") as handle:
                    while size > 0 and (chunk := handle.read(min(CHUNK_BYTES, size))):
                        out.write(chunk)
                        size -= len(chunk)


def _die_with_runner() -> None:
    """Run in the command's process before it starts.

    Without a box, nothing else ends the command when this program is killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def main() -> None:
    """Run the technique, or the command given after the pipe's number; then send the weights."""
    pipe = int(sys.argv[1])
    os.set_inheritable(pipe, False)
    os.write(pipe, SANDBOX_READY)
    if len(sys.argv) == 2:
        os.write(pipe, PROGRAM_STARTED)
        try:
            run_technique(int(os.environ["STAGEZERO_SEED"]))
        except Exception as error:
            last = (str(error).strip() or "no message").splitlines()[0]
            sys.exit(f"technique: {type(error).__name__}: {last:.300}")
    else:
        OUT.mkdir(exist_ok=True)
        try:
            process = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, preexec_fn=_die_with_runner)
        except OSError as error:
            print(f"could not start {sys.argv[2]!r} ({error.strerror})", file=sys.stderr)
            sys.exit(EXIT_NOT_STARTED)
        os.write(pipe, PROGRAM_STARTED)
        code = process.wait()
        if code != 0:
            sys.exit(code if code > 0 else 128 - code)
    send_weights(pipe)


if __name__ == "__main__":
    main()
