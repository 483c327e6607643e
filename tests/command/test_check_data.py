from pathlib import Path

import numpy as np
import pytest
import yaml
from miniature import SPLITS, write_palette_png, write_voc
from PIL import Image

from atrous.__main__ import main
from atrous.batch import IGNORE
from atrous.data.audit import check_pairs, spaced
from atrous.data.image import read_image
from atrous.data.pairs import Pair
from atrous.data.voc import NAMES, VOC
from atrous.loss import CrossEntropy


def run_check(root: Path, capsys, *overrides: str, code: int = 0) -> tuple[str, str]:
    """Check a miniature VOC; return what is printed on stdout and on stderr."""
    usual = ("data=voc", f"data.root='{root}'", "data.train=train", f"out='{root / 'out'}'")
    given = {override.split("=")[0] for override in overrides}
    defaults = [override for override in usual if override.split("=")[0] not in given]
    assert main(["check-data", *defaults, *overrides]) == code
    printed = capsys.readouterr()
    return " ".join(printed.out.split()), printed.err  # stdout is wrapped


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
    return run_check(broken[0], capsys, "workers=0", code=2)


@pytest.mark.parametrize(
    "line",
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
    ids=lambda line: line.split(": ")[1] if line.startswith("problem") else "the second unreadable file",
)
def test_each_kind_of_problem_is_named_beside_the_others(report, line):
    assert line in report[0]


def test_problems_go_to_stdout_and_their_number_to_stderr(report):
    out, err = report
    assert out.count("problem: ") == 9
    assert err == "atrous check-data: 9 problems: see above\n"


def test_what_can_be_read_is_counted_whatever_else_is_wrong(broken, report):
    root, samples = broken
    for role, ids in (("train", ("t0", "t7", "t8")), ("val", ("v0", "v1", "t8"))):
        labels = [samples[i].label for i in ids]
        split = written(root)["splits"][role]
        assert split["pictures"] == len(ids)
        assert split["void"]["pixels"] == sum(int((label == IGNORE).sum()) for label in labels)
        assert list(split["classes"]) == list(NAMES)
        for c, name in enumerate(NAMES):
            assert split["classes"][name]["pixels"] == sum(int((label == c).sum()) for label in labels)
            assert split["classes"][name]["pictures"] == sum(bool((label == c).any()) for label in labels)
    (some,) = [p for kind, p in written(root)["problems"].items() if "missing" in kind]
    assert some == {"count": 2, "first": ["JPEGImages/t1.jpg", "SegmentationClass/v2.png"]}


def test_five_of_many_are_named_and_all_are_counted(tmp_path, capsys):
    ids = [f"t{k}" for k in range(8)]
    write_voc(tmp_path, {"train": ids, "val": ["v"]})
    for i in ids[1:]:
        (tmp_path / "SegmentationClass" / f"{i}.png").write_bytes(b"")
    out, _ = run_check(tmp_path, capsys, "subset=true", code=2)
    assert "problem: files that can't be read: 7 Seg" in out
    assert [i for i in ids if f"/{i}.png" in out] == ids[1:6]
    assert "… and 2 more" in out


# ---- lists ----------------------------------------------------------------------------------------------------------
def test_a_clean_part_of_the_published_set_is_fine_with_subset(tmp_path, capsys):
    write_voc(tmp_path)
    out, err = run_check(tmp_path, capsys, "subset=true")
    assert "train 3 1,464" in out
    assert "10 files, none missing" in out
    assert "no problems" in out
    assert "problem:" not in out
    assert err == ""
    out, err = run_check(tmp_path, capsys, code=2)
    assert "3 pictures, 1,464 are published" in out
    assert err == "atrous check-data: 2 problems: see above\n"


def test_as_many_pictures_that_are_others_are_a_problem(tmp_path, capsys):
    """Only the md5 of the sorted names shows it."""
    write_voc(tmp_path)
    for name, count in (("train", 1464), ("val", 1449)):
        ids = [SPLITS[name][0], *(f"{name}{k}" for k in range(count - 1))]
        (tmp_path / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("\n".join(ids))
    out, _ = run_check(tmp_path, capsys, code=2)
    assert "train is not the published list: as many pictures, but others" in out
    assert f"files that are missing: {2 * (1463 + 1448):,}" in out


def test_a_published_list_is_checked_even_if_no_split_uses_it(tmp_path, capsys):
    write_voc(tmp_path)
    write_voc(tmp_path, {"trainaug": ["a"]}, labels="SegmentationClassAug")
    (tmp_path / "JPEGImages" / "a.jpg").write_bytes(b"")
    out, _ = run_check(tmp_path, capsys, "subset=true", code=2)
    assert "trainaug 1 10,582" in out
    assert "problem: files that can't be read: JPEGImages/a.jpg" in out
    assert written(tmp_path)["splits"]["train"]["pictures"] == 3


def test_a_list_that_is_not_there_does_not_hide_the_other(tmp_path, capsys):
    write_voc(tmp_path)
    out, _ = run_check(tmp_path, capsys, "subset=true", "data.train=trainaug", code=2)
    assert "problem: list trainaug:" in out
    assert "no weights: trainaug has no labelled pixels" in out
    assert written(tmp_path)["splits"]["val"]["pictures"] == 2


def test_a_dataset_that_is_not_there_is_one_message(tmp_path, capsys):
    _, err = run_check(tmp_path, capsys, code=2)
    assert f"no voc at {tmp_path}" in err
    assert not (tmp_path / "out").exists()


def test_lists_that_are_joined_are_one_split(tmp_path, capsys):
    samples = write_voc(tmp_path, {"train": ["a", "b"], "val": ["c"], "more": ["b", "d"]})
    run_check(tmp_path, capsys, "subset=true", "data.train=train+more")
    split = written(tmp_path)["splits"]["train"]
    assert (split["list"], split["pictures"]) == ("train+more", 3)
    assert split["void"]["pixels"] == sum(int((samples[i].label == IGNORE).sum()) for i in "abd")


# ---- reading --------------------------------------------------------------------------------------------------------
def test_a_picture_with_two_labels_is_decoded_and_reported_once(tmp_path, capsys):
    write_voc(tmp_path)
    write_voc(tmp_path, {"trainaug": SPLITS["train"]}, labels="SegmentationClassAug")
    reads: list[Path] = []

    def read(path):
        reads.append(path)
        return read_image(path)

    image = tmp_path / "JPEGImages" / f"{SPLITS['train'][0]}.jpg"
    job = [Pair("x", image, tmp_path / f / f"{image.stem}.png") for f in ("SegmentationClass", "SegmentationClassAug")]
    checks = check_pairs(job, 21, read, VOC(str(tmp_path), "train", "val").readers()[1])
    assert reads == [image]
    assert all(check.counts is not None for check in checks)

    image.write_bytes(b"")
    out, _ = run_check(tmp_path, capsys, "subset=true", code=2)
    assert f"files that can't be read: JPEGImages/{image.name}" in out  # not "files that can't be read: 2"
    assert "5 pictures read" in out


def test_two_processes_find_the_same_as_one(tmp_path, capsys):
    ids = [f"t{k:02}" for k in range(20)]
    write_voc(tmp_path, {"train": ids, "val": ["v"]})
    (tmp_path / "SegmentationClass" / "t03.png").write_bytes(b"")
    reports = []
    for workers in (0, 2):
        run_check(tmp_path, capsys, "subset=true", f"workers={workers}", code=2)
        reports.append([written(tmp_path, name) for name in ("statistics", "median_frequency", "inverse_log")])
    assert reports[0] == reports[1]
    assert reports[0][0]["splits"]["train"]["pictures"] == 19


@pytest.mark.parametrize(("length", "limit", "kept"), [(10, 4, [0, 2, 5, 7]), (3, 3, [0, 1, 2]), (2, None, [0, 1])])
def test_a_limit_keeps_pictures_at_equal_distances(length, limit, kept):
    assert list(spaced(range(length), limit)) == kept


def test_a_limit_counts_so_many_of_each_split(tmp_path, capsys):
    samples = write_voc(tmp_path, {"train": list("abcde"), "val": list("fg")})
    run_check(tmp_path, capsys, "subset=true", "limit=2")
    train, val = (written(tmp_path)["splits"][role] for role in ("train", "val"))
    assert (train["pictures"], val["pictures"]) == (2, 2)
    assert train["void"]["pixels"] == sum(int((samples[i].label == IGNORE).sum()) for i in "ac")


def test_pictures_that_are_no_files_are_counted_too(tmp_path, capsys):
    overrides = ("data=shapes", "data.size=33", "data.val_pictures=3", "limit=6", f"out='{tmp_path / 'out'}'")
    assert main(["check-data", *overrides]) == 0
    out, err = capsys.readouterr()
    assert "no problems" in out
    assert err == ""
    splits = written(tmp_path)["splits"]
    assert (splits["train"]["pictures"], splits["val"]["pictures"]) == (6, 3)
    assert splits["train"]["labelled_pixels"] + splits["train"]["void"]["pixels"] == 6 * 33 * 33
    assert next(iter(written(tmp_path, "inverse_log"))) == "ground"


# ---- what is written ------------------------------------------------------------------------------------------------
def test_the_written_weights_are_those_of_the_training_labels_and_the_loss_takes_them(tmp_path, capsys):
    samples = write_voc(tmp_path)
    out, _ = run_check(tmp_path, capsys, "subset=true")
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
        weights = written(tmp_path, name)
        assert list(weights) == list(NAMES)
        assert list(weights.values()) == pytest.approx(numbers, rel=1e-5)
        from_file, given = CrossEntropy(str(path)).class_weights, CrossEntropy(list(weights.values())).class_weights
        assert from_file is not None
        assert given is not None
        assert from_file.tolist() == given.tolist()
    absent = [name for name, present in zip(NAMES, occurs) if not present]
    assert f"never in train (weight 0): {', '.join(absent)}" in out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["limit=0"], "`limit` must be null or a whole number, 1 or more (got 0)"),
        (["limit=some"], "`limit` must be"),
        (["workers=-1"], "`workers` must be null or a whole number, 0 or more (got -1)"),
        (["subset=perhaps"], "`subset` is true or false"),
        (["data=vok"], "did you mean data=voc"),
        (["lmit=3"], "did you mean limit"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2_for_check_data(overrides, message, tmp_path, capsys):
    _, err = run_check(tmp_path, capsys, *overrides, code=2)
    assert message in err
    assert len(err.splitlines()) <= 5


def test_an_out_that_is_a_file_is_refused_before_anything_is_read(tmp_path, capsys):
    write_voc(tmp_path)
    (tmp_path / "out").write_text("")
    out, err = run_check(tmp_path, capsys, "subset=true", code=2)
    assert f"`out={tmp_path / 'out'}` can't be made a folder" in err
    assert "pictures read" not in out
