"""A run folder of the first layout of the package (tests/old: trained before heads had a folder) is taken as it is.

Twelve iterations of a network of four channels, with a checkpoint of its eighth; its scores are those of that code.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from running import weights

import atrous
from atrous.__main__ import main
from atrous.config.schema import Config
from atrous.run.train import train

OLD = Path(__file__).parent / "old"


@pytest.fixture
def old(tmp_path):
    return shutil.copytree(OLD, tmp_path / "old")


def train_on(folder):
    """Go on with the run in the folder, by its own config.yaml."""
    config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.load(folder / "config.yaml"))
    config.run_dir = str(folder)
    return train(config)  # type: ignore[arg-type]


def confusions(folder):
    result = json.loads((folder / "result.json").read_text())
    return result["confusion"], result["confusion_crf"]


def test_it_is_complete_and_trains_no_further(old):
    assert train_on(old) == json.loads((OLD / "result.json").read_text())


def test_it_is_scored_again_as_it_was(old):
    (old / "result.json").unlink()
    train_on(old)
    assert confusions(old) == confusions(OLD)


def test_it_goes_on_where_it_stood_and_ends_as_it_did(old):
    (old / "result.json").unlink()
    (old / "checkpoint" / "half.ckpt").replace(old / "checkpoint" / "last.ckpt")
    result = train_on(old)
    assert result["protocol"]["iteration"] == 12
    for name, tensor in weights(OLD).items():
        np.testing.assert_allclose(weights(old)[name].numpy(), tensor.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)


def test_it_is_evaluated_and_predicts(old, tmp_path):
    assert main(["evaluate", f"run={old}", "crf=shapes", f"out={tmp_path / 'scores'}", "workers=0"]) == 0
    assert confusions(tmp_path / "scores") == confusions(OLD)
    image = torch.randint(0, 256, (33, 41, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert len(np.unique(atrous.load(old).segment(image.numpy()))) > 1


def test_other_networks_start_from_its_weights(old):
    from atrous.model.weights import load

    network = atrous.network(
        *("model.backbone.width=4", "model/head=aspp_s", "model.head.rates=[2,4]", "model.head.hidden=4"), num_classes=8
    )
    report = load(network, old)  # type: ignore[arg-type]
    assert (report.new, report.skipped, report.unused) == ([], {}, [])
