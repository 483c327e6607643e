import numpy as np
import pytest
from PIL import Image

from atrous.batch import IGNORE, VOID, LabelSpace, Sample
from atrous.draw import picture as draw

LABELS = LabelSpace(["ground", "disc", "ring"])
LABEL = np.array([[0, 1], [2, IGNORE]], np.uint8)
# PASCAL's first three colours and its void, as printed in its development kit.
COLOURS = np.array([[(0, 0, 0), (128, 0, 0)], [(0, 128, 0), (224, 224, 192)]], np.uint8)


def pixels(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(rgb) for rgb in picture.reshape(-1, 3).tolist()}


def test_a_label_in_pascals_colours():
    np.testing.assert_array_equal(draw.colour(LABEL, LABELS.palette), COLOURS)
    np.testing.assert_array_equal(draw.colour(LABEL.astype(np.int64), LABELS.palette), COLOURS)


@pytest.mark.parametrize("value", [3, 254])
def test_a_label_without_a_colour_is_refused_by_its_value(value):
    with pytest.raises(ValueError, match=rf"`label` holds {value}: it must be 0 to 2, or 255 for void"):
        draw.colour(np.array([[0, value]], np.uint8), LABELS.palette)


def test_overlay_runs_from_the_picture_to_the_label():
    image = np.random.default_rng(0).integers(0, 256, (2, 2, 3), np.uint8)
    np.testing.assert_array_equal(draw.overlay(image, LABEL, LABELS.palette, 0.0), image)
    np.testing.assert_array_equal(draw.overlay(image, LABEL, LABELS.palette, 1.0), COLOURS)
    halfway = (image.astype(float) + COLOURS) / 2
    assert abs(draw.overlay(image, LABEL, LABELS.palette, 0.5) - halfway).max() <= 0.5


@pytest.mark.parametrize("alpha", [0.3, 0.37, 0.5, 0.85])
def test_overlay_is_the_mix_rounded_to_even_for_each_value_under_each_colour(alpha):
    image = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 4, 1).repeat(3, 2)
    label = np.tile(np.array([0, 1, 2, IGNORE]), (256, 1))
    mixed = (1 - alpha) * image + alpha * draw.colour(label, LABELS.palette)
    for kind in (np.uint8, np.int64):
        drawn = draw.overlay(image, label.astype(kind), LABELS.palette, alpha)
        assert drawn.dtype == np.uint8
        np.testing.assert_array_equal(drawn, np.rint(mixed))


def test_overlay_refuses_a_label_without_a_colour():
    with pytest.raises(ValueError, match="`label` holds 3: it must be 0 to 2"):
        draw.overlay(np.zeros((1, 1, 3), np.uint8), np.array([[3]], np.uint8), LABELS.palette)


def test_errors_tell_each_kind_of_pixel_apart():
    #                 right wrong mended spoilt void
    label = np.array([[1, 1, 1, 1, IGNORE]], np.uint8)
    prediction = np.array([[1, 0, 0, 1, 0]])
    refined = np.array([[1, 2, 1, 0, 1]])
    right, wrong, mended, spoilt, void = draw.errors(prediction, label, refined)[0].tolist()
    assert [wrong, mended, spoilt, void] == [
        list(rgb) for rgb in (draw.WRONG, draw.MENDED, draw.SPOILT, draw.UNCOUNTED)
    ]
    assert max(right) < 0.5 * min(sum(rgb) / 3 for rgb in (wrong, mended, spoilt))
    before = draw.errors(prediction, label)[0].tolist()
    assert before == [right, wrong, wrong, right, void]


def test_kinds_of_error_differ_in_brightness_so_that_no_colour_vision_is_needed():
    luma = np.array([draw.WRONG, draw.UNCOUNTED, draw.MENDED, draw.SPOILT]) @ [0.299, 0.587, 0.114]
    assert (np.diff(np.sort(luma)) > 5).all()
    brightest_right_pixel = draw.errors(LABEL, LABEL, image=np.full((2, 2, 3), 255, np.uint8))[0, 0].max()
    assert brightest_right_pixel < luma.min() - 20


@pytest.mark.parametrize(("size", "shown"), [((129, 129), (258, 258)), ((1, 1), (320, 320)), ((375, 500), (240, 320))])
def test_a_panel_shows_five_tiles_of_legible_size(size, shown):
    label = np.zeros(size, np.uint8)
    image = np.full((*size, 3), 90, np.uint8)
    picture = draw.panel(image, label, label, label, labels=LABELS)
    assert picture.dtype == np.uint8
    assert picture.shape[0] > shown[0]
    assert 5 * shown[1] < picture.shape[1] < 5.4 * shown[1]
    assert (picture == 90).all(axis=2).sum() >= shown[0] * shown[1]


def test_small_labels_are_enlarged_without_inventing_colours():
    label = np.random.default_rng(0).integers(0, 3, (65, 65)).astype(np.uint8)
    labels = LabelSpace(["a", "b", "c"], np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)]))
    picture = draw.panel(np.zeros((65, 65, 3), np.uint8), label, label, labels=labels)
    factor = 5  # 65 to 325
    for k, rgb in enumerate(labels.palette):
        shown = (picture == rgb).all(axis=2).sum()
        in_truth_and_prediction = 2 * factor**2 * (label == k).sum()
        assert in_truth_and_prediction < shown < in_truth_and_prediction + 500  # and its patch in the legend


def test_the_legend_names_what_occurs_and_nothing_else():
    labels = LabelSpace(["a", "b", "c"], np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)]))
    label = np.array([[0, 0]], np.uint8)
    seen = pixels(draw.panel(np.zeros((1, 2, 3), np.uint8), label, label + 2, labels=labels))
    assert {(250, 0, 0), (0, 0, 250)} <= seen
    assert not {(0, 250, 0), VOID, draw.MENDED} & seen


def test_without_a_label_there_is_neither_truth_nor_error():
    image, label = np.full((40, 40, 3), 90, np.uint8), np.zeros((40, 40), np.uint8)
    full = draw.panel(image, label, label, labels=LABELS)
    bare = draw.panel(image, None, label, labels=LABELS)
    assert bare.shape[1] < 0.6 * full.shape[1]
    assert draw.WRONG not in pixels(bare)


def test_a_sheet_stacks_pictures_of_any_size_under_one_legend():
    def row(height, width, refined):
        label = np.zeros((height, width), np.uint8)
        return draw.Row(np.full((height, width, 3), 90, np.uint8), label, label, label if refined else None, "a name")

    one = draw.sheet([row(129, 129, True)], LABELS)
    three = draw.sheet([row(129, 129, True), row(129, 100, False), row(200, 129, True)], LABELS)
    assert three.shape[1] == one.shape[1]
    assert one.shape[0] + 2 * 258 < three.shape[0] < one.shape[0] + 258 + 2 * 200 + 100
    with pytest.raises(ValueError, match="`rows` must hold at least one picture"):
        draw.sheet([], LABELS)


RGB = LabelSpace(["a", "b", "c"], np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)]))


def plain(size: tuple[int, int], value: int, name: str = "a name") -> Sample:
    return Sample(np.full((*size, 3), 90, np.uint8), np.full(size, value, np.uint8), name)


def count(picture: np.ndarray, rgb: tuple[int, ...]) -> int:
    return int((picture == rgb).all(axis=2).sum())


@pytest.mark.parametrize(("size", "shown"), [((240, 240), 240 * 240), ((480, 240), 240 * 120), ((1, 1), 240 * 240)])
def test_a_contact_sheet_shows_a_picture_and_its_label_over_it_at_one_size(size, shown):
    picture = draw.contact_sheet([plain(size, 1)], RGB)
    assert picture.dtype == np.uint8
    assert shown <= count(picture, (90, 90, 90)) < shown + 50
    mixed = (36, 186, 36)  # 0.4 of the picture, 0.6 of (0, 250, 0)
    assert shown <= count(picture, mixed) < shown + 50


def test_void_is_hatched_on_a_contact_sheet_and_named_only_where_it_occurs():
    half = plain((200, 200), 2)
    half.label[:, 100:] = IGNORE
    seen = draw.contact_sheet([half], RGB)
    assert count(seen, draw.STRIPE) + count(seen, VOID) > 100 * 200
    assert 0.2 < count(seen, draw.STRIPE) / (count(seen, draw.STRIPE) + count(seen, VOID)) < 0.3
    without = draw.contact_sheet([plain((200, 200), 2)], RGB)
    assert not {draw.STRIPE, VOID} & pixels(without)


def test_a_contact_sheets_legend_has_the_colours_that_occur_in_any_picture_and_no_other():
    seen = pixels(draw.contact_sheet([plain((9, 9), 0), plain((9, 9), 2)], RGB))
    assert {(250, 0, 0), (0, 0, 250)} <= seen
    assert (0, 250, 0) not in seen


def test_every_picture_of_a_contact_sheet_has_a_place_of_its_own_whatever_the_sizes():
    sizes = [(240, 240), (240, 100), (100, 240), (1, 240), (240, 1), (240, 240), (240, 240)]
    samples = [plain(size, 1) for size in sizes]
    area = sum(height * width for height, width in sizes)
    picture = draw.contact_sheet(samples, RGB, title="a title")
    assert area <= count(picture, (90, 90, 90)) < area + 500  # and a few pixels at the edges of letters
    assert 1 < picture.shape[1] / picture.shape[0] < 2.5


def test_long_names_make_no_contact_sheet_wider_and_no_picture_smaller():
    labels = LabelSpace([f"class {k} {'of many words ' * 30}" for k in range(60)])
    sample = plain((240, 240), 0, "n" * 500)
    sample.label[:] = np.arange(240) // 4
    picture = draw.contact_sheet([sample], labels, title="t" * 500)
    assert picture.shape[1] == draw.contact_sheet([plain((240, 240), 1)], RGB).shape[1]
    assert picture.shape[0] > 240 + 60 * 15  # a line for each


def test_a_contact_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`samples` must hold at least one picture"):
        draw.contact_sheet([], RGB)


def test_an_index_png_keeps_the_indices_and_opens_in_the_right_colours(tmp_path):
    draw.save_index(tmp_path / "a.png", LABEL, LABELS.palette)
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.array(picture), LABEL)
        np.testing.assert_array_equal(np.array(picture.convert("RGB")), COLOURS)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_interrupted_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    draw.save(tmp_path / "a.png", COLOURS)
    old = (tmp_path / "a.png").read_bytes()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)  # the new file is written, but not yet in the old one's place
    with pytest.raises(KeyboardInterrupt):
        draw.save(tmp_path / "a.png", 255 - COLOURS)
    assert (tmp_path / "a.png").read_bytes() == old
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(("count", "shape"), [(1, (1, 1)), (2, (1, 2)), (6, (2, 3))])
def test_a_grid_holds_every_tile_with_its_title_above_one_legend(count, shape):
    rgb = [(40 * k + 10, 0, 250) for k in range(count)]
    tiles = [draw.Tile(np.full((60, 80, 3), colour, np.uint8), False, f"title {colour}") for colour in rgb]
    grid = draw.grid(tiles, draw.occurring([LABEL], LABELS), tile=160)
    places = [np.argwhere((grid == colour).all(2)) for colour in rgb]
    assert [len(place) for place in places] == [120 * 160] * count  # doubled, whole
    corners = [tuple(place.min(0)) for place in places]
    assert (len({top for top, _ in corners}), len({left for _, left in corners})) == shape
    bottom = max(place.max() for place in (p[:, 0] for p in places))
    assert all((grid[bottom:] == colour).all(2).any() for colour in COLOURS.reshape(-1, 3))


def test_a_grid_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`tiles`"):
        draw.grid([], [])
