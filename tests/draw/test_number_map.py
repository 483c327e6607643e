import numpy as np
import pytest

from atrous.draw.colour import PAPER, WRONG
from atrous.draw.number_map import CELL, GAP, HEADER, LARGEST, NumberMap, draw_number_maps


def draw_cells(values: np.ndarray, **options) -> np.ndarray:
    """The cells of one map without their lines: (H, W, CELL - 2, CELL - 2, 3)."""
    picture = draw_number_maps([NumberMap("title", "caption", values, **options)])
    height, width = values.shape
    top, left = GAP // 2 + HEADER, GAP
    grid = picture[top : top + height * CELL, left : left + width * CELL]
    return grid.reshape(height, CELL, width, CELL, 3).swapaxes(1, 2)[:, :, 2:-1, 2:-1]


def test_each_cell_shows_its_own_number():
    values = np.array([[1, 2, 3], [4, 2, 9]])
    cells = draw_cells(values)
    for i, place in enumerate(np.ndindex(values.shape)):
        for other in [*np.ndindex(values.shape)][:i]:
            assert np.array_equal(cells[place], cells[other]) == (values[place] == values[other])
    moved = draw_cells(values[:, ::-1])
    np.testing.assert_array_equal(moved, cells[:, ::-1])


def test_a_cell_is_the_darker_the_larger_its_value():
    cells = draw_cells(np.array([[0, 1, 2]]))
    corners = cells[0, :, 0, 0].tolist()
    assert corners[0] == [*PAPER]
    assert corners[2] == [*LARGEST]
    assert np.abs(np.array(corners[1]) - np.add(PAPER, LARGEST) / 2).max() <= 0.5


def test_a_map_of_zeros_is_white():
    assert (draw_cells(np.zeros((2, 2)))[:, :, 0, 0] == PAPER).all()


def test_only_what_is_to_be_framed_is():
    framed = np.array([[True, False], [False, True]])
    cells = draw_cells(np.array([[1, 2], [3, 4]]), framed=framed)
    np.testing.assert_array_equal((cells == WRONG).all(-1).any((-1, -2)), framed)


def test_fractions_are_drawn_to_two_places_and_fit_their_cells():
    exact, near, other = (draw_cells(np.array([[value]])) for value in (10.25, 10.251, 10.26))
    np.testing.assert_array_equal(exact, near)
    assert (exact != other).any()


@pytest.mark.parametrize("value", [8, 88, 888, 8888, 8.25, 88.25, 888.25])
def test_every_number_fits_its_cell(value):
    (cell,) = draw_cells(np.array([[value]]))[0]
    assert (cell[:, [0, -1]] == LARGEST).all()
    assert (cell != LARGEST).any()


def test_maps_of_different_sizes_lie_beside_and_below_each_other():
    sizes = [(2, 3), (4, 1), (1, 5)]
    picture = draw_number_maps([NumberMap("", "", np.full(size, 1)) for size in sizes], columns=2)
    assert picture.shape == (2 * (HEADER + GAP) + (4 + 1) * CELL + GAP // 2, 2 * (5 * CELL + GAP) + GAP, 3)
    assert (picture == LARGEST).all(2).sum() > 0.6 * CELL**2 * sum(height * width for height, width in sizes)


def test_no_maps_are_refused():
    with pytest.raises(ValueError, match=r"`maps` must hold at least one map \(got none\)"):
        draw_number_maps([])
