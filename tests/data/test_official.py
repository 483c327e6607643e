"""Each dataset, from its official archives to its samples, against answers made by hand."""

from pathlib import Path

import numpy as np
import pytest
from miniature import (
    ADDED,
    ARCHIVES,
    FRAMES,
    TRAIN,
    VAL,
    cityscapes_ids,
    context_label,
    label_of,
    mat,
    prepared,
    quarter,
)
from PIL import Image

from atrous.batch import IGNORE
from atrous.data.camvid import CamVid
from atrous.data.cityscapes import CLASSES, Cityscapes
from atrous.data.coco import COCO
from atrous.data.context import RAW, Context
from atrous.data.files import Files, ids_md5
from atrous.data.person_part import PersonPart
from atrous.data.voc import VOC


def official(dataset: Files, tmp_path: Path) -> Files:
    ARCHIVES[dataset.name](tmp_path / "archives")
    return prepared(dataset, tmp_path / "archives")


# ---------------------------------------------------------------- VOC and SBD


@pytest.fixture
def voc(tmp_path):
    return official(VOC(str(tmp_path / "root"), "trainaug", "val"), tmp_path)


def test_trainaug_is_vocs_train_and_all_of_sbd_but_vocs_val(voc):
    added = {"2008_000008", "2009_000009"}
    assert [s.name for s in voc.split("trainaug")] == sorted({*TRAIN, *added})
    assert [s.name for s in voc.split("trainvalaug")] == sorted({*TRAIN, *added, *VAL})
    assert [s.name for s in voc.split("train")] == list(TRAIN)
    assert VAL[0] in ADDED  # which SBD labels too


def test_vocs_own_labels_win_and_keep_their_void(voc):
    labels = {s.name: s.label for s in voc.split("trainvalaug")}
    for name in (*TRAIN, *VAL):
        np.testing.assert_array_equal(labels[name], label_of(name))
        assert (labels[name] == IGNORE).any()
    for name in ADDED[:2]:
        np.testing.assert_array_equal(labels[name], label_of(name, void=False))


def test_converted_labels_open_elsewhere_in_pascals_colours(voc):
    for name in (ADDED[0], TRAIN[0]):
        with Image.open(voc.root / "SegmentationClassAug" / f"{name}.png") as picture:
            assert picture.mode == "P"
            expected = np.array(voc.labels.palette)[label_of(name)[2, 2]]
            np.testing.assert_array_equal(np.array(picture.convert("RGB"))[2, 2], expected)


def test_an_annotation_that_is_broken_is_named(voc):
    broken = voc.root / "cls" / "2010_009999.mat"
    for content in (b"", mat(GTcls=1)[:60], mat(other=1)):
        broken.write_bytes(content)
        (voc.root / ".prepared/SegmentationClassAug").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=r"2010_009999\.mat (can't be read as a MATLAB file|holds no GTcls)"):
            prepared(voc, voc.root)


def test_the_md5_of_a_list_is_that_of_its_sorted_ids_a_line_each():
    assert ids_md5(["b", "a"]) == "dd8c6a395b5dd36c56d23275028f526c"  # printf 'a\nb\n' | md5sum


# ---------------------------------------------------------------- PASCAL-Context


@pytest.mark.parametrize("classes", [60, 59])
def test_context_maps_its_raw_labels_and_knows_both_protocols(classes, tmp_path):
    context = official(Context(root=str(tmp_path / "root"), train="train", val="val", classes=classes), tmp_path)
    assert len(context.labels) == classes
    for split, names in (("train", TRAIN), ("val", VAL)):
        assert [s.name for s in context.split(split)] == list(names)
        for s in context.split(split):
            expected = context_label(s.name)
            if classes == 59:
                expected = np.where(expected == 0, IGNORE, expected - 1)
            np.testing.assert_array_equal(s.label, expected)
    assert context.labels.names[-1] == "wood"
    assert context.labels.palette[-1].tolist() == [192, 192, 64]  # of 59 = 111 011: red and green, then all three


def test_contexts_mapping_is_the_published_one():
    # The ids that the other form of the annotation keeps, in the order of the alphabet (bedclothes, cloth, table).
    published = [
        *(2, 9, 18, 19, 22, 23, 25, 31, 33, 34, 44, 45, 46, 59, 65, 68, 72, 80, 85, 98, 104, 105, 113, 115, 144),
        *(158, 159, 162, 187, 189, 207, 220, 232, 258, 259, 260, 284, 295, 296, 308, 324, 326, 347, 349, 354, 355),
        *(360, 366, 368, 397, 415, 416, 420, 424, 427, 440, 445, 454, 458),
    ]
    renamed = {"bedcloth": "bedclothes", "clothes": "cloth", "diningtable": "table"}
    assert [raw for _, raw in sorted((renamed.get(name, name), raw) for raw, name in RAW.items())] == published
    assert list(RAW.values())[:20] == list(VOC.labels.names[1:])  # VOC's own come first, in VOC's order


# ---------------------------------------------------------------- PASCAL-Person-Part


def test_person_part_takes_the_people_and_lets_later_parts_cover_earlier_ones(tmp_path):
    parts = official(PersonPart(str(tmp_path / "root"), "train", "val"), tmp_path)
    assert parts.labels.names == (
        "background",
        "head",
        "torso",
        "upper_arms",
        "lower_arms",
        "upper_legs",
        "lower_legs",
    )
    assert [s.name for s in parts.split("train")] == list(TRAIN[:2])  # the third shows a dog alone
    assert [s.name for s in parts.split("val")] == list(VAL[:1])  # the second a person without parts
    for s in [*parts.split("train"), *parts.split("val")]:
        expected = np.zeros_like(s.label)
        expected[quarter(s.label.shape, 0) != 0] = 1  # head, and the eye on it
        expected[quarter(s.label.shape, 1) != 0] = 4  # a hand is of the lower arm
        expected[quarter(s.label.shape, 2) != 0] = 6  # a foot of the lower leg
        np.testing.assert_array_equal(s.label, expected)  # a dog's head and a tail are background


# ---------------------------------------------------------------- Cityscapes


def open_cityscapes(root: Path, size: str = "full") -> Cityscapes:
    return Cityscapes(root=str(root), train="train+train_extra", val="val", size=size)


@pytest.fixture
def cityscapes(tmp_path):
    return official(open_cityscapes(tmp_path / "root"), tmp_path)


def test_cityscapes_ids_are_mapped_on_the_fly(cityscapes):
    (sample,) = cityscapes.split("val")
    ids = cityscapes_ids(sample.name)
    np.testing.assert_array_equal(sample.image[..., 0], ids)
    evaluated = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert list(CLASSES) == evaluated
    for id_ in (*range(34), 255):
        expected = evaluated.index(id_) if id_ in evaluated else IGNORE
        assert set(sample.label[ids == id_]) == {expected}
    assert cityscapes.labels.names[0] == "road"
    assert cityscapes.labels.palette[13].tolist() == [0, 0, 142]  # car


def test_a_value_that_is_no_id_of_cityscapes_never_gets_through(cityscapes):
    frame = FRAMES["val"][0]
    path = cityscapes.root / "gtFine/val/frankfurt" / f"{frame}_gtFine_labelIds.png"
    label = cityscapes_ids(frame)
    label[3, 3:5] = 34
    Image.fromarray(label).save(path)
    message = (
        r"labelIds\.png holds the label 34 at 2 pixels: allowed are 7 to 8, 11 to 13, 17, 19 to 28, 31 to 33 \(road"
    )
    with pytest.raises(ValueError, match=message):
        cityscapes.split("val")[0]


def test_the_coarse_labels_join_the_fine_ones_where_asked_for(cityscapes):
    names = [s.name for s in cityscapes.split(cityscapes.train)]
    assert names == [*FRAMES["train"], *FRAMES["train_extra"]]
    assert cityscapes.pairs("train+train_extra").pairs[-1].label.name.endswith("_gtCoarse_labelIds.png")


def test_half_size_shrinks_picture_and_label_alike(cityscapes):
    half = open_cityscapes(cityscapes.root, "half")
    for full, small in zip(cityscapes.split("train"), half.split("train")):
        height, width = full.label.shape
        assert small.label.shape == small.image.shape[:2] == (height // 2, width // 2)
        mean = full.image.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
        assert abs(small.image - mean).max() <= 0.5
        np.testing.assert_array_equal(small.label, full.label[1::2, 1::2])
    with pytest.raises(ValueError, match=r"`data\.size` must be full or half"):
        open_cityscapes(cityscapes.root, "quarter")


# ---------------------------------------------------------------- COCO


def test_coco_paints_vocs_things_small_over_large_and_crowds_void(tmp_path):
    coco = official(COCO(str(tmp_path / "root"), "train2017", "val2017"), tmp_path)
    train, val = coco.split("train2017"), coco.split("val2017")
    assert [s.name for s in train] == ["000000000001"]  # the other shows a kite alone
    assert [s.name for s in val] == ["000000000003"]
    expected = np.zeros((30, 40), np.uint8)
    expected[20:28, 2:38] = IGNORE
    expected[2:16, 2:20] = coco.labels.names.index("dog")
    expected[4:10, 4:10] = coco.labels.names.index("person")
    np.testing.assert_array_equal(train[0].label, expected)
    tv = np.zeros((30, 40), np.uint8)
    tv[:, :20] = coco.labels.names.index("tvmonitor")
    np.testing.assert_array_equal(val[0].label, tv)


# ---------------------------------------------------------------- CamVid in SegNet's own form


def test_camvid_reads_segnets_repository_as_it_is(tmp_path):
    camvid = official(CamVid(str(tmp_path / "root"), "train", "val"), tmp_path)
    for split, names in (("train", TRAIN), ("val", VAL), ("test", VAL[:1])):
        assert [s.name for s in camvid.split(split)] == list(names)
        for s in camvid.split(split):
            np.testing.assert_array_equal(s.label, label_of(s.name, 11))  # its 11 has become void
