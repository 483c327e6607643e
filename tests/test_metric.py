import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from atrous.batch import IGNORE
from atrous.metric import Scores, confusion


def devkit(predictions, labels, classes):
    """The VOC devkit's formula over all pictures at once: true positives / (true + false positives + negatives)."""
    ious = []
    for c in range(classes):
        hit = sum(((p == c) & (y == c)).sum() for p, y in zip(predictions, labels))
        union = sum((((p == c) | (y == c)) & (y != IGNORE)).sum() for p, y in zip(predictions, labels))
        ious.append(hit / union if union else np.nan)
    return np.array(ious)


@pytest.fixture
def pictures():
    """Three pictures of different sizes; class 4 is neither in the truth nor predicted."""
    draw = np.random.default_rng(0)
    sizes = [(5, 7), (9, 4), (1, 1)]
    labels = [draw.integers(0, 4, size) for size in sizes]
    predictions = [np.where(draw.random(size) < 0.6, y, draw.integers(0, 4, size)) for size, y in zip(sizes, labels)]
    labels[0][0] = IGNORE
    return predictions, labels


def matrix_of(predictions, labels, classes=5):
    return sum(confusion(torch.from_numpy(p), torch.from_numpy(y), classes) for p, y in zip(predictions, labels))


def test_the_matrix_counts_pixel_by_pixel(pictures):
    expected = np.zeros((5, 5), int)
    for p, y in zip(*pictures):
        for a, b in zip(p.ravel(), y.ravel()):
            if b != IGNORE:
                expected[b, a] += 1
    matrix = matrix_of(*pictures)
    assert matrix.dtype == torch.int64
    np.testing.assert_array_equal(matrix, expected)


def test_iou_is_the_devkits_and_an_absent_class_is_left_out(pictures):
    predictions, labels = pictures
    scores, expected = Scores.of(matrix_of(predictions, labels)), devkit(predictions, labels, 5)
    np.testing.assert_array_equal(scores.iou, expected)
    assert np.isnan(scores.iou[4])
    assert scores.counted == 4
    assert scores.mean_iou == np.nanmean(expected)
    assert scores.as_dict("abcde")["iou"]["e"] is None


def test_iou_is_torchmetrics_where_both_are_defined(pictures):
    oracle = MulticlassJaccardIndex(5, ignore_index=IGNORE, average="none")
    for p, y in zip(*pictures):
        oracle.update(torch.from_numpy(p)[None], torch.from_numpy(y)[None])
    np.testing.assert_allclose(Scores.of(matrix_of(*pictures)).iou[:4], oracle.compute()[:4], rtol=1e-6)


def test_the_score_of_a_set_is_not_the_mean_over_its_pictures(pictures):
    whole = Scores.of(matrix_of(*pictures)).mean_iou
    each = np.mean([Scores.of(matrix_of([p], [y])).mean_iou for p, y in zip(*pictures)])
    assert abs(whole - each) > 0.01


def test_accuracies_and_frequency_weighted_iou_by_hand():
    scores = Scores.of(np.array([[6, 2], [1, 1]]))
    assert scores.pixel_accuracy == 0.7
    assert scores.mean_accuracy == (6 / 8 + 1 / 2) / 2
    assert scores.frequency_weighted_iou == pytest.approx(0.8 * 6 / 9 + 0.2 * 1 / 4)


def test_a_class_that_is_only_predicted_counts_as_zero():
    scores = Scores.of(np.array([[3, 1], [0, 0]]))
    assert scores.iou.tolist() == [0.75, 0.0]
    assert scores.counted == 2


def test_nothing_to_score_is_zero_not_nan():
    scores = Scores.of(np.zeros((3, 3)))
    assert (scores.mean_iou, scores.counted, scores.pixel_accuracy) == (0.0, 0, 0.0)


def test_a_label_outside_the_classes_is_refused():
    with pytest.raises(ValueError, match="0 to 2 or 255"):
        confusion(torch.tensor([0, 1]), torch.tensor([0, 7]), 3)
