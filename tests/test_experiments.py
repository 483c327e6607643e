"""Every experiment that is shipped takes two steps, from end to end, on miniature data in its dataset's real layout."""

from itertools import cycle

import pytest
import torch
from hydra.utils import instantiate
from miniature import ARCHIVES, prepared, write_voc
from running import configure, run, run_plain

from atrous.__main__ import main
from atrous.config.build import build_network
from atrous.config.place import CONF

HEADS = sorted(path.stem for path in (CONF / "model" / "head").glob("*.yaml"))
BACKBONES = {"small": 8, "vgg16": 4, "resnet50": 4}
UNPOOLS = ["model/backbone=vgg16_strided", "model.backbone.width=2", "model.backbone.norm=true"]
OF_SYSTEMS = {  # heads that ask for a backbone of their own
    "fcn": ["model/backbone=vgg16_strided", "model.backbone.width=2", "model.backbone.padding=100"],
    "segnet": UNPOOLS,
    "deconvnet": [*UNPOOLS, "data.size=193"],
}
FILES = {path.stem: path.read_text() for path in sorted((CONF / "experiment").glob("*.yaml"))}
EXPERIMENTS = [name for name, text in FILES.items() if "- override /" in text]  # others differ in length or start alone


@pytest.fixture(scope="module")
def miniature_of(tmp_path_factory):
    """The overrides by which a dataset is a miniature; each is written once."""
    written = {}

    def overrides(data):
        kind = data["_target_"]
        if kind not in written:
            written[kind] = write_miniature(data, tmp_path_factory.mktemp("data"))
        return written[kind]

    return overrides


def write_miniature(data, root):
    if data["_target_"].endswith("Shapes"):
        return ["data.size=65", "data.val_pictures=4"]
    if data["_target_"].endswith("Folder"):
        write_voc(root, {"train": ["a", "b", "c"]})
        (root / "JPEGImages").rename(root / "images")
        (root / "SegmentationClass").rename(root / "labels")
        (root / "dataset.yaml").write_text(f"names: {list(range(21))}")
    else:
        dataset = instantiate({**data, "root": str(root)})
        ARCHIVES[dataset.name](root / "archives")
        prepared(dataset, root / "archives")
    return [f"data.root='{root}'"]


# Of the rows of a table those that differ from their neighbours in kind; tests/test_sweeps.py trains all of them small.
QUICK = {"v1_largefov", "v1_msc", "v2_context_msc", "v2_resnet101_aspp", "v2_cityscapes_vgg16_half", "v2_person_part"}


def marked(name):
    row = name.startswith(("v1_", "v2_")) and name not in QUICK
    return pytest.param(name, marks=pytest.mark.slow) if row else name


@pytest.mark.parametrize("name", [marked(name) for name in EXPERIMENTS])
def test_a_shipped_experiment_trains_and_scores(name, tmp_path, miniature_of):
    cfg = configure(f"experiment={name}")
    small = [
        f"experiment={name}",
        "model.backbone.width=4",
        "total_batch=2",
        "logger=csv",
        "workers=0",
        "val_batch=1",
        "weights=null",
    ]
    small += [
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
        "trainer.accelerator=cpu",
        "trainer.precision=32-true",
    ]
    small += ["callback.pictures.count=1", *miniature_of(cfg.data)]
    small += [f"augment.crop={64 + cfg.augment.crop % 8}"] if cfg.augment else []
    small += ["model.head.hidden=16"] if cfg.model.head.hidden else []
    small += ["crf.iterations=1"] if cfg.crf else []
    small += [] if name in ("shapes", "voc") else ["callback.charts=null"]  # a second for a matrix of 60 classes
    result = run_plain(*small, folder=tmp_path / "run")
    assert result["protocol"]["iteration"] == 2
    assert 0 <= result["scores"]["mean_iou"] <= 1
    assert (result["scores_crf"] is None) == (cfg.crf is None)


CHOOSING = [name for name in EXPERIMENTS if "/model/backbone:" in FILES[name]]


# Each with one, in turn: an experiment's choice of a backbone is replaced by one and the same rule.
@pytest.mark.parametrize(("name", "backbone"), list(zip(CHOOSING, cycle(BACKBONES))))
def test_any_other_backbone_may_be_chosen(name, backbone):
    cfg = configure(f"experiment={name}", f"model/backbone={backbone}", "model.backbone.width=4")
    with torch.device("meta"):
        assert build_network(cfg.model, 21) is not None


# A run of each head; tests/model/test_network.py trains the network of every combination.
@pytest.mark.parametrize(("head", "backbone"), list(zip(HEADS, cycle(BACKBONES))))
def test_every_head_and_every_backbone_train(backbone, head, tmp_path):
    hidden = ["model.head.hidden=16"] if head.startswith(("fc6", "fcn", "deconvnet", "context")) else []
    usual = [f"model/backbone={backbone}", f"model.backbone.width={BACKBONES[backbone]}"]
    chosen = next((own for name, own in OF_SYSTEMS.items() if head.startswith(name)), usual)
    overrides = [*chosen, f"model/head={head}", *hidden]
    result = run(tmp_path, *overrides, "trainer.max_steps=1", "trainer.val_check_interval=1", "data.val_pictures=2")
    assert result["protocol"]["iteration"] == 1


@pytest.mark.parametrize(
    "overrides",
    [
        ["model/multiscale=features", "model/backbone=vgg16"],
        ["model/multiscale=inputs", "model/backbone=resnet50"],
        ["model/multiscale=inputs", "model/backbone=vgg16", "model.multiscale.fuse=picture"],
    ],
)
def test_the_pyramids_train(overrides, tmp_path):
    few = ["model.backbone.width=4", "trainer.max_steps=1", "trainer.val_check_interval=1", "data.val_pictures=2"]
    assert run(tmp_path, *overrides, *few)["protocol"]["iteration"] == 1


@pytest.mark.parametrize("name", sorted(ARCHIVES))
def test_every_dataset_is_prepared_checked_and_browsed_by_command(name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ARCHIVES[name](tmp_path / "archives")
    root = f"data.root={tmp_path / 'root'}"
    assert main(["prepare", f"data={name}", root, "archives=archives", "checksum=false"]) == 0
    assert main(["check-data", f"data={name}", root, "subset=true"]) == 0
    assert "no problems" in capsys.readouterr().out
    assert main(["browse", f"experiment={name}", root, "count=3", "augment.crop=33", "out=shown"]) == 0
    assert (tmp_path / "shown/index.html").stat().st_size > 5000
