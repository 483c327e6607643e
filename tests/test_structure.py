"""The configuration tree mirrors the source tree, and everything shipped composes and steps."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf

from atrous.override import CONF, groups_of
from atrous.segmenter import targets

GROUPS = sorted(
    {path.parent.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml")} - {".", "experiment", "small"}
)
FILES = sorted(path for path in CONF.rglob("*.yaml") if path.parent.name not in ("experiment", "small", "conf"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONF).as_posix())
def test_a_group_names_the_package_that_it_configures(path):
    group = path.parent.relative_to(CONF).as_posix().replace("/", ".")
    for target in targets(OmegaConf.to_container(OmegaConf.load(path))):
        assert target.startswith((f"atrous.{group}.", "lightning.")), f"{path}: {target}"
        assert callable(get_object(target))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(CONF).as_posix())
def test_every_shipped_choice_composes(path):
    group, name = path.parent.relative_to(CONF).as_posix(), path.stem
    verbs = [verb for verb in ("config", "tune") if group in groups_of(verb)]
    words = ["experiment=shapes"] if verbs[0] == "config" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(verbs[0], [*words, f"{group}={name}"])[group.split("/")[0]] is not None


def test_no_file_of_the_project_is_a_grab_bag():
    banned = {"utils", "common", "core", "components", "helpers", "misc"}
    sources = (CONF.parent / "src").rglob("*.py")
    assert not {path.stem for path in sources} & banned
    assert not {part for path in (CONF.parent / "src").rglob("*") for part in Path(path).parts[-1:] if part in banned}
