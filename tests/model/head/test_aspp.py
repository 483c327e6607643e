import pytest
import torch
from torch.nn import functional as F

from atrous.model.features import Features
from atrous.model.head import ASPP
from atrous.model.head.aspp import decimate


def features(channels=5, height=17, width=13):
    return torch.randn(2, channels, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("fused", [True, False])
def test_one_branch_aspp_is_largefov(fused):
    head = ASPP(5, 3, rates=[12], fused=fused).double()
    (fc8,) = head.classifiers()
    expected = F.conv2d(features(), fc8.weight, fc8.bias, dilation=12, padding=12)
    torch.testing.assert_close(head(Features((features(),))), expected)


@pytest.mark.parametrize("fused", [True, False])
def test_aspp_is_the_sum_of_its_atrous_classifiers(fused):
    head = ASPP(5, 3, rates=[2, 4, 8, 12], fused=fused).double()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    expected = sum(
        F.conv2d(features(), fc8.weight, fc8.bias, dilation=rate, padding=rate)
        for fc8, rate in zip(head.classifiers(), [2, 4, 8, 12])
    )
    torch.testing.assert_close(head(Features((features(),))), expected)


@pytest.mark.parametrize("kernel", [3, 4, 7])
@pytest.mark.parametrize("size", [(17, 13), (1, 1), (30, 2)])
def test_fused_and_plain_agree_in_logits_and_in_all_gradients(size, kernel):
    results = []
    for fused in (True, False):
        torch.manual_seed(0)
        head = ASPP(5, 3, rates=[2, 6, 24], kernel=kernel, fused=fused).double()
        assert head.fused == fused
        x = features(5, *size).requires_grad_()
        logits = head(Features((x,)))
        weighting = torch.linspace(-1, 1, logits.numel(), dtype=torch.float64).view(logits.shape)
        (logits * weighting).sum().backward()
        results.append([logits, x.grad, *(parameter.grad for parameter in head.parameters())])
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # a copy is meant
def test_kernels_that_are_not_symmetric_are_evaluated_plainly():
    assert not ASPP(5, 3, rates=[3, 4], kernel=4).fused
    head = ASPP(5, 3, rates=[3], kernel=4).double()
    (fc8,) = head.classifiers()
    expected = F.conv2d(F.pad(features(), (4, 5, 4, 5)), fc8.weight, fc8.bias, dilation=3)
    torch.testing.assert_close(head(Features((features(),))), expected)


def test_a_branch_of_vgg_is_fc6_fc7_fc8_with_relu_between():
    head = ASPP(5, 3, fc_channels=8, rates=[2, 3], dropout=0.5).double().eval()
    expected = torch.zeros(())
    for rate, branch in zip([2, 3], head.branches):
        state = branch.state_dict()
        x = F.conv2d(features(), state["fc6.weight"], state["fc6.bias"], dilation=rate, padding=rate).relu()
        x = F.conv2d(x, state["fc7.weight"], state["fc7.bias"]).relu()
        expected = expected + F.conv2d(x, state["fc8.weight"], state["fc8.bias"])
    torch.testing.assert_close(head(Features((features(),))), expected)


def test_dropout_follows_fc6_and_fc7_and_nothing_else():
    head = ASPP(5, 3, fc_channels=8, rates=[2], dropout=0.5)
    (branch,) = head.branches
    assert [name for name, layer in branch.named_children() if isinstance(layer, torch.nn.Dropout)] == [
        "drop6",
        "drop7",
    ]
    assert not any(isinstance(layer, torch.nn.Dropout) for layer in ASPP(5, 3).modules())


def test_hidden_overrides_the_family_and_zero_means_none():
    assert ASPP(5, 3, fc_channels=8, hidden=6).branches[0].get_submodule("fc7").weight.shape == (6, 6, 1, 1)
    assert ASPP(5, 3, fc_channels=8, hidden=0).classifiers()[0].weight.shape == (3, 5, 3, 3)
    assert ASPP(5, 3, fc_channels=None).classifiers()[0].weight.shape == (3, 5, 3, 3)


def test_pool5a_averages_before_fc6_counting_the_zeros_around_the_map():
    torch.manual_seed(0)
    head = ASPP(5, 3, fc_channels=8, rates=[2], pool5a=True).double().eval()
    averaged = F.conv2d(features(), torch.full((5, 1, 3, 3), 1 / 9, dtype=torch.float64), padding=1, groups=5)
    torch.testing.assert_close(head(Features((features(),))), head.branches[0](averaged))
    assert ASPP(5, 3, pool5a=True).pool5a is None


def test_new_classifiers_start_from_a_gaussian_of_001_and_zero_biases():
    torch.manual_seed(0)
    for classifier in ASPP(512, 21).classifiers() + ASPP(8, 21, fc_channels=4096, rates=[1], kernel=1).classifiers():
        assert classifier.weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert classifier.weight.mean().item() == pytest.approx(0, abs=2e-4)
        assert classifier.state_dict()["bias"].count_nonzero() == 0


def imagenet_fc(filters=12, channels=2):
    """Weights that say where they come from: fc6 filter·1e4 + channel·1e3 + row·10 + column, fc7 row·100 + column."""
    f, c, y, x = torch.meshgrid(*(torch.arange(n) for n in (filters, channels, 7, 7)), indexing="ij")
    row, column = torch.meshgrid(torch.arange(filters), torch.arange(filters), indexing="ij")
    return {
        "fc6.weight": (f * 10000 + c * 1000 + y * 10 + x).float().flatten(1),
        "fc6.bias": torch.arange(filters).float(),
        "fc7.weight": (row * 100 + column).float(),
        "fc7.bias": torch.arange(filters).float(),
    }


@pytest.mark.parametrize(("kernel", "taps"), [(7, range(7)), (4, [0, 2, 4, 6]), (3, [0, 3, 6]), (1, [3])])
def test_decimation_keeps_regular_taps_of_fc6(kernel, taps):
    fc6 = decimate(imagenet_fc(), kernel, channels=12)["fc6.weight"]
    assert fc6.shape == (12, 2, kernel, kernel)
    expected = [[row * 10.0 + column for column in taps] for row in taps]
    assert fc6[0, 0].tolist() == expected


def test_decimation_without_loss_is_the_convolutional_form_of_vgg():
    given, kept = imagenet_fc(), decimate(imagenet_fc(), kernel=7, channels=12)
    assert torch.equal(kept["fc6.weight"].flatten(1), given["fc6.weight"])
    assert torch.equal(kept["fc7.weight"].flatten(1), given["fc7.weight"])


def test_the_kept_filters_of_fc6_are_the_inputs_of_fc7():
    kept = decimate(imagenet_fc(), kernel=3, channels=5, seed=3)
    kept6, kept7 = kept["fc6.bias"], kept["fc7.bias"]
    assert len(set(kept6.tolist())) == len(set(kept7.tolist())) == 5
    assert torch.equal(kept["fc6.weight"][:, 0, 0, 0], kept6 * 10000)
    assert torch.equal(kept["fc7.weight"].flatten(1), kept7[:, None] * 100 + kept6)


def test_the_subset_depends_on_the_seed_alone():
    first, again, other = (decimate(imagenet_fc(), 3, 5, seed)["fc6.bias"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_every_branch_starts_from_the_same_fc6_and_fc7():
    head = ASPP(2, 3, fc_channels=5, rates=[2, 4])
    classifiers = [layer.weight.clone() for layer in head.classifiers()]
    head.load_state_dict(head.start_from(imagenet_fc(), seed=1), strict=False)
    expected = decimate(imagenet_fc(), 3, 5, seed=1)
    for branch, classifier in zip(head.branches, classifiers):
        state = branch.state_dict()
        assert all(torch.equal(state[name], expected[name]) for name in expected)
        assert torch.equal(state["fc8.weight"], classifier)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rates": []}, r"`rates` must hold one rate or more, each 1 or more \(got \[\]\)"),
        ({"rates": [6, 0]}, r"`rates` must hold .* \(got \[6, 0\]\)"),
        ({"kernel": 0}, r"`kernel` must be 1 or more \(got 0\)"),
    ],
)
def test_impossible_heads_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ASPP(5, 3, **arguments)
    with pytest.raises(ValueError, match="`kernel` must be one of 7, 4, 3, 1"):
        decimate(imagenet_fc(), kernel=5, channels=4)
    with pytest.raises(ValueError, match="`channels` must be at most the 12"):
        decimate(imagenet_fc(), kernel=3, channels=13)


@pytest.mark.parametrize("fused", [True, False])
def test_gradients_of_two_passes_add(fused):
    """Gradient accumulation: torch adds the second pass to the first in place, and what shares memory would double."""
    head = ASPP(5, 3, rates=[2, 4, 8, 12], fused=fused).double()
    for passes in (1, 2):
        head(Features((features(),))).square().sum().backward()
        gradients = [parameter.grad.clone() for parameter in head.parameters() if parameter.grad is not None]
        assert len(gradients) == 8
        if passes == 1:
            once = gradients
    for one, two in zip(once, gradients):
        torch.testing.assert_close(two, 2 * one)


# Paper: v2, table 3; v1's LargeFOV and plain head.
RATES = {"aspp_l": (6, 12, 18, 24), "aspp_s": (2, 4, 8, 12), "largefov": (12,), "plain": (1,)}


@pytest.mark.parametrize("name", RATES)
def test_a_head_has_the_rates_of_the_paper(meta, name):
    assert meta("vgg16", name).head.rates == RATES[name]


def test_the_head_that_is_not_told_its_rates_is_aspp_l():
    assert ASPP(5, 3).rates == RATES["aspp_l"]
