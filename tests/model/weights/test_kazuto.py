import pytest
import torch

from atrous.model.weights import load


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("aspp_l", {}),  # as trained by it: several scales around
        ("aspp_l", {"prefix": "scale.", "shortcut": "proj", "head": "aspp.stages.c{}"}),  # its older files
        ("plain", {"prefix": "", "head": "fc"}),  # the COCO net
        ("aspp_l", {"prefix": "module.base."}),
    ],
)
def test_its_networks_give_the_same_logits_when_read_back(scrambled, foreign, tmp_path, image, head, names):
    there, here = (scrambled(seed, "resnet101", head, num_classes=5, width=2) for seed in (0, 1))
    torch.save(foreign["kazuto"](there, **names), tmp_path / "net.pth")
    report = load(here, tmp_path / "net.pth")
    torch.testing.assert_close(here(image), there(image))
    assert (report.new, report.skipped, report.unused) == ([], {}, [])
    assert (report.backbone_share, report.convention) == (1.0, "caffe")


def test_they_go_into_a_network_that_sees_several_scales(scrambled, foreign, tmp_path, image):
    there, here = (scrambled(seed, "resnet101", "aspp_l", "inputs", 5, width=2) for seed in (0, 1))
    torch.save(foreign["kazuto"](there.network), tmp_path / "net.pth")
    load(here, tmp_path / "net.pth")
    torch.testing.assert_close(here(image), there(image))


def test_they_are_refused_where_the_network_strides_elsewhere(scrambled, foreign, tmp_path):
    there = scrambled(0, "resnet101", "aspp_l", width=2)
    torch.save(foreign["kazuto"](there), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"strides in the 1x1 .* in the 3x3: set model.backbone.stride_in=1x1"):
        load(scrambled(0, "resnet101", "aspp_l", width=2, stride_in="3x3"), tmp_path / "net.pth")
