"""Files of weights as others write them, made from networks of ours."""

import numpy as np
import pytest
import torch
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from torch import nn

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = {"string": FIELD.TYPE_STRING, "int": FIELD.TYPE_INT64, "float": FIELD.TYPE_FLOAT, "bool": FIELD.TYPE_BOOL}

# The parts of caffe.proto that matter here: message -> field -> number, type; a star: repeated.
MESSAGES = {
    "BlobShape": {"dim": (1, "int*")},
    "BlobProto": {
        "num": (1, "int"),
        "channels": (2, "int"),
        "height": (3, "int"),
        "width": (4, "int"),
        "data": (5, "float*"),
        "diff": (6, "float*"),
        "shape": (7, "BlobShape"),
    },
    "V1LayerParameter": {
        "bottom": (2, "string*"),
        "top": (3, "string*"),
        "name": (4, "string"),
        "type": (5, "int"),
        "blobs": (6, "BlobProto*"),
        "blobs_lr": (7, "float*"),
    },
    "BatchNormParameter": {"use_global_stats": (1, "bool"), "eps": (3, "float")},
    "LayerParameter": {
        "name": (1, "string"),
        "type": (2, "string"),
        "bottom": (3, "string*"),
        "top": (4, "string*"),
        "blobs": (7, "BlobProto*"),
        "batch_norm_param": (139, "BatchNormParameter"),
    },
    "NetParameter": {"name": (1, "string"), "layers": (2, "V1LayerParameter*"), "layer": (100, "LayerParameter*")},
}
PACKED = {"dim", "data", "diff"}


def net_parameter(packed):
    """The message class NetParameter, by Google's own library."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto2")
    for message, fields in MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind) in fields.items():
            field = described.field.add(name=name, number=number)
            field.label = FIELD.LABEL_REPEATED if kind.endswith("*") else FIELD.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            field.type = SCALARS.get(kind, FIELD.TYPE_MESSAGE)
            if kind not in SCALARS:
                field.type_name = f".caffe.{kind}"
            if name in PACKED:
                field.options.packed = packed
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))


@pytest.fixture
def caffemodel(tmp_path):
    """caffemodel(layers, …) -> path, `layers`: name -> blobs."""

    def write(layers, version=2, packed=True, legacy=False, diff=False, eps=None):
        net = net_parameter(packed)(name="net")
        for name, blobs in layers.items():
            layer = (net.layer if version == 2 else net.layers).add(name=name, bottom=["data"], top=[name])
            if version == 1:
                layer.type = 4
                layer.blobs_lr.extend([1.0, 2.0])
            if eps is not None and name.startswith("bn"):
                layer.batch_norm_param.eps = eps
            for blob in map(np.asarray, blobs):
                added = layer.blobs.add()
                added.data.extend(blob.ravel().tolist())
                if diff:
                    added.diff.extend((0 * blob).ravel().tolist())
                shape = [1] * (4 - blob.ndim) + list(blob.shape)
                if legacy:
                    added.num, added.channels, added.height, added.width = shape
                else:
                    added.shape.dim.extend(blob.shape)
        net.layers.add(name="loss") if version == 1 else net.layer.add(name="loss")
        path = tmp_path / "net.caffemodel"
        path.write_bytes(net.SerializeToString())
        return path

    return write


def arrays(state, *names):
    return [state[name].numpy() for name in names if name in state]


def caffe_resnet(network, factor=0.5):
    """The layers of the authors' ResNet: res2a, res2b, res2c, res3a, res3b1 …, and the branches of the head."""
    state, layers = network.state_dict(), {}

    def conv_and_norm(name, conv, bn, scale):
        mean, variance = arrays(state, f"{name}.norm.running_mean", f"{name}.norm.running_var")
        layers[conv] = arrays(state, f"{name}.conv.weight")
        layers[bn] = [mean * factor, variance * factor, np.array([factor])]
        layers[scale] = arrays(state, f"{name}.norm.weight", f"{name}.norm.bias")

    conv_and_norm("backbone.conv1", "conv1", "bn_conv1", "scale_conv1")
    for stage in (2, 3, 4, 5):
        count = len(getattr(network.backbone, f"res{stage}"))
        for index in range(count):
            letters = "abc"[index] if count == 3 else "a" if index == 0 else f"b{index}"
            for part, branch in {"shortcut": "1", "reduce": "2a", "conv": "2b", "increase": "2c"}.items():
                name, caffe = f"backbone.res{stage}.{index}.{part}", f"{stage}{letters}_branch{branch}"
                if f"{name}.conv.weight" in state:
                    conv_and_norm(name, f"res{caffe}", f"bn{caffe}", f"scale{caffe}")
    branches = range(len(network.head.branches))
    for index in branches:
        name = f"fc1_voc12_c{index}" if len(branches) > 1 else "fc1_voc12"
        layers[name] = arrays(state, f"head.branches.{index}.fc8.weight", f"head.branches.{index}.fc8.bias")
    return layers


def caffe_vgg(network, classifier="fc8_voc12"):
    """The layers of the authors' VGG-16 nets; the branches of an ASPP are numbered from 1."""
    state = network.state_dict()
    inner = "network." if "network.bgr" in state else ""
    layers = {
        name.split(".")[-2]: arrays(state, name, name.replace("weight", "bias"))
        for name in state
        if ".layers.conv" in name and name.endswith("weight")
    }
    branches = [name for name in state if name.startswith(f"{inner}head.") and name.endswith("fc8.weight")]
    for index in range(len(branches)):
        suffix = f"_{index + 1}" if len(branches) > 1 else ""
        for fc, called in {"fc6": "fc6", "fc7": "fc7", "fc8": classifier}.items():
            name = f"{inner}head.branches.{index}.{fc}"
            layers[called + suffix] = arrays(state, f"{name}.weight", f"{name}.bias")
    for index, side in enumerate(["data", "pool1", "pool2", "pool3", "pool4"] if inner else []):
        for layer, called in {"conv1": "conv", "conv2": "fc", "score": "ms"}.items():
            name = f"branches.{index}.{layer}"
            layers[f"{side}_{called}"] = arrays(state, f"{name}.weight", f"{name}.bias")
    return layers


def caffe_fcn(network):
    """The layers of the release of FCN: the transposed convolutions hold all pairs of classes, (K, K, k, k)."""
    state = network.state_dict()
    layers = {
        name.split(".")[-2]: arrays(state, name, name.replace("weight", "bias"))
        for name in state
        if (".layers.conv" in name or ".fc." in name or "score_fr" in name) and name.endswith("weight")
    }
    for name in network.head.skips:
        layers[f"score_{name}"] = arrays(state, f"head.skips.{name}.weight", f"head.skips.{name}.bias")
    ups = {
        f"head.ups.{name}.weight": {"pool4": "upscore2", "pool3": "upscore_pool4"}[name] for name in network.head.ups
    }
    strides = {32: "upscore", 16: "upscore16", 8: "upscore8"}
    for name, called in {**ups, "head.up.weight": strides[network.head.up.stride[0]]}.items():
        weight = state[name]
        if weight.shape[1] == 1:
            full = torch.zeros(len(weight), *weight.shape[:1], *weight.shape[2:])
            for index in range(len(weight)):
                full[index, index] = weight[index, 0]
            weight = full
        layers[called] = [weight.numpy()]
    return layers


def kazuto(network, prefix="base.", shortcut="shortcut", head="aspp.c{}"):
    """The state of kazuto1011's networks: its blocks count from 1."""
    parts = {"reduce": "reduce", "conv": "conv3x3", "increase": "increase", "shortcut": shortcut}
    state = {}
    for name, tensor in network.state_dict().items():
        match name.split("."):
            case ["backbone", "conv1", kind, part]:
                state[f"{prefix}layer1.conv1.{'bn' if kind == 'norm' else kind}.{part}"] = tensor
            case ["backbone", stage, block, layer, kind, part]:
                kind = "bn" if kind == "norm" else kind
                state[f"{prefix}layer{stage[3]}.block{int(block) + 1}.{parts[layer]}.{kind}.{part}"] = tensor
            case ["head", "branches", index, "fc8", part]:
                state[f"{prefix}{head.format(index)}.{part}"] = tensor
    return state


def torchvision_vgg(width, filters, norm=False):
    """torchvision's VGG-16, narrow: its own features, and a classifier of `filters` in place of 4096."""
    from torchvision.models.vgg import cfgs, make_layers

    narrow = [layer if layer == "M" else int(layer) * width // 64 for layer in cfgs["D"]]
    classifier = [nn.Linear(8 * width * 49, filters), nn.ReLU(), nn.Dropout(), nn.Linear(filters, filters), nn.ReLU()]
    vgg = nn.Module()
    vgg.features = make_layers(narrow, batch_norm=norm)
    vgg.classifier = nn.Sequential(*classifier, nn.Dropout(), nn.Linear(filters, 10))
    return vgg.eval()


@pytest.fixture
def foreign():
    """The writers above, by name."""
    return {
        "caffe_resnet": caffe_resnet,
        "caffe_vgg": caffe_vgg,
        "caffe_fcn": caffe_fcn,
        "kazuto": kazuto,
        "torchvision_vgg": torchvision_vgg,
    }


@pytest.fixture
def scrambled(build):
    """scrambled(seed, backbone, head, …): a network in evaluation, every parameter and statistic of it random."""

    def build_scrambled(seed, *args, **kwargs):
        network = build(*args, **kwargs).eval()
        generator = torch.Generator().manual_seed(seed)
        for name, tensor in network.state_dict().items():
            if name.endswith(("running_var", "norm.weight")):
                tensor.uniform_(0.5, 1, generator=generator)
            elif tensor.is_floating_point() and name.rpartition(".")[2] in ("weight", "bias", "running_mean"):
                fan_in = tensor[0].numel()
                tensor.normal_(std=fan_in**-0.5 if tensor.dim() > 1 else 0.1, generator=generator)
        return network

    return build_scrambled


@pytest.fixture
def image():
    return torch.randint(256, (2, 3, 41, 49), generator=torch.Generator().manual_seed(5), dtype=torch.uint8)
