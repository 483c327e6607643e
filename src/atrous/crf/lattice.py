"""Gaussian filtering in d dimensions on the permutohedral lattice (Adams, Baek and Davis 2010), in plain PyTorch.

    filtered = outer · splatᵀ( blur_d( … blur_0( splat( inner · values ))))

Every pixel lies in a simplex of d + 1 lattice points. It is *splat* onto them with its barycentric weights, the lattice
is *blurred* by (½, 1, ½) along each of its d + 1 axes, and the result is *sliced* at the pixels. All three are weighted
sums of rows, so each is one `embedding_bag` over tables that depend on the features alone; `inner` and `outer` (the
normalisation) are folded into the weights of the first and the last.

A lattice point has d + 1 integer coordinates of sum 0, all equal modulo d + 1. So it is a remainder r (0 … d) and the
quotients q_j = (x_j - r) / (d + 1), which pack into one integer; equal points are found by sorting these.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

Normalization = Literal["symmetric", "after"]


class Lattice(NamedTuple):
    """The three tables of a filter on N pixels and M lattice points; row M of the lattice is empty and stays zero."""

    splat_pixel: Tensor  # ((d+1) N,) int32: the pixels of each lattice point, one point after the other
    splat_weight: Tensor  # ((d+1) N,)
    splat_start: Tensor  # (M+1,) int32: where the pixels of a point begin
    blur_point: Tensor  # (d+1, M+1, 3) int32: a point and its two neighbours along each axis, M where there is none
    blur_weight: Tensor  # (M+1, 3)
    slice_point: Tensor  # (N, d+1) int32: the corners of each pixel's simplex
    slice_weight: Tensor  # (N, d+1)
    ratio: Tensor  # (N, 1): outer over inner

    def filter(self, values: Tensor) -> Tensor:
        """Filter (N, K) -> (N, K), differentiable in the values."""
        return _Filter.apply(values, self, False)

    def spread(self, values: Tensor, backwards: bool = False) -> Tensor:
        """Splat (N, K) -> (M+1, K), and blur along the axes in their order or the opposite one."""
        points = embedding_bag(
            self.splat_pixel, values, self.splat_start, mode="sum", per_sample_weights=self.splat_weight
        )
        for blur_point in self.blur_point.flip(0) if backwards else self.blur_point:
            points = embedding_bag(blur_point, points, mode="sum", per_sample_weights=self.blur_weight)
        return points

    def slice(self, points: Tensor) -> Tensor:
        """Slice at the pixels: (M+1, K) -> (N, K)."""
        return embedding_bag(self.slice_point, points, mode="sum", per_sample_weights=self.slice_weight)

    def slices(self, rows: int) -> list[Callable[[Tensor], Tensor]]:
        """Return `slice` for the first `rows` pixels, for the next ones, …"""
        tables = zip(self.slice_point.split(rows), self.slice_weight.split(rows))
        return [partial(embedding_bag, point, mode="sum", per_sample_weights=weight) for point, weight in tables]


class _Filter(torch.autograd.Function):
    """The filter is linear and its transpose is itself with the axes reversed and `inner` and `outer` exchanged."""

    @staticmethod
    def forward(ctx, values: Tensor, lattice: Lattice, transposed: bool) -> Tensor:
        ctx.lattice, ctx.transposed = lattice, transposed
        if not transposed:
            return lattice.slice(lattice.spread(values.contiguous()))
        return lattice.slice(lattice.spread(values * lattice.ratio, backwards=True)) / lattice.ratio

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Filter.apply(gradient, ctx.lattice, not ctx.transposed), None, None


def build(
    features: Tensor,
    upper: Sequence[float],
    normalization: Normalization,
    pictures: int = 1,
    dtype: torch.dtype = torch.float32,
) -> Lattice:
    """Build the lattice of features (d, N), each in [0, upper], that filters by exp(-|f_i - f_j|²/2), normalised.

    The N pixels are `pictures` runs of equal length that must not mix. `dtype` is that of the values.
    """
    d, N = features.shape
    place, lowest, size = _numbering(upper)
    total = size * pictures
    if total >= 2**59:
        raise ValueError(
            f"the lattice needs {total.bit_length()} bits to number its points, and at most 59 fit: "
            "widen `sigma_alpha`, `sigma_beta` or `sigma_gamma`, or take smaller pictures"
        )
    quotient, rank, weight = _simplex(features)
    picture = torch.arange(pictures, device=features.device) * size - lowest
    number = _number(quotient, rank, place) + picture.repeat_interleave(N // pictures)
    weight = weight.to(dtype)
    number, weights = _add_zero(number, weight, place, picture) if N // pictures % 4 else (number, weight)

    # Corners of one remainder at a time: shorter integers sort faster.
    number = number.int() if total < 2**31 else number
    number, pixel = map(torch.stack, zip(*(n.sort() for n in number)))
    first = torch.ones_like(number, dtype=torch.bool)
    torch.ne(number[:, 1:], number[:, :-1], out=first[:, 1:])
    start = first.view(-1).nonzero().squeeze(1)  # waits for the device: how many points there are
    point = first.view(-1).cumsum(0, dtype=torch.int32).view_as(number) - 1
    point = torch.empty_like(point).scatter_(1, pixel, point)[:, :N]
    remainder = start // number.shape[1]
    name = number.view(-1).index_select(0, start) + remainder * total

    lattice = Lattice(
        splat_pixel=pixel.view(-1).int().clamp_(max=N - 1),  # the added pixels weigh nothing
        splat_weight=weights.gather(1, pixel).view(-1),
        splat_start=torch.cat([start, start.new_tensor([number.numel()])]).int(),
        blur_point=_neighbours(name, remainder, place, total),
        blur_weight=weight.new_tensor([1, 0.5, 0.5]).repeat(len(start) + 1, 1),
        slice_point=point.t().contiguous(),
        slice_weight=weight.t().contiguous() / (1 + 2.0**-d),
        ratio=weight.new_ones(N, 1),
    )
    return _normalize(lattice, normalization)


def _add_zero(number: Tensor, weight: Tensor, place: Sequence[int], picture: Tensor) -> tuple[Tensor, Tensor]:
    """Append to the corners (d+1, N) and their weights those of one pixel for each picture whose features are 0.

    pydensecrf works on four pixels at a time and fills up the last four with such pixels. They weigh nothing, but the
    points about them exist and blur the values of their neighbours. It is done here for the same result.
    """
    zero = _number(*_simplex(picture.new_zeros(len(place) - 1, 1).float())[:2], place)
    return torch.cat([number, zero + picture], 1), torch.cat([weight, weight.new_zeros(len(place), len(picture))], 1)


def _normalize(lattice: Lattice, normalization: Normalization) -> Lattice:
    """Fold 1/√n before and after the filter, or 1/n after it, into its weights; n is the filter applied to ones."""
    n = lattice.filter(torch.ones_like(lattice.ratio))
    outer = n.rsqrt() if normalization == "symmetric" else n.reciprocal()
    if normalization == "symmetric":
        splat = lattice.splat_weight * outer.view(-1).index_select(0, lattice.splat_pixel)
        return lattice._replace(splat_weight=splat, slice_weight=lattice.slice_weight * outer)
    return lattice._replace(slice_weight=lattice.slice_weight * outer, ratio=outer)


def _simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Find each pixel's simplex: features (d, N) -> quotients of corner 0, ranks (int64), weights, each (d+1, N)."""
    d = len(features)
    elevated = []
    rest = torch.zeros_like(features[0])
    for j in range(d, 0, -1):
        scaled = features[j - 1] * _scale(j - 1, d)
        elevated.append(rest - scaled * j)
        rest = rest + scaled
    x = torch.stack([rest, *elevated[::-1]])  # on the plane of sum 0

    quotient = (x * (1 / (d + 1))).round()
    offset = x - quotient * (d + 1)
    rank = torch.zeros_like(x, dtype=torch.int8)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            less = offset[i] < offset[j]
            rank[i] += less
            rank[j] += ~less
    # Rounding may leave the plane: walk back along the coordinates that were rounded farthest.
    rank += quotient.sum(0).to(torch.int8)
    wrap = (rank < 0).to(torch.int8) - (rank > d).to(torch.int8)
    rank += wrap * (d + 1)
    quotient += wrap

    order = rank.long()
    offset = (x - quotient * (d + 1)) * (1 / (d + 1))
    offset = torch.empty_like(offset).scatter_(0, order, offset)  # by rank: descending
    weight = torch.empty_like(offset)
    torch.sub(offset[:-1].flip(0), offset[1:].flip(0), out=weight[1:])
    torch.add(offset[d], 1 - offset[0], out=weight[0])
    return quotient, order, weight


def _numbering(upper: Sequence[float]) -> tuple[list[int], int, int]:
    """Return what each of the d + 1 quotients adds to a point's number, the lowest number, and the count of numbers.

    A number has a digit for each feature f_i: q · e_i, where e_i = (1, … 1, -i-1, 0, … 0) are the axes in the plane
    (for the last feature, q_d). The first two count most: points near in the picture are near in memory. As no digit
    leaves its range, a step on the lattice adds the same to all numbers.
    """
    d = len(upper)
    place, lowest, size = [0] * (d + 1), 0, 1
    for i in [*range(d - 1, 1, -1), 0, 1][:d]:
        scaled = upper[i] * _scale(i, d) / (d + 1)
        if i < d - 1:
            e = [1] * (i + 1) + [-i - 1] + [0] * (d - i - 1)
            low, high = 0.0, (i + 1) * (i + 2) * scaled
        else:
            e = [0] * d + [1]
            low, high = -d * scaled, 0.0
        margin = i + 2  # a corner is so far from its pixel; and once more, a neighbour from it
        digits = range(math.floor(low) - margin, math.ceil(high) + 2 * margin)
        place = [p + size * x for p, x in zip(place, e)]
        lowest += size * digits[0]
        size *= len(digits)
    return place, lowest, size


def _number(quotient: Tensor, rank: Tensor, place: Sequence[int]) -> Tensor:
    """Return the numbers (d+1, N) of each pixel's corners.

    Corner r is corner r - 1 with one quotient less, that of the coordinate next in rank, from the last.
    """
    first = torch.zeros_like(rank[0])
    for j in range(len(place)):
        first += quotient[j].long() * place[j]
    by_rank = torch.tensor(place, device=rank.device)[:, None].expand_as(rank)
    by_rank = torch.empty_like(rank).scatter_(0, rank, by_rank)
    return torch.cat([first[None], -by_rank[1:].flip(0)]).cumsum(0)


def _scale(i: int, d: int) -> float:
    """Return the length of one unit of feature i along its axis e_i, by which the blur has variance 1.

    It is rounded as pydensecrf rounds it.
    """
    deviation = torch.tensor(math.sqrt(2 / 3) * (d + 1)).item()
    return deviation / math.sqrt((i + 1) * (i + 2))


def _neighbours(name: Tensor, remainder: Tensor, place: Sequence[int], total: int) -> Tensor:
    """Return (d+1, M+1, 3) int32: each point and its two neighbours along each axis, M where there is none.

    `name` (M,), sorted, is a point's number and, as the first digit, its remainder. One step along axis j lowers every
    coordinate by 1, and raises the j-th by d + 1: the remainder falls by 1 (from 0 to d, and all quotients by 1), and
    the j-th quotient rises by 1.
    """
    d, M = len(place) - 1, len(name)
    step = torch.where(remainder > 0, -total, d * total - sum(place))
    find = _index(name)
    here = torch.arange(M + 1, device=name.device, dtype=torch.int32)
    blur = torch.full((d + 1, M + 1, 3), M, device=name.device, dtype=torch.int32)
    blur[:, :, 0] = here
    for j in range(d + 1):
        ahead = find(name + (step + place[j]))
        blur[j, :-1, 1] = ahead
        blur[j, :, 2].scatter_(0, ahead.long(), here[:-1])
        blur[j, -1, 2] = M
    return blur


def _index(name: Tensor) -> Callable[[Tensor], Tensor]:
    """Return a function that finds the position (int32) of names in these sorted ones (M,), M where there is none.

    A hash table with one name a slot answers nearly always; where another name has the slot, a binary search does.
    """
    M = len(name)
    bits = (8 * M).bit_length()

    def slot(names: Tensor) -> Tensor:
        return (names * -0x61C8864680B583EB >> 64 - bits) & ((1 << bits) - 1)  # Fibonacci hashing: 2⁶⁴ / golden ratio

    table = torch.full((1 << bits,), M, device=name.device, dtype=torch.int32)
    table.scatter_(0, slot(name), torch.arange(M, device=name.device, dtype=torch.int32))
    name_at = torch.cat([name, name.new_tensor([-1])])  # no name is negative

    def find(wanted: Tensor) -> Tensor:
        position = table.index_select(0, slot(wanted))
        other = name_at.index_select(0, position) != wanted
        unsure = (other & (position < M)).nonzero().squeeze(1)
        position = torch.where(other, M, position)
        wanted = wanted.index_select(0, unsure)
        searched = torch.searchsorted(name, wanted, out_int32=True)
        searched = torch.where(name_at.index_select(0, searched) != wanted, M, searched)
        return position.index_copy_(0, unsure, searched)

    return find
