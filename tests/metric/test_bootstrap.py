import time

import numpy as np
import pytest

from atrous.metric import bootstrap
from atrous.metric.bootstrap import Comparison, draws, iou, mean_iou, parts
from atrous.metric.confusion import Scores


def confusions(pictures: int, classes: int = 4, right: float = 0.7, seed: int = 0) -> np.ndarray:
    """(N, C, C): pictures of some classes each, of very different sizes and difficulty."""
    rng = np.random.default_rng(seed)
    size = rng.integers(0, 400, (pictures, classes)) * (rng.random((pictures, classes)) < 0.6)
    share = np.clip(right + rng.normal(0, 0.2, (pictures, classes)), 0, 1)
    hit = rng.binomial(size, share)
    matrix = np.stack([rng.multinomial(each, [1 / classes] * classes) for each in (size - hit).ravel()])
    matrix = matrix.reshape(pictures, classes, classes)
    return matrix + hit[..., None] * np.eye(classes, dtype=int)


def better(matrices: np.ndarray, share: float, seed: int = 1) -> np.ndarray:
    """Return the same truths with this share of the errors mended."""
    rng = np.random.default_rng(seed)
    off = matrices * (1 - np.eye(matrices.shape[-1], dtype=int))
    mended = rng.binomial(off, share)
    return matrices - mended + mended.sum(-1)[..., None] * np.eye(matrices.shape[-1], dtype=int)


def compare(a: np.ndarray, b: np.ndarray, *args: int, **kwargs: int) -> Comparison:
    """Compare by confusion matrices (N, C, C)."""
    return bootstrap.compare(parts(a), parts(b), *args, **kwargs)


def by_hand(a: np.ndarray, b: np.ndarray, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(R,) differences of the mean and (R, C) of the classes, one draw after the other, by the scores of a set."""
    rng = np.random.default_rng(seed)
    means, classes = [], []
    for _ in range(resamples):
        drawn = rng.integers(0, len(a), len(a))
        one, other = (Scores.of(sum(each[k] for k in drawn)) for each in (a, b))
        means.append(other.mean_iou - one.mean_iou)
        classes.append(other.iou - one.iou)
    return np.array(means), np.array(classes)


def test_the_intervals_are_those_of_a_loop_over_the_draws():
    a = confusions(23)
    b = better(a, 0.1)
    comparison = compare(a, b, resamples=300, seed=5)
    means, classes = by_hand(a, b, 300, seed=5)
    np.testing.assert_allclose(
        [comparison.mean.low, comparison.mean.high], np.quantile(means, [0.025, 0.975]), atol=1e-12
    )
    for k, interval in enumerate(comparison.classes):
        expected = np.nanquantile(classes[:, k], [0.025, 0.975])
        np.testing.assert_allclose([interval.low, interval.high], expected, atol=1e-12)
    assert comparison.ahead == (means > 0).mean()


def test_the_scores_are_those_of_the_whole_set():
    a = confusions(31)
    b = better(a, 0.2)
    comparison = compare(a, b, resamples=10)
    scores = [Scores.of(each.sum(0)) for each in (a, b)]
    assert comparison.mean_iou == pytest.approx([each.mean_iou for each in scores], abs=1e-15)
    np.testing.assert_allclose(comparison.iou, [each.iou for each in scores], atol=1e-15)
    assert comparison.mean.value == comparison.mean_iou[1] - comparison.mean_iou[0]
    single = [[Scores.of(matrix).mean_iou for matrix in each] for each in (a, b)]
    void = ~a.any((1, 2))
    np.testing.assert_allclose(np.where(void, 0, comparison.single), single, atol=1e-15)


def test_a_run_differs_from_itself_by_exactly_nothing():
    a = confusions(40)
    comparison = compare(a, a.copy(), resamples=500)
    for interval in (comparison.mean, *comparison.classes):
        assert (interval.value, interval.low, interval.high) == (0, 0, 0)
    assert comparison.ahead == 0
    assert not np.nan_to_num(comparison.change).any()


def test_a_gain_that_is_the_same_on_every_picture_is_certain():
    """Each picture: 100 pixels of either class, of which a gets 60 and 80 right, b 80 and 80; so any draw has the same
    IoU: 60/(100+20) and 80/(100+40) of a, 80/120 twice of b."""
    a = np.tile([[60, 40], [20, 80]], (9, 1, 1))
    b = np.tile([[80, 20], [20, 80]], (9, 1, 1))
    comparison = compare(a, b, resamples=200)
    expected = 80 / 120 - (60 / 120 + 80 / 140) / 2
    for number in (comparison.mean.value, comparison.mean.low, comparison.mean.high):
        assert number == pytest.approx(expected, abs=1e-15)
    assert comparison.ahead == 1


def test_exchanging_the_networks_negates_the_difference():
    a, b = confusions(30), confusions(30, right=0.72, seed=9)
    one, other = compare(a, b, 400), compare(b, a, 400)
    for interval, reverse in zip((one.mean, *one.classes), (other.mean, *other.classes), strict=True):
        assert interval.value == -reverse.value
        np.testing.assert_allclose([interval.low, interval.high], [-reverse.high, -reverse.low], atol=1e-15)
    assert one.ahead + other.ahead == 1


def test_pairing_the_pictures_shows_what_two_separate_draws_would_not():
    """b mends a twentieth of a's errors: far less than what pictures differ in. Drawn apart, that drowns."""
    a = confusions(60)
    b = better(a, 0.05)
    paired = compare(a, b, 2000).mean
    apart = [
        np.concatenate([mean_iou(iou(np.tensordot(times, parts(each), 1))) for times in draws(len(a), 2000, seed)])
        for seed, each in enumerate((a, b))
    ]
    low, high = np.quantile(apart[1] - apart[0], [0.025, 0.975])
    assert low < 0 < high
    assert paired.low > 0
    assert paired.high - paired.low < (high - low) / 5


def test_an_interval_of_95_percent_holds_the_truth_about_95_percent_of_the_time():
    """The pictures are drawn from a population of which the difference is known. Of 200 intervals 190 should hold it,
    give or take 3 (one standard deviation of a binomial), and a percentile bootstrap of 50 pictures is a little narrow:
    so three deviations above, four below."""
    population = confusions(3000)
    other = better(population, 0.1) + confusions(3000, seed=3) // 20
    population = population + confusions(3000, seed=3) // 20
    truth = compare(population, other, 1).mean.value
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        drawn = rng.integers(0, 3000, 50)
        interval = compare(population[drawn], other[drawn], 400, seed).mean
        held += interval.low <= truth <= interval.high
    assert 178 <= held <= 199


@pytest.mark.parametrize("chunk", [1, 50, 64, 1000])
def test_the_chunk_size_changes_nothing(chunk):
    a = confusions(17)
    b = better(a, 0.1)
    assert compare(a, b, 101, chunk=chunk).mean == compare(a, b, 101).mean
    counts = np.concatenate(list(draws(17, 101, seed=3, chunk=chunk)))
    np.testing.assert_array_equal(counts, np.concatenate(list(draws(17, 101, seed=3))))
    assert counts.shape == (101, 17)
    assert (counts.sum(1) == 17).all()


def test_a_class_that_no_picture_has_has_no_interval():
    a = np.pad(confusions(12), ((0, 0), (0, 1), (0, 1)))
    comparison = compare(a, better(a, 0.3), 50)
    assert not comparison.classes[4].known
    assert comparison.classes[4].as_dict() is None
    assert comparison.mean.known


def test_ten_thousand_draws_of_vocs_validation_pictures_take_seconds():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 50, (1449, 21, 21))
    began = time.perf_counter()
    assert compare(a, a, 10_000).mean.known
    assert time.perf_counter() - began < 30  # 2 s on one idle core


@pytest.mark.parametrize(
    ("a", "b"), [((1, 3, 2), (1, 3, 2)), ((3, 3, 2), (4, 3, 2)), ((3, 3, 2), (3, 3, 3)), ((5, 2, 2),) * 2]
)
def test_counts_of_other_pictures_are_refused(a, b):
    with pytest.raises(ValueError, match="of the same pictures"):
        bootstrap.compare(np.ones(a, int), np.ones(b, int))


def test_zero_resamples_are_refused():
    with pytest.raises(ValueError, match="`resamples` must be at least 1"):
        compare(np.ones((3, 2, 2), int), np.ones((3, 2, 2), int), resamples=0)
