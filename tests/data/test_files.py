"""The base of datasets of files, and how one picture and one label are read."""

import inspect
import io

import numpy as np
import pytest
from hydra.utils import get_object
from PIL import Image

from atrous.batch import IGNORE, LabelSpace
from atrous.config.override import composed
from atrous.config.place import CONF
from atrous.data.files import Files, Published, missing_files
from atrous.data.image import Unreadable, Values, read_image, read_label, spans


def photo(seed: int = 0, size: tuple[int, int] = (37, 51)) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


def write(path, image: Image.Image, **how):
    image.save(path, **how)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("how", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}])
def test_jpegs_come_out_as_pil_decodes_them(mode, how, tmp_path):
    for size in ((37, 51), (1, 1), (8, 640)):
        path = write(tmp_path / "a.jpg", Image.fromarray(photo(size=size)).convert(mode), **how)
        with Image.open(path) as picture:
            expected = np.array(picture.convert("RGB"))
        image = read_image(path)
        np.testing.assert_array_equal(image, expected)
        assert image.flags.writeable
        assert image.dtype == np.uint8


def test_png_pictures_of_any_kind_become_rgb(tmp_path):
    rgb = photo()
    for mode in ("RGB", "RGBA", "L", "P"):
        picture = Image.fromarray(rgb).convert(mode)
        expected = np.array(picture.convert("RGB"))
        np.testing.assert_array_equal(read_image(write(tmp_path / "a.png", picture)), expected)
    deep = np.arange(0, 65536, 64).astype(np.uint16).reshape(32, 32)
    shallow = read_image(write(tmp_path / "deep.png", Image.fromarray(deep)))
    np.testing.assert_array_equal(shallow, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_a_camera_s_note_on_how_to_turn_a_picture_is_not_followed(tmp_path):
    picture = Image.fromarray(photo())
    exif = picture.getexif()
    exif[0x0112] = 6
    assert read_image(write(tmp_path / "a.jpg", picture, exif=exif)).shape == (37, 51, 3)


def test_a_broken_picture_never_passes_for_a_whole_one(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(photo(size=(200, 300))).save(buffer, "jpeg")
    whole = buffer.getvalue()
    half = len(whole) // 2
    broken = [
        b"",
        whole[:100],
        whole[:half],
        whole[:-2],
        whole[:half] + bytes(60) + whole[half + 60 :],
        b"\xff\xd8junk",
    ]
    for content in broken:
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(Unreadable, match=r"a\.jpg can't be read as a picture"):
            read_image(tmp_path / "a.jpg")


LABELS = LabelSpace(["a", "b", "c"])


def test_values_say_what_is_stored_means(tmp_path):
    stored = np.array([[7, 9, 0], [200, 7, 255]], np.uint8)
    path = write(tmp_path / "a.png", Image.fromarray(stored))
    values = Values({7: 0, 9: 2, 200: 1, 0: IGNORE, 255: IGNORE}, LABELS)
    np.testing.assert_array_equal(read_label(path, values), [[0, 2, IGNORE], [1, 0, IGNORE]])
    with pytest.raises(
        ValueError, match=r"a\.png holds the label 200 at 1 pixels: allowed are 7, 9 \(a … c\) and 0, 255"
    ):
        read_label(path, Values({7: 0, 9: 2, 0: IGNORE, 255: IGNORE}, LABELS))


@pytest.mark.parametrize("classes", [1, 2, 21, 254, 255])
def test_exactly_the_classes_and_void_are_let_through(classes, tmp_path):
    values = Values.plain(LabelSpace([str(i) for i in range(classes)]))
    for value in range(256):
        stored = np.array([[0, value]], np.uint8)
        if value < classes or value == IGNORE:
            np.testing.assert_array_equal(values(stored, tmp_path), stored)
        else:
            with pytest.raises(ValueError, match=f"holds the label {value} at 1 pixels"):
                values(stored, tmp_path)


def test_a_label_of_ones_and_zeros_is_one(tmp_path):
    path = write(tmp_path / "a.png", Image.fromarray(np.array([[True, False]])))
    assert read_label(path, Values.plain(LABELS)).tolist() == [[1, 0]]


def test_spans():
    assert spans([0, 1, 2, 5, 7, 8]) == "0 to 2, 5, 7 to 8"
    assert spans([3]) == "3"


def test_files_are_looked_for_in_any_folder(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a").touch()
    wanted = [tmp_path / "x" / "a", tmp_path / "x" / "b", tmp_path / "y" / "a"]
    assert missing_files(wanted) == wanted[1:]


def test_a_list_differs_from_the_published_one_in_its_length_or_in_its_names():
    assert Published(2, "dd8c6a395b5dd36c56d23275028f526c").difference(["b", "a"]) is None  # printf 'a\nb\n' | md5sum
    assert Published(2, "dd8c6a395b5dd36c56d23275028f526c").difference(["b", "c"]) is not None
    assert Published(2).difference(["b", "c"]) is None
    assert Published(1464).difference(["b", "a"]) == "2 pictures, 1,464 are published"


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "data").glob("[!_]*.yaml")))
def test_a_shipped_configuration_holds_each_argument_of_its_dataset(name):
    """Only what is in a configuration can be set on the command line."""
    node = dict(composed("config", ("experiment=shapes", f"data={name}")).data)
    dataset = get_object(node.pop("_target_"))
    arguments = {*inspect.signature(dataset).parameters}
    if "files" in arguments:  # passed on to `Files`
        arguments = arguments - {"files"} | {*inspect.signature(Files).parameters}
    assert {*node} == arguments
