import math
import statistics

import numpy as np
import pytest

from atrous.batch import IGNORE
from atrous.data.statistics import LabelStatistics, count_pixels, inverse_log, median_frequency

VOID = IGNORE
# Three classes of four: 3 never occurs, 2 only in the second picture, the third is all void.
LABELS = [
    np.array([[0, 0, 0, 1], [0, 0, 0, VOID]], np.uint8),
    np.array([[0, 1], [2, VOID]], np.uint8),
    np.array([[VOID, VOID, VOID]], np.uint8),
]


def statistics_of(labels, classes):
    counts = LabelStatistics(classes)
    for label in labels:
        counts.add(count_pixels(label, classes))
    return counts


def test_each_class_and_void_are_counted_pixel_by_pixel():
    label = np.random.default_rng(0).choice([0, 1, 2, 4, VOID], (13, 17)).astype(np.uint8)
    expected = [sum(int(pixel) == value for pixel in label.ravel()) for value in (0, 1, 2, 3, 4, VOID)]
    assert count_pixels(label, 5).tolist() == expected
    assert count_pixels(label[:, ::2], 5).sum() == 13 * 9


def test_statistics_hold_pixels_pictures_and_the_extent_of_the_pictures_with_a_class():
    counts = statistics_of(LABELS, 4)
    assert counts.pictures == 3
    assert counts.pixels.tolist() == [7, 2, 1, 0, 5]
    assert counts.occurrences.tolist() == [2, 2, 1, 0, 3]
    assert counts.extent.tolist() == [12, 12, 4, 0, 15]
    assert counts.labelled == 10
    assert counts.void_share == pytest.approx(5 / 15)
    assert counts.shares().tolist() == pytest.approx([0.7, 0.2, 0.1, 0])
    assert counts.absent(("a", "b", "c", "d")) == ["d"]


def test_many_large_pictures_do_not_overflow():
    counts = LabelStatistics(2)
    for _ in range(3):
        counts.add(np.array([3_000_000_000, 0, 1_000_000_000]))
    assert counts.pixels.tolist() == [9_000_000_000, 0, 3_000_000_000]
    assert counts.extent.tolist() == [12_000_000_000, 0, 12_000_000_000]


def test_median_frequency_by_hand():
    # of all pixels of the pictures with the class: 7/12, 2/12, 1/4; void 5/15: the median is (1/4 + 1/3) / 2
    median = statistics.median([7 / 12, 2 / 12, 1 / 4, 5 / 15])
    expected = [median / (7 / 12), median / (2 / 12), median / (1 / 4), 0]
    assert median_frequency(statistics_of(LABELS, 4)).tolist() == pytest.approx(expected)


def test_median_frequency_without_void_is_the_classes_own():
    labels = [np.array([[0, 0, 0, 1]], np.uint8), np.array([[0, 2]], np.uint8)]
    # 4/6, 1/4, 1/2
    assert median_frequency(statistics_of(labels, 3)).tolist() == pytest.approx([0.5 * 6 / 4, 0.5 * 4, 1])


def test_inverse_log_by_hand():
    expected = [1 / math.log(1.02 + share) for share in (0.7, 0.2, 0.1)]
    assert inverse_log(statistics_of(LABELS, 4)).tolist() == pytest.approx([*expected, 0])


@pytest.mark.parametrize("labels", [[], LABELS[2:]], ids=["no picture", "only void"])
@pytest.mark.parametrize("weights", [median_frequency, inverse_log])
def test_without_a_labelled_pixel_all_weights_are_0(labels, weights):
    counts = statistics_of(labels, 4)
    assert weights(counts).tolist() == [0, 0, 0, 0]
    assert counts.shares().tolist() == [0, 0, 0, 0]


def test_camvids_counts_give_nearly_segnets_weights():
    """Counted by others on CamVid's 367 training pictures of 480x360, and divided out by them
    (github.com/alexgkendall/caffe-segnet/issues/37). SegNet's own numbers came from labels with fewer signs."""
    counted = {
        "sky": (10_682_767, 366, 0.256527308, 0.2595),
        "building": (14_750_079, 365, 0.185282667, 0.1826),
        "pole": (623_349, 366, 4.396287575, 4.5640),
        "road": (20_076_880, 367, 0.136869322, 0.1417),
        "pavement": (2_845_085, 349, 0.918473131, 0.9051),
        "tree": (6_166_762, 319, 0.387319864, 0.3826),
        "sign_symbol": (743_859, 351, 3.533074291, 9.6446),
        "fence": (714_595, 173, 1.812685267, 1.8418),
        "car": (3_719_877, 360, 0.724619798, 0.6823),
        "pedestrian": (405_385, 317, 5.855012981, 6.2478),
        "bicyclist": (184_967, 201, 8.136508447, 7.3614),
        "void": (2_503_995, 367, 1.097409921, None),
    }
    counts = LabelStatistics(11)
    counts.pixels, counts.occurrences = (np.array([row[k] for row in counted.values()]) for k in (0, 1))
    counts.extent = counts.occurrences * 480 * 360
    weights = dict(zip(counted, median_frequency(counts)))
    assert list(weights.values()) == pytest.approx([row[2] for row in counted.values()][:11], rel=1e-8)
    del weights["sign_symbol"]
    assert list(weights.values()) == pytest.approx([counted[name][3] for name in weights], rel=0.11)
