import numpy as np
import pytest

from atrous.batch import IGNORE, VOID, LabelSpace
from atrous.draw.colour import MENDED, WRONG
from atrous.draw.legend import legend_entries
from atrous.draw.sheet import PictureRow, Tile, grid, panel, sheet

LABELS = LabelSpace(["ground", "disc", "ring"])
LABEL = np.array([[0, 1], [2, IGNORE]], np.uint8)
# PASCAL's first three colours and its void, as printed in its development kit.
COLOURS = np.array([[(0, 0, 0), (128, 0, 0)], [(0, 128, 0), (224, 224, 192)]], np.uint8)
RGB = LabelSpace(["a", "b", "c"], np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)]))


def pixels(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(rgb) for rgb in picture.reshape(-1, 3).tolist()}


@pytest.mark.parametrize(("size", "shown"), [((129, 129), (258, 258)), ((1, 1), (320, 320)), ((375, 500), (240, 320))])
def test_a_panel_shows_five_tiles_of_legible_size(size, shown):
    label = np.zeros(size, np.uint8)
    image = np.full((*size, 3), 90, np.uint8)
    picture = panel(image, label, label, label, labels=LABELS)
    assert picture.dtype == np.uint8
    assert picture.shape[0] > shown[0]
    assert 5 * shown[1] < picture.shape[1] < 5.4 * shown[1]
    assert (picture == 90).all(axis=2).sum() >= shown[0] * shown[1]


def test_small_labels_are_enlarged_without_inventing_colours():
    label = np.random.default_rng(0).integers(0, 3, (65, 65)).astype(np.uint8)
    labels = LabelSpace(["a", "b", "c"], np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)]))
    picture = panel(np.zeros((65, 65, 3), np.uint8), label, label, labels=labels)
    factor = 5  # 65 to 325
    for k, rgb in enumerate(labels.palette):
        shown = (picture == rgb).all(axis=2).sum()
        in_truth_and_prediction = 2 * factor**2 * (label == k).sum()
        assert in_truth_and_prediction < shown < in_truth_and_prediction + 500  # and its patch in the legend


def test_the_legend_names_what_occurs_and_nothing_else():
    labels = LabelSpace(["a", "b", "c"], np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)]))
    label = np.array([[0, 0]], np.uint8)
    colours = pixels(panel(np.zeros((1, 2, 3), np.uint8), label, label + 2, labels=labels))
    assert {(250, 0, 0), (0, 0, 250)} <= colours
    assert not {(0, 250, 0), VOID, MENDED} & colours


def test_without_a_label_there_is_neither_truth_nor_error():
    image, label = np.full((40, 40, 3), 90, np.uint8), np.zeros((40, 40), np.uint8)
    full = panel(image, label, label, labels=LABELS)
    bare = panel(image, None, label, labels=LABELS)
    assert bare.shape[1] < 0.6 * full.shape[1]
    assert WRONG not in pixels(bare)


def test_a_sheet_stacks_pictures_of_any_size_under_one_legend():
    def row(height, width, refined):
        label = np.zeros((height, width), np.uint8)
        return PictureRow(np.full((height, width, 3), 90, np.uint8), label, label, label if refined else None, "a name")

    one = sheet([row(129, 129, True)], LABELS)
    three = sheet([row(129, 129, True), row(129, 100, False), row(200, 129, True)], LABELS)
    assert three.shape[1] == one.shape[1]
    assert one.shape[0] + 2 * 258 < three.shape[0] < one.shape[0] + 258 + 2 * 200 + 100
    with pytest.raises(ValueError, match="`rows` must hold at least one picture"):
        sheet([], LABELS)


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (6, (2, 3))])
def test_a_grid_holds_every_tile_with_its_title_above_one_legend(count, shape):
    rgb = [(40 * k + 10, 0, 250) for k in range(count)]
    tiles = [Tile(np.full((60, 80, 3), colour, np.uint8), False, f"title {colour}") for colour in rgb]
    picture = grid(tiles, legend_entries([LABEL], LABELS), tile=160)
    places = [np.argwhere((picture == colour).all(2)) for colour in rgb]
    assert [len(place) for place in places] == [120 * 160] * count  # doubled, whole
    corners = [tuple(place.min(0)) for place in places]
    assert (len({top for top, _ in corners}), len({left for _, left in corners})) == shape
    bottom = max(place.max() for place in (p[:, 0] for p in places))
    assert all((picture[bottom:] == colour).all(2).any() for colour in COLOURS.reshape(-1, 3))


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`tiles`"):
        grid([], [])
