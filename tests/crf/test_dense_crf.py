"""DenseCRF as it is called, whatever its backend."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from warm import cold

from atrous.crf import DenseCRF

V1: dict[str, Any] = {"w1": 5, "sigma_alpha": 50, "sigma_beta": 10, "w2": 3, "sigma_gamma": 3}


def test_no_iteration_gives_the_unaries_back(natural, smooth):
    probs = smooth(2, 5, 20, 30)
    torch.testing.assert_close(DenseCRF(**V1, iterations=0)(natural(2, 20, 30), probs), probs)


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
def test_the_order_of_the_labels_does_not_matter(natural, smooth, normalization):
    image, probs, order = natural(1, 24, 33), smooth(1, 6, 24, 33), torch.tensor([3, 0, 5, 1, 4, 2])
    crf = DenseCRF(**V1, normalization=normalization)
    torch.testing.assert_close(crf(image, probs[:, order]), crf(image, probs)[:, order], rtol=0, atol=1e-5)


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
def test_labels_as_likely_as_each_other_stay_so(natural, normalization):
    probs = torch.full((1, 4, 24, 33), 0.25)
    torch.testing.assert_close(DenseCRF(**V1, normalization=normalization)(natural(1, 24, 33), probs), probs)


def test_the_same_unaries_everywhere_follow_the_one_pixel_mean_field(natural):
    # A filter that divides by n afterwards leaves a constant alone, so every pixel is alone with w1 + w2.
    p = torch.tensor([0.5, 0.3, 0.2])
    q = p
    for _ in range(10):
        q = torch.softmax(p.log() + 8 * q, 0)
    refined = DenseCRF(**V1, normalization="after")(natural(1, 24, 33), p[None, :, None, None].expand(1, 3, 24, 33))
    torch.testing.assert_close(refined, q[None, :, None, None].expand_as(refined), rtol=0, atol=1e-5)


def test_a_batch_is_its_pictures_one_by_one(natural, smooth):
    image, probs, crf = natural(3, 20, 31), smooth(3, 4, 20, 31), DenseCRF(**V1)
    alone = torch.cat([crf(i, p) for i, p in zip(image.split(1), probs.split(1))])
    torch.testing.assert_close(crf(image, probs), alone)


def test_one_label_is_certain(natural):
    assert (DenseCRF(**V1)(natural(1, 9, 11), torch.ones(1, 1, 9, 11)) == 1).all()


def test_a_noisy_square_gets_its_edge_back():
    square = torch.zeros(1, 1, 60, 60, dtype=torch.bool)
    square[..., 20:40, 20:40] = True
    rng = torch.Generator().manual_seed(0)
    image = (torch.where(square, 200, 60) + 5 * torch.randn(1, 3, 60, 60, generator=rng)).byte()
    # The network knows the square by its blurred and shifted shape, and errs at every fifth pixel.
    blurred = torch.roll(square, (3, -3), (2, 3)).float()
    blurred = torch.nn.functional.avg_pool2d(blurred, 9, 1, 4)
    blurred = torch.where(torch.rand(blurred.shape, generator=rng) < 0.2, 1 - blurred, blurred)
    before = 0.1 + 0.8 * torch.cat([1 - blurred, blurred], 1)
    after = DenseCRF(w1=10, sigma_alpha=30, sigma_beta=20, w2=3, sigma_gamma=3)(image, before)
    assert ((before.argmax(1) == 1) != square[:, 0]).float().mean() > 0.1
    assert ((after.argmax(1) == 1) == square[:, 0]).all()


def test_certain_pixels_do_not_make_nan(natural):
    probs = torch.zeros(1, 3, 20, 30)
    probs[:, 1, :10], probs[:, 2, 10:] = 1, 1
    refined = DenseCRF(**V1)(natural(1, 20, 30), probs)
    assert refined.isfinite().all()
    torch.testing.assert_close(refined.sum(1), torch.ones(1, 20, 30))
    assert torch.equal(refined.argmax(1), probs.argmax(1))


def test_half_precision_comes_back_as_float32(natural, smooth):
    image, probs = natural(1, 20, 30), smooth(1, 4, 20, 30)
    refined = DenseCRF(**V1)(image, probs.half())
    assert refined.dtype == torch.float32
    torch.testing.assert_close(refined, DenseCRF(**V1)(image, probs), rtol=0, atol=0.02)


def test_a_view_of_a_picture_is_as_good_as_the_picture(natural, smooth):
    image, probs = natural(1, 20, 30), smooth(1, 4, 20, 30)
    channels_last = image.contiguous(memory_format=torch.channels_last)
    flipped = image.flip(3).contiguous().flip(3)
    crf = DenseCRF(**V1)
    assert torch.equal(crf(channels_last, probs), crf(image, probs))
    assert torch.equal(crf(flipped, probs), crf(image, probs))
    every_other = torch.stack([image, image.flip(2)], 1).flatten(0, 1)[::2]
    assert torch.equal(crf(every_other, probs), crf(image, probs))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": torch.zeros(2, 1, 8, 9, dtype=torch.uint8)}, "expand"),
        ({"image": torch.zeros(2, 4, 8, 9, dtype=torch.uint8)}, "alpha"),
        ({"image": torch.zeros(3, 8, 9, dtype=torch.uint8)}, "batch"),
        ({"image": torch.zeros(2, 3, 8, 9)}, "uint8"),
        ({"probs": torch.full((2, 4, 1, 2), 0.25)}, "zoom"),
        ({"probs": torch.full((2, 4, 8, 9), -3.0)}, "softmax"),
        ({"probs": torch.full((2, 4, 8, 9), 3.0)}, "softmax"),
        ({"probs": torch.ones(2, 4, 8, 9, dtype=torch.long)}, "floating"),
        ({"probs": torch.ones(2, 0, 8, 9)}, "`probs`"),
    ],
)
def test_input_that_can_not_be_refined_is_refused_with_the_remedy(change, says):
    given = {"image": torch.zeros(2, 3, 8, 9, dtype=torch.uint8), "probs": torch.full((2, 4, 8, 9), 0.25)}
    with pytest.raises(ValueError, match=says):
        DenseCRF(**V1)(**(given | change))


def test_nan_names_its_picture(natural, smooth):
    probs = smooth(4, 3, 10, 12)
    probs[2, 1, 5, 6] = float("nan")
    with pytest.raises(ValueError, match="picture 2 of the batch hold NaN"):
        DenseCRF(**V1)(natural(4, 10, 12), probs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"sigma_alpha": 0},
        {"sigma_beta": -1},
        {"sigma_gamma": float("nan")},
        {"w1": -1},
        {"w2": float("nan")},
        {"iterations": -1},
        {"normalization": "before"},
        {"backend": "fast"},
    ],
)
def test_an_impossible_parameter_is_named(wrong):
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
        DenseCRF(**(V1 | wrong))


def test_a_compatibility_of_another_size_is_named(natural, smooth):
    with pytest.raises(ValueError, match="`compatibility`"):
        DenseCRF(**V1, compatibility=torch.eye(3))(natural(1, 9, 9), smooth(1, 4, 9, 9))


def test_kernels_too_narrow_to_number_their_points_say_so(natural, smooth):
    with pytest.raises(ValueError, match="widen `sigma_alpha`"):
        DenseCRF(**V1 | {"sigma_beta": 1e-3})(natural(1, 9, 9), smooth(1, 4, 9, 9))


def test_autocast_changes_nothing(natural, smooth):
    image, probs = natural(1, 20, 30), smooth(1, 4, 20, 30)
    crf = DenseCRF(**V1, compatibility=1 - torch.eye(4))
    with torch.autocast("cpu", torch.bfloat16):
        refined = crf(image, probs)
    assert torch.equal(refined, crf(image, probs))


def test_importing_it_imports_torch_and_no_more():
    heavy = ["pydensecrf", "lightning", "hydra", "torchvision", "PIL", "scipy", "concurrent.futures.process"]
    code = f"import sys, atrous.crf; print([m for m in {heavy} if m in sys.modules])"
    with cold():
        output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"


@pytest.mark.parametrize("normalization", ["symmetric", "after"])
def test_many_weights_on_one_lattice_give_what_each_gives_alone(natural, smooth, normalization):
    image, probs = natural(1, 20, 25), smooth(1, 4, 20, 25)
    weights = [(5, 3), (0, 1), (2.5, 0)]
    several = DenseCRF(1, 50, 10, 1, 3, normalization=normalization).with_weights(weights, image, probs)
    for (w1, w2), refined in zip(weights, several, strict=True):
        alone = DenseCRF(w1, 50, 10, w2, 3, normalization=normalization)(image, probs)
        assert torch.equal(refined, alone)


def test_a_compatibility_may_be_rows_of_numbers(natural, smooth):
    image, probs = natural(1, 9, 12), smooth(1, 2, 9, 12)
    rows = [[0, 1], [0.5, 0]]
    from_rows, from_tensor = (DenseCRF(5, 50, 10, 3, 3, compatibility=c) for c in (rows, torch.tensor(rows)))  # type: ignore[arg-type]
    assert torch.equal(from_rows(image, probs), from_tensor(image, probs))
    for wrong in ([[0, 1], [2]], [["a"]], 3.5j):
        with pytest.raises(ValueError, match="`compatibility`"):
            DenseCRF(5, 50, 10, 3, 3, compatibility=wrong)  # type: ignore[arg-type]
