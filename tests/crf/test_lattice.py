"""The permutohedral filter by itself."""

import math

import pytest
import torch

from atrous.crf.lattice import _simplex, build

BOTH = pytest.mark.parametrize("normalization", ["symmetric", "after"])


def _features(N, d, extent=4.0, seed=0):
    return torch.rand(d, N, generator=torch.Generator().manual_seed(seed)) * extent


def _matrix(lattice, N):
    return lattice.filter(torch.eye(N, dtype=lattice.slice_weight.dtype))


@BOTH
@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_it_is_near_the_gaussian_filter(normalization, d):
    features = _features(300, d)
    lattice = build(features, [4.0] * d, normalization, dtype=torch.float64)
    gaussian = torch.exp(-torch.cdist(features.t(), features.t()).double().square() / 2)
    n = gaussian.sum(1, keepdim=True)
    gaussian = gaussian / n if normalization == "after" else gaussian / n.sqrt() / n.t().sqrt()
    values = torch.rand(300, 2, generator=torch.Generator().manual_seed(1)).double()
    error = (lattice.filter(values) - gaussian @ values).abs().mean() / values.mean()
    assert error < 0.08  # it grows with d: 0.01 to 0.05 here


@pytest.mark.parametrize("d", [2, 5])
def test_normalised_afterwards_it_keeps_constants(d):
    lattice = build(_features(200, d), [4.0] * d, "after", dtype=torch.float64)
    torch.testing.assert_close(lattice.filter(torch.ones(200, 1).double()), torch.ones(200, 1).double())


@BOTH
def test_its_gradient_is_its_transpose(normalization):
    lattice = build(_features(50, 5), [4.0] * 5, normalization, dtype=torch.float64)
    values = torch.eye(50, dtype=torch.float64, requires_grad=True)
    matrix = lattice.filter(values)
    weights = torch.rand(50, 50, generator=torch.Generator().manual_seed(0)).double()
    (gradient,) = torch.autograd.grad((matrix * weights).sum(), values)
    torch.testing.assert_close(gradient, matrix.detach().t() @ weights)


def test_pictures_do_not_see_one_another():
    features = _features(40, 5)
    both = build(features.repeat(1, 2), [4.0] * 5, "symmetric", pictures=2)
    one = build(features, [4.0] * 5, "symmetric")
    values = torch.rand(80, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(both.filter(values), torch.cat([one.filter(v) for v in values.split(40)]))


@pytest.mark.parametrize("d", [1, 2, 3, 5, 6])
def test_the_numbers_of_the_points_never_collide(d):
    # By their coordinates: corner r of a pixel has d + 1 integers, of sum 0 and all r modulo d + 1.
    features = _features(400, d, extent=6.0)
    features[:, 0], features[:, 1] = 0, 6
    lattice = build(features, [6.0] * d, "after")
    quotient, rank, weight = _simplex(features)
    torch.testing.assert_close(weight.sum(0), torch.ones(400))
    assert (weight > -1e-5).all()
    names: dict[int, list[int]] = {}
    for r in range(d + 1):
        coordinates = (quotient.long() - (rank > d - r).long()) * (d + 1) + r
        assert (coordinates.sum(0) == 0).all()
        for point, c in zip(lattice.slice_point[:, r].tolist(), coordinates.t().tolist()):
            assert names.setdefault(point, c) == c
    assert len({tuple(c) for c in names.values()}) == len(names) == lattice.blur_point.shape[1] - 1
    # Every neighbour that exists is found, and none besides: a step lowers all by 1 and raises one by d + 1.
    where = {tuple(c): point for point, c in names.items()}
    for point, c in names.items():
        for j in range(d + 1):
            ahead = tuple(x - 1 + (d + 1) * (j == i) for i, x in enumerate(c))
            behind = tuple(x + 1 - (d + 1) * (j == i) for i, x in enumerate(c))
            expected = [point, where.get(ahead, len(names)), where.get(behind, len(names))]
            assert lattice.blur_point[j, point].tolist() == expected


def test_a_point_far_from_all_others_keeps_its_value():
    features = torch.tensor([[0.0, 100.0, 200.0]])
    lattice = build(features, [200.0], "after")
    values = torch.tensor([[1.0], [2.0], [5.0]])
    torch.testing.assert_close(lattice.filter(values), values)


def test_its_width_is_one():
    # Far from the ends, the weights of a row of pixels fall off as the Gaussian with standard deviation 1.
    x = torch.linspace(0, 40, 401)[None]
    row = _matrix(build(x, [40.0], "after", dtype=torch.float64), 401)[200]
    at = x[0].double() - 20
    assert math.isclose(float((row * at.square()).sum() / row.sum()), 1, rel_tol=0.1)
