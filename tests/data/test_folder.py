"""Own pictures: a folder of pictures, a folder of labels, one YAML file."""

from pathlib import Path

import numpy as np
import pytest
from miniature import write_palette_png
from PIL import Image

from atrous.batch import IGNORE
from atrous.data.folder import Folder

NAMES = ("soil", "leaf", "fruit")
RGB = {"soil": (90, 60, 30), "leaf": (0, 160, 0), "fruit": (250, 0, 0)}


def label_of(k: int) -> np.ndarray:
    label = np.random.default_rng(k).integers(0, 3, (6 + k % 3, 9)).astype(np.uint8)
    label[0, :2] = IGNORE
    return label


def open_folder(root: Path) -> Folder:
    return Folder(root=str(root), train="train", val="val", file="dataset.yaml")


def write(root: Path, settings: str, kind: str = "index", names: tuple[str, ...] = tuple("abcdefghij")) -> Path:
    for k, name in enumerate(names):
        label = label_of(k)
        picture = np.repeat(label[..., None], 3, axis=2)
        image, mask = root / "images" / f"{name}.jpg", root / "labels" / f"{name}.png"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(image)
        if kind == "palette":
            write_palette_png(mask, label)
        elif kind == "colour":
            table = np.zeros((256, 3), np.uint8)
            table[:3], table[IGNORE] = list(RGB.values()), (255, 255, 255)
            Image.fromarray(table[label]).save(mask)
        elif kind == "values":
            values = np.zeros(256, np.uint8)
            values[:3], values[IGNORE] = (10, 20, 30), 0
            Image.fromarray(values[label]).save(mask)
        else:
            Image.fromarray(label).save(mask)
    (root / "dataset.yaml").write_text(settings)
    return root


KINDS = {
    "index": "names: [soil, leaf, fruit]",
    "palette": "names: [soil, leaf, fruit]",
    "values": "names: {soil: 10, leaf: 20, fruit: 30}\nignore: 0",
    "colour": (
        "names: [soil, leaf, fruit]\nignore: [255, 255, 255]\n"
        "colours: {soil: [90, 60, 30], leaf: [0, 160, 0], fruit: [250, 0, 0]}"
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_label_is_read(kind, tmp_path):
    folder = open_folder(write(tmp_path, KINDS[kind], kind))
    assert folder.labels.names == NAMES
    samples = [*folder.split("train"), *folder.split("val")]
    assert sorted(s.name for s in samples) == list("abcdefghij")
    for s in samples:
        np.testing.assert_array_equal(s.label, label_of("abcdefghij".index(s.name)))


def test_colours_are_also_those_of_the_pictures_drawn(tmp_path):
    folder = open_folder(write(tmp_path, KINDS["colour"], "colour"))
    assert folder.labels.palette.tolist() == [list(rgb) for rgb in RGB.values()]


def test_an_unknown_colour_is_named_with_its_file(tmp_path):
    root = write(tmp_path, KINDS["colour"], "colour")
    Image.fromarray(np.full((6, 9, 3), (1, 2, 3), np.uint8)).save(root / "labels/a.png")
    folder = open_folder(root)
    with pytest.raises(ValueError, match=r"a\.png holds the colour \[1, 2, 3\] at 54 pixels"):
        list(folder.split("train+val"))


def test_a_fraction_is_held_out_by_the_names_alone(tmp_path):
    names = tuple(f"{k:03}" for k in range(50))
    root = write(tmp_path, "names: [soil, leaf, fruit]\nval_fraction: 0.3", names=names)
    val = {s.name for s in open_folder(root).split("val")}
    train = {s.name for s in open_folder(root).split("train")}
    assert len(val) == 15
    assert not val & train
    assert val | train == set(names)
    write(root, "names: [soil, leaf, fruit]\nval_fraction: 0.3", names=(*names, "x", "y"))
    assert len(val - {s.name for s in open_folder(root).split("val")}) <= 2  # two more move at most two


def test_folders_of_splits_are_found_by_themselves(tmp_path):
    write(tmp_path, "names: [soil, leaf, fruit]", names=("train/a", "train/deep/b", "val/a"))
    folder = open_folder(tmp_path)
    assert [s.name for s in folder.split("train")] == ["train/a", "train/deep/b"]
    assert [s.name for s in folder.split("val")] == ["val/a"]


def test_lists_are_followed_with_suffixes_or_without(tmp_path):
    write(tmp_path, "names: [soil, leaf, fruit]\nsplits: {train: lists/t.txt, val: v.txt}")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists/t.txt").write_text("c.jpg\na\n\n")
    folder = open_folder(tmp_path)
    assert [s.name for s in folder.split("train")] == ["c", "a"]
    with pytest.raises(FileNotFoundError, match=r"no .*v\.txt, which .* names as the split val"):
        folder.split("val")
    (tmp_path / "lists/t.txt").write_text("zz\n")
    with pytest.raises(FileNotFoundError, match="there is no picture zz in"):
        folder.split("train")


def test_other_folders_may_be_named(tmp_path):
    write(tmp_path, "names: [soil, leaf, fruit]\nimages: photos\nlabels: masks")
    (tmp_path / "images").rename(tmp_path / "photos")
    (tmp_path / "labels").rename(tmp_path / "masks")
    assert len(open_folder(tmp_path).split("train+val")) == 10


def test_pictures_without_a_label_are_counted_and_named(tmp_path):
    root = write(tmp_path, "names: [soil, leaf, fruit]")
    (root / "labels/c.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 10 files .*labels are missing, the first is c\.png"):
        open_folder(root).split("train+val")


def test_two_pictures_of_one_name_are_refused(tmp_path):
    root = write(tmp_path, "names: [soil, leaf, fruit]")
    Image.fromarray(np.zeros((6, 9, 3), np.uint8)).save(root / "images/a.png")
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png have one name"):
        open_folder(root).split("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("names: []", "must hold the names of the classes"),
        ("- a\n- b", "must hold the names of the classes"),
        ("names: [a\n", "is no YAML"),
        ("names: [a, b, a]", "`names` has 'a' twice"),
        ("names: {a: 1, b: 1}", "`names` has 1 twice"),
        ("names: {a: [1, 2, 3]}", "their colours go under `colours`"),
        ("names: {a: 300}", "0 to 255"),
        ("names: [a]\ncolors: {a: [0, 0, 0]}", "holds `colors`; did you mean colours"),
        ("names: [a]\ncolours: {b: [0, 0, 0]}", "`colours` has b, which `names` has not"),
        ("names: [a]\ncolours: {a: [0, 0, 256]}", r"a colour is \[R, G, B\]"),
        ("names: [a]\nval_fraction: 2.0", "`val_fraction` must be between 0 and 1"),
        ("names: [a]\nignore: void", "`ignore` is a value, a colour"),
    ],
)
def test_a_wrong_yaml_file_is_refused(settings, message, tmp_path):
    (tmp_path / "dataset.yaml").write_text(settings)
    with pytest.raises(ValueError, match=message):
        open_folder(tmp_path)


def test_a_missing_yaml_file_says_what_it_must_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"dataset\.yaml: data\.root=… names the folder.*\n.*names: \["):
        open_folder(tmp_path)


def test_a_label_in_colours_without_colours_says_what_is_wanted(tmp_path):
    root = write(tmp_path, "names: [soil, leaf, fruit]", "colour")
    with pytest.raises(ValueError, match="stores RGB, where class indices are wanted"):
        list(open_folder(root).split("train+val"))
