"""Archives for the servers of benchmarks: their files, what is refused, and the scores by the benchmarks' own rules."""

import io
import re
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import FRAMES, SIZES, cityscapes_archives, encoded, grey, pack, picture, prepared, silent, write_voc
from PIL import Image

from atrous.batch import IGNORE, voc_palette
from atrous.data import parallel
from atrous.data.camvid import CamVid
from atrous.data.cityscapes import CLASSES, Cityscapes
from atrous.data.files import Files
from atrous.data.submission import Form, write_archive
from atrous.data.submission_check import PackedPrediction, check_archive, check_prediction, picture_sizes
from atrous.data.voc import VOC
from atrous.machine import cores
from atrous.metric.confusion import Scores, confusion

TEST = tuple(f"2008_{k:06}" for k in range(7))
TEST_FRAMES = ("berlin_000000_000019", "munich_000001_000019")
FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"


@pytest.fixture
def voc(tmp_path) -> VOC:
    """With a test split, which has no labels."""
    root = tmp_path / "VOC2012"
    write_voc(root, {"train": ("2007_000001",), "test": TEST})
    for name in TEST:
        (root / "SegmentationClass" / f"{name}.png").unlink()
    return VOC(str(root), "train", "test")


def open_cityscapes(root: Path, size: str = "full") -> Cityscapes:
    return Cityscapes(root=str(root), train="train", val="val", size=size)


@pytest.fixture
def cityscapes(tmp_path) -> Cityscapes:
    """From archives that hold test pictures."""
    cityscapes_archives(tmp_path / "archives")
    with zipfile.ZipFile(tmp_path / "archives/leftImg8bit_trainvaltest.zip", "a") as archive:
        for frame in TEST_FRAMES:
            image = encoded(Image.fromarray(np.zeros((24, 36, 3), np.uint8)), "png")
            archive.writestr(f"leftImg8bit/test/{frame.split('_')[0]}/{frame}_leftImg8bit.png", image)
    dataset = open_cityscapes(tmp_path / "root")
    prepared(dataset, tmp_path / "archives")
    return dataset


def some_prediction(dataset: Files, name: str, size: tuple[int, int]) -> np.ndarray:
    draw = np.random.default_rng(sum(name.encode()))
    return draw.integers(0, len(dataset.labels), size).astype(np.uint8)


def predictions(dataset: Files, split: str = "test") -> dict[str, np.ndarray]:
    return {name: some_prediction(dataset, name, size) for name, size in wanted(dataset, split).items()}


def wanted(dataset: Files, split: str = "test") -> dict[str, tuple[int, int]]:
    return picture_sizes(dataset.unlabelled(split).pairs)


def archive_of(dataset: Files, path: Path, split: str = "test") -> Path:
    form = dataset.form(split, 6)
    guesses = predictions(dataset, split)
    write_archive(path, form, guesses, lambda name: form.encode(guesses[name]))
    return path


def contents(path: Path) -> dict[str, bytes]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def opened(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content)) as image:
        image.load()
        return image


def check(dataset: Files, path: Path, split: str = "test") -> None:
    check_archive(path, dataset.form(split, 6), wanted(dataset, split), split, silent)


# ---- what is written ------------------------------------------------------------------------------------------------
def test_voc_gets_palette_pngs_of_its_classes_where_its_server_looks(voc, tmp_path):
    files = contents(archive_of(voc, tmp_path / "a.tgz"))
    assert list(files) == [f"{FOLDER}/{name}.png" for name in TEST]
    for k, (name, content) in enumerate(zip(TEST, files.values())):
        image = opened(content)
        assert (image.mode, image.size) == ("P", SIZES[(k + 1) % 2][::-1])
        np.testing.assert_array_equal(np.asarray(image), predictions(voc)[name])
        colours = np.array(image.getpalette()).reshape(-1, 3)
        np.testing.assert_array_equal(colours[:21], voc_palette(21))


def test_the_folder_in_vocs_archive_is_of_the_competition_and_the_split(voc):
    assert voc.form("val", 5).path("x") == "results/VOC2012/Segmentation/comp5_val_cls/x.png"
    with pytest.raises(ValueError, match=r"`competition` must be 5 .* or 6 \(got 3\)"):
        voc.form("test", 3)


def test_cityscapes_gets_grey_pngs_of_label_ids_all_in_one_place(cityscapes, tmp_path):
    files = contents(archive_of(cityscapes, tmp_path / "a.zip"))
    assert list(files) == [f"{frame}_pred_labelIds.png" for frame in TEST_FRAMES]
    for frame, content in zip(TEST_FRAMES, files.values()):
        image = opened(content)
        assert (image.mode, image.size) == ("L", (36, 24))
        expected = np.array(list(CLASSES))[predictions(cityscapes)[frame]]
        np.testing.assert_array_equal(np.asarray(image), expected)
        assert set(np.unique(np.asarray(image))) == set(CLASSES)


@pytest.mark.parametrize("end", ["tgz", "zip"])
def test_the_same_predictions_give_the_same_bytes_and_name_nobody(end, voc, cityscapes, tmp_path, monkeypatch):
    dataset = voc if end == "tgz" else cityscapes
    first = archive_of(dataset, tmp_path / f"one.{end}").read_bytes()
    form = dataset.form("test", 6)
    monkeypatch.setattr("time.time", lambda: 2e9)
    guesses = predictions(dataset)
    write_archive(tmp_path / f"other.{end}", form, reversed(guesses), lambda name: form.encode(guesses[name]))
    assert (tmp_path / f"other.{end}").read_bytes() == first
    if end == "tgz":
        with tarfile.open(tmp_path / "one.tgz") as tar:
            assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def test_a_dataset_without_a_server_names_those_that_have_one():
    with pytest.raises(ValueError, match="camvid has no server that takes predictions: data=voc and data=cityscapes"):
        CamVid("data/camvid", "train", "val").form("test", 6)


# ---- the test split -------------------------------------------------------------------------------------------------
def test_the_pictures_of_a_test_split_need_no_labels(voc, cityscapes):
    assert [pair.name for pair in voc.unlabelled("test").pairs] == list(TEST)
    assert [pair.name for pair in cityscapes.unlabelled("test").pairs] == list(TEST_FRAMES)
    assert set(wanted(cityscapes).values()) == {(24, 36)}
    assert set(wanted(open_cityscapes(cityscapes.root, "half")).values()) == {(24, 36)}


def test_a_missing_test_list_or_picture_says_which_archive_has_it(voc):
    (voc.root / "JPEGImages" / f"{TEST[3]}.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=rf"1 of the 7 files .* {TEST[3]}\.jpg(.|\n)*VOC2012test\.tar"):
        voc.unlabelled("test")
    (voc.root / "ImageSets/Segmentation/test.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"no list test\.txt .* there are: train\. (.|\n)*VOC2012test\.tar"):
        voc.unlabelled("test")
    with pytest.raises(FileNotFoundError, match=r"no list other\.txt .*\. Choose with data\.train="):
        voc.unlabelled("other")


def test_a_broken_picture_is_named_before_anything_is_compared_with_it(voc):
    path = voc.root / "JPEGImages" / f"{TEST[3]}.jpg"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"{path} can't be read as a picture"):
        wanted(voc)


def test_missing_test_pictures_of_cityscapes_say_how_to_unpack_them(tmp_path):
    cityscapes_archives(tmp_path / "archives")
    dataset = prepared(open_cityscapes(tmp_path / "root"), tmp_path / "archives")
    with pytest.raises(FileNotFoundError, match=r"no .*leftImg8bit/test\.\n(.|\n)*ARGS=again=true"):
        dataset.unlabelled("test")
    with pytest.raises(FileNotFoundError, match=r"no cityscapes at .*elsewhere"):
        open_cityscapes(tmp_path / "elsewhere").unlabelled("test")


# ---- what is right --------------------------------------------------------------------------------------------------
def test_a_right_archive_passes(voc, cityscapes, tmp_path):
    check(voc, archive_of(voc, tmp_path / "a.tgz"))
    check(cityscapes, archive_of(cityscapes, tmp_path / "a.zip"))


def test_an_archive_may_be_made_by_others_in_their_way(voc, cityscapes, tmp_path):
    files = contents(archive_of(voc, tmp_path / "a.tgz"))
    path = tmp_path / "b.tar"
    with tarfile.open(path, "w") as tar:  # as of `tar cf b.tar ./results`
        folder = tarfile.TarInfo("./results")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, content in files.items():
            entry = tarfile.TarInfo(f"./{name}")
            content = grey(np.asarray(opened(content)))
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    check(voc, path)
    others = {
        f"results/{frame.split('_')[0]}/{frame}_leftImg8bit.png": grey(np.full((24, 36), 7, np.uint8))
        for frame in TEST_FRAMES
    }
    check(cityscapes, pack(tmp_path / "b.zip", others))


# ---- what is wrong --------------------------------------------------------------------------------------------------
FIRST, SECOND = (f"{FOLDER}/{name}.png" for name in TEST[:2])
SHAPE = SIZES[1]  # of the first of TEST
Change = Callable[[dict[str, bytes]], object]


def put(path: str, content: bytes) -> Change:
    return lambda files: files.update({path: content})


def palette(label: np.ndarray) -> bytes:
    image = Image.fromarray(label.astype(np.uint8))
    image.putpalette(voc_palette().tobytes())
    return encoded(image, "png")


def with_value(value: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    label = np.zeros(shape, np.uint8)
    label[2, 3:6] = value
    return label


WHOLE = palette(np.zeros(SHAPE))
WRONG: dict[str, tuple[Change, str]] = {
    "missing": (lambda files: files.pop(FIRST), f"{FIRST} is missing: every picture of test needs a prediction"),
    "extra": (put(f"{FOLDER}/2007_000001.png", WHOLE), "2007_000001.png is of no picture of test: leave it out"),
    "hidden": (put(f"{FOLDER}/._{TEST[0]}.png", b""), f"._{TEST[0]}.png is of no picture of test: leave it out"),
    "no png": (put(f"{FOLDER}/notes.txt", b""), "notes.txt is of no picture of test: leave it out"),
    "wrong name": (
        lambda files: files.update({f"{FOLDER}/{TEST[0]}_pred.png": files.pop(FIRST)}),
        f"{TEST[0]}_pred.png is of no picture of test: leave it out (a file's name is as in {FIRST})",
    ),
    "wrong folder": (
        lambda files: files.update({FIRST.replace("comp6", "comp5"): files.pop(FIRST)}),
        f"comp5_test_cls/{TEST[0]}.png is in the wrong place: the server looks for {FIRST}",
    ),
    "no folder": (
        lambda files: files.update({f"{TEST[0]}.png": files.pop(FIRST)}),
        f"{TEST[0]}.png is in the wrong place: the server looks for {FIRST}",
    ),
    "two for one": (
        put(f"other/{TEST[0]}.png", WHOLE),
        f"{FIRST} and other/{TEST[0]}.png are for one picture: leave one",
    ),
    "size": (put(FIRST, palette(np.zeros((8, 9)))), f"{FIRST} is 9x8, its picture 44x51: "),
    "turned": (put(FIRST, palette(np.zeros(SHAPE[::-1]))), f"{FIRST} is 51x44, its picture 44x51: "),
    "colours": (put(FIRST, encoded(opened(WHOLE).convert("RGB"), "png")), f"{FIRST} stores colours (RGB): store each"),
    "alpha": (put(FIRST, encoded(opened(WHOLE).convert("RGBA"), "png")), f"{FIRST} stores colours (RGBA): store each"),
    "16 bits": (
        put(FIRST, encoded(Image.fromarray(np.zeros(SHAPE, np.uint16)), "png")),
        f"{FIRST} stores 16-bit grey: store each",
    ),
    "1 bit": (
        put(FIRST, encoded(Image.fromarray(np.zeros(SHAPE, bool)), "png")),
        f"{FIRST} stores 1-bit grey: store each",
    ),
    "21": (put(FIRST, palette(with_value(21))), f"{FIRST} holds 21 at 3 pixels: every pixel needs a class, 0 to 20"),
    "void": (
        put(FIRST, palette(with_value(IGNORE))),
        f"{FIRST} holds 255 at 3 pixels: every pixel needs a class, 0 to",
    ),
    "a JPEG": (put(FIRST, picture(TEST[0])), f"{FIRST} is not a whole PNG: write it again"),
    "cut": (put(FIRST, WHOLE[: len(WHOLE) // 2]), f"{FIRST} is not a whole PNG: write it again"),
    "holes": (put(FIRST, WHOLE[:-40] + bytes(28) + WHOLE[-12:]), f"{FIRST} is not a whole PNG"),
    "empty": (put(FIRST, b""), f"{FIRST} is not a whole PNG"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_refused_by_its_name(name, voc, tmp_path):
    change, message = WRONG[name]
    files = contents(archive_of(voc, tmp_path / "a.tgz"))
    change(files)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        check(voc, pack(tmp_path / "b.tgz", files))
    assert str(caught.value).startswith(f"{tmp_path}/b.tgz is not what PASCAL's evaluation server takes: ")
    assert "Traceback" not in str(caught.value)


def test_one_wrong_file_is_one_problem(voc, tmp_path):
    for change, _ in WRONG.values():
        files = contents(archive_of(voc, tmp_path / "a.tgz"))
        change(files)
        with pytest.raises(ValueError, match=r"takes: [12] problems?\n") as caught:
            check(voc, pack(tmp_path / "b.tgz", files))
        # A wrong name is a file too many and one that is missing.
        assert str(caught.value).count("\n") == int("_pred" in str(caught.value)) + 1


def test_a_file_twice_in_a_tar_is_refused(voc, tmp_path):
    files = contents(archive_of(voc, tmp_path / "a.tgz"))
    with tarfile.open(tmp_path / "b.tgz", "w:gz") as tar:
        for name, content in [*files.items(), (FIRST, files[FIRST])]:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    with pytest.raises(ValueError, match=f"{FIRST} is there twice: leave one out"):
        check(voc, tmp_path / "b.tgz")


def test_all_are_counted_five_are_named_and_each_kind_is_among_them(voc, tmp_path):
    files = contents(archive_of(voc, tmp_path / "a.tgz"))
    for name in TEST[:4]:
        del files[f"{FOLDER}/{name}.png"]
    files[f"{FOLDER}/{TEST[4]}.png"] = palette(with_value(IGNORE))
    files[f"{FOLDER}/{TEST[5]}.png"] = palette(with_value(99, SIZES[0]))
    with pytest.raises(ValueError, match=r"takes: 6 problems") as caught:
        check(voc, pack(tmp_path / "b.tgz", files))
    lines = str(caught.value).splitlines()
    assert [TEST[0] in lines[1], "holds 255" in lines[2]] == [True, True]
    assert len(lines) == 7
    assert lines[-1] == "  … and 1 more: 1 missing"


def test_train_ids_are_recognised(cityscapes, tmp_path):
    def refusal(label: np.ndarray) -> str:
        files = contents(archive_of(cityscapes, tmp_path / "a.zip"))
        files[f"{TEST_FRAMES[0]}_pred_labelIds.png"] = grey(label)
        with pytest.raises(ValueError, match="takes: 1 problem\n") as caught:
            check(cityscapes, pack(tmp_path / "b.zip", files))
        return str(caught.value)

    train_ids = np.arange(24 * 36).reshape(24, 36).astype(np.uint8) % 19
    wrong = "0 to 6, 9 to 10, 14 to 16, 18"
    expected = "these look like train ids (0 to 18); wanted are label ids, 7 for road to 33 for bicycle"
    assert f"berlin_000000_000019_pred_labelIds.png holds {wrong} at " in refusal(train_ids)
    assert expected in refusal(train_ids)
    assert expected in refusal(np.where(train_ids == 3, 255, train_ids).astype(np.uint8))
    for unlike in (34, 9, 255):  # beside a class that no train id is
        label = np.full((24, 36), 33, np.uint8)
        label[0, 0] = unlike
        assert f"holds {unlike} at 1 pixel: every pixel needs a class, 7 to 8, 11 to 13, 17, 19" in refusal(label)


@pytest.mark.parametrize("name", ["results.txt", "a.zip", "half.tgz"])
def test_what_is_no_tar_is_no_archive_for_voc(name, voc, cityscapes, tmp_path):
    path = tmp_path / name
    if name == "results.txt":
        path.write_text("no archive")
        message = r"results\.txt is neither a tar nor a zip, or not whole: PASCAL's evaluation server takes a \.tgz"
    elif name == "a.zip":
        pack(path, contents(archive_of(voc, tmp_path / "a.tgz")))
        message = r"a\.zip is a zip: PASCAL's evaluation server takes a \.tgz"
    else:
        whole = archive_of(voc, tmp_path / "a.tgz").read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        message = r"half\.tgz can't be unpacked"
    with pytest.raises(ValueError, match=message):
        check(voc, path)


def test_what_is_no_zip_is_no_archive_for_cityscapes(voc, cityscapes, tmp_path):
    with pytest.raises(ValueError, match=r"a\.tgz is a tar: Cityscapes' evaluation server takes a zip"):
        check(cityscapes, archive_of(voc, tmp_path / "a.tgz"))
    with pytest.raises(ValueError, match=r"there is no file .*b\.zip: it must be a \.zip archive"):
        check(cityscapes, tmp_path / "b.zip")


def test_many_threads_find_the_same_as_one(voc, tmp_path, monkeypatch):
    files = contents(archive_of(voc, tmp_path / "a.tgz"))
    for name in ("size", "extra", "wrong folder"):
        WRONG[name][0](files)
    files[SECOND] = palette(with_value(IGNORE, SIZES[0]))
    path, refusals = pack(tmp_path / "b.tgz", files), []
    for threads in (1, 5):
        monkeypatch.setattr(parallel, "cores", lambda n=threads: n)
        with pytest.raises(ValueError, match="problems") as caught:
            check(voc, path)
        refusals.append(str(caught.value))
    assert refusals[0] == refusals[1]
    assert f"{SECOND} holds 255" in refusals[0]


def garbage(content: bytes, rng: np.random.Generator) -> bytes:
    """With bits turned, most of them in what comes before the pixels, or cut, its end kept."""
    garbled = bytearray(content)
    for place in rng.integers(0, len(garbled) if rng.random() < 0.3 else 60, rng.integers(1, 4)):
        garbled[place] ^= 1 << rng.integers(0, 8)
    if rng.random() < 0.3:
        del garbled[rng.integers(0, 60) : -8]
    return bytes(garbled)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_garbage_is_only_a_wrong_file_to_the_checker(voc):
    form, rng, kinds = voc.form("test", 6), np.random.default_rng(0), set()
    size = (33, 41)
    content = form.encode(rng.integers(0, 21, size).astype(np.uint8))
    pieces = [content[:8], content[:16], content[:16] + content[-8:], content[:33] + content[-8:], b""]
    for k in range(3000):
        given = pieces[k] if k < len(pieces) else garbage(content, rng)
        problem = check_prediction(form, PackedPrediction(FIRST, TEST[0], given, size))
        if problem is not None:
            assert problem.message.startswith(f"{FIRST} ")
            assert "BytesIO" not in problem.message
            assert problem.picture == TEST[0]
            kinds.add(problem.kind)
    assert kinds >= {"broken", "in colours", "of another size"}


def refusal_of(path: Path, form: Form, names: list[str]) -> str | None:
    try:
        check_archive(path, form, dict.fromkeys(names, (33, 41)), "test", silent)
    except ValueError as error:
        return str(error)
    return None


@pytest.mark.parametrize("end", ["tgz", "zip"])
def test_an_archive_of_garbage_is_refused_or_its_files_are(end, tmp_path):
    form = (VOC("voc", "train", "val") if end == "tgz" else open_cityscapes(Path("cityscapes"))).form("test", 6)
    names, rng = [f"a_{k:06}_000019" for k in range(4)], np.random.default_rng(0)
    write_archive(tmp_path / f"whole.{end}", form, names, lambda _: form.encode(np.zeros((33, 41), np.uint8)))
    whole, path, refused = (tmp_path / f"whole.{end}").read_bytes(), tmp_path / f"a.{end}", 0
    for k in range(600):
        garbled = bytearray(whole)
        for place in rng.integers(0, len(garbled), rng.integers(1, 4)):
            garbled[place] ^= 1 << rng.integers(0, 8)
        path.write_bytes(garbled[: rng.integers(0, len(garbled))] if k % 5 == 0 else garbled)
        message = refusal_of(path, form, names)
        if message is not None:
            assert re.search("is not what|can't be unpacked|neither a tar nor a zip|is a (zip|tar)", message)
            refused += 1
    assert refused > 500


def test_a_second_header_does_not_make_a_png_larger_than_its_first_says(voc):
    content = voc.form("test", 6).encode(np.zeros((33, 41), np.uint8))
    second = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 3, 0, 0, 0)
    second = struct.pack(">I", 13) + second + struct.pack(">I", zlib.crc32(second))
    problem = check_prediction(
        voc.form("test", 6), PackedPrediction(FIRST, TEST[0], content[:33] + second + content[33:], (33, 41))
    )
    assert problem is not None
    assert problem.kind == "broken"


@pytest.mark.parametrize("end", ["tgz", "zip"])
def test_an_archive_is_written_and_checked_without_being_in_memory(end, tmp_path):
    """60 predictions of 1 MB of incompressible noise. The memory of Pillow and other libraries is not traced."""
    form = (VOC("voc", "train", "val") if end == "tgz" else open_cityscapes(Path("cityscapes"))).form("test", 6)
    names = [f"2008_{k:06}" if end == "tgz" else f"berlin_{k:06}_000019" for k in range(60)]
    noise = np.random.default_rng(0).integers(0, len(form.values), (1000, 1800)).astype(np.uint8)
    content = form.encode(noise)
    assert len(content) > 1e6
    tracemalloc.start()
    try:
        write_archive(tmp_path / f"a.{end}", form, names, lambda _: bytes(bytearray(content)))
        written = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        check_archive(tmp_path / f"a.{end}", form, dict.fromkeys(names, noise.shape), "test", silent)
        checked = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / f"a.{end}").stat().st_size > 50e6
    assert written < 10e6
    assert checked < (6 + 3 * cores()) * 1e6 + 10e6


# ---- what the benchmarks make of it ---------------------------------------------------------------------------------
def ours(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int) -> Scores:
    counts = [confusion(torch.from_numpy(guess), torch.from_numpy(truth), classes) for guess, truth in pairs]
    return Scores.of(torch.stack(counts).sum(0))


def development_kit(results: list[np.ndarray], truths: list[np.ndarray]) -> tuple[list[float], float]:
    """VOC's accuracies in %, from their definition: of the pixels that are not void, those of the class in both, over
    those of the class in either, pictures together; and their mean, background included."""
    accuracies = []
    for c in range(21):
        both = either = 0
        for result, truth in zip(results, truths):
            known = truth != 255
            both += int(((result == c) & (truth == c) & known).sum())
            either += int((((result == c) | (truth == c)) & known).sum())
        accuracies.append(100 * both / either)
    return accuracies, sum(accuracies) / 21


def test_vocs_own_formula_gives_our_scores(tmp_path):
    root, names = tmp_path / "VOC2012", tuple(f"2009_{k:06}" for k in range(24))
    truths = {name: written.label for name, written in write_voc(root, {"val": names}).items()}
    assert set(range(21)) | {255} <= {int(v) for label in truths.values() for v in np.unique(label)}
    form, draw = VOC(str(root), "train", "val").form("val", 6), np.random.default_rng(0)
    guesses = {}
    for name, truth in truths.items():
        noise = draw.integers(0, 21, truth.shape)
        guesses[name] = np.where((truth == 255) | (draw.random(truth.shape) < 0.3), noise, truth).astype(np.uint8)
    write_archive(tmp_path / "a.tgz", form, guesses, lambda name: form.encode(guesses[name]))
    files = contents(tmp_path / "a.tgz")
    results = [np.asarray(opened(files[form.path(name)])) for name in names]
    accuracies, mean = development_kit(results, [truths[name] for name in names])
    scores = ours([(guesses[name], truths[name]) for name in names], 21)
    np.testing.assert_allclose(100 * scores.iou, accuracies, atol=1e-9)
    assert 100 * scores.mean_iou == pytest.approx(mean, abs=1e-9)
    assert 30 < mean < 70


def test_cityscapes_own_evaluation_gives_our_scores(cityscapes, tmp_path, monkeypatch):
    official = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    draw, pairs, truths = np.random.default_rng(0), [], []
    form = cityscapes.form("train", 6)
    for name in FRAMES["train"]:
        path = cityscapes.root / f"gtFine/train/{name.split('_')[0]}/{name}_gtFine_labelIds.png"
        stored = np.asarray(opened(path.read_bytes()))
        # Its tools draw no licence plate (-1, here 255) into a label file, and its evaluation refuses one.
        Image.fromarray(np.where(stored == 255, 4, stored).astype(np.uint8)).save(path)
        truths.append(str(path))
    guesses = {}
    for sample in cityscapes.split("train"):
        noise = draw.integers(0, 15, sample.label.shape)  # four of the classes are never said
        wrong = (sample.label == IGNORE) | (draw.random(sample.label.shape) < 0.4)
        guesses[sample.name] = np.where(wrong, noise, sample.label).astype(np.uint8)
        pairs.append((guesses[sample.name], np.array(sample.label)))
    write_archive(tmp_path / "a.zip", form, guesses, lambda name: form.encode(guesses[name]))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        archive.extractall(tmp_path / "results")
    settings = {"evalInstLevelScore": False, "JSONOutput": False, "quiet": True, "predictionWalk": None}
    for key, value in {**settings, "predictionPath": str(tmp_path / "results")}.items():
        monkeypatch.setattr(official.args, key, value)
    predicted = [official.getPrediction(official.args, truth) for truth in truths]
    official_scores = official.evaluateImgLists(predicted, truths, official.args)

    scores = ours(pairs, 19)
    expected = [official_scores["classScores"][name] for name in cityscapes.labels.names]
    np.testing.assert_allclose(scores.iou, expected, atol=1e-9)
    assert scores.mean_iou == pytest.approx(official_scores["averageScoreClasses"], abs=1e-9)
    assert 0.2 < scores.mean_iou < 0.8
    evaluated = {label.id: label.name for label in official.labels if not label.ignoreInEval}
    assert dict(zip(form.values, form.names)) == evaluated
