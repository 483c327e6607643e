"""Everything that docs/extend.md says one can add is added, by the very text of that page, from outside the package."""

import json
import os
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from running import atrous, refusal
from torch import nn

import atrous as package
from atrous.__main__ import main
from atrous.config.folders import config_dir
from atrous.config.place import CONF
from atrous.disk import read_metrics
from atrous.model.head import ASPP, Head

PAGE = (CONF.parent / "docs" / "extend.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml) (\S+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
RUN = "runs/dots/default/seed0"
OWN = ("--config-dir", "conf")


def run_command(line):
    verb, *arguments = shlex.split(line)
    assert verb == "atrous"
    return main(arguments)


def command(verb):
    """The page's only command with this verb."""
    (line,) = [line for line in COMMANDS if line.startswith(f"atrous {verb} ")]
    return line


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder of the page, with a run trained in it."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("study")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(folder / "photo.png")
    os.chdir(folder)
    try:
        assert run_command(COMMANDS[0]) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def study(home, monkeypatch):
    monkeypatch.chdir(home)
    return home


def result_of(run=RUN):
    return json.loads(Path(run, "result.json").read_text())


# ---- an experiment, with a backbone, a head, a dataset, a loss, callbacks and loggers of one's own ------------------
def test_it_trains_with_the_parts_of_the_page(study):
    protocol = result_of()["protocol"]
    assert (protocol["dataset"], protocol["iteration"]) == ("mine.data.Dots", 100)
    assert result_of()["scores"]["mean_iou"] > 0.6  # a third is the ground alone
    lines = [json.loads(line) for line in (study / RUN / "lines.jsonl").read_text().splitlines()]
    assert any("val/miou" in line for line in lines)
    assert [line["step"] for line in lines if "gradient_norm" in line] == [*range(0, 100, 10)]
    rows = read_metrics(study / RUN / "metrics.csv")
    assert [row["step"] for row in rows if "gradient_norm" in row] == [*range(0, 100, 10)]
    assert (study / RUN / "curves.png").exists()  # the shipped callbacks are there too
    assert not list((study / RUN).glob("wandb*"))


def test_the_same_command_finds_the_run_and_resumes_it(study, capsys):
    overrides = [*OWN, "experiment=dots", "seed=3"]
    assert main(["train", *overrides, "+callback.signal={_target_:running.Signal,at:6,name:SIGTERM}"]) == 143
    assert "going on from" not in capsys.readouterr().out
    assert main(["train", *overrides]) == 0
    assert "going on from runs/dots/default/seed3/checkpoint/last.ckpt" in capsys.readouterr().out
    assert result_of("runs/dots/default/seed3")["protocol"]["iteration"] == 100
    assert main(["train", f"--config-dir={study / 'conf'}", "experiment=dots"]) == 0
    assert "this run is complete" in capsys.readouterr().out


def test_it_is_the_loss_of_the_page(study):
    with config_dir("conf"):
        from mine.loss import Focal
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    label = torch.zeros(2, 4, 4, dtype=torch.int64)
    label[0, 0] = 255
    one, other = Focal(gamma=0.0)(logits, label), nn.CrossEntropyLoss(ignore_index=255)(logits, label)
    torch.testing.assert_close(one, other)


def test_a_loss_of_torch_trains(study):
    assert run_command(COMMANDS[1]) == 0
    assert result_of("runs/dots/loss=smooth/seed0")["protocol"]["iteration"] == 100


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("{_target_:torch.nn.CrossEntropyLoss}", "loss.ignore_index=255"),
        ("{_target_:torch.nn.BCEWithLogitsLoss}", "`loss` can't be called with logits (B, 8, h, w)"),
        ("{_target_:torch.nn.CrossEntropyLoss,ignore_index:255,reduction:none}", "must give one finite number"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused_before_any_work(tmp_path, override, reason):
    assert reason in refusal(tmp_path / "run", "~loss", f"+loss={override}")
    assert not (tmp_path / "run").exists()


# ---- verbs on what was trained --------------------------------------------------------------------------------------
def test_it_is_evaluated_as_the_run_scored_itself(study):
    assert run_command(command("evaluate")) == 0
    (path,) = Path(RUN).glob("evaluate/*/result.json")
    assert json.loads(path.read_text())["confusion"] == result_of()["confusion"]


def test_it_segments_and_is_exported(study):
    assert run_command(command("predict")) == 0
    assert run_command(command("export")) == 0
    image = np.asarray(Image.open("photo.png"))
    with config_dir("conf"):
        expected = package.load(RUN, trust=True).segment(image)
        assert (package.load(f"{RUN}/network.safetensors", trust=True).segment(image) == expected).all()
    assert (np.asarray(Image.open(f"{RUN}/predict/photo.png")) == expected).all()


@pytest.mark.parametrize("verb", ["describe", "browse", "check-data", "worst"])
def test_a_verb_takes_ones_own_choices(study, verb):
    assert run_command(command(verb)) == 0


def test_runs_are_compared(study):
    if not Path("runs/dots/loss=smooth/seed0/result.json").exists():
        assert run_command(COMMANDS[1]) == 0
    assert run_command(command("compare")) == 0


def test_the_crf_is_tuned_on_ones_own_dataset(study):
    grid = ["search=shapes", "search.w1=[5]", "search.sigma_alpha=[10]", "search.sigma_beta=[10]", "search.rounds=1"]
    assert main(["tune", *OWN, f"run={RUN}", "trust=true", "pictures=2", *grid, "workers=0"]) == 0


@pytest.mark.parametrize("verb", ["evaluate", "predict images=photo.png", "export", "worst"])
def test_classes_from_outside_are_run_on_trust_only(study, verb, capsys):
    verb, *more = verb.split()
    assert main([verb, *OWN, f"run={RUN}", *more]) == 2
    message = capsys.readouterr().err
    assert "`mine." in message
    assert "trust=True lets it run" in message


def test_describe_leaves_out_a_receptive_field_that_is_not_stated(study, capsys):
    assert run_command(command("describe")) == 0
    text = capsys.readouterr().out
    assert "head.mix" in text
    assert "3 classes, 9 x 9, one every 4 pixels" in text
    assert "receptive field" not in text


# ---- weights --------------------------------------------------------------------------------------------------------
def test_weights_of_ones_own_network_come_back_in(study, capsys):
    overrides = [*OWN, "experiment=dots", f"weights={RUN}", "trainer.max_steps=1", "optim.lr=0.0", "run_dir=runs/again"]
    assert main(["train", *overrides]) == 0
    assert "100% of the backbone" in capsys.readouterr().out
    with config_dir("conf"):
        one, other = (package.load(run, trust=True) for run in (RUN, "runs/again"))
    image = np.asarray(Image.open("photo.png"))
    assert (one.probs(image) == other.probs(image)).all()


def test_weights_from_elsewhere_are_scored_in_ones_own_experiment(study):
    saved = torch.load(f"{RUN}/checkpoint/last.ckpt", weights_only=True)["state_dict"]
    torch.save({name.removeprefix("network."): x for name, x in saved.items()}, "net.pth")
    assert main(["evaluate", *OWN, "run=net.pth", "like=dots", "trust=true", "out=scores"]) == 0
    assert json.loads(Path("scores/result.json").read_text())["confusion"] == result_of()["confusion"]


def test_imagenet_weights_go_to_the_backbone_before_a_head_of_ones_own(study, monkeypatch, tmp_path):
    from atrous.model.weights import load

    network = package.network(
        "model/backbone=vgg16", "model.backbone.width=4", "model/head=two_layers", config_dir="conf"
    )
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    given = {f"features.{k}.{part}": tensor for k, part, tensor in vgg_features(network)}
    torch.save(given, tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth")
    report = load(network, "imagenet")  # type: ignore[arg-type]
    assert report.backbone_share == 1
    assert report.new == ["head.mix.weight", "head.mix.bias", "head.score.weight", "head.score.bias"]


def vgg_features(network):
    """torchvision's numbers of the convolutions, with random weights of their shapes."""
    numbers = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    layers = [layer for layer in network.backbone.modules() if isinstance(layer, nn.Conv2d)]
    for number, layer in zip(numbers, layers):
        yield from ((number, part, torch.randn_like(tensor)) for part, tensor in layer.state_dict().items())


def test_there_are_no_imagenet_weights_for_a_backbone_that_states_none(study, capsys):
    assert main(["train", *OWN, "experiment=dots", "weights=imagenet", "run_dir=runs/none"]) == 2
    assert "there are no ImageNet weights for Tiny" in capsys.readouterr().err


# ---- sweeps ---------------------------------------------------------------------------------------------------------
def test_a_sweep_of_ones_own_runs_in_processes_that_know_the_folder(study, capsys):
    """The launcher starts them, and hands on the folder; the run of the page is one of its runs."""
    before = Path(RUN, "checkpoint/last.ckpt").stat().st_mtime_ns
    assert run_command(command("sweep")) == 0, capsys.readouterr().out
    assert Path(RUN, "checkpoint/last.ckpt").stat().st_mtime_ns == before
    assert result_of("runs/dots/default/seed1")["seed"] == 1
    assert list(Path("runs/dots/default/seed1").glob("evaluate/*/result.json"))
    assert run_command(command("report")) == 0
    assert "Dots: two seeds" in capsys.readouterr().out


def test_the_other_ranks_of_a_run_know_the_folder(study):
    """Lightning starts them with the command line of the first: that takes processes of their own."""
    overrides = [
        "trainer=ddp",
        "trainer.devices=2",
        "trainer.accelerator=cpu",
        "trainer.max_steps=2",
        "run_dir=runs/two",
    ]
    done = atrous("train", *OWN, "experiment=dots", *overrides, cwd=study)
    assert done.returncode == 0, done.stderr
    assert result_of("runs/two")["devices"] == 2


# ---- files as choices -----------------------------------------------------------------------------------------------
def test_a_file_of_callbacks_or_loggers_is_a_choice_without_a_folder(study, monkeypatch):
    monkeypatch.syspath_prepend(study)
    overrides = ["callback=conf/callback/norm.yaml", "logger=conf/logger/lines.yaml", "experiment=shapes", "crf=null"]
    overrides += ["data.size=33", "data.val_pictures=2", "model.backbone.width=8", "trainer.max_steps=1", "workers=0"]
    assert main(["train", *overrides, "run_dir=runs/shapes"]) == 0
    logged = [json.loads(line) for line in Path("runs/shapes/lines.jsonl").read_text().splitlines()]
    assert any("gradient_norm" in line for line in logged)


@pytest.mark.parametrize("path", sorted((CONF / "callback").glob("*.yaml")) + sorted((CONF / "logger").glob("*.yaml")))
def test_a_copy_of_a_shipped_file_means_what_the_shipped_one_means(tmp_path, path):
    from atrous.config.override import composed, read_choices

    (tmp_path / "mine.yaml").write_text(path.read_text())
    group = path.parent.name
    copied = composed("config", tuple(read_choices(["experiment=shapes", f"{group}={tmp_path / 'mine.yaml'}"])))
    assert copied[group] == composed("config", ("experiment=shapes", f"{group}={path.stem}"))[group]


# ---- what can't be --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("data/voc.yaml", "_target_: mine.data.Dots\n", "has the name of a shipped file"),
        ("sweeps/v2_table3.yaml", "# @package _global_\n", "has the name of a shipped file"),
        ("experiment/other.yaml", "total_batch: 3\n", "must begin with the line `# @package _global_`"),
    ],
)
def test_a_file_that_would_do_nothing_is_refused(tmp_path, name, text, reason, capsys):
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text(text)
    assert main(["train", "--config-dir", str(tmp_path), "experiment=shapes"]) == 2
    assert reason in capsys.readouterr().err


def test_a_folder_that_is_not_there_and_a_misspelt_choice_are_told(study, capsys):
    assert main(["train", "--config-dir", "cnof", "experiment=dots"]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert main(["train", *OWN, "experiment=dots", "model/head=two_layer"]) == 2
    assert "did you mean model/head=two_layers" in capsys.readouterr().err
    assert main(["train", "experiment=dots"]) == 2
    assert "there is no experiment=dots" in capsys.readouterr().err


def test_nothing_of_the_folder_is_left_behind_when_a_verb_has_ended(study):
    before = list(sys.path)
    assert run_command(command("describe")) == 0
    assert sys.path == before


@pytest.mark.parametrize(
    ("argument", "remedy"),
    [
        ("max_epochs=3", "trainer.max_steps=…"),
        ("num_sanity_val_steps=2", "trainer.val_check_interval=…"),
        ("log_every_n_steps=5", "callback.progress.every=…"),
        ("accumulate_grad_batches=2", "total_batch=… and device_batch=…"),
    ],
)
def test_an_argument_of_the_trainer_that_a_run_sets_itself_is_refused(tmp_path, argument, remedy):
    message = refusal(tmp_path / "run", f"+trainer.{argument}")
    assert message.startswith(f"`trainer.{argument}` would change nothing: ")
    assert remedy in message


def test_what_lacks_the_contract_of_its_group_is_refused(tmp_path):
    message = refusal(tmp_path / "run", "model.head._target_=test_doors.Half", "~model.head.rates")
    assert (
        message == "`model/head` must be a atrous.model.head.contract.Head, which says what it must have (got a Half)"
    )


class Half(nn.Module):
    def __init__(self, **arguments):
        super().__init__()


def test_every_shipped_head_keeps_the_contract():
    head = ASPP(4, 3)
    assert isinstance(head, Head)
    assert [layer.out_channels for layer in head.classifiers()] == [3] * 4
    state = {name: tensor + 1 for name, tensor in head.state_dict().items()}
    taken = head.start_from(state)
    assert all(torch.equal(taken[name], state[name]) for name in state)
    assert {window.name for path in head.windows().values() for window in path} <= {
        name for name, _ in head.named_modules()
    }
