import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassJaccardIndex

from atrous.batch import IGNORE
from atrous.metric import bootstrap
from atrous.metric.boundary import BOUNDARY, WIDTHS, near_boundary, near_void
from atrous.metric.confusion import Counts, Scores, boundary_iou, confusion, trimap


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


def test_every_iou_is_the_same_to_the_last_bit(pictures):
    """A set's scores, the bootstrap's and a boundary's have one formula, hit / (truth + predicted - hit) in float64."""
    rng = np.random.default_rng(0)
    matrices = [matrix_of(*pictures).numpy(), rng.integers(0, 10**9, (21, 21)), np.zeros((2, 2), int)]
    for matrix in matrices:
        counts = bootstrap.parts(matrix)
        names = [str(c) for c in range(len(matrix))]
        expected = [
            hit / (truth + predicted - hit) if truth or predicted else np.nan
            for hit, truth, predicted in counts.T.astype(float).tolist()
        ]
        np.testing.assert_array_equal(Scores.of(matrix).iou, expected)
        np.testing.assert_array_equal(bootstrap.iou(counts), expected)
        boundary = boundary_iou(counts, names)["iou"]
        np.testing.assert_array_equal([np.nan if x is None else x for x in boundary.values()], expected)


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


# ---- near void ------------------------------------------------------------------------------------------------------
def test_a_trimap_is_a_square_band_around_a_hand_drawn_void():
    label = np.zeros((60, 70), np.uint8)
    label[20:30, 30:34] = IGNORE  # 10 x 4
    prediction = np.ones_like(label)
    counts = near_void(prediction, label, 2).cumsum(0)
    for w in range(1, 20):
        assert counts[w - 1, 0, 1] == (10 + 2 * w) * (4 + 2 * w) - 40  # the square of side 2w + 1 cuts no corner
    assert counts[WIDTHS - 1, 0, 1] == 60 * 70 - 40 - 0  # all of it is within 40 pixels


def test_a_trimap_is_the_papers_dilation_by_brute_force(pictures):
    draw = np.random.default_rng(1)
    label = draw.integers(0, 3, (50, 64)).astype(np.uint8)
    label[draw.random(label.shape) < 0.002] = IGNORE
    prediction = draw.integers(0, 3, label.shape).astype(np.uint8)
    counts, void = near_void(prediction, label, 3).cumsum(0), np.argwhere(label == IGNORE)
    assert 2 < len(void) < 20
    for w in (1, 2, 5, 11, 40):
        band = np.zeros(label.shape, bool)
        for y, x in void:
            band[max(y - w, 0) : y + w + 1, max(x - w, 0) : x + w + 1] = True
        band &= label != IGNORE
        expected = np.zeros((3, 3), int)
        np.add.at(expected, (label[band], prediction[band]), 1)
        np.testing.assert_array_equal(counts[w - 1], expected)


def test_a_trimaps_scores_are_those_of_its_band():
    label = np.zeros((5, 9), np.uint8)
    label[:, 4] = IGNORE
    label[:, 5:] = 1
    prediction = np.where(np.arange(9) < 3, 0, 1) * np.ones((5, 1), int)  # wrong in the column beside void
    scores = trimap(near_void(prediction.astype(np.uint8), label, 2))
    assert scores["width"] == list(range(1, 41))
    assert scores["pixel_accuracy"][:2] == [0.5, 0.75]
    assert scores["mean_iou"][1] == pytest.approx((5 / 10 + 10 / 15) / 2)
    assert scores["pixel_accuracy"][39] == 35 / 40


def test_without_void_there_is_no_trimap():
    label = np.zeros((5, 9), np.uint8)
    assert not near_void(label, label, 2).any()
    assert Counts.of(torch.from_numpy(label), torch.from_numpy(label), 2).as_dict("ab")["trimap"] is None


# ---- boundaries -----------------------------------------------------------------------------------------------------
def eroded(mask, reach):
    """The mask without what is within `reach` of its outside or the picture's edge."""
    padded, size = np.pad(mask, reach), 2 * reach + 1
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size))
    return windows.all((2, 3))


def test_a_boundary_is_that_of_one_binary_mask_for_each_class(pictures):
    draw = np.random.default_rng(2)
    label = np.kron(draw.integers(0, 4, (6, 7)), np.ones((9, 8), int)).astype(np.uint8)
    prediction = np.roll(label, (2, -1), (0, 1))
    label[draw.random(label.shape) < 0.01] = IGNORE
    reach = round(BOUNDARY * np.hypot(*label.shape))
    assert reach == 2
    counts = near_boundary(prediction, label, 5)
    for c in range(5):
        truth, guess = label == c, (prediction == c) & (label != IGNORE)
        truth, guess = truth & ~eroded(truth, reach), guess & ~eroded(guess, reach)
        assert counts[:, c].tolist() == [(truth & guess).sum(), truth.sum(), guess.sum()]


def test_the_boundary_of_a_square_and_of_the_same_a_pixel_aside():
    label = np.zeros((30, 40), np.uint8)  # a diagonal of 50: a boundary of 1 pixel
    label[10:20, 10:20] = 1
    aside = np.roll(label, 1, axis=1)
    same = boundary_iou(near_boundary(label, label, 2), "ab")
    assert same["iou"] == {"a": 1.0, "b": 1.0}
    both, truth, predicted = near_boundary(aside, label, 2)[:, 1]
    assert (truth, predicted) == (36, 36)  # the rim of 10 x 10
    assert both == 2 * 9 + 0  # the upper and lower rows, a pixel short
    iou = boundary_iou(near_boundary(aside, label, 2), "ab")
    assert iou["iou"]["b"] == 18 / 54
    assert iou["mean_iou"] == pytest.approx((iou["iou"]["a"] + 18 / 54) / 2)


def test_a_boundary_of_an_absent_class_is_left_out():
    label = np.zeros((30, 40), np.uint8)
    scores = boundary_iou(near_boundary(label, label, 2), "ab")
    assert scores["iou"] == {"a": 1.0, "b": None}
    assert scores["mean_iou"] == 1.0


def test_counts_of_two_pictures_add_up(pictures):
    predictions, labels = ([x.astype(np.uint8) for x in xs[:2]] for xs in pictures)
    each = [Counts.of(torch.from_numpy(p), torch.from_numpy(y), 5) for p, y in zip(predictions, labels)]
    total = Counts.total(each, 5)
    np.testing.assert_array_equal(total.confusion, matrix_of(predictions, labels))
    np.testing.assert_array_equal(total.trimap, sum(near_void(p, y, 5) for p, y in zip(predictions, labels)))
    np.testing.assert_array_equal(total.boundary, sum(near_boundary(p, y, 5) for p, y in zip(predictions, labels)))


def test_all_scores_are_sklearns_where_all_classes_occur():
    metrics = pytest.importorskip("sklearn.metrics")
    draw = np.random.default_rng(3)
    label = draw.integers(0, 4, 5000)
    prediction = np.where(draw.random(5000) < 0.7, label, draw.integers(0, 4, 5000))
    scores = Scores.of(confusion(torch.from_numpy(prediction), torch.from_numpy(label), 4))
    np.testing.assert_allclose(scores.iou, metrics.jaccard_score(label, prediction, average=None))
    assert scores.mean_iou == pytest.approx(metrics.jaccard_score(label, prediction, average="macro"))
    assert scores.frequency_weighted_iou == pytest.approx(metrics.jaccard_score(label, prediction, average="weighted"))
    assert scores.pixel_accuracy == pytest.approx(metrics.accuracy_score(label, prediction))
    assert scores.mean_accuracy == pytest.approx(metrics.balanced_accuracy_score(label, prediction))
