import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from miniature import write_palette_png
from PIL import Image, ImageOps
from running import atrous

from atrous.__main__ import main
from atrous.batch import IGNORE, voc_palette
from atrous.crf import DenseCRF, GridCRF, Refiner, Superpixels
from atrous.data.parallel import spread
from atrous.inference import refine

# As conf/crf has them; small enough for the square below.
V1 = DenseCRF(w1=5, sigma_alpha=50, sigma_beta=10, w2=3, sigma_gamma=3, normalization="after")
V2 = DenseCRF(w1=4, sigma_alpha=67, sigma_beta=3, w2=3, sigma_gamma=1)

H, W = 36, 48
SQUARE = (slice(8, 28), slice(12, 36))
COLOURS = np.array([(0, 0, 0), (64, 128, 0), (192, 0, 128)], np.uint8)


def square(value: int = 5) -> np.ndarray:
    label = np.zeros((H, W), np.uint8)
    label[SQUARE] = value
    return label


def shifted(value: int = 5) -> np.ndarray:
    """The label of somebody who drew the square three pixels too far to the right and to the bottom."""
    return np.roll(square(value), 3, (0, 1))


def photo() -> np.ndarray:
    """A bright square on dark ground, with a little noise; a CRF should find its edges."""
    noise = np.random.default_rng(0).integers(0, 4, (H, W, 3))
    return (40 + 160 * (square(1)[..., None] > 0) + noise).astype(np.uint8)


def certain(label: np.ndarray, classes: list[int], certainty: float = 0.7) -> np.ndarray:
    rest = (1 - certainty) / (len(classes) - 1)
    probs = np.stack([np.where(label == c, certainty, rest) for c in classes])
    probs[:, ~np.isin(label, classes)] = 1 / len(classes)
    return probs.astype(np.float32)


def by(crf: Refiner, probs: np.ndarray, image: np.ndarray | None = None) -> np.ndarray:
    image = photo() if image is None else image
    return crf(torch.from_numpy(image.copy()).permute(2, 0, 1)[None].contiguous(), torch.from_numpy(probs)[None])[
        0
    ].numpy()


def stored(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(photo()).save("photo.png")
    write_palette_png(Path("label.png"), shifted())
    np.save("probs.npy", certain(shifted(), [0, 5]))
    return tmp_path


def refined(*overrides: str) -> None:
    assert main(["refine", *overrides]) == 0


def refusal(capsys, *overrides: str, code: int = 2) -> str:
    assert main(["refine", *overrides]) == code
    message = capsys.readouterr().err
    assert message.startswith("atrous refine: ")
    assert len(message.splitlines()) == 1
    return message


# ---- labels ---------------------------------------------------------------------------------------------------------
def test_a_shifted_square_is_moved_back_onto_the_picture_s(here, capsys):
    refined("image=photo.png", "label=label.png")
    after = stored(here / "photo_refined.png")
    assert (after == square()).all()
    changed = 100 * (square() != shifted()).mean()
    assert capsys.readouterr().out == f"photo_refined.png: {changed:.2f} % of the pixels changed\n"


@pytest.mark.parametrize(
    ("overrides", "crf", "certainty"),
    [
        ([], V2, 0.7),
        (["crf=v1"], V1, 0.7),
        (["crf.w1=2", "certainty=0.95", "crf.iterations=3"], DenseCRF(2, 67, 3, 3, 1, iterations=3), 0.95),
    ],
)
def test_the_label_is_what_dense_crf_makes_of_its_certainty(here, overrides, crf, certainty):
    probs = by(crf, certain(shifted(), [0, 5], certainty))
    refined("image=photo.png", "label=label.png", "out=x.png", *overrides)
    assert (stored(here / "x.png") == np.array([0, 5])[probs.argmax(0)]).all()
    refined("image=photo.png", "label=label.png", "out=x.npy", *overrides)
    array = np.load("x.npy")
    assert (array.shape, array.dtype) == ((6, H, W), np.float32)
    np.testing.assert_allclose(array[[0, 5]], probs, atol=1e-6)
    assert not array[1:5].any()  # classes that the label lacks


def test_the_palette_of_the_label_is_kept(here):
    palette = np.roll(voc_palette(), 7, 0)
    label = Image.fromarray(shifted())
    label.putpalette(palette.tobytes())
    label.save("label.png")
    refined("image=photo.png", "label=label.png")
    with Image.open("photo_refined.png") as after:
        assert after.mode == "P"
        assert after.getpalette() == palette.ravel().tolist()


@pytest.mark.parametrize("mode", ["L", "LA", "I;16", "1"])
def test_a_grey_label_comes_back_with_its_values(here, mode):
    if mode == "1":
        label, value = Image.fromarray(shifted(1) > 0), 1
    elif mode == "I;16":
        label, value = Image.fromarray(shifted().astype(np.uint16)), 5
    else:
        label, value = Image.fromarray(shifted()).convert(mode), 5
    assert label.mode == mode
    label.save("label.png")
    refined("image=photo.png", "label=label.png")
    assert (stored(here / "photo_refined.png") == square(value)).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_a_label_in_colours_comes_back_in_these_colours(here, mode):
    Image.fromarray(COLOURS[shifted(1)]).convert(mode).save("label.png")
    refined("image=photo.png", "label=label.png")
    assert (stored(here / "photo_refined.png") == COLOURS[square(1)]).all()
    refined("image=photo.png", "label=label.png", "out=x.npy")
    np.testing.assert_allclose(np.load("x.npy"), by(V2, certain(shifted(1), [0, 1])), atol=1e-6)


def test_unknown_pixels_get_a_class_and_are_counted_apart(here, capsys):
    label = shifted()
    label[5:12] = IGNORE
    write_palette_png(Path("label.png"), label)
    expected = np.array([0, 5])[by(V2, certain(label, [0, 5])).argmax(0)]
    refined("image=photo.png", "label=label.png")
    assert (stored(here / "photo_refined.png") == expected).all()
    changed = 100 * ((expected != label) & (label != IGNORE)).mean()
    output = f"{changed:.2f} % of the pixels changed, {700 / 36:.2f} % were unknown"
    assert output in capsys.readouterr().out
    refined("image=photo.png", "label=label.png", "void=null", "out=x.png")
    classes = [0, 5, 255]
    assert (stored(here / "x.png") == np.array(classes)[by(V2, certain(label, classes)).argmax(0)]).all()


def test_void_may_be_another_value_or_a_colour(here):
    label = shifted(1)
    label[5:12] = 2
    expected = by(V2, certain(label, [0, 1])).argmax(0)
    write_palette_png(Path("label.png"), label)
    refined("image=photo.png", "label=label.png", "void=2")
    assert (stored(here / "photo_refined.png") == expected).all()
    Image.fromarray(COLOURS[label]).save("label.png")
    refined("image=photo.png", "label=label.png", "void=[192,0,128]")
    assert (stored(here / "photo_refined.png") == COLOURS[expected]).all()


def test_a_label_of_one_class_stays_and_a_mask_of_0_and_255_is_remarked_upon(here, capsys):
    Image.fromarray(np.full((H, W), 3, np.uint8)).save("label.png")
    refined("image=photo.png", "label=label.png")
    assert (stored(here / "photo_refined.png") == 3).all()
    assert capsys.readouterr().out == "photo_refined.png: 0.00 % of the pixels changed\n"
    Image.fromarray(shifted(255)).save("label.png")
    refined("image=photo.png", "label=label.png")
    assert "void=null" in capsys.readouterr().out
    refined("image=photo.png", "label=label.png", "void=null")
    assert (stored(here / "photo_refined.png") == square(255)).all()


# ---- probabilities --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4"])
@pytest.mark.parametrize("last", [False, True], ids=["KHW", "HWK"])
def test_probabilities_may_have_any_precision_and_either_order(here, dtype, last):
    draw = np.random.default_rng(0).random((4, H, W)) + 3 * certain(shifted(1), [0, 1, 2, 3])
    probs = (draw / draw.sum(0)).astype(dtype)
    np.save("probs.npy", probs.transpose(1, 2, 0) if last else probs)
    refined("image=photo.png", "probs=probs.npy", "out=x.npy")
    expected = by(V2, probs.astype(np.float32))
    np.testing.assert_allclose(np.load("x.npy"), expected, atol=1e-6)
    refined("image=photo.png", "probs=probs.npy")
    with Image.open("photo_refined.png") as after:
        assert (np.asarray(after) == expected.argmax(0)).all()
        assert after.getpalette() == voc_palette().ravel().tolist()


def test_an_npz_of_one_array_will_do(here, capsys):
    np.savez_compressed("one.npz", whatever=np.load("probs.npy"))
    refined("image=photo.png", "probs=one.npz", "out=x.npy")
    np.testing.assert_allclose(np.load("x.npy"), by(V2, np.load("probs.npy")), atol=1e-6)
    np.savez("two.npz", a=np.load("probs.npy"), b=np.zeros(2))
    assert "two.npz must hold one array, of probabilities (got a, b)" in refusal(
        capsys, "image=photo.png", "probs=two.npz"
    )


# ---- pictures -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_a_picture_may_be_grey_have_alpha_or_16_bits(here, mode):
    grey = photo()[..., 0]
    if mode == "I;16":
        picture, plain = Image.fromarray(grey.astype(np.uint16) << 8), np.repeat(grey[..., None], 3, 2)
    elif mode == "L":
        picture, plain = Image.fromarray(grey), np.repeat(grey[..., None], 3, 2)
    else:
        alpha = np.random.default_rng(0).integers(0, 256, (H, W, 1), dtype=np.uint8)
        picture, plain = Image.fromarray(np.concatenate([photo(), alpha], 2)), photo()
    assert picture.mode == mode
    picture.save("photo.png")
    refined("image=photo.png", "label=label.png", "out=x.npy")
    np.testing.assert_allclose(np.load("x.npy")[[0, 5]], by(V2, certain(shifted(), [0, 5]), plain), atol=1e-6)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("key", ["label", "probs"])
def test_a_picture_is_turned_as_its_camera_noted_only_where_that_alone_fits(here, orientation, key, capsys):
    picture = Image.fromarray(photo())
    picture.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(picture))
    picture.save("turned.png", exif=picture.getexif())
    overrides = ("image=turned.png", f"{key}={key}.{'png' if key == 'label' else 'npy'}", "crf.iterations=4")

    refined(*overrides, "out=x.png")
    assert "turned.png: taken as stored" in capsys.readouterr().out
    refined(overrides[0].replace("turned", "photo"), *overrides[1:], "out=y.png")
    assert (stored(here / "x.png") == stored(here / "y.png")).all()

    label = np.roll((upright[..., 0] > 99) * np.uint8(1), 2, 1)
    write_palette_png(Path("label.png"), label)
    np.save("probs.npy", certain(label, [0, 1]).transpose(1, 2, 0))
    refined(*overrides, "out=x.png")
    assert "turned.png: turned as the camera noted" in capsys.readouterr().out
    Image.fromarray(upright).save("photo.png")
    refined(overrides[0].replace("turned", "photo"), *overrides[1:], "out=y.png")
    assert (stored(here / "x.png") == stored(here / "y.png")).all()
    assert (stored(here / "x.png") != label).any()


# ---- the figure -----------------------------------------------------------------------------------------------------
def test_steps_draw_each_of_the_iterations_in_the_label_s_colours(here, capsys):
    refined("image=photo.png", "label=label.png", "out=x.png", "steps=true")
    assert capsys.readouterr().out.splitlines()[1:] == ["x_steps.png"]
    probs = certain(shifted(), [0, 5])
    maps = [shifted(1), *(by(replace(V2, iterations=n), probs).argmax(0) for n in (1, 2, 5, 10))]
    assert len({label.tobytes() for label in maps}) > 2  # there is something to see
    red = (stored(here / "x_steps.png") == voc_palette()[5]).all(-1).sum()
    enlarged = round(320 / W) ** 2  # a pixel of the label
    assert 0 < red - enlarged * sum(label.sum() for label in maps) < 24**2  # which is the legend's
    assert (stored(here / "x.png") == square()).all()


@pytest.mark.parametrize(
    ("overrides", "crf", "panels"),
    [
        (["crf=grid", "crf.w2=3"], GridCRF(5, 10, 3), 4),
        (["crf=superpixels", "crf.segments=30"], Superpixels(30), 1),
    ],
    ids=["grid", "superpixels"],
)
def test_another_refiner_refines_label_maps_too(here, overrides, crf, panels):
    refined("image=photo.png", "label=label.png", "out=x.png", "steps=true", *overrides)
    assert len(crf.stages()) == panels
    probs = certain(shifted(), [0, 5])
    maps = [shifted(1), *(by(stage, probs).argmax(0) for stage in crf.stages().values())]
    assert (stored(here / "x.png") == 5 * maps[-1]).all()
    red = (stored(here / "x_steps.png") == voc_palette()[5]).all(-1).sum()
    enlarged = round(320 / W) ** 2
    assert 0 <= red - enlarged * sum(label.sum() for label in maps) < 24**2  # which is the legend's


# ---- mistakes -------------------------------------------------------------------------------------------------------
LABEL, PROBS = "label=label.png", "probs=probs.npy"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([LABEL], "`image` must be a picture or a folder of pictures (got null)"),
        (["image=photo.png"], "either `label` or `probs` must be given (got neither)"),
        (["image=photo.png", LABEL, PROBS], "either `label` or `probs` must be given (got both)"),
        (["image=photo.png", LABEL, "crf=null"], "`crf` must be v1, v2 or another refiner (got null)"),
        (["image=phto.png", LABEL], "`image=phto.png` is not there"),
        (["image=photo.png", "label=lbl.png"], "`label=lbl.png` is not there"),
        (["image=photo.png", "label=folder"], "`image=photo.png` is a file and `label=folder` is a folder"),
        (["image=text.png", LABEL], "text.png can't be read as a picture"),
        (["image=photo.png", "label=text.png"], "text.png can't be read as a picture"),
        (["image=photo.png", "label=probs.npy"], "`label` must be a PNG (got probs.npy)"),
        (["image=photo.png", "probs=label.png"], "`probs` must be a file .npy or .npz (got label.png)"),
        (["image=photo.png", "label=small.png"], "photo.png is 48 x 36, small.png is 24 x 18"),
        (
            ["image=photo.png", LABEL, "certainty=0.4"],
            "`certainty` must be more than 1/2, for label.png holds 2 classes",
        ),
        (["image=photo.png", LABEL, "certainty=1"], "`certainty` must be between 0 and 1 (got 1)"),
        (["image=photo.png", LABEL, "void=256"], "`void` must be a value of 0 to 255, a colour [R,G,B], or null"),
        (["image=photo.png", LABEL, "void=[1,2,3]"], "`void=[1, 2, 3]` is a colour, and label.png stores values"),
        (["image=photo.png", "label=void.png"], "void.png holds nothing but `void` (255)"),
        (["image=photo.png", "label=photo.jpg"], "photo.jpg is a JPEG, which changes the values"),
        (["image=photo.png", "label=many.png"], "colours, where each is a class, and there may be 255"),
        (["image=photo.png", "label=glass.png"], "glass.png has transparent pixels"),
        (["image=photo.png", "label=deep.png"], "deep.png holds values from 0 to 300"),
        (["image=photo.png", LABEL, "out=x.jpg"], "`out=x.jpg` must be a file that ends in .png"),
        (["image=photo.png", LABEL, "out=label.png"], "label.png would be overwritten"),
        (["image=photo.png", LABEL, "out=folder/../photo.png"], "photo.png would be overwritten"),
        (["image=photo.png", PROBS, "out=probs.npy"], "probs.npy would be overwritten"),
        (["image=photo.png", LABEL, "out=text.png/x.png"], "`out=text.png` can't be made a folder"),
        (["image=photo.png", LABEL, "crf.w1=-1"], "`w1` must not be negative"),
        (["image=photo.png", LABEL, "certanty=0.9"], "did you mean certainty"),
        (["image=photo.png", LABEL, "steps=perhaps"], "`steps` is true or false"),
        (["image=photo.png", "label=a_steps.png", "out=a.png", "steps=true"], "a_steps.png would be overwritten"),
    ],
    ids=lambda message: message if isinstance(message, str) else "",
)
def test_a_mistake_is_one_message_and_exit_code_2_for_refine(here, overrides, message, capsys):
    (here / "folder").mkdir()
    (here / "text.png").write_text("no picture")
    draw = np.random.default_rng(0)
    write_palette_png(here / "small.png", shifted()[::2, ::2].copy())
    write_palette_png(here / "void.png", np.full((H, W), IGNORE, np.uint8))
    write_palette_png(here / "a_steps.png", shifted())
    Image.fromarray(photo()).save("photo.jpg")
    Image.fromarray(draw.integers(0, 256, (H, W, 3), dtype=np.uint8)).save("many.png")
    Image.fromarray(draw.integers(0, 256, (H, W, 4), dtype=np.uint8)).save("glass.png")
    Image.fromarray(60 * shifted().astype(np.uint16)).save("deep.png")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main(["refine", *overrides]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) <= 2
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def logits() -> np.ndarray:
    return np.log(certain(shifted(), [0, 5]))


def with_nan() -> np.ndarray:
    probs = certain(shifted(), [0, 5])
    probs[0, 3, 4] = np.nan
    return probs


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (logits(), "of p.npy reach from -1.2 to -0.357: take the softmax first"),
        (with_nan(), "of p.npy hold NaN"),
        (
            np.zeros((2, 9, 12), np.float32),
            "photo.png is 48 x 36, p.npy has the shape (2, 9, 12): it must be (K, 36, 48)",
        ),
        (np.zeros((H, W), np.float32), "p.npy must hold probabilities (K, H, W) or (H, W, K)"),
        (np.zeros((2, H, W), int), "in floating point (got int64"),
        (np.zeros((1, H, W), np.float32), "p.npy holds one class"),
        (np.zeros((256, H, W), np.float16), "p.npy holds 256 classes, and there may be 255"),
        (np.array([None]), "p.npy can't be read as an array"),
    ],
    ids=["logits", "NaN", "size", "2 axes", "whole numbers", "1 class", "256 classes", "objects"],
)
def test_what_is_no_probability_is_reported_with_its_file(here, array, message, capsys):
    np.save("p.npy", array)
    assert message in refusal(capsys, "image=photo.png", "probs=p.npy")
    assert not (here / "photo_refined.png").exists()


def test_an_array_that_may_lie_either_way_is_refused(here, capsys):
    Image.fromarray(photo()[:8, :8].copy()).save("photo.png")
    np.save("probs.npy", np.full((8, 8, 8), 1 / 8, np.float32))
    message = refusal(capsys, "image=photo.png", PROBS)
    assert (
        "photo.png is 8 x 8, probs.npy has the shape (8, 8, 8): it must be (K, 8, 8) or (8, 8, K), both of which"
        in message
    )


# ---- folders --------------------------------------------------------------------------------------------------------
NAMES = ("a", "b", "deep/c.d", "deep/e", "f", "g", "h", "i")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Eight pictures with labels, each another square; one more of either alone."""
    monkeypatch.chdir(tmp_path)
    for k, name in enumerate((*NAMES, "alone")):
        for folder in ("images", "labels", "probs"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(photo(), k, 1)).save(f"images/{name}.jpg")
        name = name.replace("alone", "lonely")
        write_palette_png(Path(f"labels/{name}.png"), np.roll(shifted(), k, 1))
        np.save(f"probs/{name}.npy", certain(np.roll(shifted(), k, 1), [0, 5, 6]))
    return tmp_path


@pytest.mark.parametrize(("key", "suffix"), [("label", "png"), ("probs", "npy")])
def test_folders_give_on_two_processes_what_each_picture_gives_alone(folders, key, suffix, capsys, monkeypatch):
    monkeypatch.setattr(refine, "spread", partial(spread, workers=2))
    sources = "labels" if key == "label" else "probs"
    refined("image=images", f"{key}={sources}", "out=out")
    output = capsys.readouterr().out
    assert f"pictures without a file in {sources}: 1\n  images/alone.jpg" in output
    assert f"files without a picture in images: 1\n  {sources}/lonely.{suffix}" in output
    assert "out: 8 pictures refined: " in output
    assert sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.*")) == [
        f"{n}.png" for n in NAMES
    ]
    for name in NAMES:
        refined(f"image=images/{name}.jpg", f"{key}={sources}/{name}.{suffix}", "out=one.png")
        assert (folders / "out" / f"{name}.png").read_bytes() == (folders / "one.png").read_bytes()


def test_what_is_done_is_kept_and_what_is_changed_is_done_again(folders, capsys):
    overrides = ("image=images", "label=labels", "out=out")
    refined(*overrides)
    (folders / "out" / "b.png").unlink()
    newer = (folders / "out" / "g.png").stat().st_mtime + 5
    os.utime(folders / "labels" / "g.png", (newer, newer))
    kept = (folders / "out" / "a.png").stat().st_mtime_ns
    capsys.readouterr()
    refined(*overrides)
    assert "out: 2 pictures refined, 6 were there, made with these settings: " in capsys.readouterr().out
    assert (folders / "out" / "a.png").stat().st_mtime_ns == kept
    refined(*overrides, "crf.w1=2")
    assert "out: 8 pictures refined: " in capsys.readouterr().out
    refined(*overrides, "crf.w1=2", "steps=true")
    assert "out: 8 pictures refined: " in capsys.readouterr().out  # of which none had a figure
    assert len(list((folders / "out").rglob("*_steps.png"))) == 8


def test_bad_files_are_listed_at_the_end_and_do_not_stop_the_others(folders):
    (folders / "images" / "a.jpg").write_bytes(b"no picture")
    write_palette_png(folders / "labels" / "f.png", shifted()[::2].copy())
    done = atrous("refine", "image=images", "label=labels", "out=out", cwd=folders)
    assert done.returncode == 1
    assert done.stderr == "atrous refine: 2 of 8 pictures could not be refined: see above\n"
    assert "not refined: 2\n  images/a.jpg can't be read as a picture" in done.stdout
    assert "images/f.jpg is 48 x 36, labels/f.png is 48 x 18" in done.stdout
    assert {path.stem for path in (folders / "out").rglob("*.png")} == {"b", "c.d", "e", "g", "h", "i"}


def test_folders_that_lie_in_one_another_are_kept_apart(folders):
    (folders / "labels").rename(folders / "images" / "labels")
    for _ in range(2):
        refined("image=images", "label=images/labels", "out=images/out")
    assert len(list((folders / "images" / "out").rglob("*.png"))) == 8


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["image=images", "label=labels"], "`out` must be a folder, for `image` is one (got null)"),
        (["image=images", "label=labels", "out=x.png"], "`out` must be a folder, for `image` is one (got x.png)"),
        (["image=images", "label=labels", "out=images"], "`out=images` must not be the folder of the pictures"),
        (["image=images", "label=labels", "out=labels"], "labels/a.png would be overwritten"),
        (
            ["image=images", "label=probs", "out=out"],
            "no picture in `image=images` is named as a file in `label=probs`",
        ),
    ],
)
def test_a_mistake_about_folders_is_refused_before_anything_is_written(folders, overrides, message, capsys):
    before = sorted(folders.rglob("*"))
    assert message in refusal(capsys, *overrides)
    assert sorted(folders.rglob("*")) == before


def test_a_file_that_somebody_else_has_made_is_not_replaced(folders, capsys):
    (folders / "out").mkdir()
    write_palette_png(folders / "out" / "g.png", shifted())
    message = refusal(capsys, "image=images", "label=labels", "out=out")
    assert "out/g.png is there, and `atrous refine` has not made it" in message
    assert (stored(folders / "out" / "g.png") == shifted()).all()


def test_two_pictures_of_one_name_are_refused(folders, capsys):
    Image.fromarray(photo()).save("images/a.png")
    assert "images/a.jpg and images/a.png have one name" in refusal(capsys, "image=images", "label=labels", "out=out")


def test_a_crf_with_costs_of_its_own_for_each_two_classes_is_recorded_and_recognised(folders, capsys):
    overrides = ("image=images", "label=labels", "out=out", "+crf.compatibility=[[0,2],[2,0]]")
    refined(*overrides)
    with Image.open("out/a.png") as picture:
        assert json.loads(picture.info["atrous refine"])["compatibility"] == [[0, 2], [2, 0]]
    refined(*overrides)
    assert "8 were there, made with these settings" in capsys.readouterr().out


def test_a_folder_that_is_called_as_a_picture_is_none(folders):
    for folder in ("images", "labels"):
        (folders / folder / "frames.png").mkdir()
    refined("image=images", "label=labels", "out=out")
    assert not (folders / "out" / "frames.png").exists()
