"""The decoded copy: equal to the files, never stale, never torn."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from miniature import ARCHIVES, prepared, write_palette_png, write_voc
from torch.utils.data import DataLoader
from warm import cold

from atrous.augment import Augment
from atrous.batch import LabelSpace
from atrous.data import cache, parallel
from atrous.data.cache import Decoded
from atrous.data.camvid import CamVid
from atrous.data.cityscapes import Cityscapes
from atrous.data.image import Unreadable, Values
from atrous.data.pairs import Pairs
from atrous.data.voc import VOC

NAMES = tuple(f"{k:03}" for k in range(20))
SIZES = ((40, 57), (51, 44), (1, 1), (1, 33), (7, 1))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_voc(tmp_path / "root", {"train": NAMES, "val": NAMES[:3]}, SIZES)
    return tmp_path / "root"


def copy_of(root: Path, split: str = "train", fill: bool = True) -> Decoded:
    decoded = VOC(str(root), "train", "val", cache=str(root.parent / "cache")).split(split)
    assert isinstance(decoded, Decoded)
    if fill:
        decoded.fill()
    return decoded


def equal(one, other) -> bool:
    return all(
        (a.image == b.image).all() and (a.label == b.label).all() and a.name == b.name
        for a, b in zip(one, other, strict=True)
    )


def test_the_copy_holds_what_the_files_hold_whatever_the_sizes(root):
    decoded = copy_of(root)
    files = VOC(str(root), "train", "val").split("train")
    assert len(decoded) == 20
    assert equal(decoded, files)
    assert equal(decoded[3:7], files[3:7])
    assert decoded[-1].name == NAMES[-1]
    with pytest.raises(IndexError):
        decoded[20]


def test_a_sample_is_a_view_that_cant_be_written(root):
    decoded = copy_of(root)
    for image, label, _ in decoded[:5]:
        for array in (image, label):
            assert np.shares_memory(array, decoded._pixels)
            assert not array.flags.writeable
            assert array.flags.c_contiguous


@pytest.mark.parametrize("workers", [0, 2])
def test_augmented_it_is_what_the_files_are_in_any_process(root, workers):
    augment = Augment(33, scales=[0.5, 1, 1.5])
    decoded, files = pickle.loads(pickle.dumps(copy_of(root))), VOC(str(root), "train", "val").split("train")
    loader = DataLoader(decoded, batch_size=None, num_workers=workers, collate_fn=lambda sample: sample)
    for seed, (one, other) in enumerate(zip(loader, files)):
        assert equal([augment(one, seed)], [augment(other, seed)])


def test_a_file_that_changed_is_decoded_again(root):
    copy_of(root)
    label = np.full((40, 57), 5, np.uint8)
    path = root / "SegmentationClass" / f"{NAMES[0]}.png"
    write_palette_png(path, label)
    os.utime(path, ns=(1, 1))
    assert (copy_of(root)[0].label == 5).all()


def test_what_the_values_mean_is_part_of_what_was_copied(tmp_path):
    write_voc(tmp_path / "root", {"train": NAMES}, classes=11)
    path = tmp_path / "root" / "SegmentationClass" / f"{NAMES[0]}.png"
    pairs = CamVid(str(tmp_path / "root"), "train", "val").pairs("train")
    labels = LabelSpace([str(k) for k in range(11)])
    plain = Decoded(pairs, tmp_path / "cache", str(Values.plain(labels).meaning))
    other = Decoded(pairs, tmp_path / "cache", str({**Values.plain(labels).meaning, 3: 4}))
    assert plain._key != other._key
    full, half = (Cityscapes(root=str(path), train="train", val="val", size=size) for size in ("full", "half"))
    assert full.meaning() != half.meaning()


def test_the_key_is_the_same_in_every_process(root):
    code = f"""
from atrous.data.voc import VOC
print(VOC({str(root)!r}, "train", "val", cache="x").split("train")._key)
"""
    with cold():  # a fork has the seed of who it was forked from
        keys = {
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed}
            ).stdout.strip()
            for seed in ("1", "2")
        }
    assert keys == {copy_of(root, fill=False)._key}


class Broken(Exception):
    pass


@pytest.mark.parametrize("at", [1, 4, 11, 20])
def test_an_interrupted_copy_ends_as_an_uninterrupted_one_and_decodes_nothing_twice(at, root, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", 4)
    whole = copy_of(root)
    pixels, index = whole._path("pixels").read_bytes(), whole._path("index").read_bytes()
    for path in whole.folder.iterdir():
        path.unlink()

    def breaks(done: int, total: int) -> None:
        if done == at:
            raise Broken

    decoded = copy_of(root, fill=False)
    with pytest.raises(Broken):
        decoded.fill(breaks)
    assert not decoded._path("index").exists()
    decoded_after: list[int] = []
    decoded.fill(lambda done, total: decoded_after.append(done))
    assert decoded_after == list(range(at // 4 * 4 + 1, 21))
    assert decoded._path("pixels").read_bytes() == pixels
    assert decoded._path("index").read_bytes() == index


def breaks_at(stop: int):
    def report(done: int, total: int) -> None:
        if done == stop:
            raise Broken

    return report


@pytest.mark.parametrize("then", ["broken off at once", "no room", "cut short"])
def test_progress_on_missing_pixels_counts_for_nothing(root, monkeypatch, then):
    monkeypatch.setattr(cache, "CHUNK", 4)
    with pytest.raises(Broken):
        copy_of(root, fill=False).fill(breaks_at(12))
    pixels = copy_of(root, fill=False)._path("pixels")
    if then == "cut short":
        os.truncate(pixels, 1000)
    else:
        pixels.unlink()  # to free some space, say
    if then == "broken off at once":
        with pytest.raises(Broken):
            copy_of(root, fill=False).fill(breaks_at(1))
    if then == "no room":
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", fails_with(errno.ENOSPC))
            with pytest.raises(ValueError, match="no room"):
                copy_of(root)
    assert equal(copy_of(root), VOC(str(root), "train", "val").split("train"))


def test_killed_it_continues_where_it_stopped(root):
    slow = f"""
import time
from atrous.data import cache
from atrous.data.voc import VOC
cache.CHUNK = 2
voc = VOC({str(root)!r}, "train", "val", cache={str(root.parent / "cache")!r})
voc.split("train").fill(lambda done, total: time.sleep(0.2))
"""
    process = subprocess.Popen([sys.executable, "-c", slow])
    while not list(root.parent.glob("cache/voc/*.progress")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    decoded, decoded_after = copy_of(root, fill=False), []
    decoded.fill(lambda done, total: decoded_after.append(done))
    assert decoded_after[0] > 2
    assert equal(decoded, VOC(str(root), "train", "val").split("train"))


def test_when_two_processes_fill_at_once_one_does_the_work(root):
    code = f"""
import time
from atrous.data.voc import VOC
worked = []
decoded = VOC({str(root)!r}, "train", "val", cache={str(root.parent / "cache")!r}).split("train")
print("ready", flush=True)
input()
decoded.fill(lambda done, total: (worked.append(done), time.sleep(0.02)))
print(len(worked), decoded[19].name)
"""
    pair = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    for process in pair:  # each has imported what it needs, so that they begin together
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in pair:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    outputs = [process.communicate()[0].split() for process in pair]
    assert sorted(outputs) == [["0", NAMES[19]], ["20", NAMES[19]]]
    assert equal(copy_of(root), VOC(str(root), "train", "val").split("train"))


def fails_with(number: int):
    def call(*_):
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync"])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_reported_with_how_much_is_needed(root, monkeypatch, call, workers):
    monkeypatch.setattr(cache, "spread", partial(parallel.spread, workers=workers))
    monkeypatch.setattr(os, call, fails_with(errno.ENOSPC))
    with pytest.raises(ValueError, match=r"^the decoded copy in .* needs 0\.0 GB, .* no room for .*data\.cache=null"):
        copy_of(root)


def test_where_there_is_too_little_room_none_is_kept(root, monkeypatch):
    def takes_what_is_left(file, offset, length):  # as ext4 does
        os.ftruncate(file, length // 2)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", takes_what_is_left)
    with pytest.raises(ValueError, match="no room"):
        copy_of(root)
    assert copy_of(root, fill=False)._path("pixels").stat().st_size == 0


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_where_no_room_can_be_reserved_it_is_filled_all_the_same(root, monkeypatch, number):
    monkeypatch.setattr(os, "posix_fallocate", fails_with(number))
    assert equal(copy_of(root), VOC(str(root), "train", "val").split("train"))


@pytest.mark.parametrize("content", [b"", b"junk" * 20, None])
def test_a_torn_index_counts_for_nothing(root, content):
    decoded = copy_of(root)
    path = decoded._path("index")
    path.write_bytes(path.read_bytes()[:-3] if content is None else content)
    again = copy_of(root)
    assert equal(again, VOC(str(root), "train", "val").split("train"))


def test_an_unreadable_picture_stops_it_or_is_left_out(root):
    for name in (NAMES[4], NAMES[6]):
        path = root / "JPEGImages" / f"{name}.jpg"
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Unreadable, match=rf"{NAMES[6]}\.jpg can't be read"):
        copy_of(root, fill=False).fill(max_bad=1)
    decoded = copy_of(root, fill=False)
    decoded.fill(max_bad=2)
    assert equal(decoded[7:], VOC(str(root), "train", "val").split("train")[7:])
    with pytest.raises(Unreadable, match=rf"{NAMES[4]}\.jpg can't be read"):
        decoded[4]
    with pytest.raises(Unreadable):
        copy_of(root, fill=False).fill(max_bad=0)  # of a copy that was made with more leave


@pytest.mark.parametrize("workers", [1, 2])
def test_any_other_error_stops_it_by_name(root, monkeypatch, workers):
    monkeypatch.setattr(cache, "spread", partial(parallel.spread, workers=workers))
    write_palette_png(root / "SegmentationClass" / f"{NAMES[5]}.png", np.full((40, 57), 77, np.uint8))
    path = root / "SegmentationClass" / f"{NAMES[5]}.png"
    with pytest.raises(ValueError, match=rf"^{path} holds the label 77"):  # and no traceback of a worker's before it
        copy_of(root, fill=False).fill(max_bad=9)


def test_on_all_cores_it_is_the_same(root, monkeypatch):
    alone = copy_of(root)
    pixels = alone._path("pixels").read_bytes()
    alone._path("index").unlink()
    monkeypatch.setattr(cache, "spread", partial(parallel.spread, workers=2))
    assert copy_of(root)._path("pixels").read_bytes() == pixels


def test_half_of_a_picture_is_half_as_large_in_the_copy(tmp_path):
    ARCHIVES["cityscapes"](tmp_path / "archives")
    half = partial(Cityscapes, root=str(tmp_path / "root"), train="train", val="val", size="half")
    prepared(half(), tmp_path / "archives")
    files = half().split("train")
    decoded = half(cache=str(tmp_path / "cache")).split("train")
    assert isinstance(decoded, Decoded)
    assert isinstance(files, Pairs)
    decoded.fill()
    assert equal(decoded, files)
