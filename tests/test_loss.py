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
    for wrong in (-2.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="must be finite numbers, 0 or more"):
            CrossEntropy([1.0, wrong])


def test_weights_from_a_file_are_those_numbers_in_its_order(case, tmp_path):
    path = tmp_path / "weights.yaml"
    path.write_text('# made by hand\nsky: 1\nroad: 0.5\n"no": 2.0\ntree: 0\nb: 3.0e-2\n')
    weights = [1.0, 0.5, 2.0, 0.0, 0.03]
    assert CrossEntropy(str(path))(*case).item() == pytest.approx(by_hand(case[0], case[1].numpy(), weights), rel=1e-6)
    assert CrossEntropy(str(path))(*case).item() == CrossEntropy(weights)(*case).item()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "can't be read (No such file or directory)"),
        ("{", "is no YAML"),
        ("- 1\n- 2\n", "must hold a line `class: number` for each class"),
        ("", "must hold a line `class: number` for each class"),
        ("a: 1\nb: -2\n", "(got b: -2)"),
        ("a: .inf\n", "(got a: inf)"),
        ("a: .nan\n", "(got a: nan)"),
        ("a: true\n", "(got a: True)"),
        ("a: many\n", "(got a: 'many')"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_by_its_path_with_the_remedy(text, message, tmp_path):
    path = tmp_path / "weights.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match="class_weights") as caught:
        CrossEntropy(str(path))
    assert str(path) in str(caught.value)
    assert message in str(caught.value)
    assert "atrous check-data" in str(caught.value)


def test_a_file_for_other_classes_is_refused_by_its_count(case, tmp_path):
    path = tmp_path / "weights.yaml"
    path.write_text("a: 1\nb: 2\n")
    with pytest.raises(ValueError, match="needs 5 numbers, one a class \\(got 2\\)"):
        CrossEntropy(str(path))(*case)
