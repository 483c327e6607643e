import pytest
import torch
import torchvision
from torch import nn

from atrous.model.backbone.vgg import VGG16


def test_the_trunk_has_the_papers_parameters_and_channels():
    with torch.device("meta"):
        vgg = VGG16()
    assert sum(parameter.numel() for parameter in vgg.parameters()) == 14_714_688
    assert (vgg.channels[-1], vgg.fc_channels, vgg.stride, vgg.input) == (512, 1024, 8, "caffe")


def test_only_conv5_is_dilated_and_only_at_stride_8():
    for output_stride, expected in [(8, {"conv5_1", "conv5_2", "conv5_3"}), (16, set()), (32, set())]:
        layers = dict(VGG16(output_stride=output_stride, width=1).layers.named_children())
        convolutions = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Conv2d)}
        assert len(convolutions) == 13
        assert {name for name, layer in convolutions.items() if layer.dilation == (2, 2)} == expected


def test_sizes_of_the_plain_geometry_are_the_released_ones():
    vgg = VGG16(pool=2, width=1)
    x = torch.zeros(1, 3, 306, 306)
    assert [tuple(pool.shape[-1:]) for pool in vgg(x).maps] == [(306,), (154,), (78,), (40,), (39,), (39,)]
    assert [pool.shape[-1] for pool in vgg.eval()(x).maps] == [306, 154, 78, 40, 41, 41]
    assert vgg.strides == (1, 2, 4, 8, 8, 8)


def test_sizes_of_the_3x3_geometry_are_the_released_ones():
    assert [pool.shape[-1] for pool in VGG16(width=1)(torch.zeros(1, 3, 321, 321)).maps] == [321, 161, 81, 41, 41, 41]


def test_the_maps_are_the_picture_and_what_each_pooling_gives():
    vgg, x = VGG16(width=2), torch.randn(2, 3, 33, 33)
    assert torch.equal(vgg(x).maps[0], x)
    assert torch.equal(vgg(x).last, vgg.layers(x))
    assert [pool.shape[1] for pool in vgg(x).maps] == [*vgg.channels] == [3, 2, 4, 8, 16, 16]


def test_before_its_first_pooling_it_is_torchvisions_vgg16():
    with torch.device("meta"):
        reference = torchvision.models.vgg16(weights=None).features[:4]
    reference.to_empty(device="cpu")
    for parameter in reference.parameters():
        nn.init.normal_(parameter)
    ours = VGG16()
    names = [f"layers.conv1_{index}.{kind}" for index in (1, 2) for kind in ("weight", "bias")]
    ours.load_state_dict(dict(zip(names, reference.state_dict().values())), strict=False)
    x = torch.randn(1, 3, 9, 9)
    pooled = torch.nn.functional.max_pool2d(reference(x), 3, 2, 1)
    torch.testing.assert_close(ours(x).maps[1], pooled)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pool": 4}, r"`pool` must be 3 .* \(got 4\)"),
        ({"output_stride": 4}, r"`output_stride` must be 8, 16 or 32 \(got 4\)"),
    ],
)
def test_other_geometries_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        VGG16(**arguments)
