"""The package as people install it: away from the repository, with what it declares and no more."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from PIL import Image
from running import MINIATURE
from warm import cold

from atrous.config.place import CLONE, CONF, SWEEPS

RUN = [*(o for o in MINIATURE if not o.startswith(("trainer.max_steps", "trainer.val_check"))), "seed=3"]
RUN += ["trainer.max_steps=2", "trainer.val_check_interval=2"]

FROM_PYTHON = f"""
import json
from pathlib import Path
import atrous
from atrous.__main__ import main

assert main(["sweep", *{RUN!r}, "evaluate=false"]) == 0
assert main(["describe", "model/backbone=small", "model/head=aspp_s", "size=33"]) == 0
assert main(["report", *{RUN!r}]) == 0
assert atrous.network("model/head=aspp_l", num_classes=5).num_classes == 5
(run,) = Path("runs").glob("shapes/*/seed3")
label = atrous.load(run).segment("picture.png")
print(json.dumps(dict(package=atrous.__file__, run=str(run), shape=label.shape)))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the package installed in it, which also sees the packages that are installed here.

    Python searches the folder named in a .pth file for modules, but reads no .pth files there: an editable install of
    the repository stays out of sight.
    """
    folder = tmp_path_factory.mktemp("package")
    without = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "conf", "sweeps"):
        shutil.copytree(CLONE / name, folder / "source" / name, ignore=without)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(CLONE / name, folder / "source")
    venv.create(folder / "venv", symlinks=True)
    (packages,) = (folder / "venv").glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n")
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "venv" / "bin" / "python")]
    nothing_else = ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed"]
    call(*pip, "--disable-pip-version-check", "install", *nothing_else, str(folder / "source"))
    shutil.rmtree(folder / "source")
    return folder / "venv"


def call(*command: str | Path, cwd: Path | None = None) -> str:
    """What it prints. It sees the repository neither by PYTHONPATH nor by this process's W&B."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH" and not key.startswith("WANDB_S")}
    with cold():
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_installed_package_sweeps_trains_reports_describes_and_loads(installed, tmp_path):
    """The sweep starts `python -m atrous train` by the launcher that Hydra finds as a plugin. It all happens in two
    processes, for each takes seconds to start."""
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(tmp_path / "picture.png")
    lines = call(installed / "bin" / "python", "-c", FROM_PYTHON, cwd=tmp_path).splitlines()
    facts = json.loads(lines[-1])
    assert Path(facts["package"]).is_relative_to(installed)
    assert facts["shape"] == [30, 40]
    assert (tmp_path / facts["run"] / "result.json").exists()
    assert json.loads((tmp_path / facts["run"] / "environment.json").read_text())["commit"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["picture.png", "runs"]


def test_the_console_script_is_the_module(installed, tmp_path):
    script, module = (installed / "bin" / "atrous",), (installed / "bin" / "python", "-m", "atrous")
    for overrides in (["--version"], ["--help"]):
        assert call(*script, *overrides, cwd=tmp_path) == call(*module, *overrides, cwd=tmp_path)


def test_every_file_of_conf_and_sweeps_travels_in_the_package(installed):
    (package,) = installed.glob("lib/python*/site-packages/atrous")
    for folder in (CONF, SWEEPS):
        there = package / folder.name
        expected = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.yaml")}
        assert {path.relative_to(there): path.read_bytes() for path in there.rglob("*") if path.is_file()} == expected


def test_every_file_beside_the_modules_travels_in_the_package(installed):
    (packages,) = installed.glob("lib/python*/site-packages")
    files = {path.relative_to(CLONE / "src") for path in (CLONE / "src").rglob("*") if path.is_file()}
    files = {path for path in files if path.suffix != ".pyc" and not path.parts[0].endswith(".egg-info")}
    assert Path("atrous/py.typed") in files
    assert {path for path in files if not (packages / path).exists()} == set()


# ---- dependencies ---------------------------------------------------------------------------------------------------
def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported(path: Path) -> set[str]:
    """The top names of all modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level}
    return {name.partition(".")[0] for name in names}


def test_every_import_is_declared():
    project = tomllib.loads((CLONE / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    declared = {normalised(Requirement(line).name) for line in [*project["dependencies"], *extras]}
    modules = set().union(*map(imported, (CLONE / "src").rglob("*.py")))
    modules -= {*sys.stdlib_module_names, "atrous"}
    packages = metadata.packages_distributions()  # a module that is not installed here is named as its package is
    lacking = {m for m in modules if not {normalised(name) for name in packages.get(m, [m])} & declared}
    assert {"torch", "cv2"} <= modules
    assert lacking == set()
