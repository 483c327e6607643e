import pytest
import torch
from torch.nn import functional as F

from atrous.model.multiscale import MultiScaleFeatures, MultiScaleInputs


def picture(*shape):
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def zoomed(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


# ---- v1: features of several layers --------------------------------------------------------------------------------


def test_msc_largefov_has_the_papers_parameters(meta):
    network = meta("vgg16", "largefov", "features")
    assert sum(parameter.numel() for parameter in network.parameters()) == 21_711_550
    assert sum(parameter.numel() for parameter in network.new_parameters()) == 1_206_121


def test_msc_is_one_classifier_of_the_concatenated_features(build):
    """The paper's form: the last features and five times 128 more, concatenated, under one 1x1 convolution."""
    network = build("vgg16", "largefov", "features", num_classes=4, width=2).eval()
    image = picture(2, 3, 33, 41)
    inner = network.network
    *maps, pool5 = inner.backbone(inner.normalise(image)).maps
    (main,) = inner.head.branches
    features = [main[:-1](inner.head.pool5a(pool5))] + [branch[:-1](x) for branch, x in zip(network.branches, maps)]
    scores = [main[-1]] + [branch[-1] for branch in network.branches]
    weight = torch.cat([score.weight for score in scores], dim=1)
    bias = sum(score.bias for score in scores)
    expected = F.conv2d(torch.cat(features, dim=1), weight, bias)
    assert weight.shape[1] == 32 + 640
    torch.testing.assert_close(network(image), expected)


@pytest.mark.parametrize(
    ("pool", "training", "size", "logits"), [(3, True, 321, 41), (2, True, 306, 39), (2, False, 514, 67)]
)
def test_msc_keeps_the_networks_sizes(meta, pool, training, size, logits):
    network = meta("vgg16", "fc6_4x4", "features", pool=pool, width=2, head_args={"hidden": 4}).train(training)
    assert network(torch.empty(1, 3, size, size, device="meta")).shape == (1, 21, logits, logits)


def test_the_ring_of_the_plain_test_net_gets_nothing_from_the_finer_maps(build):
    network = build("vgg16", "fc6_4x4", "features", num_classes=4, pool=2, width=2, head_args={"hidden": 4}).eval()
    image = picture(1, 3, 58, 58)
    torch.nn.init.zeros_(network.branches[4].get_submodule("score").weight)  # pool4 itself reaches out to the ring
    difference = (network(image) - network.network(image)).abs().sum(1)[0]
    assert difference[1:-1, 1:-1].all()
    assert difference[0].count_nonzero() == difference[:, -1].count_nonzero() == 0


def test_training_msc_alone_moves_the_new_weights_alone(build):
    network = build("vgg16", "largefov", "features", num_classes=4, width=2)
    network.requires_grad_(False)
    for parameter in network.new_parameters():
        parameter.requires_grad_()
    network(picture(2, 3, 33, 33)).square().mean().backward()
    moved = {name.split(".")[0] for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert moved == {"branches"}
    assert all(parameter.grad.isfinite().all() for parameter in network.new_parameters())
    assert len(network.new_parameters()) == 5 * 3 * 2
    assert len(network.classifiers()) == 6


def test_msc_wants_finer_maps(build):
    network = build("small", "largefov", width=8)
    network.backbone.channels, network.backbone.strides = (8,), (8,)
    with pytest.raises(ValueError, match=r"`network` must have a backbone with finer maps than its last \(got 1 map\)"):
        MultiScaleFeatures(network)


def test_a_resnet_has_a_branch_for_the_picture_and_each_of_its_stages(build):
    network = build("resnet50", "largefov", "features", width=4)
    assert [branch.conv1.in_channels for branch in network.branches] == [3, 4, 16, 32, 64]
    assert [branch.conv1.stride[0] for branch in network.branches] == [8, 4, 2, 1, 1]
    assert network(picture(1, 3, 33, 41)).shape == (1, 21, 5, 6)


def test_the_small_network_has_a_branch_for_each_finer_map(build):
    network = build("small", "largefov", "features", num_classes=4, width=8)
    assert [branch.conv1.in_channels for branch in network.branches] == [3, 2, 4, 8]
    assert [branch.conv1.stride[0] for branch in network.branches] == [8, 4, 2, 1]
    network(picture(2, 3, 33, 41)).square().mean().backward()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


# ---- v2: pictures of several sizes ---------------------------------------------------------------------------------


def test_the_four_maps_of_a_crop_of_321(meta):
    network = meta("vgg16", "largefov", "inputs", width=2)
    image = torch.empty(1, 3, 321, 321, device="meta")
    assert [tuple(logits.shape[-2:]) for logits in network.pyramid(image)] == [(41, 41), (31, 31), (21, 21)]
    assert [tuple(logits.shape[-2:]) for logits in network.supervise(image)] == [(41, 41), (41, 41), (41, 41), (21, 21)]
    assert network.eval()(torch.empty(1, 3, 513, 513, device="meta")).shape == (1, 21, 65, 65)


def test_the_scales_are_fused_by_their_maximum(build):
    network = build("vgg16", "largefov", "inputs", num_classes=4, width=2).eval()
    image = picture(2, 3, 65, 97)
    inner = network.network
    x = inner.normalise(image)
    full = inner.logits(x)
    three_quarters = zoomed(inner.logits(zoomed(x, (49, 73))), (9, 13))
    half = inner.logits(zoomed(x, (33, 49)))
    expected = torch.maximum(torch.maximum(full, three_quarters), zoomed(half, (9, 13)))
    maps = network.supervise(image)
    for ours, reference in zip(maps, [expected, full, three_quarters, half]):
        torch.testing.assert_close(ours, reference)
    torch.testing.assert_close(network(image), expected)


def test_each_map_has_its_labels_by_slicing(build):
    network = build("small", "plain", "inputs", width=4)
    label = picture(2, 65, 97)
    maps = network.supervise(picture(2, 3, 65, 97))
    labels = [network.subsample(label, logits) for logits in maps]
    for ours, step in zip(labels, [8, 8, 8, 16]):
        assert torch.equal(ours, label[:, ::step, ::step])


@pytest.mark.parametrize("fuse", ["logits", "picture"])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (40, 33), (50, 66), (9, 100)])
def test_any_size_of_picture_has_maps_labels_and_scores(build, size, fuse):
    network = build("small", "aspp_l", "inputs", num_classes=4, width=4, multiscale_args={"fuse": fuse})
    maps, label = network.supervise(picture(2, 3, *size)), picture(2, *size)
    for logits in maps:
        assert network.subsample(label, logits).shape == (2, *logits.shape[-2:])
    assert network.zoom(network(picture(2, 3, *size)), size).shape == (2, 4, *size)


def test_fusing_at_picture_size_is_the_maximum_of_the_zoomed_maps(build):
    network = build("small", "plain", "inputs", num_classes=4, width=4, multiscale_args={"fuse": "picture"}).eval()
    image, label = picture(1, 3, 65, 33), picture(1, 65, 33)
    expected = torch.stack([zoomed(logits, (65, 33)) for logits in network.pyramid(image)]).amax(0)
    fused = network(image)
    torch.testing.assert_close(fused, expected)
    torch.testing.assert_close(network.zoom(fused, (60, 30)), expected[..., :60, :30])
    assert torch.equal(network.subsample(label, fused), label)


def test_the_scales_share_the_networks_weights(build):
    network = build("small", "aspp_l", "inputs", num_classes=4, width=4)
    assert len(list(network.parameters())) == len(list(network.network.parameters()))
    assert network.classifiers() == network.network.classifiers()
    assert {id(p) for p in network.new_parameters()} == {id(p) for p in network.network.new_parameters()}
    assert (network.num_classes, network.stride, network.crop_remainder) == (4, 8, 1)


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        ({"pool": 3}, {"scales": [0.5]}, r"`scales` must be multiples of 1/4, 1 among them \(got \[0.5\]\)"),
        ({"pool": 3}, {"scales": [0.3, 1]}, r"`scales` must be multiples of 1/4"),
        ({"pool": 3}, {"fuse": "mean"}, r"`fuse` must be logits or picture \(got 'mean'\)"),
        ({"pool": 2}, {}, r"`network` must take crops of 8k \+ 1 pixels"),
    ],
)
def test_impossible_pyramids_are_refused(build, backbone, arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiScaleInputs(build("vgg16", "plain", width=1, **backbone), **arguments)
