"""From archives to a dataset's folder: the whole of it for each dataset, and what can go wrong on the way."""

import http.server
import os
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from miniature import ARCHIVES, TRAIN, VAL, context_json, pack, prepared, silent

from atrous.data import camvid, cityscapes, coco, context, person_part, voc
from atrous.data.archive import fetch
from atrous.data.files import Files
from atrous.data.prepare import Archives, Convert, Lists, Unpack, preparing

DATASETS: dict[str, Callable[..., Files]] = {
    "voc": partial(voc.VOC, train="trainaug", val="val"),
    "context": partial(context.Context, train="train", val="val", classes=60),
    "person_part": partial(person_part.PersonPart, train="train", val="val"),
    "cityscapes": partial(cityscapes.Cityscapes, train="train+train_extra", val="val", size="full"),
    "coco": partial(coco.COCO, train="train2017", val="val2017"),
    "camvid": partial(camvid.CamVid, train="train", val="val"),
}


class Broken(Exception):
    pass


def tree(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", DATASETS)
def test_a_repeat_reads_no_archive_and_changes_nothing(name, tmp_path):
    ARCHIVES[name](tmp_path / "archives")
    prepared(DATASETS[name](root=str(tmp_path / "root")), tmp_path / "archives")
    before = tree(tmp_path / "root")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*.png")}
    prepared(DATASETS[name](root=str(tmp_path / "root")), tmp_path / "nowhere")
    assert tree(tmp_path / "root") == before
    assert all(path.stat().st_mtime_ns == at for path, at in times.items())


@pytest.mark.parametrize("name", DATASETS)
def test_interrupted_anywhere_and_repeated_it_ends_as_an_uninterrupted_one(name, tmp_path):
    ARCHIVES[name](tmp_path / "archives")
    calls = 0

    def count(done: int, total: int) -> None:
        nonlocal calls
        calls += 1

    prepared(DATASETS[name](root=str(tmp_path / "whole")), tmp_path / "archives", count)
    whole = tree(tmp_path / "whole")
    assert calls > 10
    for at in range(1, calls + 1):
        root, left = tmp_path / f"broken{at}", at

        def breaks(done: int, total: int) -> None:
            nonlocal left
            left -= 1
            if not left:
                raise Broken

        with pytest.raises(Broken):
            prepared(DATASETS[name](root=str(root)), tmp_path / "archives", breaks)
        assert tree(root) != whole or at == calls
        prepared(DATASETS[name](root=str(root)), tmp_path / "archives")
        assert tree(root) == whole


def test_killed_it_continues_with_what_is_missing(tmp_path):
    ARCHIVES["voc"](tmp_path / "archives")
    prepared(DATASETS["voc"](root=str(tmp_path / "whole")), tmp_path / "archives")
    root = tmp_path / "killed"
    slow = f"""
import time
from collections.abc import Callable
from pathlib import Path
from atrous.data.voc import VOC
from miniature import prepared
voc = VOC({str(root)!r}, "trainaug", "val")
prepared(voc, Path({str(tmp_path / "archives")!r}), lambda done, total: time.sleep(0.05))
"""
    process = subprocess.Popen([sys.executable, "-c", slow], env={**os.environ, "PYTHONPATH": "tests"})
    while not list(root.rglob("SegmentationClassAug/*.png")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (root / "ImageSets/SegmentationAug/trainaug.txt").exists()
    prepared(DATASETS["voc"](root=str(root)), tmp_path / "archives")
    assert tree(root) == tree(tmp_path / "whole")


def test_a_tree_that_the_user_unpacked_needs_no_archive(tmp_path):
    ARCHIVES["voc"](tmp_path / "archives")
    root = tmp_path / "VOCdevkit/VOC2012"
    for name in ("VOCtrainval_11-May-2012.tar", "benchmark.tgz"):
        subprocess.run(["tar", "xf", tmp_path / "archives" / name, "-C", tmp_path], check=True)
    (tmp_path / "benchmark_RELEASE/dataset/cls").rename(root / "cls")
    prepared(DATASETS["voc"](root=str(root)), tmp_path / "nowhere")
    assert (root / "ImageSets/SegmentationAug/trainaug.txt").exists()


def test_a_missing_archive_says_what_it_is_where_it_is_wanted_and_how_to_get_it(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        prepared(DATASETS["voc"](root=str(tmp_path / "root")), tmp_path / "archives")
    for part in (f"VOCtrainval_11-May-2012.tar in {tmp_path}/archives", "2 GB", "archives=", "download=true"):
        assert part in str(caught.value)
    with pytest.raises(FileNotFoundError) as caught:
        prepared(DATASETS["cityscapes"](root=str(tmp_path / "root")), tmp_path / "archives")
    message = str(caught.value)
    assert "need a login" in message
    assert "gtFine/train/aachen/aachen_000000_000019_gtFine_labelIds.png" in message
    assert "download" not in message.splitlines()[-1]  # which needs the login
    assert len(message.splitlines()) <= 6


def test_voc_alone_is_ready_where_sbd_is_missing(tmp_path):
    ARCHIVES["voc"](tmp_path / "archives")
    (tmp_path / "archives/benchmark.tgz").unlink()
    dataset = DATASETS["voc"](root=str(tmp_path / "root"), train="train")
    with pytest.raises(FileNotFoundError, match=r"benchmark\.tgz[\s\S]*data\.train=train"):
        prepared(dataset, tmp_path / "archives")
    assert [s.name for s in dataset.split("train")] == list(TRAIN)


def test_archives_of_one_name_are_distinguished_by_their_files(tmp_path):
    ARCHIVES["person_part"](tmp_path / "archives")
    with pytest.raises(FileNotFoundError, match=r"no pascal-context\.tar\.gz"):
        prepared(DATASETS["context"](root=str(tmp_path / "root")), tmp_path / "archives")


# ---------------------------------------------------------------- the steps by themselves


def unpack(root: Path, **more) -> Unpack:
    return Unpack("a", root, ("a.tar.gz", "b.tar.gz"), source="An archive.", strip="top/", **more)


def test_only_what_is_wanted_is_unpacked_and_nothing_outside(tmp_path):
    files = {"top/in/x": b"1", "top/out/y": b"2", "else/in/z": b"3", "top/in/../../../evil": b"4", "top/in/._x": b"5"}
    pack(tmp_path / "a.tar.gz", {"/top/in/absolute": b"6", **files})
    unpack(tmp_path / "root", keep=("in/",), gives=("in",)).run(Archives(tmp_path), silent)
    assert {name for name in tree(tmp_path / "root") if not name.startswith(".prepared")} == {"in/x"}
    assert not (tmp_path / "evil").exists()


def test_an_archive_that_ends_early_is_named_and_what_came_out_is_whole(tmp_path):
    draw = np.random.default_rng(0)
    whole = pack(tmp_path / "a.tar.gz", {f"top/{i}": draw.bytes(5000) for i in range(20)}).read_bytes()
    (tmp_path / "a.tar.gz").write_bytes(whole[: len(whole) // 2])
    step = unpack(tmp_path / "root", gives=("19",))
    with pytest.raises(ValueError, match=r"a\.tar\.gz can't be unpacked .* is it whole"):
        step.run(Archives(tmp_path), silent)
    assert not step.done()
    assert {path.stat().st_size for path in (tmp_path / "root").glob("[0-9]*")} == {5000}
    (tmp_path / "a.tar.gz").write_bytes(whole)
    step.run(Archives(tmp_path), silent)
    assert step.done()


def test_an_archive_of_something_else_is_refused(tmp_path):
    pack(tmp_path / "a.tar.gz", {"top/other": b""})
    with pytest.raises(ValueError, match=r"holds no top/in: it is the wrong archive.\nAn archive"):
        unpack(tmp_path / "root", gives=("in",)).run(Archives(tmp_path), silent)


def test_a_checksum_that_differs_is_refused_unless_it_is_not_asked_for(tmp_path):
    pack(tmp_path / "a.tar.gz", {"top/x": b""})
    step = unpack(tmp_path / "root", md5="0" * 32, gives=("x",))
    with pytest.raises(ValueError, match=r"a\.tar\.gz is incomplete, or not the published archive .*checksum=false"):
        step.run(Archives(tmp_path), silent)
    assert not (tmp_path / "root").exists()
    step.run(Archives(tmp_path, checksum=False), silent)
    assert step.done()


def twice(number: int) -> bytes:
    if number == 13:
        raise ValueError("13 is bad luck")
    return str(2 * number).encode()


def test_conversion_on_all_cores_makes_what_is_missing_and_only_that(tmp_path):
    jobs = {tmp_path / f"out/{i}": i for i in range(14, 60)}
    step = Convert("c", tmp_path / "stamp", lambda: jobs, twice)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/20").write_bytes(b"mine")
    reports = []
    step.run(Archives(tmp_path), lambda done, total: reports.append((done, total)))
    assert (tmp_path / "out/20").read_bytes() == b"mine"
    assert all(path.read_bytes() == twice(i) for path, i in jobs.items() if i != 20)
    assert reports[-1] == (46, 46)
    assert step.done()


def test_a_source_that_cant_be_converted_ends_it_by_name_and_is_tried_again(tmp_path):
    jobs = {tmp_path / f"out/{i}": i for i in range(40)}
    step = Convert("c", tmp_path / "stamp", lambda: jobs, twice)
    with pytest.raises(ValueError, match="13 is bad luck"):
        step.run(Archives(tmp_path), silent)
    assert not step.done()


def test_lists_are_sorted_and_follow_the_files(tmp_path):
    names = ["b", "a"]
    step = Lists("l", {tmp_path / "lists/x.txt": lambda: names})
    step.run(Archives(tmp_path), silent)
    names.append("0")
    assert not step.done()
    assert step.run(Archives(tmp_path), silent) == "x 3"
    assert (tmp_path / "lists/x.txt").read_text() == "0\na\nb\n"


def test_only_one_process_prepares_a_root(tmp_path):
    with (
        preparing(tmp_path / "root"),
        pytest.raises(ValueError, match="another process is preparing"),
        preparing(tmp_path / "root"),
    ):
        pass
    with preparing(tmp_path / "root"):
        pass


# ---------------------------------------------------------------- downloading

CONTENT = np.random.default_rng(1).bytes(3 << 20)


class Server(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT from where it is asked to; `breaks_at`: the connection is gone after so many bytes."""

    asked: list[str | None] = []
    breaks_at: int | None = None
    ranges = True

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        Server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.ranges else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if wanted and self.ranges else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        self.wfile.write(CONTENT[start : self.breaks_at])

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def url():
    Server.asked, Server.breaks_at, Server.ranges = [], None, True
    # Not an HTTPServer, which asks the network for its own name.
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/a.tar"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_was_interrupted_continues(url, ranges, tmp_path):
    Server.breaks_at = 1 << 20
    with pytest.raises(ValueError, match="continues the download"):
        fetch(url, tmp_path / "a", silent)
    assert not (tmp_path / "a").exists()
    Server.breaks_at, Server.ranges = None, ranges
    fetch(url, tmp_path / "a", silent)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert Server.asked == [None, f"bytes={1 << 20}-"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_download_that_was_interrupted_at_its_very_end_is_whole(url, tmp_path):
    (tmp_path / "a.download").write_bytes(CONTENT)
    fetch(url, tmp_path / "a", silent)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_nothing_is_downloaded_unless_asked_for(url, tmp_path):
    step = unpack(tmp_path / "root", url=url)
    with pytest.raises(FileNotFoundError, match="download=true"):
        step.run(Archives(tmp_path / "archives"), silent)
    assert Server.asked == []


def test_a_download_is_checked_before_it_is_unpacked(url, tmp_path):
    step = unpack(tmp_path / "root", url=url, md5="0" * 32)
    with pytest.raises(ValueError, match="incomplete, or not the published archive"):
        step.run(Archives(tmp_path / "archives", download=True), silent)
    assert not (tmp_path / "root").exists()


def test_a_server_that_does_not_answer_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:9/x can't be downloaded"):
        fetch("http://127.0.0.1:9/x", tmp_path / "x", silent)


# ---------------------------------------------------------------- PASCAL-Context's second form


def test_both_forms_of_pascal_context_give_the_same_labels(tmp_path):
    ARCHIVES["context"](tmp_path / "archives")
    of_mat = prepared(DATASETS["context"](root=str(tmp_path / "mat")), tmp_path / "archives")
    (tmp_path / "archives/trainval.tar.gz").unlink()
    context_json(tmp_path / "json/trainval_merged.json")
    of_json = prepared(DATASETS["context"](root=str(tmp_path / "json")), tmp_path / "archives")
    for split in ("train", "val"):
        one, other = of_mat.split(split), of_json.split(split)
        assert [s.name for s in one] == [s.name for s in other] == list(TRAIN if split == "train" else VAL)
        assert all((a.label == b.label).all() for a, b in zip(one, other))
