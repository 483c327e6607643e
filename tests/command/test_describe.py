import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from atrous.__main__ import main
from atrous.command.describe import describe, random_networks
from atrous.config.override import absences
from atrous.config.place import CONF
from atrous.model.describe import mean_effective_receptive_field, merge_repeated_blocks


def configure(*overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("describe", absences(overrides))


def describe_overrides(*overrides):
    return describe(configure(*overrides))


@pytest.mark.parametrize(
    ("overrides", "parameters", "fields"),
    [
        (["model/backbone=vgg16", "model/head=largefov"], 20_505_429, [435]),
        (["model/backbone=vgg16", "model/head=aspp_s"], 37_877_652, [259, 291, 355, 419]),
        (["model/backbone=vgg16", "model/head=aspp_l"], 37_877_652, [323, 419, 515, 611]),
        (["model/backbone=vgg16", "model/multiscale=features"], 21_711_550, [435]),
        (["model/backbone=resnet101", "model/head=plain"], 42_543_189, [1027]),
        (
            ["model/backbone=resnet101", "model/head=aspp_l", "model/multiscale=inputs"],
            44_048_532,
            [1123, 1219, 1315, 1411],
        ),
    ],
    ids=["vgg", "vgg-aspp-s", "vgg-aspp-l", "vgg-msc", "resnet", "resnet-inputs"],
)
def test_parameters_fields_and_sizes_are_the_papers(overrides, parameters, fields):
    description = describe_overrides(*overrides)
    assert description.parameters == parameters
    assert list(description.receptive_fields.values()) == fields
    assert description.logits == (21, 41, 41)
    assert sum(layer.parameters for layer in description.layers) == parameters


def test_the_flops_of_vgg_largefov_are_the_closed_form():
    sides = {1: 321, 2: 161, 3: 81, 4: 41, 5: 41}
    convolutions = [(3, 3, 64, 1), (3, 64, 64, 1), (3, 64, 128, 2), (3, 128, 128, 2), (3, 128, 256, 3)]
    convolutions += [(3, 256, 256, 3)] * 2 + [(3, 256, 512, 4)] + [(3, 512, 512, 4)] * 2 + [(3, 512, 512, 5)] * 3
    convolutions += [(3, 512, 1024, 5), (1, 1024, 1024, 5), (1, 1024, 21, 5)]
    expected = sum(2 * k * k * c_in * c_out * sides[stage] ** 2 for k, c_in, c_out, stage in convolutions)
    assert describe_overrides("model/backbone=vgg16", "model/head=largefov").flops == expected


def test_a_pyramid_costs_what_its_scales_cost_one_by_one():
    alone = [describe_overrides("model/head=aspp_l", f"size={size}").flops for size in (321, 241, 161)]
    assert describe_overrides("model/head=aspp_l", "model/multiscale=inputs").flops == sum(alone)


def test_a_crf_adds_what_it_learns_and_no_layers(capsys):
    overrides = ["model/multiscale=inputs", "model/head=plain", "size=65", "num_classes=7"]
    alone, description = describe_overrides(*overrides), describe_overrides(*overrides, "model/crf=recurrent")
    assert description.parameters - alone.parameters == 7 + 7 + 7 * 7
    assert sum(layer.parameters for layer in description.layers) == description.parameters
    assert description.layers[:-1] == alone.layers
    assert description.layers[-1].shape == (7, 65, 65)
    assert (description.flops, description.logits) == (alone.flops, alone.logits)
    assert main(["describe", *overrides, "model/crf=recurrent"]) == 0
    output = capsys.readouterr().out
    assert "5 iterations in training, 10 in the test" in output
    assert "2 times as wide at scale 0.5" in output


def test_a_picture_need_not_be_square():
    description = describe_overrides("size=[375,500]")
    assert description.logits == (21, 48, 64)  # 8 · 47 + 1 = 377, 8 · 63 + 1 = 505


def test_blocks_that_are_alike_share_their_rows_and_nothing_is_lost():
    layers = describe_overrides("model/backbone=resnet101", "model/head=aspp_l").layers
    rows = merge_repeated_blocks(layers)
    assert len(layers) == 104 + 1 + 4  # convolutions with their norms, a pooling, four classifiers
    assert len(rows) < 40
    assert sum(row.times for row in rows) == len(layers)
    assert sum(row.parameters for row in rows) == sum(layer.parameters for layer in layers)
    assert sum(row.flops for row in rows) == sum(layer.flops for layer in layers)
    (alike,) = [row for row in rows if row.name == "backbone.res4.1…22.conv"]
    assert (alike.times, alike.rate, alike.shape) == (22, 2, (256, 41, 41))


def test_each_layer_of_the_trunk_has_its_receptive_field():
    fields = {layer.name: layer.receptive_field for layer in describe_overrides("model/backbone=vgg16").layers}
    # (k - 1) · rate · stride so far more with each layer: 5 = 3 + 2, 7 = 5 + 2, 11 = 7 + 2 · 2
    assert [fields[f"backbone.{name}"] for name in ("conv1_1", "conv1_2", "pool1", "conv2_1")] == [3, 5, 7, 11]
    assert fields["head.branches.0.fc8"] == 435


def test_the_effective_field_lies_within_the_theoretical_one():
    overrides = ["model.backbone.width=8", "model.backbone.dilations=[1]", "model/head=plain"]
    (width,) = describe_overrides(*overrides).receptive_fields.values()
    assert width == 47  # three strides of 2: 1 + 2 + 4 + 8 = 15; two 3x3 at stride 8: 2 · 16 more
    rows, columns = np.nonzero(mean_effective_receptive_field(random_networks(configure(*overrides)), 129))
    for reached in (rows, columns):
        assert 64 - 23 <= reached.min() < 64 - 12
        assert 64 + 12 < reached.max() <= 64 + 23


def test_the_command_prints_the_table_and_draws(tmp_path, capsys):
    overrides = ["model.backbone.width=8", "num_classes=4", "size=100", "model/head=aspp_s"]
    assert main(["describe", *overrides, f"out='{tmp_path / 'new'}'"]) == 0
    output = capsys.readouterr().out
    assert "backbone.stem.0" in output
    assert "rate 12:" in output
    with Image.open(tmp_path / "new" / "receptive_field.png") as picture:
        colours = np.unique(np.asarray(picture.convert("RGB")).reshape(-1, 3), axis=0)
    assert len(colours) > 100


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model/head=aspl"], "did you mean model/head=aspp_l"),
        (["num_clases=3"], "did you mean num_classes"),
        (["num_classes=many"], "`num_classes` is a whole number"),
        (["num_classes=0"], "`num_classes` must be 1 or more (got 0)"),
        (["size=[3]"], "`size` must be a number of pixels, or [height,width] (got [3])"),
        (["size=0"], "`size` must be"),
        (["model.backbone.depth=50"], "there is no `model.backbone.depth`"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2_for_describe(overrides, expected, capsys):
    assert main(["describe", *overrides]) == 2
    message = capsys.readouterr().err
    assert expected in message
    assert len(message.splitlines()) <= 5
