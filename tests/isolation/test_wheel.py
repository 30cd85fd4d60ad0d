"""The sandbox of an installed wheel hides stagezero, and no other package in the same folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from stagezero.isolation import Kind, unavailable_reason

ROOT = Path(__file__).parents[2]
PROGRAM = """
import importlib.util, json, os, safetensors, torch
def attempt(f):
    try: return f()
    except OSError as error: return type(error).__name__
site = os.path.dirname(os.path.dirname(safetensors.__file__))
print(json.dumps({
    "site": site,
    "names": attempt(lambda: sorted(os.listdir(site + "/stagezero"))),
    "file": attempt(lambda: open(site + "/stagezero/tasks/__init__.py").read()),
    "neighbour": open(site + "/neighbour.py").read(),
    "torch": int(torch.ones(3).sum()),
}))
"""
RUN = """
import json, os, sys
from pathlib import Path
from stagezero.files import PACKAGE_FOLDER
from stagezero.isolation import Confinement, Task, confine, unavailable_reason
kind, base, folder = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
assert (why := unavailable_reason(kind)) is None, why
task = Task(("python", "x.py"), base, base, {"x.py": sys.argv[4].encode()}, None, 1, 120, 1 << 20)
ran = confine(task, Confinement(kind), folder / "out", folder / "run")
print(json.dumps({"package": str(PACKAGE_FOLDER), "code": ran.code, "output": ran.output}))
"""


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """Yield a virtual environment outside /tmp, with an installed wheel.

    The wheel, safetensors and another module are in one folder. Other packages are elsewhere.
    """
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    parent = next((p for p in (Path("/srv"), Path("/var/lib"), Path.home()) if os.access(p, os.W_OK)), None)
    if parent is None:
        pytest.skip("no folder outside /tmp can be written")
    packages = next(Path(p) for p in sys.path if p.endswith("-packages") and (Path(p) / "safetensors").is_dir())
    with tempfile.TemporaryDirectory(dir=parent, prefix="wheel-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o755)
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
        (site,) = (folder / "venv").glob("lib/python*/site-packages")
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(site)
        shutil.copytree(packages / "safetensors", site / "safetensors")
        (site / "neighbour.py").write_text("here")
        (site / "packages.pth").write_text(f"{packages}\n")
        yield folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["box", "landlock"])
def test_the_sandbox_of_a_wheel_hides_only_stagezero(installed: Path, base: Path, kind: Kind) -> None:
    if (why := unavailable_reason(kind)) is not None:
        pytest.skip(f"no sandbox can be created here: {why}")
    python = installed / "venv" / "bin" / "python"
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(python), "-c", RUN, kind, str(base), str(installed / kind), PROGRAM]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/", env=variables)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    (site,) = (installed / "venv").glob("lib/python*/site-packages")
    assert result["package"] == str(site / "stagezero"), "the wheel's package must run, not the checkout's"
    assert result["code"] == 0, result["output"]
    observed = json.loads(result["output"])
    assert observed["site"] == str(site) and observed["neighbour"] == "here" and observed["torch"] == 3
    assert observed["file"] == ("FileNotFoundError" if kind == "box" else "PermissionError"), observed
    assert kind == "landlock" or observed["names"] == [], "only under Landlock may the names of the files be visible"
