from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.functional import normalize

from atrous.model.network import INPUT, Convention

SYSTEMS = {"fcn32s", "fcn16s", "fcn8s", "segnet", "deconvnet", "context_basic", "context_large", "unet"}
SYSTEMS |= {"deeplabv3", "deeplabv3plus"}
HEADS = ("plain", "fc6_7x7", "fc6_4x4", "fc6_4x4_r8", "largefov", "aspp_s", "aspp_l")
MINIATURE = {
    "small": {"width": 16},
    **{name: {"width": 4} for name in ("vgg16", "vgg16_pool2", "resnet50", "resnet101", "resnet101_3x3")},
}


def picture(*shape, dtype=torch.uint8):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).to(dtype)


# ---- the numbers of the papers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backbone", "head", "parameters"),
    [
        ("vgg16", "fc6_7x7", 134_346_581),
        ("vgg16", "fc6_4x4", 65_140_565),
        ("vgg16", "fc6_4x4_r8", 65_140_565),
        ("vgg16", "largefov", 20_505_429),
        ("vgg16", "aspp_s", 37_877_652),
        ("vgg16", "aspp_l", 37_877_652),
        ("resnet101", "plain", 42_543_189),
        ("resnet101", "largefov", 42_887_253),
        ("resnet101", "aspp_l", 44_048_532),
    ],
)
def test_parameters_are_the_papers(meta, backbone, head, parameters):
    assert sum(parameter.numel() for parameter in meta(backbone, head).parameters()) == parameters


@pytest.mark.parametrize(
    ("backbone", "head", "arguments", "fields"),
    [
        ("vgg16", "fc6_7x7", {"pool": 2}, [404]),
        ("vgg16", "fc6_4x4", {"pool": 2}, [308]),
        ("vgg16", "fc6_4x4_r8", {"pool": 2}, [404]),
        ("vgg16", "largefov", {}, [435]),
        ("vgg16", "aspp_s", {}, [259, 291, 355, 419]),
        ("vgg16", "aspp_l", {}, [323, 419, 515, 611]),
        ("resnet101", "plain", {}, [1027]),
        ("resnet101", "largefov", {}, [1219]),
        ("resnet101", "aspp_l", {}, [1123, 1219, 1315, 1411]),
    ],
)
def test_receptive_fields_are_the_papers(meta, backbone, head, arguments, fields):
    assert [field.size for field in meta(backbone, head, **arguments).receptive_fields().values()] == fields


@pytest.mark.parametrize(
    ("arguments", "training", "size", "logits"),
    [
        ({}, True, 321, 41),
        ({}, False, 513, 65),
        ({"pool": 2}, True, 306, 39),
        ({"pool": 2}, False, 306, 41),
        ({"pool": 2}, False, 514, 67),
        ({"output_stride": 16}, True, 321, 21),
        ({"output_stride": 32}, True, 321, 11),
    ],
)
def test_sizes_of_logits_of_vgg(meta, arguments, training, size, logits):
    network = meta("vgg16", "largefov", **arguments, width=4).train(training)
    assert network(torch.empty(1, 3, size, size, device="meta")).shape == (1, 21, logits, logits)


@pytest.mark.parametrize(("output_stride", "logits"), [(8, 41), (16, 21), (32, 11)])
@pytest.mark.parametrize("stride_in", ["1x1", "3x3"])
def test_sizes_of_logits_of_resnet(meta, output_stride, logits, stride_in):
    network = meta("resnet101", "aspp_l", output_stride=output_stride, stride_in=stride_in, width=4)
    assert network(torch.empty(1, 3, 321, 321, device="meta")).shape == (1, 21, logits, logits)


# ---- every combination ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("backbone", MINIATURE)
def test_every_combination_of_the_shipped_files_trains(build, backbone, head):
    head_args = {"hidden": 8} if head.startswith("fc6") else {}
    network = build(backbone, head, num_classes=4, head_args=head_args, **MINIATURE[backbone])
    image = picture(2, 3, 40, 33)
    logits = network(image)
    assert logits.shape == (2, 4, 6, 5)
    assert network.num_classes == 4
    assert network.stride == 8
    logits.square().mean().backward()
    for name, parameter in network.named_parameters():
        frozen = "norm" in name and backbone.startswith("resnet")
        assert (parameter.grad is None) == frozen, name
        assert frozen or parameter.grad.isfinite().all(), name


def test_the_files_are_all_tried_here():
    conf = Path(__file__).parents[2] / "conf" / "model"
    assert {path.stem for path in (conf / "backbone").iterdir()} == {*MINIATURE, "vgg16_strided"}
    assert {path.stem for path in (conf / "head").iterdir()} == {*HEADS, *SYSTEMS}  # of test_systems


@pytest.mark.parametrize(
    ("backbone", "head", "groups"),
    [
        ("vgg16", "largefov", (15, 15, 1, 1)),  # 13 convolutions, fc6, fc7; fc8
        ("vgg16", "aspp_l", (21, 21, 4, 4)),
        ("resnet101", "aspp_l", (104, 0, 4, 4)),
        ("resnet101", "plain", (104, 0, 1, 1)),
    ],
)
def test_what_trains_at_1_2_10_and_20_times_the_rate(meta, backbone, head, groups):
    network = meta(backbone, head)
    new = {id(parameter) for layer in network.classifiers() for parameter in layer.parameters()}
    counts = [0, 0, 0, 0]
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            counts[2 * (id(parameter) in new) + name.endswith("bias")] += 1
    assert tuple(counts) == groups
    assert {id(parameter) for parameter in network.new_parameters()} == new


# ---- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (9, 8), (10, 17), (33, 1)])
@pytest.mark.parametrize("pool", [3, 2])
@pytest.mark.parametrize("training", [True, False])
def test_any_size_of_picture_has_logits_labels_and_scores(build, size, pool, training):
    network = build("vgg16", "largefov", num_classes=4, pool=pool, width=1).train(training)
    logits = network(picture(2, 3, *size))
    assert network.subsample(picture(2, *size), logits).shape == (2, *logits.shape[-2:])
    assert network.zoom(logits, size).shape == (2, 4, *size)
    assert len(network.supervise(picture(2, 3, *size))) == 1


def test_caffe_weights_see_bgr_minus_the_mean(build):
    x = build("vgg16", "plain", width=1).normalise(torch.tensor([255, 128, 0], dtype=torch.uint8).view(1, 3, 1, 1))
    np.testing.assert_allclose(x.flatten(), [0 - 104.008, 128 - 116.669, 255 - 122.675], rtol=1e-5)


def test_torchvision_weights_see_what_torchvision_normalises(build):
    image = picture(2, 3, 5, 7)
    network = build("resnet50", "plain", width=1, stride_in="3x3")
    expected = normalize(image / 255, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    torch.testing.assert_close(network.normalise(image), expected)


def test_the_small_network_sees_minus_one_to_one(build):
    x = build("small", "plain", width=4).normalise(torch.tensor([0, 127.5, 255]).view(1, 3, 1, 1))
    assert x.flatten().tolist() == [-1, 0, 1]


def test_bytes_and_floats_of_one_picture_have_the_same_logits(build):
    network, image = build("small", "largefov", width=8), picture(2, 3, 17, 17)
    assert torch.equal(network.eval()(image), network(image.float()))


def test_the_convention_travels_with_the_weights(build):
    network, other = build("vgg16", "plain", width=1), build("vgg16", "plain", width=1)
    network.expect("imagenet")
    other.load_state_dict(network.state_dict())
    image = picture(1, 3, 4, 4)
    assert torch.equal(other.normalise(image), network.normalise(image))
    with pytest.raises(ValueError, match=r"`convention` must be one of caffe, imagenet, unit \(got 'rgb'\)"):
        network.expect("rgb")
    network.expect(Convention(False, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    assert torch.equal(network.normalise(image), image.float())


@pytest.mark.parametrize("backbone", ["vgg16", "resnet50"])
def test_a_picture_is_padded_with_the_mean_colour(build, backbone):
    """So a picture and the same one with a mean-coloured frame, at the bottom and right, have the same logits."""
    network = build(backbone, "largefov", width=2).eval().double()
    image = picture(1, 3, 20, 27, dtype=torch.float64)
    convention = INPUT[network.backbone.input]
    mean = torch.tensor(convention.mean, dtype=torch.float64)
    framed = (mean.flip(0) if convention.bgr else mean).view(1, 3, 1, 1).repeat(1, 1, 25, 33)
    framed[..., :20, :27] = image
    torch.testing.assert_close(network(image), network(framed), rtol=1e-4, atol=1e-4)


# ---- to the logits' grid and back ----------------------------------------------------------------------------------


def test_a_label_is_brought_to_the_logits_by_slicing(build):
    network = build("small", "plain", width=4)
    label = picture(2, 33, 41)
    assert torch.equal(network.subsample(label, torch.zeros(2, 21, 5, 6)), label[:, ::8, ::8])


def test_the_label_of_the_plain_net_drops_the_first_row_and_column(build):
    network = build("vgg16", "plain", width=1, pool=2)
    label = picture(2, 306, 306)
    assert torch.equal(network.subsample(label, torch.zeros(2, 21, 39, 39)), label[:, 1::8, 1::8])
    assert network.crop_remainder == 2


def test_the_test_net_of_the_plain_geometry_has_a_ring_without_label(build):
    network = build("vgg16", "plain", width=1, pool=2).eval()
    label = picture(1, 306, 306)
    subsampled = network.subsample(label, torch.zeros(1, 21, 41, 41))
    assert torch.equal(subsampled[:, 1:40, 1:40], label[:, 1::8, 1::8])
    ring = torch.cat([subsampled[:, [0, 40]].flatten(), subsampled[:, :, [0, 40]].flatten()])
    assert (ring == 255).all()


def test_a_logit_in_the_padding_has_no_label(build):
    network = build("small", "plain", width=4)
    label = picture(1, 34, 8) % 21
    subsampled = network.subsample(label, torch.zeros(1, 21, 6, 2))
    assert torch.equal(subsampled[:, :5, :1], label[:, ::8, ::8])
    assert (subsampled[:, 5] == 255).all()
    assert (subsampled[:, :, 1] == 255).all()


def test_a_zoom_keeps_the_logits_at_every_8th_pixel(build):
    network = build("small", "plain", width=4)
    logits = torch.randn(2, 21, 5, 6)
    scores = network.zoom(logits, (33, 41))
    assert scores.shape == (2, 21, 33, 41)
    torch.testing.assert_close(scores[..., ::8, ::8], logits)
    torch.testing.assert_close(scores[..., 4, 0], (logits[..., 0, 0] + logits[..., 1, 0]) / 2)
    torch.testing.assert_close(network.zoom(logits, (30, 35)), scores[..., :30, :35])
    assert network.zoom(logits.bfloat16(), (33, 41)).dtype == torch.float32


def test_the_zoom_of_the_plain_net_is_its_test_prototxt(build):
    """67 -> 529, of which 7 pixels are cropped at the start and 8 at the end (514 left)."""
    network = build("vgg16", "plain", width=1, pool=2).eval()
    logits = torch.randn(1, 2, 67, 67)
    expected = F.interpolate(logits, (529, 529), mode="bilinear", align_corners=True)[..., 7:-8, 7:-8]
    assert torch.equal(network.zoom(logits, (514, 514)), expected)


@pytest.mark.parametrize(
    ("backbone", "arguments"), [("vgg16", {}), ("vgg16", {"pool": 2}), ("resnet50", {}), ("small", {})]
)
def test_a_logit_looks_at_its_own_pixel(build, backbone, arguments):
    """The gradient of a logit is symmetric about the pixel that the label is taken from (half a pixel off for 2x2)."""
    network = build(backbone, "plain", width=4, **arguments)
    (field,) = network.receptive_fields().values()
    network = positive_and_linear(network)
    size = 8 * 62 + network.crop_remainder
    image = torch.ones(1, 3, 1, size, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(image)[0, :, 0, 31].sum(), image)
    reached = gradient.sum((0, 1, 2)).nonzero().flatten()
    size_reached, centre_reached = reached[-1] - reached[0] + 1, (reached[-1] + reached[0]) / 2
    assert centre_reached == 31 * 8 + network.backbone.origin - (0.5 if arguments else 0)
    assert size_reached == field.size


def test_the_receptive_field_of_largefov_is_what_gradients_reach(build):
    network = positive_and_linear(build("vgg16", "largefov", width=1))
    image = torch.ones(1, 3, 1, 8 * 70 + 1, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(image)[0, :, 0, 35].sum(), image)
    reached = gradient.sum((0, 1, 2)).nonzero().flatten()
    assert (reached[0], reached[-1]) == (35 * 8 - 217, 35 * 8 + 217)


def positive_and_linear(network):
    """The same windows, but every pixel of a window counts: positive weights, averages for maxima, no normalisation."""
    for module in network.modules():
        for name, layer in module.named_children():
            if isinstance(layer, torch.nn.MaxPool2d):
                setattr(module, name, torch.nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding))
            elif type(layer).__name__ == "Pool4":
                setattr(module, name, torch.nn.AvgPool2d(2, 1))
            elif isinstance(layer, torch.nn.Conv2d):
                torch.nn.init.constant_(layer.weight, 1 / layer.weight[0].numel())
    network.expect(Convention(False, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    return network.double().eval().requires_grad_(False)


# ---- layouts and precisions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", MINIATURE)
def test_channels_last_and_bf16_stay_through_the_network(build, backbone):
    network = build(backbone, "aspp_l", **MINIATURE[backbone]).to(memory_format=torch.channels_last).eval()
    image = picture(2, 3, 33, 41).contiguous(memory_format=torch.channels_last)
    expected = network(image)
    maps = []
    for layer in network.modules():
        if isinstance(layer, torch.nn.MaxPool2d | torch.nn.ReLU | torch.nn.BatchNorm2d):
            layer.register_forward_hook(lambda layer, args, output: maps.append((args[0], output)))
    network.backbone.register_forward_hook(lambda layer, args, output: maps.append((args[0], output.last)))
    with torch.autocast("cpu", torch.bfloat16):
        logits = network(image)
    assert maps
    for x in (x for pair in maps for x in pair):
        assert x.is_contiguous(memory_format=torch.channels_last)
    assert maps[-1][1].dtype == torch.bfloat16
    assert (logits - expected).abs().mean() < 0.03 * expected.abs().mean()


def test_an_exported_network_keeps_batch_height_and_width_free(build):
    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = build("small", "aspp_l", "inputs", num_classes=4, width=4).eval()

        def forward(self, image):
            return self.network.zoom(self.network(image), image.shape[2:])

    free = {"image": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}}
    scores = Scores()
    exported = torch.export.export(scores, (picture(2, 3, 57, 90),), dynamic_shapes=free).module()
    for shape in [(1, 3, 33, 41), (3, 3, 100, 77)]:
        torch.testing.assert_close(exported(picture(*shape)), scores(picture(*shape)))
