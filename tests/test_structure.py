"""The configuration tree mirrors the source tree, and everything shipped composes and steps."""

from pathlib import Path

import pytest
from hydra.utils import get_object
from omegaconf import OmegaConf
from running import configure

from atrous.override import CONF
from atrous.segmenter import targets

GROUPS = sorted({path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")} - {".", "experiment"})
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent.name != "experiment" and path.parent != CONF)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONF).as_posix())
def test_a_group_names_the_package_that_it_configures(path):
    group = path.parent.relative_to(CONF).as_posix().replace("/", ".")
    for target in targets(OmegaConf.to_container(OmegaConf.load(path))):
        assert target.startswith((f"atrous.{group}.", "lightning.")), f"{path}: {target}"
        assert callable(get_object(target))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONF).as_posix())
def test_every_shipped_choice_composes(path):
    group, name = path.parent.relative_to(CONF).as_posix(), path.stem
    assert configure("experiment=shapes", f"{group}={name}") is not None


def test_no_file_of_the_project_is_a_grab_bag():
    banned = {"utils", "common", "core", "components", "helpers", "misc"}
    sources = (CONF.parent / "src").rglob("*.py")
    assert not {path.stem for path in sources} & banned
    assert not {part for path in (CONF.parent / "src").rglob("*") for part in Path(path).parts[-1:] if part in banned}
