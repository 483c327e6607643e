"""The short-range CRF beside its definition: a dense matrix of kernels, and pixels updated one after another."""

import math
import re
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from atrous.crf import GridCRF


def dense_kernel(crf: GridCRF, image: Tensor) -> Tensor:
    """(3, H, W) -> (N, N), 0 between pixels that are no neighbours."""
    _, H, W = image.shape
    kernel = torch.zeros(H * W, H * W, dtype=torch.float64)
    near = 1 if crf.neighbours == 4 else 2  # the squared distance
    for i in range(H * W):
        for j in range(H * W):
            if 0 < (i // W - j // W) ** 2 + (i % W - j % W) ** 2 <= near:
                colours = (image[:, pixel // W, pixel % W].double() for pixel in (i, j))
                contrast = (next(colours) - next(colours)).square().sum().item()
                kernel[i, j] = crf.w1 * math.exp(-contrast / (2 * crf.sigma_beta**2)) + crf.w2
    return kernel


def order(crf: GridCRF, H: int, W: int) -> list[int]:
    """The pixels in an order in which they may be updated one by one."""
    if crf.neighbours == 4:
        return sorted(range(H * W), key=lambda i: (i // W + i % W) % 2)
    return sorted(range(H * W), key=lambda i: (i // W % 2, i % W % 2))


def by_definition(crf: GridCRF, image: Tensor, probs: Tensor) -> Tensor:
    """(3, H, W), (K, H, W) -> (K, H, W): Q_i(l) ∝ exp(-U_i(l) - Σ_j k_ij Σ_l' [l ≠ l'] Q_j(l')), one by one."""
    K, H, W = probs.shape
    kernel, U, potts = dense_kernel(crf, image), -probs.flatten(1).T.log(), 1 - torch.eye(K, dtype=torch.float64)
    Q = (-U).softmax(1)
    for _ in range(crf.iterations):
        for i in order(crf, H, W):
            Q[i] = (-U[i] - kernel[i] @ Q @ potts).softmax(0)
    return Q.T.view(K, H, W)


def free_energy(kernel: Tensor, probs: Tensor, Q: Tensor) -> float:
    """The expected energy of the labels drawn from Q (K, H, W), minus their entropy."""
    q, p = Q.flatten(1), probs.flatten(1)
    unlike = kernel * (1 - q.T @ q)
    return float((q * (q / p).log()).sum() + unlike.sum() / 2)


@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("iterations", [1, 3])
@pytest.mark.parametrize("size", [(5, 6), (1, 4), (3, 1), (1, 1)])
def test_it_is_mean_field_by_the_definition(natural, smooth, neighbours, iterations, size):
    crf = GridCRF(1.5, 20, 0.3, neighbours, iterations)
    image, probs = natural(1, *size), smooth(1, 3, *size).double()
    expected = by_definition(crf, image[0], probs[0])
    torch.testing.assert_close(crf(image, probs)[0], expected, rtol=1e-10, atol=1e-12)
    if min(size) > 1:
        assert (expected - probs[0]).abs().max() > 0.05  # there is something to see


@pytest.mark.parametrize("neighbours", [4, 8])
def test_two_pixels_have_the_closed_form(neighbours):
    """Each logit gains w (2 q - 1) of the other pixel: the first of its start, the second of its new."""
    w1, sigma, w2, p, q = 2.0, 30.0, 0.5, 0.3, 0.9
    image = torch.tensor([[10, 30], [200, 240], [7, 7]], dtype=torch.uint8).view(1, 3, 1, 2)
    w = w1 * math.exp(-(20**2 + 40**2) / (2 * sigma**2)) + w2
    first = 1 / (1 + math.exp(-(math.log(p / (1 - p)) + w * (2 * q - 1))))
    second = 1 / (1 + math.exp(-(math.log(q / (1 - q)) + w * (2 * first - 1))))
    probs = torch.tensor([[p, q], [1 - p, 1 - q]], dtype=torch.float64).view(1, 2, 1, 2)
    refined = GridCRF(w1, sigma, w2, neighbours, iterations=1)(image, probs)
    assert refined.flatten().tolist() == pytest.approx([first, second, 1 - first, 1 - second], abs=1e-12)


@pytest.mark.parametrize("neighbours", [4, 8])
def test_no_iteration_raises_the_free_energy(natural, neighbours):
    image = natural(1, 6, 7)
    probs = torch.rand(1, 3, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).mul(4).softmax(1)
    crfs = [GridCRF(4, 25, 2, neighbours, iterations) for iterations in range(8)]
    energies = [free_energy(dense_kernel(crf, image[0]), probs[0], crf(image, probs)[0]) for crf in crfs]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(energies))
    assert energies[-1] < energies[0] - 1


def test_neighbours_that_disagree_settle_and_do_not_exchange_their_labels():
    probs = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).view(1, 2, 1, 2)
    labels = [GridCRF(10, 10, 0, iterations=n)(torch.zeros(1, 3, 1, 2, dtype=torch.uint8), probs) for n in (9, 10)]
    torch.testing.assert_close(labels[0], labels[1])
    assert len(set(labels[0].argmax(1).flatten().tolist())) == 1


@pytest.mark.parametrize("crf", [GridCRF(5, 10, 3, iterations=0), GridCRF(0, 10, 0)])
def test_without_iterations_or_weights_nothing_changes(natural, smooth, crf):
    probs = smooth(2, 4, 9, 12)
    torch.testing.assert_close(crf(natural(2, 9, 12), probs), probs)


def test_it_cleans_a_spurious_label_and_takes_a_thin_line_with_it_unless_the_colours_part_them():
    """What such CRFs were made for, and why they harm a network's smooth scores (v2, section 3.3)."""
    dot, line = torch.zeros(9, 9), torch.zeros(9, 9)
    dot[4, 4] = line[4] = 1
    for label in (dot, line):
        probs = torch.stack([1 - label, label])[None].mul(0.4).add(0.3)
        flat, seen = torch.full((1, 3, 9, 9), 90, dtype=torch.uint8), (label * 200).byte().expand(1, 3, 9, 9)
        assert not GridCRF(2, 10, 0)(flat, probs).argmax(1).any()
        assert torch.equal(GridCRF(2, 10, 0)(seen, probs).argmax(1)[0], label.long())
        assert not GridCRF(2, 10, 2)(seen, probs).argmax(1).any()  # w2 knows no colours


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"w1": -1}, "`w1` must not be negative"),
        ({"w2": math.nan}, "`w2` must not be negative"),
        ({"sigma_beta": 0}, "`sigma_beta` must be positive"),
        ({"neighbours": 6}, "`neighbours` must be 4 or 8 (got 6)"),
        ({"iterations": -1}, "`iterations` must not be negative"),
    ],
)
def test_impossible_values_are_refused(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GridCRF(**({"w1": 5, "sigma_beta": 10, "w2": 1} | values))


def test_the_name_and_the_text_say_the_values_and_what_is_unusual():
    assert GridCRF(5, 10, 1).name == "grid-5-10-1"
    crf = GridCRF(5, 2.5, 1, neighbours=8, iterations=4)
    assert crf.name == "grid-5-2.5-1-8_neighbours-4_iterations"
    assert crf.text == "grid CRF, w1 5, sigma_beta 2.5, w2 1, 8 neighbours, 4 iterations"
