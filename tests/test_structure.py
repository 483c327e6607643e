"""The configuration tree mirrors the source tree, and everything shipped composes and steps."""

import ast
from pathlib import Path

import grimp
import mutate
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from atrous.config.override import groups_of
from atrous.config.place import CLONE, CONF
from atrous.config.trust import targets

GROUPS = sorted(
    {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")} - {".", "experiment", "small"}
)
FILES = sorted(path for path in CONF.rglob("[!_]*.yaml") if path.parent.name not in ("experiment", "small", "conf"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONF).as_posix())
def test_a_group_names_the_package_that_it_configures(path):
    group = path.parent.relative_to(CONF).as_posix().replace("/", ".").replace("search", "crf.search")
    for target in targets(OmegaConf.to_container(OmegaConf.load(path))):
        assert target.startswith((f"atrous.{group}.", "lightning.")), f"{path}: {target}"
        assert callable(get_object(target))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONF).as_posix())
def test_every_shipped_choice_composes(path):
    group, name = path.parent.relative_to(CONF).as_posix(), path.stem
    verbs = [verb for verb in ("config", "tune") if group in groups_of(verb)]
    overrides = ["experiment=shapes"] if verbs[0] == "config" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(verbs[0], [*overrides, f"{group}={name}"])[group.split("/")[0]] is not None


def test_no_file_of_the_project_is_a_grab_bag():
    banned = {"utils", "common", "core", "components", "helpers", "misc"}
    sources = (CONF.parent / "src").rglob("*.py")
    assert not {path.stem for path in sources} & banned
    assert not {part for path in (CONF.parent / "src").rglob("*") for part in Path(path).parts[-1:] if part in banned}


def test_no_two_files_need_each_other():
    """Also where one needs the other for its types alone: then a concept is missing that both could need."""
    graph = grimp.build_graph("atrous", exclude_type_checking_imports=False, cache_dir=None)
    below = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    while leaves := {module for module, needs in below.items() if not needs}:
        below = {module: needs - leaves for module, needs in below.items() if module not in leaves}
    assert not below, f"in circles, or above one: {sorted(below)}"


@pytest.mark.parametrize("fault", mutate.FAULTS, ids=lambda fault: fault.title)
def test_a_fault_of_make_mutate_can_still_be_made(fault):
    root = CONF.parent
    assert (root / fault.file).read_text().count(fault.right) == 1
    assert all((root / "tests" / test).exists() for test in fault.tests.split())


def test_an_import_within_a_function_says_why():
    """In a comment behind it or above it. `atrous` and `atrous.__main__` are light as a whole, and say so."""
    silent = []
    for path in sorted((CLONE / "src").rglob("*.py")):
        if path.parent.name == "atrous" and path.stem in ("__init__", "__main__"):
            continue
        lines = path.read_text().splitlines()
        for function in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for statement in ast.walk(function):
                if isinstance(statement, (ast.Import, ast.ImportFrom)):
                    above = [line.strip() for line in lines[function.lineno - 1 : statement.lineno - 1]]
                    reasons = [line for line in above if line.startswith("#") or ("import " in line and "#" in line)]
                    if "#" not in lines[statement.lineno - 1] and not reasons:
                        silent.append(f"{path.relative_to(CLONE)}:{statement.lineno}")
    assert not silent
