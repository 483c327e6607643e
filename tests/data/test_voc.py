import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from miniature import SPLITS, sample, write_palette_png, write_voc
from PIL import Image

from atrous.batch import IGNORE
from atrous.data.camvid import CamVid
from atrous.data.pairs import Pairs
from atrous.data.voc import VOC


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_voc(tmp_path)
    return tmp_path


def test_the_official_tree_is_read_by_its_lists(tmp_path):
    written = write_voc(tmp_path)
    voc = VOC(str(tmp_path), "train", "val")
    assert (voc.train, voc.val, len(voc.labels)) == ("train", "val", 21)
    for name, ids in SPLITS.items():
        split = voc.split(name)
        assert isinstance(split, Sequence)
        assert [s.name for s in split] == list(ids)
        for s in split:
            np.testing.assert_array_equal(s.label, written[s.name].label)
            assert s.image.shape == (*s.label.shape, 3)
            assert s.image.dtype == s.label.dtype == np.uint8
            assert abs(s.image.astype(int) - written[s.name].image).mean() < 12  # JPEG
            assert s.image.flags.writeable  # torch warns of arrays that aren't


def test_classes_and_colours_are_pascals():
    labels = VOC.labels
    assert (labels.names[0], labels.names[15], labels.names[20]) == ("background", "person", "tvmonitor")
    assert labels.palette[[1, 15, 20]].tolist() == [[128, 0, 0], [192, 128, 128], [0, 64, 128]]


def test_labels_are_read_as_indices_whatever_the_palette(root):
    path = root / "SegmentationClass" / f"{SPLITS['val'][0]}.png"
    with Image.open(path) as picture:
        indices = np.array(picture)
    Image.fromarray(indices).save(path)  # grey, no palette
    np.testing.assert_array_equal(VOC(str(root), "train", "val").split("val")[0].label, indices)
    small = Image.fromarray(np.minimum(indices, 3))
    small.putpalette([9, 9, 9, 8, 8, 8, 7, 7, 7, 6, 6, 6])
    small.save(path, bits=2)
    np.testing.assert_array_equal(VOC(str(root), "train", "val").split("val")[0].label, np.minimum(indices, 3))


@pytest.mark.parametrize("spelling", ["trainaug", "train_aug"])
@pytest.mark.parametrize("lists", ["ImageSets/Segmentation", "ImageSets/SegmentationAug"])
def test_trainaug_takes_its_labels_from_the_folder_of_added_ones(root, spelling, lists):
    added = {"trainaug": ("2007_000001", "2011_000009")}
    write_voc(root, {spelling: added["trainaug"]}, labels="SegmentationClassAug", lists=lists)
    write_palette_png(root / "SegmentationClassAug" / "2007_000004.png", np.full((51, 44), 20, np.uint8))
    voc = VOC(str(root), "trainaug", "val")
    assert [pair.label.parent.name for pair in voc.pairs("trainaug").pairs] == ["SegmentationClassAug"] * 2
    assert [s.name for s in voc.split(voc.train)] == list(added["trainaug"])
    # but scores are taken on the original labels
    assert [pair.label.parent.name for pair in voc.pairs("val").pairs] == ["SegmentationClass"] * 2


def test_the_authors_two_column_lists_are_read(root):
    lines = "".join(f"/JPEGImages/{i}.jpg /SegmentationClassAug/{i}.png\n" for i in SPLITS["train"])
    (root / "ImageSets" / "SegmentationAug").mkdir()
    (root / "ImageSets" / "SegmentationAug" / "train_aug.txt").write_text(lines)
    (root / "SegmentationClass").rename(root / "SegmentationClassAug")
    assert [s.name for s in VOC(str(root), "train", "val").split("trainaug")] == list(SPLITS["train"])


def test_nothing_is_read_before_it_is_asked_for(root):
    (root / "JPEGImages" / f"{SPLITS['train'][2]}.jpg").write_bytes(b"")
    split = VOC(str(root), "train", "val").split("train")
    assert len(split) == 3
    assert split[-2].name == SPLITS["train"][1]
    part = split[:2]
    assert isinstance(part, Pairs)
    assert [s.name for s in part] == list(SPLITS["train"][:2])
    assert pickle.loads(pickle.dumps(split))[0].name == SPLITS["train"][0]
    with pytest.raises(IndexError):
        split[3]


# ---------------------------------------------------------------- what users meet


def test_a_missing_folder_says_where_it_looked_how_to_get_it_and_how_to_point_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        VOC("data/VOCdevkit/VOC2012", "train", "val").split("val")
    message = str(caught.value)
    for part in (f"no voc at {tmp_path}/data/VOCdevkit/VOC2012", "VOCtrainval_11-May-2012.tar", "data.root="):
        assert part in message
    assert message.count("\n") < 5


def test_a_missing_list_names_those_that_are_there(root):
    with pytest.raises(FileNotFoundError, match=r"has no list trainaug\.txt .*there are: train, val\."):
        VOC(str(root), "train", "val").split("trainaug")


def test_an_empty_list_is_refused_by_its_path(root):
    (root / "ImageSets" / "Segmentation" / "train.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"train\.txt is empty"):
        VOC(str(root), "train", "val").split("train")


@pytest.mark.parametrize(("folder", "end"), [("JPEGImages", "jpg"), ("SegmentationClass", "png")])
def test_missing_files_are_counted_and_named_before_any_is_read(root, folder, end):
    (root / folder / f"{SPLITS['train'][1]}.{end}").unlink()
    with pytest.raises(
        FileNotFoundError, match=rf"1 of the 3 files .*{folder} are missing, .*{SPLITS['train'][1]}\.{end}"
    ):
        VOC(str(root), "train", "val").split("train")


@pytest.mark.parametrize(("folder", "end"), [("JPEGImages", "jpg"), ("SegmentationClass", "png")])
@pytest.mark.parametrize("kept", [0, 30, 0.6])
def test_an_unreadable_file_is_named(root, folder, end, kept):
    path = root / folder / f"{SPLITS['train'][0]}.{end}"
    whole = path.read_bytes()
    path.write_bytes(whole[: kept if isinstance(kept, int) else int(kept * len(whole))])
    with pytest.raises(ValueError, match=rf"{folder}/{SPLITS['train'][0]}\.{end} can't be read as a picture"):
        VOC(str(root), "train", "val").split("train")[0]


def test_a_label_of_another_size_than_its_picture_is_named_with_both(root):
    write_palette_png(root / "SegmentationClass" / f"{SPLITS['train'][0]}.png", np.zeros((40, 56), np.uint8))
    with pytest.raises(ValueError, match=rf"{SPLITS['train'][0]}\.jpg and .*\.png differ in size \(57x40 and 56x40\)"):
        VOC(str(root), "train", "val").split("train")[0]


@pytest.mark.parametrize("value", [21, 254])
def test_a_label_outside_the_classes_is_named_with_its_value_and_what_is_allowed(root, value):
    path = root / "SegmentationClass" / f"{SPLITS['train'][0]}.png"
    label = np.zeros((40, 57), np.uint8)
    label[0, 0], label[3, 4:6] = IGNORE, value
    write_palette_png(path, label)
    with pytest.raises(
        ValueError, match=rf"{path} holds the label {value} at 2 pixels: allowed are 0 to 20 .* and 255"
    ):
        VOC(str(root), "train", "val").split("train")[0]


def test_a_label_in_colours_is_refused(root):
    path = root / "SegmentationClass" / f"{SPLITS['train'][0]}.png"
    with Image.open(path) as picture:
        coloured = picture.convert("RGB")
    coloured.save(path)
    with pytest.raises(ValueError, match=rf"{path} is no label: it stores RGB, where class indices are wanted"):
        VOC(str(root), "train", "val").split("train")[0]


def test_a_grey_picture_becomes_three_channels(root):
    path = root / "JPEGImages" / f"{SPLITS['train'][0]}.jpg"
    Image.fromarray(np.full((40, 57), 90, np.uint8)).save(path)
    np.testing.assert_array_equal(VOC(str(root), "train", "val").split("train")[0].image, np.full((40, 57, 3), 90))


# ---------------------------------------------------------------- CamVid, the same layout


def test_camvid_is_the_same_layout_with_segnets_classes(tmp_path):
    written = write_voc(tmp_path, classes=11)
    camvid = CamVid(str(tmp_path), "train", "val")
    assert len(camvid.labels) == 11
    assert (camvid.labels.names[0], camvid.labels.names[10]) == ("sky", "bicyclist")
    for split in (camvid.train, camvid.val):
        for s in camvid.split(split):
            np.testing.assert_array_equal(s.label, written[s.name].label)


def test_camvid_refuses_segnets_own_void(tmp_path):
    write_voc(tmp_path, {"train": ["a"]}, classes=11)
    label = sample("a", (40, 57), 11).label
    label[0, 0] = 11
    write_palette_png(tmp_path / "SegmentationClass" / "a.png", label)
    with pytest.raises(ValueError, match="holds the label 11"):
        CamVid(str(tmp_path), "train", "val").split("train")[0]
