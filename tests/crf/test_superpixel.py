"""Superpixels: averages and majorities beside loops over the segments."""

import re

import numpy as np
import pytest
import torch

from atrous.batch import IGNORE
from atrous.crf import Superpixels, superpixel
from atrous.crf.superpixel import average, label_by_majority

QUADRANTS = torch.tensor([[0, 1], [2, 3]]).repeat_interleave(8, 0).repeat_interleave(10, 1)


def quadrants() -> torch.Tensor:
    """(1, 3, 16, 20): four flat colours."""
    colours = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250], [240, 240, 240]], dtype=torch.uint8)
    return colours[QUADRANTS].permute(2, 0, 1)[None]


def random_segments(H: int, W: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.arange(H * W) % count).reshape(H, W)


def test_the_average_is_that_of_a_loop_over_the_segments():
    segments, probs = random_segments(7, 9, 5), torch.rand(3, 7, 9, dtype=torch.float64)
    expected = probs.numpy().copy()
    for number in range(5):
        where = segments == number
        expected[:, where] = expected[:, where].mean(1, keepdims=True)
    np.testing.assert_allclose(average(probs, torch.from_numpy(segments)).numpy(), expected, atol=1e-12)


def test_flat_regions_are_the_superpixels_and_get_one_distribution_each(smooth):
    image, probs = quadrants(), smooth(1, 4, 16, 20)
    refiner = Superpixels(4)
    assert torch.equal(refiner.superpixels(image[0]), QUADRANTS)
    refined = refiner(image, probs)[0]
    for y, x in ((0, 0), (0, 10), (8, 0), (8, 10)):
        mean = probs[0, :, y : y + 8, x : x + 10].mean((1, 2))
        torch.testing.assert_close(refined[:, y : y + 8, x : x + 10], mean[:, None, None].expand(-1, 8, 10))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 12), (60, 80)])
def test_superpixels_are_numbered_without_gaps_and_have_about_the_number_asked_for(natural, size):
    numbers = Superpixels(50).superpixels(natural(1, *size)[0])
    assert numbers.shape == size
    assert torch.equal(numbers.unique(), torch.arange(int(numbers.max()) + 1))
    if size == (60, 80):
        assert 25 < len(numbers.unique()) < 100


def test_one_superpixel_gives_the_mean_of_the_picture(smooth):
    image, probs = torch.zeros(1, 3, 9, 12, dtype=torch.uint8), smooth(1, 3, 9, 12)
    torch.testing.assert_close(Superpixels(1)(image, probs), probs.mean((2, 3), keepdim=True).expand_as(probs))


# ---- the upper bound ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_the_majority_is_that_of_a_loop_over_the_segments_without_void(dtype):
    draw, segments = np.random.default_rng(0), random_segments(12, 15, 11)
    label = draw.choice([0, 1, 4, IGNORE], size=(12, 15))
    label[segments == 3] = IGNORE
    expected = np.empty_like(label)
    for number in range(11):
        classes, counts = np.unique(label[(segments == number) & (label != IGNORE)], return_counts=True)
        expected[segments == number] = classes[counts.argmax()] if len(classes) else IGNORE
    result = label_by_majority(torch.from_numpy(label).to(dtype), torch.from_numpy(segments))
    assert result.dtype == dtype
    assert (result.numpy() == expected).all()
    assert (expected == IGNORE).sum() == (segments == 3).sum()


def test_a_label_of_void_alone_stays_void():
    void = torch.full((3, 4), IGNORE, dtype=torch.uint8)
    assert torch.equal(label_by_majority(void, torch.arange(12).view(3, 4)), void)


def test_no_label_that_is_constant_in_the_superpixels_has_more_right_than_the_upper_bound(natural):
    draw, refiner, image = torch.Generator().manual_seed(0), Superpixels(12), natural(1, 20, 24)[0]
    label = torch.randint(0, 3, (20, 24), generator=draw)
    bound = refiner.upper_bound(image, label)
    numbers = refiner.superpixels(image)
    assert all(len(bound[numbers == number].unique()) == 1 for number in numbers.unique())
    for _ in range(50):
        other = torch.randint(0, 3, (int(numbers.max()) + 1,), generator=draw)[numbers]
        assert (other == label).sum() <= (bound == label).sum()


def test_the_upper_bound_is_the_truth_itself_where_that_follows_the_superpixels():
    label = torch.tensor([3, 0, IGNORE, 3], dtype=torch.uint8)[QUADRANTS]
    assert torch.equal(Superpixels(4).upper_bound(quadrants()[0], label), label)


# ---- what is refused ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"segments": 0}, "`segments` must be 1 or more"),
        ({"segments": 2.5}, "`segments` must be 1 or more, a whole number (got 2.5)"),
        ({"segments": 9, "compactness": 0}, "`compactness` must be positive (got 0)"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        Superpixels(**values)


def test_without_scikit_image_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(superpixel, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"scikit-image: pip install 'atrous\[superpixel\]'"):
        Superpixels(100)


def test_the_name_and_the_text_say_the_values():
    assert Superpixels(500, 2.5).name == "superpixels-500-2.5"
    assert Superpixels(500).text == "superpixels, 500 segments, compactness 10"
