import json
import os
import shutil
import subprocess
import sys
import time
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from running import atrous, ended, started, wait_until

from atrous import load
from atrous.__main__ import main
from atrous.crf import GridCRF, Superpixels
from atrous.data.photo import read_photo
from atrous.data.shapes import Shapes
from atrous.draw.colour import overlay
from atrous.inference import predict

H, W = 41, 57
VIDEO = pytest.mark.skipif(find_spec("imageio_ffmpeg") is None, reason="needs the extra [video]: imageio-ffmpeg")


def photo(seed: int = 0, height: int = H, width: int = W) -> np.ndarray:
    return Shapes(size=[height, width], val_pictures=seed + 1).split("val")[seed].image


def stored(path: Path | str) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo()).save("photo.png")
    return tmp_path


@pytest.fixture
def predicted(trained):
    """Runs the verb on the network that was trained once, into the folder `out`."""

    def run(images: str, *overrides: str) -> None:
        assert main(["predict", f"run='{trained}'", f"images='{images}'", "out=out", *overrides]) == 0

    return run


def refusal(capsys, *overrides: str) -> str:
    assert main(["predict", *overrides]) == 2
    message = capsys.readouterr().err
    assert message.startswith("atrous predict: ")
    assert len(message.splitlines()) == 1
    return message


# ---- one picture ----------------------------------------------------------------------------------------------------
def test_the_labels_are_those_of_the_python_interface_in_the_palette_of_the_run(here, trained, predicted):
    segmenter = load(trained)
    predicted("photo.png")
    label = segmenter.segment("photo.png")
    assert len(np.unique(label)) > 2  # there is something to confuse
    assert (stored("out/photo.png") == label).all()
    with Image.open("out/photo.png") as index:
        assert index.mode == "P"
        assert (np.array(index.convert("RGB")) == segmenter.palette[label]).all()
        assert (np.array(index.getpalette()).reshape(-1, 3)[: len(segmenter.palette)] == segmenter.palette).all()


def test_the_overlay_is_the_picture_through_its_labels_above_the_classes_that_occur(here, trained, predicted):
    segmenter = load(trained)
    predicted("photo.png", "alpha=0.3")
    drawn, label = stored("out/photo_overlay.png"), stored("out/photo.png")
    assert (drawn[:H, :W] == overlay(photo(), label, segmenter.palette, 0.3)).all()
    below = {tuple(rgb) for rgb in drawn[H:].reshape(-1, 3).tolist()}
    for value, rgb in enumerate(map(tuple, segmenter.palette.tolist())):
        assert (rgb in below) == (value in label), segmenter.classes[value]
    predicted("photo.png", "alpha=0.3", "legend=false")
    assert (stored("out/photo_overlay.png") == drawn[:H, :W]).all()


def test_probabilities_are_kept_as_half_floats_and_agree_with_the_labels(here, trained, predicted):
    predicted("photo.png", "probs=true", "overlay=false")
    probs = np.load("out/photo.npy")
    assert probs.dtype == np.float16
    np.testing.assert_allclose(probs, load(trained).probs("photo.png"), atol=1e-3)
    assert (probs.argmax(0) == stored("out/photo.png")).all()
    assert sorted(path.name for path in Path("out").iterdir()) == ["photo.npy", "photo.png"]


def test_the_crf_refines_as_in_python(here, trained, predicted):
    predicted("photo.png")
    plain = stored("out/photo.png")
    predicted("photo.png", "crf=shapes")  # that of the run
    assert (stored("out/photo.png") == load(trained).segment("photo.png", crf=True)).all()
    predicted("photo.png", "crf=v2")
    assert (stored("out/photo.png") != plain).any()


@pytest.mark.parametrize(
    ("overrides", "crf"),
    [
        (["crf=grid", "crf.sigma_beta=60"], GridCRF(5, 60, 1)),
        (["crf=superpixels", "crf.segments=9"], Superpixels(9)),
    ],
    ids=["grid", "superpixels"],
)
def test_another_refiner_refines_as_in_python(here, trained, predicted, overrides, crf):
    predicted("photo.png", *overrides)
    probs = torch.from_numpy(load(trained).probs("photo.png"))[None]
    expected = crf(torch.from_numpy(photo()).permute(2, 0, 1)[None], probs)[0].argmax(0)
    assert (stored("out/photo.png") == expected.numpy()).all()
    assert (expected != probs[0].argmax(0)).any()


def test_one_look_of_the_picture_s_own_size_is_the_plain_one_and_others_are_not(here, predicted):
    predicted("photo.png", "probs=true")
    plain = np.load("out/photo.npy")
    predicted("photo.png", "probs=true", "tta.scales=[1.0]", "slide.crop=999")
    assert (np.load("out/photo.npy") == plain).all()
    for overrides in (["tta.scales=[0.75,1]"], ["tta.flip=true"], ["slide.crop=33"]):
        predicted("photo.png", "probs=true", *overrides)
        assert (np.load("out/photo.npy") != plain).any(), overrides


def test_the_folder_is_otherwise_the_run_s(copy, here):
    assert main(["predict", f"run='{copy}'", "images=photo.png"]) == 0
    assert sorted(path.name for path in (copy / "predict").iterdir()) == ["photo.png", "photo_overlay.png"]


def test_an_exported_program_gives_the_labels_of_its_run_though_that_was_trained_in_bf16(copy, here):
    file = copy / "checkpoint" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    saved["atrous"]["config"]["trainer"]["precision"] = "bf16-mixed"
    torch.save(saved, file)
    assert main(["export", f"run='{copy}'", "format=torch_export", "out=n.pt2"]) == 0
    assert main(["predict", "run=n.pt2", "images=photo.png"]) == 0
    assert (stored("n/predict/photo.png") == load(copy).segment("photo.png")).all()


# ---- any picture ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_photo_is_turned_as_its_camera_noted(here, trained, suffix, orientation):
    picture = Image.fromarray(photo())
    picture.getexif()[0x0112] = orientation
    picture.save(f"turned.{suffix}", exif=picture.getexif())
    Image.fromarray(photo()).save(f"plain.{suffix}")
    seen = Image.fromarray(stored(f"plain.{suffix}"))
    seen.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(seen))
    assert upright.shape[:2] == ((H, W) if orientation < 5 else (W, H))
    segmenter = load(trained)
    expected = segmenter.segment(upright)
    assert (segmenter.segment(f"turned.{suffix}") == expected).all()
    with Image.open(f"turned.{suffix}") as opened:
        assert (segmenter.segment(opened) == expected).all()


def test_what_is_made_of_a_turned_photo_has_the_turned_size(here, predicted):
    picture = Image.fromarray(photo())
    picture.getexif()[0x0112] = 6
    picture.save("turned.jpg", exif=picture.getexif())
    predicted("turned.jpg", "legend=false")
    assert stored("out/turned.png").shape == (W, H)
    assert stored("out/turned_overlay.png").shape == (W, H, 3)


def in_mode(mode: str) -> tuple[Image.Image, str, np.ndarray]:
    """A picture of this mode, the suffix of its file, and what a person sees, up to what the file's form loses."""
    rgb = photo()
    grey = np.repeat(rgb[..., :1], 3, 2)
    alpha = np.where(np.arange(W) < 20, 0, 255).astype(np.uint8) * np.ones((H, 1), np.uint8)
    if mode == "L":
        return Image.fromarray(grey[..., 0]), "jpg", grey
    if mode == "I;16":
        return Image.fromarray(grey[..., 0].astype(np.uint16) * 257), "png", grey
    if mode == "1":
        bits = rgb[..., 0] > 128
        return Image.fromarray(bits), "png", np.repeat(bits[..., None], 3, 2).astype(np.uint8) * 255
    if mode == "CMYK":
        return Image.fromarray(rgb).convert("CMYK"), "jpg", rgb
    if mode == "P":
        few = Image.fromarray(rgb).quantize(64)
        return few, "gif", np.array(few.convert("RGB"))
    on_white = np.where(alpha[..., None] == 0, 255, grey if mode == "LA" else rgb).astype(np.uint8)
    return Image.fromarray(np.dstack([grey[..., 0] if mode == "LA" else rgb, alpha])), "png", on_white


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1", "CMYK", "P", "RGBA"])
def test_a_picture_of_any_mode_is_seen_as_a_person_sees_it(here, trained, predicted, mode):
    picture, suffix, seen = in_mode(mode)
    assert picture.mode == mode
    picture.save(f"x.{suffix}", quality=100)
    predicted(f"x.{suffix}", "alpha=0", "legend=false")
    shown = stored("out/x_overlay.png").astype(int)
    assert np.abs(shown - seen).max() <= (12 if suffix == "jpg" else 0)
    segmenter = load(trained)
    assert (stored("out/x.png") == segmenter.segment(shown.astype(np.uint8))).all()
    with Image.open(f"x.{suffix}") as opened:
        assert (segmenter.segment(opened) == stored("out/x.png")).all()


def test_a_palette_with_a_transparent_entry_is_seen_on_white(here, predicted):
    index = Image.fromarray((photo()[..., 0] > 128).astype(np.uint8))
    index.putpalette([200, 10, 10, 10, 10, 200])
    index.save("x.png", transparency=0)
    predicted("x.png", "alpha=0", "legend=false")
    dark = photo()[..., 0] <= 128
    assert dark.any()
    assert (stored("out/x_overlay.png")[dark] == 255).all()
    assert (stored("out/x_overlay.png")[~dark] == (10, 10, 200)).all()


@pytest.mark.parametrize("orientation", [1, 6])
def test_16_bits_of_grey_with_a_transparent_value_are_seen_as_8_on_white(here, predicted, orientation):
    grey = photo()[..., 0].astype(np.uint16) * 256 + 7
    clear = int(grey[5, 5])
    picture = Image.fromarray(grey)
    picture.getexif()[0x0112] = orientation
    picture.save("x.png", transparency=clear, exif=picture.getexif())
    predicted("x.png", "alpha=0", "legend=false")
    seen = np.where(grey == clear, 255, grey >> 8)
    assert len(np.unique(seen)) > 9
    shown = stored("out/x_overlay.png")
    assert (shown == np.rot90(seen, -1 if orientation == 6 else 0)[..., None]).all()


def test_a_jpeg_is_read_once_so_that_it_may_come_through_a_pipe(here):
    Image.fromarray(photo()).save("x.jpg")
    reading, writing = os.pipe()
    os.write(writing, Path("x.jpg").read_bytes())
    os.close(writing)
    assert (read_photo(Path(f"/dev/fd/{reading}")) == read_photo(Path("x.jpg"))).all()
    os.close(reading)


def test_of_a_picture_that_pil_finds_too_large_is_said_that_and_not_that_it_is_torn(here, trained):
    Path("huge.ppm").write_bytes(b"P6 20000 10000 255\n")
    with pytest.raises(SystemExit) as caught:
        main(["predict", f"run='{trained}'", "images=huge.ppm", "out=out"])
    message = str(caught.value.code)
    assert message.startswith("atrous predict: huge.ppm has more than 178,956,970 pixels")
    assert message.endswith("shrink it, or cut it into pieces")


def test_a_picture_that_pil_only_warns_of_is_predicted_without_a_word(photos, predicted, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", H * W - 1)  # at more than this PIL warns, which is an error here
    predicted("photos")
    assert len(made()) == 4


# ---- many pictures --------------------------------------------------------------------------------------------------
NAMES = ("a.png", "b.jpg", "deep/er/c.d.png", "deep/e.JPG")


@pytest.fixture
def photos(here):
    for k, name in enumerate(NAMES):
        path = here / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo(k)).save(path)
    (here / "photos" / "read me.txt").write_text("no picture")
    (here / "photos" / "frames.png").mkdir()  # a folder, whatever it is called
    (here / "photos" / "._a.png").write_bytes(b"what macOS leaves beside a.png")
    return here


def made() -> list[str]:
    files = (path.relative_to("out").as_posix() for path in Path("out").rglob("*") if path.is_file())
    return sorted(name for name in files if not name.endswith("_overlay.png"))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("photos", ["a.png", "b.png", "deep/e.png", "deep/er/c.d.png"]),
        ("photos/*", ["a.png", "b.png"]),
        ("photos/**/*.png", ["a.png", "deep/er/c.d.png"]),
        ("photos/deep/**/*", ["e.png", "er/c.d.png"]),
        ("photos/d*/e.*", ["deep/e.png"]),
    ],
)
def test_a_folder_or_a_pattern_keeps_its_sub_folders(photos, predicted, pattern, expected, trained):
    predicted(pattern)
    assert made() == expected
    if pattern == "photos":
        assert (stored("out/deep/er/c.d.png") == load(trained).segment("photos/deep/er/c.d.png")).all()


def test_what_is_done_is_kept_and_what_is_changed_is_made_again(photos, predicted, capsys):
    def last_line(*overrides: str) -> str:
        predicted("photos", *overrides)
        return capsys.readouterr().out.splitlines()[-1]

    assert last_line() == "out: 4 pictures predicted"
    kept = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")}
    assert last_line() == "out: 0 pictures predicted, 4 were there, made with these settings"
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*.png")} == kept
    Path("out/b.png").unlink()
    Path("out/deep/e_overlay.png").unlink()
    newer = time.time() + 5
    os.utime("photos/a.png", (newer, newer))
    assert last_line() == "out: 3 pictures predicted, 1 were there, made with these settings"
    os.utime("photos/a.png", (1, 1))
    assert last_line("overlay=false") == "out: 0 pictures predicted, 4 were there, made with these settings"
    for overrides in (["crf=v2"], ["tta.flip=true"], ["alpha=0.4"], ["probs=true"]):
        assert last_line(*overrides) == "out: 4 pictures predicted", overrides
        assert last_line(*overrides) == "out: 0 pictures predicted, 4 were there, made with these settings"


def test_probabilities_that_other_settings_left_are_not_taken_for_these(here, predicted):
    predicted("photo.png", "probs=true")
    plain = np.load("out/photo.npy")
    predicted("photo.png", "crf=v2")
    predicted("photo.png", "crf=v2", "probs=true")
    assert (np.load("out/photo.npy") != plain).any()


FILES = ("photo.npy", "photo_overlay.png", "photo.png")


@pytest.fixture(scope="module")
def unbroken(trained, tmp_path_factory):
    """What a prediction leaves that nothing has broken off."""
    folder = tmp_path_factory.mktemp("unbroken")
    Image.fromarray(photo()).save(folder / "photo.png")
    overrides = [f"run='{trained}'", f"images='{folder / 'photo.png'}'", f"out='{folder / 'out'}'", "probs=true"]
    assert main(["predict", *overrides]) == 0
    return {name: (folder / "out" / name).read_bytes() for name in FILES}


class Killed(BaseException):
    """Nothing answers it, as nothing answers kill -9."""


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, error: BaseException) -> None:
    """From the writing of this file on."""
    write = predict.write_whole

    def failing(path: Path, content: memoryview) -> None:
        if path.name == name:
            raise error
        write(path, content)

    monkeypatch.setattr(predict, "write_whole", failing)


@pytest.mark.parametrize("before", [None, [], ["crf=v2"], ["crf=v2", "probs=true"]], ids=str)
@pytest.mark.parametrize("killed_at", FILES)
def test_the_same_command_goes_on_whichever_file_it_was_killed_at(
    here, predicted, unbroken, killed_at, before, monkeypatch
):
    if before is not None:  # what other settings left
        predicted("photo.png", *before)
    with monkeypatch.context() as patched:
        fail_at(patched, killed_at, Killed())
        with pytest.raises(Killed):
            predicted("photo.png", "probs=true")
    predicted("photo.png", "probs=true")
    assert {name: (here / "out" / name).read_bytes() for name in FILES} == unbroken


@pytest.mark.parametrize("killed_at", FILES)
def test_the_same_command_goes_on_after_a_full_disk_at_any_file(photos, trained, predicted, killed_at, monkeypatch):
    with monkeypatch.context() as patched:
        fail_at(patched, killed_at.replace("photo", "a"), ValueError("could not write it (No space left on device)"))
        with pytest.raises(SystemExit, match="1 of 4 pictures could not be predicted"):
            predicted("photos", "probs=true")
    predicted("photos", "probs=true")
    assert sorted(path.name for path in Path("out").glob("a*")) == ["a.npy", "a.png", "a_overlay.png"]


def test_a_pipe_that_breaks_is_reported_with_the_picture(here, predicted, monkeypatch):
    fail_at(monkeypatch, "photo.png", BrokenPipeError(32, "Broken pipe"))
    with pytest.raises(SystemExit, match=r"^atrous predict: photo.png \(Broken pipe\)$"):
        predicted("photo.png")


@pytest.mark.parametrize(
    ("expected", "before"),
    [
        ("array", None),
        ("array", []),
        ("array", ["probs=true"]),
        ("two arrays", []),
        ("archive", ["probs=true"]),
        ("text", None),
    ],
    ids=str,
)
def test_an_array_of_somebody_else_s_is_not_replaced_whatever_lies_beside_it(
    here, trained, predicted, before, expected, capsys
):
    if before is not None:
        predicted("photo.png", *before)
    Path("out").mkdir(exist_ok=True)
    with open("out/photo.npy", "wb") as file:
        if expected == "archive":
            np.savez(file, photo())
        elif expected == "text":
            file.write(b"not an array")
        else:
            for _ in range(2 if expected == "two arrays" else 1):
                np.save(file, photo())
    content = Path("out/photo.npy").read_bytes()
    message = refusal(capsys, f"run='{trained}'", "images=photo.png", "out=out", "probs=true")
    assert "out/photo.npy is there, and `atrous predict` has not made it" in message
    predicted("photo.png", "crf=v2")  # which needs no array
    assert Path("out/photo.npy").read_bytes() == content


def test_other_weights_are_other_settings(here, copy, capsys):
    overrides = ["predict", f"run='{copy}'", "images=photo.png", "out=out"]
    assert main(overrides) == 0
    file = copy / "checkpoint" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    for name, weight in saved["state_dict"].items():
        saved["state_dict"][name] = weight.flip(0) if name.endswith("weight") else weight
    torch.save(saved, file)
    before = Path("out/photo.png").read_bytes()
    assert main(overrides) == 0
    assert Path("out/photo.png").read_bytes() != before


def test_all_may_be_moved_together_and_nothing_is_made_again(photos, predicted, capsys, monkeypatch):
    predicted("photos")
    (photos / "moved").mkdir()
    for name in ("photos", "out"):
        shutil.move(photos / name, photos / "moved" / name)
    monkeypatch.chdir(photos / "moved")
    predicted("photos")
    assert "0 pictures predicted, 4 were there" in capsys.readouterr().out


def test_bad_files_are_listed_at_the_end_and_do_not_stop_the_others(photos, trained):
    (photos / "photos" / "a.png").write_bytes(b"no picture")
    whole = (photos / "photos" / "b.jpg").read_bytes()
    (photos / "photos" / "b.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "photos" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0")
    (photos / "photos" / "zero.png").write_bytes(b"")
    Image.fromarray(photo()[..., 0] / np.float32(255)).save("photos/float.tif")
    done = atrous("predict", f"run='{trained}'", "images=photos", "out=out", cwd=photos)
    assert done.returncode == 1
    assert done.stderr == "atrous predict: 5 of 7 pictures could not be predicted: see above\n"
    assert "out: 2 pictures predicted\nnot predicted: 5\n  photos/a.png can't be read as a picture" in done.stdout
    for output in ("photos/b.jpg can't be read", "phone.heic is a HEIC picture", "zero.png is empty", "floating-point"):
        assert output in done.stdout
    assert made() == ["deep/e.png", "deep/er/c.d.png"]


def test_a_network_that_gives_nan_is_reported_for_each_picture(here, copy):
    file = copy / "checkpoint" / "last.ckpt"
    saved = torch.load(file, weights_only=True)
    for weight in saved["state_dict"].values():
        if weight.is_floating_point():
            weight.fill_(torch.nan)
    torch.save(saved, file)
    with pytest.raises(SystemExit, match=r"^atrous predict: photo.png.* NaN .*weights are no good"):
        main(["predict", f"run='{copy}'", "images=photo.png", "out=out"])
    assert not list(Path("out").iterdir())


def test_a_picture_that_does_not_fit_into_the_memory_is_refused_and_tiles_are_suggested(here, trained, monkeypatch):
    monkeypatch.setattr("atrous.model.tta.MOST", 1e6)  # 281 terabytes are more than any slip may ask for
    with pytest.raises(SystemExit, match=r"^atrous predict: photo.png.* 57 x 41 pixels.*memory.*slide.crop=513"):
        main(["predict", f"run='{trained}'", "images=photo.png", "out=out", "tta.scales=[1e5]"])


def test_a_bad_file_alone_is_one_line_and_exit_code_1(here, trained):
    Path("bad.jpg").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"^atrous predict: bad.jpg can't be read as a picture") as caught:
        main(["predict", f"run='{trained}'", "images=bad.jpg", "out=out"])
    assert isinstance(caught.value.code, str)  # which Python prints, and ends with 1


def test_kill_9_leaves_whole_files_and_the_same_command_goes_on(here, trained):
    (here / "photos").mkdir()
    for k in range(24):
        Image.fromarray(photo(k % 4, 200, 300)).save(f"photos/{k}.png")
    overrides = ["predict", f"run='{trained}'", "images=photos", "out=out", "probs=true"]
    with started(*overrides, stdout=subprocess.DEVNULL) as process:
        while not list(Path(".").glob("out/*.png")) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    there = [path for path in Path("out").glob("*.png") if stored(path).size]  # decodes them
    assert there
    index = [path for path in there if "overlay" not in path.name]
    kept = {path: path.stat().st_mtime_ns for path in index}
    assert len(kept) < 24
    done = atrous(*overrides)
    assert done.returncode == 0
    assert f"{24 - len(kept)} pictures predicted" in done.stdout
    assert {path: path.stat().st_mtime_ns for path in index} == kept
    assert not list(Path("out").glob("*.part"))


def test_what_is_made_is_no_picture_to_look_at_when_it_lies_among_them(photos, trained, capsys):
    for _ in range(2):
        assert main(["predict", f"run='{trained}'", "images=photos", "out=photos/out"]) == 0
    assert "0 pictures predicted, 4 were there" in capsys.readouterr().out
    assert main(["predict", f"run='{trained}'", "images=photos", "out=elsewhere"]) == 0
    assert "elsewhere: 4 pictures predicted\n" in capsys.readouterr().out


def test_what_is_made_of_one_picture_may_lie_beside_it(here, trained, capsys):
    (here / "one").mkdir()
    Image.fromarray(photo()).save("one/a.jpg")
    overrides = ["predict", f"run='{trained}'", "images=one", "out=one"]
    for _ in range(2):
        assert main(overrides) == 0
    assert "one/a.png was there, made with these settings" in capsys.readouterr().out
    Image.fromarray(photo(1)).save("one/b.jpg")
    assert "`out=one` must not be the folder of the pictures" in refusal(capsys, *overrides[1:])
    for name in ("a.jpg", "b.jpg"):
        Path("one", name).unlink()
    assert "no pictures there but what `atrous predict` has made" in refusal(capsys, *overrides[1:])


@VIDEO
def test_what_is_made_of_one_video_may_lie_beside_it(here, trained, capsys):
    (here / "one").mkdir()
    film("one/v.mp4")
    for _ in range(2):
        assert main(["predict", f"run='{trained}'", "images=one", "out=one"]) == 0
    assert "one/v_overlay.mp4 was there, made with these settings" in capsys.readouterr().out


# ---- mistakes -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run={run}"], "`images` must say what to look at"),
        (["images=photos"], "`run` must say whose network"),
        (["run=nowhere", "images=photos"], "there is no nowhere"),
        (["run={run}", "images=phots"], "`images=phots`: there are no pictures there; look for a typing error"),
        (["run={run}", "images=photos/*.bmp"], "`images=photos/*.bmp`: there are no pictures there"),
        (["run={run}", "images=empty"], "`images=empty`: there are no pictures there; a picture ends in .jpg, .jpeg"),
        (["run={run}", "images=photos", "out=photos"], "`out=photos` must not be the folder of the pictures"),
        (["run={run}", "images=photos/*", "out=photos/../photos"], "must not be the folder of the pictures"),
        (["run={run}", "images=photo.png", "out=."], "photo.png would be overwritten"),
        (["run={run}", "images=photo.png", "out=photos/a.png"], "`out=photos/a.png` can't be made a folder"),
        (["run={run}", "images=photo.png", "out=foreign"], "foreign/photo.png is there, and `atrous predict` has not"),
        (
            ["run={run}", "images=photo.png", "out=array", "probs=true"],
            "array/photo.npy is there, and `atrous predict`",
        ),
        (["run={run}", "images=twins"], "twins/a.jpg and twins/a.png have one name"),
        (["run={run}", "images=pair"], "/a_overlay.png would be written twice"),
        (["run={run}", "images=photo.png", "alpha=2"], "`alpha` must be 0 to 1 (got 2)"),
        (["run={run}", "images=photo.png", "overlay=maybe"], "`overlay` is true or false"),
        (["run={run}", "images=photo.png", "tta.scales=[]"], "`tta.scales` must be a list of numbers"),
        (["run={run}", "images=photo.png", "image=x"], "did you mean images"),
        (["run={run}", "images=film.mp4", "overlay=false"], "film.mp4 is a video, of which an overlay is all"),
    ],
    ids=lambda message: message if isinstance(message, str) else "",
)
def test_a_mistake_is_one_message_and_exit_code_2_for_predict(photos, trained, overrides, message, capsys):
    for folder in ("empty", "foreign", "array", "twins", "pair"):
        (photos / folder).mkdir()
    for name in ("foreign/photo.png", "twins/a.jpg", "twins/a.png", "pair/a.jpg", "pair/a_overlay.jpg"):
        Image.fromarray(photo()).save(name)
    np.save("array/photo.npy", np.zeros(3))
    Path("film.mp4").write_bytes(b"")
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    assert main(["predict", *(word.replace("{run}", f"'{trained}'") for word in overrides)]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) <= 2
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before


def test_what_was_made_of_another_picture_is_not_replaced_unless_that_is_gone(photos, predicted, trained, capsys):
    predicted("photo.png")
    (photos / "other").mkdir()
    Image.fromarray(photo(1)).save("other/photo.png")
    overrides = [f"run='{trained}'", "images=other", "out=out"]
    assert f"out/photo.png is there, made of {photos / 'photo.png'}" in refusal(capsys, *overrides)
    Path("photo.png").unlink()
    predicted("other")
    assert (stored("out/photo.png") == load(trained).segment(photo(1))).all()


# ---- videos ---------------------------------------------------------------------------------------------------------
FRAMES = 7


def film(path: str, *overrides: str, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """A video with sound; gives its frames."""
    from imageio_ffmpeg import get_ffmpeg_exe

    frames = [np.roll(photo(1, height, width), 3 * k, 1) for k in range(FRAMES)]
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "30000/1001", "-i", "-"]
    sound = ["-f", "lavfi", "-i", "sine=frequency=440:duration=0.2"]
    command = [get_ffmpeg_exe(), "-y", "-v", "error", *raw, *sound, *overrides, path]
    subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), check=True)
    return frames


def watched(path: Path | str) -> list[np.ndarray]:
    from atrous.inference.video import Video

    return list(Video.of(Path(path)).read())


@VIDEO
@pytest.mark.parametrize(
    ("name", "overrides"),
    [("v.mp4", []), ("v.mkv", ["-c:a", "libvorbis"]), ("v.webm", []), ("v.avi", ["-q:v", "2"]), ("v.mov", [])],
)
def test_a_video_s_overlay_has_its_frames_rate_size_and_sound(here, trained, predicted, name, overrides):
    from atrous.inference.video import Video

    film(name, *overrides)
    before = watched(name)
    predicted(name, "legend=false")
    assert [path.name for path in Path("out").iterdir()] == ["v_overlay.mp4"]
    source, drawn = Video.of(Path(name)), Video.of(Path("out/v_overlay.mp4"))
    assert (drawn.fps, drawn.width, drawn.height) == (source.fps, 64, 48)
    assert source.sound is not None
    assert drawn.sound in ("aac", "mp3", "opus")
    after = watched("out/v_overlay.mp4")
    assert len(after) == len(before)
    segmenter = load(trained)
    for shown, frame in zip(after, before):
        expected = overlay(frame, segmenter.segment(frame), segmenter.palette)
        assert np.abs(shown.astype(int) - expected).mean() < 8  # of 255: half the colours' resolution, and H.264


@VIDEO
def test_a_video_s_legend_is_of_all_classes_and_below(here, predicted, trained):
    film("v.mp4")
    predicted("v.mp4")
    frames = watched("out/v_overlay.mp4")
    assert frames[0].shape[0] > 48
    for frame in frames:
        nearest = np.abs(frame[48:].reshape(-1, 1, 3).astype(int) - load(trained).palette).max(2).min(0)
        assert nearest.max() < 40


@VIDEO
def test_a_video_of_odd_size_gains_a_column_and_one_that_was_turned_is_shown_upright(here, predicted):
    film("odd.mkv", "-c:v", "ffv1", height=41, width=57)
    predicted("odd.mkv", "legend=false")
    assert watched("out/odd_overlay.mp4")[0].shape == (42, 58, 3)
    film("flat.mp4")
    from imageio_ffmpeg import get_ffmpeg_exe

    turn = ["-y", "-v", "error", "-display_rotation", "90", "-i", "flat.mp4", "-c", "copy", "turned.mp4"]
    subprocess.run([get_ffmpeg_exe(), *turn], check=True)
    predicted("turned.mp4", "legend=false")
    assert watched("out/turned_overlay.mp4")[0].shape == (64, 48, 3)


@VIDEO
def test_a_video_that_is_done_is_kept_and_one_of_others_is_not_replaced(here, trained, predicted, capsys):
    film("v.mp4")
    predicted("v.mp4")
    kept = Path("out/v_overlay.mp4").stat().st_mtime_ns
    predicted("v.mp4")
    assert "was there, made with these settings" in capsys.readouterr().out
    assert Path("out/v_overlay.mp4").stat().st_mtime_ns == kept
    predicted("v.mp4", "alpha=0.4")
    assert Path("out/v_overlay.mp4").stat().st_mtime_ns != kept
    film("out/v_overlay.mp4")
    expected = Path("out/v_overlay.mp4").read_bytes()
    output = refusal(capsys, f"run='{trained}'", "images=v.mp4", "out=out")
    assert "out/v_overlay.mp4 is there, and `atrous predict` has not made it" in output
    assert Path("out/v_overlay.mp4").read_bytes() == expected


@VIDEO
@pytest.mark.parametrize("overrides", [["-movflags", "+faststart"], [], ["mkv"]], ids=["start", "end", "mkv"])
def test_half_a_video_is_a_bad_file_among_others(here, trained, overrides, capsys):
    (here / "films").mkdir()
    name = "cut.mkv" if overrides == ["mkv"] else "cut.mp4"
    film(f"films/{name}", *(word for word in overrides if word != "mkv"), height=240, width=320)
    whole = Path(f"films/{name}").read_bytes()
    Path(f"films/{name}").write_bytes(whole[: len(whole) * 6 // 10])
    film("films/good.mp4")
    Image.fromarray(photo()).save("films/photo.png")
    with pytest.raises(SystemExit, match="1 of 3 pictures could not be predicted"):
        main(["predict", f"run='{trained}'", "images=films", "out=out"])
    output = capsys.readouterr().out
    assert "out: 2 pictures predicted\n" in output
    assert f"films/{name} can't be read as a video (" in output
    assert sorted(p.name for p in (here / "out").iterdir()) == ["good_overlay.mp4", "photo.png", "photo_overlay.png"]
    assert len(watched("out/good_overlay.mp4")) == FRAMES


@VIDEO
def test_a_video_that_ffmpeg_gives_up_is_reported_with_its_reason_though_the_last_frame_was_taken(here):
    from atrous.inference.video import Video, writing

    at_no_rate = Video(Path("v.mp4"), 4, 4, Fraction(-1), 1, None)  # ffmpeg refuses it at once

    def film_it() -> None:
        with writing(Path("v.mp4"), (4, 4), at_no_rate, "") as write:
            write(np.zeros((4, 4, 3), np.uint8))  # so small that it waits in the pipe's buffer
            wait_until(lambda: any(name.startswith("ffmpeg") for name in ended()))

    with pytest.raises(ValueError, match=r"^could not write v.mp4 \(.*rate"):
        film_it()
    assert not list(here.glob("v.mp4*"))


def test_without_the_package_a_video_is_one_line_that_says_how_to_get_it(here, trained, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)  # an import of it fails
    Path("v.mp4").write_bytes(b"x")
    message = refusal(capsys, f"run='{trained}'", "images=v.mp4", "out=out")
    assert "v.mp4 is a video, and videos need the package imageio-ffmpeg: pip install imageio-ffmpeg" in message
    assert not Path("out").exists()


def test_the_settings_are_in_the_file(here, predicted):
    predicted("photo.png", "crf=v2", "tta.flip=true")
    with Image.open("out/photo.png") as index:
        settings = json.loads(index.info["atrous predict"])
    assert settings["crf"]["sigma_alpha"] == 67
    assert settings["view"]["flip"] is True
    assert (settings["source"], settings["precision"], len(settings["network"])) == ("../photo.png", "32-true", 12)


def test_an_array_tells_its_settings_after_the_probabilities(here, trained, predicted):
    predicted("photo.png", "probs=true", "crf=v2")
    with open("out/photo.npy", "rb") as file:
        assert np.load(file).shape == (len(load(trained).classes), H, W)
        message = str(np.load(file))
    with Image.open("out/photo.png") as index:
        assert message == f"atrous predict {index.info['atrous predict']}"


def test_a_crf_with_costs_of_its_own_for_each_two_classes_is_recorded_and_recognised(here, trained, predicted, capsys):
    costs = (2 - 2 * np.eye(len(load(trained).classes), dtype=int)).tolist()
    overrides = ["crf=v2", f"+crf.compatibility={json.dumps(costs)}"]
    predicted("photo.png", *overrides)
    with Image.open("out/photo.png") as index:
        assert json.loads(index.info["atrous predict"])["crf"]["compatibility"] == costs
    predicted("photo.png", *overrides)
    assert "was there, made with these settings" in capsys.readouterr().out
