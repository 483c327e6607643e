"""The systems beside DeepLab as networks: sizes, counts, gradients, and each one's own identity."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from torch import nn

from atrous.batch import LabelSpace
from atrous.config.build import build_network
from atrous.config.place import CONF
from atrous.inference.export import export
from atrous.inference.network_file import NetworkInfo
from atrous.model.describe import describe_network
from atrous.model.features import Features
from atrous.model.head import FCN, Context, SegNet
from atrous.model.head.context import start_as_identity

BACKBONES: dict[str, tuple[str, dict]] = {
    "fcn": ("vgg16_strided", {"padding": 100}),
    "segnet": ("vgg16_strided", {"norm": True}),
    "deconvnet": ("vgg16_strided", {"norm": True}),
    "context": ("vgg16", {}),
    "deeplabv3": ("resnet50", {"stride_in": "3x3"}),
    "unet": ("small", {}),
}
NARROW = {"vgg16_strided": 2, "vgg16": 2, "resnet50": 4, "small": 8}
HEADS = [
    "fcn32s",
    "fcn16s",
    "fcn8s",
    "segnet",
    "deconvnet",
    "context_basic",
    "context_large",
    "deeplabv3",
    "deeplabv3plus",
    "unet",
]


def network(head: str, num_classes: int = 5, wide: bool = False, **head_arguments: Any) -> Any:
    name, arguments = next(value for key, value in BACKBONES.items() if head.startswith(key))
    parts = {
        "backbone": (name, arguments if wide else arguments | {"width": NARROW[name]}),
        "head": (head, head_arguments),
    }
    if not wide and head in ("fcn32s", "fcn16s", "fcn8s", "deconvnet", "context_basic", "context_large"):
        parts["head"] = (head, {"hidden": 6} | head_arguments)
    model = {
        group: OmegaConf.merge(OmegaConf.load(CONF / "model" / group / f"{file}.yaml"), changes)
        for group, (file, changes) in parts.items()
    }
    config: Any = OmegaConf.create(model | {"multiscale": None, "crf": None})
    return build_network(config, num_classes)


def image(*size, seed=0):
    return torch.randint(0, 256, size, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(193, 225), (200, 211)], ids=str)
def test_scores_have_the_size_of_any_picture(head, size):
    net = network(head).eval()
    with torch.no_grad():
        scores = net.zoom(net(image(1, 3, *size)), size)
    assert scores.shape == (1, 5, *size)


@pytest.mark.parametrize("head", HEADS)
def test_all_that_should_learn_gets_a_gradient_and_nothing_else(head):
    torch.manual_seed(0)
    net = network(head)
    for classifier in net.classifiers():  # FCN's start from zero, before which nothing would learn in the first step
        nn.init.normal_(classifier.weight, std=0.01)
    net(image(2, 3, 193, 193)).square().mean().backward()
    learns = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name for name, p in net.named_parameters() if p.grad is not None} == learns
    fixed = {name for name, p in net.named_parameters() if not p.requires_grad}
    fixed -= {name for name in fixed if name.startswith("backbone.") and ".norm." in name}  # a ResNet's, as released
    assert fixed == ({"head.up.weight"} if head.startswith("fcn") else set())


@pytest.mark.parametrize("head", HEADS)
def test_the_classifiers_have_a_row_for_each_class(head):
    assert all(layer.weight.shape[0] == 5 and layer.bias.shape == (5,) for layer in network(head).classifiers())


def test_fcn_32s_learns_the_weights_of_vgg_and_a_score():
    with torch.device("meta"):
        net = network("fcn32s", 21, wide=True)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == 134_346_581


@pytest.mark.parametrize(("head", "classes", "millions"), [("segnet", 11, 29.4), ("deconvnet", 21, 252.0)])
def test_the_parameters_are_those_that_are_published(head, classes, millions):
    with torch.device("meta"):
        net = network(head, classes, wide=True)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, rel=0.005)


# ---- FCN ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("head", "crops"),
    [
        ("fcn32s", {"picture": 19}),
        ("fcn16s", {"pool4": 5, "picture": 27}),
        ("fcn8s", {"pool4": 5, "pool3": 9, "picture": 31}),
    ],
)
def test_the_maps_are_cut_as_in_the_release(head, crops):
    assert network(head).head.first == crops


def test_fcn_without_the_padding_is_refused():
    with pytest.raises(ValueError, match=r"model\.backbone\.padding=100"):
        FCN((3, 1, 1, 1, 1, 1), (1, 2, 4, 8, 16, 32), (0, 0.5, 1.5, 3.5, 7.5, 15.5), 3, hidden=2)


class RowOfEachUnit(nn.Module):
    """In the place of fc6 and fc7: each unit gives the pixel row that it stands for."""

    def forward(self, x):
        height, width = (n - 6 for n in x.shape[-2:])
        rows = 12.5 + 32 * torch.arange(height)  # conv1_1 pads 100, fc6 takes 7 units off
        return rows.view(1, 1, -1, 1).expand(1, 1, height, width).float()


@pytest.mark.parametrize("head", ["fcn32s", "fcn16s", "fcn8s"])
def test_a_score_that_is_the_pixels_row_comes_back_as_that_row(head):
    """Bilinear interpolation keeps what is linear, in one step or in three, if the maps are cut at the right place."""
    net = network(head, num_classes=1).eval()
    net.head.fc, net.head.score_fr = RowOfEachUnit(), nn.Identity()
    with torch.no_grad():
        logits = net(image(1, 3, 225, 257))
    rows = torch.arange(225.0).view(1, 1, -1, 1).expand(1, 1, 225, 257)
    inside = slice(32, -32)
    torch.testing.assert_close(logits[..., inside, inside], rows[..., inside, inside])


# ---- SegNet ---------------------------------------------------------------------------------------------------------
def test_segnet_puts_every_value_back_to_where_its_maximum_was():
    net = network("segnet").eval()
    features: Features = net.backbone(net.normalise(image(1, 3, 65, 67)))
    assert [tuple(place.shape[-2:]) for place in features.places] == [tuple(m.shape[-2:]) for m in features.maps[1:]]
    pooled, places = features.maps[1], features.places[0]
    before: torch.Tensor = net.backbone.layers[:6](features.maps[0])  # conv1_1 … relu1_2
    torch.testing.assert_close(before.flatten(2).gather(2, places.flatten(2)).view_as(pooled), pooled)


def test_a_head_that_unpools_wants_a_backbone_that_remembers():
    small = OmegaConf.load(CONF / "model/backbone/small.yaml")
    head = OmegaConf.merge(OmegaConf.load(CONF / "model/head/segnet.yaml"), {"depths": [2, 2, 2, 2]})
    config: Any = OmegaConf.create({"backbone": small, "head": head, "multiscale": None, "crf": None})
    with pytest.raises(ValueError, match="model/backbone=vgg16_strided does"):
        build_network(config, 3)


def test_segnets_channels_are_those_of_the_paper():
    with torch.device("meta"):
        head: Any = SegNet((3, 64, 128, 256, 512, 512), 11)
    widths = [[block.conv.out_channels for block in stage] for stage in head.decoder.stages]
    assert widths == [[512, 512, 512], [512, 512, 256], [256, 256, 128], [128, 64], [64]]


# ---- context --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("large", [False, True])
def test_a_context_that_starts_as_the_identity_changes_nothing(large):
    head = Context(3, 4, rates=[1], kernel=1, hidden=0, large=large, spread=0.0)
    maps = torch.randint(0, 9, (1, 4, 20, 21)).float()
    padded = nn.functional.pad(maps, (33,) * 4)
    assert torch.equal(head.layers(padded), maps)


def test_the_basic_context_sees_67_and_has_about_64_weights_for_each_two_classes():
    head = Context(3, 21, rates=[1], kernel=1, hidden=0)
    (chain,) = head.windows().values()
    from atrous.model.atrous import receptive_field  # beside what it checks

    assert receptive_field(chain).size == 67
    weights = sum(layer.weight.numel() for layer in head.layers if isinstance(layer, nn.Conv2d))
    assert weights == 64 * 21**2


def test_the_identity_is_one_between_any_widths():
    conv = nn.Conv2d(6, 12, 3)
    start_as_identity(conv, 3, 0.0)
    assert torch.equal(conv.weight.sum((1, 2, 3)), torch.full((12,), 0.5))


# ---- v3 -------------------------------------------------------------------------------------------------------------
def test_v3_with_torchvisions_weights_gives_torchvisions_logits():
    peer = torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=5).eval()
    head = network("deeplabv3", wide=True).head.eval()
    head.layers.load_state_dict(peer.classifier.state_dict())
    x = torch.randn(1, 2048, 9, 11)
    with torch.no_grad():
        torch.testing.assert_close(head(Features((x,))), peer.classifier(x))


@pytest.mark.parametrize("head", HEADS)
def test_it_describes_itself(head):
    with torch.device("meta"):
        net = network(head).eval()
    description = describe_network(net, (225, 225))
    assert description.parameters == sum(p.numel() for p in net.parameters())
    assert sum(layer.parameters for layer in description.layers) == description.parameters
    assert description.flops > 0
    assert description.logits[0] == 5


# ---- one file -------------------------------------------------------------------------------------------------------
def exported(head: str, folder: Path) -> str:
    net = network(head).eval()
    for classifier in net.classifiers():
        nn.init.normal_(classifier.weight, std=0.01)
    info = NetworkInfo({"model": {}}, LabelSpace([f"class {k}" for k in range(5)]))
    return export(net, info, "torch_export", folder / f"{head}.pt2")


@pytest.mark.parametrize(
    "head",
    [pytest.param(head, marks=() if head == "fcn8s" else pytest.mark.slow) for head in HEADS if head != "deconvnet"],
)
def test_it_is_exported_with_free_height_and_width(head, tmp_path):
    assert exported(head, tmp_path).count("the same class at 100.00 % of the pixels") == 3


def test_deconvnet_whose_fc6_wants_a_whole_window_fits_no_such_graph(tmp_path):
    with pytest.raises(ValueError, match=r"fits no graph with free height and width .* format=safetensors holds it"):
        exported("deconvnet", tmp_path)
