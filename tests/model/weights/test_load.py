import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from atrous.model.weights import Report, load


@pytest.fixture
def small(scrambled):
    return scrambled(0, "small", "plain", num_classes=5, width=8)


def state(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


class Malicious:
    """Unpickling it touches a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def malicious_zip(path, thing, tensors):
    torch.save({**tensors, "thing": thing}, path)


def malicious_old(path, thing, tensors):
    torch.save({**tensors, "thing": thing}, path, _use_new_zipfile_serialization=False)


def malicious_pickle(path, thing, tensors):
    path.write_bytes(pickle.dumps(thing))


@pytest.mark.parametrize("write", [malicious_zip, malicious_old, malicious_pickle])
def test_a_malicious_pickle_is_refused_in_one_line_and_runs_nothing(small, tmp_path, write):
    touched, path = tmp_path / "touched", tmp_path / "net.pth"
    write(path, Malicious(touched), state(small))
    with pytest.raises(ValueError, match=r"net.pth was not opened: it .+") as refused:
        load(small, path)
    assert "\n" not in str(refused.value)
    assert not touched.exists()
    if write is not malicious_pickle:
        assert "it wants to run posix.system" in str(refused.value)
        torch.load(path, weights_only=False)
        assert touched.exists()  # it is a real one


def test_a_pickled_network_is_refused_with_the_remedy(small, tmp_path):
    torch.save(small, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"wants to run atrous.model.network.Network, .* save a network's state_dict"):
        load(small, tmp_path / "net.pth")


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_part_of_a_pth_is_refused_in_one_line(small, tmp_path, share, modern):
    path = tmp_path / "net.pth"
    torch.save(state(small), path, _use_new_zipfile_serialization=modern)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(
        ValueError, match=r"net.pth is damaged, or only a part of a file, or no file of weights \(.+\)$"
    ):
        load(small, path)


def test_a_part_of_a_safetensors_file_is_refused_in_one_line(small, tmp_path):
    path = tmp_path / "net.safetensors"
    save_file(state(small), path)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match=r"net.safetensors is damaged, or only a part of a file \(.+\)$"):
        load(small, path)


def test_an_archive_still_packed_is_refused(small, tmp_path):
    with zipfile.ZipFile(tmp_path / "prototxt_and_model.zip", "w") as archive:
        archive.writestr("train_iter_20000.caffemodel", b"\x0a\x03net")
    with pytest.raises(ValueError, match="or no file of weights"):
        load(small, tmp_path / "prototxt_and_model.zip")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.zeros(2), "holds no tensors by name but a Tensor"),
        ({"state_dict": {"epoch": 3}}, "holds no tensors by name"),
        ({"encoder.weight": torch.zeros(2)}, "names that are neither ours nor torchvision's .*: encoder.weight$"),
    ],
)
def test_other_content_is_refused(small, tmp_path, content, message):
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=message):
        load(small, tmp_path / "net.pth")


@pytest.mark.parametrize("source", ["net.pth", "."])
def test_a_missing_file_is_named(small, tmp_path, source):
    with pytest.raises(ValueError, match=rf"there is no file of weights at {tmp_path}"):
        load(small, tmp_path / source)


def test_another_backbone_is_refused_and_nothing_is_loaded(scrambled, tmp_path):
    there = scrambled(0, "vgg16", "plain", width=4)
    here = scrambled(1, "vgg16", "plain", width=2)
    torch.save(state(there), tmp_path / "net.pth")
    before = state(here)
    message = (
        r"net.pth \(our own\) is for another network: 0 of 26 tensors of the backbone match; the others: "
        r"backbone.layers.conv1_1.weight \(\(4, 3, 3, 3\) there, \(2, 3, 3, 3\) here\), .*, …$"
    )
    with pytest.raises(ValueError, match=message):
        load(here, tmp_path / "net.pth")
    assert all(torch.equal(tensor, before[name]) for name, tensor in here.state_dict().items())


@pytest.mark.parametrize(("there", "here"), [("resnet50", "resnet101"), ("resnet101", "resnet50")])
def test_another_depth_is_refused_also_where_the_file_has_more(scrambled, tmp_path, there, here):
    torch.save(state(scrambled(0, there, "plain", width=2)), tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"265 of 520 tensors of the backbone match; .*res4.6.reduce.conv.weight"):
        load(scrambled(1, here, "plain", width=2), tmp_path / "net.pth")


@pytest.mark.parametrize(("lost", "accepted"), [(2, True), (3, False)])
def test_nine_tenths_of_the_backbone_must_be_found(scrambled, tmp_path, lost, accepted):
    network = scrambled(0, "vgg16", "plain", width=2)
    saved = state(network)
    for name in [name for name in saved if name.startswith("backbone.")][:lost]:
        del saved[name]
    torch.save(saved, tmp_path / "net.pth")
    if accepted:
        assert load(network, tmp_path / "net.pth").backbone_share == 24 / 26
    else:
        with pytest.raises(ValueError, match="23 of 26 tensors"):
            load(network, tmp_path / "net.pth")


def test_numbers_that_are_none_are_refused(small, tmp_path):
    saved = state(small)
    saved["head.branches.0.fc8.bias"][1] = float("nan")
    torch.save(saved, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=r"numbers that are not finite, in head.branches.0.fc8.bias"):
        load(small, tmp_path / "net.pth")


def test_parameters_keep_their_identity_and_what_trains(scrambled, tmp_path):
    network = scrambled(0, "resnet50", "plain", width=2)
    before = {name: (id(p), p.requires_grad) for name, p in network.named_parameters()}
    torch.save(state(network), tmp_path / "net.pth")
    load(network, tmp_path / "net.pth")
    assert {name: (id(p), p.requires_grad) for name, p in network.named_parameters()} == before


def test_half_precision_becomes_the_networks(small, tmp_path):
    torch.save({name: t.half() if t.is_floating_point() else t for name, t in state(small).items()}, tmp_path / "a.pth")
    load(small, tmp_path / "a.pth")
    assert {parameter.dtype for parameter in small.parameters()} == {torch.float32}


def test_a_report_reads_in_a_few_lines():
    names = [f"head.branches.{i}.fc8.weight" for i in range(4)]
    report = Report(
        source="net.pth",
        family="our own",
        loaded=["a", "b"],
        new=names,
        skipped={"head.fc8.weight": ((91, 8, 1, 1), (21, 8, 1, 1))},
        unused=["fc.bias"],
        backbone_share=1.0,
        convention="caffe",
        classes=None,
    )
    assert str(report).splitlines() == [
        "weights from net.pth (our own)",
        "  loaded   2 tensors, 100% of the backbone",
        "  new      4: head.branches.0.fc8.weight, head.branches.1.fc8.weight, head.branches.2.fc8.weight, …",
        "  skipped  1: head.fc8.weight (91, 8, 1, 1) there, (21, 8, 1, 1) here",
        "  unused   1: fc.bias",
        "  input    caffe",
    ]


def test_a_report_leaves_out_what_did_not_happen_and_tells_of_classes(small, tmp_path):
    torch.save({"state_dict": state(small), "atrous": {"names": list("abcde")}}, tmp_path / "net.ckpt")
    tensors = len([name for name in state(small) if name.endswith(("weight", "bias", "running_mean", "running_var"))])
    assert str(load(small, tmp_path / "net.ckpt", names=list("ABCxy"))).splitlines() == [
        f"weights from {tmp_path / 'net.ckpt'} (our own)",
        f"  loaded   {tensors} tensors, 100% of the backbone",
        "  classes  3 of 5 by name; new: x, y",
        "  input    unit",
    ]
