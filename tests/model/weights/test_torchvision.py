import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from atrous.model.head.aspp import decimate
from atrous.model.weights import load
from atrous.model.weights.torchvision import open_torchvision


@pytest.fixture
def tmp_pth(tmp_path):
    def write(state, name="weights.pth", **options):
        torch.save(state, tmp_path / name, **options)
        return tmp_path / name

    return write


def randomised(network):
    """With statistics and affine maps that differ from channel to channel."""
    generator = torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for name, tensor in layer.state_dict().items():
                if name in ("weight", "running_var"):
                    tensor.uniform_(0.5, 1, generator=generator)
                elif name in ("bias", "running_mean"):
                    tensor.uniform_(-0.1, 0.1, generator=generator)
    return network.eval()


def normalised(image):
    """As torchvision says to: 0..1, then the mean and standard deviation of ImageNet."""
    preset = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.transforms()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))
    return (image / 255 - mean) / std


@torch.no_grad()
def test_torchvisions_resnet_gives_torchvisions_features(build, tmp_pth, image):
    torch.manual_seed(0)
    peer = randomised(torchvision.models.resnet50(weights=None))
    path = tmp_pth(peer.state_dict())
    whole = build("resnet50", "plain", stride_in="3x3", output_stride=32).eval()
    report = load(whole, path)
    x = peer.maxpool(F.relu(peer.bn1(peer.conv1(normalised(image)))))
    layer2 = peer.layer2(peer.layer1(x))
    layer4 = peer.layer4(peer.layer3(layer2))
    ours = whole.backbone(whole.normalise(image)).last
    torch.testing.assert_close(ours, layer4, rtol=1e-3, atol=1e-3)
    assert (report.backbone_share, report.convention) == (1.0, "imagenet")
    assert report.new == ["head.branches.0.fc8.weight", "head.branches.0.fc8.bias"]
    assert report.unused == ["fc.weight", "fc.bias"]

    dilated = build("resnet50", "plain", stride_in="3x3").eval()  # the same as far as res3, then holes
    load(dilated, path)
    trunk = dilated.backbone
    x = trunk.pool1(F.relu(trunk.conv1(dilated.normalise(image))))
    torch.testing.assert_close(trunk.res3(trunk.res2(x)), layer2, rtol=1e-3, atol=1e-3)


def test_torchvisions_resnet_101_finds_a_place_for_every_tensor_but_its_classifiers(build):
    with torch.device("meta"):
        peer = torchvision.models.resnet101(weights=None).state_dict()
        ours = build("resnet101", "plain").backbone.state_dict()
    given = open_torchvision(peer)
    assert given is not None
    assert given.unnamed == ["fc.weight", "fc.bias"]
    expected = {f"backbone.{name}": t.shape for name, t in ours.items() if "num_batches" not in name}
    assert {name: tensor.shape for name, tensor in given.tensors.items()} == expected


def test_torchvisions_segmentation_networks_give_their_backbone(build, tmp_pth):
    peer = torchvision.models.segmentation.fcn_resnet50(weights=None, weights_backbone=None)
    here = build("resnet50", "plain", stride_in="3x3")
    report = load(here, tmp_pth(peer.state_dict()))
    assert report.backbone_share == 1
    assert all(name.startswith("classifier.") for name in report.unused)
    assert torch.equal(here.backbone.res5[2].increase.conv.weight, peer.backbone.layer4[2].conv3.weight)


@torch.no_grad()
def test_torchvisions_v3_gives_torchvisions_logits(build, tmp_pth):
    torch.manual_seed(0)
    peer = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=5, aux_loss=True
    )
    here = build("resnet50", "deeplabv3", num_classes=5, stride_in="3x3").eval()
    report = load(here, tmp_pth(randomised(peer).state_dict()))
    assert (report.family, report.backbone_share) == ("torchvision's DeepLab v3", 1.0)
    assert (report.new, report.skipped) == ([], {})
    assert report.unused
    assert all(name.startswith("aux_classifier.") for name in report.unused)

    image = torch.randint(256, (1, 3, 41, 49), dtype=torch.uint8)
    features = here.backbone(here.normalise(image))
    torch.testing.assert_close(here.head(features), peer.classifier(features.last))

    # torchvision dilates the first block of res4 and res5 like the stage before it, the authors of v2 like the rest of
    # its own stage. The whole networks differ in nothing else.
    logits, x = here(image), normalised(image)
    as_published = peer.classifier(peer.backbone(x)["out"])
    assert logits.shape == as_published.shape
    assert (logits - as_published).abs().max() > 0.1 * as_published.std()
    for stage, dilation in ((peer.backbone.layer3, 2), (peer.backbone.layer4, 4)):
        stage[0].conv2.dilation = stage[0].conv2.padding = (dilation, dilation)
    torch.testing.assert_close(logits, peer.classifier(peer.backbone(x)["out"]))


def test_torchvisions_resnet_is_refused_where_the_network_strides_elsewhere(build, tmp_pth):
    path = tmp_pth({"layer1.0.conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"strides in the 3x3 .* in the 1x1: set model.backbone.stride_in=3x3"):
        load(build("resnet50", "plain", width=2), path)
    with pytest.raises(ValueError, match=r"set model.backbone.stride_in=3x3"):
        load(build("resnet50", "plain", width=2), "imagenet")


@torch.no_grad()
def test_torchvisions_vgg_gives_torchvisions_features_and_fc7(build, foreign, tmp_pth):
    torch.manual_seed(0)
    peer = foreign["torchvision_vgg"](width=2, filters=24)
    here = build("vgg16", "fc6_7x7", width=2, output_stride=32, head_args={"rates": [1], "hidden": 24}).eval()
    report = load(here, tmp_pth(peer.state_dict()))
    for stage in range(1, 6):  # the only layers that differ: torchvision's poolings are 2x2 without padding
        here.backbone.layers.set_submodule(f"pool{stage}", nn.MaxPool2d(2, 2))
    image = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    expected = peer.features(normalised(image))
    features = here.backbone(here.normalise(image)).last
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    (branch,) = here.head.branches
    fc7 = branch[:5](features)[:, :, 3, 3]  # the middle of 7x7 sees all of it
    torch.testing.assert_close(fc7, peer.classifier[:5](expected.flatten(1)), rtol=1e-3, atol=1e-4)
    assert report.unused == ["classifier.6.weight", "classifier.6.bias"]
    assert report.new == ["head.branches.0.fc8.weight", "head.branches.0.fc8.bias"]
    assert report.convention == "imagenet"


@torch.no_grad()
@pytest.mark.parametrize("norm", [False, True])
def test_the_strided_vgg_is_torchvisions_and_its_fcn_has_fc7(build, foreign, tmp_pth, norm):
    torch.manual_seed(0)
    peer = randomised(foreign["torchvision_vgg"](width=2, filters=24, norm=norm))
    here = build("vgg16_strided", "fcn8s", width=2, padding=100, norm=norm, head_args={"hidden": 24}).eval()
    report = load(here, tmp_pth(peer.state_dict()))
    here.backbone.layers.conv1_1.padding = (1, 1)  # the only difference: FCN's 100
    image = torch.randint(256, (2, 3, 224, 224), dtype=torch.uint8)
    expected = peer.features(normalised(image))
    features = here.backbone(here.normalise(image)).last
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)
    fc7 = here.head.fc(features)[:, :, 0, 0]
    torch.testing.assert_close(fc7, peer.classifier[:5](expected.flatten(1)), rtol=1e-3, atol=1e-4)
    assert (report.backbone_share, report.convention) == (1.0, "imagenet")
    assert report.unused == ["classifier.6.weight", "classifier.6.bias"]
    assert all(name.startswith(("head.score_fr", "head.skips", "head.up")) for name in report.new)


@pytest.mark.parametrize("norm", [False, True])
def test_vgg_with_and_without_batch_norm_are_different_networks(build, foreign, tmp_pth, norm):
    path = tmp_pth(foreign["torchvision_vgg"](width=2, filters=24, norm=norm).state_dict())
    with pytest.raises(ValueError, match=r"is for another network: 26 of 78 tensors .* backbone.layers.norm1_1.weight"):
        load(build("vgg16_strided", "segnet", width=2, norm=not norm), path)


@pytest.mark.parametrize(("head", "taken"), [("segnet", False), ("deconvnet", True)])
def test_the_mirrored_nets_start_from_vgg_with_batch_norm(build, foreign, tmp_pth, head, taken):
    peer = foreign["torchvision_vgg"](width=2, filters=24, norm=True)
    here = build("vgg16_strided", head, width=2, norm=True, head_args={"hidden": 24} if taken else {})
    report = load(here, tmp_pth(peer.state_dict()))
    assert report.backbone_share == 1
    assert torch.equal(here.backbone.layers.conv5_3.weight, peer.features[40].weight)
    assert torch.equal(here.backbone.layers.norm5_3.running_mean, peer.features[41].running_mean)
    if taken:
        assert torch.equal(here.head.fc.fc6.conv.weight, peer.classifier[0].weight.view(24, 16, 7, 7))
        assert torch.equal(here.head.fc.fc7.conv.bias, peer.classifier[3].bias)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # a copy is meant
@pytest.mark.parametrize(("head", "hidden", "taps"), [("fc6_4x4", 24, [0, 2, 4, 6]), ("aspp_s", 6, [0, 3, 6])])
def test_fc6_is_decimated_and_its_filters_are_a_subset_by_the_seed(build, foreign, tmp_pth, head, hidden, taps):
    peer = foreign["torchvision_vgg"](width=2, filters=24)
    path = tmp_pth(peer.state_dict())
    whole = peer.classifier[0].weight.view(24, 16, 7, 7)[:, :, taps][..., taps]
    kept = []
    for seed in (0, 0, 1):
        here = build("vgg16", head, width=2, head_args={"hidden": hidden})
        load(here, path, seed=seed)
        first, *others = [branch.get_parameter("fc6.weight") for branch in here.head.branches]
        assert all(torch.equal(first, other) for other in others)
        kept.append([int(i) for row in first for i in (whole == row).flatten(1).all(1).nonzero()])
    assert len(kept[0]) == hidden
    assert kept[0] == kept[1]
    assert (kept[0] == kept[2]) == (hidden == 24)

    given = {"fc6": peer.classifier[0], "fc7": peer.classifier[3]}
    given = {f"{name}.{part}": t for name, layer in given.items() for part, t in layer.state_dict().items()}
    expected = decimate(given, len(taps), hidden, seed=1)
    assert all(torch.equal(here.head.branches[0].get_parameter(name), t) for name, t in expected.items())


@pytest.mark.parametrize("pool", [2, 3])
def test_a_head_without_fc6_leaves_that_of_vgg(build, foreign, tmp_pth, pool):
    peer = foreign["torchvision_vgg"](width=2, filters=24)
    report = load(build("vgg16", "plain", width=2, pool=pool), tmp_pth(peer.state_dict()))
    assert [name for name in report.unused if "fc6" in name] == ["head.fc6.weight", "head.fc6.bias"]


def test_imagenet_is_taken_from_torchvisions_cache(build, monkeypatch, tmp_path, foreign):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    peer = foreign["torchvision_vgg"](width=2, filters=32)
    torch.save(peer.state_dict(), cache / "vgg16-397923af.pth")
    here = build("vgg16", "largefov", width=2)
    report = load(here, "imagenet")
    assert torch.equal(here.backbone.layers.conv5_3.weight, peer.features[28].weight)
    assert report.source == "imagenet"


@pytest.mark.parametrize(
    ("backbone", "args", "file"),
    [
        ("vgg16", {}, "vgg16-397923af.pth"),
        ("vgg16_strided", {}, "vgg16-397923af.pth"),
        ("vgg16_strided", {"norm": True}, "vgg16_bn-6c64b313.pth"),
        ("resnet101", {"stride_in": "3x3"}, "resnet101-63fe2227.pth"),
        ("resnet50", {"stride_in": "3x3"}, "resnet50-0676ba61.pth"),
    ],
)
def test_without_a_network_the_way_by_a_file_is_named(build, monkeypatch, tmp_path, backbone, args, file):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=rf"could not download https://.*{file} .*set weights=PATH of the file$"):
        load(build(backbone, "plain", width=2, **args), "imagenet")


def test_there_are_no_imagenet_weights_for_the_small_backbone(build):
    with pytest.raises(ValueError, match="there are no ImageNet weights for Small"):
        load(build("small", "plain", width=8), "imagenet")
