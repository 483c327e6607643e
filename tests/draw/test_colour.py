import numpy as np
import pytest

from atrous.batch import IGNORE, LabelSpace
from atrous.draw.colour import MENDED, SPOILT, UNCOUNTED, WRONG, colour, errors, overlay

LABELS = LabelSpace(["ground", "disc", "ring"])
LABEL = np.array([[0, 1], [2, IGNORE]], np.uint8)
# PASCAL's first three colours and its void, as printed in its development kit.
COLOURS = np.array([[(0, 0, 0), (128, 0, 0)], [(0, 128, 0), (224, 224, 192)]], np.uint8)


def test_a_label_in_pascals_colours():
    np.testing.assert_array_equal(colour(LABEL, LABELS.palette), COLOURS)
    np.testing.assert_array_equal(colour(LABEL.astype(np.int64), LABELS.palette), COLOURS)


@pytest.mark.parametrize("value", [3, 254])
def test_a_label_without_a_colour_is_refused_by_its_value(value):
    with pytest.raises(ValueError, match=rf"`label` holds {value}: it must be 0 to 2, or 255 for void"):
        colour(np.array([[0, value]], np.uint8), LABELS.palette)


def test_overlay_runs_from_the_picture_to_the_label():
    image = np.random.default_rng(0).integers(0, 256, (2, 2, 3), np.uint8)
    np.testing.assert_array_equal(overlay(image, LABEL, LABELS.palette, 0.0), image)
    np.testing.assert_array_equal(overlay(image, LABEL, LABELS.palette, 1.0), COLOURS)
    halfway = (image.astype(float) + COLOURS) / 2
    assert abs(overlay(image, LABEL, LABELS.palette, 0.5) - halfway).max() <= 0.5


@pytest.mark.parametrize("alpha", [0.3, 0.37, 0.5, 0.85])
def test_overlay_is_the_mix_rounded_to_even_for_each_value_under_each_colour(alpha):
    image = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 4, 1).repeat(3, 2)
    label = np.tile(np.array([0, 1, 2, IGNORE]), (256, 1))
    mixed = (1 - alpha) * image + alpha * colour(label, LABELS.palette)
    for kind in (np.uint8, np.int64):
        drawn = overlay(image, label.astype(kind), LABELS.palette, alpha)
        assert drawn.dtype == np.uint8
        np.testing.assert_array_equal(drawn, np.rint(mixed))


def test_overlay_refuses_a_label_without_a_colour():
    with pytest.raises(ValueError, match="`label` holds 3: it must be 0 to 2"):
        overlay(np.zeros((1, 1, 3), np.uint8), np.array([[3]], np.uint8), LABELS.palette)


def test_errors_tell_each_kind_of_pixel_apart():
    #                 right wrong mended spoilt void
    label = np.array([[1, 1, 1, 1, IGNORE]], np.uint8)
    prediction = np.array([[1, 0, 0, 1, 0]])
    refined = np.array([[1, 2, 1, 0, 1]])
    right, wrong, mended, spoilt, void = errors(prediction, label, refined)[0].tolist()
    assert [wrong, mended, spoilt, void] == [list(rgb) for rgb in (WRONG, MENDED, SPOILT, UNCOUNTED)]
    assert max(right) < 0.5 * min(sum(rgb) / 3 for rgb in (wrong, mended, spoilt))
    before = errors(prediction, label)[0].tolist()
    assert before == [right, wrong, wrong, right, void]


def test_kinds_of_error_differ_in_brightness_so_that_no_colour_vision_is_needed():
    luma = np.array([WRONG, UNCOUNTED, MENDED, SPOILT]) @ [0.299, 0.587, 0.114]
    assert (np.diff(np.sort(luma)) > 5).all()
    brightest_right_pixel = errors(LABEL, LABEL, image=np.full((2, 2, 3), 255, np.uint8))[0, 0].max()
    assert brightest_right_pixel < luma.min() - 20
