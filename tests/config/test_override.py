import re

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from atrous.config.name import name_of
from atrous.config.override import absences, groups_of, quote_paths, read_choices
from atrous.config.place import CONF
from atrous.config.suggest import problem_with

SHAPES = "experiment=shapes"


@pytest.mark.parametrize("config_name", ["config", "browse"])  # browse includes config
@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["experiment=shape"], "did you mean experiment=shapes"),
        (["shapes"], "did you mean experiment=shapes"),
        ([], "which experiment?"),
        ([SHAPES, "model/head=aspl"], "did you mean model/head=aspp_l"),
        ([SHAPES, "model.head=aspp_l"], "chosen with a slash: model/head=aspp_l"),
        ([SHAPES, "model/hed=aspp_l"], "did you mean model/head"),
        ([SHAPES, "optm.lr=1"], "did you mean optim.lr"),
        ([SHAPES, "lr=1"], "did you mean optim.lr"),
        ([SHAPES, "trainer.max_step=3"], "did you mean trainer.max_steps"),
        ([SHAPES, "data=vok"], "did you mean data=voc"),
        ([SHAPES, "optim.lr=fast"], "`optim.lr` is a number"),
        ([SHAPES, "seed=one"], "`seed` is a whole number (0 unless set); got 'one'"),
        ([SHAPES, "total_batch=2.5"], "`total_batch` is a whole number"),
        ([SHAPES, "crf=v2", "crf.iterations=2.5"], "`crf.iterations` is a whole number"),
        ([SHAPES, "trainer.deterministic=7"], "`trainer.deterministic` is true or false"),
        ([SHAPES, "train_only=mcs"], "`train_only` is msc or classifier or crf (null unless set); got 'mcs'"),
        ([SHAPES, "resume=often"], "`resume` is auto or never"),
        ([SHAPES, "model/head=aspp_l", "model.head.rates=6"], "`model.head.rates` is a list"),
        ([SHAPES, "+colour=red"], "there is no `colour`"),
        ([SHAPES, "~optim.lrr"], "there is no `optim.lrr`"),
        ([SHAPES, "optim.lr=[1"], "can't be read as key=value"),
    ],
)
def test_a_misunderstanding_is_told_with_the_nearest_names_in_five_lines(overrides, expected, config_name):
    message = problem_with(overrides, config_name)
    assert message is not None
    assert expected in message
    assert len(message.splitlines()) <= 5


@pytest.mark.parametrize(
    "overrides",
    [
        [SHAPES],
        [SHAPES, "model/head=aspp_s", "model.head.rates=[2,4]", "seed=3", "trainer.devices=auto", "trainer.devices=2"],
        [SHAPES, "optim.lr=1", "weights=null", "device_batch=4"][:2] + ["device_batch=4"],
        [SHAPES, "~crf", "crf.validate=true"][:2],
        [SHAPES, "crf=v2", "crf.validate=true"],
        [SHAPES, "crf=v2", "crf.w1=1.5", "crf.sigma_beta=2.5"],
        [SHAPES, "train_only=msc", "device_batch=3"],
        [SHAPES, "model/head=plain,aspp_l", "seed=0,1"],
        [SHAPES, "logger=csv", "+callback.mine={_target_:x.Y}"],
        [SHAPES, "logger=[wandb,tensorboard]"],
    ],
)
def test_what_is_meant_well_is_let_through(overrides):
    assert problem_with(overrides) is None
    assert problem_with([*overrides, "count=3", "split=val", "out=there"], "browse") is None


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([SHAPES, "cuont=3"], "did you mean count"),
        ([SHAPES, "count=many"], "`count` is a whole number (12 unless set); got 'many'"),
        ([SHAPES, "split=test"], "`split` is train or val (train unless set); got 'test'"),
    ],
)
def test_what_a_configuration_adds_to_the_included_one_is_checked_too(overrides, expected):
    assert expected in (problem_with(overrides, "browse") or "")
    assert "there is no `" in (problem_with(overrides) or "")  # a run knows none of these


def test_groups_are_chosen_from_those_of_the_included_configuration_only():
    assert groups_of("browse") == groups_of("config")
    assert set(groups_of("describe")) == {"model/backbone", "model/head", "model/multiscale", "model/crf"}


@pytest.mark.parametrize("config_name", ["config", "browse"])
def test_null_for_a_group_is_hydras_way_to_leave_it_out(config_name):
    overrides = ["crf=null", "seed=null", "model/multiscale=null"]
    assert absences(overrides, config_name) == ["~crf", "seed=null", "~model/multiscale"]


def test_the_same_command_has_the_same_name_whatever_its_order():
    one = name_of("voc", ["experiment=voc", "model/head=aspp_l", "optim.lr=0.1", "seed=4", "workers=2"])
    other = name_of("voc", ["optim.lr=0.1", "logger.wandb.project=x", "experiment=voc", "model/head=aspp_l"])
    assert one == other == "voc/model.head=aspp_l,optim.lr=0.1"
    assert name_of("voc", ["experiment=voc"]) == "voc/default"


def test_a_long_command_has_a_short_name_of_its_own():
    names = {name_of("voc", [f"data.root={'x' * 300}{i}"]) for i in range(3)}
    assert len(names) == 3
    assert all(len(name.split("/")[1].encode()) < 200 for name in names)


def test_a_path_in_the_users_home_is_a_path():
    assert quote_paths(["archives=~/Downloads", "~crf", "size=3"]) == ["archives='~/Downloads'", "~crf", "size=3"]
    assert problem_with(quote_paths(["archives=~/Downloads"]), "prepare") is None


OWN = {
    "_target_": "atrous.crf.DenseCRF",
    "w1": 4.5,
    "backend": "native",
    "validate": False,
    "chosen_on": ["a b", "it's, [this] = {odd}", "back\\"],
    "more": {"none": None, "small": -2e-9},
}


@pytest.mark.parametrize("experiment", ["experiment=shapes", "experiment=folder"])  # with a CRF and without one
def test_a_file_is_a_choice_of_its_own(tmp_path, experiment):
    path = tmp_path / "my crf.yaml"
    path.write_text(yaml.safe_dump(OWN))
    overrides = absences(quote_paths(read_choices([experiment, f"crf={path}", "crf.w1=3"])))
    assert problem_with(overrides) is None
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose("config", overrides)
    assert OmegaConf.to_container(composed.crf) == OWN | {"w1": 3}


def test_a_file_may_be_of_any_group(tmp_path):
    path = tmp_path / "wide.yaml"
    path.write_text("_target_: atrous.model.head.ASPP\nrates: [2, 30]\n")
    overrides = read_choices([SHAPES, f"model/head={path}"])
    assert problem_with(overrides) is None
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose("config", overrides).model.head == {"_target_": "atrous.model.head.ASPP", "rates": [2, 30]}


def test_the_name_of_a_run_tells_files_apart_by_what_they_hold(tmp_path):
    names = set()
    for place, w1 in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / place).mkdir()
        path = tmp_path / place / "crf.yaml"
        path.write_text(yaml.safe_dump(OWN | {"w1": w1}))
        names.add(name_of("shapes", read_choices([SHAPES, f"crf={path}", "model/head=plain"])))
    assert len(names) == 2
    assert all(re.fullmatch(r"shapes/crf=[0-9a-f]{8},model\.head=plain", name) for name in names)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "No such file"), ("w1: [", "is no YAML"), ("w1: 3", "must hold a `_target_`"), ("- 3", "must hold a")],
)
def test_a_file_that_is_no_choice_says_why(tmp_path, content, says):
    path = tmp_path / "crf.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=rf"`crf={path}`.*{says}"):
        read_choices([SHAPES, f"crf={path}"])


def test_a_file_takes_over_what_its_defaults_name(tmp_path):
    (tmp_path / "base.yaml").write_text("one:\n  _target_: mine.One\n  size: 1\n")
    (tmp_path / "mine.yaml").write_text("defaults: [base, _self_]\none:\n  size: 2\ntwo:\n  _target_: mine.Two\n")
    overrides = read_choices([SHAPES, f"callback={tmp_path / 'mine.yaml'}"])
    assert problem_with(overrides) is None
    with initialize_config_dir(str(CONF), version_base="1.3"):
        callback = compose("config", overrides).callback
    assert callback == {"one": {"_target_": "mine.One", "size": 2}, "two": {"_target_": "mine.Two"}}


@pytest.mark.parametrize(
    ("group", "content", "says"),
    [
        ("callback", "every: 20", "must hold named parts, each with a `_target_`"),
        ("logger", "defaults: [nothing]", "defaults name nothing, which is neither beside it nor shipped"),
        ("experiment", "# @package _global_\ntotal_batch: 3", "--config-dir=conf experiment=mine"),
    ],
)
def test_a_file_of_another_form_than_its_groups_says_which(tmp_path, group, content, says):
    (tmp_path / "mine.yaml").write_text(content)
    with pytest.raises(ValueError, match=says):
        read_choices([f"{group}={tmp_path / 'mine.yaml'}"])


def test_a_value_of_a_file_is_checked_against_the_file(tmp_path):
    (tmp_path / "mine.yaml").write_text("_target_: mine.Head\nchannels: 8\n")
    overrides = read_choices([SHAPES, f"model/head={tmp_path / 'mine.yaml'}"])
    assert problem_with([*overrides, "model.head.channels=16"]) is None
    assert "`model.head.channels` is a whole number (8 unless set)" in (
        problem_with([*overrides, "model.head.channels=many"]) or ""
    )
