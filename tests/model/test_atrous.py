import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from atrous.model.atrous import Window, atrous_convolution, effective_receptive_field, receptive_field


@pytest.mark.parametrize("rate", [1, 2, 4, 5, 6, 12, 24])
@pytest.mark.parametrize("kernel", [1, 3, 4, 7])
def test_holes_equals_deinterlace(kernel, rate):
    generator = torch.Generator().manual_seed(kernel * 100 + rate)
    x = torch.randn(2, 3, 29, 37, generator=generator)
    weight, bias = torch.randn(5, 3, kernel, kernel, generator=generator), torch.randn(5, generator=generator)
    holes = atrous_convolution(x, weight, bias, rate, "holes")
    deinterlace = atrous_convolution(x, weight, bias, rate, "deinterlace")
    assert holes.shape == (2, 5, 29, 37)
    torch.testing.assert_close(holes, deinterlace, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["holes", "deinterlace"])
@pytest.mark.parametrize(("kernel", "rate"), [(3, 2), (4, 2), (4, 1), (3, 7)])
def test_atrous_convolution_is_its_definition(kernel, rate, form):
    generator = torch.Generator().manual_seed(0)
    x, w = (torch.randn(*shape, generator=generator).double() for shape in [(6, 5), (kernel, kernel)])
    first = -((kernel - 1) * rate // 2)
    expected = np.zeros((6, 5))
    for row, column in np.ndindex(6, 5):
        for down, right in np.ndindex(kernel, kernel):
            i, j = row + first + rate * down, column + first + rate * right
            if 0 <= i < 6 and 0 <= j < 5:
                expected[row, column] += x[i, j] * w[down, right]
    actual = atrous_convolution(x[None, None], w[None, None], rate=rate, form=form)
    np.testing.assert_allclose(actual[0, 0], expected, atol=1e-12)


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match=r"`form` must be holes or deinterlace \(got 'hole'\)"):
        atrous_convolution(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), form="hole")


def test_the_receptive_field_of_the_original_vgg_is_404():
    convolutions = [Window("conv", 3, padding=1)]
    windows = [w for count in (2, 2, 3, 3, 3) for w in convolutions * count + [Window("pool", 2, stride=2)]]
    assert receptive_field([*windows, Window("fc6", 7)])[:2] == (404, 32)


def test_a_stride_of_two_with_3x3_pad_1_keeps_the_first_unit_at_the_first_pixel():
    assert receptive_field([Window("pool", 3, stride=2, padding=1)] * 3) == (15, 8, 0.0)


def test_a_window_is_read_off_its_layer():
    assert Window.of("a", nn.Conv2d(1, 1, 3, 2, 4, dilation=5)) == ("a", 3, 2, 5, 4)
    assert Window.of("b", nn.Conv2d(1, 1, 4, dilation=2, padding="same")) == ("b", 4, 1, 2, 3)
    assert Window.of("c", nn.AvgPool2d(3, 1, 1)) == ("c", 3, 1, 1, 1)


def test_the_effective_field_of_one_convolution_is_its_kernel():
    network = nn.Conv2d(3, 2, 3, padding=2, dilation=2)
    field = effective_receptive_field(network, 9)
    expected = F.pad(network.weight.sum(0).abs().sum(0), (1, 1, 1, 1))  # the taps: every second row and column
    torch.testing.assert_close(field[0::2, 0::2], expected)
    assert field[1::2].count_nonzero() == field[:, 1::2].count_nonzero() == 0
