"""The papers' search for the CRF's parameters: a coarse grid, then finer rounds about the best."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import NamedTuple


class Point(NamedTuple):
    """A setting of the search: the CRF's weights and widths."""

    w1: float
    sigma_alpha: float
    sigma_beta: float
    w2: float
    sigma_gamma: float


class Grid:
    """The values of each parameter in the first round.

    A finer round takes, of each parameter with more than one value, the best so far and its neighbours at half the step
    of the round before.

    Paper: cross-validation of w1, sigma_alpha, sigma_beta, coarse to fine, with w2 = 3 and sigma_gamma = 3 fixed
    (v1, section 5; v2, section 4.1).
    """

    def __init__(
        self,
        w1: Sequence[float],
        sigma_alpha: Sequence[float],
        sigma_beta: Sequence[float],
        w2: Sequence[float] = (3,),
        sigma_gamma: Sequence[float] = (3,),
        rounds: int = 3,
    ):
        for name, values in zip(Point._fields, (w1, sigma_alpha, sigma_beta, w2, sigma_gamma)):
            if not isinstance(values, Sequence) or not values or sorted(set(values)) != list(values):
                raise ValueError(f"`search.{name}` must be a list of rising values, [3] or [3,4,5] (got {values})")
            weight = name.startswith("w")
            if values[0] < 0 or (not weight and values[0] == 0):
                raise ValueError(f"`search.{name}` must be {'0 or more' if weight else 'positive'} (got {values})")
        if rounds < 1:
            raise ValueError(f"`search.rounds` must be 1 or more (got {rounds})")
        self.axes = [[float(value) for value in axis] for axis in (w1, sigma_alpha, sigma_beta, w2, sigma_gamma)]
        self.rounds = rounds

    def coarse(self) -> list[Point]:
        """Return the points of the first round."""
        return [Point(*values) for values in product(*self.axes)]

    def finer(self, best: Point, number: int) -> list[Point]:
        """Return the points of round `number` about the best so far (1 is the first after the coarse round)."""
        around = []
        for name, value, axis in zip(Point._fields, best, self.axes):
            step = self.step(axis) / 2**number
            least = 0.0 if name.startswith("w") else step / 2
            values = {value, value - step, value + step}
            around.append(sorted(v for v in values if v >= least))
        return [Point(*values) for values in product(*around)]

    def edges(self, best: Point) -> list[str]:
        """Return the parameters whose best value lies at an end of its range or beyond: a better may lie outside."""
        return [
            name
            for name, value, axis in zip(Point._fields, best, self.axes)
            if len(axis) > 1 and not axis[0] < value < axis[-1]
        ]

    @staticmethod
    def step(axis: Sequence[float]) -> float:
        """Return the least distance between two values; 0 for a parameter that is fixed."""
        return min((b - a for a, b in pairwise(axis)), default=0.0)
