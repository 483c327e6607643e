import numpy as np
import pytest

from atrous.batch import IGNORE, VOID, LabelSpace, Sample
from atrous.draw.colour import STRIPE
from atrous.draw.contact_sheet import contact_sheet

RGB = LabelSpace(["a", "b", "c"], np.array([(250, 0, 0), (0, 250, 0), (0, 0, 250)]))


def plain(size: tuple[int, int], value: int, name: str = "a name") -> Sample:
    return Sample(np.full((*size, 3), 90, np.uint8), np.full(size, value, np.uint8), name)


def count(picture: np.ndarray, rgb: tuple[int, ...]) -> int:
    return int((picture == rgb).all(axis=2).sum())


def pixels(picture: np.ndarray) -> set[tuple[int, ...]]:
    return {tuple(rgb) for rgb in picture.reshape(-1, 3).tolist()}


@pytest.mark.parametrize(("size", "shown"), [((240, 240), 240 * 240), ((480, 240), 240 * 120), ((1, 1), 240 * 240)])
def test_a_contact_sheet_shows_a_picture_and_its_label_over_it_at_one_size(size, shown):
    picture = contact_sheet([plain(size, 1)], RGB)
    assert picture.dtype == np.uint8
    assert shown <= count(picture, (90, 90, 90)) < shown + 50
    mixed = (36, 186, 36)  # 0.4 of the picture, 0.6 of (0, 250, 0)
    assert shown <= count(picture, mixed) < shown + 50


def test_void_is_hatched_on_a_contact_sheet_and_named_only_where_it_occurs():
    half = plain((200, 200), 2)
    half.label[:, 100:] = IGNORE
    picture = contact_sheet([half], RGB)
    assert count(picture, STRIPE) + count(picture, VOID) > 100 * 200
    assert 0.2 < count(picture, STRIPE) / (count(picture, STRIPE) + count(picture, VOID)) < 0.3
    without = contact_sheet([plain((200, 200), 2)], RGB)
    assert not {STRIPE, VOID} & pixels(without)


def test_a_contact_sheets_legend_has_the_colours_that_occur_in_any_picture_and_no_other():
    colours = pixels(contact_sheet([plain((9, 9), 0), plain((9, 9), 2)], RGB))
    assert {(250, 0, 0), (0, 0, 250)} <= colours
    assert (0, 250, 0) not in colours


def test_every_picture_of_a_contact_sheet_has_a_place_of_its_own_whatever_the_sizes():
    sizes = [(240, 240), (240, 100), (100, 240), (1, 240), (240, 1), (240, 240), (240, 240)]
    samples = [plain(size, 1) for size in sizes]
    area = sum(height * width for height, width in sizes)
    picture = contact_sheet(samples, RGB, title="a title")
    assert area <= count(picture, (90, 90, 90)) < area + 500  # and a few pixels at the edges of letters
    assert 1 < picture.shape[1] / picture.shape[0] < 2.5


def test_long_names_make_no_contact_sheet_wider_and_no_picture_smaller():
    labels = LabelSpace([f"class {k} {'of many words ' * 30}" for k in range(60)])
    sample = plain((240, 240), 0, "n" * 500)
    sample.label[:] = np.arange(240) // 4
    picture = contact_sheet([sample], labels, title="t" * 500)
    assert picture.shape[1] == contact_sheet([plain((240, 240), 1)], RGB).shape[1]
    assert picture.shape[0] > 240 + 60 * 15  # a line for each


def test_a_contact_sheet_of_nothing_is_refused():
    with pytest.raises(ValueError, match="`samples` must hold at least one picture"):
        contact_sheet([], RGB)
