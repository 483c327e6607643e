import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from atrous.model.upsample import (
    bilinear_kernel,
    convolution_matrix,
    initialise_bilinear,
    transposed_convolution,
    unpool_bed_of_nails,
    unpool_max,
    unpool_nearest,
    upsample_bilinear,
)

SIZES = [(1, 1), (4, 4), (3, 5), (6, 7)]
a, b, c, d = 2.0, 3.0, 5.0, 7.0  # primes: no two of the sums below are equal by chance
x, y, z, w = 11.0, 13.0, 17.0, 19.0


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1, 2, 3, 41, 83])
def test_nearest_replicates_each_value_into_a_cell(scale, size):
    map_ = random(2, 3, *size)
    np.testing.assert_array_equal(unpool_nearest(map_, scale), np.kron(map_, np.ones((scale, scale))))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [1, 2, 3, 8])
def test_bed_of_nails_puts_each_value_once_at_the_top_left_of_its_cell(scale, size):
    nail = np.zeros((scale, scale))
    nail[0, 0] = 1
    map_ = random(2, 3, *size)
    np.testing.assert_array_equal(unpool_bed_of_nails(map_, scale), np.kron(map_, nail))


@pytest.mark.parametrize("size", [(8, 8), (9, 8), (7, 11), (2, 3)])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_max_unpooling_is_torchs_own_for_even_and_odd_sizes(size, ceil_mode):
    before = random(2, 3, *size)
    pooled, places = F.max_pool2d(before, 2, ceil_mode=ceil_mode, return_indices=True)
    after = unpool_max(pooled, places, size)
    torch.testing.assert_close(after, nn.MaxUnpool2d(2)(pooled, places, output_size=size), atol=0, rtol=0)


def test_max_unpooling_puts_every_value_exactly_once_and_where_it_was():
    before = random(2, 3, 9, 7)
    pooled, places = F.max_pool2d(before, 2, ceil_mode=True, return_indices=True)
    after = unpool_max(pooled, places, (9, 7))
    assert torch.equal(after[after != 0], before[after != 0])
    for channel, map_ in zip(after.flatten(0, 1), pooled.flatten(0, 1)):
        assert sorted(channel[channel != 0].tolist()) == sorted(map_.flatten().tolist())


def test_pooling_undoes_max_unpooling():
    pooled, places = F.max_pool2d(random(1, 2, 8, 6).abs(), 2, return_indices=True)
    assert torch.equal(F.max_pool2d(unpool_max(pooled, places, (8, 6)), 2), pooled)


def test_places_of_another_map_are_refused():
    with pytest.raises(
        ValueError, match=r"`places` must be of the shape of `x`, \(1, 2, 3, 3\) \(got \(1, 2, 3, 2\)\)"
    ):
        unpool_max(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 2, dtype=torch.int64), (6, 6))


def test_max_unpooling_has_a_deterministic_form():
    pooled, places = F.max_pool2d(random(1, 2, 8, 6), 2, return_indices=True)
    expected = nn.MaxUnpool2d(2)(pooled, places)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.equal(unpool_max(pooled, places, (8, 6)), expected)
    finally:
        torch.use_deterministic_algorithms(False)


def test_gradients_of_unpooling_come_from_the_places_of_the_values_alone():
    """By the chain rule: of a map that is placed, the gradient is read at its places; of a replicated one, summed."""
    above = random(1, 2, 6, 4)
    map_ = random(1, 2, 3, 2, seed=1).requires_grad_()
    _, places = F.max_pool2d(random(1, 2, 6, 4, seed=2), 2, return_indices=True)
    expected = {
        "nearest": 4 * F.avg_pool2d(above, 2),
        "nails": above[..., ::2, ::2],
        "max": above.flatten(2).gather(2, places.flatten(2)).view_as(places),
    }
    actual = {
        "nearest": unpool_nearest(map_, 2),
        "nails": unpool_bed_of_nails(map_, 2),
        "max": unpool_max(map_, places, (6, 4)),
    }
    for form, unpooled in actual.items():
        torch.testing.assert_close(torch.autograd.grad(unpooled, map_, above)[0], expected[form])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (4, 2, 1), (2, 2, 0), (2, 3, 0), (5, 2, 0)]
)
def test_a_transposed_convolution_is_torchs_own_and_a_fold(kernel, stride, padding, size):
    map_, weight = random(2, 3, *size), random(3, 5, kernel, kernel, seed=1)
    actual = transposed_convolution(map_, weight, stride, padding)
    torch.testing.assert_close(actual, F.conv_transpose2d(map_, weight, stride=stride, padding=padding))
    copies = weight.flatten(1).T @ map_.flatten(2)  # (B, K·k·k, h·w)
    folded = F.fold(copies, actual.shape[2:], kernel, stride=stride, padding=padding)
    torch.testing.assert_close(actual, folded)


def test_gradients_of_a_transposed_convolution_are_those_of_torchs():
    inputs = random(2, 3, 3, 5).requires_grad_(), random(3, 4, 3, 3, seed=1).requires_grad_()
    above = random(2, 4, 5, 9, seed=2)
    expected = torch.autograd.grad(F.conv_transpose2d(*inputs, stride=2, padding=1), inputs, above)
    torch.testing.assert_close(torch.autograd.grad(transposed_convolution(*inputs, 2, 1), inputs, above), expected)


@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (2, 0), (3, 0), (3, 1), (4, 1), (5, 2)])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("n", [5, 8])
def test_the_matrix_is_the_convolution_and_its_transpose_the_transposed_one(n, stride, kernel, padding):
    taps, signal = random(kernel), random(n, seed=1)
    matrix = convolution_matrix(taps, n, stride, padding)
    convolved = F.conv1d(signal[None, None], taps[None, None], stride=stride, padding=padding)[0, 0]
    torch.testing.assert_close(matrix @ signal, convolved)
    left = (n + 2 * padding - kernel) % stride  # inputs at the end that the convolution does not reach
    back = F.conv_transpose1d(convolved[None, None], taps[None, None], None, stride, padding, left)[0, 0]
    torch.testing.assert_close(matrix.T @ convolved, back)


def test_a_convolution_of_three_taps_on_four_inputs_and_its_transpose():
    taps = torch.tensor([x, y, z])
    padded = convolution_matrix(taps, 4, padding=1)  # 4 -> 4
    assert padded.tolist() == [[y, z, 0, 0], [x, y, z, 0], [0, x, y, z], [0, 0, x, y]]
    assert (padded @ torch.tensor([a, b, c, d])).tolist() == [
        a * y + b * z,
        a * x + b * y + c * z,
        b * x + c * y + d * z,
        c * x + d * y,
    ]
    whole = convolution_matrix(taps, 6)  # 6 -> 4: the four inputs and the zeros beside them; its transpose 4 -> 6
    assert (whole.T @ torch.tensor([a, b, c, d])).tolist() == [
        a * x,
        a * y + b * x,
        a * z + b * y + c * x,
        b * z + c * y + d * x,
        c * z + d * y,
        d * z,
    ]


def test_a_convolution_of_stride_two_and_its_transpose():
    """The forms of 2 -> …: how many values return depends on how many there were, of which stride 2 leaves two."""
    taps, two = torch.tensor([x, y, z]), torch.tensor([a, b])
    assert convolution_matrix(taps, 4, stride=2, padding=1).tolist() == [[y, z, 0, 0], [0, x, y, z]]
    assert (convolution_matrix(taps, 4, stride=2, padding=1).T @ two).tolist() == [a * y, a * z + b * x, b * y, b * z]
    spread = [a * x, a * y, a * z + b * x, b * y, b * z]
    assert (convolution_matrix(taps, 5, stride=2).T @ two).tolist() == spread
    # Of six inputs (four and the zeros beside them) three taps never reach the last; four taps do.
    assert (convolution_matrix(taps, 6, stride=2).T @ two).tolist() == [*spread, 0]
    four = convolution_matrix(torch.tensor([x, y, z, w]), 6, stride=2)
    assert (four.T @ two).tolist() == [a * x, a * y, a * z + b * x, a * w + b * y, b * z, b * w]
    row = transposed_convolution(two[None, None, None], taps.outer(taps)[None, None], stride=2)[0, 0, 1]
    assert row.tolist() == [y * value for value in spread]  # a separable kernel: the row of its middle tap


def test_the_matrix_of_a_convolution_has_gradients():
    taps = random(3).requires_grad_()
    matrix = convolution_matrix(taps, 6, stride=2, padding=1)
    assert torch.autograd.grad(matrix.sum(), taps)[0].tolist() == [
        2,
        3,
        3,
    ]  # the first of three rows lacks the first tap


@pytest.mark.parametrize(
    ("scale", "taps"),
    [(1, [1.0]), (2, [1 / 4, 3 / 4, 3 / 4, 1 / 4]), (3, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])],
)
def test_the_bilinear_kernel_is_a_tent(scale, taps):
    torch.testing.assert_close(bilinear_kernel(scale), torch.tensor(taps).outer(torch.tensor(taps)))


@pytest.mark.parametrize(("scale", "size"), [(2, 4), (8, 16), (16, 32), (32, 64)])
def test_the_bilinear_kernels_of_fcn_have_its_sizes(scale, size):
    assert bilinear_kernel(scale).shape == (size, size)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 5, 8])
def test_bilinear_upsampling_is_interpolation_but_for_the_edges(scale):
    map_ = random(2, 3, 5, 4).float()
    actual = upsample_bilinear(map_, scale)
    expected = F.interpolate(map_, scale_factor=scale, mode="bilinear", align_corners=False)
    assert actual.shape == expected.shape
    inside = slice(scale // 2, -(scale // 2) or None)
    torch.testing.assert_close(actual[..., inside, inside], expected[..., inside, inside])


@pytest.mark.parametrize("scale", [2, 3, 8])
def test_a_constant_map_stays_constant_inside(scale):
    inside = slice(scale // 2, -(scale // 2))
    constant = upsample_bilinear(torch.full((1, 2, 3, 4), 7.0), scale)
    torch.testing.assert_close(constant[..., inside, inside], torch.full_like(constant[..., inside, inside], 7))
    assert (constant[..., 0, :] < 7).all()


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("scale", [2, 3])
def test_a_layer_can_start_bilinear_with_each_channel_for_itself(scale, groups):
    kernel = len(bilinear_kernel(scale))
    layer = nn.ConvTranspose2d(6, 6, kernel, scale, padding=(kernel - scale) // 2, groups=groups)
    initialise_bilinear(layer)
    map_ = random(2, 6, 4, 5).float()
    torch.testing.assert_close(layer(map_), upsample_bilinear(map_, scale))
    assert all(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("layer", [nn.ConvTranspose2d(2, 2, 3, 2), nn.ConvTranspose2d(2, 3, 4, 2)], ids=str)
def test_a_layer_that_cannot_be_bilinear_is_refused(layer):
    with pytest.raises(ValueError, match=r"as many channels out as in, and `kernel_size` 4 at stride 2 to be bilinear"):
        initialise_bilinear(layer)
