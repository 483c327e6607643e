import json

import numpy as np
import pytest
import torch
from miniature import write_voc

from atrous.__main__ import main
from atrous.data.voc import VOC
from atrous.metric.confusion import Counts

SMALL = ["model/backbone=resnet101", "model.backbone.width=2"]


@pytest.fixture
def voc(tmp_path):
    write_voc(tmp_path / "VOC2012", {"train": ["a"], "val": ["b", "c", "d"]})
    return tmp_path / "VOC2012"


def test_weights_from_elsewhere_are_scored_in_the_network_of_an_experiment(
    scrambled, foreign, tmp_path, voc, monkeypatch
):
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)  # in bf16 random weights give noise
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    there = scrambled(0, "resnet101", "aspp_l", "inputs", width=2).eval()
    torch.save(foreign["kazuto"](there.network), tmp_path / "net.pth")
    overrides = [f"run={tmp_path / 'net.pth'}", "like=voc", *SMALL, f"root={voc}"]
    assert main(["evaluate", *overrides, f"out={tmp_path / 'out'}"]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    samples = VOC(str(voc), "train", "val").split("val")
    assert result["protocol"]["pictures"] == len(samples) == 3
    assert result["protocol"]["dataset"] == "atrous.data.voc.VOC"
    counts = []
    for sample in samples:
        with torch.inference_mode():
            image = torch.tensor(sample.image).permute(2, 0, 1)[None]
            scores = there.zoom(there(image), sample.label.shape)[0]
        counts.append(Counts.of(scores.max(0).indices, torch.tensor(sample.label), 21))
    assert np.array_equal(Counts.total(counts, 21).confusion, result["confusion"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "does not say which network it is for: like="),
        (["like=vocc"], "there is no like=vocc"),
        (["like=voc"], "set model.backbone.stride_in=1x1"),
        (["like=voc", *SMALL, "model/head=plain"], "not all of the network"),
    ],
)
def test_what_does_not_fit_is_told(scrambled, foreign, tmp_path, voc, overrides, message, capsys):
    torch.save(foreign["kazuto"](scrambled(0, "resnet101", "aspp_l", width=2)), tmp_path / "net.pth")
    assert main(["evaluate", f"run={tmp_path / 'net.pth'}", f"root={voc}", *overrides]) == 2
    assert message in capsys.readouterr().err


def test_a_run_is_no_weights_from_elsewhere(tmp_path, capsys):
    (tmp_path / "net.ckpt").touch()
    for text in ("like=voc", "model/head=plain"):
        assert main(["evaluate", f"run={tmp_path / 'net.ckpt'}", text]) == 2
        assert "says itself which network it is" in capsys.readouterr().err
