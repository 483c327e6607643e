"""The CRF as a network's last layer: what it computes, what it learns, how a run starts, resumes, ends with it."""

import copy
import json
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch
from omegaconf import OmegaConf
from running import Interrupted, equal, refusal, run, weights
from torch.func import functional_call

import atrous
from atrous.__main__ import main
from atrous.crf import DenseCRF
from atrous.loss import CrossEntropy
from atrous.model.crf import RecurrentCRF
from atrous.model.weights import load
from atrous.optim import sgd

CONF = Path(__file__).parents[2] / "conf" / "model" / "crf" / "recurrent.yaml"
BOTH = pytest.mark.parametrize("normalization", ["symmetric", "after"])
WIDTHS: dict[str, Any] = {"sigma_alpha": 8, "sigma_beta": 20, "sigma_gamma": 2}
RECURRENT = ("model/crf=recurrent", "model.crf.sigma_alpha=10", "model.crf.sigma_beta=20")


def picture(B, H, W, seed=0):
    """Flat areas and a little noise, uint8."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(B, 3, H // 5 + 1, W // 5 + 1, generator=rng) * 220
    areas = torch.nn.functional.interpolate(coarse, (H, W))
    return (areas + 10 * torch.rand(B, 3, H, W, generator=rng)).byte()


def random_logits(B, C, h, w, seed=0):
    return 2 * torch.randn(B, C, h, w, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def recurrent(build):
    """recurrent(multiscale, …): such a CRF around a network of three classes whose norms stand still."""

    def make(multiscale=None, w1=5.0, w2=3.0, multiscale_args=None, **kwargs):
        args = {"num_classes": 3, "width": 4, "norm": "frozen", "multiscale_args": multiscale_args}
        inner = build("small", "plain", multiscale, **args)
        for layer in inner.classifiers():  # new ones are so small that all scores are nearly 0
            torch.nn.init.normal_(layer.weight, std=1)
        return RecurrentCRF(inner, w1=w1, w2=w2, **WIDTHS, **kwargs)

    return make


# ---- what it computes ----------------------------------------------------------------------------------------------
@BOTH
def test_before_any_training_it_is_the_fixed_crf_on_the_softmax_of_the_zoomed_scores(recurrent, normalization):
    network = recurrent(normalization=normalization).double().eval()
    image, inner = picture(2, 25, 38), network.network
    probs = inner.zoom(inner(image), (25, 38)).softmax(1)
    potts = DenseCRF(5.0, w2=3.0, **WIDTHS, iterations=10, normalization=normalization)(image, probs)
    assert (potts - probs).abs().max() > 0.1
    torch.testing.assert_close(network(image).exp(), potts, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("training", "iterations"), [(True, 5), (False, 10)])
def test_it_takes_5_iterations_in_training_and_10_in_the_test(recurrent, training, iterations):
    network, image = recurrent().double().train(training), picture(1, 25, 30)
    probs = network.network.zoom(network.network(image), (25, 30)).softmax(1)
    expected = DenseCRF(5.0, w2=3.0, **WIDTHS, iterations=iterations, normalization="after")(image, probs)
    other = DenseCRF(5.0, w2=3.0, **WIDTHS, iterations=15 - iterations, normalization="after")(image, probs)
    torch.testing.assert_close(network(image).exp(), expected, rtol=0, atol=1e-6)
    assert (network(image).exp() - other).abs().max() > 1e-4


def test_the_shipped_file_says_the_same_numbers_of_iterations(build):
    network = hydra.utils.instantiate(OmegaConf.load(CONF), network=build("small", "plain", width=4))
    assert (network.iterations, network.iterations_test) == (5, 10)
    assert torch.equal(network.crf["compatibility"], 1 - torch.eye(21))
    assert {name: p.unique().tolist() for name, p in network.crf.items() if name != "compatibility"} == {
        "w1": [5],
        "w2": [3],
    }


@BOTH
def test_it_has_the_derivatives_of_the_logits_and_of_what_it_learns(recurrent, normalization):
    network = recurrent(normalization=normalization, iterations=2, w1=2.0, w2=1.0).double()
    image, logits = picture(1, 9, 10), random_logits(1, 3, 2, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda logits: network.infer(image, logits), logits)
    names = ["crf.w1", "crf.w2", "crf.compatibility", "network.head.branches.0.fc8.bias"]
    learnt = dict(network.named_parameters())

    def forward(*values):
        return functional_call(network, dict(zip(names, values)), image)

    torch.nn.init.uniform_(network.crf["compatibility"])
    assert torch.autograd.gradcheck(forward, [learnt[name].detach().clone().requires_grad_() for name in names])


def test_bytes_and_floats_of_one_picture_have_the_same_probabilities(recurrent):
    network, image = recurrent().eval(), picture(2, 17, 20)
    assert torch.equal(network(image), network(image.float()))


def test_a_low_precision_around_it_does_not_reach_it(recurrent):
    network, image, logits = recurrent(), picture(1, 17, 20), random_logits(1, 3, 3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        log_probs = network.infer(image, logits)
        assert network(image).dtype == torch.float32
    assert torch.equal(log_probs, network.infer(image, logits))


def test_certain_pixels_have_finite_log_probabilities_and_gradients(recurrent):
    network, image = recurrent(), picture(1, 17, 20)
    logits = (1e4 * random_logits(1, 3, 3, 4)).requires_grad_()
    log_probs = network.infer(image, logits)
    CrossEntropy()(log_probs, log_probs.argmin(1)).backward()
    assert log_probs.isfinite().all()
    assert all(x.grad.isfinite().all() for x in (logits, *network.crf.values()))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (33, 40), (9, 50)])
@pytest.mark.parametrize("multiscale", [None, "inputs"])
def test_it_gives_every_pixel_of_a_picture_of_any_size(recurrent, multiscale, size):
    network, image = recurrent(multiscale).eval(), picture(2, *size)
    log_probs = network(image)
    assert log_probs.shape == (2, 3, *size)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(2, *size))
    assert torch.equal(network.zoom(log_probs, size), log_probs)
    label = picture(2, *size)[:, 0]
    assert torch.equal(network.subsample(label, log_probs), label)


# ---- training ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fuse", ["logits", "picture"])
def test_around_a_pyramid_its_scales_stay_supervised(recurrent, fuse):
    network, image, label = recurrent("inputs", multiscale_args={"fuse": fuse}), picture(2, 65, 97), picture(2, 65, 97)
    first, *scales = network.supervise(image)
    torch.testing.assert_close(first, network(image))
    for ours, expected in zip(scales, network.network.supervise(image)[1:], strict=True):
        torch.testing.assert_close(ours, expected)
    labels = [network.subsample(label[:, 0], logits) for logits in (first, *scales)]
    for sampled, step in zip(labels, (1, 8, 8, 16), strict=True):
        assert torch.equal(sampled, label[:, 0, ::step, ::step])


def test_a_step_of_training_moves_all_that_it_learns_and_the_network(recurrent):
    network, image = recurrent(), picture(2, 17, 20)
    before = copy.deepcopy(network.state_dict())
    (log_probs,) = network.supervise(image)
    CrossEntropy()(log_probs, (image[:, 0] % 3).long()).backward()
    sgd(network, lr=0.1).step()
    after = network.state_dict()
    for name in ("crf.w1", "crf.w2", "crf.compatibility", "network.head.branches.0.fc8.weight"):
        assert (after[name] != before[name]).all(), name


def test_nothing_decays_what_it_learns_and_its_rate_is_its_own(recurrent):
    network = recurrent()
    groups = {group["name"]: group for group in sgd(network, lr=0.1, crf=3.0).param_groups}
    assert [id(p) for p in groups["crf"]["params"]] == [id(p) for p in network.crf_parameters()]
    assert (groups["crf"]["lr"], groups["crf"]["weight_decay"]) == (pytest.approx(0.3), 0)
    assert sum(len(group["params"]) for group in groups.values()) == sum(p.requires_grad for p in network.parameters())


def test_the_facts_of_the_network_inside_hold(recurrent):
    network = recurrent()
    assert network.classifiers() == network.network.classifiers()
    assert {id(p) for p in network.new_parameters()} == {id(p) for p in network.crf.values()}
    assert (network.num_classes, network.stride, network.crop_remainder) == (3, 8, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"w1": -1},
        {"w2": float("nan")},
        {"sigma_alpha": 0},
        {"sigma_beta": -1},
        {"sigma_gamma": 0},
        {"iterations": -1},
        {"iterations_test": -2},
        {"normalization": "before"},
    ],
)
def test_an_impossible_argument_is_named(build, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=rf"`{name}` must .*\(got .*{value}.*\)"):
        RecurrentCRF(build("small", "plain", width=4), **({"w1": 5, "w2": 3, **WIDTHS} | wrong))


# ---- weights -------------------------------------------------------------------------------------------------------
def saved(network, path, names=None):
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    torch.save({"state_dict": state, **({"atrous": {"names": names}} if names else {})}, path)
    return path


def test_it_starts_from_a_network_without_and_the_report_says_what_is_new(recurrent, tmp_path):
    plain, network = recurrent().network, recurrent("inputs")
    torch.nn.init.constant_(plain.classifiers()[0].bias, 0.3)
    report = load(network, saved(plain, tmp_path / "last.ckpt"))
    assert equal(network.network.network.state_dict(), plain.state_dict())
    assert sorted(report.new) == ["crf.compatibility", "crf.w1", "crf.w2"]
    assert (report.backbone_share, report.skipped, report.unused) == (1, {}, [])
    assert (network.crf["w1"] == 5).all()


def scrambled(network):
    for parameter in network.crf.values():
        torch.nn.init.uniform_(parameter)
    return network


def test_what_it_learnt_is_read_back(recurrent, tmp_path):
    there, here, image = scrambled(recurrent()), recurrent(), picture(1, 17, 20)
    report = load(here, saved(there, tmp_path / "last.ckpt"))
    assert (report.new, report.skipped, report.unused) == ([], {}, [])
    assert torch.equal(here.eval()(image), there.eval()(image))


def test_classes_in_another_order_take_their_costs_along(recurrent, tmp_path):
    there, here, image = scrambled(recurrent()), recurrent(), picture(1, 17, 20)
    load(here, saved(there, tmp_path / "last.ckpt", ["a", "b", "c"]), names=["c", "a", "b"])
    torch.testing.assert_close(here.eval()(image), there.eval()(image)[:, [2, 0, 1]])
    assert here.crf["compatibility"][0, 1] == there.crf["compatibility"][2, 0]


# ---- runs ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    run(folder)
    return folder


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, plain):
    folder = tmp_path_factory.mktemp("unbroken")
    run(folder, *RECURRENT, f"weights='{plain}'", "optim.lr=0.01")
    return folder


def test_a_run_trains_network_and_crf_from_a_run_without(plain, unbroken):
    before, after = weights(plain), weights(unbroken)
    inner = {name.replace("network.", "network.network.", 1) for name in before if name.startswith("network.")}
    assert {name for name in after if name.startswith("network.")} - inner == {
        "network.crf.w1",
        "network.crf.w2",
        "network.crf.compatibility",
    }
    result = json.loads((unbroken / "result.json").read_text())
    assert result["scores_crf"] is None
    assert 0 < result["scores"]["mean_iou"] < 1


def test_a_resumed_run_ends_with_the_weights_of_the_unbroken_one(tmp_path, plain, unbroken):
    overrides = (*RECURRENT, f"weights='{plain}'", "optim.lr=0.01")
    with pytest.raises(Interrupted):
        run(tmp_path, *overrides, "+callback.die={_target_:running.Die,at:7}")
    run(tmp_path, *overrides)
    assert equal(weights(tmp_path), weights(unbroken))


def test_train_only_crf_leaves_the_network_as_it_was(tmp_path, plain):
    overrides = (*RECURRENT, f"weights='{plain}'", "train_only=crf", "trainer.max_steps=6", "optim.crf=10")
    run(tmp_path, *overrides)
    before, after = weights(plain), weights(tmp_path)
    counted = "num_batches_tracked"  # of which weights bring none along
    for name in before:
        if name.startswith("network.") and counted not in name:
            assert torch.equal(after[name.replace("network.", "network.network.", 1)], before[name]), name
    assert all((after[f"network.crf.{name}"] != value).any() for name, value in (("w1", 5), ("w2", 3)))
    assert "choose that too" in refusal(tmp_path / "none", "train_only=crf")


def test_a_trained_one_segments_by_itself_and_takes_no_second_crf(unbroken):
    trained, image = atrous.load(unbroken), picture(1, 33, 41)
    assert (trained.segment(image[0].permute(1, 2, 0).numpy()) == trained.scores(image).argmax(1)[0].numpy()).all()
    with pytest.raises(ValueError, match="`crf=True`, but the network ends in a CRF of its own"):
        trained.segment(image[0].permute(1, 2, 0).numpy(), crf=True)


@pytest.mark.parametrize("name", ["experiment=shapes", "experiment=shapes_recurrent"])
def test_a_crf_on_top_of_a_crf_is_refused(tmp_path, name):
    assert "`crf` and `model.crf` are both chosen" in refusal(tmp_path, name, *RECURRENT, "crf=v2", "weights=null")
    assert not (tmp_path / "checkpoint").exists()


def test_it_is_evaluated_as_it_is(unbroken, capsys):
    assert main(["evaluate", f"run={unbroken}"]) == 0
    evaluated, own = (json.loads((unbroken / name).read_text()) for name in ("evaluate/val/result.json", "result.json"))
    assert evaluated["confusion"] == own["confusion"]
    for overrides in (["evaluate", "crf=v1"], ["tune"]):
        assert main([*overrides, f"run={unbroken}"]) == 2
        assert "a second one would refine" in capsys.readouterr().err


def test_the_experiment_starts_from_what_make_train_leaves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = refusal(tmp_path / "run", "experiment=shapes_recurrent", "seed=3")
    assert "runs/shapes/default/seed3" in message
    assert "the folder of a run that is done (`make train` makes" in message


def test_a_training_that_diverges_names_its_pictures(tmp_path):
    overrides = (*RECURRENT, "+callback.poison={_target_:running.Poison,at:1}", "trainer.max_steps=4")
    with pytest.raises(FloatingPointError, match=r"iteration 2; its pictures: train/\d+"):
        run(tmp_path, *overrides, "checkpoint_every=1")


def test_a_checkpoint_from_before_there_was_such_a_choice_is_read(tmp_path, plain):
    content = torch.load(plain / "checkpoint" / "last.ckpt", weights_only=True)
    assert content["atrous"]["config"]["model"].pop("crf", "missing") is None
    torch.save(content, tmp_path / "old.ckpt")
    image = picture(1, 33, 41)
    assert torch.equal(atrous.load(tmp_path / "old.ckpt").scores(image), atrous.load(plain).scores(image))
