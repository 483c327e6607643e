import errno
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from miniature import FRAMES, cityscapes_archives, grey, pack, prepared, write_palette_png, write_voc
from PIL import Image
from running import run_plain, started, wait_until

import atrous
from atrous.__main__ import main
from atrous.data.cityscapes import CLASSES, Cityscapes

TEST = tuple(f"2008_{k:06}" for k in range(6))
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"

# A network with large random classifiers: it predicts many classes.
SMALL = (
    "model.backbone.width=4",
    "weights=null",
    "crf=null",
    "total_batch=2",
    "val_batch=1",
    "logger=csv",
    "workers=0",
    "callback.pictures=null",
    "trainer.max_steps=2",
    "trainer.val_check_interval=2",
    "trainer.accelerator=cpu",
    "trainer.precision=32-true",
    "augment.crop=65",
    "+callback.scramble={_target_:running.Scramble,at:1}",
)


@pytest.fixture(scope="session")
def voc(tmp_path_factory) -> Path:
    """The folder of a run on VOC, beside its data; the test pictures have no labels."""
    folder = tmp_path_factory.mktemp("voc")
    write_voc(folder / "VOC2012", {"train": ("a", "b", "c"), "val": ("d", "e"), "test": TEST})
    for name in TEST:
        (folder / "VOC2012/SegmentationClass" / f"{name}.png").unlink()
    run_plain(
        "experiment=voc",
        "data.train=train",
        *SMALL,
        f"data.root='{folder / 'VOC2012'}'",
        f"run_dir='{folder / 'run'}'",
    )
    return folder


@pytest.fixture
def work(voc, tmp_path, monkeypatch) -> Path:
    """To write into: a folder with the run's weights in its own `run`, and `VOC2012`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run/checkpoint").mkdir(parents=True)
    (tmp_path / "run/checkpoint/last.ckpt").symlink_to(voc / "run/checkpoint/last.ckpt")
    (tmp_path / "VOC2012").symlink_to(voc / "VOC2012")
    return tmp_path


def submitted(*overrides: str) -> None:
    assert main(["submit", *overrides]) == 0


def refusal(capsys, *overrides: str) -> str:
    assert main(["submit", *overrides]) == 2
    message = capsys.readouterr().err
    assert message.startswith("atrous submit: ")
    assert "Traceback" not in message
    return message


def inside(path: Path) -> dict[str, np.ndarray]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
    else:
        with tarfile.open(path) as tar:
            files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    result = {}
    for name, content in files.items():
        with Image.open(io.BytesIO(content)) as image:
            result[name] = np.array(image)
    return result


# ---- VOC ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("crf", [False, True], ids=["network", "CRF"])
def test_the_archive_holds_what_the_network_segments(work, crf, capsys):
    submitted("run=run", "root=VOC2012", "out=a.tgz", *(["crf=v2"] if crf else []))
    output = capsys.readouterr().out
    assert "test has 6 pictures here, 1,456 as published: the server wants all of them" in output
    assert "a.tgz: 6 predictions, checked" in output
    segmenter = atrous.load("run")
    result = inside(work / "a.tgz")
    assert list(result) == [f"{FOLDER}/{name}.png" for name in TEST]
    classes, changed = set(), False
    for name, prediction in zip(TEST, result.values()):
        path = work / "VOC2012/JPEGImages" / f"{name}.jpg"
        np.testing.assert_array_equal(prediction, segmenter.segment(path, crf=crf))
        classes |= set(np.unique(segmenter.segment(path)))
        changed |= (prediction != segmenter.segment(path)).any()
    assert len(classes) > 3
    assert changed == crf


def test_a_split_with_labels_and_the_other_competition_can_be_tried(work, capsys):
    submitted("run=run", "root=VOC2012", "split=val", "competition=5")
    (archive,) = (work / "run/submit").glob("val-*.tgz")
    assert list(inside(archive)) == [f"results/VOC2012/Segmentation/comp5_val_cls/{name}.png" for name in "de"]
    overrides = [f"check={archive}", "data=voc", "root=VOC2012", "split=val"]
    submitted(*overrides, "competition=5")
    assert f"{archive}: 2 predictions for val, as PASCAL's evaluation server takes them" in capsys.readouterr().out
    assert "is in the wrong place: the server looks for results/VOC2012/Segmentation/comp6_val_cls" in refusal(
        capsys, *overrides
    )


def test_killed_at_any_time_it_goes_on_and_ends_with_the_same_archive(work, capsys):
    overrides = ["run=run", "root=VOC2012", "crf=v2", "crf.iterations=150"]
    with started("submit", *overrides, stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: len(list((work / "run").glob("submit/*/*.png"))) >= 2)
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
    before = {path: path.stat().st_mtime_ns for path in (work / "run").glob("submit/*/*.png")}
    assert 2 <= len(before) < len(TEST)
    assert not list((work / "run/submit").glob("*.tgz"))
    submitted(*overrides)
    assert f"{len(before)} of 6 predictions were there" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    (archive,) = (work / "run/submit").glob("*.tgz")
    broken_off = archive.read_bytes()
    for path in (archive, *(work / "run").glob("submit/*/*.png")):
        path.unlink()
    submitted(*overrides)
    assert archive.read_bytes() == broken_off


def test_other_settings_take_nothing_from_those_before(work, capsys):
    refiners = (["crf=v2"], ["crf=v2", "crf.w1=9"], ["crf=grid"], ["crf=superpixels"])
    for overrides in ([], *refiners, ["tta.flip=true"], ["split=val"]):
        submitted("run=run", "root=VOC2012", *overrides)
    assert "were there" not in capsys.readouterr().out
    assert len(list((work / "run/submit").glob("*.tgz"))) == 3 + len(refiners)


def test_a_picture_that_is_another_by_now_is_predicted_anew(work, capsys):
    (work / "VOC2012").unlink()
    write_voc(work / "VOC2012", {"test": TEST})
    submitted("run=run", "root=VOC2012")
    picture = work / "VOC2012/JPEGImages" / f"{TEST[0]}.jpg"
    with Image.open(picture) as image:
        Image.new("RGB", image.size, (200, 30, 90)).save(picture)
    submitted("run=run", "root=VOC2012", "out=b.tgz")
    assert "were there" not in capsys.readouterr().out
    expected = atrous.load("run").segment(picture)
    np.testing.assert_array_equal(inside(work / "b.tgz")[f"{FOLDER}/{TEST[0]}.png"], expected)


def test_what_is_made_is_checked_and_kept_only_if_it_is_right(work, capsys):
    submitted("run=run", "root=VOC2012")
    (archive,) = (work / "run/submit").glob("*.tgz")
    archive.unlink()
    prediction = next((work / "run/submit").glob(f"*/{TEST[2]}.png"))
    write_palette_png(prediction, np.full((3, 4), 30, np.uint8))
    message = refusal(capsys, "run=run", "root=VOC2012")
    assert f"{FOLDER}/{TEST[2]}.png is 4x3, its picture" in message
    assert message.startswith(f"atrous submit: {archive.relative_to(work)} is not what")
    assert message.endswith(f"\ndelete {prediction.relative_to(work)} and run the same command again\n")
    assert not list((work / "run/submit").glob("*.tgz"))
    assert not list((work / "run/submit").glob("*.part"))
    prediction.unlink()
    submitted("run=run", "root=VOC2012")

    for name in TEST:
        write_palette_png(prediction.with_name(f"{name}.png"), np.full((3, 4), 30, np.uint8))
    message = refusal(capsys, "run=run", "root=VOC2012")
    assert f"\ndelete {prediction.parent.relative_to(work)}, in which the predictions are kept, and run" in message


def test_a_full_disk_is_no_reason_to_delete_predictions(work, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)  # which predictions are written without
    message = refusal(capsys, "run=run", "root=VOC2012", "out=a.tgz")
    assert message.startswith("atrous submit: could not write a.tgz (No space left on device): free some space and run")
    assert "delete" not in message
    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    assert refusal(capsys, "run=run", "root=VOC2012", "out=a.tgz") == message
    assert not list(work.glob("a.tgz*"))


def test_an_archive_is_checked_for_the_dataset_of_weights_from_elsewhere(work, capsys):
    submitted("run=run", "root=VOC2012", "out=a.tgz")
    weights = torch.load("run/checkpoint/last.ckpt", weights_only=True)["state_dict"]
    torch.save({name.removeprefix("network."): tensor for name, tensor in weights.items()}, "foreign.pth")
    overrides = ["check=a.tgz", "run=foreign.pth", "root=VOC2012"]
    submitted(*overrides, "like=voc", "model/backbone=resnet101_3x3", "model.backbone.width=4")
    assert "a.tgz: 6 predictions for test" in capsys.readouterr().out
    assert "like=… names an experiment with it" in refusal(capsys, *overrides)


# ---- Cityscapes -----------------------------------------------------------------------------------------------------
def test_a_network_of_half_size_pictures_gives_label_ids_at_full_size(tmp_path):
    cityscapes_archives(tmp_path / "archives")
    dataset = prepared(
        Cityscapes(root=str(tmp_path / "root"), train="train", val="val", size="full"), tmp_path / "archives"
    )
    run_plain(
        "experiment=cityscapes",
        "data.size=half",
        *SMALL,
        f"data.root='{dataset.root}'",
        f"run_dir='{tmp_path / 'run'}'",
    )
    submitted(f"run={tmp_path / 'run'}", "split=val", f"out={tmp_path / 'a.zip'}")
    ((name, prediction),) = inside(tmp_path / "a.zip").items()
    assert name == f"{FRAMES['val'][0]}_pred_labelIds.png"
    assert prediction.shape == (24, 36)
    image = dataset.split("val")[0].image
    half = np.rint(image.reshape(12, 2, 18, 2, 3).mean((1, 3))).astype(np.uint8)
    probs = atrous.load(tmp_path / "run").probs(half)
    classes = cv2.resize(probs.transpose(1, 2, 0), (36, 24), interpolation=cv2.INTER_LINEAR).argmax(2)
    expected = np.array(list(CLASSES))[classes]
    assert (prediction == expected).mean() > 0.99  # a tie may go either way
    assert (prediction[::2, ::2] != prediction[1::2, 1::2]).any()  # finer than the network's own
    assert len(np.unique(prediction)) > 1

    submitted(f"check={tmp_path / 'a.zip'}", f"run={tmp_path / 'run'}", "split=val")


# ---- mistakes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "`run` must say whose network"),
        (["run=run", "root=VOC2012", "split=trainval"], "has no list trainval.txt"),
        (["run=run", "root=nowhere"], "no voc at "),
        (["run=run", "root=VOC2012", "competition=4"], "`competition` must be 5"),
        (["run=run", "root=VOC2012", "competiton=5"], "did you mean competition"),
        (["run=run", "root=VOC2012", "out=a.zip"], "`out=a.zip` must be a file that ends in .tgz"),
        (["run=run", "data=camvid", "root=VOC2012"], "knows 21 classes, the dataset has 11"),
        (["run=run", "data=shapes"], "Shapes has no server that takes predictions: data=voc and data=cityscapes"),
        (["check=a.tgz"], "whose pictures is `check` an archive for? data=voc, data=cityscapes"),
        (["check=a.tgz", "data=voc", "root=VOC2012"], "there is no file a.tgz: it must be a .tgz archive"),
        (["check=a.tgz", "data=voc", "root=VOC2012", "split=null"], "`split` must name the pictures: split=test"),
        (["run=run", "root=VOC2012", "split=null"], "`split` must name the pictures: split=test"),
        (["check=b.tgz", "data=camvid", "root=VOC2012"], "camvid has no server that takes predictions"),
        (["check=b.tgz", "data=voc", "root=VOC2012"], "b.tgz is neither a tar nor a zip, or not whole"),
    ],
    ids=lambda message: " ".join(message) if isinstance(message, list) else "",
)
def test_a_mistake_is_one_message_and_exit_code_2_for_submit(work, overrides, message, capsys):
    (work / "b.tgz").write_bytes(b"no archive")
    assert message in refusal(capsys, *overrides)
    assert not list(work.glob("run/submit/*.tgz"))


def test_a_wrong_archive_of_others_is_refused_with_all_that_is_wrong(work, capsys):
    files = {f"{FOLDER}/{name}.png": grey(np.zeros((9, 9), np.uint8)) for name in TEST[1:]}
    pack(work / "foreign.tgz", {**files, "readme.txt": b""})
    message = refusal(capsys, "check=foreign.tgz", "data=voc", "root=VOC2012").splitlines()
    assert message[0] == "atrous submit: foreign.tgz is not what PASCAL's evaluation server takes: 7 problems"
    assert f"  {FOLDER}/{TEST[0]}.png is missing: every picture of test needs a prediction" in message
    assert message[-1] == "  … and 2 more: 2 of another size"
    assert len(message) == 7


def test_classes_in_another_order_are_refused(work, capsys, tmp_path):
    names = [f"n{k}" for k in range(21)]
    write_voc(work / "mine", {"train": ("a", "b", "c"), "val": ("d",)})
    (work / "mine/JPEGImages").rename(work / "mine/images")
    (work / "mine/SegmentationClass").rename(work / "mine/labels")
    (work / "mine/dataset.yaml").write_text(f"names: {names}")
    run_plain("experiment=folder", *SMALL, "data.root=mine", "run_dir=other")
    message = refusal(capsys, "run=other", "data=voc", "root=VOC2012")
    assert "class 0 of other is 'n0', that of the dataset is 'background'" in message
