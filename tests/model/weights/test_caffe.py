import numpy as np
import pytest
import torch

from atrous.model.weights import load


def resnet(scrambled, seed=0, head="aspp_l", depth=50, num_classes=5, **backbone):
    return scrambled(seed, f"resnet{depth}", head, num_classes=num_classes, width=2, **backbone)


@pytest.mark.parametrize("head", ["aspp_l", "largefov", "plain"])
def test_the_authors_resnet_gives_the_same_logits_when_read_back(scrambled, foreign, caffemodel, image, head):
    there, here = (resnet(scrambled, seed, head) for seed in (0, 1))
    report = load(here, caffemodel(foreign["caffe_resnet"](there)))
    torch.testing.assert_close(here(image), there(image))
    assert (report.new, report.skipped, report.unused) == ([], {}, [])
    assert (report.backbone_share, report.convention) == (1.0, "caffe")


def test_resnet_101_has_each_of_its_33_blocks(scrambled, foreign, caffemodel, image):
    there, here = (resnet(scrambled, seed, depth=101) for seed in (0, 1))
    layers = foreign["caffe_resnet"](there)
    assert {"res2c_branch2b", "res3b3_branch2c", "res4b22_branch2a", "res5c_branch2c", "res4a_branch1"} < layers.keys()
    load(here, caffemodel(layers))
    torch.testing.assert_close(here(image), there(image))


def test_blocks_may_also_be_lettered_throughout_as_in_msras_resnet_50(scrambled, foreign, caffemodel, image):
    there, here = (resnet(scrambled, seed) for seed in (0, 1))
    layers = foreign["caffe_resnet"](there)
    for index in range(1, 6):
        layers = {name.replace(f"b{index}_", f"{'abcdef'[index]}_"): blobs for name, blobs in layers.items()}
    assert "res4f_branch2a" in layers
    load(here, caffemodel(layers))
    torch.testing.assert_close(here(image), there(image))


def test_the_copies_for_other_scales_are_left_alone(scrambled, foreign, caffemodel, image):
    there, here = (resnet(scrambled, seed) for seed in (0, 1))
    layers = foreign["caffe_resnet"](there)
    copies = {
        name + suffix: [0 * blob for blob in blobs]
        for name, blobs in layers.items()
        for suffix in ("_res075", "_res05")
    }
    report = load(here, caffemodel({**layers, **copies}))
    torch.testing.assert_close(here(image), there(image))
    assert report.unused == []


def test_the_coco_net_gives_its_trunk_only(scrambled, foreign, caffemodel):
    there, here = resnet(scrambled, 0, "plain", num_classes=91), resnet(scrambled, 1, "aspp_l")
    layers = foreign["caffe_resnet"](there)
    layers["fc1_coco"] = layers.pop("fc1_voc12")
    report = load(here, caffemodel(layers))
    assert report.backbone_share == 1
    assert len(report.new) == 8  # weights and biases of four branches
    assert report.unused == ["head.fc8.weight", "head.fc8.bias"]

    here = resnet(scrambled, 1, "plain")
    classifier = here.head.classifiers()[0].weight.clone()
    report = load(here, caffemodel(layers))
    assert report.skipped["head.branches.0.fc8.weight"] == ((91, 64, 1, 1), (5, 64, 1, 1))
    assert torch.equal(here.head.classifiers()[0].weight, classifier)


def test_an_imagenet_classifier_is_unused(scrambled, foreign, caffemodel):
    layers = foreign["caffe_resnet"](resnet(scrambled, 0, "plain"))
    del layers["fc1_voc12"]
    layers["fc1000"] = [np.zeros((1000, 64)), np.zeros(1000)]
    report = load(here := resnet(scrambled, 1, "plain"), caffemodel(layers))
    assert report.unused == ["fc1000"]
    assert len(report.new) == len(here.head.state_dict())


def test_a_bias_before_the_norm_is_folded_into_its_mean(scrambled, foreign, caffemodel, image):
    there, here = (resnet(scrambled, seed) for seed in (0, 1))
    layers = foreign["caffe_resnet"](there)
    bias = np.array([3.0, -4.0])
    layers["conv1"] = [*layers["conv1"], bias]
    mean, variance, factor = layers["bn_conv1"]
    layers["bn_conv1"] = [mean + bias * factor, variance, factor]  # takes the bias away again
    load(here, caffemodel(layers))
    torch.testing.assert_close(here(image), there(image))


def test_a_factor_of_zero_stands_for_statistics_never_gathered(scrambled, foreign, caffemodel):
    layers = foreign["caffe_resnet"](resnet(scrambled))
    layers["bn_conv1"] = [np.ones(2), np.ones(2), np.zeros(1)]
    load(here := resnet(scrambled, 1), caffemodel(layers))
    assert here.backbone.conv1.norm.running_mean.tolist() == [0, 0]


def test_another_epsilon_is_refused(scrambled, foreign, caffemodel):
    layers = foreign["caffe_resnet"](resnet(scrambled))
    load(resnet(scrambled), caffemodel(layers, eps=1e-5))
    with pytest.raises(ValueError, match=r"bn_conv1 adds 0.001 to the variance, our batch-norm 1e-05"):
        load(resnet(scrambled), caffemodel(layers, eps=1e-3))


def test_caffes_resnet_is_refused_where_the_network_strides_elsewhere(scrambled, foreign, caffemodel):
    path = caffemodel(foreign["caffe_resnet"](resnet(scrambled)))
    with pytest.raises(ValueError, match=r"strides in the 1x1 .* in the 3x3: set model.backbone.stride_in=1x1"):
        load(resnet(scrambled, stride_in="3x3"), path)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # a copy is meant
@pytest.mark.parametrize(("head", "args"), [("largefov", {}), ("fc6_4x4", {"hidden": 16}), ("aspp_l", {})])
def test_the_authors_vgg_gives_the_same_logits_in_every_form(
    scrambled, foreign, caffemodel, image, head, args, version, legacy, packed
):
    there, here = (scrambled(seed, "vgg16", head, num_classes=5, width=2, head_args=args) for seed in (0, 1))
    path = caffemodel(foreign["caffe_vgg"](there), version, packed, legacy, diff=True)
    report = load(here, path)
    torch.testing.assert_close(here(image), there(image))
    assert (report.new, report.skipped, report.unused) == ([], {}, [])


def test_the_side_branches_of_msc_come_along(scrambled, foreign, caffemodel, image):
    there, here = (
        scrambled(seed, "vgg16", "largefov", "features", 5, width=2, multiscale_args={"channels": 3}) for seed in (0, 1)
    )
    report = load(here, caffemodel(foreign["caffe_vgg"](there, "fc8_pascal"), version=1, legacy=True))
    torch.testing.assert_close(here(image), there(image))
    assert (report.new, report.skipped, report.unused) == ([], {}, [])


def test_fc6_and_fc7_without_a_branch_start_every_branch(scrambled, foreign, caffemodel):
    there = scrambled(0, "vgg16", "largefov", num_classes=7, width=2)
    here = scrambled(1, "vgg16", "aspp_l", num_classes=5, width=2)
    report = load(here, caffemodel(foreign["caffe_vgg"](there)))
    (given,) = there.head.branches
    for branch in here.head.branches:
        assert torch.equal(branch.get_parameter("fc6.weight"), given.get_parameter("fc6.weight"))
        assert torch.equal(branch.get_parameter("fc7.bias"), given.get_parameter("fc7.bias"))
    assert report.new == [f"head.branches.{i}.fc8.{part}" for i in range(4) for part in ("weight", "bias")]
    assert report.unused == ["head.fc8.weight", "head.fc8.bias"]  # four of it would be four times as much


def test_fc6_as_a_matrix_is_taken_as_the_convolution_it_is(scrambled, foreign, caffemodel, image):
    there, here = (scrambled(seed, "vgg16", "largefov", num_classes=5, width=2) for seed in (0, 1))
    layers = foreign["caffe_vgg"](there)
    for fc in ("fc6", "fc7"):
        layers[fc][0] = layers[fc][0].reshape(1, 1, len(layers[fc][0]), -1)
    load(here, caffemodel(layers, version=1, legacy=True))
    torch.testing.assert_close(here(image), there(image))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_part_of_a_file_is_refused_in_one_line(scrambled, foreign, caffemodel, share):
    path = caffemodel(foreign["caffe_resnet"](resnet(scrambled)))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"net.caffemodel is no .caffemodel, or only a part of one \(.+\)$"):
        load(resnet(scrambled), path)


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html>\n<title>404 Not Found</title>",
        b"version https://git-lfs",
        b"\x0a\x03net",
        bytes(range(10, 250)),
    ],
)
def test_what_is_no_caffemodel_is_refused_in_one_line(scrambled, tmp_path, content):
    path = tmp_path / "net.caffemodel"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"net.caffemodel is no .caffemodel, or only a part of one \(.+\)$"):
        load(resnet(scrambled), path)


def test_a_blob_with_too_few_numbers_for_its_shape_is_refused(scrambled, foreign, caffemodel):
    path = caffemodel(foreign["caffe_vgg"](scrambled(0, "vgg16", "largefov", width=2)))
    shape = bytes([0x0A, 4, 2, 3, 3, 3])  # dim: 2 3 3 3, of conv1_1
    assert path.read_bytes().count(shape) == 1
    path.write_bytes(path.read_bytes().replace(shape, bytes([0x0A, 4, 2, 3, 3, 4])))
    with pytest.raises(ValueError, match=r"a blob of shape \(2, 3, 3, 4\) has 54 numbers"):
        load(scrambled(0, "vgg16", "largefov", width=2), path)
