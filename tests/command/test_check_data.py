from pathlib import Path

import numpy as np
import pytest
import yaml
from miniature import SPLITS, write_palette_png, write_voc
from PIL import Image

from atrous.__main__ import main
from atrous.batch import IGNORE
from atrous.command.check_data import OfFiles, evenly
from atrous.data.image import read_image
from atrous.data.pairs import Pair
from atrous.data.voc import NAMES, VOC
from atrous.loss import CrossEntropy


def checked(root: Path, capsys, *words: str, code: int = 0) -> tuple[str, str]:
    """What `atrous check-data` says of a miniature VOC, on stdout and on stderr."""
    usual = ("data=voc", f"data.root='{root}'", "data.train=train", f"out='{root / 'out'}'")
    asked = {word.split("=")[0] for word in words}
    overrides = [word for word in usual if word.split("=")[0] not in asked]
    assert main(["check-data", *overrides, *words]) == code
    told = capsys.readouterr()
    return " ".join(told.out.split()), told.err  # it is wrapped


def written(root: Path, name: str = "statistics") -> dict:
    return yaml.safe_load((root / "out" / f"{name}.yaml").read_text())


# ---- a tree in which everything is wrong ----------------------------------------------------------------------------
BROKEN = {"train": [f"t{k}" for k in range(9)], "val": ["v0", "v1", "v2"]}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """One file of each kind that can't be used; t0, t7, t8, v0 and v1 can."""
    root = tmp_path_factory.mktemp("voc")
    samples = write_voc(root, BROKEN)
    pictures, labels = root / "JPEGImages", root / "SegmentationClass"
    (pictures / "t1.jpg").unlink()
    (labels / "v2.png").unlink()
    whole = (pictures / "t2.jpg").read_bytes()
    (pictures / "t2.jpg").write_bytes(whole[: len(whole) // 2])
    (labels / "t3.png").write_bytes(b"no picture")
    write_palette_png(labels / "t4.png", np.zeros((30, 57), np.uint8))
    stray = np.zeros_like(samples["t5"].label)
    stray[3, 4:7] = 33
    write_palette_png(labels / "t5.png", stray)
    Image.fromarray(samples["t6"].image).save(labels / "t6.png")
    lists = root / "ImageSets" / "Segmentation"
    (lists / "train.txt").write_text("\n".join([*BROKEN["train"], "t7"]))
    (lists / "val.txt").write_text("\n".join([*BROKEN["val"], "t8"]))
    return root, samples


@pytest.fixture
def report(broken, capsys):
    return checked(broken[0], capsys, "workers=0", code=2)


@pytest.mark.parametrize(
    "told",
    [
        "problem: files that are missing: 2 JPEGImages/t1.jpg SegmentationClass/v2.png",
        "problem: files that can't be read: 2 JPEGImages/t2.jpg can't be read as a picture (",
        "SegmentationClass/t3.png can't be read as a picture (cannot identify image file): is it whole?",
        "problem: pictures and labels of different sizes: JPEGImages/t4.jpg and SegmentationClass/t4.png differ in "
        "size (57x40 and 57x30)",
        "problem: labels with values outside the classes: SegmentationClass/t5.png holds the label 33 at 3 pixels",
        "problem: files that are no labels: SegmentationClass/t6.png is no label: it stores RGB",
        "problem: named more than once in train: t7",
        "problem: pictures of val that are in train too: t8",
        "problem: train is not the published list: 10 pictures, 1,464 are published",
        "problem: val is not the published list: 4 pictures, 1,449 are published",
    ],
    ids=lambda told: told.split(": ")[1] if told.startswith("problem") else "the second unreadable file",
)
def test_each_kind_of_problem_is_named_though_the_others_are_there(report, told):
    assert told in report[0]


def test_problems_are_told_on_stdout_and_the_last_word_on_stderr(report):
    out, err = report
    assert out.count("problem: ") == 9
    assert err == "atrous check-data: 9 problems: see above\n"


def test_what_can_be_read_is_counted_whatever_else_is_wrong(broken, report):
    root, samples = broken
    for role, ids in (("train", ("t0", "t7", "t8")), ("val", ("v0", "v1", "t8"))):
        labels = [samples[i].label for i in ids]
        found = written(root)["splits"][role]
        assert found["pictures"] == len(ids)
        assert found["void"]["pixels"] == sum(int((label == IGNORE).sum()) for label in labels)
        assert list(found["classes"]) == list(NAMES)
        for c, name in enumerate(NAMES):
            assert found["classes"][name]["pixels"] == sum(int((label == c).sum()) for label in labels)
            assert found["classes"][name]["pictures"] == sum(bool((label == c).any()) for label in labels)
    (some,) = [p for kind, p in written(root)["problems"].items() if "missing" in kind]
    assert some == {"count": 2, "first": ["JPEGImages/t1.jpg", "SegmentationClass/v2.png"]}


def test_five_of_many_are_named_and_all_are_counted(tmp_path, capsys):
    ids = [f"t{k}" for k in range(8)]
    write_voc(tmp_path, {"train": ids, "val": ["v"]})
    for i in ids[1:]:
        (tmp_path / "SegmentationClass" / f"{i}.png").write_bytes(b"")
    out, _ = checked(tmp_path, capsys, "subset=true", code=2)
    assert "problem: files that can't be read: 7 Seg" in out
    assert [i for i in ids if f"/{i}.png" in out] == ids[1:6]
    assert "… and 2 more" in out


# ---- lists ----------------------------------------------------------------------------------------------------------
def test_a_clean_part_of_the_published_set_is_well_where_a_part_is_meant(tmp_path, capsys):
    write_voc(tmp_path)
    out, err = checked(tmp_path, capsys, "subset=true")
    assert "train 3 1,464" in out
    assert "10 files, none missing" in out
    assert "no problems" in out
    assert "problem:" not in out
    assert err == ""
    out, err = checked(tmp_path, capsys, code=2)
    assert "3 pictures, 1,464 are published" in out
    assert err == "atrous check-data: 2 problems: see above\n"


def test_as_many_pictures_that_are_others_are_a_problem(tmp_path, capsys):
    """Found by the md5 of the sorted names alone."""
    write_voc(tmp_path)
    for name, count in (("train", 1464), ("val", 1449)):
        ids = [SPLITS[name][0], *(f"{name}{k}" for k in range(count - 1))]
        (tmp_path / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids))
    out, _ = checked(tmp_path, capsys, code=2)
    assert "train is not the published list: as many pictures, but others" in out
    assert f"files that are missing: {2 * (1463 + 1448):,}" in out


def test_a_published_list_that_nobody_asked_for_is_looked_at_too(tmp_path, capsys):
    write_voc(tmp_path)
    write_voc(tmp_path, {"trainaug": ["a"]}, labels="SegmentationClassAug")
    (tmp_path / "JPEGImages" / "a.jpg").write_bytes(b"")
    out, _ = checked(tmp_path, capsys, "subset=true", code=2)
    assert "trainaug 1 10,582" in out
    assert "problem: files that can't be read: JPEGImages/a.jpg" in out
    assert written(tmp_path)["splits"]["train"]["pictures"] == 3


def test_a_list_that_is_not_there_does_not_hide_the_other(tmp_path, capsys):
    write_voc(tmp_path)
    out, _ = checked(tmp_path, capsys, "subset=true", "data.train=trainaug", code=2)
    assert "problem: list trainaug:" in out
    assert "no weights: trainaug has no labelled pixels" in out
    assert written(tmp_path)["splits"]["val"]["pictures"] == 2


def test_a_dataset_that_is_not_there_is_one_message(tmp_path, capsys):
    _, err = checked(tmp_path, capsys, code=2)
    assert f"no voc at {tmp_path}" in err
    assert not (tmp_path / "out").exists()


def test_lists_that_are_joined_are_one_split(tmp_path, capsys):
    samples = write_voc(tmp_path, {"train": ["a", "b"], "val": ["c"], "more": ["b", "d"]})
    checked(tmp_path, capsys, "subset=true", "data.train=train+more")
    found = written(tmp_path)["splits"]["train"]
    assert (found["list"], found["pictures"]) == ("train+more", 3)
    assert found["void"]["pixels"] == sum(int((samples[i].label == IGNORE).sum()) for i in "abd")


# ---- reading --------------------------------------------------------------------------------------------------------
def test_a_picture_with_two_labels_is_decoded_and_complained_of_once(tmp_path, capsys):
    write_voc(tmp_path)
    write_voc(tmp_path, {"trainaug": SPLITS["train"]}, labels="SegmentationClassAug")
    reads: list[Path] = []

    def read(path):
        reads.append(path)
        return read_image(path)

    image = tmp_path / "JPEGImages" / f"{SPLITS['train'][0]}.jpg"
    job = [Pair("x", image, tmp_path / f / f"{image.stem}.png") for f in ("SegmentationClass", "SegmentationClassAug")]
    found = OfFiles(21, read, VOC(str(tmp_path)).readers()[1])(job)
    assert reads == [image]
    assert all(finding.counts is not None for finding in found)

    image.write_bytes(b"")
    out, _ = checked(tmp_path, capsys, "subset=true", code=2)
    assert f"files that can't be read: JPEGImages/{image.name}" in out  # one: several come with their number
    assert "5 pictures looked at" in out


def test_two_processes_find_what_one_finds(tmp_path, capsys):
    ids = [f"t{k:02}" for k in range(20)]
    write_voc(tmp_path, {"train": ids, "val": ["v"]})
    (tmp_path / "SegmentationClass" / "t03.png").write_bytes(b"")
    found = []
    for workers in (0, 2):
        checked(tmp_path, capsys, "subset=true", f"workers={workers}", code=2)
        found.append([written(tmp_path, name) for name in ("statistics", "median_frequency", "inverse_log")])
    assert found[0] == found[1]
    assert found[0][0]["splits"]["train"]["pictures"] == 19


@pytest.mark.parametrize(("length", "limit", "kept"), [(10, 4, [0, 2, 5, 7]), (3, 3, [0, 1, 2]), (2, None, [0, 1])])
def test_a_limit_keeps_pictures_at_equal_distances(length, limit, kept):
    assert list(evenly(range(length), limit)) == kept


def test_a_limit_counts_so_many_of_each_split(tmp_path, capsys):
    samples = write_voc(tmp_path, {"train": list("abcde"), "val": list("fg")})
    checked(tmp_path, capsys, "subset=true", "limit=2")
    train, val = (written(tmp_path)["splits"][role] for role in ("train", "val"))
    assert (train["pictures"], val["pictures"]) == (2, 2)
    assert train["void"]["pixels"] == sum(int((samples[i].label == IGNORE).sum()) for i in "ac")


def test_pictures_that_are_no_files_are_counted_as_well(tmp_path, capsys):
    words = ("data=shapes", "data.size=33", "data.val_pictures=3", "limit=6", f"out='{tmp_path / 'out'}'")
    assert main(["check-data", *words]) == 0
    out, err = capsys.readouterr()
    assert "no problems" in out
    assert err == ""
    found = written(tmp_path)["splits"]
    assert (found["train"]["pictures"], found["val"]["pictures"]) == (6, 3)
    assert found["train"]["labelled_pixels"] + found["train"]["void"]["pixels"] == 6 * 33 * 33
    assert next(iter(written(tmp_path, "inverse_log"))) == "ground"


# ---- what comes of it -----------------------------------------------------------------------------------------------
def test_the_written_weights_are_those_of_the_training_labels_and_the_loss_takes_them(tmp_path, capsys):
    samples = write_voc(tmp_path)
    out, _ = checked(tmp_path, capsys, "subset=true")
    labels = [samples[i].label for i in SPLITS["train"]]
    values = [*range(21), IGNORE]
    pixels = np.array([sum((label == v).sum() for label in labels) for v in values])
    extent = np.array([sum(label.size for label in labels if (label == v).any()) for v in values])
    occurs = pixels > 0
    frequency = pixels[occurs] / extent[occurs]
    expected = np.zeros(22)
    expected[occurs] = np.median(frequency) / frequency
    share = pixels[:21] / pixels[:21].sum()
    for name, numbers in (
        ("median_frequency", expected[:21]),
        ("inverse_log", np.where(occurs[:21], 1 / np.log(1.02 + share), 0)),
    ):
        path = tmp_path / "out" / f"{name}.yaml"
        assert path.read_text().startswith("# ")
        assert f"loss.class_weights={path}" in out
        told = written(tmp_path, name)
        assert list(told) == list(NAMES)
        assert list(told.values()) == pytest.approx(numbers, rel=1e-5)
        from_file, given = CrossEntropy(str(path)).class_weights, CrossEntropy(list(told.values())).class_weights
        assert from_file is not None
        assert given is not None
        assert from_file.tolist() == given.tolist()
    never = [name for name, there in zip(NAMES, occurs) if not there]
    assert f"never in train (weight 0): {', '.join(never)}" in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["limit=0"], "`limit` must be null or a whole number, 1 or more (got 0)"),
        (["limit=some"], "`limit` must be"),
        (["workers=-1"], "`workers` must be null or a whole number, 0 or more (got -1)"),
        (["subset=perhaps"], "`subset` is true or false"),
        (["data=vok"], "did you mean data=voc"),
        (["lmit=3"], "did you mean limit"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2_for_check_data(words, told, tmp_path, capsys):
    _, err = checked(tmp_path, capsys, *words, code=2)
    assert told in err
    assert len(err.splitlines()) <= 5


def test_an_out_that_is_a_file_is_refused_before_anything_is_read(tmp_path, capsys):
    write_voc(tmp_path)
    (tmp_path / "out").write_text("")
    out, err = checked(tmp_path, capsys, "subset=true", code=2)
    assert f"`out={tmp_path / 'out'}` can't be made a folder" in err
    assert "looked at" not in out
