import pytest
import torch
from torch import nn

from atrous.model.backbone.norm import ConvNorm


def layer(norm, fold=True):
    torch.manual_seed(0)
    layer = ConvNorm(4, 6, 3, stride=2, dilation=2, norm=norm, fold=fold).double()
    for values in layer.norm.state_dict().values():
        if values.is_floating_point():
            nn.init.uniform_(values, 0.5, 2)
    return layer


def features():
    return torch.randn(3, 4, 9, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["frozen", "trained"])
def test_folded_and_plain_agree_in_output_and_gradients(norm):
    results = []
    for fold in (True, False):
        ours = layer(norm, fold).train(norm == "frozen")
        x = features().requires_grad_()
        y = ours(x)
        y.square().sum().backward()
        results.append([y, x.grad] + [parameter.grad for parameter in ours.parameters() if parameter.requires_grad])
    assert len(results[0]) == (3 if norm == "frozen" else 5)
    for ours, expected in zip(*results):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(
    ("norm", "training"), [("frozen", True), ("frozen", False), ("trained", False), ("trained", True)]
)
def test_it_is_torchs_convolution_and_batch_norm(norm, training):
    ours = layer(norm).train(training)
    reference = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 2, dilation=2, bias=False), nn.BatchNorm2d(6)).double()
    reference.load_state_dict(dict(zip(reference.state_dict(), ours.state_dict().values())))
    reference.train(training and norm == "trained")
    torch.testing.assert_close(ours(features()), reference(features()))


def test_trained_statistics_follow_the_batch():
    ours = layer("trained").train()
    before = ours.norm.state_dict()["running_mean"].clone()
    ours(features())
    assert not torch.equal(ours.norm.state_dict()["running_mean"], before)


def test_another_word_is_refused():
    with pytest.raises(ValueError, match=r"`norm` must be trained or frozen \(got 'sync'\)"):
        ConvNorm(1, 1, 1, norm="sync")
