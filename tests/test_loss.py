import numpy as np
import pytest
import torch

from atrous.batch import IGNORE
from atrous.loss import CrossEntropy


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, 6, generator=generator, requires_grad=True)
    label = torch.randint(0, 5, (2, 7, 6), generator=generator).byte()
    label[0, :3] = IGNORE
    return logits, label


def by_hand(logits, label, weights):
    """The definition, position by position."""
    total, counted = 0.0, 0.0
    for x, y in zip(logits.detach().double().permute(0, 2, 3, 1).reshape(-1, logits.shape[1]).numpy(), label.ravel()):
        if y != IGNORE:
            total += weights[y] * (np.log(np.exp(x).sum()) - x[y])
            counted += weights[y]
    return total / counted


@pytest.mark.parametrize("weights", [None, [1.0, 0.5, 2.0, 0.0, 3.0]])
def test_the_loss_is_the_mean_over_valid_positions(case, weights):
    logits, label = case
    expected = by_hand(logits, label.numpy(), weights or [1.0] * 5)
    assert CrossEntropy(weights)(logits, label).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0] * 5])
def test_a_crop_without_labels_gives_zero_and_finite_gradients(case, weights):
    logits, label = case
    loss = CrossEntropy(weights)(logits, torch.full_like(label, IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_padding_changes_neither_loss_nor_gradient(case):
    logits, label = case
    padded = torch.nn.functional.pad(logits.detach(), (0, 3, 0, 2), value=7.0).requires_grad_()
    padded_label = torch.nn.functional.pad(label, (0, 3, 0, 2), value=IGNORE)
    one, other = CrossEntropy()(logits, label), CrossEntropy()(padded, padded_label)
    one.backward()
    other.backward()
    assert one.item() == pytest.approx(other.item(), rel=1e-6)
    assert padded.grad is not None
    torch.testing.assert_close(padded.grad[..., :7, :6], logits.grad)
    assert (padded.grad[..., 7:, :] == 0).all()


def test_a_class_weight_for_each_class_is_needed(case):
    with pytest.raises(ValueError, match="needs 5 numbers"):
        CrossEntropy([1.0, 2.0])(*case)
    with pytest.raises(ValueError, match="must not be negative"):
        CrossEntropy([1.0, -2.0])
