"""Weights of FCN: the released .caffemodel files, and a coarser FCN of ours."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from atrous.model.weights import load

HEADS = ["fcn32s", "fcn16s", "fcn8s"]


@pytest.fixture
def fcn(scrambled):
    """fcn(seed, head, …): an FCN of two channels in conv1, its transposed convolutions random too."""

    def build_fcn(seed, head, **args):
        head_args = {"hidden": 6} | args
        return scrambled(seed, "vgg16_strided", head, num_classes=5, width=2, padding=100, head_args=head_args)

    return build_fcn


def released(layers, head, x):
    """The scores (B, K, H, W) of the release's nets, step by step as in their prototxts, from the layers of a file."""

    def conv(name, x, padding=0):
        weight, bias = map(torch.tensor, layers[name])
        return F.conv2d(x, weight, bias, padding=padding)

    def deconv(name, x, stride):
        return F.conv_transpose2d(x, torch.tensor(layers[name][0]), stride=stride)

    def crop(x, offset, like):
        return x[..., offset : offset + like.shape[-2], offset : offset + like.shape[-1]]

    image, pools = x, []
    for stage, count in enumerate((2, 2, 3, 3, 3), start=1):
        for index in range(1, count + 1):
            x = conv(f"conv{stage}_{index}", x, 100 if (stage, index) == (1, 1) else 1).relu()
        x = F.max_pool2d(x, 2, 2, ceil_mode=True)
        pools.append(x)
    x = conv("score_fr", conv("fc7", conv("fc6", x).relu()).relu())
    if head == "fcn32s":
        return crop(deconv("upscore", x, 32), 19, image)
    x = deconv("upscore2", x, 2)
    x = x + crop(conv("score_pool4", pools[3]), 5, x)
    if head == "fcn16s":
        return crop(deconv("upscore16", x, 16), 27, image)
    x = deconv("upscore_pool4", x, 2)
    x = x + crop(conv("score_pool3", pools[2]), 9, x)
    return crop(deconv("upscore8", x, 8), 31, image)


@torch.no_grad()
@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("head", HEADS)
def test_the_released_fcn_gives_the_scores_of_its_own_net(fcn, foreign, caffemodel, image, head, version, learns):
    there, here = (fcn(seed, head, learn_upsampling=learns) for seed in (0, 1))
    layers = foreign["caffe_fcn"](there)
    report = load(here, caffemodel(layers, version, legacy=version == 1))
    torch.testing.assert_close(here(image), released(layers, head, here.normalise(image)))
    assert (report.new, report.skipped, report.unused) == ([], {}, [])
    assert (report.family, report.backbone_share, report.convention) == ("Caffe's VGG-16", 1.0, "caffe")


def test_an_upsampling_that_mixes_the_classes_has_no_place_where_ours_keeps_them_apart(fcn, foreign, caffemodel):
    there, here = (fcn(seed, "fcn16s", learn_upsampling=False) for seed in (0, 1))
    layers = foreign["caffe_fcn"](there)
    layers["upscore2"] = [np.ones((5, 5, 4, 4))]
    before = here.head.ups["pool4"].weight.clone()
    report = load(here, caffemodel(layers))
    assert report.skipped == {"head.ups.pool4.weight": ((5, 5, 4, 4), (5, 1, 4, 4))}
    assert torch.equal(here.head.ups["pool4"].weight, before)


def test_imagenets_vgg_gives_fc6_and_fc7_whole(fcn, foreign, caffemodel):
    there, here = (fcn(seed, "fcn8s") for seed in (0, 1))
    layers = {name: blobs for name, blobs in foreign["caffe_fcn"](there).items() if "score" not in name}
    layers["fc8"] = [np.zeros((1000, 6)), np.zeros(1000)]
    for fc in ("fc6", "fc7"):  # fully connected in the file
        layers[fc][0] = layers[fc][0].reshape(6, -1)
    report = load(here, caffemodel(layers))
    assert torch.equal(here.head.fc.fc6.weight, there.head.fc.fc6.weight)
    assert torch.equal(here.head.fc.fc7.weight, there.head.fc.fc7.weight)
    assert all("score" in name or "skips" in name or "up" in name for name in report.new)
    assert report.unused == ["head.fc8.weight", "head.fc8.bias"]


@pytest.mark.parametrize(
    ("coarse", "fine", "skip", "kernels"),
    [("fcn32s", "fcn16s", "pool4", (64, 32)), ("fcn16s", "fcn8s", "pool3", (32, 16))],
)
def test_a_finer_fcn_starts_from_a_coarser_one_and_only_the_new_skip_is_new(
    fcn, build, tmp_path, coarse, fine, skip, kernels
):
    there = fcn(0, coarse)
    args = {"width": 2, "padding": 100, "head_args": {"hidden": 6}}
    here, fresh = (build("vgg16_strided", fine, num_classes=5, **args) for _ in range(2))
    state = {f"network.{name}": tensor for name, tensor in there.state_dict().items()}
    torch.save({"state_dict": state, "atrous": {"names": list("abcde")}}, tmp_path / "last.ckpt")
    report = load(here, tmp_path / "last.ckpt", names=list("abcde"))
    assert report.new == [f"head.skips.{skip}.weight", f"head.skips.{skip}.bias", f"head.ups.{skip}.weight"]
    # The last upsampling is bilinear in either, and of another stride.
    assert report.skipped == {"head.up.weight": tuple((5, 1, kernel, kernel) for kernel in kernels)}
    assert report.unused == []
    for name, tensor in here.state_dict().items():
        kept = name in report.new or name in report.skipped
        assert torch.equal(tensor, (fresh if kept else there).state_dict()[name]), name
    assert not here.head.skips[skip].weight.any()


@torch.no_grad()
@pytest.mark.parametrize("learns", [True, False])
def test_the_upsampling_goes_with_the_classes_by_name(fcn, tmp_path, image, learns):
    there, here = (fcn(seed, "fcn8s", learn_upsampling=learns) for seed in (0, 1))
    state = {f"network.{name}": tensor for name, tensor in there.state_dict().items()}
    torch.save({"state_dict": state, "atrous": {"names": list("abcde")}}, tmp_path / "last.ckpt")
    load(here, tmp_path / "last.ckpt", names=list("cabed"))
    torch.testing.assert_close(here(image), there(image)[:, [2, 0, 1, 4, 3]])

    here = fcn(1, "fcn8s", learn_upsampling=learns)
    before = here.head.ups["pool4"].weight.clone()
    report = load(here, tmp_path / "last.ckpt", names=["c", "new", "a", "other", "b"])
    after, known = here.head.ups["pool4"].weight, [0, 2, 4]
    assert report.classes == (["c", "a", "b"], ["new", "other"])
    assert torch.equal(after[1], before[1])
    assert torch.equal(after[3], before[3])
    expected = there.head.ups["pool4"].weight
    expected = expected[[2, 0, 1]][:, [2, 0, 1]] if learns else expected[[2, 0, 1]]
    assert torch.equal(after[known][:, known] if learns else after[known], expected)


def test_the_released_coarser_fcn_starts_a_finer_one_too(fcn, foreign, caffemodel):
    there, here = fcn(0, "fcn32s"), fcn(1, "fcn16s")
    report = load(here, caffemodel(foreign["caffe_fcn"](there)))
    assert report.new == ["head.skips.pool4.weight", "head.skips.pool4.bias", "head.ups.pool4.weight"]
    assert report.skipped == {"head.up.weight": ((5, 5, 64, 64), (5, 1, 32, 32))}
    assert torch.equal(here.head.score_fr.weight, there.head.score_fr.weight)
