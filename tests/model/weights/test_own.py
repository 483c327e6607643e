import json

import pytest
import torch
from safetensors.torch import save_file

from atrous.model.weights import load

THERE = ["background", "aeroplane", "Cat", "dog", "sofa"]
HERE = ["dog", "tree", "cat", "background"]


def checkpoint(network, path, names=None, **backbone):
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    about = {"names": names, "config": {"model": {"backbone": backbone}}} if names else None
    torch.save({"state_dict": state, "epoch": 0, **({"atrous": about} if about else {})}, path)
    return path


def safetensors(network, path, names=None, **backbone):
    about = {"names": names, "config": {"model": {"backbone": backbone}}}
    metadata = {"atrous": json.dumps(about)} if names else None
    save_file({name: t.clone() for name, t in network.state_dict().items()}, path, metadata)
    return path


FORMS = pytest.mark.parametrize("write", [checkpoint, safetensors])
NETWORKS = [
    ("resnet50", "aspp_l", "inputs", {"width": 2, "stride_in": "3x3"}),
    ("vgg16", "aspp_s", None, {"width": 2}),
    ("vgg16", "largefov", "features", {"width": 2}),
    ("small", "largefov", None, {"width": 8}),
]


@FORMS
@pytest.mark.parametrize(("backbone", "head", "multiscale", "args"), NETWORKS)
def test_our_own_give_the_same_logits_when_read_back(
    scrambled, tmp_path, image, write, backbone, head, multiscale, args
):
    there, here = (scrambled(seed, backbone, head, multiscale, 5, **args) for seed in (0, 1))
    report = load(here, write(there, tmp_path / "weights", THERE), names=THERE)
    torch.testing.assert_close(here(image), there(image), rtol=0, atol=0)
    assert (report.new, report.skipped, report.unused, report.classes) == ([], {}, [], None)


@FORMS
def test_the_input_convention_comes_along(scrambled, tmp_path, image, write):
    there, here = (scrambled(seed, "vgg16", "plain", num_classes=5, width=2) for seed in (0, 1))
    there.expect("imagenet")
    assert load(here, write(there, tmp_path / "weights")).convention == "imagenet"
    assert torch.equal(here.normalise(image), there.normalise(image))


@FORMS
@pytest.mark.parametrize("multiscale", [None, "features"])
def test_classes_are_found_by_name_whatever_their_case_and_the_others_start_anew(
    scrambled, tmp_path, image, write, multiscale
):
    there = scrambled(0, "vgg16", "aspp_s", multiscale, len(THERE), width=2)
    here = scrambled(1, "vgg16", "aspp_s", multiscale, len(HERE), width=2)
    before = [layer.weight.detach().clone() for layer in here.classifiers()]
    report = load(here, write(there, tmp_path / "weights", THERE), names=HERE)
    torch.testing.assert_close(here(image)[:, [0, 2, 3]], there(image)[:, [3, 2, 0]])
    for layer, was in zip(here.classifiers(), before):
        assert torch.equal(layer.weight[1], was[1])
    assert report.classes == (["dog", "cat", "background"], ["tree"])
    assert (report.new, report.skipped) == ([], {})


def test_classes_of_one_number_in_another_order_are_reordered(scrambled, tmp_path, image):
    there, here = (scrambled(seed, "small", "plain", num_classes=5, width=8) for seed in (0, 1))
    load(here, checkpoint(there, tmp_path / "last.ckpt", THERE), names=THERE[::-1])
    torch.testing.assert_close(here(image), there(image).flip(1))


def test_without_a_common_class_the_classifiers_are_new(scrambled, tmp_path):
    there, here = (scrambled(seed, "small", "plain", num_classes=5, width=8) for seed in (0, 1))
    before = here.classifiers()[0].weight.detach().clone()
    report = load(here, checkpoint(there, tmp_path / "last.ckpt", THERE), names=list("abcde"))
    assert torch.equal(here.classifiers()[0].weight, before)
    assert report.new == ["head.branches.0.fc8.weight", "head.branches.0.fc8.bias"]


def test_without_names_another_number_of_classes_leaves_the_classifiers_new(scrambled, tmp_path):
    there = scrambled(0, "small", "plain", num_classes=5, width=8)
    here = scrambled(1, "small", "plain", num_classes=4, width=8)
    report = load(here, checkpoint(there, tmp_path / "last.ckpt"), names=HERE)
    assert report.skipped["head.branches.0.fc8.bias"] == ((5,), (4,))


def test_names_for_another_number_of_classes_are_refused(scrambled, tmp_path):
    here = scrambled(1, "small", "plain", num_classes=5, width=8)
    with pytest.raises(ValueError, match=r"`names` must hold the 5 classes of the network \(got 4\)"):
        load(here, checkpoint(here, tmp_path / "last.ckpt"), names=HERE)


def test_one_scale_goes_into_several_and_several_into_one(scrambled, tmp_path, image):
    one, three = (scrambled(seed, "resnet50", "plain", m, 5, width=2) for seed, m in enumerate([None, "inputs"]))
    load(three, checkpoint(one, tmp_path / "one.ckpt"))
    torch.testing.assert_close(three.network(image), one(image))
    fresh = scrambled(2, "resnet50", "plain", num_classes=5, width=2)
    load(fresh, checkpoint(three, tmp_path / "three.ckpt"))
    torch.testing.assert_close(fresh(image), one(image))


def test_msc_starts_from_a_network_without_and_its_branches_are_new(scrambled, tmp_path):
    plain, msc = (scrambled(seed, "vgg16", "largefov", m, 5, width=2) for seed, m in enumerate([None, "features"]))
    report = load(msc, checkpoint(plain, tmp_path / "last.ckpt"))
    assert report.backbone_share == 1
    assert report.new == [f"branches.{name}" for name, _ in msc.branches.named_parameters()]


@FORMS
def test_our_own_are_refused_where_the_network_strides_elsewhere(scrambled, tmp_path, write):
    there = scrambled(0, "resnet50", "plain", num_classes=5, width=2, stride_in="3x3")
    path = write(there, tmp_path / "weights", THERE, stride_in="3x3")
    with pytest.raises(ValueError, match=r"set model.backbone.stride_in=3x3"):
        load(scrambled(0, "resnet50", "plain", num_classes=5, width=2), path)


@pytest.mark.parametrize("about", [3, {"config": [1]}, {"config": {"model": {"backbone": 1}}}])
def test_what_is_told_about_the_weights_may_be_anything(scrambled, tmp_path, about):
    here = scrambled(0, "small", "plain", num_classes=5, width=8)
    state = {f"network.{name}": tensor for name, tensor in here.state_dict().items()}
    torch.save({"state_dict": state, "atrous": about}, tmp_path / "last.ckpt")
    assert load(here, tmp_path / "last.ckpt", names=THERE).backbone_share == 1


def test_the_folder_of_a_real_run_is_a_source(build, trained):
    saved = torch.load(trained / "checkpoint" / "last.ckpt", weights_only=True)
    names, head = saved["atrous"]["names"], saved["atrous"]["config"]["model"]["head"]["_target_"]
    assert head.endswith("ASPP")
    model = {part: dict(saved["atrous"]["config"]["model"][part]) for part in ("backbone", "head")}
    assert model["backbone"].pop("_target_").endswith("Small")
    model["head"].pop("_target_")
    here = build("small", "largefov", num_classes=2, head_args=model["head"], **model["backbone"])
    report = load(here, trained, names=["new", names[1]])
    state = {name.removeprefix("network."): tensor for name, tensor in saved["state_dict"].items()}
    assert report.classes == ([names[1]], ["new"])
    assert torch.equal(here.head.classifiers()[0].weight[1], state["head.branches.0.fc8.weight"][1])
    assert torch.equal(here.backbone.stem[0].norm.running_mean, state["backbone.stem.0.norm.running_mean"])
