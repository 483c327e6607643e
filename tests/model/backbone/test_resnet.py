import pytest
import torch
import torchvision
from torch import nn

from atrous.model.backbone.resnet import ResNet


def test_the_trunk_has_the_papers_parameters():
    with torch.device("meta"):
        resnet = ResNet()
    assert sum(parameter.numel() for parameter in resnet.parameters()) == 42_500_160
    assert (resnet.channels[-1], resnet.fc_channels, resnet.stride) == (2048, None, 8)


def test_23_convolutions_are_dilated_by_2_and_3_by_4():
    convolutions = [layer for layer in ResNet(width=1).modules() if isinstance(layer, nn.Conv2d)]
    dilations = [layer.dilation[0] for layer in convolutions]
    assert (len(convolutions), dilations.count(2), dilations.count(4)) == (104, 23, 3)


@pytest.mark.parametrize(
    ("stride_in", "strided"),
    [
        ("1x1", {"conv1.conv", "res3.0.reduce.conv", "res3.0.shortcut.conv"}),
        ("3x3", {"conv1.conv", "res3.0.conv.conv", "res3.0.shortcut.conv"}),
    ],
)
def test_where_it_strides(stride_in, strided):
    layers = ResNet(width=1, stride_in=stride_in).named_modules()
    assert {name for name, layer in layers if isinstance(layer, nn.Conv2d) and layer.stride == (2, 2)} == strided


def test_104_frozen_norms_stay_to_the_bit_through_a_training_step():
    torch.manual_seed(0)
    resnet = ResNet(width=2).train()
    norms = [layer for layer in resnet.modules() if isinstance(layer, nn.BatchNorm2d)]
    before = [{name: values.clone() for name, values in norm.state_dict().items()} for norm in norms]
    convolution = resnet.get_parameter("res5.2.increase.conv.weight")
    random = convolution.detach().clone()
    optimizer = torch.optim.SGD(resnet.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    resnet(torch.randn(2, 3, 33, 33)).last.square().mean().backward()
    optimizer.step()
    assert len(norms) == 104
    for norm, values in zip(norms, before):
        assert all(torch.equal(values[name], now) for name, now in norm.state_dict().items())
    assert not torch.equal(convolution, random)


def test_trained_norms_train():
    resnet = ResNet(depth=50, width=2, norm="trained").train()
    resnet(torch.randn(2, 3, 33, 33)).last.square().mean().backward()
    assert all(parameter.grad is not None for parameter in resnet.parameters())
    assert resnet.conv1.norm.num_batches_tracked == 1


def torchvisions(reference):
    """Torchvision's names -> ours."""
    layers = {"1": "reduce", "2": "conv", "3": "increase"}
    state = {}
    for name, values in reference.state_dict().items():
        stage, *rest = name.split(".")
        if stage in ("conv1", "bn1"):
            state[f"conv1.{'conv' if stage == 'conv1' else 'norm'}.{rest[0]}"] = values
        elif stage.startswith("layer"):
            block, layer, *index, kind = rest
            part = "conv" if layer.startswith("conv") or index == ["0"] else "norm"
            state[f"res{int(stage[5:]) + 1}.{block}.{layers.get(layer[-1], 'shortcut')}.{part}.{kind}"] = values
    return state


@pytest.fixture(scope="module")
def reference():
    """Torchvision's ResNet-101 with random weights, a picture, and its features layer1 … layer4."""
    torch.manual_seed(0)
    reference = torchvision.models.resnet101(weights=None)
    x = torch.randn(2, 3, 65, 65)
    features = []
    with torch.no_grad():
        reference.train()(x)  # statistics other than 0 and 1
        y = reference.eval().maxpool(reference.relu(reference.bn1(reference.conv1(x))))
        for layer in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
            y = layer(y)
            features.append(y)
    return reference, x, features


@pytest.mark.parametrize(("output_stride", "agreeing"), [(8, 2), (16, 3), (32, 4)])
def test_the_torchvision_form_gives_torchvisions_features_where_strides_agree(reference, output_stride, agreeing):
    with torch.device("meta"):
        ours = ResNet(output_stride=output_stride, stride_in="3x3").eval()
    ours.load_state_dict(torchvisions(reference[0]), assign=True)
    assert ours.input == "imagenet"
    features = []
    for stage in (ours.res2, ours.res3, ours.res4, ours.res5):
        stage.register_forward_hook(lambda stage, args, output: features.append(output))
    with torch.no_grad():
        ours(reference[1])
    for index, (feature, expected) in enumerate(zip(features, reference[2])):
        assert (feature.shape == expected.shape) == (index < agreeing)
        if index < agreeing:
            torch.testing.assert_close(feature, expected, rtol=1e-3, atol=1e-4)


def test_random_weights_keep_the_signals_size_though_norms_are_frozen():
    torch.manual_seed(0)
    assert 0.01 < ResNet(width=8)(torch.randn(1, 3, 65, 65)).last.std() < 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 18}, r"`depth` must be one of 50, 101 \(got 18\)"),
        ({"output_stride": 4}, r"`output_stride` must be 8, 16 or 32 \(got 4\)"),
        ({"stride_in": "2x2"}, r"`stride_in` must be 1x1 \(Caffe\) or 3x3 \(torchvision\) \(got '2x2'\)"),
    ],
)
def test_other_forms_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResNet(**arguments)
