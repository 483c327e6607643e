import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from atrous.model.tta import View


@pytest.fixture
def image():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 33, 47), np.uint8))


@pytest.fixture
def net():
    """Any picture -> scores that depend on pixels far off, so that a tile's edge matters, and on left and right."""
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 4, 9, padding=4).requires_grad_(False)
    return lambda image: layer(image.float() / 64)


def test_one_scale_and_no_mirror_is_the_network_itself(net, image):
    assert torch.equal(View()(net, image), net(image))
    assert torch.equal(View(scales=[1.0], fuse="max")(net, image), net(image))


def test_a_mean_is_that_of_the_probabilities_and_comes_as_scores(net, image):
    mirrored = net(image.flip(-1)).flip(-1)
    expected = (net(image).softmax(1) + mirrored.softmax(1)) / 2
    torch.testing.assert_close(View(flip=True)(net, image).softmax(1), expected)
    assert not torch.allclose(expected, net(image).softmax(1), atol=1e-3)


def test_a_maximum_is_that_of_the_scores(net, image):
    half = F.interpolate(image.float(), (17, 24), mode="bilinear", align_corners=True).round().byte()
    zoomed = F.interpolate(net(half), (33, 47), mode="bilinear", align_corners=True)
    scores = View(scales=[0.5, 1], fuse="max")(net, image)
    torch.testing.assert_close(scores, torch.maximum(net(image), zoomed))
    assert not torch.equal(scores, net(image))


def test_the_order_of_the_scales_changes_nothing(net, image):
    for fuse in ("mean", "max"):
        one, other = (View(scales, flip=True, fuse=fuse)(net, image) for scales in ([0.5, 0.75, 1], [1, 0.5, 0.75]))
        torch.testing.assert_close(one, other)


def test_a_picture_of_one_colour_looks_the_same_at_every_size(image):
    flat = torch.full_like(image, 93)
    mean = lambda image: image.float()[:, :, :, :].mean((2, 3), keepdim=True).expand(-1, -1, *image.shape[-2:])  # noqa: E731
    torch.testing.assert_close(View([0.3, 1, 1.7], flip=True, fuse="max")(mean, flat), mean(flat))


# ---- tiles ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("crop", [47, [33, 47], 1000, [40, 50]])
def test_a_tile_that_covers_the_picture_is_the_whole(net, image, crop):
    assert torch.equal(View(crop=crop)(net, image), net(image))


def test_tiles_of_a_pointwise_network_are_the_whole(image):
    pointwise = lambda image: torch.cat([image.float(), 255 - image.float()[:, :1]], 1) / 100  # noqa: E731
    for fuse in ("mean", "max"):
        scores = View(crop=[20, 16], stride=[7, 16], flip=True, fuse=fuse)(pointwise, image)
        torch.testing.assert_close(scores.softmax(1), pointwise(image).softmax(1))


@pytest.mark.parametrize(("fuse", "form"), [("mean", lambda scores: scores.softmax(1)), ("max", lambda scores: scores)])
def test_overlapping_tiles_are_averaged_as_by_hand(net, image, fuse, form):
    total, count = torch.zeros(1, 4, 33, 47), torch.zeros(33, 47)
    for top in (0, 10, 13):  # the last ends where the picture does
        for left in (0, 15, 17):
            total[..., top : top + 20, left : left + 30] += form(net(image[..., top : top + 20, left : left + 30]))
            count[top : top + 20, left : left + 30] += 1
    scores = form(View(crop=[20, 30], stride=[10, 15], fuse=fuse)(net, image))
    torch.testing.assert_close(scores, total / count)
    assert not torch.allclose(scores, form(net(image)), atol=1e-3)


@pytest.mark.parametrize(("crop", "stride"), [(20, None), ([20, 60], [20, 60]), (7, 7), (33, 1)])
def test_every_pixel_is_in_a_tile_and_no_tile_is_larger_or_leaves_the_picture(crop, stride):
    view, covered = View(crop=crop, stride=stride), np.zeros((33, 47), int)
    high, wide = (crop, crop) if isinstance(crop, int) else crop
    for rows, columns in view.windows(33, 47):
        assert (rows.stop - rows.start, columns.stop - columns.start) == (min(high, 33), min(wide, 47))
        assert rows.stop <= 33
        assert columns.stop <= 47
        covered[rows, columns] += 1
    assert covered.min() >= 1


def test_tiles_are_put_together_in_the_cpus_memory_also_where_a_scale_fits_one(image):
    devices = []

    class Elsewhere(torch.Tensor):
        def cpu(self, *args, **kwargs):
            devices.append("brought")
            return self.as_subclass(torch.Tensor)

    there = lambda image: torch.zeros(1, 4, *image.shape[-2:]).as_subclass(Elsewhere)  # noqa: E731
    view = View([0.3, 1], fuse="max", crop=24)
    assert type(view(there, image)) is torch.Tensor
    assert len(devices) == 1 + len(list(view.windows(33, 47)))


def test_the_network_never_gets_more_than_a_tile(image):
    sizes = []

    def net(image):
        sizes.append(tuple(image.shape[-2:]))
        return torch.zeros(1, 4, *image.shape[-2:])

    View([0.5, 1, 2], flip=True, crop=16)(net, image)
    assert set(sizes) == {(16, 16)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scales": []}, "`tta.scales`"),
        ({"scales": [0.5, 0]}, "`tta.scales`"),
        ({"scales": 0.5}, "`tta.scales`"),
        ({"scales": ["a"]}, "`tta.scales`"),
        ({"scales": [0.5, None]}, "`tta.scales`"),
        ({"scales": [float("nan")]}, "`tta.scales`"),
        ({"scales": [float("inf")]}, "`tta.scales`"),
        ({"flip": None}, "`tta.flip`"),
        ({"crop": "ab"}, "`slide.crop`"),
        ({"crop": 20.5}, "`slide.crop`"),
        ({"crop": True}, "`slide.crop`"),
        ({"fuse": "sum"}, "`tta.fuse` must be mean or max"),
        ({"crop": 0}, "`slide.crop`"),
        ({"crop": [3, 4, 5]}, "`slide.crop`"),
        ({"stride": 5}, "no `slide.crop`"),
        ({"crop": 5, "stride": 6}, "`slide.stride=6` must not be more"),
        ({"crop": 5, "stride": 0}, "`slide.stride`"),
    ],
)
def test_an_impossible_setting_is_refused_by_its_name(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        View(**arguments)
